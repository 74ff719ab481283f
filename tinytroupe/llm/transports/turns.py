"""A conversation as turns, between OpenAI's messages and the shapes of other providers.

OpenAI takes any order of messages. The others take the system's words apart
from the conversation, and there one turn of the user and one of the assistant
after the other; so neighbouring messages of one side become one turn here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import orjson

from tinytroupe.llm.canonical import JSON, FrozenDict
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.messages import Message


@dataclass(frozen=True, slots=True)
class Text:
    """Words."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: its bytes, or where they are."""

    url: str = ""
    """Where it is; empty where `data` is given."""
    media_type: str = ""
    data: str = ""
    """The bytes in base64."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """That the assistant asked for a function."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    extra: FrozenDict
    """What else the call carries, such as a provider's signature."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a function."""

    id: str
    name: str
    """The function's; empty where no call before it has this id."""
    parts: tuple[Text | Image, ...]


@dataclass(frozen=True, slots=True)
class Thinking:
    """A block of hidden thought, as the provider sent it."""

    block: JSON


Part: TypeAlias = "Text | Image | ToolCall | ToolResult | Thinking"
Side: TypeAlias = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said before the other spoke again."""

    side: Side
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the system says, and the turns in order; neighbours are of different sides."""

    system: tuple[str, ...]
    turns: tuple[Turn, ...]


_SYSTEM = ("system", "developer")


def read_conversation(messages: Sequence[Message]) -> Conversation:
    """Sorts messages into the system's words and turns. No text is changed or lost.

    The system's messages are taken together in front, wherever they stand.
    Only a last one that nothing of the user stands before or after becomes the
    user's turn, because a conversation has to end with one.

    Raises:
        BadRequest: A message holds what cannot be sent, or the assistant has
            the last word.
    """
    rest = [message for message in messages if message.role not in _SYSTEM]
    last = messages[-1]
    asks = last.role in _SYSTEM and (not rest or rest[-1].role == "assistant")
    if asks:
        rest.append(last)
    heard = messages[:-1] if asks else messages
    system = [text for message in heard if message.role in _SYSTEM for text in _read_words(message)]
    turns = _merge(rest)
    if not turns or turns[-1].side == "assistant":
        raise BadRequest(
            "the conversation ends with what the assistant said, and this provider answers only "
            "to a user or to a tool; add a message with the role user"
            if turns
            else "the conversation has no words in it"
        )
    return Conversation(tuple(system), tuple(turns))


def _read_words(message: Message) -> Iterator[str]:
    for part in _read_parts(message):
        if isinstance(part, Image):
            raise BadRequest("a system message can hold no image for this provider")
        yield part.text


def _merge(messages: Sequence[Message]) -> list[Turn]:
    names: dict[str, str] = {}
    sides: list[tuple[Side, list[Part]]] = []
    for message in messages:
        side: Side = "assistant" if message.role == "assistant" else "user"
        parts = list(_read_message(message, names))
        names.update((part.id, part.name) for part in parts if isinstance(part, ToolCall))
        if sides and sides[-1][0] == side:
            sides[-1][1].extend(parts)
        elif parts:
            sides.append((side, parts))
    return [Turn(side, tuple(parts)) for side, parts in sides]


def _read_message(message: Message, names: Mapping[str, str]) -> Iterator[Part]:
    if message.role == "tool":
        yield _read_result(message, names)
        return
    if message.role == "function" or "function_call" in message.extra:
        raise BadRequest(
            "function_call and the role function are OpenAI's old way; use tool_calls and the "
            "role tool for this provider"
        )
    if "audio" in message.extra:
        raise BadRequest("a message refers to audio, which this provider has no place for")
    blocks = message.extra.get("thinking_blocks")
    if isinstance(blocks, (list, tuple)):
        yield from map(Thinking, blocks)
    yield from _read_parts(message)
    refusal = message.extra.get("refusal")
    if isinstance(refusal, str) and refusal:
        yield Text(refusal)
    calls = message.extra.get("tool_calls") or ()
    for call in cast("Sequence[Mapping[str, Any]]", calls):
        yield _read_call(call)


def _read_parts(message: Message) -> Iterator[Text | Image]:
    """Yields texts and images; an empty text says nothing and is left out."""
    content = message.content
    if isinstance(content, str):
        content = ({"type": "text", "text": content},)
    for part in content or ():
        read = _read_part(cast("Mapping[str, Any]", part))
        if not isinstance(read, Text) or read.text:
            yield read


def _read_part(part: Mapping[str, Any]) -> Text | Image:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return Text(part[kind])
    if kind == "image_url":
        place = part.get("image_url")
        url = place.get("url") if isinstance(place, Mapping) else place
        if isinstance(url, str):
            return _read_image(url)
    raise BadRequest(f"a content part of type {kind!r} cannot be sent to this provider")


_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(?:;[\w-]+=[\w-]+)*;base64,")


def _read_image(url: str) -> Image:
    if url.startswith(("https://", "http://")):
        return Image(url=url)
    head = _DATA_URL.match(url)
    if head is None:
        raise BadRequest(
            f"{url[:40]!r} is no image that can be sent; give an address that begins with "
            "https://, or data:image/png;base64, and the bytes in base64"
        )
    data = url[head.end() :]
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise BadRequest(f"the bytes of an image are not in base64: {error}") from error
    return Image(media_type=head["type"].lower(), data=data)


def _read_call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRequest("a tool call has no function with a name")
    name, written = function["name"], function.get("arguments")
    try:
        arguments = orjson.loads(written or b"{}") if isinstance(written, str | None) else written
    except ValueError:
        arguments = None
    if not isinstance(arguments, Mapping):
        raise BadRequest(f"the arguments of the tool call {name} are not a JSON object")
    extra = call.get("extra_content")
    return ToolCall(
        str(call.get("id") or name),
        name,
        arguments,
        extra if isinstance(extra, FrozenDict) else FrozenDict(),
    )


def _read_result(message: Message, names: Mapping[str, str]) -> ToolResult:
    call_id = message.extra.get("tool_call_id")
    if not isinstance(call_id, str) or not call_id:
        raise BadRequest("a tool message has no tool_call_id: nobody knows which call it answers")
    name = names.get(call_id) or message.extra.get("name")
    return ToolResult(call_id, name if isinstance(name, str) else "", tuple(_read_parts(message)))
