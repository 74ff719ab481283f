"""Who is asking: the tree of threads and tasks, and the names people give its branches.

Every spawn (a submitted job, a thread, a task) gets its parent's path plus its
index among the parent's spawns. Spawns happen in the parent's program order,
so a path is the same however the scheduler runs things. (Cilk calls such a
path a pedigree: Leiserson, Schardl and Sukha, "Deterministic parallel
random-number generation for dynamic-multithreading platforms", PPoPP 2012.)

Where chance decides what a branch does next, its path says nothing of who is
asking: from that mark on it is contested, and its calls are ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from threading import Lock
from typing import NamedTuple


class Mark(NamedTuple):
    """A moment in a branch, by what it had done before."""

    calls: int
    spawns: int


BEGINNING = Mark(0, 0)
FOREIGN_PATH = "/?"
"""The branch of callers whose thread or task was started before the run."""


class Branch:
    """One place in the tree. Safe to use from many threads."""

    __slots__ = (
        "_asked",
        "_depth",
        "_entered_from",
        "_lock",
        "_named",
        "_occupant",
        "by_chance",
        "calls",
        "contested_since",
        "draws",
        "fed_by",
        "fed_since",
        "index",
        "name",
        "on_contest",
        "owner",
        "parent",
        "path",
        "root",
        "spawns",
        "unordered",
    )

    def __init__(self, parent: Branch | None, path: str, name: str, index: int = -1) -> None:
        self.parent = parent
        self.root: Branch = self if parent is None else parent.root
        """The branch that the run began in."""
        self.path = path
        """Where it is: `/3/lisa/0`. The root's is empty."""
        self.name = name
        """What people call it: `lisa`; empty where nobody named it or a branch above."""
        self.index = index
        """Its number among the parent's spawns; -1: it is a name, or the root."""
        self.owner: Hashable | None = None
        """The thread or task that is this branch; None: it has not begun."""
        self.draws: str | None = None
        """What tells its draws from others' in the store; None: not yet needed."""
        self.calls = 0
        self.spawns = 0
        self.unordered = 0
        """In how many loops it is that go by the order in which others end."""
        self.by_chance = False
        """Whether chance decided its number, so that its parent stands for it where it matters."""
        self.fed_by = 0
        """The queue that it takes its work from, as a number; 0: it was given its work."""
        self.fed_since: Mark | None = None
        self.contested_since: Mark | None = None
        """From when on chance decides what it does; None: nothing is left to chance."""
        self.on_contest: Callable[[Branch, Mark], None] | None = None
        """At the root: is told of every branch that is found to be contested."""
        self._lock = Lock()
        self._asked: dict[str, int] = {}
        self._named: dict[str, Branch] = {}
        self._entered_from = 0
        self._occupant: Hashable | None = None
        self._depth = 0

    @property
    def lane(self) -> str:
        """How people see it: its name, else its path."""
        return self.name or self.path or "/"

    @property
    def is_named(self) -> bool:
        """Whether this very branch is a name, not a spawn."""
        return self.parent is not None and self.index < 0

    @classmethod
    def foreign(cls, root: Branch) -> Branch:
        """Returns the branch of callers that no branch of the run has started."""
        branch = cls(root, FOREIGN_PATH, "", 0)
        branch.fed_by = -1
        branch.contested_since = BEGINNING
        return branch

    def mark(self) -> Mark:
        """Returns this moment."""
        return Mark(self.calls, self.spawns)

    def count_call(self, digest: str) -> tuple[int, int]:
        """Returns how many calls of this request, and of any, the branch made before this one."""
        with self._lock:
            sample = self._asked.get(digest, 0)
            self._asked[digest] = sample + 1
            order = self.calls
            self.calls = order + 1
        return sample, order

    def spawn(self) -> Branch:
        """Returns a new branch for the next thing that this one starts."""
        with self._lock:
            index = self.spawns
            self.spawns = index + 1
        child = self.number(index)
        if self.unordered:
            child.leave_to_chance()
        return child

    def leave_to_chance(self) -> None:
        """Notes that chance decided the number of this new branch."""
        self.by_chance = True
        self.contested_since = BEGINNING

    def number(self, index: int) -> Branch:
        """Returns a new branch for the index-th of many things that are started together."""
        return Branch(self, f"{self.path}/{index}", self.name, index)

    def enter(self, name: str) -> Branch:
        """Returns the branch of this name below; entering it again goes on with the same.

        `team/lisa` is lisa below team. Below a branch that is fed by a queue a
        name stands for itself: which worker took the work must not be part of
        who is asking. Nor must a number that chance decided.
        """
        branch = self
        for part in name.split("/"):
            if part:
                branch = branch._enter(part)
        return branch

    def _enter(self, name: str) -> Branch:
        home, fed_by = self._find_home()
        with home._lock:
            branch = home._named.get(name)
            if branch is None:
                shown = f"{home.name}/{name}" if home.name else name
                branch = Branch(home, f"{home.path}/{_quote(name)}", shown)
                home._named[name] = branch
        if fed_by and branch._entered_from not in (0, fed_by):
            # Fed by different queues, they are not the workers of one crew: each means its own.
            branch.contest(BEGINNING)
        branch._entered_from = fed_by or branch._entered_from
        return branch

    def _find_home(self) -> tuple[Branch, int]:
        """Returns what a name hangs from, and the queue that feeds this branch; 0: none does."""
        home = branch = self
        while branch.parent is not None and not branch.is_named:
            if branch.fed_by:
                return self.root, branch.fed_by
            if branch.by_chance:
                home = branch.parent
            branch = branch.parent
        return home, 0

    def occupy(self, caller: Hashable) -> None:
        """Notes that a thread or task is inside this name; two at a time contest it."""
        with self._lock:
            alone = self._occupant is None or self._occupant == caller
            self._occupant = caller
            self._depth += 1
        if not alone:
            self.contest(BEGINNING)

    def vacate(self) -> None:
        """Notes that one that was inside is no longer."""
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._occupant = None

    def contest(self, since: Mark) -> None:
        """Notes that from a mark on chance decides what this branch does."""
        with self._lock:
            before = self.contested_since
            if before is not None:
                since = Mark(min(before.calls, since.calls), min(before.spawns, since.spawns))
            self.contested_since = since
        if since != before and self.root.on_contest is not None:
            self.root.on_contest(self, since)

    def is_ambiguous(self, order: int) -> bool:
        """Tells whether nothing says whose call it is: this branch's n-th, counted from 0."""
        if self.unordered or (self.contested_since and order >= self.contested_since.calls):
            return True
        branch = self
        while branch.parent is not None and not branch.is_named:
            index, branch = branch.index, branch.parent
            if branch.contested_since and index >= branch.contested_since.spawns:
                return True
        return False

    def __repr__(self) -> str:
        return f"Branch({self.path!r}, {self.name!r})"


def is_contested(path: str, order: int, contested: Mapping[str, Mark]) -> bool:
    """Tells of a branch's n-th call, from their paths alone, what `Branch.is_ambiguous` tells.

    Args:
        path: The branch.
        order: The call, counted from 0.
        contested: Path → since when the branch is contested.
    """
    since = contested.get(path)
    if since is not None and order >= since.calls:
        return True
    while path:
        path, _, last = path.rpartition("/")
        if not last.isdigit():
            return False
        since = contested.get(path)
        if since is not None and int(last) >= since.spawns:
            return True
    return False


def _quote(name: str) -> str:
    # A number is a spawn and `?` those from outside; a name that is one is told by its quotes.
    return f"'{name}'" if name.isdigit() or name == "?" or name.startswith("'") else name


DETACHED = Branch(None, "!", "")
"""Where live calls run: what an HTTP library starts is none of the simulation's spawns."""

current_branch: ContextVar[Branch | None] = ContextVar("tinytroupe_branch", default=None)
"""The branch that this thread or task is in; None: it was started outside of a run."""
