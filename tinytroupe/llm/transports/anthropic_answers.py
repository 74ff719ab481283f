"""From what Anthropic's Messages API answers to OpenAI's shape: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tinytroupe.llm.errors import LLMAPIError, MalformedResponse
from tinytroupe.llm.rules.classify import classify_failure
from tinytroupe.llm.transports.answers import (
    load_object,
    make_choice,
    make_tool_call,
    make_usage,
    write_chat,
)

FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Anthropic's `stop_reason` → OpenAI's `finish_reason`; another one stays as it is."""


def translate_message(content: bytes, created: int) -> bytes:
    """Says a message of the API in OpenAI's shape.

    Args:
        content: The body that came.
        created: When it came, in seconds since 1970.

    Raises:
        MalformedResponse: It is no message.
        LLMAPIError: It is an error object.
    """
    body = load_object(content)
    if body.get("type") == "error":
        raise classify_failure(None, {}, content, created)
    try:
        return _translate(body, created)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise MalformedResponse(
            f"the answer has not the shape of a message of Anthropic's: {error!r}",
            body=content[:1000].decode("utf-8", "replace"),
        ) from error


def _translate(body: dict[str, Any], created: int) -> bytes:
    texts, calls, thoughts = [], [], []
    for block in body["content"]:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "tool_use":
            calls.append(make_tool_call(block["id"], block["name"], block["input"]))
        elif block["type"] in ("thinking", "redacted_thinking"):
            thoughts.append(block)
    reason = body["stop_reason"]
    extra: dict[str, Any] = {}
    if thoughts:
        extra["thinking_blocks"] = thoughts
    explanation = (body.get("stop_details") or {}).get("explanation")
    if reason == "refusal" and explanation:
        extra["refusal"] = explanation
    choice = make_choice(texts, calls, FINISH_REASONS.get(reason, reason), extra)
    return write_chat(
        [choice],
        _translate_usage(body.get("usage")),
        answer_id=body["id"],
        model=body["model"],
        created=created,
    )


def _translate_usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not usage:
        return None
    read = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return make_usage(
        usage["input_tokens"] + read + written,
        usage["output_tokens"],
        cached=read,
        reasoning=thought,
    )


class MessageBuilder:
    """Puts the events of a stream together into the message that would have come unstreamed."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        self._ended = False

    def add(self, data: str) -> str:
        """Takes one event in; returns the text that it adds.

        Raises:
            MalformedResponse: It is no event.
            LLMAPIError: The server breaks off with an error.
        """
        content = data.encode()
        event = load_object(content)
        if event.get("type") == "error":
            raise _report_break(content)
        try:
            return self._add(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise MalformedResponse(
                f"a piece of the stream cannot be read: {error!r}", body=data
            ) from error

    def _add(self, event: dict[str, Any]) -> str:
        kind = event["type"]
        if kind == "message_start":
            self._message = event["message"]
        elif kind == "content_block_start":
            self._blocks[event["index"]] = dict(event["content_block"])
            return str(event["content_block"].get("text") or "")
        elif kind == "content_block_delta":
            return self._add_delta(event["index"], event["delta"])
        elif kind == "message_delta":
            self._message.update(event["delta"])
            counted = {name: value for name, value in event["usage"].items() if value is not None}
            self._message["usage"] = {**self._message.get("usage", {}), **counted}
        elif kind == "message_stop":
            self._ended = True
        return ""

    def _add_delta(self, index: int, delta: dict[str, Any]) -> str:
        block, kind = self._blocks[index], delta["type"]
        if kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
        elif kind in ("text_delta", "thinking_delta", "signature_delta"):
            name = kind.removesuffix("_delta")
            block[name] = (block.get(name) or "") + delta[name]
        return delta["text"] if kind == "text_delta" else ""

    def finish(self) -> bytes:
        """Returns the whole message.

        Raises:
            MalformedResponse: The stream ended before the message did.
        """
        if not self._ended:
            raise MalformedResponse("the stream ended before the answer was whole")
        for index, written in self._inputs.items():
            if written:
                self._blocks[index]["input"] = _read_input(written)
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        return orjson.dumps({**self._message, "content": blocks})


def _read_input(written: str) -> Any:
    try:
        return orjson.loads(written)
    except ValueError:
        # Cut by the limit of tokens: the caller sees what came, as with OpenAI.
        return written


def _report_break(content: bytes) -> LLMAPIError:
    # The date would matter for a `retry-after` header, of which there is none here.
    return classify_failure(None, {}, content, 0.0)
