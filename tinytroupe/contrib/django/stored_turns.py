"""A turn of a chat as the database has it: claimed, gone on with, answered, or failed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tinytroupe.contrib.django.chats import ChatHistoryRepository
from tinytroupe.contrib.django.errors import ChatConflict, InvalidHistory
from tinytroupe.contrib.django.history import (
    ANSWERED,
    FAILED,
    PENDING,
    StoredMessage,
    find_open_turn,
    make_message,
    split_turns,
)
from tinytroupe.contrib.django.models import ChatHistory
from tinytroupe.contrib.django.prompts import Prompt
from tinytroupe.contrib.django.storable import check_said, to_plain


@dataclass(slots=True)
class StoredTurn:
    """A message of the user and what follows it, in the database. See `turns.Turn`.

    All that change it raise ChatConflict where somebody else took the message up.
    """

    repository: ChatHistoryRepository
    id: str = ""
    """Empty until it is begun."""
    variables: dict[str, Any] = field(default_factory=dict)
    """Those of the chat."""
    claim: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def messages(self) -> list[StoredMessage]:
        """The whole chat."""
        return self.repository.messages

    @property
    def config(self) -> str:
        """Who is asked."""
        return str(_find_turn(self.messages, self.id)[0]["config"])

    def begin(self, prompt: Prompt, message: str, values: Mapping[str, Any]) -> None:
        """Stores a message of the user, or takes up the last one if it was not answered.

        To be called while the chat's lock is held: a message that is still pending then was left
        by somebody who is gone.

        Raises:
            MissingVariables: The template requires variables that are not given.
            TemplateError: A template cannot be rendered.
            BadRequest: The message or a variable cannot be stored.
            InvalidHistory: The messages are not a conversation.
            UnknownChat: The chat is not there any more.
            ConfigError: It cannot be committed here, because a transaction is open.
        """
        check_said(message)
        given = to_plain(values)
        begun: list[str] = []

        def edit(chat: ChatHistory) -> None:
            known = chat.current_context_variables
            known.update(given)
            wrapped = prompt.wrap(message, known)
            _set_system(chat, prompt)
            said = _find_again(chat, message)
            for name in ("error", "prompt"):
                said.pop(name, None)
            said.update(status=PENDING, claim=self.claim)
            if wrapped != message:
                said["prompt"] = wrapped
            # The same one as before: its answers may have been bought already.
            if said.get("config") not in prompt.configs:
                said["config"] = prompt.configs[0]
            logged = prompt.template.logged_context_vars
            said["context_vars"] = {name: known[name] for name in logged if name in known}
            begun[:] = [said["id"]]

        self.repository.edit(edit)
        self.id = begun[0]
        self.variables = dict(self.repository.chat_history_obj.current_context_variables)

    def move(self, config: str) -> None:
        """Says that another one is asked."""
        self.repository.edit(lambda chat: self._find(chat)[0].update(config=config))

    def add_round(self, messages: list[StoredMessage]) -> None:
        """Adds tool calls and all their results."""
        self.repository.edit(partial(self._insert, messages))

    def answer(self, message: StoredMessage) -> None:
        """Adds the answer."""

        def edit(chat: ChatHistory) -> None:
            said = self._insert([message], chat)
            said["status"] = ANSWERED
            del said["claim"]

        self.repository.edit(edit)

    def fail(self, error: str) -> None:
        """Says that there is no answer, and why. Leaves what is answered, or somebody else's."""

        def edit(chat: ChatHistory) -> None:
            said = _find_turn(chat.chat_history, self.id)[0]
            if said.get("claim") == self.claim:
                said.update(status=FAILED, error=error)
                del said["claim"]

        if self.id and "claim" in _find_turn(self.messages, self.id)[0]:
            self.repository.edit(edit)

    def _insert(self, messages: list[StoredMessage], chat: ChatHistory) -> StoredMessage:
        turn = self._find(chat)
        # Others may have added messages behind, which are not of this turn.
        place = chat.chat_history.index(turn[-1]) + 1
        chat.chat_history[place:place] = messages
        return turn[0]

    def _find(self, chat: ChatHistory) -> list[StoredMessage]:
        turn = _find_turn(chat.chat_history, self.id)
        # The lock ends with its connection, and others then take up what seems to be left.
        if turn[0].get("claim") != self.claim:
            raise ChatConflict(
                f"message {self.id} of chat {chat.pk} was taken up by somebody else while it was "
                "being answered, since its lock was lost; look into the chat before you send it "
                "again"
            )
        return turn


def _find_turn(messages: list[StoredMessage], turn_id: str) -> list[StoredMessage]:
    for turn in split_turns(messages):
        if turn[0]["id"] == turn_id:
            return turn
    raise InvalidHistory(
        f"message {turn_id} (user) is not there any more; somebody removed it while it was being "
        "answered",
        message_id=turn_id,
    )


def _find_again(chat: ChatHistory, message: str) -> StoredMessage:
    """Returns the last message of the user if it says this and has no answer, else a new one."""
    opened = find_open_turn(chat.chat_history)
    if opened is not None and opened["content"] == message:
        return opened
    said = make_message("user", message)
    chat.chat_history.append(said)
    return said


def _set_system(chat: ChatHistory, prompt: Prompt) -> None:
    """Puts the system message of now in place of the one before; a new chat gets its opening."""
    values, messages = chat.current_context_variables, chat.chat_history
    if not messages:
        chat.chat_history = prompt.make_opening(values)
        return
    system = prompt.render_system(values)
    if system is None:
        return
    if messages[0]["role"] == "system":
        messages[0]["content"] = system
    else:
        messages.insert(0, make_message("system", system, initial=True))
