"""Chats in the database: read, begun, gone on with, and never left broken.

Every change is one statement that takes effect only if nobody else changed the chat meanwhile;
else it is made again on what is there now. So nothing that anybody wrote is lost, on any database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import Any, TypeAlias

from django.db import InterfaceError, OperationalError, connections, router, transaction
from django.utils import timezone

from tinytroupe.contrib.django.errors import ChatConflict, UnknownChat
from tinytroupe.contrib.django.history import (
    StoredMessage,
    check_history,
    list_for_model,
    make_messages,
)
from tinytroupe.contrib.django.locks import LOCK_NOT_AVAILABLE, read_state
from tinytroupe.contrib.django.models import ChatHistory, ChatLock
from tinytroupe.contrib.django.prompts import Prompt
from tinytroupe.contrib.django.storable import to_plain
from tinytroupe.llm.errors import ConfigError

Edit: TypeAlias = Callable[[ChatHistory], object]

MOST_TRIES = 100
"""More changes by others between reading and writing are taken for a fault."""

LOST = (OperationalError, InterfaceError)
"""What is raised, among other things, where the connection to the database is gone."""

ROW_SECONDS = 30.0
"""How long a chat's row may be locked by somebody else, where the database can tell and the site
does not say."""

SERIALIZATION_FAILURE = "40001"
"""PostgreSQL: others changed it, in a database that isolates transactions strictly."""


class ChatHistoryRepository:
    """A chat in the database. Safe to use from many threads.

    Args:
        chat_history_id: Which chat; None: a new one, with no message in it.

    Raises:
        UnknownChat: There is no such chat.
    """

    def __init__(self, chat_history_id: int | str | None = None) -> None:
        self.alias: str = router.db_for_write(ChatHistory)
        if chat_history_id is None:
            chat_history_id = _create(self.alias, [], {})
        self.chat_history_obj = self._read(chat_history_id)
        self.id: int = self.chat_history_obj.pk
        """The chat's id; it stays, also where the row is deleted."""

    @classmethod
    def start(cls, prompt: Prompt, values: Mapping[str, Any]) -> ChatHistoryRepository:
        """Makes a new chat with the opening messages of a prompt template.

        Raises:
            MissingVariables: The opening needs variables that are not given; no chat is made.
            TemplateError: A template cannot be rendered; no chat is made.
            BadRequest: A variable has no JSON form; no chat is made.
        """
        variables = to_plain(values)
        opening = prompt.make_opening(variables)
        return cls(_create(router.db_for_write(ChatHistory), opening, variables))

    @property
    def messages(self) -> list[StoredMessage]:
        """The messages as they were when the chat was last read; see `history`."""
        messages: list[StoredMessage] = self.chat_history_obj.chat_history
        return messages

    def is_chat_history_empty(self) -> bool:
        """Tells whether there is no message yet."""
        return not self.messages

    def get_msg_list_for_llm(self) -> list[dict[str, Any]]:
        """Returns the conversation as a model is sent it, without turns that have no answer."""
        return list_for_model(self.messages, "")

    def get_user_message_count(self) -> int:
        """Returns how many messages the user wrote."""
        return sum(m["role"] == "user" and not m.get("initial") for m in self.messages)

    def refresh(self) -> ChatHistory:
        """Reads the chat again and returns its row.

        Raises:
            UnknownChat: It is not there any more.
        """
        self.chat_history_obj = self._read(self.id)
        return self.chat_history_obj

    def add_msgs_to_chat_history(self, messages: Iterable[Mapping[str, Any]]) -> list[str]:
        """Adds messages at the end, such as a greeting, and returns their ids.

        Args:
            messages: Each with `role` and `content`; id and time are given to them.

        Raises:
            InvalidHistory: With them it would be no conversation; nothing is added.
            UnknownChat: The chat is not there any more.
            ConfigError: It cannot be committed here, because a transaction is open.
        """
        made = make_messages(messages)
        self.edit(lambda chat: chat.chat_history.extend(made))
        return [message["id"] for message in made]

    def add_variables(self, values: Mapping[str, Any]) -> None:
        """Adds variables to those of the chat; the next message is asked with them.

        Raises:
            BadRequest: A variable has no JSON form.
            UnknownChat: The chat is not there any more.
            ConfigError: It cannot be committed here, because a transaction is open.
        """
        plain = to_plain(values)
        known = self.chat_history_obj.current_context_variables
        if any(name not in known or known[name] != plain[name] for name in plain):
            self.edit(lambda chat: chat.current_context_variables.update(plain))

    def edit(self, edit: Edit) -> None:
        """Changes the chat and commits it. Does so anew where others changed it meanwhile.

        Raises:
            InvalidHistory: The messages are not a conversation, before or after.
            ChatConflict: Others changed it again and again, or have it locked all the time.
            UnknownChat: It is not there any more.
            ConfigError: It cannot be committed here, because a transaction is open.
        """
        for _ in range(MOST_TRIES):
            chat = self._read(self.id)
            check_history(chat.chat_history)
            edit(chat)
            check_history(chat.chat_history)
            if self._write(chat):
                self.chat_history_obj = chat
                return
        raise ChatConflict(f"chat {self.id} is changed all the time by others; try again later")

    def _read(self, chat_id: int | str) -> ChatHistory:
        # Django would take a part of it, or of a switch 1, for an id.
        if not isinstance(chat_id, (int, str)) or isinstance(chat_id, bool):
            raise UnknownChat(f"there is no chat {chat_id!r}; the id of a chat is a number")
        chats = ChatHistory.objects.using(self.alias)
        try:
            try:
                return chats.get(pk=chat_id)
            except LOST:
                # Models take long: meanwhile the database may have been restarted.
                if not _drop_lost_connection(self.alias):
                    raise
                return chats.get(pk=chat_id)
        except (ChatHistory.DoesNotExist, ValueError, TypeError, OverflowError) as error:
            raise UnknownChat(f"there is no chat {chat_id!r}") from error

    def _write(self, chat: ChatHistory) -> bool:
        seen, chat.updated_at = chat.updated_at, timezone.now()
        try:
            return self._update(chat, seen)
        except LOST as error:
            if read_state(error) == SERIALIZATION_FAILURE:
                return False
            if read_state(error) == LOCK_NOT_AVAILABLE:
                raise ChatConflict(
                    f"chat {chat.pk} is locked all the time by a transaction of somebody else, "
                    "such as one that deletes it; what was to be stored was not, and an answer "
                    "that had come is in the call cache"
                ) from error
            if not _drop_lost_connection(self.alias):
                raise
            # It may have been lost after the commit.
            return self._read(chat.pk).updated_at == chat.updated_at

    def _update(self, chat: ChatHistory, seen: datetime) -> bool:
        with ExitStack() as stack:
            try:
                stack.enter_context(transaction.atomic(using=self.alias, durable=True))
            except RuntimeError as error:
                raise ConfigError(
                    "a chat is stored before and after each call, so it cannot be used inside a "
                    "transaction; with ATOMIC_REQUESTS, put @transaction.non_atomic_requests on "
                    "the view"
                ) from error
            _limit_waiting(self.alias)
            rows = ChatHistory.objects.using(self.alias).filter(pk=chat.pk, updated_at=seen)
            return bool(
                rows.update(
                    chat_history=chat.chat_history,
                    current_context_variables=chat.current_context_variables,
                    updated_at=chat.updated_at,
                )
            )


def _create(alias: str, messages: list[StoredMessage], variables: dict[str, Any]) -> int:
    with transaction.atomic(using=alias):
        chat = ChatHistory.objects.using(alias).create(
            chat_history=messages, current_context_variables=variables
        )
        ChatLock.objects.using(alias).create(chat=chat)
    chat_id: int = chat.pk
    return chat_id


def _limit_waiting(alias: str) -> None:
    # Who locks a chat and then deletes it waits for the end of the turn, and the turn for them.
    # The database cannot tell: the lock of the turn is on another connection.
    connection = connections[alias]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('lock_timeout', %s, true) "
                "WHERE current_setting('lock_timeout') = '0'",
                [str(int(ROW_SECONDS * 1000))],
            )


def _drop_lost_connection(alias: str) -> bool:
    """Tells whether a connection is gone, and if so, makes room for a new one."""
    connection = connections[alias]
    if connection.in_atomic_block or connection.is_usable():
        return False
    connection.close()
    return True
