"""Which error a failed answer is, and whether another attempt can help."""

from __future__ import annotations

import re
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
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames


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
    stream of which pieces were given out already cannot begin again. Where another
    endpoint may answer, there is no wait: the route knows when one is up.
    """
    if error.partial:
        return RetryDecision(False)
    if error.elsewhere:
        return RetryDecision(True, 0.0)
    passes = isinstance(error, (NonTerminalError, LLMConnectionError))
    retry = passes if error.should_retry is None else error.should_retry
    return RetryDecision(retry, getattr(error, "retry_after_seconds", None))


def classify_failure(
    status: int | None,
    headers: Mapping[str, str],
    body: bytes,
    now_epoch_seconds: float,
    names: SettingNames = ARGUMENTS,
) -> LLMAPIError:
    """Makes the typed error for an answer that is a failure.

    Args:
        status: The HTTP status; None for an error object that came without one.
        headers: With lower-case names.
        body: As it came.
        now_epoch_seconds: When it came, for a `retry-after` that is a date.
        names: What the settings are called that the error says to check.
    """
    error = _find_error_object(body)
    code, said = _read_code(error), _read_message(error)
    details = _read_details(error)
    cls = details.cls or _choose_class(status, code.lower(), said.lower())
    excerpt = body[:1000].decode("utf-8", "replace")
    retry_after_seconds = read_retry_after(headers, now_epoch_seconds)
    if retry_after_seconds is None:
        retry_after_seconds = details.retry_after_seconds
    return cls(
        _describe(cls, status, said or excerpt.strip()[:200], names),
        status=status,
        code=code or None,
        request_id=find_request_id(headers) or details.request_id,
        retry_after_seconds=retry_after_seconds,
        should_retry=_FLAGS.get(headers.get("x-should-retry", "").lower()),
        body=excerpt,
    )


_FLAGS = {"true": True, "false": False}


def find_request_id(headers: Mapping[str, str]) -> str | None:
    """Returns the endpoint's name for the exchange, under whichever header it tells it."""
    return next((headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name)), None)


_REQUEST_ID_HEADERS = ("x-request-id", "apim-request-id", "request-id", "x-goog-request-id")


def _find_error_object(body: bytes) -> dict[str, Any]:
    """Returns the error that a body tells of; empty where it tells of none."""
    try:
        parsed: Any = orjson.loads(body)
    except ValueError:
        return {}
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]  # Google's, where a stream was asked for
    if not isinstance(parsed, dict):
        return {}
    error = parsed.get("error", parsed)
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, dict):
        return {}
    # Anthropic tells it beside the error, for lack of headers in the middle of a stream.
    return {"request_id": parsed.get("request_id"), **error}


def _read_code(error: Mapping[str, Any]) -> str:
    inner, details = error.get("innererror"), error.get("details")
    codes = [
        details.get("error_code") if isinstance(details, dict) else None,
        error.get("code"),
        error.get("type"),
        error.get("status"),
        inner.get("code") if isinstance(inner, dict) else None,
    ]
    # All of them: OpenAI puts `insufficient_quota` into `type` or `code` by turns,
    # and Azure names the content filter in `code` or in `innererror.code`.
    said = [str(code) for code in codes if code is not None]
    known = [code for code in said if code.lower() in _BY_CODE]
    # A code that is only the status again says nothing.
    return next(iter([*known, *(code for code in said if not code.isdigit()), *said]), "")


def _read_message(error: Mapping[str, Any]) -> str:
    message = error.get("message") or error.get("detail") or ""
    return message if isinstance(message, str) else str(message)


@dataclass(frozen=True, slots=True)
class _Details:
    """What Google tells in an error's list of details (google.rpc.error_details)."""

    cls: type[LLMAPIError] | None = None
    retry_after_seconds: float | None = None
    request_id: str | None = None


