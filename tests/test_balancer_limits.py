"""A balancer over endpoints with limits per minute: nobody waits while another has room."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Colour
from fakes import FakeTransport, Script, VirtualRuntime, chat_content

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.client import Client, ClientDefaults
from tinytroupe.llm.errors import RateLimited, ServerFault, TimedOut
from tinytroupe.llm.layers.route import Route
from tinytroupe.llm.manager import ModelManager
from tinytroupe.llm.request import Call, CallOptions, Request, RetryPolicy, chat_request
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.buckets import MINUTE_SECONDS, Bucket
from tinytroupe.llm.rules.routes import STRATEGIES
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.transports.endpoint import Endpoint

PATIENT = ClientDefaults(retry=RetryPolicy(max_attempts=6, waiting_seconds=0.0))


def ask(text: object = "Hi", **parameters: Any) -> Request:
    return chat_request("fake", [{"role": "user", "content": str(text)}], **parameters)


def count(endpoint: Endpoint) -> int:
    transport = endpoint.transport
    assert isinstance(transport, FakeTransport)
    return len(transport.attempts)


def limited(name: str, per_minute: float | None, **named: Any) -> Endpoint:
    bucket = Bucket(per_minute) if per_minute else None
    return Endpoint(name, named.pop("transport", None) or FakeTransport(), requests=bucket, **named)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_used_up_minute_keeps_nobody_waiting(colour: Colour, strategy: Any) -> None:
    """Whatever the strategy, calls go to the endpoint that has room, and none waits."""
    runtime = VirtualRuntime()
    few, many = limited("few", 3, weight=50.0), limited("many", None)
    client = colour.make_client(Route([few, many], strategy), None, PATIENT, runtime=runtime)
    for number in range(20):
        client.send(ask(number))
    assert runtime.sleeps == []
    assert count(few) <= 3
    assert count(few) + count(many) == 20


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_room_is_used_before_anyone_waits(colour: Colour, strategy: Any) -> None:
    """Each endpoint gets what its minute holds; the next call waits for who is free first."""
    runtime = VirtualRuntime()
    one, two = limited("one", 2), limited("two", 5)
    client = colour.make_client(Route([one, two], strategy), None, PATIENT, runtime=runtime)
    for number in range(7):
        client.send(ask(number))
        runtime.time += 1
    assert runtime.sleeps == []
    assert (count(one), count(two)) == (2, 5)
    client.send(ask("more"))
    # The first call began 7 s ago, whichever endpoint it was sent to.
    assert runtime.sleeps == [MINUTE_SECONDS - 7]
    assert count(one) + count(two) == 8


def test_tokens_are_looked_at_as_well(colour: Colour) -> None:
    """An endpoint whose minute has no room for the longest answer is left for another."""
    runtime = VirtualRuntime()
    small = Endpoint("small", FakeTransport(), tokens=Bucket(1000))
    large = Endpoint("large", FakeTransport(), tokens=Bucket(1_000_000))
    client = colour.make_client(Route([small, large]), None, PATIENT, runtime=runtime)
    client.send(ask("a", max_tokens=900))
    client.send(ask("b", max_tokens=900))
    for number in range(4):
        client.send(ask(number, max_tokens=995))
    assert runtime.sleeps == []
    assert (count(small), count(large)) == (1, 5)
    # The answer took ten tokens only, so there is room for a short one again.
    client.send(ask("short", max_tokens=100))
    assert count(small) == 2


def test_an_endpoint_s_own_parameters_count(colour: Colour) -> None:
    """What an endpoint adds to a request is part of what the request may take there."""
    runtime = VirtualRuntime()
    wordy = FrozenDict({"max_tokens": 900})
    small = Endpoint("small", FakeTransport(), tokens=Bucket(1000), parameters=wordy)
    other = Endpoint("other", FakeTransport(), tier=1)
    held = small.tokens
    assert held is not None
    held.take(200, runtime.time)
    client = colour.make_client(Route([small, other]), None, PATIENT, runtime=runtime)
    client.send(ask("a"))
    assert (count(small), count(other)) == (0, 1)
    assert runtime.sleeps == []


def test_a_fallback_takes_what_the_main_ones_have_no_room_for(colour: Colour) -> None:
    """A minute that is used up is like a rest: fallbacks are asked in order."""
    runtime = VirtualRuntime()
    main, first, second = (
        limited("main", 2),
        limited("first", 1, tier=1),
        limited("last", 9, tier=2),
    )
    client = colour.make_client(Route([main, second, first]), None, PATIENT, runtime=runtime)
    for number in range(5):
        client.send(ask(number))
    assert (count(main), count(first), count(second)) == (2, 1, 2)
    runtime.time += MINUTE_SECONDS
    client.send(ask("later"))
    assert count(main) == 3


@pytest.mark.parametrize(
    ("rest_seconds", "waited_seconds", "taken"), [(5.0, 5.0, "tired"), (50.0, 20.0, "full")]
)
def test_who_is_free_first_is_waited_for(
    colour: Colour, rest_seconds: float, waited_seconds: float, taken: str
) -> None:
    """Where one rests and the other's minute is used up, the call waits for what ends first."""
    runtime = VirtualRuntime()
    steps = Script(RateLimited("slow down", retry_after_seconds=rest_seconds), chat_content("up"))
    tired, full = limited("tired", None, transport=FakeTransport(steps)), limited("full", 1)
    assert full.requests is not None
    full.requests.take(1, runtime.time - 40)
    client = colour.make_client(Route([tired, full]), None, PATIENT, runtime=runtime)
    client.send(ask())
    assert [seconds for seconds in runtime.sleeps if seconds] == [waited_seconds]
    assert (count(tired), count(full)) == ((2, 0) if taken == "tired" else (1, 1))


