"""An answer cut into the server-sent events of a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_PIECE = re.compile(r"\s*\S+|\s+")
_ARGUMENTS_PIECE = 24

DONE = b"data: [DONE]\n\n"


def split_stream(answer: Mapping[str, Any], *, include_usage: bool) -> list[bytes]:
    """Returns the events of a chat or completion answer, in the order of their sending.

    Args:
        answer: The whole answer, in the shape of OpenAI's API.
        include_usage: Whether an event with the usage comes before the end, as
            `stream_options` asks for.
    """
    is_chat = answer["object"] == "chat.completion"
    head = {
        "id": answer["id"],
        "object": "chat.completion.chunk" if is_chat else "text_completion",
        "created": answer["created"],
        "model": answer["model"],
        "system_fingerprint": answer["system_fingerprint"],
    }
    if include_usage:
        head["usage"] = None
    split = _split_message if is_chat else _split_text
    events = [
        _write_event({**head, "choices": [{"index": choice["index"], **part}]})
        for choice in answer["choices"]
        for part in split(choice)
    ]
    if include_usage:
        events.append(_write_event({**head, "choices": [], "usage": answer["usage"]}))
    return [*events, DONE]


def _write_event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def split_words(text: str) -> list[str]:
    """Returns the pieces in which a text is streamed; together they are the text."""
    return _PIECE.findall(text)


def _split_message(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    message = choice["message"]
    calls = message.get("tool_calls") or []
    content = None if calls else ""
    yield _describe_delta({"role": "assistant", "content": content, "refusal": None})
    for piece in split_words(message["content"] or ""):
        yield _describe_delta({"content": piece})
    for index, call in enumerate(calls):
        started = {**call, "function": {**call["function"], "arguments": ""}}
        yield _describe_delta({"tool_calls": [{"index": index, **started}]})
        arguments = call["function"]["arguments"]
        for at in range(0, len(arguments), _ARGUMENTS_PIECE):
            piece = arguments[at : at + _ARGUMENTS_PIECE]
            yield _describe_delta(
                {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            )
    yield _describe_delta({}, choice["finish_reason"])


def _describe_delta(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _split_text(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for piece in split_words(choice["text"]):
        yield {"text": piece, "logprobs": None, "finish_reason": None}
    yield {"text": "", "logprobs": None, "finish_reason": choice["finish_reason"]}