def _read_details(error: Mapping[str, Any]) -> _Details:
    by_type: dict[str, dict[str, Any]] = {}
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            by_type[str(detail.get("@type", "")).rpartition(".")[2]] = detail
    delay = str(by_type.get("RetryInfo", {}).get("retryDelay", ""))
    wait = _DURATION.fullmatch(delay)
    request_id = by_type.get("RequestInfo", {}).get("requestId") or error.get("request_id")
    cls: type[LLMAPIError] | None = None
    if by_type.get("ErrorInfo", {}).get("reason") == "API_KEY_INVALID":
        cls = AuthenticationFailed
    violations = by_type.get("QuotaFailure", {}).get("violations") or ()
    if violations or (wait and error.get("status") == "RESOURCE_EXHAUSTED"):
        # The message speaks of an exceeded quota for a limit per minute as well.
        daily = any("PerDay" in str(violation.get("quotaId")) for violation in violations)
        cls = QuotaExhausted if daily else RateLimited
    return _Details(cls, float(wait[1]) if wait else None, str(request_id) if request_id else None)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)s")


_BY_CODE: dict[str, type[LLMAPIError]] = {
    "context_length_exceeded": ContextTooLong,
    "string_above_max_length": ContextTooLong,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "responsibleaipolicyviolation": ContentFiltered,
    "insufficient_quota": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "billing_error": QuotaExhausted,
    "enforced_spend_limit_reached": QuotaExhausted,
    "contract_spend_limit_reached": QuotaExhausted,
    "linked_organization_spend_limit_reached": QuotaExhausted,
    "invalid_api_key": AuthenticationFailed,
    "authentication_error": AuthenticationFailed,
    "permission_error": AuthenticationFailed,
    "permission_denied": AuthenticationFailed,
    "unauthenticated": AuthenticationFailed,
    "model_not_found": ModelNotFound,
    "deploymentnotfound": ModelNotFound,
    "rate_limit_exceeded": RateLimited,
    "rate_limit_error": RateLimited,
    "server_error": ServerFault,
    "overloaded_error": ServerFault,
}

_BY_PHRASE: tuple[tuple[str, type[LLMAPIError]], ...] = (
    ("maximum context length", ContextTooLong),
    ("context window", ContextTooLong),
    ("prompt is too long", ContextTooLong),
    ("exceeds the maximum number of tokens", ContextTooLong),
    ("credit balance is too low", QuotaExhausted),
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
        status = int(code) if code.isdigit() else _STATUS_OF_CODE.get(code)
        return _choose_class(status, "", said) if status is not None else ServerFault
    if status == 404:
        names_model = "model" in said or "deployment" in said
        return ModelNotFound if names_model else BadRequest
    return _BY_STATUS.get(status, BadRequest)


_BY_STATUS: dict[int, type[LLMAPIError]] = {
    401: AuthenticationFailed,
    402: QuotaExhausted,
    403: AuthenticationFailed,
    429: RateLimited,
    498: RateLimited,
}
"""498 is Groq's, for a tier without capacity at the moment."""

_STATUS_OF_CODE: dict[str, int] = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "not_found_error": 404,
    "not_found": 404,
    "request_too_large": 413,
    "resource_exhausted": 429,
}
"""Codes that tell no more than a status, for errors that come without one, as in a stream.
Sources: Anthropic, "Errors"; Google, google.rpc.Code."""

_ADVICE: dict[type[LLMAPIError], str] = {
    AuthenticationFailed: "the endpoint refused the key; check it and what it is allowed to do",
    QuotaExhausted: "the account has no quota left; check its plan and billing",
    ContextTooLong: "the messages do not fit into the model's context",
    ContentFiltered: "the provider's content filter refused the request",
    RateLimited: "the endpoint is rate limiting",
    ServerFault: "the server failed",
    BadRequest: "the endpoint refused the request",
}


def _describe(cls: type[LLMAPIError], status: int | None, said: str, names: SettingNames) -> str:
    where = f"status {status}" if status is not None else "an error object instead of an answer"
    if cls is BadRequest and status == 404:
        return (
            f"{where}: there is nothing at this address; check {names.locate(names.base_url)} "
            f"({said})"
        )
    advice = _ADVICE.get(cls) or (
        f"the endpoint does not know the model; check {names.locate(names.model)}, and the endpoint"
    )
    return f"{where}: {advice}" + (f" ({said})" if said else "")
