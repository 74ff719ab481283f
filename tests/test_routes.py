"""How an endpoint is chosen, and how long one rests: pure decisions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.llm.errors import (
    AuthenticationFailed,
    BadRequest,
    ConfigError,
    ContextTooLong,
    LLMError,
    RateLimited,
    ServerFault,
    TimedOut,
)
from tinytroupe.llm.layers.route import Route
from tinytroupe.llm.rules.routes import (
    LONGEST_REST_SECONDS,
    STRATEGIES,
    Standing,
    Strategy,
    choose,
    find_candidates,
    is_worth_moving,
    settle_failure,
    settle_success,
    take_turn,
)
from tinytroupe.llm.transports.endpoint import Endpoint

NOTHING = [0.0] * 3

standings_of = st.lists(
    st.builds(
        Standing,
        weight=st.floats(0.1, 10),
        tier=st.integers(0, 2),
        under_way=st.integers(0, 3),
        seconds=st.none() | st.floats(0, 10),
        failures=st.integers(0, 3),
        rests_until=st.floats(-10, 30),
        refused=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@given(standings_of, st.sets(st.integers(0, 4)), st.sampled_from(STRATEGIES), st.floats(0, 0.999))
def test_there_is_always_a_choice(
    standings: list[Standing], failed: set[int], strategy: Strategy, draw: float
) -> None:
    """Whatever the state, there is a candidate, and no strategy goes beyond the candidates."""
    candidates, wait = find_candidates(standings, failed, 0.0)
    assert candidates
    assert wait >= 0
    assert choose(strategy, standings, [0.0] * len(standings), candidates, draw) in candidates


@given(standings_of, st.sets(st.integers(0, 4)))
def test_nobody_who_rests_is_asked_in_vain(standings: list[Standing], failed: set[int]) -> None:
    """A candidate rests only where its rest is waited for, or only people could mend it."""
    candidates, wait = find_candidates(standings, failed, 0.0)
    for index in candidates:
        standing = standings[index]
        assert standing.rests_until <= wait or all(each.refused for each in standings)


@given(standings_of, st.sets(st.integers(0, 4)), st.data())
def test_nobody_without_room_is_asked_while_another_has_some(
    standings: list[Standing], failed: set[int], data: st.DataObject
) -> None:
    """A call is sent into a line only where no endpoint can take it now, and then the shortest."""
    number = len(standings)
    waits = data.draw(
        st.lists(st.sampled_from([0.0, 20.0, 90.0]), min_size=number, max_size=number)
    )
    candidates, rest = find_candidates(standings, failed, 0.0, waits)
    free = [
        index
        for index, standing in enumerate(standings)
        if index not in failed and standing.rests_until <= 0 and waits[index] == 0
    ]
    if free:
        assert set(candidates) <= set(free)
    elif any(not standing.refused for standing in standings):
        (first,) = candidates
        until = [max(each.rests_until, wait) for each, wait in zip(standings, waits, strict=True)]
        assert rest == max(standings[first].rests_until, 0)
        assert until[first] == min(
            until[index] for index in range(number) if not standings[index].refused
        )


def test_a_long_line_is_better_than_a_longer_rest() -> None:
    """Nobody waits for a rest of more than a minute, so a line is joined, however long it is."""
    resting, busy = Standing(rests_until=100.0), Standing()
    assert find_candidates([resting, busy], (), 0.0, [0.0, 3000.0]) == ([1], 0.0)
    soon = replace(resting, rests_until=50.0)
    assert find_candidates([soon, busy], (), 0.0, [0.0, 3000.0]) == ([0], 50.0)
    assert find_candidates([soon, busy], (), 0.0, [0.0, 40.0]) == ([1], 0.0)
    assert find_candidates([resting], (), 0.0, [0.0]) == ([0], 100.0)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(1, 4))
def test_weighted_turns_are_exact(weights: list[int], rounds: int) -> None:
    """Over whole rounds each endpoint is chosen exactly as often as its weight says."""
    standings = [Standing(weight=float(weight)) for weight in weights]
    counted: Counter[int] = Counter()
    everyone = range(len(weights))
    owed = [0.0] * len(weights)
    for _ in range(sum(weights) * rounds):
        chosen = choose("weighted", standings, owed, everyone, 0.0)
        owed = take_turn("weighted", standings, owed, everyone, chosen)
        counted[chosen] += 1
    assert [counted[index] for index in everyone] == [weight * rounds for weight in weights]


def test_round_robin_takes_turns() -> None:
    """Each endpoint is asked once before one is asked again, whatever its weight."""
    standings = [Standing(weight=9.0), Standing(), Standing()]
    order, owed = [], [0.0] * 3
    for _ in range(6):
        chosen = choose("round_robin", standings, owed, range(3), 0.0)
        owed = take_turn("round_robin", standings, owed, range(3), chosen)
        order.append(chosen)
    assert order == [0, 1, 2, 0, 1, 2]


def test_random_draws_evenly() -> None:
    """The draw decides, each candidate having the same part of it."""
    standings = [Standing()] * 4
    drawn = [
        choose("random", standings, [0.0] * 4, [0, 2, 3], draw) for draw in (0.0, 0.34, 0.67, 0.99)
    ]
    assert drawn == [0, 2, 3, 3]


def test_least_busy() -> None:
    """The one with the fewest calls under way is chosen; among equals they take turns."""
    standings = [Standing(under_way=2), Standing(under_way=1), Standing(under_way=1)]
    chosen = choose("least_busy", standings, NOTHING, range(3), 0.0)
    assert chosen == 1
    owed = take_turn("least_busy", standings, NOTHING, range(3), chosen)
    assert choose("least_busy", standings, owed, range(3), 0.0) == 2


def test_latency() -> None:
    """The one that should answer soonest is chosen, and one that is not known is tried."""
    known = [Standing(seconds=1.0), Standing(seconds=0.4)]
    assert choose("latency", known, NOTHING, range(2), 0.0) == 1
    busy = [known[0], replace(known[1], under_way=2)]
    assert choose("latency", busy, NOTHING, range(2), 0.0) == 0
    assert choose("latency", [*known, Standing()], NOTHING, range(3), 0.0) == 2
    assert choose("latency", [*known, Standing(under_way=1)], NOTHING, range(3), 0.0) == 1


def test_rests_grow_and_end() -> None:
    """Without a word of the server a rest doubles up to a minute; an answer ends it all."""
    standing, now, rests = Standing(), 100.0, []
    for _ in range(9):
        standing = settle_failure(replace(standing, under_way=1), ServerFault("no"), now, now)
        rests.append(standing.rests_until - now)
        now = standing.rests_until + 1
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    well = settle_success(replace(standing, under_way=1), 0.5)
    assert (well.failures, well.refused, well.under_way) == (0, False, 0)


def test_retry_after_is_obeyed_however_long() -> None:
    """A rest is what the server asked for."""
    for asked in (0.5, 3600.0):
        error = RateLimited("no", retry_after_seconds=asked)
        standing = settle_failure(Standing(under_way=1), error, 0.0, 10.0)
        assert standing.rests_until == 10.0 + asked


def test_failures_together_count_once() -> None:
    """Fifty calls that began together and fail together are one failure."""
    standing = Standing(under_way=50)
    for index in range(50):
        standing = settle_failure(standing, TimedOut("no"), 0.0, 10.0 + index / 100)
    assert standing.failures == 1
    assert standing.rests_until == 11.0
    assert standing.under_way == 0


def test_a_later_retry_after_prolongs_the_rest() -> None:
    """Who learns later that the server wants more time makes the rest longer, never shorter."""
    first = RateLimited("no", retry_after_seconds=5.0)
    standing = settle_failure(Standing(under_way=2), first, 0.0, 10.0)
    second = RateLimited("no", retry_after_seconds=20.0)
    assert settle_failure(standing, second, 0.0, 11.0).rests_until == 31.0
    third = RateLimited("no", retry_after_seconds=1.0)
    assert settle_failure(standing, third, 0.0, 11.0).rests_until == 15.0


def test_one_call_finds_out_whether_an_endpoint_is_well_again() -> None:
    """After a rest one call probes; others go elsewhere until it is back."""
    ill = Standing(failures=1, rests_until=0.0, under_way=1)
    assert find_candidates([ill, Standing()], (), 5.0) == ([1], 0.0)
    assert find_candidates([replace(ill, under_way=0), Standing()], (), 5.0) == ([0, 1], 0.0)
    assert find_candidates([ill], (), 5.0) == ([0], 0.0)


def test_tiers() -> None:
    """A later tier is asked only when nobody of an earlier one is up."""
    main, spare = Standing(), Standing(tier=1)
    assert find_candidates([main, spare], (), 0.0) == ([0], 0.0)
    assert find_candidates([replace(main, rests_until=9.0), spare], (), 0.0) == ([1], 0.0)
    assert find_candidates([main, spare], {0}, 0.0) == ([1], 0.0)
    both = [replace(main, rests_until=9.0), replace(spare, rests_until=4.0)]
    assert find_candidates(both, (), 0.0) == ([1], 4.0)


def out_of_time() -> TimedOut:
    error = TimedOut("no")
    error.queued = True
    error.should_retry = False
    return error


@pytest.mark.parametrize("error", [BadRequest("no"), ContextTooLong("no"), out_of_time()])
def test_the_call_s_fault_is_nobody_else_s(error: LLMError) -> None:
    """What all would refuse, or nobody was asked, makes nobody rest and is not asked elsewhere."""
    standing = settle_failure(Standing(under_way=1), error, 0.0, 1.0)
    assert standing == Standing()
    assert not is_worth_moving(error, [standing, Standing()], {0})


def test_moving() -> None:
    """A call moves on while some endpoint has not failed, or failed in a way that passes."""
    error = AuthenticationFailed("no")
    refused = settle_failure(Standing(under_way=1), error, 0.0, 1.0)
    assert refused.refused
    assert refused.rests_until == 1.0 + LONGEST_REST_SECONDS
    assert is_worth_moving(error, [refused, Standing()], {0})
    assert is_worth_moving(error, [refused, Standing(failures=1)], {0, 1})
    assert not is_worth_moving(error, [refused, refused], {0, 1})
    cut = ServerFault("no")
    cut.partial = "half"
    assert not is_worth_moving(cut, [Standing(), Standing()], {0})


@pytest.mark.parametrize(
    ("names", "strategy", "complaint"),
    [
        ([], "random", "no endpoint"),
        (["a", "a"], "random", "'a' stands twice"),
        (["a"], "fastest", "no strategy 'fastest'"),
    ],
)
def test_a_wrong_route(names: list[str], strategy: Strategy, complaint: str) -> None:
    """Empty, doubled and misspelt routes are errors."""
    from fakes import FakeTransport

    with pytest.raises(ConfigError, match=complaint):
        Route([Endpoint(name, FakeTransport()) for name in names], strategy)


@pytest.mark.parametrize(
    "wrong", [{"weight": 0.0}, {"weight": -1.0}, {"max_concurrent": 0}, {"timeout_seconds": 0.0}]
)
def test_a_wrong_endpoint(wrong: dict[str, float]) -> None:
    """Weights and limits are positive."""
    from fakes import FakeTransport

    with pytest.raises(ConfigError, match="must be"):
        Endpoint("e", FakeTransport(), **wrong)
