"""The path of every call, put together in one place.

`build_chain` is the whole of it. Its order is part of the contract, for
measured reasons (see docs/architecture.md), so it is not a list that could be
reordered: people extend it with their own transport, store or meter sink.
"""

from __future__ import annotations

import logging
import os
import random
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tinytroupe.llm.errors import LLMError, MalformedResponse
from tinytroupe.llm.layers.batch import Batch, Outcome
from tinytroupe.llm.layers.cache import Cache, cached
from tinytroupe.llm.layers.flight import Flight, shared
from tinytroupe.llm.layers.handler import AttemptHandler, Handler
from tinytroupe.llm.layers.limit import Gate, limited
from tinytroupe.llm.layers.replay import get_active, recorded
from tinytroupe.llm.layers.retry import retried
from tinytroupe.llm.layers.route import Route, routed
from tinytroupe.llm.meter import Meter, metered, name_caller
from tinytroupe.llm.request import CacheMode, Call, Request, RetryPolicy
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.lanes import current_branch
from tinytroupe.llm.rules.parameters import adapt_request
from tinytroupe.llm.runtime import Runtime
from tinytroupe.llm.store.entry import Store
from tinytroupe.llm.transports.endpoint import Endpoint
from tinytroupe.llm.transports.transport import Transport

logger = logging.getLogger(__name__)


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
    attempt: AttemptHandler,
    cache: Cache,
    flight: Flight,
    defaults: ClientDefaults,
    meter: Meter,
    runtime: Runtime,
) -> tuple[Handler, Batch]:
    """Puts the layers in their order; the last line is the first that a call meets.

    Returns:
        What answers a call, and what answers many embedding calls together.
    """
    bought = retried(attempt, defaults.retry, defaults.timeout_seconds, random.random, runtime)
    handler = cached(bought, cache)
    handler = shared(handler, flight, cache, runtime)
    batch = Batch(bought, handler, flight, cache)
    handler = recorded(handler, runtime)
    return metered(handler, meter, runtime), batch


def build_attempt(
    route: Route,
    make_attempt: Callable[[Transport], AttemptHandler],
    gates: Sequence[Gate | None],
    runtime: Runtime,
) -> AttemptHandler:
    """Puts together what makes an attempt: the route over the endpoints, each with its limits."""
    handlers = [
        limited(make_attempt(endpoint.transport), gate, runtime, endpoint.requests, endpoint.tokens)
        for endpoint, gate in zip(route.endpoints, gates, strict=True)
    ]
    if len(handlers) == 1 and not route.alters:
        return handlers[0]
    return routed(handlers, route, random.random, runtime)


class Chain:
    """What both facades hold: the chain over a runtime, and what it is made of."""

    def __init__(
        self,
        transport: Transport | Endpoint | Route,
        store: Store | None,
        defaults: ClientDefaults | None,
        meter: Meter | None,
        runtime: Runtime,
    ) -> None:
        defaults = defaults or ClientDefaults()
        self.route = to_route(transport)
        self.transport = self.route.endpoints[0].transport
        self.store = store
        self.meter = meter or Meter()
        self.defaults = defaults
        self._runtime = runtime
        self._flight = Flight()
        places = [each.max_concurrent or defaults.max_concurrent for each in self.route.endpoints]
        self._gates = [Gate(number) if number else None for number in places]
        attempt = build_attempt(self.route, self._make_attempt, self._gates, runtime)
        cache = Cache(store, defaults.cache, runtime)
        self._handle, self._batch = build_chain(
            attempt, cache, self._flight, defaults, self.meter, runtime
        )
        _reset_after_fork(self)

    def _make_attempt(self, transport: Transport) -> AttemptHandler:
        raise NotImplementedError

    async def _embed(self, calls: Sequence[Call]) -> list[Outcome]:
        """Returns what became of embedding calls of one text each; equal ones are asked once."""
        started = self._runtime.now()
        prepared = [prepare_call(call, self.defaults, self._runtime) for call in calls]
        distinct = {call.key: call for call in prepared}
        answered = await self._batch.answer(list(distinct.values()), self._runtime)
        outcomes = dict(zip(distinct, answered, strict=True))
        seconds = self._runtime.now() - started
        for key, call in distinct.items():
            outcome = outcomes[key]
            if isinstance(outcome, LLMError):
                self.meter.count(call, None, name_caller(outcome, call), seconds)
            else:
                self.meter.count(call, outcome, None, seconds)
        return [outcomes[call.key] for call in prepared]

    def _start(self, call: Call | Request) -> Coroutine[Any, Any, Response]:
        return self._handle(prepare_call(call, self.defaults, self._runtime))

    def _forget_calls(self) -> None:
        self._flight.reset()
        self.route.reset()
        for gate in self._gates:
            if gate is not None:
                gate.reset()


def prepare_call(call: Call | Request, defaults: ClientDefaults, runtime: Runtime) -> Call:
    """Returns the call as the chain takes it: adapted to its model, with its deadline set."""
    call = to_call(call)
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


def to_route(transport: Transport | Endpoint | Route) -> Route:
    """Returns the route over one transport or endpoint, or the route itself."""
    if isinstance(transport, Route):
        return transport
    if isinstance(transport, Endpoint):
        return Route([transport])
    return Route([Endpoint(transport.name, transport)])


def to_call(call: Call | Request) -> Call:
    """Returns the call for a request without options, or the call itself."""
    return Call(call) if isinstance(call, Request) else call


def _name_lane(call: Call) -> Call:
    """Returns the call with the lane that is open around it, for the meter."""
    branch = current_branch.get()
    if branch is None or not branch.name or call.options.lane:
        return call
    return replace(call, options=replace(call.options, lane=branch.name))


class Emission:
    """Hands a piece to whoever drives the coroutine: the one thing on which it suspends."""

    def __init__(self, piece: str) -> None:
        self._piece = piece

    def __await__(self) -> Generator[str, None, None]:
        yield self._piece


class Gathered:
    """What has come of a streamed answer."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def take(self, piece: str) -> str:
        """Adds a piece, and returns it."""
        self._pieces.append(piece)
        return piece

    def report_end(self) -> MalformedResponse:
        """Returns the error for a stream that ended without a response."""
        return MalformedResponse("the stream ended without a whole answer")

    @contextmanager
    def told_on_failure(self) -> Iterator[None]:
        """Lets an error that leaves tell what had come."""
        try:
            yield
        except LLMError as error:
            error.partial = "".join(self._pieces)
            raise


_chains: weakref.WeakSet[Chain] = weakref.WeakSet()
_watching_forks = False


def _reset_after_fork(chain: Chain) -> None:
    # In a forked child the leaders' threads do not exist: a follower would wait for ever.
    global _watching_forks
    _chains.add(chain)
    if not _watching_forks and hasattr(os, "register_at_fork"):
        _watching_forks = True
        os.register_at_fork(after_in_child=_forget_all_calls)


def _forget_all_calls() -> None:
    for chain in list(_chains):
        chain._forget_calls()
