"""The laws of the chain, in both colours."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fakes import FakeTransport, Script, VirtualRuntime, chat_content, echo

from tinytroupe.llm.client import ClientDefaults
from tinytroupe.llm.errors import (
    AuthenticationFailed,
    BadRequest,
    CacheMiss,
    ConnectionFailed,
    LLMError,
    MalformedResponse,
    QuotaExhausted,
    RateLimited,
    ServerFault,
    TimedOut,
)
from tinytroupe.llm.meter import Meter
from tinytroupe.llm.request import Call, CallOptions, Request, RetryPolicy, chat_request
from tinytroupe.llm.response import Response
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.memory import MemoryStore

EAGER = ClientDefaults(retry=RetryPolicy(max_attempts=3, waiting_seconds=0.0))


def ask(text: str = "Hi", **parameters: Any) -> Request:
    return chat_request("fake", [{"role": "user", "content": text}], **parameters)


def call(text: str = "Hi", **options: Any) -> Call:
    return Call(ask(text), CallOptions(**options))


class TestCache:
    def test_second_time_is_a_hit(self, colour: Any) -> None:
        """The same request is bought once and answered the same twice."""
        transport = FakeTransport()
        client = colour.make_client(transport, MemoryStore())
        bought, stored = client.send(ask()), client.send(ask())
        assert (bought.origin, stored.origin) == ("live", "cache")
        assert stored.content == bought.content
        assert stored.attempts == 0
        assert len(transport.attempts) == 1

    def test_stored_before_returned(self, colour: Any) -> None:
        """When an answer is returned it is already in the store."""
        store = MemoryStore()
        client = colour.make_client(FakeTransport(), store)
        client.send(ask())
        assert list(store.keys()) == [ask().digest]

    def test_off_asks_and_keeps_nothing(self, colour: Any) -> None:
        """With the cache off every call is live and nothing is kept."""
        transport, store = FakeTransport(), MemoryStore()
        client = colour.make_client(transport, store, ClientDefaults(cache="off"))
        assert [client.send(ask()).origin for _ in range(2)] == ["live", "live"]
        assert len(store) == 0

    def test_refresh_overwrites(self, colour: Any) -> None:
        """`refresh` asks anew, and what it got is what is found afterwards."""
        transport = FakeTransport(Script(chat_content("old"), chat_content("new")))
        client = colour.make_client(transport, MemoryStore())
        client.send(ask())
        assert client.send(call(cache="refresh")).text == "new"
        assert client.send(ask()).text == "new"

    def test_only_never_goes_live(self, colour: Any) -> None:
        """With `only`, a hit is served and a miss is an error that made no attempt."""
        transport = FakeTransport()
        client = colour.make_client(transport, MemoryStore())
        client.send(ask("known"))
        assert client.send(call("known", cache="only")).origin == "cache"
        with pytest.raises(CacheMiss, match="only"):
            client.send(call("unknown", cache="only"))
        assert len(transport.attempts) == 1

    def test_only_without_a_store_is_a_miss(self, colour: Any) -> None:
        """`only` without a store never goes live either."""
        transport = FakeTransport()
        client = colour.make_client(transport, None, ClientDefaults(cache="only"))
        with pytest.raises(CacheMiss):
            client.send(ask())
        assert not transport.attempts

    def test_samples_are_apart(self, colour: Any) -> None:
        """Each sample of a request is bought for itself and found again."""
        transport = FakeTransport(Script(chat_content("a"), chat_content("b")))
        client = colour.make_client(transport, MemoryStore())
        texts = [client.send(call(sample=number)).text for number in (0, 1, 0, 1)]
        assert texts == ["a", "b", "a", "b"]

    def test_filtered_answer_is_visible_and_not_stored(self, colour: Any) -> None:
        """An answer that the content filter withheld is returned as such and never kept."""
        store = MemoryStore()
        transport = FakeTransport(lambda _: chat_content(None, "content_filter"))
        response = colour.make_client(transport, store).send(ask())
        assert response.filtered
        assert response.text == ""
        assert len(store) == 0

    def test_length_is_visible_and_stored(self, colour: Any) -> None:
        """An answer that was cut at the maximum of tokens says so, also from the store."""
        client = colour.make_client(
            FakeTransport(lambda _: chat_content("Well", "length")), MemoryStore()
        )
        assert client.send(ask()).truncated
        assert client.send(ask()).truncated

    def test_unreadable_entry_is_bought_again(self, colour: Any) -> None:
        """An entry that cannot be read is a miss, not a failure."""
        store = MemoryStore()
        store.put(ask().digest, Entry(record=b"{}\nnonsense", request=b""))
        client = colour.make_client(FakeTransport(), store)
        assert client.send(ask()).origin == "live"
        assert client.send(ask()).origin == "cache"

    def test_store_that_fails_costs_no_answer(self, colour: Any) -> None:
        """An answer is returned although it could not be kept."""

        class FullStore(MemoryStore):
            def put(self, key: str, entry: Entry) -> bool:
                self.failed_writes += 1
                return False

        assert colour.make_client(FakeTransport(), FullStore()).send(ask()).text


class TestFlight:
    def test_same_call_at_once_is_bought_once(self, colour: Any) -> None:
        """Of many simultaneous identical calls one goes live and all get its answer."""
        transport = FakeTransport(held=True)
        client = colour.make_client(transport, MemoryStore())

        def let_go() -> None:
            transport.arrived.acquire(timeout=10)
            transport.go.set()

        responses = colour.run_together(client, [ask()] * 8, let_go)
        assert len(transport.attempts) == 1
        assert {response.text for response in responses} == {"You said: Hi"}
        assert sum(response.origin == "live" for response in responses) == 1

    def test_many_threads_on_many_keys(self, colour: Any) -> None:
        """Eight callers over fifty keys make exactly fifty live calls."""
        transport = FakeTransport()
        client = colour.make_client(transport, MemoryStore())
        calls = [ask(str(number % 50)) for number in range(400)]
        outcomes = client.send_many(calls, max_workers=8)
        assert len(transport.attempts) == 50
        assert [o.text for o in outcomes] == [f"You said: {n % 50}" for n in range(400)]

    def test_error_is_shared(self, colour: Any) -> None:
        """Followers get the leader's error, each an exception of their own."""

        def refuse(attempt: Any) -> bytes:
            raise AuthenticationFailed("wrong key", status=401)

        transport = FakeTransport(refuse, held=True)
        client = colour.make_client(transport, MemoryStore())

        def let_go() -> None:
            transport.arrived.acquire(timeout=10)
            threading.Event().wait(0.05)
            transport.go.set()

        errors = colour.run_together(client, [ask()] * 4, let_go)
        assert all(isinstance(error, AuthenticationFailed) for error in errors)
        assert len({id(error) for error in errors}) == 4

    def test_an_error_names_who_asked(self, colour: Any) -> None:
        """An error that several share tells each of them their own lane."""

        def refuse(attempt: Any) -> bytes:
            raise AuthenticationFailed("wrong key", status=401)

        transport = FakeTransport(refuse, held=True)
        client = colour.make_client(transport, MemoryStore())
        lanes = ["lisa", "oscar", "amina", "tom"]
        calls = [Call(ask(), CallOptions(lane=lane)) for lane in lanes]

        def let_go() -> None:
            transport.arrived.acquire(timeout=10)
            threading.Event().wait(0.05)
            transport.go.set()

        errors = colour.run_together(client, calls, let_go)
        assert [error.lane for error in errors] == lanes
        assert len(transport.attempts) == 1

    def test_off_shares_nothing(self, colour: Any) -> None:
        """With the cache off identical simultaneous calls draw independently."""
        transport = FakeTransport()
        client = colour.make_client(transport, MemoryStore(), ClientDefaults(cache="off"))
        client.send_many([ask()] * 6, max_workers=6)
        assert len(transport.attempts) == 6

    def test_each_keeps_its_own_deadline(self, colour: Any) -> None:
        """Whoever leads, the caller in a hurry times out and the patient one is answered."""
        transport = FakeTransport(held=True)
        client = colour.make_client(transport, MemoryStore())

        def let_go() -> None:
            transport.arrived.acquire(timeout=10)
            threading.Event().wait(0.3)
            transport.go.set()

        patient, hurried = colour.run_together(client, [call(), call(deadline_seconds=0.1)], let_go)
        assert isinstance(patient, Response)
        assert isinstance(hurried, TimedOut)


