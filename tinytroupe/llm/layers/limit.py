"""How many attempts one endpoint gets at a time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from threading import Lock

from tinytroupe.llm.errors import TimedOut
from tinytroupe.llm.layers.handler import AttemptHandler
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.response import Response
from tinytroupe.llm.runtime import Runtime


class Gate:
    """Lets a number of attempts through at a time; the others queue, first come first served.

    Belongs to one client, as a `Flight` does.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._lock = Lock()
        self._free = places
        self._queue: deque[Future[None]] = deque()

    def enter(self) -> Future[None] | None:
        """Takes a place and returns None, or returns the future that will bring one."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return None
            future: Future[None] = Future()
            self._queue.append(future)
            return future

    def leave(self) -> None:
        """Gives a place back, to whoever waited longest."""
        while True:
            with self._lock:
                if not self._queue:
                    self._free += 1
                    return
                future = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                future.set_result(None)
                return

    def give_up(self, future: Future[None]) -> None:
        """Leaves the queue; a place that was brought in the meantime is given back."""
        if not future.cancel():
            self.leave()

    def reset(self) -> None:
        """Frees all places: after a fork those who held them are not in this process."""
        self._lock = Lock()
        self._free = self._places
        self._queue = deque()


def limited(handler: AttemptHandler, gate: Gate | None, runtime: Runtime) -> AttemptHandler:
    """Lets an attempt on the wire when the gate has a place for it.

    The time in the queue counts against the call's deadline, not against the
    attempt's: a thousand agents at a gate of four are slow, not broken.

    Raises:
        TimedOut: The call's deadline passed while it queued.
    """
    if gate is None:
        return handler

    async def queue(attempt: Attempt, future: Future[None]) -> Attempt:
        expires_at = attempt.call.expires_at
        remaining = None if expires_at is None else expires_at - runtime.now()
        try:
            await runtime.wait(future, remaining)
        except BaseException as error:
            gate.give_up(future)
            if isinstance(error, TimeoutError):
                raise TimedOut(
                    "the call's deadline passed while it queued for one of the "
                    "MAX_CONCURRENT_MODEL_CALLS places"
                ) from None
            raise
        if expires_at is None:
            return attempt
        left = max(expires_at - runtime.now(), 0.001)
        return replace(attempt, timeout_seconds=min(attempt.timeout_seconds, left))

    async def attempt_in_turn(attempt: Attempt) -> Response:
        future = gate.enter()
        if future is not None:
            attempt = await queue(attempt, future)
        try:
            return await handler(attempt)
        finally:
            gate.leave()

    return attempt_in_turn
