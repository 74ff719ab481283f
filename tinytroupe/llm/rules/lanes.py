"""Who is asking: the tree of threads and tasks, and the names people give its branches.

Every spawn (a submitted job, a thread, a task) gets its parent's path plus its
index among the parent's spawns. Spawns happen in the parent's program order,
so a path is the same however the scheduler runs things. (Cilk calls such a
path a pedigree: Leiserson, Schardl and Sukha, "Deterministic parallel
random-number generation for dynamic-multithreading platforms", PPoPP 2012.)
"""

from __future__ import annotations

import itertools
from contextvars import ContextVar
from threading import Lock


class Branch:
    """One place in the tree. Safe to use from many threads."""

    __slots__ = ("_named", "_children", "_lock", "contested", "fed", "name", "parent", "path")

    def __init__(self, parent: Branch | None, path: str, name: str) -> None:
        self.parent = parent
        self.path = path
        """Where it is: `/3/lisa/0`. The root's is empty."""
        self.name = name
        """What people call it: `lisa`; empty where nobody named it or a branch above."""
        self.fed = False
        """Whether it takes its work from a queue, so that its place says nothing of whose work."""
        self.contested = False
        """Whether others take work from the same queue, so that nothing tells whose work it is."""
        self._lock = Lock()
        self._children = itertools.count()
        self._named: dict[str, Branch] = {}

    @property
    def lane(self) -> str:
        """How people see it: its name, else its path."""
        return self.name or self.path or "/"

    @property
    def root(self) -> Branch:
        """The branch that the run began in."""
        branch = self
        while branch.parent is not None:
            branch = branch.parent
        return branch

    def spawn(self) -> Branch:
        """Returns a new branch for the next thing that this one starts."""
        return self.number(next(self._children))

    def number(self, index: int) -> Branch:
        """Returns a new branch for the index-th of many things that are started together."""
        return Branch(self, f"{self.path}/{index}", self.name)

    def enter(self, name: str) -> Branch:
        """Returns the branch of this name below; entering it again goes on with the same.

        Below a branch that is fed by a queue a name stands for itself: which
        worker took the work must not be part of who is asking.
        """
        home = self.root if self._is_fed() else self
        with home._lock:
            branch = home._named.get(name)
            if branch is None:
                shown = f"{home.name}/{name}" if home.name else name
                # A number is a spawn; a name that is one is told apart by its quotes.
                segment = f"'{name}'" if name.isdigit() else name
                branch = Branch(home, f"{home.path}/{segment}", shown)
                home._named[name] = branch
            return branch

    def _is_fed(self) -> bool:
        """Tells whether this branch or one above takes its work from a queue, up to a name."""
        branch: Branch | None = self
        while branch is not None:
            if branch.fed:
                return True
            if branch.parent is not None and branch.name != branch.parent.name:
                return False
            branch = branch.parent
        return False

    def is_ambiguous(self) -> bool:
        """Tells whether nothing says whose work this is: contested, and not named since."""
        branch: Branch | None = self
        while branch is not None:
            if branch.contested:
                return True
            if branch.parent is not None and branch.name != branch.parent.name:
                return False
            branch = branch.parent
        return False

    def __repr__(self) -> str:
        return f"Branch({self.path!r}, {self.name!r})"


DETACHED = Branch(None, "!", "")
"""Where live calls run: what an HTTP library starts is none of the simulation's spawns."""

current_branch: ContextVar[Branch | None] = ContextVar("tinytroupe_branch", default=None)
"""The branch that this thread or task is in; None: it was started outside of a run."""
