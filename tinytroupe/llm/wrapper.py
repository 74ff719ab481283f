"""A small client for one server that speaks OpenAI's API: `LLM(LLMConfig(...))`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeAlias

from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import LLMAPIError, LLMConnectionError, LLMError
from tinytroupe.llm.request import Call, ChooseWait, RetryPolicy
from tinytroupe.llm.response import Usage
from tinytroupe.llm.runtime import AsyncioRuntime, BlockingRuntime, Runtime, run
from tinytroupe.llm.store.entry import Store
from tinytroupe.llm.transports.sdk_shapes import Shaped, ShapedResponse
from tinytroupe.llm.transports.transport import Transport
from tinytroupe.llm.wrapper_session import LLMConfig, Session, find_store, overlay

__all__ = ["LLM", "AsyncLLM", "LLMAPIError", "LLMConfig", "LLMConnectionError", "LLMError"]

Outcome: TypeAlias = "ShapedResponse | LLMError"


class LLM:
    """Asks one server. Safe to use from many threads.

    Args:
        config: Where and how; None: as the defaults of `LLMConfig` say.
        cache: Where answers are kept: a store, a folder, or True for the folder
            `tinytroupe_cache`; None: nowhere.
        retry: A policy, or a function of an error and the number of the failed
            attempt that returns the seconds to wait, or None to give up.
        transport: What asks the server; None: OpenAI's API at `base_url`.
        runtime: The clock, for tests; None: the real one.
        **settings: Fields of `LLMConfig`, over those of `config`.

    Raises:
        ValueError: A field is not allowed; pydantic's own error, which names it.
    """

    def __init__(
        self,
        config: LLMConfig | None = None,
        *,
        cache: Store | str | os.PathLike[str] | bool | None = None,
        retry: RetryPolicy | ChooseWait | None = None,
        transport: Transport | None = None,
        runtime: Runtime | None = None,
        **settings: Any,
    ) -> None:
        self._runtime = runtime or BlockingRuntime()
        self._session = Session(overlay(config, settings), retry, transport)
        self.config = self._session.config
        self._client = Client(
            self._session.endpoint,
            find_store(cache),
            self._session.defaults,
            runtime=self._runtime,
        )

    def chat_completion(
        self,
        messages: object,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> ShapedResponse:
        """Goes on with a conversation; the answer is in `.choices[0].message.content`.

        Args:
            messages: Messages with role and content; a text is one of the user.
            temperature: None: as configured.
            max_tokens: None: as configured.
            **kwargs: What else goes into the request (`tools`, `seed`, `model` …), or
                how it is asked (`lane`, `purpose`, `cache`, `timeout`, `deadline` …).

        Raises:
            LLMAPIError: The server answered with a failure.
            LLMConnectionError: It did not answer.
            BudgetExceeded: It could pass `max_total_tokens`. Nothing was sent.
        """
        return self._send(self._session.make_chat(messages, temperature, max_tokens, kwargs))

    def completion(
        self,
        prompt: str | list[str],
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> ShapedResponse:
        """Continues one text or several; the answers are in `.choices[i].text`."""
        return self._send(self._session.make_completion(prompt, temperature, max_tokens, kwargs))

    def chat_completions(
        self,
        conversations: Iterable[object],
        temperature: float | None = None,
        max_tokens: int | None = None,
        *,
        max_workers: int = 16,
        **kwargs: Any,
    ) -> list[Outcome]:
        """Goes on with many conversations at once.

        Returns:
            The answers in the order given; a call that failed leaves its error.
        """
        calls = [
            self._session.make_chat(messages, temperature, max_tokens, dict(kwargs))
            for messages in conversations
        ]

        def send(call: Call) -> Outcome:
            try:
                return self._send(call)
            except LLMError as error:
                return error

        with ThreadPoolExecutor(max_workers, thread_name_prefix="tinytroupe") as pool:
            return list(pool.map(send, calls))

    def stream(
        self,
        messages: object,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> Iterator[str]:
        """Yields the answer's text as it comes; `get_last_response` then has the whole."""
        call = self._session.make_chat(messages, temperature, max_tokens, kwargs)
        with self._session.follow(call) as exchange:
            for piece in self._client.stream(exchange.call):
                if isinstance(piece, str):
                    yield piece
                else:
                    exchange.finish(piece)

    def list_models(self) -> Shaped:
        """Returns what models the server offers: `.data[i].id`. Tried again as calls are."""
        return run(self._session.list_models(self._runtime))

    @property
    def usage(self) -> Usage:
        """The tokens that were bought since the start or the last reset."""
        return self._session.usage

    def get_last_response(self) -> ShapedResponse | None:
        """Returns the last answer that this thread got; one that got none: the last of all."""
        return self._session.get_last()

    def get_request_count(self) -> int:
        """Returns how many calls were made since the start or the last reset.

        Each call counts once, however often it was tried, failed ones included.
        """
        return self._session.count

    def reset_session(self) -> None:
        """Forgets count, tokens and last answers; what is under way goes on."""
        self._session.reset()

    def close(self) -> None:
        """Closes the connections; the next call opens them again."""
        self._session.close()
        self._client.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call) -> ShapedResponse:
        with self._session.follow(call) as exchange:
            return exchange.finish(self._client.send(exchange.call))


