"""One live call per key: who asks the same at the same moment waits for the first."""

from __future__ import annotations

import copy
from concurrent.futures import Future
from dataclasses import replace
from threading import Lock

from tinytroupe.llm.errors import LLMError, TimedOut
from tinytroupe.llm.layers.cache import Cache
from tinytroupe.llm.layers.handler import Handler
from tinytroupe.llm.request import Call
from tinytroupe.llm.response import Response
from tinytroupe.llm.runtime import Runtime


class Flight:
    """The calls that are under way, by key. Belongs to one client.

    It must not be shared between a synchronous and an asynchronous client: a
    synchronous follower on an event loop's own thread would wait for ever for
    that loop's leader.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._leaders: dict[str, Future[Response | None]] = {}

    def join(self, key: str) -> tuple[Future[Response | None], bool]:
        """Returns the future of a key's call, and whether the caller has to make that call."""
        with self._lock:
            future = self._leaders.get(key)
            if future is not None:
                return future, False
            future = self._leaders[key] = Future()
            return future, True

    def land(
        self, key: str, future: Future[Response | None], outcome: Response | LLMError | None
    ) -> None:
        """Takes a call off the table and tells its followers what became of it.

        Args:
            key: The call's.
            future: What `join` returned for it.
            outcome: None: neither answer nor error, so that they ask again.
        """
        with self._lock:
            if self._leaders.get(key) is future:
                del self._leaders[key]
        if isinstance(outcome, LLMError):
            # A copy: the leader's own error goes on to learn whose it is.
            told = copy.copy(outcome)
            told.__cause__ = outcome
            future.set_exception(told)
        else:
            future.set_result(outcome)

    def reset(self) -> None:
        """Forgets all calls under way: after a fork their threads are not in this process."""
        self._lock = Lock()
        self._leaders = {}


def shared(handler: Handler, flight: Flight, cache: Cache, runtime: Runtime) -> Handler:
    """Lets one call per key go on; the others wait for it and share its answer or error.

    Where the cache is `off` or `refresh`, every caller wants an answer of their
    own, so nothing is shared. A streamed call goes by itself too: whoever reads it
    may pause as long as they like, on the very thread that would have to follow.
    A leader that is cancelled hands over to a follower.

    Raises:
        TimedOut: The call's deadline passed while it waited.
    """

    async def lead(call: Call, key: str, future: Future[Response | None]) -> Response:
        outcome: Response | LLMError | None = None
        try:
            outcome = await handler(call)
            return outcome
        except LLMError as error:
            # That this caller had no more time is no answer for one who has.
            if not (isinstance(error, TimedOut) and call.expires_at is not None):
                outcome = error
            raise
        finally:
            flight.land(key, future, outcome)

    async def follow(call: Call, future: Future[Response | None]) -> Response | None:
        remaining = None if call.expires_at is None else call.expires_at - runtime.now()
        try:
            response = await runtime.wait(future, remaining)
        except TimeoutError:
            raise TimedOut(
                "the call's deadline passed while it waited for the same call of another agent"
            ) from None
        except LLMError as error:
            # A copy each: one exception raised in many threads gathers all their tracebacks.
            raise copy.copy(error) from error
        return None if response is None else replace(response, origin="flight", attempts=0)

    async def answer(call: Call) -> Response:
        if call.emit is not None or cache.choose_mode(call) not in ("on", "only"):
            return await handler(call)
        # A look before the flight keeps hits fast. The leader looks again inside it:
        # another leader may have stored the answer between this look and the join.
        response = await cache.look(call)
        while response is None:
            future, leads = flight.join(call.key)
            if leads:
                return await lead(call, call.key, future)
            response = await follow(call, future)
        return response

    return answer
