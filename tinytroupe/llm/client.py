"""One chain for every model call, and its two facades.

`build_chain` is the whole path of a call, in one function. Its order is part
of the contract, for measured reasons (see docs/architecture.md), so it is not
a list that could be reordered: people extend it with their own transport,
store or meter sink.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import weakref
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, TypeAlias

from tinytroupe.llm.errors import BadRequest, LLMError
from tinytroupe.llm.layers.cache import Cache, cached
from tinytroupe.llm.layers.flight import Flight, shared
from tinytroupe.llm.layers.handler import AttemptHandler, Handler
from tinytroupe.llm.layers.limit import Gate, limited
from tinytroupe.llm.layers.replay import get_active, recorded
from tinytroupe.llm.layers.retry import retried
from tinytroupe.llm.meter import Meter, metered
from tinytroupe.llm.request import (
    Attempt,
    CacheMode,
    Call,
    CallOptions,
    Request,
    RetryPolicy,
    embedding_request,
)
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.lanes import current_branch
from tinytroupe.llm.rules.parameters import adapt_request
from tinytroupe.llm.runtime import AsyncioRuntime, BlockingRuntime, Runtime, run
from tinytroupe.llm.store.entry import Store
from tinytroupe.llm.transports.transport import Transport

logger = logging.getLogger(__name__)

Outcome: TypeAlias = "Response | LLMError"
"""What became of one of many calls."""

Report: TypeAlias = Callable[[int, Outcome], None]
"""Is told, as each of many calls ends, its position and what became of it."""


@dataclass(frozen=True, slots=True)
class ClientDefaults:
    """How calls are made where their options say nothing."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float = 60.0
    """For one attempt as a whole."""
    deadline_seconds: float | None = None
    """For a call as a whole, waits included; None: as long as its attempts take."""
    cache: CacheMode = "on"
    max_concurrent: int | None = None
    """Attempts on the wire at a time; None: no limit."""


def build_chain(
    transport: AttemptHandler,
    cache: Cache,
    flight: Flight,
    gate: Gate | None,
    defaults: ClientDefaults,
    meter: Meter,
    runtime: Runtime,
) -> Handler:
    """Puts the layers in their order; the last line is the first that a call meets."""
    attempt = limited(transport, gate, runtime)
    handler = retried(attempt, defaults.retry, defaults.timeout_seconds, random.random, runtime)
    handler = cached(handler, cache)
    handler = shared(handler, flight, cache, runtime)
    handler = recorded(handler, runtime)
    return metered(handler, meter, runtime)


class _Chain:
    """What both facades hold: the chain over a runtime, and what it is made of."""

    def __init__(
        self,
        transport: Transport,
        store: Store | None,
        defaults: ClientDefaults | None,
        meter: Meter | None,
        runtime: Runtime,
    ) -> None:
        defaults = defaults or ClientDefaults()
        self.transport = transport
        self.store = store
        self.meter = meter or Meter()
        self.defaults = defaults
        self._runtime = runtime
        self._flight = Flight()
        self._gate = Gate(defaults.max_concurrent) if defaults.max_concurrent else None
        cache = Cache(store, defaults.cache, runtime)
        self._handle = build_chain(
            self._attempt, cache, self._flight, self._gate, defaults, self.meter, runtime
        )
        _reset_after_fork(self)

    async def _attempt(self, attempt: Attempt) -> Response:
        raise NotImplementedError

    def _start(self, call: Call | Request) -> Coroutine[Any, Any, Response]:
        return self._handle(_prepare(call, self.defaults, self._runtime))

    def _forget_calls(self) -> None:
        self._flight.reset()
        if self._gate is not None:
            self._gate.reset()


def _prepare(call: Call | Request, defaults: ClientDefaults, runtime: Runtime) -> Call:
    """Returns the call as the chain takes it: adapted to its model, with its deadline set."""
    if isinstance(call, Request):
        call = Call(call)
    request, notes = adapt_request(call.request)
    for note in notes:
        logger.debug("For %s, %s", request.model, note)
    if request is not call.request:
        call = replace(call, request=request)
    allowed = call.options.deadline_seconds or defaults.deadline_seconds
    if allowed is not None:
        call = replace(call, expires_at=runtime.now() + allowed)
    session = get_active()
    return session.place(call) if session is not None else _name_lane(call)


