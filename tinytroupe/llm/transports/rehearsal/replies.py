"""Replies as they go over the wire: good ones, refusals, and those that a fault has spoiled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from email.utils import formatdate
from math import ceil
from typing import Any

import orjson

from tinytroupe.llm.request import Kind
from tinytroupe.llm.transports.rehearsal.answers import answer
from tinytroupe.llm.transports.rehearsal.faults import Fault, Malformation
from tinytroupe.llm.transports.rehearsal.refusal import Refusal, error_object


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, a body and what is said beside it. Immutable."""

    status: int
    content: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Beyond the usual ones, with lower-case names."""


def write_reply(
    kind: Kind,
    body: Any,
    *,
    seed: int = 0,
    variation: int = 0,
    draw: str = "",
    models: Collection[str] = (),
) -> Reply:
    """Answers a request, or refuses it as a server does.

    Args:
        kind: What is asked for.
        body: The parsed body of the request.
        seed: See `answer`.
        variation: See `answer`.
        draw: See `answer`.
        models: The models that are known; empty: all are.
    """
    try:
        if isinstance(body, dict):
            check_model(body.get("model"), models)
        answered = answer(kind, body, seed=seed, variation=variation, draw=draw)
        return Reply(200, orjson.dumps(answered))
    except Refusal as refusal:
        return refuse(refusal)


def check_model(model: Any, models: Collection[str]) -> None:
    """Does nothing if a model is known.

    Raises:
        Refusal: It is not, as a 404.
    """
    if models and isinstance(model, str) and model not in models:
        raise Refusal(
            f"the model {model!r} does not exist here; known are {', '.join(sorted(models))}",
            status=404,
            code="model_not_found",
            param="model",
        )


def refuse(refusal: Refusal) -> Reply:
    """Returns the reply that says a refusal."""
    return Reply(refusal.status, orjson.dumps(refusal.to_wire()))


def spoil(fault: Fault | None, kind: Kind, reply: Reply, now_epoch_seconds: float) -> Reply:
    """Returns what a client gets in place of a good reply.

    `cut`, `drip` and `timeout` change how a reply travels, not the reply.

    Args:
        fault: What goes wrong; None: nothing.
        kind: What was asked for.
        reply: What would have been answered.
        now_epoch_seconds: For a `retry-after` that is a date.
    """
    if fault is None or fault.kind in ("cut", "drip", "timeout"):
        return reply
    if fault.kind == "malformed":
        return Reply(200, _malform(fault.body, kind, reply.content), reply.headers)
    if fault.kind == "content_filter" and not fault.refuse_prompt:
        return reply if reply.status != 200 else _withhold(kind, reply)
    status, error_type, code, message = _FAILURES[fault.kind]
    content = orjson.dumps(error_object(message, error_type, code))
    status = fault.status if fault.kind == "server_fault" else status
    return Reply(status, content, _write_retry_after(fault, now_epoch_seconds))


_FAILURES: dict[str, tuple[int, str, str | None, str]] = {
    "rate_limited": (
        429,
        "requests",
        "rate_limit_exceeded",
        "Rehearsed fault: too many requests for now.",
    ),
    "quota_exhausted": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "Rehearsed fault: the account has no quota left.",
    ),
    "server_fault": (500, "server_error", None, "Rehearsed fault: the server failed."),
    "content_filter": (
        400,
        "invalid_request_error",
        "content_filter",
        "Rehearsed fault: the content filter refused the prompt.",
    ),
}


def _write_retry_after(fault: Fault, now_epoch_seconds: float) -> tuple[tuple[str, str], ...]:
    if fault.retry_after == "ms":
        return (("retry-after-ms", f"{fault.wait_seconds * 1000:g}"),)
    if fault.retry_after == "seconds":
        return (("retry-after", f"{fault.wait_seconds:g}"),)
    if fault.retry_after == "date":
        date = formatdate(ceil(now_epoch_seconds + fault.wait_seconds), usegmt=True)
        return (("retry-after", date),)
    return ()


_HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body></body></html>"


def _malform(form: Malformation, kind: Kind, content: bytes) -> bytes:
    if form == "truncated_json":
        return content[: max(1, len(content) // 2)]
    if form == "error_object":
        error = error_object("Rehearsed fault: the upstream server failed.", "server_error")
        return orjson.dumps(error)
    if form in ("no_choices", "null_content"):
        body = orjson.loads(content)
        part = "data" if kind == "embedding" else "choices"
        items = body.get(part)
        if form == "no_choices" or not items:
            return orjson.dumps({**body, part: []})
        return orjson.dumps({**body, part: [_empty(item, kind) for item in items]})
    return {"html": _HTML, "empty": b"", "null": b"null", "list": b"[]"}[form]


def _empty(item: dict[str, Any], kind: Kind) -> dict[str, Any]:
    if kind == "embedding":
        return {**item, "embedding": None}
    if kind == "completion":
        return {**item, "text": None}
    return {**item, "message": {"role": "assistant", "content": None}, "finish_reason": "stop"}


def _withhold(kind: Kind, reply: Reply) -> Reply:
    """Withholds the answer as a content filter does; embeddings are never filtered."""
    if kind == "embedding":
        return reply
    body = orjson.loads(reply.content)
    for choice in body["choices"]:
        choice["finish_reason"] = "content_filter"
        if kind == "chat":
            choice["message"] = {"role": "assistant", "content": None, "refusal": None}
        else:
            choice["text"] = ""
    return replace(reply, content=orjson.dumps(body))
