"""What is patched while a run is active, and only then."""

from __future__ import annotations

import asyncio
import functools
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, _base
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tinytroupe.llm.rules.lanes import Branch
from tinytroupe.llm.spawns import callers
from tinytroupe.llm.spawns.arrivals import (
    complete_in_order,
    forget_consumers,
    iterate_by_arrival,
    notice_consumer,
)
from tinytroupe.llm.spawns.carried import (
    carry_into_callback,
    carry_into_job,
    carry_into_loop,
    carry_into_task,
    carry_into_thread,
)

_Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(slots=True)
class _Patch:
    owner: type | ModuleType
    name: str
    own: Any
    """What the owner itself held under this name; None: it inherits it."""
    ours: Any
    active: bool = True


_lock = threading.Lock()
_patches: list[_Patch] = []


def install(root: Branch) -> None:
    """Begins to carry branches along, for a run that this thread or task begins."""
    with _lock:
        callers.settle(root)
        for owner, name, wrap in _list_targets():
            _patches.append(_patch(owner, name, wrap))


def remove() -> None:
    """Ends what `install` began. Does nothing where nothing was installed."""
    with _lock:
        while _patches:
            _take_back(_patches.pop())
        callers.unsettle()
        forget_consumers()


def _list_targets() -> Iterator[tuple[type | ModuleType, str, _Wrap]]:
    yield ThreadPoolExecutor, "submit", carry_into_job
    yield Future, "add_done_callback", carry_into_callback
    yield threading.Thread, "start", carry_into_thread
    yield queue.Queue, "get", notice_consumer
    yield queue.SimpleQueue, "get", notice_consumer
    yield queue.SimpleQueue, "get_nowait", notice_consumer
    yield asyncio.Queue, "get_nowait", notice_consumer
    # `as_completed` itself is often imported by name; what it yields from is looked up each time.
    if hasattr(_base, "_yield_finished_futures"):
        yield _base, "_yield_finished_futures", iterate_by_arrival
    yield asyncio, "as_completed", complete_in_order
    yield asyncio.tasks, "as_completed", complete_in_order
    _load_loops()
    for loop_class in _find_makers("create_task"):
        yield loop_class, "create_task", carry_into_task
    for loop_class in _find_makers("call_soon_threadsafe"):
        yield loop_class, "call_soon_threadsafe", carry_into_loop


def _load_loops() -> None:
    # One that is loaded later would not be seen.
    with suppress(ImportError):
        import uvloop  # noqa: F401


def _find_makers(name: str) -> list[type]:
    """Returns the event loops that have a method of their own: asyncio's, uvloop's, others'."""
    abstract = getattr(asyncio.AbstractEventLoop, name)
    found: list[type] = []
    methods: list[Any] = [abstract]
    waiting: list[type] = [asyncio.AbstractEventLoop]
    while waiting:
        loop_class = waiting.pop(0)
        waiting += loop_class.__subclasses__()
        method = getattr(loop_class, name, abstract)
        if method not in methods:
            methods.append(method)
            found.append(loop_class)
    return found


def _patch(owner: type | ModuleType, name: str, wrap: _Wrap) -> _Patch:
    original = getattr(owner, name)
    carried = wrap(original)

    @functools.wraps(original)
    def choose(*args: Any, **kwargs: Any) -> Any:
        return (carried if patch.active else original)(*args, **kwargs)

    # What a class inherited is given back by taking ours away, not by pinning the parent's.
    patch = _Patch(owner, name, vars(owner).get(name), choose)
    _assign(owner, name, choose)
    return patch


def _take_back(patch: _Patch) -> None:
    patch.active = False
    # Somebody who patched it meanwhile may still call ours; inactive, it does nothing.
    if vars(patch.owner).get(patch.name) is not patch.ours:
        return
    if patch.own is None:
        delattr(patch.owner, patch.name)
    else:
        _assign(patch.owner, patch.name, patch.own)


def _assign(owner: type | ModuleType, name: str, value: Any) -> None:
    try:
        setattr(owner, name, value)
    except TypeError:
        # SimpleQueue is written in C and refuses. But workers that it feeds must be noticed, or a
        # replay would hand one agent another's answers; so its dictionary is changed directly.
        import ctypes

        gc.get_referents(vars(owner))[0][name] = value
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))