class AsyncLLM:
    """Does what `LLM` does without blocking the event loop. See there for the arguments."""

    def __init__(
        self,
        config: LLMConfig | None = None,
        *,
        cache: Store | str | os.PathLike[str] | bool | None = None,
        retry: RetryPolicy | ChooseWait | None = None,
        transport: Transport | None = None,
        runtime: Runtime | None = None,
        **settings: Any,
    ) -> None:
        self._runtime = runtime or AsyncioRuntime()
        self._session = Session(overlay(config, settings), retry, transport)
        self.config = self._session.config
        self._client = AsyncClient(
            self._session.endpoint,
            find_store(cache),
            self._session.defaults,
            runtime=self._runtime,
        )

    async def chat_completion(
        self,
        messages: object,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> ShapedResponse:
        """Goes on with a conversation. See `LLM.chat_completion`."""
        return await self._send(self._session.make_chat(messages, temperature, max_tokens, kwargs))

    async def completion(
        self,
        prompt: str | list[str],
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> ShapedResponse:
        """Continues one text or several. See `LLM.completion`."""
        call = self._session.make_completion(prompt, temperature, max_tokens, kwargs)
        return await self._send(call)

    async def chat_completions(
        self,
        conversations: Iterable[object],
        temperature: float | None = None,
        max_tokens: int | None = None,
        *,
        max_workers: int = 100,
        **kwargs: Any,
    ) -> list[Outcome]:
        """Goes on with many conversations at once. See `LLM.chat_completions`."""
        places = asyncio.Semaphore(max_workers)

        async def send(call: Call) -> Outcome:
            async with places:
                try:
                    return await self._send(call)
                except LLMError as error:
                    return error

        calls = [
            self._session.make_chat(messages, temperature, max_tokens, dict(kwargs))
            for messages in conversations
        ]
        return await asyncio.gather(*(send(call) for call in calls))

    async def stream(
        self,
        messages: object,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """Yields the answer's text as it comes. See `LLM.stream`."""
        call = self._session.make_chat(messages, temperature, max_tokens, kwargs)
        with self._session.follow(call) as exchange:
            async for piece in self._client.stream(exchange.call):
                if isinstance(piece, str):
                    yield piece
                else:
                    exchange.finish(piece)

    async def list_models(self) -> Shaped:
        """Returns what models the server offers. See `LLM.list_models`."""
        return await self._session.list_models(self._runtime)

    @property
    def usage(self) -> Usage:
        """The tokens that were bought since the start or the last reset."""
        return self._session.usage

    def get_last_response(self) -> ShapedResponse | None:
        """Returns the last answer."""
        return self._session.get_last()

    def get_request_count(self) -> int:
        """Returns how many calls were made. See `LLM.get_request_count`."""
        return self._session.count

    def reset_session(self) -> None:
        """Forgets count, tokens and last answers; what is under way goes on."""
        self._session.reset()

    async def close(self) -> None:
        """Closes the connections of this event loop."""
        self._session.close()
        await self._client.aclose()

    aclose = close

    async def _send(self, call: Call) -> ShapedResponse:
        with self._session.follow(call) as exchange:
            return exchange.finish(await self._client.send(exchange.call))

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
