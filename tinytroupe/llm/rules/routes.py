"""Which endpoint is asked next, and how long one rests that failed: decisions, no waiting."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from tinytroupe.llm.errors import (
    BadRequest,
    ContentFiltered,
    ContextTooLong,
    LLMError,
    TimedOut,
)
from tinytroupe.llm.rules.classify import decide_retry

Strategy: TypeAlias = Literal["round_robin", "random", "weighted", "least_busy", "latency"]

STRATEGIES: tuple[Strategy, ...] = ("round_robin", "random", "weighted", "least_busy", "latency")

FIRST_REST_SECONDS = 1.0
REFUSED_REST_SECONDS = 60.0
"""For a wrong key, an exhausted quota, a missing model: what time alone does not mend."""
LONGEST_REST_SECONDS = 60.0
"""For rests that nobody asked for; a server's Retry-After is obeyed however long."""
LONGEST_WAIT_SECONDS = 60.0
"""Nobody waits for a rest that is longer: where all are, the call fails."""
SMOOTHING = 0.2
"""How much the latest answer counts in an endpoint's smoothed time."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of an endpoint at a moment. Times are by the runtime's clock."""

    weight: float = 1.0
    tier: int = 0
    """0: among the main ones; from 1: the order in which fallbacks are asked."""
    under_way: int = 0
    seconds: float | None = None
    """How long its answers take, smoothed; None: not known."""
    failures: int = 0
    """In a row, those of attempts that began together counted once."""
    rests_from: float = float("-inf")
    rests_until: float = float("-inf")
    refused: bool = False
    """Whether it last failed in a way that only people can mend."""

    def is_probed(self) -> bool:
        """Tells whether one call is finding out if it is well again."""
        return self.failures > 0 and self.under_way > 0


def find_candidates(
    standings: Sequence[Standing],
    failed: Collection[int],
    now: float,
    waits: Sequence[float] = (),
) -> tuple[list[int], float]:
    """Returns which endpoints may be asked, and after how many seconds.

    In order: those of the first tier that has any that are up, have room and have
    not failed in this call; those of which another call is finding out whether they
    are well again; whichever can take the call first. Endpoints that refused in a
    way that time does not mend come last, at once: nothing is gained by waiting for
    them. The seconds are those of a rest; one waits for room where one is sent.

    Args:
        standings: At least one.
        failed: The endpoints that failed already in this call.
        now: By the runtime's clock.
        waits: How many seconds each has no room for the call, by its limits per
            minute; empty: none of them has such limits.
    """
    fresh = [
        index
        for index, standing in enumerate(standings)
        if index not in failed and standing.rests_until <= now
    ]
    if waits:
        fresh = [index for index in fresh if waits[index] <= 0]
    ready = [index for index in fresh if not standings[index].is_probed()]
    for group in (ready, fresh):
        if group:
            tier = min(standings[index].tier for index in group)
            return [index for index in group if standings[index].tier == tier], 0.0
    everyone = range(len(standings))
    coming = [index for index in everyone if not standings[index].refused]
    if coming:
        soon = now + LONGEST_WAIT_SECONDS
        coming = [index for index in coming if standings[index].rests_until <= soon] or coming
        first = min(
            coming,
            key=lambda index: (
                max(standings[index].rests_until, now + (waits[index] if waits else 0.0)),
                index in failed,
                standings[index].tier,
            ),
        )
        return [first], max(standings[first].rests_until - now, 0.0)
    oldest = min(everyone, key=lambda index: (index in failed, standings[index].rests_from))
    return [oldest], 0.0


