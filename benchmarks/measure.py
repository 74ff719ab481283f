"""How things are timed: in turns, so that a machine that slows down slows both sides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """One line of the table."""

    name: str
    value: float
    bound: float
    detail: str = ""
    at_least: bool = False
    """The value has to be above the bound instead of below."""

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def time_once(work: Callable[[], object], times: int, clock: Callable[[], float]) -> float:
    """Returns the seconds one piece of work takes, over many."""
    started = clock()
    for _ in range(times):
        work()
    return (clock() - started) / times


def compare(
    work: Callable[[], object],
    other: Callable[[], object],
    times: int,
    *,
    rounds: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, float]:
    """Times two pieces of work in turn; returns the median ratio and both median seconds."""
    time_once(work, times // 5 + 1, clock)
    time_once(other, times // 5 + 1, clock)
    pairs = [(time_once(work, times, clock), time_once(other, times, clock)) for _ in range(rounds)]
    return (
        statistics.median(one / two for one, two in pairs),
        statistics.median(one for one, _ in pairs),
        statistics.median(two for _, two in pairs),
    )
