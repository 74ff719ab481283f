"""Two recorded runs side by side: what was asked, what was answered, and what it took."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tinytroupe.llm.runs.alignment import Effort
from tinytroupe.llm.runs.divergence import Difference, compare_requests, cut_difference
from tinytroupe.llm.runs.pairing import (
    RecordedCall,
    RecordedLanes,
    Sums,
    add_up,
    pair_calls,
    pair_lanes,
    read_answer,
)
from tinytroupe.llm.runs.recording import Recording

ChangeKind: TypeAlias = Literal["prompt", "answer", "removed", "added"]

_FULLY_KEPT = 1000
_KEPT_CHARACTERS = 20_000
_KEPT_CHARACTERS_LATER = 500
_MOST_STEPS = 5_000_000
_OWN_FACTS = ("event", "format", "hash", "id", "started_at", "forked_from")


@dataclass(frozen=True, slots=True)
class CallChange:
    """A call that is not the same in both runs."""

    kind: ChangeKind
    """`prompt`: the request differs (and perhaps the answer); `answer`: only the answer does;
    `removed` and `added`: the other run has no such call."""
    lane: str
    name: str
    """The call as `lisa:3`, in the first run if it is there."""
    line: int
    """Its line on the first tape; of an added call, that of the call before it in its lane."""
    other_line: int
    """Its line on the second tape; of a removed call, that of the call before it in its lane."""
    prompt: tuple[Difference, ...] = ()
    answer: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class LaneComparison:
    """One lane in both runs."""

    lane: str
    branch: str | None
    """Its path in the first run; None where only the second has it."""
    other_branch: str | None
    """Its path in the second run; None where only the first has it."""
    sums: Sums
    other_sums: Sums
    changes: tuple[CallChange, ...]
    """In the order of the calls."""

    @property
    def first(self) -> CallChange | None:
        """The first call that differs; None where none does."""
        return self.changes[0] if self.changes else None

    def count(self, *kinds: ChangeKind) -> int:
        """Returns how many calls differ in one of these ways."""
        return sum(change.kind in kinds for change in self.changes)

    @property
    def changed_answers(self) -> int:
        """Calls of both runs that were answered differently, for whatever reason."""
        both = (change for change in self.changes if change.kind in ("prompt", "answer"))
        return sum(bool(change.answer) for change in both)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A recorded run as a whole."""

    path: str
    sums: Sums
    started_at: str | None
    ended: bool
    """Whether the recorded run came to its end."""
    forked_from: Mapping[str, Any] | None
    """The tape that it began with, and where it left it; None: it is no fork."""
    models: tuple[str, ...]
    """The models that answered, as their endpoints named them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two recorded runs side by side."""

    one: RunFacts
    two: RunFacts
    setup: tuple[Difference, ...]
    """What differs in versions, settings, commit and command."""
    lanes: tuple[LaneComparison, ...]
    """In the order in which they first ended a call."""
    first: CallChange | None
    """The change that is no consequence of another; None where the runs are the same."""

    @property
    def same(self) -> bool:
        """Whether all requests and answers are the same."""
        return self.first is None

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return {"same": self.same, **asdict(self)}


def compare_recordings(one: str | Path, two: str | Path) -> Comparison:
    """Compares two tapes, lane by lane. Reads them whole; blocks.

    Lanes correspond by their names, else by what they ask first, else by their
    place in the tree of threads and tasks. In a lane as many equal requests as
    possible are put side by side, in order. Calls of which nothing says whose
    they are, are compared as one lane, by their requests.

    Raises:
        StoreError: One is no tape, or cannot be trusted.
    """
    runs = RecordedLanes(Recording(one)), RecordedLanes(Recording(two))
    budget = _Budget()
    lanes = tuple(_compare_lane(pair, runs, budget) for pair in pair_lanes(*runs))
    headers = runs[0].recording.header, runs[1].recording.header
    return Comparison(
        _describe_run(runs[0]),
        _describe_run(runs[1]),
        tuple(_compare_headers(*headers)),
        lanes,
        find_first_change([change for lane in lanes for change in lane.changes]),
    )


def _describe_run(lanes: RecordedLanes) -> RunFacts:
    header = lanes.recording.header
    return RunFacts(
        str(lanes.recording.path),
        add_up(call for calls in lanes.branches.values() for call in calls),
        header.get("started_at"),
        lanes.recording.ended,
        header.get("forked_from"),
        tuple(lanes.models),
    )


def _compare_headers(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[Difference]:
    facts = [
        {name: value for name, value in header.items() if name not in _OWN_FACTS}
        for header in (one, two)
    ]
    return compare_requests(*facts)


@dataclass(slots=True)
class _Budget:
    """How much may still be kept of texts, and spent on putting calls side by side."""

    changes: int = _FULLY_KEPT
    effort: Effort = field(default_factory=lambda: Effort(_MOST_STEPS))

    def cut(self, differences: Iterable[Difference]) -> tuple[Difference, ...]:
        limit = _KEPT_CHARACTERS if self.changes > 0 else _KEPT_CHARACTERS_LATER
        return tuple(cut_difference(each, limit) for each in differences)


_Runs: TypeAlias = tuple[RecordedLanes, RecordedLanes]


def _compare_lane(
    branches: tuple[str | None, str | None], runs: _Runs, budget: _Budget
) -> LaneComparison:
    branch, other_branch = branches
    one = runs[0].branches[branch] if branch is not None else []
    two = runs[1].branches[other_branch] if other_branch is not None else []
    changes = []
    line = other_line = 0
    for left, right in pair_calls(one, two, budget.effort):
        line = left.take.number if left else line
        other_line = right.take.number if right else other_line
        if left and right and left.asks_same(right) and left.answer == right.answer:
            continue
        changes.append(_describe_change((left, right), (line, other_line), runs, budget))
        budget.changes -= 1
    name = runs[0].name(branch) if branch is not None else runs[1].name(other_branch or "")
    return LaneComparison(name, branch, other_branch, add_up(one), add_up(two), tuple(changes))


def _describe_change(
    calls: tuple[RecordedCall | None, RecordedCall | None],
    lines: tuple[int, int],
    runs: _Runs,
    budget: _Budget,
) -> CallChange:
    left, right = calls
    shown = left or right
    assert shown is not None
    kind: ChangeKind = "prompt"
    if left is None or right is None:
        kind = "added" if left is None else "removed"
    elif left.asks_same(right):
        kind = "answer"
    one, two = (
        run.recording.read(call.take) if call else None
        for run, call in zip(runs, calls, strict=True)
    )
    prompt = compare_requests(one["request"] if one else {}, two["request"] if two else {})
    answer = compare_requests(read_answer(one) if one else {}, read_answer(two) if two else {})
    name = runs[0 if left else 1].recording.name(shown.take)
    return CallChange(kind, shown.take.lane, name, *lines, budget.cut(prompt), budget.cut(answer))


def find_first_change(changes: Sequence[CallChange]) -> CallChange | None:
    """Returns the change that is no consequence of another; None where there is none.

    What depends on a call's answer ended after it, on both tapes. So the change
    with the smallest line of the first tape does not follow from another that
    has a line there. Only a call that was added can come before it; then the
    lines of the second tape decide, on which that has one.
    """
    here = [change for change in changes if change.kind != "added"]
    there = [change for change in changes if change.kind != "removed"]
    if not here:
        return min(there, key=lambda change: change.other_line, default=None)
    first = min(here, key=lambda change: change.line)
    for change in there:
        before = change.other_line < first.other_line and change.line <= first.line
        if change.kind == "added" and before:
            return min(there, key=lambda change: change.other_line)
    return first
