"""The laws of rehearsed faults and of rehearsed time, in process."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import VirtualRuntime
from rehearsing import MODEL, QUESTION, ask, attempt, rehearse

from tinytroupe.llm.errors import (
    ConfigError,
    ConnectionFailed,
    ContentFiltered,
    LLMError,
    MalformedResponse,
    QuotaExhausted,
    RateLimited,
    ServerFault,
    TimedOut,
)
from tinytroupe.llm.request import (
    Request,
    completion_request,
    embedding_request,
)
from tinytroupe.llm.transports.rehearsal import Fault, Rehearsal, RehearsalTransport
from tinytroupe.llm.transports.rehearsal.faults import KINDS, FaultPlan, parse_fault


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        (Fault("rate_limited"), RateLimited, 429),
        (Fault("quota_exhausted"), QuotaExhausted, 429),
        (Fault("server_fault"), ServerFault, 500),
        (Fault("server_fault", status=529), ServerFault, 529),
        (Fault("content_filter", refuse_prompt=True), ContentFiltered, 400),
        (Fault("cut"), ConnectionFailed, None),
        (Fault("timeout"), TimedOut, None),
        (Fault("drip", interval_seconds=1.0), TimedOut, None),
        (Fault("malformed"), MalformedResponse, None),
        (Fault("malformed", body="error_object"), ServerFault, None),
    ],
    ids=lambda item: getattr(item, "kind", None),
)
def test_a_fault_is_its_typed_error(
    fault: Fault, error: type[LLMError], status: int | None
) -> None:
    """Each fault raises in process what the same fault over HTTP is mapped to."""
    with pytest.raises(error) as caught:
        rehearse(ask(QUESTION), Rehearsal(faults=[fault]))
    assert type(caught.value) is error
    assert getattr(caught.value, "status", None) == status


@pytest.mark.parametrize("form", ["ms", "seconds", "date"])
def test_each_form_of_retry_after_says_how_long(form: Any) -> None:
    """A rate limit says how long to wait, in whichever form."""
    fault = Fault("rate_limited", retry_after=form, wait_seconds=3)
    with pytest.raises(RateLimited) as caught:
        rehearse(ask(QUESTION), Rehearsal(faults=[fault]))
    assert caught.value.retry_after_seconds == 3


MALFORMED = ["html", "empty", "null", "list", "no_choices", "null_content", "truncated_json"]


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize(
    "request_",
    [ask(QUESTION), completion_request(MODEL, "x"), embedding_request(MODEL, "x")],
    ids=["chat", "completion", "embedding"],
)
def test_a_malformed_answer_is_refused_for_every_kind(request_: Request, body: Any) -> None:
    """Each malformation of each kind of answer is seen by the parser."""
    with pytest.raises(MalformedResponse):
        rehearse(request_, Rehearsal(faults=[Fault("malformed", body=body)]))


def test_a_filtered_answer_says_so() -> None:
    """The content filter withholds the text and is the reason for the end."""
    for request in (ask(QUESTION), completion_request(MODEL, "x")):
        response = rehearse(request, Rehearsal(faults=[Fault("content_filter")]))
        assert response.filtered
        assert response.text == ""


def test_a_drip_that_ends_in_time_is_an_answer() -> None:
    """A slow body is no fault where the timeout allows for it."""
    rehearsal = Rehearsal(faults=[Fault("drip", interval_seconds=0.0001)])
    assert rehearse(ask(QUESTION), rehearsal).text


def strikes(*faults: Fault, requests: int = 12, seed: int = 0) -> list[str | None]:
    plan = FaultPlan(faults, seed)
    return [fault and fault.kind for fault in (plan.next() for _ in range(requests))]


def test_faults_strike_as_often_as_they_say() -> None:
    """`times` strikes first, `every` each n-th request; one fault follows the other."""
    assert strikes(Fault("cut", times=2), requests=4) == ["cut", "cut", None, None]
    assert strikes(Fault("cut", every=3), requests=6) == [None, None, "cut"] * 2
    assert strikes(Fault("cut", every=2, times=1), requests=4) == [None, "cut", None, None]
    assert strikes(Fault("cut", times=1), Fault("drip", times=1), requests=3) == [
        "cut",
        "drip",
        None,
    ]
    assert strikes(Fault("cut"), requests=3) == ["cut"] * 3


def test_a_rate_strikes_about_so_often_and_always_the_same_requests() -> None:
    """A rate is a probability that follows from the seed."""
    first = strikes(Fault("cut", rate=0.3), requests=2000)
    assert 500 < first.count("cut") < 700
    assert strikes(Fault("cut", rate=0.3), requests=2000) == first
    assert strikes(Fault("cut", rate=0.3), requests=2000, seed=1) != first
    assert not any(strikes(Fault("cut", rate=0)))


def test_a_function_may_choose_the_fault() -> None:
    """`faults` may be a function of the attempt."""
    rehearsal = Rehearsal(faults=lambda a: Fault("cut") if a.number == 1 else None)
    with pytest.raises(ConnectionFailed):
        rehearse(ask(QUESTION), rehearsal)
    assert rehearse(ask(QUESTION), rehearsal, number=2).text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cut", Fault("cut")),
        ("rate_limited:ms", Fault("rate_limited", retry_after="ms")),
        ("rate_limited:ms=250", Fault("rate_limited", retry_after="ms", wait_seconds=0.25)),
        ("rate_limited:date=2", Fault("rate_limited", retry_after="date", wait_seconds=2.0)),
        ("server_fault:503@every=10", Fault("server_fault", status=503, every=10)),
        ("server_fault:seconds=1", Fault("server_fault", retry_after="seconds")),
        (
            "server_fault:529,ms=20",
            Fault("server_fault", status=529, retry_after="ms", wait_seconds=0.02),
        ),
        ("drip:0.05@times=2", Fault("drip", interval_seconds=0.05, times=2)),
        ("malformed:null@rate=0.1", Fault("malformed", body="null", rate=0.1)),
        ("content_filter:prompt", Fault("content_filter", refuse_prompt=True)),
        (" timeout@every=2@times=3 ", Fault("timeout", every=2, times=3)),
    ],
)
def test_a_fault_is_read_as_the_command_line_spells_it(text: str, fault: Fault) -> None:
    """The spelling of the command line says what the value says."""
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flood",
        "cut:now",
        "rate_limited:soon",
        "server_fault:404",
        "malformed:odd",
        "drip:slow",
        "cut@sometimes=2",
        "cut@times=x",
        "cut@times=0",
        "cut@rate=2",
        "content_filter:all",
    ],
)
def test_an_unreadable_fault_is_refused(text: str) -> None:
    """A fault that is not spelled as it must be is a ConfigError that says what is known."""
    with pytest.raises(ConfigError):
        parse_fault(text)


def test_every_kind_of_fault_can_be_written() -> None:
    """Each kind is a fault on its own, without an argument."""
    assert [parse_fault(kind).kind for kind in KINDS] == list(KINDS)


def test_the_latency_is_spent_by_the_runtime() -> None:
    """An answer takes as long as the rehearsal says, by the runtime's clock."""
    runtime = VirtualRuntime()
    transport = RehearsalTransport(Rehearsal(latency_seconds=2.5), runtime=runtime)
    assert transport.send(attempt(ask(QUESTION))).seconds == pytest.approx(2.5)


def test_a_latency_beyond_the_timeout_ends_with_it() -> None:
    """No attempt takes longer than it may."""
    runtime = VirtualRuntime()
    transport = RehearsalTransport(Rehearsal(latency_seconds=100), runtime=runtime)
    started = runtime.now()
    with pytest.raises(TimedOut):
        transport.send(attempt(ask(QUESTION), timeout=7))
    assert runtime.now() - started == pytest.approx(7)


def test_jitter_varies_the_latency_and_follows_from_the_request() -> None:
    """Latencies lie within the jitter, differ between requests, and repeat."""

    def measure(text: str) -> float:
        rehearsal = Rehearsal(latency_seconds=2, latency_jitter_seconds=1)
        transport = RehearsalTransport(rehearsal, runtime=VirtualRuntime())
        return transport.send(attempt(ask(text))).seconds

    seconds = [measure(f"Question {number}") for number in range(20)]
    assert all(1 <= item <= 3 for item in seconds)
    assert len(set(seconds)) > 10
    assert measure("Question 0") == seconds[0]


def test_a_negative_latency_is_refused() -> None:
    """Time does not run backwards."""
    with pytest.raises(ConfigError):
        Rehearsal(latency_seconds=-1)