class TestRetry:
    @pytest.mark.parametrize(
        "error",
        [
            RateLimited("slow down", status=429),
            ServerFault("oops", status=500),
            MalformedResponse("html"),
            ConnectionFailed("reset"),
            TimedOut("late"),
        ],
    )
    def test_passing_failure_is_tried_again(self, colour: Any, error: LLMError) -> None:
        """A failure that may pass is tried again, and the answer tells the attempts."""
        transport = FakeTransport(Script(error, chat_content("at last")))
        client = colour.make_client(transport, MemoryStore(), EAGER)
        response = client.send(ask())
        assert (response.text, response.attempts) == ("at last", 2)

    @pytest.mark.parametrize(
        "error",
        [
            AuthenticationFailed("wrong key", status=401),
            QuotaExhausted("no money", status=429),
            BadRequest("bad", status=400),
            ServerFault("said not to", status=500, should_retry=False),
        ],
    )
    def test_final_failure_is_not(self, colour: Any, error: LLMError) -> None:
        """A failure that another try cannot help is raised after one attempt."""
        transport = FakeTransport(Script(error))
        client = colour.make_client(transport, MemoryStore(), EAGER)
        with pytest.raises(type(error)) as caught:
            client.send(ask())
        assert caught.value.attempts == 1
        assert caught.value.model == "fake"

    def test_first_cause_is_raised(self, colour: Any) -> None:
        """When all attempts fail the first error is raised and the others are told."""
        transport = FakeTransport(
            Script(ServerFault("the cause"), TimedOut("second"), ConnectionFailed("third"))
        )
        client = colour.make_client(transport, MemoryStore(), EAGER)
        with pytest.raises(ServerFault, match="the cause") as caught:
            client.send(ask())
        assert caught.value.attempts == 3
        assert caught.value.history == ("TimedOut: second", "ConnectionFailed: third")

    def test_final_failure_wins_over_passing_ones(self, colour: Any) -> None:
        """An error that cannot pass is the cause, whatever came before it."""
        transport = FakeTransport(Script(ServerFault("hiccup"), AuthenticationFailed("wrong key")))
        client = colour.make_client(transport, MemoryStore(), EAGER)
        with pytest.raises(AuthenticationFailed) as caught:
            client.send(ask())
        assert caught.value.history == ("ServerFault: hiccup",)

    def test_bug_is_not_retried(self, colour: Any) -> None:
        """An exception that is not ours passes through at once, unchanged."""
        transport = FakeTransport(Script(ZeroDivisionError("a bug")))
        client = colour.make_client(transport, MemoryStore(), EAGER)
        with pytest.raises(ZeroDivisionError):
            client.send(ask())
        assert client.meter.totals.errors == 1

    def test_no_wait_before_the_first_attempt(self, colour: Any) -> None:
        """A call that succeeds never sleeps."""
        runtime = VirtualRuntime()
        client = colour.make_client(FakeTransport(), MemoryStore(), runtime=runtime)
        client.send(ask())
        assert runtime.sleeps == []

    def test_retry_after_is_obeyed_up_to_the_cap(self, colour: Any) -> None:
        """The server's wait is kept exactly, and cut at the cap."""
        runtime = VirtualRuntime()
        transport = FakeTransport(
            Script(
                RateLimited("a", retry_after_seconds=2.5),
                RateLimited("b", retry_after_seconds=900),
                chat_content(),
            )
        )
        defaults = ClientDefaults(retry=RetryPolicy(max_attempts=3, cap_seconds=20))
        colour.make_client(transport, None, defaults, runtime=runtime).send(ask())
        assert runtime.sleeps == [2.5, 20]

    def test_deadline_ends_the_call(self, colour: Any) -> None:
        """No attempt begins, and no wait is begun, that the deadline would cut."""
        runtime = VirtualRuntime()
        transport = FakeTransport(Script(*[RateLimited("x", retry_after_seconds=4)] * 5))
        defaults = ClientDefaults(retry=RetryPolicy(max_attempts=5), deadline_seconds=10)
        client = colour.make_client(transport, None, defaults, runtime=runtime)
        with pytest.raises(RateLimited) as caught:
            client.send(ask())
        assert runtime.sleeps == [4, 4]
        assert caught.value.attempts == 3

    def test_attempt_gets_what_is_left(self, colour: Any) -> None:
        """An attempt's time is the shorter of its own and what the deadline leaves."""
        runtime = VirtualRuntime()
        transport = FakeTransport(Script(RateLimited("x", retry_after_seconds=7), chat_content()))
        defaults = ClientDefaults(timeout_seconds=5, deadline_seconds=10)
        colour.make_client(transport, None, defaults, runtime=runtime).send(ask())
        assert [attempt.timeout_seconds for attempt in transport.attempts] == [5, 3]


