"""The messages of a chat as they are stored, and when they are a conversation.

A *turn* is a message of the user with all that follows it, up to the next one. Each message
is an object with

- `id`, a text of its own in the chat, and `timestamp`, in ISO 8601 with UTC;
- `role` and `content`, as OpenAI's API has them; `tool_calls`, `tool_call_id` and `name` likewise;
- on a user's message `status` (`pending`, `failed` with an `error`, `answered`), `context_vars`
  (the logged variables), `prompt` (what the model was sent, where a template wraps the message),
  `config`, which is asked, and, while it is pending, `claim`, which tells who asks;
- on a model's message `config` (which answered), `model` (as the endpoint calls it), `tokens`
  (`input`, `output`; null: the endpoint did not say), and `extra`: what only this endpoint may be
  sent back, such as a signature of its reasoning;
- `initial` on those that a prompt template began the chat with.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NoReturn, TypeAlias

from tinytroupe.contrib.django.errors import InvalidHistory

StoredMessage: TypeAlias = "dict[str, Any]"

ROLES = ("system", "user", "assistant", "tool")

PENDING, FAILED, ANSWERED = "pending", "failed", "answered"

_SENT = ("role", "content", "tool_calls", "tool_call_id", "name")
_CALL_SENT = ("id", "type", "function")

_FURTHER = (
    (str, ("timestamp", "name", "prompt", "error", "config", "model", "claim"), "a text"),
    (dict, ("context_vars", "tokens", "extra"), "an object"),
)
"""What a message may also have, of which type, and how an error calls that."""


def make_message(role: str, content: str | None, **further: Any) -> StoredMessage:
    """Returns a message with an id and the time of now; what is None is left out."""
    given = {key: value for key, value in further.items() if value is not None}
    return {
        "id": uuid.uuid4().hex,
        "timestamp": datetime.now(timezone.utc).isoformat(),
        "role": role,
        "content": content,
        **given,
    }


def make_messages(given: Iterable[object]) -> list[StoredMessage]:
    """Returns messages with ids and times, out of what others give.

    Raises:
        InvalidHistory: One is not even a dictionary.
    """
    made = []
    for place, message in enumerate(given):
        if not isinstance(message, Mapping):
            raise InvalidHistory(
                f"item {place} is a {type(message).__name__}, not a message such as "
                '{"role": "assistant", "content": "Hello!"}'
            )
        made.append(make_message(**{"role": "", "content": "", **message}))
    return made


def find_open_turn(messages: Sequence[StoredMessage]) -> StoredMessage | None:
    """Returns the user's message of the last turn where that has no answer, else None."""
    for message in reversed(messages):
        if message["role"] == "user":
            return message if message.get("status") in (PENDING, FAILED) else None
    return None


def list_for_model(
    messages: Sequence[StoredMessage], config: str, turn_id: str | None = None
) -> list[dict[str, Any]]:
    """Returns what a model is sent: the turns that were answered, and the one that is asked.

    Args:
        messages: Those of the chat.
        config: Who is asked. What only another one understands is left out.
        turn_id: The user's message of the turn that is asked; None: none is.
    """
    return [
        _to_wire(message, config)
        for turn in split_turns(messages)
        if turn[0].get("status") not in (PENDING, FAILED) or turn[0]["id"] == turn_id
        for message in turn
    ]


def split_turns(messages: Sequence[StoredMessage]) -> Iterator[list[StoredMessage]]:
    """Yields the messages before the first turn, if any, and then turn by turn."""
    turn: list[StoredMessage] = []
    for message in messages:
        if message["role"] == "user" and turn:
            yield turn
            turn = []
        turn.append(message)
    if turn:
        yield turn


def _to_wire(message: StoredMessage, config: str) -> dict[str, Any]:
    sent = {name: message[name] for name in _SENT if name in message}
    if "prompt" in message:
        sent["content"] = message["prompt"]
    if message.get("config") == config:
        return {**sent, **message.get("extra", {})}
    if "tool_calls" in sent:
        sent["tool_calls"] = [
            {name: call[name] for name in _CALL_SENT if name in call} for call in sent["tool_calls"]
        ]
    return sent


