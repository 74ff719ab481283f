"""How many attempts one endpoint gets at a time and within a minute."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from threading import Lock

from tinytroupe.llm.errors import TimedOut
from tinytroupe.llm.layers.handler import AttemptHandler
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.buckets import BookedAttempt, Bucket, Limits, attach_booking
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


def limited(
    handler: AttemptHandler,
    gate: Gate | None,
    runtime: Runtime,
    requests: Bucket | None = None,
    tokens: Bucket | None = None,
) -> AttemptHandler:
    """Lets an attempt on the wire when the gate has a place for it and the minute has room.

    The time in the queue counts against the call's deadline, not against the
    attempt's: a thousand agents at a gate of four are slow, not broken. The
    minute's share begins only after the place is taken: a queue between the two
    would let more begin within a minute than was reserved. Until then it stands in
    line, so that a route sees how much is still to come; a route that chose this
    endpoint has put it there already.

    Args:
        handler: Makes the attempt.
        gate: How many attempts at a time; None: any number.
        runtime: The clock.
        requests: How many requests within a minute; None: any number.
        tokens: How many tokens within a minute, estimated before and settled
            after each attempt; None: any number.

    Raises:
        TimedOut: The call's deadline passed while it queued.
    """
    if requests is None and tokens is None:
        return handler if gate is None else _gated(handler, gate, runtime)
    handler = _paced(handler, runtime)
    if gate is not None:
        handler = _gated(handler, gate, runtime)
    return _booked(handler, Limits(requests, tokens))


def _booked(handler: AttemptHandler, limits: Limits) -> AttemptHandler:
    async def attempt_in_line(attempt: Attempt) -> Response:
        if isinstance(attempt, BookedAttempt):
            return await handler(attempt)
        booking = limits.book(limits.measure(attempt.call.request))
        try:
            return await handler(attach_booking(attempt, booking))
        finally:
            booking.give_back()

    return attempt_in_line


def _gated(handler: AttemptHandler, gate: Gate, runtime: Runtime) -> AttemptHandler:
    async def queue(attempt: Attempt, future: Future[None]) -> Attempt:
        expires_at = attempt.call.expires_at
        remaining = None if expires_at is None else expires_at - runtime.now()
        try:
            await runtime.wait(future, remaining)
        except BaseException as error:
            gate.give_up(future)
            if isinstance(error, TimeoutError):
                raise _report_queue(
                    "the call's deadline passed while it queued for one of the "
                    "MAX_CONCURRENT_MODEL_CALLS places"
                ) from None
            raise
        return _shorten(attempt, runtime)

    async def attempt_in_turn(attempt: Attempt) -> Response:
        future = gate.enter()
        if future is not None:
            attempt = await queue(attempt, future)
        try:
            return await handler(attempt)
        finally:
            gate.leave()

    return attempt_in_turn


def _paced(handler: AttemptHandler, runtime: Runtime) -> AttemptHandler:
    async def wait_for_room(attempt: BookedAttempt) -> Attempt:
        now = runtime.now()
        wait = attempt.booking.begin(now) - now
        if wait <= 0:
            return attempt
        expires_at = attempt.call.expires_at
        if expires_at is not None and now + wait >= expires_at:
            error = _report_queue(
                f"the limit per minute has room for this call only in {wait:.1f} s, which is "
                "after its deadline"
            )
            error.should_retry = False
            raise error
        await runtime.sleep(wait)
        return _shorten(attempt, runtime)

    async def attempt_in_time(attempt: Attempt) -> Response:
        assert isinstance(attempt, BookedAttempt)
        booking = attempt.booking
        attempt = await wait_for_room(attempt)
        booking.used_at = runtime.now()
        response = await handler(attempt)
        if response.usage is not None:
            booking.settle(response.usage.total_tokens)
        return response

    return attempt_in_time


def _report_queue(message: str) -> TimedOut:
    """Returns the error for a call whose time ran out before an endpoint was asked."""
    error = TimedOut(message)
    error.queued = True
    return error


def _shorten(attempt: Attempt, runtime: Runtime) -> Attempt:
    """Returns the attempt with no more time than its call has left."""
    expires_at = attempt.call.expires_at
    if expires_at is None:
        return attempt
    left = max(expires_at - runtime.now(), 0.001)
    return replace(attempt, timeout_seconds=min(attempt.timeout_seconds, left))