class TestGate:
    def test_never_more_at_once(self, colour: Any) -> None:
        """No more attempts are on the wire than there are places, and all get their turn."""
        transport = FakeTransport(held=True)
        client = colour.make_client(transport, None, ClientDefaults(max_concurrent=3))

        def let_go() -> None:
            for _ in range(3):
                transport.arrived.acquire(timeout=10)
            assert not transport.arrived.acquire(timeout=0.05)
            transport.go.set()

        outcomes = colour.run_together(client, [ask(str(n)) for n in range(12)], let_go)
        assert all(isinstance(outcome, Response) for outcome in outcomes)
        assert transport.most_at_once == 3

    def test_place_is_given_back_after_a_failure(self, colour: Any) -> None:
        """An attempt that fails leaves its place to the next."""
        transport = FakeTransport(Script(*[BadRequest("no")] * 5, chat_content()))
        client = colour.make_client(transport, None, ClientDefaults(max_concurrent=1))
        for _ in range(5):
            with pytest.raises(BadRequest):
                client.send(ask())
        assert client.send(ask()).text

    def test_queue_respects_the_deadline(self, colour: Any) -> None:
        """A call whose deadline passes in the queue is told so, and the place is not lost."""
        transport = FakeTransport(held=True)
        client = colour.make_client(transport, None, ClientDefaults(max_concurrent=1))

        def let_go() -> None:
            transport.arrived.acquire(timeout=10)
            threading.Event().wait(0.3)
            transport.go.set()

        outcomes = colour.run_together(client, [call("a"), call("b", deadline_seconds=0.1)], let_go)
        assert isinstance(outcomes[0], Response)
        assert isinstance(outcomes[1], TimedOut)
        assert isinstance(client.send(ask("c")), Response)


