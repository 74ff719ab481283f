"""Messages: who says what, in the shape of OpenAI's chat format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from tinytroupe.llm.canonical import JSON, FrozenDict, freeze, freeze_mapping
from tinytroupe.llm.errors import BadRequest

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

MessageLike: TypeAlias = "Message | Mapping[str, object]"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Immutable.

    Raises:
        BadRequest: The role is unknown or the content is not text, parts or None.
    """

    role: str
    """One of `ROLES`."""
    content: str | tuple[JSON, ...] | None
    """Text, or content parts (text, image), or None beside tool calls."""
    extra: FrozenDict = field(default_factory=FrozenDict)
    """What else the message carries: `name`, `tool_calls`, `tool_call_id`, `refusal` …"""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise BadRequest(
                f"unknown role {self.role!r}; a role is one of {', '.join(sorted(ROLES))}"
            )
        if isinstance(self.content, list):
            object.__setattr__(self, "content", freeze(self.content, "the content"))
        if self.content is not None and not isinstance(self.content, (str, tuple)):
            raise BadRequest(
                f"the content of a {self.role} message is of type {type(self.content).__name__}; "
                "it must be text, a list of content parts, or None"
            )

    def to_wire(self) -> dict[str, JSON]:
        """Returns the message as OpenAI's API spells it."""
        return {"role": self.role, "content": self.content, **self.extra}


def to_message(value: MessageLike, where: str = "message") -> Message:
    """Reads a message from a `Message` or from a mapping with role and content.

    Raises:
        BadRequest: It is neither, or a part of it has no JSON form; `where`
            says which message it is.
    """
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise BadRequest(
            f"{where} is of type {type(value).__name__}; it must have a role and a content, "
            'as in {"role": "user", "content": "Hello"}'
        )
    if "role" not in value:
        names = ", ".join(map(str, value)) or "none"
        raise BadRequest(f"{where} has no role; its keys are: {names}")
    role, content = cast(str, value["role"]), value.get("content")
    try:
        if len(value) == 2 and isinstance(content, str):
            return Message(role, content, _NOTHING_ELSE)
        extra = {key: item for key, item in value.items() if key not in ("role", "content")}
        if content is None and not (extra.get("tool_calls") or extra.get("function_call")):
            raise BadRequest("it has neither content nor tool calls")
        return Message(role, cast(str, freeze(content, "its content")), freeze_mapping(extra, "it"))
    except BadRequest as error:
        raise BadRequest(f"{where} (role {role!r}): {error.message}") from None


def to_messages(values: Iterable[MessageLike]) -> tuple[Message, ...]:
    """Reads a conversation; the caller's list and dictionaries stay untouched.

    Raises:
        BadRequest: It is not a list of messages, or it is empty.
    """
    if isinstance(values, (str, bytes, Mapping, Message)) or not isinstance(values, Iterable):
        raise BadRequest(
            f"messages must be a list of role and content, not a {type(values).__name__}"
        )
    messages = tuple([to_message(value, f"message {index}") for index, value in enumerate(values)])
    if not messages:
        raise BadRequest("the list of messages is empty; at least one message is needed")
    return messages


_NOTHING_ELSE = FrozenDict()
