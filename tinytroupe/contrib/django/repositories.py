"""Chats that go on: what a site imports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

from asgiref.sync import sync_to_async

from tinytroupe.contrib.django.access import AsyncAccess, BlockingAccess, StreamingAccess
from tinytroupe.contrib.django.chats import ChatHistoryRepository
from tinytroupe.contrib.django.conf import read_site_settings
from tinytroupe.contrib.django.history import check_history
from tinytroupe.contrib.django.models import ChatHistory, PromptTemplate
from tinytroupe.contrib.django.prompts import read_prompt
from tinytroupe.contrib.django.storable import check_said, to_plain
from tinytroupe.contrib.django.tools import Toolbox
from tinytroupe.contrib.django.turns import (
    Answer,
    Wish,
    converse,
    make_loose_turn,
    take_turn,
)
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.runtime import run
from tinytroupe.llm.talk.formats import read_format

__all__ = ["ChatHistoryRepository", "LLMCommunicationWrapper"]


class LLMCommunicationWrapper:
    """Holds a chat after a prompt template. Safe to use from many threads.

    Messages to one chat are answered one after the other, whichever process they come from.

    Args:
        prompt_name: The name of a `PromptTemplate`.
        chat_history_id: The chat that goes on, also as a text; None: a new one.
        assistant_id: Kept for the caller; it is found again in the tags of the meter's records.
        initialize: Whether a new chat is made at once, with the system message and the initial
            messages. If not, that is done with its first message.
        initializing_context_vars: Variables of the chat; they join those that it has.
        response_format_class: A pydantic class that the answers have to fit; they are then its
            objects. None: answers are texts.
        seed: Decides which of the template's configurations is chosen; None: the
            setting LLM_WRAPPER_SEED decides, or chance.

    Raises:
        UnknownPrompt: There is no such template.
        UnknownChat: There is no such chat.
        UnknownConfig: A configuration of the template has no file.
        MissingConfigs: The template has no configuration.
        ToolsDisabled: The template has tools, which the chosen configuration does not allow.
        ToolCodeRefused: The code of one of its tools may not be run.
        MissingVariables: A new chat lacks variables that the template requires.
        TemplateError: A template cannot be rendered.
        BadRequest: A variable has no JSON form.
        InvalidHistory: The messages of the chat are not a conversation.
        ConfigError: A setting or a file cannot be used.
    """

    def __init__(
        self,
        *,
        prompt_name: str,
        chat_history_id: int | str | None = None,
        assistant_id: str | None = None,
        initialize: bool = True,
        initializing_context_vars: Mapping[str, Any] | None = None,
        response_format_class: type | None = None,
        seed: int | None = None,
    ) -> None:
        self.prompt_name = prompt_name
        self.assistant_id = assistant_id
        self.response_format_class = response_format_class
        self._prompt = read_prompt(prompt_name, seed, chat_history_id)
        # What cannot be used is to be known before anything is stored or asked.
        Toolbox(self._prompt.tools, {})
        if response_format_class is not None:
            read_format(response_format_class)
        self.llm_config_name = self._prompt.configs[0]
        self._given = to_plain(initializing_context_vars or {})
        self._repository: ChatHistoryRepository | None = None
        self._making = Lock()
        if chat_history_id is not None:
            self._repository = ChatHistoryRepository(chat_history_id)
            check_history(self._repository.messages)
            self._repository.add_variables(self._given)
        elif initialize:
            self._get_repository()

    @classmethod
    async def acreate(cls, **arguments: Any) -> LLMCommunicationWrapper:
        """Does what calling the class does without blocking the event loop."""
        return await sync_to_async(partial(cls, **arguments), thread_sensitive=True)()

    def __repr__(self) -> str:
        return f"<LLMCommunicationWrapper {self.prompt_name!r}, chat {self.chat_history_id}>"

    @property
    def prompt_template(self) -> PromptTemplate:
        """The template, as it was when the wrapper was made."""
        return self._prompt.template

    @property
    def chat_history_id(self) -> int | None:
        """The chat's id; None: there is none yet."""
        return self._repository.id if self._repository else None

    @property
    def chat_history_repository(self) -> ChatHistoryRepository:
        """The chat in the database; where there is none yet, it is begun now.

        Raises:
            MissingVariables: Its opening needs variables that are not given.
            TemplateError: Its opening cannot be rendered.
        """
        return self._get_repository()

    def get_chat_history_object(self) -> ChatHistory:
        """Returns the chat's row as it is now.

        Raises:
            UnknownChat: It is not there any more.
        """
        return self._get_repository().refresh()

    def send_user_message_and_get_response(
        self,
        message: str,
        context_vars: Mapping[str, Any] | None = None,
        retry_on_openai_time_limit: bool = False,
    ) -> Any:
        """Stores a message, asks, and returns the answer, which is stored then. Blocks.

        A message that was not answered is not doubled when it is sent again.

        Args:
            message: What the user says.
            context_vars: Variables; they join those of the chat, and the system message follows.
            retry_on_openai_time_limit: Whether another of the template's configurations is asked
                where one takes too long or takes no more for now.

        Returns:
            A text, or an object of `response_format_class`.

        Raises:
            ChatConflict: Others were answered in this chat all the time, or are at this moment
                where the database cannot wait; nothing was stored. Or the database lost the
                lock, and somebody else took the message up.
            MissingVariables: The template requires variables that the chat does not have.
            TemplateError: A template cannot be rendered. Nothing was stored.
            BadRequest: The message or a variable cannot be stored, or a tool of this chat sends it.
            InvalidHistory: The messages of the chat are not a conversation.
            ToolRoundsExceeded: The model called tools without end.
            ParseError: The answer does not fit `response_format_class`.
            UnknownChat: The chat is not there any more.
            ConfigError: A setting or a file cannot be used, or a transaction is open.
            LLMError: There is no answer; the chat says why.
            django.db.Error: The database failed. The message can be sent again; an answer that had
                come is in the call cache.
        """
        arguments = self._prepare(message, context_vars, retry_on_openai_time_limit)
        return self._finish(run(take_turn(BlockingAccess(), *arguments)))

    async def asend_user_message_and_get_response(
        self,
        message: str,
        context_vars: Mapping[str, Any] | None = None,
        retry_on_openai_time_limit: bool = False,
    ) -> Any:
        """Does what `send_user_message_and_get_response` does without blocking the event loop."""
        arguments = await sync_to_async(self._prepare)(
            message, context_vars, retry_on_openai_time_limit
        )
        return self._finish(await take_turn(AsyncAccess(), *arguments))

    def stream_user_message(
        self,
        message: str,
        context_vars: Mapping[str, Any] | None = None,
        retry_on_openai_time_limit: bool = False,
    ) -> Generator[str, None, None]:
        """Yields the answer's text as it comes; when it is whole, it is stored.

        What a model says before it calls tools is followed by an empty line.

        Arguments and errors are those of `send_user_message_and_get_response`; the errors leave
        while it is read. Leaving early ends the call, and the message counts as not answered.

        Raises:
            BadRequest: There is a `response_format_class`, whose objects have no pieces.
        """
        self._check_streams()
        arguments = self._prepare(message, context_vars, retry_on_openai_time_limit)
        # In a context of its own, since the caller's code runs between the pieces.
        context = copy_context()
        turn = context.run(take_turn, StreamingAccess(), *arguments)
        try:
            while True:
                yield context.run(turn.send, None)
        except StopIteration as stop:
            self._finish(stop.value)
        finally:
            context.run(turn.close)

    async def astream_user_message(
        self,
        message: str,
        context_vars: Mapping[str, Any] | None = None,
        retry_on_openai_time_limit: bool = False,
    ) -> AsyncGenerator[str, None]:
        """Does what `stream_user_message` does without blocking the event loop."""
        self._check_streams()
        arguments = await sync_to_async(self._prepare)(
            message, context_vars, retry_on_openai_time_limit
        )
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        turn = asyncio.ensure_future(take_turn(AsyncAccess(pieces.put), *arguments))
        turn.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            self._finish(turn.result())
        finally:
            turn.cancel()
            await asyncio.wait([turn])

    def get_one_time_completion(self, kwargs: Mapping[str, Any]) -> Any:
        """Returns an answer to the template's prompts alone; nothing is stored in any chat. Blocks.

        Args:
            kwargs: The variables of all its templates; `user_msg` is what the user says, where
                there is something.

        Returns:
            A text, or an object of `response_format_class`.

        Raises:
            MissingVariables: The template requires variables that are not given.
            TemplateError: A template cannot be rendered.
            BadRequest: There is nothing to ask, or the variables are no dictionary.
            LLMError: There is no answer; the class says why.
        """
        turn = make_loose_turn(self._prompt, {**self._given, **to_plain(kwargs)})
        return self._finish(run(converse(BlockingAccess(), self._make_wish(False), turn)))

    async def aget_one_time_completion(self, kwargs: Mapping[str, Any]) -> Any:
        """Does what `get_one_time_completion` does without blocking the event loop."""
        turn = make_loose_turn(self._prompt, {**self._given, **to_plain(kwargs)})
        return self._finish(await converse(AsyncAccess(), self._make_wish(False), turn))

    def _prepare(
        self, message: str, context_vars: Mapping[str, Any] | None, elsewhere: bool
    ) -> tuple[Wish, ChatHistoryRepository, str, dict[str, Any]]:
        values = to_plain(context_vars or {})
        if self._repository is None:
            # Before there is a chat, which would stay empty.
            check_said(message)
            self._prompt.wrap(message, {**self._given, **values})
        # Of its own for each turn: threads may share the wrapper.
        repository = ChatHistoryRepository(self._get_repository(values).id)
        wish = self._make_wish(elsewhere)
        if not read_site_settings().share_answers:
            wish = replace(wish, namespace=f"chat {repository.id}")
        return wish, repository, message, values

    def _make_wish(self, elsewhere: bool) -> Wish:
        told = {"chat": self.chat_history_id, "assistant": self.assistant_id}
        tags = {name: value for name, value in told.items() if value is not None}
        return Wish(self._prompt, self.response_format_class, elsewhere, tags)

    def _finish(self, answer: Answer) -> Any:
        self.llm_config_name = answer.config
        return answer.value

    def _check_streams(self) -> None:
        if self.response_format_class is not None:
            raise BadRequest(
                "an answer that has to fit a class cannot be streamed; use "
                "send_user_message_and_get_response"
            )

    def _get_repository(self, values: Mapping[str, Any] | None = None) -> ChatHistoryRepository:
        with self._making:
            if self._repository is None:
                variables = {**self._given, **(values or {})}
                self._repository = ChatHistoryRepository.start(self._prompt, variables)
            return self._repository
