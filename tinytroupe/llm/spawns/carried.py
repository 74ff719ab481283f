"""Jobs, threads, tasks and callbacks begin in a branch below the one that started them."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from types import CodeType, FrameType
from typing import Any
from weakref import ref

from tinytroupe.llm.rules.lanes import DETACHED, Branch, current_branch
from tinytroupe.llm.spawns.callers import find_caller, spawn_branch, stand_in

_NOT_OF_THE_SIMULATION = frozenset(
    {
        "aiohappyeyeballs",
        "aiohttp",
        "anyio._backends._asyncio",
        "asyncio.base_events",
        "concurrent.futures.process",
        "concurrent.futures.thread",
        "multiprocessing.queues",
        "tqdm._monitor",
        "trio._core._thread_cache",
    }
)
"""Packages and modules whose own threads and tasks come and go with the state of a connection
or a pool: counted, they would shift the numbers of the simulation's."""

_NEVER_CARRY_WORK = frozenset({"aiohappyeyeballs", "aiohttp"})
"""Those of them whose coroutines hold nothing of the simulation's."""


def carry_into_job(submit: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `ThreadPoolExecutor.submit`."""

    @functools.wraps(submit)
    def submit_in_branch(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        child = spawn_branch()
        if child is None:
            return submit(self, fn, *args, **kwargs)
        context = _find_context(fn)
        if context is None:
            context = copy_context()
            fn = functools.partial(context.run, fn)
        # Worker threads that the pool starts meanwhile are none of the simulation's spawns.
        token = current_branch.set(DETACHED)
        try:
            return submit(self, _begin, context, child, fn, *args, **kwargs)
        finally:
            current_branch.reset(token)

    return submit_in_branch


def _begin(
    context: Context, child: Branch, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    # Set only now: a context of the caller's own may serve several jobs, one after another.
    context.run(current_branch.set, child)
    if child is not DETACHED:
        child.owner = find_caller()
    return fn(*args, **kwargs)


def _find_context(fn: Callable[..., Any]) -> Context | None:
    """Returns the context that a job runs in by itself, as one of `asyncio.to_thread` does.

    Its copy of the caller's branch would win over the job's.
    """
    inner = fn.func if isinstance(fn, functools.partial) else fn
    owner = getattr(inner, "__self__", None)
    return owner if isinstance(owner, Context) else None


def carry_into_thread(start: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `Thread.start`."""

    @functools.wraps(start)
    def start_in_branch(self: threading.Thread) -> None:
        if _is_foreign_thread(self):
            start(self)
            return
        child = spawn_branch()
        if child is None:
            start(self)
            return
        context = copy_context()
        run = self.run
        of_its_own = vars(self).get("run")

        def take_back() -> None:
            vars(self).pop("run", None)
            if of_its_own is not None:
                self.run = of_its_own  # type: ignore[method-assign]

        def run_in_branch() -> None:
            take_back()
            _begin(context, child, context.run, run)

        self.run = run_in_branch  # type: ignore[method-assign]
        try:
            start(self)
        except BaseException:
            take_back()
            raise

    return start_in_branch


def _is_foreign_thread(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    module = getattr(target, "__module__", None) or type(thread).__module__
    return module in _NOT_OF_THE_SIMULATION


def carry_into_callback(add: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `Future.add_done_callback`: whoever finishes the work, the callback is ours."""

    @functools.wraps(add)
    def add_in_branch(self: Future[Any], fn: Callable[..., Any]) -> Any:
        if _is_of_the_loop(fn):
            return add(self, fn)
        child = spawn_branch()
        if child is None:
            return add(self, fn)
        context = copy_context()
        return add(self, functools.partial(_begin, context, child, context.run, fn))

    return add_in_branch


def carry_into_loop(call_soon: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an event loop's `call_soon_threadsafe`, by which other threads give it work."""

    @functools.wraps(call_soon)
    def call_soon_in_branch(
        self: asyncio.AbstractEventLoop, callback: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if _is_of_the_loop(callback) or any(_is_foreign_coroutine(each) for each in args):
            return call_soon(self, callback, *args, **kwargs)
        child = spawn_branch()
        if child is None:
            return call_soon(self, callback, *args, **kwargs)
        context = kwargs.pop("context", None) or copy_context()
        # Begun inside of the context that the loop runs it in, which is why it is not entered.
        return call_soon(self, _begin_here, child, callback, *args, context=context, **kwargs)

    return call_soon_in_branch


def _is_of_the_loop(callback: Callable[..., Any]) -> bool:
    """Tells whether a callback only wakes somebody up."""
    if getattr(callback, "__code__", None) in _BRINGS_A_COROUTINE:
        return False
    module = getattr(callback, "__module__", None) or ""
    return module.partition(".")[0] in ("anyio", "asyncio", "janus")


_BRINGS_A_COROUTINE = asyncio.run_coroutine_threadsafe.__code__.co_consts
"""Among them the code of the callback that makes its task."""


def _begin_here(child: Branch, callback: Callable[..., Any], /, *args: Any) -> None:
    current_branch.set(child)
    if child is not DETACHED:
        child.owner = find_caller()
    callback(*args)


def carry_into_task(create_task: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an event loop's `create_task`."""

    @functools.wraps(create_task)
    def create_task_in_branch(
        self: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any
    ) -> asyncio.Task[Any]:
        if _is_foreign_coroutine(coro):
            return create_task(self, coro, **kwargs)  # type: ignore[no-any-return]
        if _WAITS_FOR is not None and _is_asked_by(_WAITS_FOR):
            task: asyncio.Task[Any] = create_task(self, coro, **kwargs)
            stand_in(task)
            return task
        child = spawn_branch()
        if child is None or child is DETACHED:  # A task takes the latter along by itself.
            return create_task(self, coro, **kwargs)  # type: ignore[no-any-return]
        if _is_asked_by(_TAKES_A_SET):
            child.leave_to_chance()
        task = _create_in(child, create_task, self, coro, kwargs)
        child.owner = ref(task)
        return task

    return create_task_in_branch


def _create_in(
    child: Branch,
    create_task: Callable[..., Any],
    loop: asyncio.AbstractEventLoop,
    coro: Any,
    kwargs: dict[str, Any],
) -> asyncio.Task[Any]:
    context = kwargs.get("context")
    if context is not None:
        try:
            context.run(current_branch.set, child)
        except RuntimeError:
            # It is the context of a task that runs just now. The new one shares its branch,
            # which is noticed as soon as both act in it.
            child.owner = None
        return create_task(loop, coro, **kwargs)  # type: ignore[no-any-return]
    # The task copies the context in which it is made; so this works before Python 3.11,
    # where create_task takes no context, too.
    token = current_branch.set(child)
    try:
        return create_task(loop, coro, **kwargs)  # type: ignore[no-any-return]
    finally:
        current_branch.reset(token)


def _is_foreign_coroutine(coro: Any) -> bool:
    # The end of an asynchronous generator comes when the garbage collector likes.
    if type(coro).__name__ == "async_generator_athrow":
        return True
    frame = getattr(coro, "cr_frame", None)
    module = frame.f_globals.get("__name__", "") if frame is not None else ""
    return module.partition(".")[0] in _NEVER_CARRY_WORK


_WAITS_FOR: CodeType | None = asyncio.wait_for.__code__ if sys.version_info < (3, 12) else None
"""Until Python 3.11 this makes a task for what it waits for; the numbers of the others must be
the same in all versions."""


def _find_set_maker() -> CodeType | None:
    if sys.version_info < (3, 13):
        return asyncio.as_completed.__code__
    maker = getattr(asyncio.tasks, "_AsCompletedIterator", None)
    return getattr(getattr(maker, "__init__", None), "__code__", None)


_TAKES_A_SET = _find_set_maker()
"""This makes tasks in the order of a set, which chance decides."""

_ON_THE_WAY = ("asyncio.tasks", "tinytroupe.llm.spawns.installed")


def _is_asked_by(code: CodeType | None) -> bool:
    """Tells whether a function of asyncio is making this task, by itself."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in _ON_THE_WAY:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