def test_threads_that_come_together_share_the_room() -> None:
    """Of fifty threads at once each finds the endpoint that has room for it, and none waits."""
    runtime = VirtualRuntime()
    one, two = limited("one", 10), limited("two", 40)
    client = Client(Route([one, two]), None, PATIENT, runtime=runtime)
    barrier = threading.Barrier(50)

    def send(number: int) -> None:
        barrier.wait(10)
        client.send(ask(number))

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(send, range(50)))
    assert runtime.sleeps == []
    assert (count(one), count(two)) == (10, 40)


def test_a_queue_at_the_gate_counts(colour: Colour) -> None:
    """Calls that wait for a place on the wire have their share of the minute already."""
    slow = FakeTransport(held=True)
    few = limited("few", 4, transport=slow, max_concurrent=1)
    many = limited("many", None, max_concurrent=2)
    client = colour.make_client(Route([few, many]), None, PATIENT)

    def let_go() -> None:
        quick = many.transport
        assert isinstance(quick, FakeTransport)
        for _ in range(16):
            assert quick.arrived.acquire(timeout=10)
        slow.go.set()

    outcomes = colour.run_together(client, [ask(number) for number in range(20)], let_go)
    assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert (count(few), count(many)) == (4, 16)


def test_a_call_that_gives_up_in_line_leaves_no_trace(colour: Colour) -> None:
    """Its share goes back, its endpoint does not rest, and nobody else is asked in its place."""
    runtime = VirtualRuntime()
    endpoints = [limited("one", 1), limited("two", 1)]
    client = colour.make_client(Route(endpoints), None, PATIENT, runtime=runtime)
    for number in range(2):
        client.send(ask(number))
    hasty = Call(ask("hasty"), CallOptions(deadline_seconds=5))
    with pytest.raises(TimedOut, match="limit per minute") as caught:
        client.send(hasty)
    assert caught.value.queued
    assert runtime.sleeps == []
    assert all(standing.failures == 0 for standing in client.inner.route.standings.values())
    assert all(standing.under_way == 0 for standing in client.inner.route.standings.values())
    runtime.time += MINUTE_SECONDS
    for number in range(2):
        client.send(ask(f"later {number}"))
    assert runtime.sleeps == []


def test_who_gives_up_at_the_gate_takes_no_room(colour: Colour) -> None:
    """A deadline that passes in the queue for a place gives the share of the minute back."""
    transport = FakeTransport(held=True)
    endpoint = limited("one", 2, transport=transport, max_concurrent=1)
    client = colour.make_client(Route([endpoint, limited("spare", 1, tier=1)]), None, PATIENT)
    hasty = Call(ask("hasty"), CallOptions(deadline_seconds=0.2))

    def let_go() -> None:
        assert transport.arrived.acquire(timeout=10)
        time.sleep(0.4)
        transport.go.set()

    outcomes = colour.run_together(client, [ask("first"), hasty], let_go)
    first, second = outcomes
    assert isinstance(first, Response)
    assert isinstance(second, TimedOut)
    assert second.queued
    assert client.inner.route.standings["one"].failures == 0
    assert endpoint.requests is not None
    assert endpoint.requests.find_wait(1, time.monotonic()) == 0.0


def test_what_failed_on_the_wire_counts(colour: Colour) -> None:
    """A request that the endpoint answered with an error was one of its minute."""
    runtime = VirtualRuntime()
    ill = limited("ill", 1, transport=FakeTransport(Script(ServerFault("no"))))
    client = colour.make_client(Route([ill, limited("well", None)]), None, PATIENT, runtime=runtime)
    client.send(ask())
    assert ill.requests is not None
    assert ill.requests.find_wait(1, runtime.time) == MINUTE_SECONDS


def test_the_time_in_line_is_not_the_endpoint_s(colour: Colour) -> None:
    """Under `latency` an endpoint that made calls wait for its minute is not taken for slow."""
    runtime = VirtualRuntime()
    endpoint = limited("one", 1, timeout_seconds=30.0)
    client = colour.make_client(Route([endpoint], "latency"), None, PATIENT, runtime=runtime)
    for number in range(3):
        client.send(ask(number))
    assert runtime.sleeps == [MINUTE_SECONDS] * 2
    assert client.inner.route.standings["one"].seconds == 0.0


def test_models_by_name_share_their_room() -> None:
    """What a model was asked by its own name counts when a balancer chooses."""
    models = {
        "few": {"provider": "rehearsal", "model": "m", "requests_per_minute": 2},
        "many": {"provider": "rehearsal", "model": "m", "requests_per_minute": 60},
    }
    manager = ModelManager({"models": models}, store=MemoryStore())
    few = manager.get_model("few")
    for number in range(2):
        few(f"alone {number}")
    balancer = manager.configure_load_balancer()
    answers = [balancer(f"balanced {number}") for number in range(6)]
    manager.close()
    assert Counter(answer.model_info["config_name"] for answer in answers) == {"many": 6}
