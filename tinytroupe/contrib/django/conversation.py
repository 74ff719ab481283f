"""A chat as people read it. Takes every history, also one that is no conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeGuard

from django.utils.dateparse import parse_datetime

from tinytroupe.contrib.django.errors import InvalidHistory
from tinytroupe.contrib.django.history import ROLES, check_history, clean_text
from tinytroupe.contrib.django.json_text import FaultyJSON, format_json, parse_json
from tinytroupe.contrib.django.models import ChatHistory


@dataclass(frozen=True, slots=True)
class ShownText:
    """A text, and whether it is JSON."""

    text: str
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class ShownCall:
    """A tool that the model calls."""

    name: str
    id: str
    arguments: ShownText


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """One message as it is shown. What its message lacks is empty."""

    role: str
    """One of `ROLES`; empty: it has none that there is."""
    id: str = ""
    time: datetime | None = None
    content: ShownText | None = None
    prompt: str = ""
    """What the model was sent, where a template wraps the content."""
    calls: tuple[ShownCall, ...] = ()
    answers_call: str = ""
    """The id of the tool call whose result it is."""
    status: str = ""
    error: str = ""
    variables: str = ""
    """The logged ones, as JSON."""
    config: str = ""
    model: str = ""
    tokens: str = ""
    is_initial: bool = False
    is_faulty: bool = False
    """Whether the history is no conversation because of it."""


@dataclass(frozen=True, slots=True)
class TokenSum:
    """The tokens of all answers of a chat."""

    input: int
    output: int
    unknown: int
    """Answers whose endpoint did not say."""

    def __str__(self) -> str:
        if not (self.input or self.output):
            return "unknown" if self.unknown else ""
        lacking = f", {self.unknown} unknown" if self.unknown else ""
        return f"{self.input:,} in, {self.output:,} out{lacking}"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat as it is shown."""

    messages: tuple[ShownMessage, ...]
    fault: str
    """Why it is no conversation; empty: it is one."""


def read_conversation(chat: ChatHistory) -> Conversation:
    """Returns what there is of a conversation, and what is wrong with it."""
    fault, faulty_id = "", None
    try:
        check_history(chat.chat_history)
    except InvalidHistory as error:
        fault, faulty_id = clean_text(error.message), error.message_id
    shown = tuple(_read_message(item, faulty_id) for item in list_messages(chat))
    return Conversation(shown, fault)


def list_messages(chat: ChatHistory) -> list[Any]:
    """Returns the items of a history, whatever they are; none where it is no list."""
    return chat.chat_history if isinstance(chat.chat_history, list) else []


def sum_tokens(chat: ChatHistory) -> TokenSum:
    """Returns how many tokens the answers of a chat took, as far as endpoints said."""
    spent = {"input": 0, "output": 0}
    unknown = 0
    for message in _list_objects(chat):
        if message.get("role") != "assistant" or not message.get("config"):
            continue
        given = message.get("tokens")
        counts = {name: given.get(name) if isinstance(given, dict) else None for name in spent}
        unknown += None in counts.values()
        for name, count in counts.items():
            spent[name] += count if _is_count(count) else 0
    return TokenSum(**spent, unknown=unknown)


def find_last_status(chat: ChatHistory) -> str:
    """Returns the status of the user's last message; empty: there is none."""
    latest_first = reversed(list(_list_objects(chat)))
    said = (message for message in latest_first if message.get("role") == "user")
    last = next(said, None)
    return _to_text(last.get("status")) if last else ""


def find_last_text(chat: ChatHistory) -> str:
    """Returns the last message as a text; empty: there is none."""
    messages = list_messages(chat)
    if not messages:
        return ""
    shown = _read_message(messages[-1], None)
    if shown.calls:
        return ", ".join(f"{call.name}()" for call in shown.calls)
    return shown.content.text if shown.content else ""


def _list_objects(chat: ChatHistory) -> Iterator[Mapping[str, Any]]:
    return (message for message in list_messages(chat) if isinstance(message, dict))


def _read_message(message: Any, faulty_id: str | None) -> ShownMessage:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        return ShownMessage("", content=ShownText(format_json(message), True), is_faulty=True)
    content = message.get("content")
    return ShownMessage(
        role=role,
        id=_to_text(message.get("id")),
        time=_read_time(message.get("timestamp")),
        content=None if content is None else _read_text(content, role == "tool"),
        prompt=_to_text(message.get("prompt")),
        calls=_read_calls(message.get("tool_calls")),
        answers_call=_to_text(message.get("tool_call_id")),
        status=_to_text(message.get("status")),
        error=_to_text(message.get("error")),
        variables=format_json(message["context_vars"]) if message.get("context_vars") else "",
        config=_to_text(message.get("config")),
        model=_to_text(message.get("model")),
        tokens=_describe_tokens(message.get("tokens")),
        is_initial=bool(message.get("initial")),
        is_faulty=faulty_id is not None and message.get("id") == faulty_id,
    )


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return clean_text(value)
    return "" if value is None else format_json(value)


def _read_text(value: Any, may_be_json: bool) -> ShownText:
    if not isinstance(value, str):
        return ShownText(format_json(value), True)
    if may_be_json:
        try:
            return ShownText(format_json(parse_json(value)), True)
        except FaultyJSON:
            pass
    return ShownText(clean_text(value))


def _read_time(value: Any) -> datetime | None:
    try:
        return parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _read_calls(calls: Any) -> tuple[ShownCall, ...]:
    if calls is None:
        return ()
    return tuple(_read_call(call) for call in (calls if isinstance(calls, list) else [calls]))


def _read_call(call: Any) -> ShownCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return ShownCall("", "", ShownText(format_json(call), True))
    name, arguments = _to_text(function.get("name")), _read_text(function.get("arguments"), True)
    return ShownCall(name, _to_text(call.get("id")), arguments)


def _describe_tokens(tokens: Any) -> str:
    if tokens is None:
        return ""
    if not isinstance(tokens, dict):
        return format_json(tokens)
    names = {"input": "in", "output": "out"}
    known = [f"{tokens[key]:,} {name}" for key, name in names.items() if _is_count(tokens.get(key))]
    return ", ".join(known) or "unknown"


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