def choose(
    strategy: Strategy,
    standings: Sequence[Standing],
    credits: Sequence[float],
    candidates: Sequence[int],
    draw: float,
) -> int:
    """Returns the candidate that a strategy takes.

    Args:
        strategy: `round_robin` and `weighted` take turns, see `take_turn`;
            `least_busy` takes the one with the fewest calls under way; `latency`
            the one that is expected to answer soonest, which is its smoothed time
            multiplied by the calls that it would then have.
        standings: Of all endpoints.
        credits: What each endpoint is owed; decides among equals.
        candidates: Not empty.
        draw: A number from 0 to below 1, drawn by the caller.
    """
    if len(candidates) == 1:
        return candidates[0]
    if strategy == "random":
        return candidates[int(draw * len(candidates))]
    if strategy == "least_busy":
        return min(candidates, key=lambda index: (standings[index].under_way, -credits[index]))
    if strategy == "latency":
        slowest = max(standings[index].seconds or 0.0 for index in candidates)
        return min(
            candidates, key=lambda index: (_expect(standings[index], slowest), -credits[index])
        )
    return max(candidates, key=lambda index: credits[index] + _weigh(strategy, standings[index]))


def _expect(standing: Standing, slowest_seconds: float) -> float:
    # One that was never measured is tried once, then waits for the result like the slowest.
    if standing.seconds is None:
        return slowest_seconds * standing.under_way
    return standing.seconds * (standing.under_way + 1)


def take_turn(
    strategy: Strategy,
    standings: Sequence[Standing],
    credits: Sequence[float],
    candidates: Sequence[int],
    chosen: int,
) -> list[float]:
    """Returns what each endpoint is owed after a choice.

    Smooth weighted round-robin (as nginx balances upstreams): each candidate is
    owed its weight, the one that is owed most is taken and pays for all. Over
    any whole number of rounds the shares are exactly those of the weights. Only
    `weighted` looks at the weights.
    """
    after = list(credits)
    for index in candidates:
        weight = _weigh(strategy, standings[index])
        after[index] += weight
        after[chosen] -= weight
    return after


def _weigh(strategy: Strategy, standing: Standing) -> float:
    return standing.weight if strategy == "weighted" else 1.0


def settle_success(standing: Standing, seconds: float) -> Standing:
    """Returns the standing of an endpoint that answered."""
    known = standing.seconds
    smoothed = seconds if known is None else known + SMOOTHING * (seconds - known)
    return replace(
        standing,
        under_way=standing.under_way - 1,
        seconds=smoothed,
        failures=0,
        refused=False,
    )


def settle_failure(standing: Standing, error: LLMError, began: float, now: float) -> Standing:
    """Returns the standing of an endpoint that failed; it rests.

    A rest is what the server asked for, else 1 s, 2 s, 4 s … up to a minute. A
    failure of an attempt that began before the present rest is no new evidence:
    fifty calls that hang together are one failure.
    """
    standing = replace(standing, under_way=standing.under_way - 1)
    if is_fault_of_call(error):
        return standing
    decision = decide_retry(error)
    asked = decision.after_seconds
    if standing.failures and began <= standing.rests_from:
        until = max(standing.rests_until, now + (asked or 0.0))
        return replace(standing, rests_until=until)
    refused = not decision.retry
    seconds = asked if asked is not None else _grow(standing.failures, refused)
    return replace(
        standing,
        failures=standing.failures + 1,
        rests_from=now,
        rests_until=now + seconds,
        refused=refused,
    )


def _grow(failures: int, refused: bool) -> float:
    if refused:
        return REFUSED_REST_SECONDS
    return min(FIRST_REST_SECONDS * 2.0 ** min(failures, 30), LONGEST_REST_SECONDS)


def is_fault_of_call(error: LLMError) -> bool:
    """Tells whether a failure says nothing of its endpoint.

    Every one would refuse in the same way, a stream was cut, or the call's time ran
    out before the endpoint was asked.
    """
    if error.partial or (isinstance(error, TimedOut) and error.queued):
        return True
    return isinstance(error, (BadRequest, ContextTooLong, ContentFiltered))


def is_worth_moving(
    error: LLMError, standings: Sequence[Standing], failed: Collection[int]
) -> bool:
    """Decides whether a call that failed may be answered by some endpoint yet.

    Args:
        error: The failure.
        standings: After the failure.
        failed: The endpoints that failed in this call, this one included.
    """
    if is_fault_of_call(error):
        return False
    return any(
        index not in failed or not standing.refused for index, standing in enumerate(standings)
    )
