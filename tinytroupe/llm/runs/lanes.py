"""Naming who is asking, within a run and without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.layers.replay import get_active
from tinytroupe.llm.rules.lanes import DETACHED, Branch, current_branch
from tinytroupe.llm.spawns.callers import find_branch, find_caller


@contextmanager
def lane(name: str) -> Iterator[None]:
    """Names who is asking, for all calls made inside, and what is started inside.

    Entering the same name again goes on with the same lane. Below a thread
    that takes its work from a queue a name stands for itself, so that it is the
    same whichever worker took the work. Works with and without an active run.

    Raises:
        ConfigError: The name is empty.
    """
    if not name or not name.strip("/"):
        raise ConfigError("a lane needs a name")
    branch = _find_home().enter(name)
    branch.occupy(find_caller())
    token = current_branch.set(branch)
    try:
        yield
    finally:
        current_branch.reset(token)
        branch.vacate()


def _find_home() -> Branch:
    """Returns the branch that a name is entered below."""
    session = get_active()
    if session is None:
        return current_branch.get() or Branch(None, "", "")
    branch = find_branch() or session.foreign
    # What is named during a live call must not be remembered beyond it.
    return branch.number(0) if branch is DETACHED else branch
