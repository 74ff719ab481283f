"""What came back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import orjson

from tinytroupe.llm.errors import BODY_EXCERPT_LENGTH, MalformedResponse, ParseError
from tinytroupe.llm.request import Kind

_LONG_NUMBER = re.compile(r"[0-9]{19}")

Origin: TypeAlias = Literal["live", "cache", "flight", "tape"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a response took. Cached and reasoning tokens are included, not added."""

    input_tokens: int = 0
    """All tokens of the prompt, those read from the provider's own cache included."""
    output_tokens: int = 0
    """All tokens of the answer, those spent on hidden reasoning included."""
    cached_tokens: int = 0
    """The part of `input_tokens` that the provider had in its own cache."""
    reasoning_tokens: int = 0
    """The part of `output_tokens` that was spent on hidden reasoning."""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish that a tool be called."""

    id: str
    """By which the result is sent back; made up where the endpoint gave none."""
    name: str
    """Of the tool, as the model wrote it; there may be no such tool."""
    arguments: str
    """As the model wrote them: a JSON object, or what it takes for one."""

    @property
    def parsed_arguments(self) -> dict[str, Any]:
        """The arguments as a new dictionary; empty where the model wrote nothing.

        Raises:
            ParseError: They are not a JSON object.
        """
        if not self.arguments.strip():
            return {}
        wanted = f"a JSON object with the arguments of {self.name}"
        try:
            parsed = orjson.loads(self.arguments)
            if _LONG_NUMBER.search(self.arguments):
                # orjson makes a float of a whole number beyond 64 bits; an order's number is none.
                with suppress(RecursionError):
                    parsed = json.loads(self.arguments)
        except orjson.JSONDecodeError as error:
            raise ParseError(
                f"wanted {wanted}, but what came is not JSON at line {error.lineno}, column "
                f"{error.colno}: {error.msg}",
                wanted=wanted,
                place=(error.lineno, error.colno),
                excerpt=_mark(self.arguments, error.pos),
                answer=self.arguments,
            ) from error
        if not isinstance(parsed, dict):
            raise ParseError(
                f"wanted {wanted}, but what came is {self.arguments[:80]!r}",
                wanted=wanted,
                answer=self.arguments,
            )
        return parsed


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. Immutable; safe to share between threads, and picklable."""

    kind: Kind
    text: str
    """The first choice's text; empty when it has only tool calls or was filtered."""
    finish_reason: str | None
    """Why the model stopped: `stop`, `length`, `tool_calls`, `content_filter` …; None: not said."""
    model: str
    """The model as the endpoint named it."""
    usage: Usage | None
    """None when the endpoint did not say."""
    content: bytes = field(repr=False)
    """The whole answer as JSON, in the shape of OpenAI's API."""
    endpoint: str = ""
    """The name of the endpoint that answered."""
    origin: Origin = "live"
    """Where it came from now: bought, stored, shared with a simultaneous call, or a tape."""
    attempts: int = 0
    """Tries on the wire that this call made; 0 when it made none."""
    seconds: float = 0.0
    """How long the successful attempt took when the answer was bought."""
    request_id: str | None = None
    """The endpoint's own name for the exchange, as told in its headers; None: not told."""

    @property
    def raw(self) -> dict[str, Any]:
        """The whole answer, parsed anew at each access: changing it changes nothing else."""
        return cast("dict[str, Any]", orjson.loads(self.content))

    @property
    def message(self) -> dict[str, Any]:
        """The first choice's message as a new dictionary; only for `chat`."""
        return cast("dict[str, Any]", self.raw["choices"][0]["message"])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """What the model wants to be called, in its order; empty where it calls nothing.

        Raises:
            MalformedResponse: What the answer has for a tool call is not one.
        """
        if self.kind != "chat":
            return ()
        calls = self.message.get("tool_calls") or ()
        return tuple([_read_tool_call(call, place) for place, call in enumerate(calls)])

    @property
    def embeddings(self) -> list[list[float]]:
        """The vectors in the order of the texts; only for `embedding`."""
        rows = sorted(self.raw["data"], key=lambda row: cast(int, row["index"]))
        return [cast("list[float]", row["embedding"]) for row in rows]

    @property
    def filtered(self) -> bool:
        """Whether the provider's content filter withheld or cut the answer."""
        return self.finish_reason == "content_filter"

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut because it reached the maximum of tokens."""
        return self.finish_reason == "length"

    @property
    def system_fingerprint(self) -> str | None:
        """What the provider says of the configuration that answered; None: nothing."""
        return cast("str | None", self.raw.get("system_fingerprint"))

    def to_record(self) -> bytes:
        """Writes the response for a store: one line of facts, then the answer as it came."""
        facts = {
            "kind": self.kind,
            "endpoint": self.endpoint,
            "seconds": round(self.seconds, 6),
            "request_id": self.request_id,
        }
        return orjson.dumps(facts) + b"\n" + self.content


def _read_tool_call(call: object, place: int) -> ToolCall:
    if not isinstance(call, dict):
        raise MalformedResponse(f"tool call {place} is not an object but {call!r}"[:200])
    # OpenAI calls a tool that takes free text `custom`, and what it is given `input`.
    called = call.get("function") or call.get("custom") or {}
    arguments = called.get("arguments", called.get("input")) or ""
    if not isinstance(arguments, str):
        # Some compatible servers send the object itself in place of its JSON.
        arguments = orjson.dumps(arguments).decode()
    return ToolCall(call.get("id") or f"call_{place}", called.get("name") or "", arguments)


def _mark(text: str, place: int) -> str:
    return f"{text[max(place - 40, 0) : place]}▸{text[place : place + 40]}"


def from_record(record: bytes, origin: Origin) -> Response:
    """Reads what `Response.to_record` wrote.

    Raises:
        MalformedResponse: It is not such a record.
    """
    facts_line, _, content = record.partition(b"\n")
    try:
        facts = orjson.loads(facts_line)
        kind, endpoint = facts["kind"], facts["endpoint"]
        seconds, request_id = facts["seconds"], facts["request_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedResponse(f"a stored record cannot be read: {error!r}") from error
    return _build(kind, content, _load(content), endpoint, origin, 0, seconds, request_id)


def parse_response(
    kind: Kind,
    content: bytes,
    *,
    endpoint: str = "",
    attempts: int = 1,
    seconds: float = 0.0,
    request_id: str | None = None,
) -> Response:
    """Reads an answer in the shape of OpenAI's API and refuses what is not one.

    Raises:
        MalformedResponse: It is not JSON, not an object, has no choices or
            vectors, or a message has neither content nor tool calls.
    """
    return _build(kind, content, _load(content), endpoint, "live", attempts, seconds, request_id)


def restore_response(
    kind: Kind, body: dict[str, Any], *, endpoint: str, seconds: float, request_id: str | None
) -> Response:
    """Makes a response again from its parsed answer, as a tape holds it.

    Raises:
        MalformedResponse: It has not the shape of an answer.
    """
    content = orjson.dumps(body)
    return _build(kind, content, body, endpoint, "tape", 0, seconds, request_id)


def _load(content: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(content)
    except ValueError as error:
        raise MalformedResponse(_say_what_came(content), body=_excerpt(content)) from error
    if not isinstance(body, dict):
        kind = "null" if body is None else type(body).__name__
        raise MalformedResponse(f"the body is a JSON {kind}, not an object", body=_excerpt(content))
    return body


def _say_what_came(content: bytes) -> str:
    if not content.strip():
        return "the body is empty"
    if content.lstrip()[:1] == b"<":
        return "the body is HTML or XML, not JSON: a proxy or a wrong address may have answered"
    return "the body is not valid JSON; it may have been cut short"


def _excerpt(content: bytes) -> str:
    return content[:1000].decode("utf-8", "replace")


def _build(
    kind: Kind,
    content: bytes,
    body: dict[str, Any],
    endpoint: str,
    origin: Origin,
    attempts: int,
    seconds: float,
    request_id: str | None,
) -> Response:
    try:
        text, finish_reason = _READERS[kind](body)
        usage = _read_usage(body.get("usage"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise MalformedResponse(
            f"the answer has not the shape of a {kind} response: {error!r}", body=_excerpt(content)
        ) from error
    except MalformedResponse as error:
        error.body = _excerpt(content)[:BODY_EXCERPT_LENGTH]
        raise
    model = body.get("model")
    return Response(
        kind,
        text,
        finish_reason,
        model if isinstance(model, str) else "",
        usage,
        content,
        endpoint,
        origin,
        attempts,
        seconds,
        request_id,
    )


def _read_choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise MalformedResponse("the answer has no choices")
    return choices


def _read_chat(body: dict[str, Any]) -> tuple[str, str | None]:
    choices = _read_choices(body)
    for choice in choices:
        message = choice["message"]
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            raise MalformedResponse("a choice's content is not text")
        if (
            content is None
            and not any(message.get(name) for name in _INSTEAD_OF_CONTENT)
            and choice.get("finish_reason") != "content_filter"
        ):
            raise MalformedResponse("a choice has neither content nor tool calls")
    first = choices[0]
    return first["message"].get("content") or "", first.get("finish_reason")


_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")


def _read_completion(body: dict[str, Any]) -> tuple[str, str | None]:
    choices = _read_choices(body)
    for choice in choices:
        if not isinstance(choice["text"], str):
            raise MalformedResponse("a choice's text is not text")
    return choices[0]["text"], choices[0].get("finish_reason")


def _read_embedding(body: dict[str, Any]) -> tuple[str, str | None]:
    rows = body.get("data")
    if not isinstance(rows, list) or not rows:
        raise MalformedResponse("the answer has no vectors")
    if sorted(row["index"] for row in rows) != list(range(len(rows))):
        raise MalformedResponse("the vectors are not numbered from 0 without gaps")
    for row in rows:
        vector = row["embedding"]
        if not isinstance(vector, list) or not vector:
            raise MalformedResponse(f"vector {row['index']} is empty or not a list")
        if not all(type(number) in (float, int) for number in vector):
            raise MalformedResponse(f"vector {row['index']} holds something that is not a number")
    return "", None


_READERS: dict[Kind, Callable[[dict[str, Any]], tuple[str, str | None]]] = {
    "chat": _read_chat,
    "completion": _read_completion,
    "embedding": _read_embedding,
}


def _read_usage(usage: dict[str, Any] | None) -> Usage | None:
    if not usage:
        return None
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return Usage(
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        int(cached),
        int(reasoning),
    )
