"""While a run is active, every spawn carries its branch along.

Installed when the first run starts, removed when the last one ends; nothing
is patched otherwise. What is spawned from a detached branch, or from one that
belongs to no run, is left as it is.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any
from weakref import WeakKeyDictionary

from tinytroupe.llm.rules.lanes import DETACHED, Branch, current_branch

_lock = threading.Lock()
_installed = 0
_originals: list[tuple[type, str, Any]] = []
_consumers: WeakKeyDictionary[Any, list[Branch]] = WeakKeyDictionary()


def install() -> None:
    """Begins to carry branches along; counts, so that nested runs may each install."""
    global _installed
    with _lock:
        _installed += 1
        if _installed > 1:
            return
        _patch(ThreadPoolExecutor, "submit", _carry_into_job)
        _patch(threading.Thread, "start", _carry_into_thread)
        _patch(queue.Queue, "get", _notice_consumer)
        _patch(asyncio.Queue, "get_nowait", _notice_consumer)
        for loop_class in _find_loop_classes():
            _patch(loop_class, "create_task", _carry_into_task)


def remove() -> None:
    """Ends what `install` began."""
    global _installed
    with _lock:
        _installed -= 1
        if _installed:
            return
        while _originals:
            owner, name, original = _originals.pop()
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        _consumers.clear()


def _patch(owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
    # What the class inherited is put back by removing ours, not by pinning the parent's.
    _originals.append((owner, name, vars(owner).get(name)))
    setattr(owner, name, wrap(getattr(owner, name)))


def _find_loop_classes() -> list[type]:
    """Returns the classes whose `create_task` makes tasks: asyncio's, and uvloop's if loaded."""
    classes: list[type] = [asyncio.BaseEventLoop]
    uvloop = sys.modules.get("uvloop")
    if uvloop is not None:
        classes.append(uvloop.Loop)
    return classes


def _branch_for_child() -> Branch | None:
    """Returns a new branch for what is being spawned, or None where spawns do not count."""
    branch = current_branch.get()
    if branch is None or branch is DETACHED:
        return None
    return branch.spawn()


def _carry_into_job(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def submit_in_branch(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        child = _branch_for_child()
        if child is None:
            return submit(self, fn, *args, **kwargs)
        context = _find_context(fn)
        if context is not None:
            # asyncio.to_thread brings its own copy of the context, which would win over ours.
            context.run(current_branch.set, child)
        else:
            context = copy_context()
            context.run(current_branch.set, child)
            fn = functools.partial(context.run, fn)
        # Worker threads that the pool starts meanwhile are none of the simulation's spawns.
        token = current_branch.set(DETACHED)
        try:
            return submit(self, fn, *args, **kwargs)
        finally:
            current_branch.reset(token)

    return submit_in_branch


def _find_context(fn: Callable[..., Any]) -> Context | None:
    """Returns the context that a job runs in by itself, if it does."""
    inner = fn.func if isinstance(fn, functools.partial) else fn
    owner = getattr(inner, "__self__", None)
    return owner if isinstance(owner, Context) else None


def _carry_into_thread(start: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(start)
    def start_in_branch(self: threading.Thread) -> None:
        child = _branch_for_child()
        if child is None:
            start(self)
            return
        if getattr(getattr(self, "_target", None), "__module__", "") == "multiprocessing.pool":
            child.fed = child.contested = True
        context = copy_context()
        context.run(current_branch.set, child)
        run = self.run
        self.run = functools.partial(context.run, run)  # type: ignore[method-assign]
        start(self)

    return start_in_branch


def _carry_into_task(create_task: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(create_task)
    def create_task_in_branch(
        self: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any
    ) -> asyncio.Task[Any]:
        child = _branch_for_child()
        if child is None:
            return create_task(self, coro, **kwargs)  # type: ignore[no-any-return]
        context = kwargs.get("context")
        if context is not None:
            context.run(current_branch.set, child)
            return create_task(self, coro, **kwargs)  # type: ignore[no-any-return]
        # The task copies the context in which it is made; so this works before Python 3.11,
        # where create_task takes no context, too.
        token = current_branch.set(child)
        try:
            return create_task(self, coro, **kwargs)  # type: ignore[no-any-return]
        finally:
            current_branch.reset(token)

    return create_task_in_branch


def _notice_consumer(get: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(get)
    def get_and_notice(self: Any, *args: Any, **kwargs: Any) -> Any:
        branch = current_branch.get()
        if branch is not None and branch is not DETACHED and branch.parent is not None:
            _mark_fed(self, branch)
        return get(self, *args, **kwargs)

    return get_and_notice


def _mark_fed(source: Any, branch: Branch) -> None:
    # Inside `lane(…)` it is the thread around it that takes the work.
    while branch.parent is not None and branch.name != branch.parent.name:
        branch = branch.parent
    branch.fed = True
    with _lock:
        consumers = _consumers.setdefault(source, [])
        if branch not in consumers:
            consumers.append(branch)
        if len(consumers) > 1:
            for consumer in consumers:
                consumer.contested = True
