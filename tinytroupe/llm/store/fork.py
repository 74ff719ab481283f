"""Letting go of databases while the process forks.

SQLite forbids using, and even closing, a connection that was opened before a
fork: the child believes that it holds locks that only the parent holds. So no
connection is open at the moment of a fork, and both sides open new ones.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that holds connections."""

    def prepare_fork(self) -> None:
        """Waits until nobody uses the connections, closes them, and keeps everybody out."""
        ...

    def finish_fork(self, in_child: bool) -> None:
        """Lets everybody in again, on both sides."""
        ...


_registry: WeakSet[Forkable] = WeakSet()
_registry_lock = threading.Lock()
_prepared: list[Forkable] = []
_hooked = False


def watch_forks(holder: Forkable) -> None:
    """Has the holder asked before and after every fork of this process, as long as it lives."""
    global _hooked
    with _registry_lock:
        if not _hooked and hasattr(os, "register_at_fork"):
            _hooked = True
            os.register_at_fork(
                before=_prepare,
                after_in_parent=_finish_in_parent,
                after_in_child=_finish_in_child,
            )
        _registry.add(holder)


def _prepare() -> None:
    _registry_lock.acquire()
    # Always in the same order, so that two threads that fork at once do not block each other.
    for holder in sorted(_registry, key=id):
        _prepared.append(holder)
        holder.prepare_fork()


def _finish_in_parent() -> None:
    _finish(in_child=False)


def _finish_in_child() -> None:
    _finish(in_child=True)


def _finish(*, in_child: bool) -> None:
    while _prepared:
        _prepared.pop().finish_fork(in_child)
    _registry_lock.release()
