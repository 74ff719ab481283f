"""Between requests and HTTP: pure functions, no SDK, no socket."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from tinytroupe.llm.errors import BadRequest, MalformedResponse
from tinytroupe.llm.request import Attempt, Kind
from tinytroupe.llm.response import Response, parse_response
from tinytroupe.llm.rules.classify import classify_failure

PATHS: dict[Kind, str] = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "embedding": "/embeddings",
}
"""Where OpenAI's API answers each kind of request."""


def read_reply(
    attempt: Attempt,
    headers: Mapping[str, str],
    content: bytes,
    *,
    endpoint: str,
    seconds: float,
    now_epoch_seconds: float,
) -> Response:
    """Makes the response out of a reply whose status is a success.

    Args:
        attempt: What was asked.
        headers: With lower-case names.
        content: The whole body.
        endpoint: The endpoint's name.
        seconds: How long the attempt took.
        now_epoch_seconds: When the reply came.

    Raises:
        MalformedResponse: The body is not an answer.
        LLMAPIError: The body is an error object, in spite of the status.
    """
    request = attempt.call.request
    request_id = headers.get("x-request-id") or headers.get("apim-request-id")
    try:
        response = parse_response(
            request.kind,
            content,
            endpoint=endpoint,
            attempts=attempt.number,
            seconds=seconds,
            request_id=request_id,
        )
    except MalformedResponse as error:
        if _is_error_object(content):
            raise classify_failure(None, headers, content, now_epoch_seconds) from error
        error.request_id = request_id
        raise
    if request.kind == "embedding" and len(response.embeddings) != len(request.texts):
        raise MalformedResponse(
            f"{len(request.texts)} texts were sent, {len(response.embeddings)} vectors came back",
            request_id=request_id,
        )
    return response


def check_kind(attempt: Attempt, known: Mapping[Kind, str]) -> str:
    """Returns the path for the attempt's kind of request.

    Raises:
        BadRequest: The endpoint does not serve this kind.
    """
    kind = attempt.call.request.kind
    if kind not in known:
        raise BadRequest(f"this endpoint does not serve requests of kind {kind}")
    return known[kind]


def _is_error_object(content: bytes) -> bool:
    try:
        body = orjson.loads(content)
    except ValueError:
        return False
    return isinstance(body, dict) and bool(body.get("error"))