def clean_text(text: str) -> str:
    """Returns a text that every database can hold: PostgreSQL's JSON has no NUL, no half pairs."""
    return "".join("\ufffd" if is_unstorable(letter) else letter for letter in text)


def is_unstorable(letter: str) -> bool:
    """Tells whether a character cannot be stored by every database."""
    return letter == "\0" or "\ud800" <= letter <= "\udfff"


def check_history(messages: Any) -> None:
    """Refuses what is not a conversation.

    Raises:
        InvalidHistory: A message is not one, or stands where it cannot; it says
            which, by id.
    """
    if not isinstance(messages, list):
        raise InvalidHistory(f"it must be a list of messages, not a {type(messages).__name__}")
    ids: set[Any] = set()
    for place, message in enumerate(messages):
        _check_message(place, message)
        if message["id"] in ids:
            _refuse(message, "its id stands twice")
        ids.add(message["id"])
    for turn in split_turns(messages):
        _check_turn(turn)


def _check_message(place: int, message: Any) -> None:
    if not isinstance(message, dict):
        raise InvalidHistory(f"item {place} is a {type(message).__name__}, not a message")
    if not isinstance(message.get("id"), str) or not message["id"]:
        raise InvalidHistory(f"item {place} has no id that is a text")
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
    if role not in ROLES:
        _refuse(message, f"its role {role!r} is none of {', '.join(ROLES)}")
    if not isinstance(content, str) and not (content is None and calls):
        _refuse(message, f"its content is of type {type(content).__name__}, not a text")
    for kind, names, called in _FURTHER:
        for name in names:
            # Of an endpoint that counts no tokens, null is what is stored.
            if name == "tokens" and message.get(name) is None:
                continue
            if name in message and not isinstance(message[name], kind):
                _refuse(message, f"its {name} is not {called}")
    if message.get("status", ANSWERED) not in (PENDING, FAILED, ANSWERED):
        _refuse(message, f"its status {message['status']!r} is none that there is")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        _refuse(message, "it does not say whose result it is, by tool_call_id")
    if calls is None:
        return
    if role != "assistant":
        _refuse(message, f"only an assistant calls tools, not a {role}")
    if not isinstance(calls, list) or not calls or not all(map(_is_call, calls)):
        _refuse(message, "its tool_calls are not a list of calls, each with id and function")


def _is_call(call: Any) -> bool:
    return (
        isinstance(call, dict)
        and isinstance(call.get("id"), str)
        and isinstance(call.get("function"), Mapping)
        and isinstance(call["function"].get("name"), str)
        and isinstance(call["function"].get("arguments"), str)
    )


def _check_turn(turn: Sequence[StoredMessage]) -> None:
    first = turn[0]
    caller: StoredMessage | None = None
    awaited: set[str] = set()
    for message in turn:
        role = message["role"]
        if role == "tool":
            if message["tool_call_id"] not in awaited:
                _refuse(message, "it is the result of a tool call that was not made right before")
            awaited.remove(message["tool_call_id"])
            continue
        if awaited:
            _refuse(caller, f"its tool call {min(awaited)} has no result right after it")
        if role == "system" and first["role"] == "user" and not first.get("initial"):
            _refuse(message, "a system message can only stand before the first turn")
        caller, awaited = message, _list_call_ids(message)
    if awaited:
        _refuse(caller, f"its tool call {min(awaited)} has no result right after it")
    if first.get("status") == ANSWERED and not _has_answer(turn):
        _refuse(first, "it is said to be answered, but no answer follows it")


def _list_call_ids(message: StoredMessage) -> set[str]:
    ids = [call["id"] for call in message.get("tool_calls") or ()]
    if len(set(ids)) < len(ids):
        _refuse(message, "two of its tool calls have one id")
    return set(ids)


def _has_answer(turn: Sequence[StoredMessage]) -> bool:
    return turn[-1]["role"] == "assistant" and not turn[-1].get("tool_calls")


def _refuse(message: StoredMessage | None, fault: str) -> NoReturn:
    message_id = message["id"] if message else None
    role = message.get("role") if message else None
    raise InvalidHistory(f"message {message_id} ({role}): {fault}", message_id=message_id)
