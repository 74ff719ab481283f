"""Reading streamed answers: pure functions of the bytes that came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from tinytroupe.llm.errors import MalformedResponse
from tinytroupe.llm.request import Attempt, Request
from tinytroupe.llm.transports.wire import Reply

STREAM_HEADERS = {"accept": "text/event-stream", "accept-encoding": "identity"}
"""Compressed, the pieces would wait for one another."""

DONE = "[DONE]"
"""What OpenAI's API sends as the last event."""


def make_stream_body(request: Request) -> bytes:
    """Returns the body that asks for the same answer as a stream, with its usage at the end."""
    body = orjson.loads(request.body)
    return orjson.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})


class EventReader:
    """Takes server-sent events apart, whatever pieces they come in.

    Source: the WHATWG HTML standard, section 9.2, of which only `data` matters here.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """Returns the data of the events that are whole by now."""
        self._rest += chunk
        events = []
        # A line may end in CR LF; a CR at the very end may be half of one, so it waits.
        *lines, self._rest = self._rest.replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" ").decode("utf-8", "replace"))
            elif not line.rstrip(b"\r") and self._data:
                events.append("\n".join(self._data))
                self._data = []
        return events


class AnswerBuilder:
    """Puts the pieces of a streamed answer together into the shape of an unstreamed one.

    Args:
        request: What was asked.
    """

    def __init__(self, request: Request) -> None:
        self._kind = request.kind
        self._facts: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, event: str) -> str:
        """Takes one event in; returns the text that it adds to the first choice.

        Raises:
            MalformedResponse: It is no piece of an answer.
        """
        try:
            piece = orjson.loads(event)
            if piece.get("error"):
                raise MalformedResponse(
                    f"the stream broke off with an error: {piece['error']}", body=event
                )
            for name in ("id", "created", "model", "system_fingerprint", "usage"):
                if piece.get(name) is not None:
                    self._facts[name] = piece[name]
            return "".join([self._add_choice(choice) for choice in piece.get("choices") or ()])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedResponse(
                f"a piece of the stream cannot be read: {error!r}", body=event
            ) from error

    def _add_choice(self, piece: dict[str, Any]) -> str:
        index = int(piece.get("index") or 0)
        choice = self._choices.setdefault(index, {"index": index, "finish_reason": None})
        if piece.get("finish_reason") is not None:
            choice["finish_reason"] = piece["finish_reason"]
        if self._kind == "completion":
            text = piece.get("text") or ""
            choice["text"] = choice.get("text", "") + text
        else:
            message = choice.setdefault("message", {"role": "assistant", "content": None})
            text = _add_delta(message, piece.get("delta") or {})
        return text if index == 0 else ""

    def finish(self) -> bytes:
        """Returns the whole answer.

        Raises:
            MalformedResponse: The stream ended before the answer did.
        """
        choices = [self._choices[index] for index in sorted(self._choices)]
        if not choices or any(choice["finish_reason"] is None for choice in choices):
            raise MalformedResponse("the stream ended before the answer was whole")
        for choice in choices:
            calls = choice.get("message", {}).get("tool_calls")
            if isinstance(calls, dict):
                choice["message"]["tool_calls"] = [calls[index] for index in sorted(calls)]
        return orjson.dumps({"object": "chat.completion", **self._facts, "choices": choices})


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> str:
    for name, value in delta.items():
        if value is None:
            continue
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", {})
            for part in value:
                _add_tool_call(calls.setdefault(int(part.get("index") or 0), {}), part)
        elif isinstance(value, str) and name != "role":
            message[name] = (message.get(name) or "") + value
        else:
            message[name] = value
    content = delta.get("content")
    return content if isinstance(content, str) else ""


def _add_tool_call(call: dict[str, Any], part: dict[str, Any]) -> None:
    for name in ("id", "type"):
        if part.get(name):
            call[name] = part[name]
    function = call.setdefault("function", {"name": "", "arguments": ""})
    for name, value in (part.get("function") or {}).items():
        if isinstance(value, str):
            function[name] = function.get(name, "") + value


class StreamReading:
    """A streamed reply, as far as it has come.

    Args:
        attempt: What was asked.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._events = EventReader()
        self._answer = AnswerBuilder(attempt.call.request)
        self._head = Reply(0, {}, b"")
        self._unstreamed = b""

    def take(self, part: Reply | bytes) -> Iterator[str]:
        """Takes in what came, and yields the text in it.

        Raises:
            MalformedResponse: A piece is none of an answer; what came before it was yielded.
        """
        if isinstance(part, Reply):
            self._head = part
        elif self._is_streamed():
            for event in self._events.feed(part):
                text = self._answer.add(event) if event != DONE else ""
                if text:
                    yield text
        else:
            # A failure, or a server that cannot stream: read as any other reply in the end.
            self._unstreamed += part

    def _is_streamed(self) -> bool:
        kind = self._head.headers.get("content-type", "")
        return self._head.status == 200 and "text/event-stream" in kind

    def finish(self) -> Reply:
        """Returns the reply as if it had not been streamed.

        Raises:
            MalformedResponse: It ended before the answer was whole.
        """
        content = self._answer.finish() if self._is_streamed() else self._unstreamed
        return Reply(self._head.status, self._head.headers, content)
