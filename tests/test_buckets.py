"""Limits per minute, whatever comes when."""

from __future__ import annotations

import pytest
from fakes import FakeTransport, VirtualRuntime
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.llm.client import Client
from tinytroupe.llm.errors import ConfigError, TimedOut
from tinytroupe.llm.request import Call, CallOptions, Request, chat_request
from tinytroupe.llm.rules.buckets import MINUTE_SECONDS, Bucket, Limits, estimate_tokens
from tinytroupe.llm.transports.endpoint import Endpoint

gaps = st.lists(st.tuples(st.floats(0, 90), st.floats(0, 30)), min_size=1, max_size=60)


def ask(text: str = "Hi", **parameters: object) -> Request:
    return chat_request("fake", [{"role": "user", "content": text}], **parameters)


@given(st.floats(1, 20), gaps)
def test_no_minute_has_more_than_its_share(
    limit: float, comings: list[tuple[float, float]]
) -> None:
    """Whenever who comes, what begins within any 60 seconds never exceeds the limit."""
    bucket, now = Bucket(limit), 0.0
    shares = []
    for gap, amount in comings:
        now += gap
        shares.append(bucket.take(amount, now))
        assert shares[-1].begins >= now
    begins = [share.begins for share in shares]
    assert begins == sorted(begins)
    for first in shares:
        window = [
            share.amount
            for share in shares
            if first.begins <= share.begins < first.begins + MINUTE_SECONDS
        ]
        assert sum(window) <= limit * (1 + 1e-9)


@given(st.integers(1, 20), st.integers(1, 60))
def test_nobody_waits_longer_than_needed(limit: int, number: int) -> None:
    """Callers that come together begin in blocks of the limit, a minute apart."""
    bucket = Bucket(limit)
    begins = [bucket.take(1, 5.0).begins for _ in range(number)]
    assert begins == [5.0 + MINUTE_SECONDS * (index // limit) for index in range(number)]


def test_what_is_given_back_makes_room() -> None:
    """A share that was not used, or used less, lets others begin at once."""
    bucket = Bucket(10)
    first, second = bucket.take(6, 0.0), bucket.take(4, 0.0)
    bucket.give_back(first)
    assert bucket.take(6, 1.0).begins == 1.0
    bucket.settle(second, 1)
    assert bucket.take(3, 2.0).begins == 2.0
    assert bucket.take(1, 2.0).begins == MINUTE_SECONDS


def test_what_used_more_counts_as_more() -> None:
    """An attempt that used more than estimated delays those after it."""
    bucket = Bucket(10)
    bucket.settle(bucket.take(1, 0.0), 10)
    assert bucket.take(1, 1.0).begins == MINUTE_SECONDS


def test_more_than_a_bucket_holds_goes_alone() -> None:
    """A request above the limit is let through when the minute is empty, not never."""
    bucket = Bucket(10)
    bucket.take(1, 0.0)
    assert bucket.take(99, 0.0).begins == MINUTE_SECONDS
    assert bucket.take(1, 0.0).begins == 2 * MINUTE_SECONDS


@given(st.floats(1, 20), gaps, st.floats(0, 30))
def test_a_wait_is_known_before(
    limit: float, comings: list[tuple[float, float]], asked: float
) -> None:
    """What is told of a wait is what who then takes the amount has to wait."""
    bucket, now = Bucket(limit), 0.0
    for gap, amount in comings:
        now += gap
        told = bucket.find_wait(amount, now)
        assert bucket.take(amount, now).begins == pytest.approx(now + told)
    told = bucket.find_wait(asked, now)
    assert bucket.find_wait(asked, now) == told
    assert bucket.take(asked, now).begins == pytest.approx(now + told)


@given(st.integers(1, 6), st.lists(st.integers(0, 40), max_size=20), st.integers(0, 30), st.data())
def test_who_stands_in_line_comes_first(
    limit: int, gaps: list[int], waiting: int, data: st.DataObject
) -> None:
    """Those who were sent to a bucket and have not begun are told to who asks after them."""
    bucket, now = Bucket(limit), 0.0
    for gap in gaps:
        now += gap
        bucket.take(1, now)
    line = [bucket.book(1) for _ in range(waiting)]
    gone = data.draw(st.integers(0, waiting))
    for share in line[:gone]:
        bucket.give_back(share)
    told = bucket.find_wait(1, now)
    for share in line[gone:]:
        bucket.begin(share, now)
    assert bucket.take(1, now).begins == pytest.approx(now + told)


def test_a_fork_leaves_the_line_behind() -> None:
    """In a child nobody stands in line, and what began counts on."""
    bucket = Bucket(2)
    bucket.take(1, 0.0)
    left = bucket.book(1)
    assert bucket.find_wait(1, 0.0) == MINUTE_SECONDS
    bucket.reset()
    bucket.give_back(left)
    assert bucket.find_wait(1, 0.0) == 0.0
    assert bucket.find_wait(2, 0.0) == MINUTE_SECONDS


def test_a_booking_counts_until_it_is_given_back() -> None:
    """What was booked and not used makes room; what was used stays, however often it is told."""
    limits = Limits(Bucket(2), Bucket(100))
    unused, used = limits.book(60), limits.book(30)
    assert limits.find_wait(0, 0.0) == MINUTE_SECONDS
    assert used.begin(0.0) == 0.0
    used.used_at = 0.0
    for _ in range(2):
        unused.give_back()
        used.give_back()
    assert limits.find_wait(70, 0.0) == 0.0
    assert limits.find_wait(71, 0.0) == MINUTE_SECONDS
    used.settle(10)
    assert limits.find_wait(90, 0.0) == 0.0


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_is_positive(limit: float) -> None:
    """A limit that lets nothing through is an error."""
    with pytest.raises(ConfigError, match="more than 0"):
        Bucket(limit)


def test_an_estimate_has_question_and_longest_answer() -> None:
    """A request is estimated by its bytes and the limit of its answer."""
    assert estimate_tokens(ask("x" * 400)) > 100
    assert estimate_tokens(ask(max_tokens=500)) - estimate_tokens(ask()) > 490
    assert estimate_tokens(ask(), {"max_tokens": 500}) - estimate_tokens(ask()) == 500
    assert estimate_tokens(ask(max_tokens=5), {"max_tokens": 500}) < 100


def test_a_deadline_holds_in_the_queue() -> None:
    """A call whose deadline would pass while it waits for its minute is given up, unused."""
    runtime = VirtualRuntime()
    bucket = Bucket(1)
    client = Client(Endpoint("e", FakeTransport(), requests=bucket), runtime=runtime)
    client.send(ask("a"))
    with pytest.raises(TimedOut, match="limit per minute"):
        client.send(Call(ask("b"), CallOptions(deadline_seconds=5)))
    assert runtime.sleeps == []
    runtime.time += MINUTE_SECONDS
    client.send(ask("c"))
    assert runtime.sleeps == []


def test_a_limit_holds_for_all_clients_of_an_endpoint() -> None:
    """Two clients over one endpoint share its minute."""
    runtime = VirtualRuntime()
    endpoint = Endpoint("e", FakeTransport(), requests=Bucket(1))
    for text in ("a", "b"):
        Client(endpoint, runtime=runtime).send(ask(text))
    assert runtime.sleeps == [MINUTE_SECONDS]
