"""Which branch of the active run this thread or task is, and whether it is alone in it."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary, ref

from tinytroupe.llm.rules.lanes import DETACHED, Branch, current_branch


@dataclass(frozen=True, slots=True)
class Home:
    """Where the active run was started."""

    root: Branch
    thread: int
    task: ref[Any] | None
    """The task that started it; None: no event loop was running there."""


_home: Home | None = None
_stand_ins: WeakKeyDictionary[Any, Hashable] = WeakKeyDictionary()


def settle(root: Branch) -> None:
    """Makes this thread, or task, the one that an active run begins in."""
    global _home
    task = _find_task()
    _home = Home(root, get_ident(), None if task is None else ref(task))
    root.owner = find_caller()


def leave_home() -> None:
    """Makes the one that the run began in a caller like those that were started before it."""
    global _home
    current_branch.set(None)
    if _home is not None:
        _home = replace(_home, thread=-1)


def unsettle() -> None:
    """Ends what `settle` began."""
    global _home
    _home = None
    _stand_ins.clear()


def find_branch() -> Branch | None:
    """Returns the branch of the active run that the caller is in.

    None means that no run is active, or that the caller was started before it.
    """
    home, branch = _home, current_branch.get()
    if branch is not None:
        if branch.root is DETACHED:
            return DETACHED
        if home is not None and branch.root is home.root:
            return branch
    if home is None or get_ident() != home.thread:
        return None
    # A notebook runs each cell in a task, some of them in a context of their own: what was set
    # in the cell that started the run is not seen in the next.
    if home.task is None:
        return home.root if _find_task() is None else None
    return home.root if _is_over(home.task) else None


def find_caller() -> Hashable:
    """Returns what tells this task, or thread outside of tasks, from all others."""
    task = _find_task()
    if task is None:
        return get_ident()
    return _stand_ins.get(task) or ref(task) if _stand_ins else ref(task)


def stand_in(task: asyncio.Task[Any]) -> None:
    """Notes that a task does this caller's own work, while this caller waits for it."""
    _stand_ins[task] = find_caller()


def claim(branch: Branch) -> None:
    """Notes that the caller acts in a branch: with a second one its order is left to chance."""
    if branch.is_named:
        return
    # Asked for every call: outside of event loops without another function.
    caller: Hashable = get_ident() if asyncio._get_running_loop() is None else find_caller()
    owner = branch.owner
    if caller == owner:
        return
    # Cells of a notebook follow one another; each is a task of its own.
    if owner is None or (branch.parent is None and isinstance(owner, ref) and _is_over(owner)):
        branch.owner = caller
    elif branch.contested_since is None:
        branch.contest(branch.mark())


def spawn_branch() -> Branch | None:
    """Returns a new branch for what is being spawned; None for a caller without one.

    What is spawned during a live call is detached as the call is.
    """
    branch = find_branch()
    if branch is None or branch is DETACHED:
        return branch
    claim(branch)
    return branch.spawn()


def _find_task() -> asyncio.Task[Any] | None:
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)


def _is_over(task: ref[Any]) -> bool:
    found = task()
    return found is None or found.done()