class TestMany:
    def test_order_and_failures(self, colour: Any) -> None:
        """Results come in the order of the calls, and a failure stays in its own place."""

        def refuse_odd(attempt: Any) -> bytes:
            if int(attempt.call.request.messages[0].content) % 2:
                raise BadRequest("odd")
            return echo(attempt)

        client = colour.make_client(FakeTransport(refuse_odd), MemoryStore())
        outcomes = client.send_many([ask(str(n)) for n in range(20)], max_workers=4)
        assert [isinstance(outcome, BadRequest) for outcome in outcomes] == [False, True] * 10
        assert outcomes[4].text == "You said: 4"

    def test_fan_out_is_bounded(self, colour: Any) -> None:
        """No more calls are under way than there are workers."""
        transport = FakeTransport()
        client = colour.make_client(transport, None)
        client.send_many((ask(str(n)) for n in range(40)), max_workers=5)
        assert transport.most_at_once <= 5
        assert len(transport.attempts) == 40

    def test_each_outcome_is_reported(self, colour: Any) -> None:
        """Every position is reported exactly once."""
        client = colour.make_client(FakeTransport(), None)
        seen: list[int] = []
        client.send_many(
            [ask(str(n)) for n in range(10)], on_outcome=lambda index, outcome: seen.append(index)
        )
        assert sorted(seen) == list(range(10))

    def test_nothing_to_send(self, colour: Any) -> None:
        """No calls, no results."""
        assert colour.make_client(FakeTransport(), None).send_many([]) == []


