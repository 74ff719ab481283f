"""Where chance decides what comes next: shared queues, and loops over what is ready."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from tinytroupe.llm.rules.lanes import DETACHED, Branch
from tinytroupe.llm.spawns.callers import find_branch

_lock = threading.Lock()
_consumers: WeakKeyDictionary[Any, set[Branch]] = WeakKeyDictionary()

_POOLS_OF_CONNECTIONS = frozenset({"asyncpg", "redis", "urllib3"})
"""Packages that hand out connections by a queue; those are no work."""

_POOLS_OF_THREADS = frozenset({"asyncio.tasks", "concurrent.futures.thread"})
"""Modules that take from queues of their own for whoever calls them, as a pool's shutdown does."""


def forget_consumers() -> None:
    """Forgets who takes work from which queue."""
    _consumers.clear()


def notice_consumer(get: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a queue's method that takes an item."""

    @functools.wraps(get)
    def get_and_notice(self: Any, *args: Any, **kwargs: Any) -> Any:
        branch = find_branch()
        if branch is not None and branch is not DETACHED:
            _note_consumer(self, branch)
        return get(self, *args, **kwargs)

    return get_and_notice


def _is_no_work() -> bool:
    """Tells whether what is taken from a queue is something else than work for the taker."""
    frame: FrameType | None = sys._getframe(1)
    name, function = __name__, ""
    while frame is not None and name in _ON_THE_WAY:
        name, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        frame = frame.f_back
    if name == "multiprocessing.pool":
        return function != "worker"
    return name in _POOLS_OF_THREADS or name.partition(".")[0] in _POOLS_OF_CONNECTIONS


_ON_THE_WAY = ("queue", "asyncio.queues", __name__, "tinytroupe.llm.spawns.installed")


def _note_consumer(source: Any, branch: Branch) -> None:
    # Inside `lane(…)` it is the thread around it that takes the work.
    while branch.is_named and branch.parent is not None:
        branch = branch.parent
    try:
        consumers = _consumers.get(source)
        if consumers is not None and branch in consumers:
            return
        if _is_no_work():
            return
        with _lock:
            consumers = _consumers.setdefault(source, set())
    except TypeError:  # A queue that compares by its contents cannot be told from others.
        consumers = {DETACHED}
    if branch.fed_since is None:
        branch.fed_since = branch.mark()
        # The run's own thread collects results; it is not one worker of several.
        branch.fed_by = id(source) if branch.parent is not None else 0
    with _lock:
        consumers.add(branch)
        shared = list(consumers) if len(consumers) > 1 else []
    for consumer in shared:
        if consumer.fed_since is not None:
            consumer.contest(consumer.fed_since)


class _Arrivals:
    """Goes by the order in which others end; what is done between two of them is up to chance."""

    def __init__(self, inner: Any, branch: Branch) -> None:
        self._inner = inner
        self._branch = branch
        self._between = False

    def __iter__(self) -> Iterator[Any]:
        self._inner = iter(self._inner)
        return self

    def __next__(self) -> Any:
        self._end()
        item = next(self._inner)
        self._begin()
        return item

    def __aiter__(self) -> AsyncIterator[Any]:
        self._inner = aiter(self._inner) if hasattr(self._inner, "__aiter__") else self._inner
        return self

    async def __anext__(self) -> Any:
        self._end()
        item = await anext(self._inner)
        self._begin()
        return item

    def _begin(self) -> None:
        self._between = True
        self._branch.unordered += 1

    def _end(self) -> None:
        if self._between:
            self._between = False
            self._branch.unordered -= 1

    # A loop that is left early just forgets its iterator.
    def __del__(self) -> None:
        self._end()


def iterate_by_arrival(yield_finished: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps what `concurrent.futures.as_completed` yields from."""

    @functools.wraps(yield_finished)
    def yield_and_notice(*args: Any, **kwargs: Any) -> Any:
        inner = yield_finished(*args, **kwargs)
        branch = find_branch()
        return inner if branch is None or branch is DETACHED else _Arrivals(inner, branch)

    return yield_and_notice


def complete_in_order(as_completed: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `asyncio.as_completed`, which would make its tasks in the order of a set."""

    @functools.wraps(as_completed)
    def as_completed_in_order(fs: Any, **kwargs: Any) -> Any:
        branch = find_branch()
        if branch is None or branch is DETACHED or asyncio.isfuture(fs) or asyncio.iscoroutine(fs):
            return as_completed(fs, **kwargs)
        tasks = [asyncio.ensure_future(each) for each in dict.fromkeys(fs)]
        return _Arrivals(as_completed(tasks, **kwargs), branch)

    return as_completed_in_order
