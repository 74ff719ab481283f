"""What varies in a simulation that is run again with nothing changed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tinytroupe.llm.runs.divergence import Difference, Divergence
from tinytroupe.llm.runs.report import ReplayReport

Cause: TypeAlias = Literal["time", "random", "order", "number of calls", "other"]

CAUSES: dict[Cause, str] = {
    "time": "a time or a date",
    "random": "a random number, an id or an address in memory",
    "order": "the order of items, as a set's",
    "number of calls": "how many calls are made",
    "other": "something else",
}
"""What can vary, in words."""

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DAYS = "mon|tues|wednes|thurs|fri|satur|sun"
_TIMES = re.compile(
    rf"""
      \d{{4}}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?(?:Z|[+-]\d\d:?\d\d)?
    | \b\d{{1,2}}:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?[ap]\.?m\b\.?)?
    | \b\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}\b
    | \b(?:{_MONTHS})[a-z]*\.?\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s+\d{{4}}\b)?
    | \b\d{{1,2}}(?:st|nd|rd|th)?\.?\s+(?:of\s+)?(?:{_MONTHS})[a-z]*\b\.?(?:,?\s+\d{{4}}\b)?
    | \b(?:{_DAYS})day\b
    | \b1[4-9]\d{{8}}(?:\d{{3}}){{0,3}}(?:\.\d+)?\b
    | \b\d+(?:\.\d+)?\s?(?:ns|µs|us|ms|s|sec|secs|seconds?|minutes?|hours?)(?:\s+ago)?\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Dates, times of day, seconds since 1970, and how long something took."""

_RANDOMS = re.compile(
    r"""
      \b[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b
    | \b0x[0-9a-f]+\b
    | \b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{6,}\b
    | \b(?=[\w-]{0,32}\d)(?=[\w-]{0,32}[a-z])[\w-]{16,}
    | [-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Ids, addresses in memory, hashes, and numbers."""

_SIGNS = re.compile(r"[^\w\s]+")


def find_causes(differences: Sequence[Difference]) -> tuple[Cause, ...]:
    """Returns what varies between two requests: nothing but these.

    What remains when times, numbers and the order of words are not looked at
    is `other`.
    """
    found: set[Cause] = set()
    left: list[Difference] = []
    for difference in differences:
        causes = _find_in_texts(difference.recorded, difference.asked)
        found.update(causes or ())
        if causes is None:
            left.append(difference)
    if left:
        # Items that changed their places may be parts of a request that differ each for itself.
        one = "\n".join(sorted(difference.recorded or "" for difference in left))
        two = "\n".join(sorted(difference.asked or "" for difference in left))
        found.update(("order",) if one == two else _find_in_texts(one, two) or ("other",))
    return tuple(cause for cause in CAUSES if cause in found)


def _find_in_texts(recorded: str | None, asked: str | None) -> list[Cause] | None:
    """Returns what alone varies between two texts; None where it is more than can be named."""
    if recorded is None or asked is None:
        return None
    one, two = recorded, asked
    causes: list[Cause] = []
    if _sort_words(one) == _sort_words(two):
        return ["order"]
    for cause, pattern in _PATTERNS:
        if Counter(pattern.findall(one)) != Counter(pattern.findall(two)):
            causes.append(cause)
        one, two = (pattern.sub(_MARK, text) for text in (one, two))
        if one == two:
            return causes or ["order"]
        if _sort_words(one) == _sort_words(two):
            return [*causes, "order"]
    return None


_MARK = "varies"
_PATTERNS: tuple[tuple[Cause, re.Pattern[str]], ...] = (("time", _TIMES), ("random", _RANDOMS))


def _sort_words(text: str) -> list[str]:
    """Returns the words in order, without the signs: the last item of a list has no comma."""
    return sorted(_SIGNS.sub(" ", text).split())


@dataclass(frozen=True, slots=True)
class Variation:
    """A lane in which a simulation is not deterministic."""

    lane: str
    calls: int
    """Calls that were not as recorded; in the replay where they were most."""
    replays: int
    """In how many replays there were any."""
    causes: tuple[Cause, ...]
    steady: bool
    """Whether all replays, of several, asked the same: then the simulation itself was changed."""
    example: Divergence | None
    """The first such call; None where calls were only missing, or another branch made them."""


@dataclass(slots=True)
class _Findings:
    """What one replay showed of one lane."""

    divergences: list[Divergence] = field(default_factory=list)
    moved: int = 0
    missing: int = 0

    def summarize(self) -> tuple[object, ...]:
        """Returns what must be equal where a lane does the same in every replay."""
        return sorted(one.digest for one in self.divergences), self.moved, self.missing


def find_variations(reports: Sequence[ReplayReport]) -> list[Variation]:
    """Returns the lanes that are not as recorded, the first to differ first."""
    by_lane: dict[str, list[_Findings]] = {}
    for number, report in enumerate(reports):
        for lane, findings in _sort_findings(report).items():
            empty = [_Findings() for _ in reports]
            by_lane.setdefault(lane, empty)[number] = findings
    found = [_describe_lane(lane, findings) for lane, findings in by_lane.items()]
    return sorted(
        (one for one in found if one.calls),
        key=lambda one: (one.example is None, one.example.place if one.example else 0, one.lane),
    )


def _sort_findings(report: ReplayReport) -> dict[str, _Findings]:
    findings: defaultdict[str, _Findings] = defaultdict(_Findings)
    for divergence in [report.first, *report.later] if report.first is not None else []:
        findings[divergence.lane].divergences.append(divergence)
    for lane in report.moved_names:
        findings[lane].moved += 1
    for name in report.unplayed_names:
        findings[name.rpartition(":")[0]].missing += 1
    return findings


def _describe_lane(lane: str, findings: Sequence[_Findings]) -> Variation:
    causes: set[Cause] = set()
    for one in findings:
        for divergence in one.divergences:
            alike = divergence.located and divergence.differences
            causes.update(find_causes(divergence.differences) if alike else ("number of calls",))
        if one.moved:
            causes.add("order")
        if one.missing and not one.divergences:
            causes.add("number of calls")
    # A call that differs leaves a recorded one behind, which does not count once more.
    counts = [max(len(one.divergences) + one.moved, one.missing) for one in findings]
    summaries = [one.summarize() for one in findings]
    examples = [divergence for one in findings for divergence in one.divergences]
    return Variation(
        lane,
        max(counts),
        sum(count > 0 for count in counts),
        tuple(cause for cause in CAUSES if cause in causes),
        len(summaries) > 1 and all(summary == summaries[0] for summary in summaries),
        min(examples, key=lambda one: (one.place, one.arrival), default=None),
    )