class TestEmbed:
    def test_one_vector_per_text_and_cached_per_text(self, colour: Any) -> None:
        """Vectors come in the order of the texts, and a known text is not bought again."""
        transport = FakeTransport()
        client = colour.make_client(transport, MemoryStore())
        assert client.embed("vec", ["a", "bb"]) == [[1.0, 1.0], [2.0, 1.0]]
        assert client.embed("vec", ["bb", "ccc", "a"]) == [[2.0, 1.0], [3.0, 1.0], [1.0, 1.0]]
        asked = [attempt.call.request.texts for attempt in transport.attempts]
        assert asked == [("a", "bb"), ("ccc",)]

    def test_one_text_is_not_a_list(self, colour: Any) -> None:
        """A bare string is refused rather than taken letter by letter."""
        with pytest.raises(BadRequest, match="list"):
            colour.make_client(FakeTransport(), None).embed("vec", "abc")


class TestMeter:
    def test_every_call_is_recorded(self, colour: Any) -> None:
        """Hits, live calls and failures are all counted, by lane."""
        transport = FakeTransport(Script(chat_content(), BadRequest("no")))
        records: list[Any] = []
        client = colour.make_client(transport, MemoryStore(), meter=Meter([records.append]))
        client.send(call(lane="lisa", purpose="plan"))
        client.send(call(lane="lisa", purpose="plan"))
        with pytest.raises(BadRequest) as caught:
            client.send(call("else", lane="oscar"))
        assert caught.value.lane == "oscar"
        by_lane = client.meter.summarize("lane")
        lisa, oscar = by_lane["lisa"], by_lane["oscar"]
        assert (lisa.calls, lisa.hits, lisa.live_calls, lisa.errors) == (2, 1, 1, 0)
        assert (lisa.usage.input_tokens, lisa.live_usage.input_tokens) == (14, 7)
        assert (oscar.calls, oscar.errors, oscar.attempts) == (1, 1, 1)
        assert [record.origin for record in records] == ["live", "cache", None]

    def test_failing_sink_costs_no_answer(self, colour: Any) -> None:
        """A sink that raises does not reach the caller."""

        def sink(record: Any) -> None:
            raise RuntimeError("sink")

        client = colour.make_client(FakeTransport(), None, meter=Meter([sink]))
        assert client.send(ask()).text


def test_parameters_are_adapted_before_the_key(colour: Any) -> None:
    """Two spellings that a model family takes as one share one entry."""
    transport = FakeTransport()
    client = colour.make_client(transport, MemoryStore())
    old = chat_request("o3-mini", [{"role": "user", "content": "Hi"}], max_tokens=5, temperature=1)
    new = chat_request("o3-mini", [{"role": "user", "content": "Hi"}], max_completion_tokens=5)
    assert client.send(old).origin == "live"
    assert client.send(new).origin == "cache"
    assert transport.attempts[0].call.request.parameters == {"max_completion_tokens": 5}


def test_close_reopens(colour: Any) -> None:
    """A closed client closes its transport and can be used again."""
    transport = FakeTransport()
    client = colour.make_client(transport, MemoryStore())
    client.send(ask())
    client.close()
    assert transport.closed == 1
    assert client.send(ask()).origin == "cache"
