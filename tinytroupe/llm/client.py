"""The two facades of the chain: one blocks, the other awaits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias, cast

from tinytroupe.llm.chain import Chain, ClientDefaults, Emission, Gathered, to_call
from tinytroupe.llm.errors import BadRequest, LLMError
from tinytroupe.llm.layers.handler import AttemptHandler
from tinytroupe.llm.layers.replay import get_active
from tinytroupe.llm.layers.route import Route
from tinytroupe.llm.meter import Meter
from tinytroupe.llm.request import Attempt, Call, CallOptions, Request, embedding_request
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.lanes import DETACHED, Branch, current_branch
from tinytroupe.llm.runtime import AsyncioRuntime, BlockingRuntime, Runtime, run
from tinytroupe.llm.spawns.callers import spawn_branch
from tinytroupe.llm.store.entry import Store
from tinytroupe.llm.transports.endpoint import Endpoint
from tinytroupe.llm.transports.transport import Transport

__all__ = ["AsyncClient", "Client", "ClientDefaults", "Outcome", "Report"]

Outcome: TypeAlias = "Response | LLMError"
"""What became of one of many calls."""

Report: TypeAlias = Callable[[int, Outcome], None]
"""Is told, as each of many calls ends, its position and what became of it."""


class Client(Chain):
    """Asks a model and returns its answer, bought at most once. Blocks; safe for many threads.

    Args:
        transport: Where live calls go; a `Route` for several endpoints.
        store: Where answers are kept; None: nowhere.
        defaults: How calls are made where their options say nothing.
        meter: Where calls are added up; None: one of its own.
        runtime: The clock, and how to wait; one that never suspends. None: the real one.
    """

    def __init__(
        self,
        transport: Transport | Endpoint | Route,
        store: Store | None = None,
        defaults: ClientDefaults | None = None,
        *,
        meter: Meter | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__(transport, store, defaults, meter, runtime or BlockingRuntime())

    def _make_attempt(self, transport: Transport) -> AttemptHandler:
        return partial(self._attempt, transport)

    async def _attempt(self, transport: Transport, attempt: Attempt) -> Response:
        emit, stream = attempt.call.emit, getattr(transport, "stream", None)
        if emit is None or stream is None:
            return transport.send(attempt)
        with closing(stream(attempt)) as pieces:
            gathered = Gathered()
            with gathered.told_on_failure():
                for piece in pieces:
                    if not isinstance(piece, str):
                        return cast(Response, piece)
                    await emit(gathered.take(piece))
                raise gathered.report_end()

    def send(self, call: Call | Request) -> Response:
        """Returns the answer, from the store or from the endpoint.

        Raises:
            LLMError: There is no answer; the class says why. See `tinytroupe.llm.errors`.
        """
        return run(self._start(call))

    def stream(self, call: Call | Request) -> Iterator[str | Response]:
        """Yields the answer's text as it comes, then the whole response.

        Only a complete answer is stored; a stored one is yielded in one piece.
        Leaving early ends the call. The place that MAX_CONCURRENT_MODEL_CALLS
        gives is held until the end.

        Raises:
            LLMError: While it is read: there is no answer. Its `partial` holds what came.
        """
        # In a context of its own, since the caller's code runs between the pieces.
        context = copy_context()
        coroutine = context.run(self._start, replace(to_call(call), emit=Emission))
        emitted = False
        try:
            while True:
                yield context.run(coroutine.send, None)
                emitted = True
        except StopIteration as stop:
            response: Response = stop.value
        finally:
            context.run(coroutine.close)
        if not emitted and response.text:
            yield response.text
        yield response

    def send_many(
        self,
        calls: Iterable[Call | Request],
        *,
        max_workers: int = 16,
        on_outcome: Report | None = None,
    ) -> list[Outcome]:
        """Sends many calls at once and returns what became of each, in the order given.

        A call that fails leaves its error in its place and costs no other's
        answer. Interrupting loses no answer either: those that arrived are in
        the store.

        Args:
            calls: What to ask.
            max_workers: How many calls are under way at a time.
            on_outcome: Is told position and outcome as each call ends, on a worker's thread.
        """

        def send_one(index: int, call: Call | Request) -> Outcome:
            outcome = self._send_or_error(call)
            if on_outcome is not None:
                on_outcome(index, outcome)
            return outcome

        pool = ThreadPoolExecutor(max_workers, thread_name_prefix="tinytroupe")
        try:
            futures = [pool.submit(send_one, index, call) for index, call in enumerate(calls)]
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _send_or_error(self, call: Call | Request) -> Outcome:
        try:
            return self.send(call)
        except LLMError as error:
            return error

    def embed(
        self,
        model: str,
        texts: Iterable[str],
        options: CallOptions | None = None,
        **parameters: object,
    ) -> list[list[float]]:
        """Returns one vector per text, in order.

        Each text is cached for itself, and those that are missing are asked
        together. While a run is active each is asked for itself, so that the
        tape does not depend on what the store held.

        Args:
            model: The model's name.
            texts: At least one, none of them empty.
            options: How it is asked.
            **parameters: What else goes into the request, such as `dimensions`.

        Raises:
            LLMError: A text has no vector; the first such error.
        """
        responses = self.embed_each(model, texts, options, **parameters)
        return [response.embeddings[0] for response in responses]

    def embed_each(
        self,
        model: str,
        texts: Iterable[str],
        options: CallOptions | None = None,
        **parameters: object,
    ) -> list[Response]:
        """Does what `embed` does, and returns the responses: usage, origin, endpoint."""
        calls = _make_embedding_calls(model, texts, options, parameters)
        outcomes = self.send_many(calls) if get_active() else run(self._embed(calls))
        return [_expect_response(outcome) for outcome in outcomes]

    def close(self) -> None:
        """Closes connections and files; the next call opens them again."""
        for endpoint in self.route.endpoints:
            endpoint.transport.close()
        if self.store is not None:
            self.store.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(Chain):
    """Does what `Client` does without blocking the event loop; may serve several loops.

    Args:
        transport: Where live calls go.
        store: Where answers are kept; None: nowhere. May be shared with a `Client`.
        defaults: How calls are made where their options say nothing.
        meter: Where calls are added up; None: one of its own. May be shared with a `Client`.
        runtime: The clock, and how to wait. None: the real one.
    """

    def __init__(
        self,
        transport: Transport | Endpoint | Route,
        store: Store | None = None,
        defaults: ClientDefaults | None = None,
        *,
        meter: Meter | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__(transport, store, defaults, meter, runtime or AsyncioRuntime())

    def _make_attempt(self, transport: Transport) -> AttemptHandler:
        return partial(self._attempt, transport)

    async def _attempt(self, transport: Transport, attempt: Attempt) -> Response:
        emit, stream = attempt.call.emit, getattr(transport, "astream", None)
        if emit is None or stream is None:
            return await transport.asend(attempt)
        async with aclosing(stream(attempt)) as pieces:
            gathered = Gathered()
            with gathered.told_on_failure():
                async for piece in pieces:
                    if not isinstance(piece, str):
                        return cast(Response, piece)
                    await emit(gathered.take(piece))
                raise gathered.report_end()

    async def send(self, call: Call | Request) -> Response:
        """Returns the answer, from the store or from the endpoint.

        Raises:
            LLMError: There is no answer; the class says why. See `tinytroupe.llm.errors`.
        """
        return await self._start(call)

    async def stream(self, call: Call | Request) -> AsyncIterator[str | Response]:
        """Yields the answer's text as it comes, then the whole response. See `Client.stream`."""
        pieces: deque[str] = deque()
        news = asyncio.Event()

        async def emit(piece: str) -> None:
            pieces.append(piece)
            news.set()

        emitted = False
        task = asyncio.ensure_future(self._start(replace(to_call(call), emit=emit)))
        task.add_done_callback(lambda _: news.set())
        try:
            while not task.done() or pieces:
                if not pieces:
                    await news.wait()
                    news.clear()
                while pieces:
                    emitted = True
                    yield pieces.popleft()
            response = task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not emitted and response.text:
            yield response.text
        yield response

    async def send_many(
        self,
        calls: Iterable[Call | Request],
        *,
        max_workers: int = 100,
        on_outcome: Report | None = None,
    ) -> list[Outcome]:
        """Sends many calls at once and returns what became of each, in the order given.

        See `Client.send_many`; `on_outcome` is called on the event loop.
        """
        numbered = enumerate(calls)
        outcomes: dict[int, Outcome] = {}
        group = spawn_branch()

        def stand_at(branch: Branch | None) -> None:
            if branch is not None:
                current_branch.set(branch)

        async def work() -> None:
            stand_at(group)
            for index, call in numbered:
                # Which worker takes a call is chance; its index is not.
                stand_at(group and group.number(index))
                try:
                    outcomes[index] = await self.send(call)
                except LLMError as error:
                    outcomes[index] = error
                if on_outcome is not None:
                    on_outcome(index, outcomes[index])
                stand_at(group)

        # How many workers there are must not number what is started later.
        token = current_branch.set(current_branch.get() if group is None else DETACHED)
        workers = [asyncio.ensure_future(work()) for _ in range(max(max_workers, 1))]
        current_branch.reset(token)
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return [outcomes[index] for index in sorted(outcomes)]

    async def embed(
        self,
        model: str,
        texts: Iterable[str],
        options: CallOptions | None = None,
        **parameters: object,
    ) -> list[list[float]]:
        """Returns one vector per text, in order. See `Client.embed`."""
        responses = await self.embed_each(model, texts, options, **parameters)
        return [response.embeddings[0] for response in responses]

    async def embed_each(
        self,
        model: str,
        texts: Iterable[str],
        options: CallOptions | None = None,
        **parameters: object,
    ) -> list[Response]:
        """Does what `embed` does, and returns the responses: usage, origin, endpoint."""
        calls = _make_embedding_calls(model, texts, options, parameters)
        outcomes = await (self.send_many(calls) if get_active() else self._embed(calls))
        return [_expect_response(outcome) for outcome in outcomes]

    async def aclose(self) -> None:
        """Closes this loop's connections and the files; the next call opens them again."""
        for endpoint in self.route.endpoints:
            await endpoint.transport.aclose()
        if self.store is not None:
            self.store.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _make_embedding_calls(
    model: str,
    texts: Iterable[str],
    options: CallOptions | None,
    parameters: Mapping[str, object],
) -> list[Call]:
    if isinstance(texts, str):
        raise BadRequest("texts is one text; give a list of texts, as in embed(model, [text])")
    chosen = options or CallOptions()
    # Made together first, so that an error says which text it is.
    whole = embedding_request(model, texts, **cast("dict[str, Any]", parameters))
    return [Call(replace(whole, texts=(text,)), chosen) for text in whole.texts]


def _expect_response(outcome: Outcome) -> Response:
    if isinstance(outcome, LLMError):
        raise outcome
    return outcome
