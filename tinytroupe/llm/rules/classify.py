"""Which error a failed answer is, and whether another attempt can help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tinytroupe.llm.errors import (
    AuthenticationFailed,
    BadRequest,
    ContentFiltered,
    ContextTooLong,
    LLMAPIError,
    LLMConnectionError,
    LLMError,
    ModelNotFound,
    NonTerminalError,
    QuotaExhausted,
    RateLimited,
    ServerFault,
)
from tinytroupe.llm.rules.backoff import read_retry_after


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Whether to try again, and what the server said about when."""

    retry: bool
    after_seconds: float | None = None
    """How long the server asks to wait; None: it did not say."""


def decide_retry(error: LLMError) -> RetryDecision:
    """Decides whether another attempt can help.

    `x-should-retry` is obeyed where the server sent it; else failures that may
    pass and faults of the connection are tried again, and nothing else is. A
    stream of which pieces were given out already cannot begin again.
    """
    if error.partial:
        return RetryDecision(False)
    if isinstance(error, LLMAPIError):
        retry = (
            error.should_retry
            if error.should_retry is not None
            else isinstance(error, NonTerminalError)
        )
        return RetryDecision(retry, error.retry_after_seconds)
    return RetryDecision(isinstance(error, LLMConnectionError))


def classify_failure(
    status: int | None, headers: Mapping[str, str], body: bytes, now_epoch_seconds: float
) -> LLMAPIError:
    """Makes the typed error for an answer that is a failure.

    Args:
        status: The HTTP status; None for an error object that came without one.
        headers: With lower-case names.
        body: As it came.
        now_epoch_seconds: When it came, for a `retry-after` that is a date.
    """
    code, said = _read_error_object(body)
    cls = _choose_class(status, code.lower(), said.lower())
    excerpt = body[:1000].decode("utf-8", "replace")
    return cls(
        _describe(cls, status, said or excerpt.strip()[:200]),
        status=status,
        code=code or None,
        request_id=headers.get("x-request-id") or headers.get("apim-request-id"),
        retry_after_seconds=read_retry_after(headers, now_epoch_seconds),
        should_retry=_FLAGS.get(headers.get("x-should-retry", "").lower()),
        body=excerpt,
    )


_FLAGS = {"true": True, "false": False}


def _read_error_object(body: bytes) -> tuple[str, str]:
    """Returns the server's code and message; either may be empty."""
    try:
        parsed: Any = orjson.loads(body)
    except ValueError:
        return "", ""
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", ""
    inner = error.get("innererror")
    codes = [
        error.get("code"),
        error.get("type"),
        error.get("status"),
        inner.get("code") if isinstance(inner, dict) else None,
    ]
    # All of them: OpenAI puts `insufficient_quota` into `type` or `code` by turns,
    # and Azure names the content filter in `code` or in `innererror.code`.
    known = [str(code) for code in codes if code is not None and str(code).lower() in _BY_CODE]
    code = known[0] if known else next((str(code) for code in codes if code is not None), "")
    message = error.get("message") or error.get("detail") or ""
    return code, message if isinstance(message, str) else str(message)


_BY_CODE: dict[str, type[LLMAPIError]] = {
    "context_length_exceeded": ContextTooLong,
    "string_above_max_length": ContextTooLong,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "responsibleaipolicyviolation": ContentFiltered,
    "insufficient_quota": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "invalid_api_key": AuthenticationFailed,
    "authentication_error": AuthenticationFailed,
    "permission_error": AuthenticationFailed,
    "model_not_found": ModelNotFound,
    "deploymentnotfound": ModelNotFound,
    "rate_limit_exceeded": RateLimited,
    "server_error": ServerFault,
    "overloaded_error": ServerFault,
}

_BY_PHRASE: tuple[tuple[str, type[LLMAPIError]], ...] = (
    ("maximum context length", ContextTooLong),
    ("context window", ContextTooLong),
    ("exceeded your current quota", QuotaExhausted),
    ("api key not valid", AuthenticationFailed),
)


def _choose_class(status: int | None, code: str, said: str) -> type[LLMAPIError]:
    if status is not None and (status in (408, 409) or status >= 500):
        return ServerFault
    if code in _BY_CODE:
        return _BY_CODE[code]
    for phrase, cls in _BY_PHRASE:
        if phrase in said:
            return cls
    if status is None:
        return _choose_class(int(code), "", said) if code.isdigit() else ServerFault
    if status == 404:
        names_model = "model" in said or "deployment" in said
        return ModelNotFound if names_model else BadRequest
    return _BY_STATUS.get(status, BadRequest)


_BY_STATUS: dict[int, type[LLMAPIError]] = {
    401: AuthenticationFailed,
    402: QuotaExhausted,
    403: AuthenticationFailed,
    429: RateLimited,
}

_ADVICE: dict[type[LLMAPIError], str] = {
    AuthenticationFailed: "the endpoint refused the key; check it and what it is allowed to do",
    QuotaExhausted: "the account has no quota left; check its plan and billing",
    ModelNotFound: "the endpoint does not know the model; check MODEL and the endpoint",
    ContextTooLong: "the messages do not fit into the model's context",
    ContentFiltered: "the provider's content filter refused the request",
    RateLimited: "the endpoint is rate limiting",
    ServerFault: "the server failed",
    BadRequest: "the endpoint refused the request",
}


def _describe(cls: type[LLMAPIError], status: int | None, said: str) -> str:
    where = f"status {status}" if status is not None else "an error object instead of an answer"
    if cls is BadRequest and status == 404:
        return f"{where}: there is nothing at this address; check BASE_URL ({said})"
    return f"{where}: {_ADVICE[cls]}" + (f" ({said})" if said else "")