def _name_lane(call: Call) -> Call:
    """Returns the call with the lane that is open around it, for the meter."""
    branch = current_branch.get()
    if branch is None or not branch.name or call.options.lane:
        return call
    return replace(call, options=replace(call.options, lane=branch.name))


_chains: weakref.WeakSet[_Chain] = weakref.WeakSet()
_watching_forks = False


def _reset_after_fork(chain: _Chain) -> None:
    # In a forked child the leaders' threads do not exist: a follower would wait for ever.
    global _watching_forks
    _chains.add(chain)
    if not _watching_forks and hasattr(os, "register_at_fork"):
        _watching_forks = True
        os.register_at_fork(after_in_child=_forget_all_calls)


def _forget_all_calls() -> None:
    for chain in list(_chains):
        chain._forget_calls()


class Client(_Chain):
    """Asks a model and returns its answer, bought at most once. Blocks; safe for many threads.

    Args:
        transport: Where live calls go.
        store: Where answers are kept; None: nowhere.
        defaults: How calls are made where their options say nothing.
        meter: Where calls are added up; None: one of its own.
        runtime: The clock, and how to wait; one that never suspends. None: the real one.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store | None = None,
        defaults: ClientDefaults | None = None,
        *,
        meter: Meter | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__(transport, store, defaults, meter, runtime or BlockingRuntime())

    async def _attempt(self, attempt: Attempt) -> Response:
        return self.transport.send(attempt)

    def send(self, call: Call | Request) -> Response:
        """Returns the answer, from the store or from the endpoint.

        Raises:
            LLMError: There is no answer; the class says why. See `tinytroupe.llm.errors`.
        """
        return run(self._start(call))

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
        self, model: str, texts: Iterable[str], options: CallOptions | None = None
    ) -> list[list[float]]:
        """Returns one vector per text, in order; each text is cached for itself.

        Raises:
            LLMError: A text has no vector; the first such error.
        """
        outcomes = self.send_many(_make_embedding_calls(model, texts, options))
        return [_read_vector(outcome) for outcome in outcomes]

    def close(self) -> None:
        """Closes connections and files; the next call opens them again."""
        self.transport.close()
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


class AsyncClient(_Chain):
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
        transport: Transport,
        store: Store | None = None,
        defaults: ClientDefaults | None = None,
        *,
        meter: Meter | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__(transport, store, defaults, meter, runtime or AsyncioRuntime())

    async def _attempt(self, attempt: Attempt) -> Response:
        return await self.transport.asend(attempt)

    async def send(self, call: Call | Request) -> Response:
        """Returns the answer, from the store or from the endpoint.

        Raises:
            LLMError: There is no answer; the class says why. See `tinytroupe.llm.errors`.
        """
        return await self._start(call)

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
        branch = current_branch.get()
        group = branch.spawn() if branch is not None else None

        async def work() -> None:
            for index, call in numbered:
                # Which worker takes a call is chance; its index is not.
                current_branch.set(group.number(index) if group is not None else None)
                try:
                    outcomes[index] = await self.send(call)
                except LLMError as error:
                    outcomes[index] = error
                if on_outcome is not None:
                    on_outcome(index, outcomes[index])

        workers = [asyncio.ensure_future(work()) for _ in range(max(max_workers, 1))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return [outcomes[index] for index in sorted(outcomes)]

    async def embed(
        self, model: str, texts: Iterable[str], options: CallOptions | None = None
    ) -> list[list[float]]:
        """Returns one vector per text, in order; each text is cached for itself.

        Raises:
            LLMError: A text has no vector; the first such error.
        """
        outcomes = await self.send_many(_make_embedding_calls(model, texts, options))
        return [_read_vector(outcome) for outcome in outcomes]

    async def aclose(self) -> None:
        """Closes this loop's connections and the files; the next call opens them again."""
        await self.transport.aclose()
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
    model: str, texts: Iterable[str], options: CallOptions | None
) -> list[Call]:
    if isinstance(texts, str):
        raise BadRequest("texts is one text; give a list of texts, as in embed(model, [text])")
    chosen = options or CallOptions()
    return [Call(embedding_request(model, text), chosen) for text in texts]


def _read_vector(outcome: Outcome) -> list[float]:
    if isinstance(outcome, LLMError):
        raise outcome
    return outcome.embeddings[0]
