"""The only door to the clock, to sleep, to waiting and to work that blocks.

Layers are `async def` over a runtime. `BlockingRuntime` never suspends, so a
synchronous client drives the same coroutines by hand (see `run`);
`AsyncioRuntime` awaits. Because the runtime is a value, tests run in virtual
time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Cancelled = asyncio.CancelledError
"""Raised in a task that somebody cancels."""


class Runtime(Protocol):
    """Four verbs."""

    def now(self) -> float:
        """Returns seconds of a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Pauses this call; others go on."""
        ...

    async def wait(self, future: Future[T], timeout_seconds: float | None = None) -> T:
        """Waits for a future without owning it: giving up waiting never cancels it.

        Raises:
            TimeoutError: It was not done in time.
        """
        ...

    async def blocking(self, work: Callable[[], T]) -> T:
        """Runs work that blocks where it does not hold up other calls."""
        ...


class BlockingRuntime:
    """Waits by blocking the calling thread. Its coroutines never suspend."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def wait(self, future: Future[T], timeout_seconds: float | None = None) -> T:
        try:
            return future.result(timeout_seconds)
        except FutureTimeoutError:
            # Before Python 3.11 this is not the built-in TimeoutError. A finished
            # future raises it only when its own work did, which must pass through.
            if future.done():
                raise
            raise TimeoutError from None

    async def blocking(self, work: Callable[[], T]) -> T:
        return work()


class AsyncioRuntime:
    """Waits by yielding to the running event loop."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, future: Future[T], timeout_seconds: float | None = None) -> T:
        # A future of its own per follower: wrap_future hands a cancellation on to what it
        # wraps, and the leader's future belongs to everyone who waits for it.
        wrapped = asyncio.wrap_future(_follow(future))
        try:
            done, _ = await asyncio.wait({wrapped}, timeout=timeout_seconds)
        finally:
            wrapped.cancel()
        if not done:
            raise TimeoutError
        return wrapped.result()

    async def blocking(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)


def _follow(future: Future[T]) -> Future[T]:
    """Returns a future that ends as the given one does, and can be cancelled alone."""
    follower: Future[T] = Future()

    def hand_over(done: Future[T]) -> None:
        if not follower.set_running_or_notify_cancel():
            return
        if (error := done.exception()) is not None:
            follower.set_exception(error)
        else:
            follower.set_result(done.result())

    future.add_done_callback(hand_over)
    return follower


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drives a coroutine over a `BlockingRuntime` to its end, without an event loop.

    Raises:
        RuntimeError: The coroutine suspended, so it was written over another runtime.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a coroutine of the synchronous client suspended")


def is_beside_others() -> bool:
    """Tells whether the caller is a thread or task that others may run beside.

    It is not in the program's main thread, outside of an event loop or in the
    only task of one.
    """
    if threading.current_thread() is not threading.main_thread():
        return True
    try:
        return len(asyncio.all_tasks()) > 1
    except RuntimeError:  # No event loop is running.
        return False
