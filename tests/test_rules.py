"""The laws of the rules: backoff, classification, and what model families take."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.llm.errors import (
    AuthenticationFailed,
    BadRequest,
    ConfigError,
    ConnectionFailed,
    ContentFiltered,
    ContextTooLong,
    LLMAPIError,
    ModelNotFound,
    QuotaExhausted,
    RateLimited,
    ServerFault,
    TimedOut,
)
from tinytroupe.llm.request import RetryPolicy, chat_request, embedding_request
from tinytroupe.llm.rules.backoff import compute_wait, read_retry_after
from tinytroupe.llm.rules.classify import classify_failure, decide_retry
from tinytroupe.llm.rules.parameters import FAMILIES, adapt_request, find_family

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 50),
    waiting_seconds=st.floats(0, 1000),
    factor=st.floats(1, 1000),
    cap_seconds=st.floats(0, 1000),
)
attempts = st.integers(1, 10_000)
shares = st.floats(0, 1)
USER = [{"role": "user", "content": "Hi"}]


class TestBackoff:
    @given(policies, attempts, st.none() | st.floats(0, 1e9), shares)
    def test_never_above_the_cap(
        self, policy: RetryPolicy, number: int, asked: float | None, jitter: float
    ) -> None:
        """No wait is negative or longer than the cap, whoever asked for it."""
        assert 0 <= compute_wait(policy, number, asked, jitter) <= policy.cap_seconds

    @given(policies, attempts, shares, shares)
    def test_jitter_spreads_over_the_whole_bound(
        self, policy: RetryPolicy, number: int, one: float, two: float
    ) -> None:
        """Jitter scales the capped bound from zero to whole, also where the cap holds."""
        bound = compute_wait(policy, number, None, 1)
        assert compute_wait(policy, number, None, 0) == 0
        assert compute_wait(policy, number, None, one) == pytest.approx(one * bound)
        if one <= two:
            low, high = (compute_wait(policy, number, None, share) for share in (one, two))
            assert low <= high

    @given(policies, attempts)
    def test_bound_never_shrinks(self, policy: RetryPolicy, number: int) -> None:
        """The bound of a later wait is not below that of an earlier one."""
        assert compute_wait(policy, number, None, 1) <= compute_wait(policy, number + 1, None, 1)

    @given(policies, attempts, st.floats(0, 1e6), shares)
    def test_server_is_obeyed_exactly(
        self, policy: RetryPolicy, number: int, asked: float, jitter: float
    ) -> None:
        """What the server asked for, up to the cap, is waited whatever the jitter."""
        assert compute_wait(policy, number, asked, jitter) == min(asked, policy.cap_seconds)

    def test_documented_bounds(self) -> None:
        """One second doubling gives bounds of 1, 2, 4 … up to the cap."""
        policy = RetryPolicy(waiting_seconds=1, factor=2, cap_seconds=10)
        assert [compute_wait(policy, n, None, 1) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "2"}, 2),
            ({"retry-after": "0.5"}, 0.5),
            ({"retry-after-ms": "1500"}, 1.5),
            ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
            ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
            ({"retry-after": format_datetime(NOW + timedelta(seconds=30), usegmt=True)}, 30),
            ({"retry-after": format_datetime(NOW - timedelta(seconds=30), usegmt=True)}, 0),
            ({"retry-after": "Fri, 02 Jan 2026 03:04:15"}, 10),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "-3"}, None),
            ({"retry-after": "nan"}, None),
            ({"retry-after": "inf"}, None),
        ],
    )
    def test_forms(self, headers: dict[str, str], seconds: float | None) -> None:
        """Milliseconds, seconds and dates are read; anything else is as if it were not there."""
        assert read_retry_after(headers, NOW.timestamp()) == seconds

    @given(st.text(max_size=40))
    def test_any_value_has_an_outcome(self, value: str) -> None:
        """No header value is a crash or a negative wait."""
        seconds = read_retry_after({"retry-after": value}, NOW.timestamp())
        assert seconds is None or seconds >= 0


def fail(status: int | None, error: Any = None, headers: Any = None, **extra: Any) -> LLMAPIError:
    body = json.dumps({"error": error, **extra}).encode() if error is not None else b""
    return classify_failure(status, headers or {}, body, NOW.timestamp())


class TestClassify:
    @pytest.mark.parametrize(
        ("error", "cls", "retried"),
        [
            (fail(400, {"message": "bad"}), BadRequest, False),
            (fail(422, {"message": "bad"}), BadRequest, False),
            (fail(401, {"message": "no", "code": "invalid_api_key"}), AuthenticationFailed, False),
            (fail(403), AuthenticationFailed, False),
            (fail(402), QuotaExhausted, False),
            (fail(404, {"message": "The model `x` does not exist"}), ModelNotFound, False),
            (fail(404, {"code": "DeploymentNotFound", "message": "…"}), ModelNotFound, False),
            (fail(404), BadRequest, False),
            (fail(400, {"code": "context_length_exceeded"}), ContextTooLong, False),
            (fail(400, {"message": "maximum context length is 8192"}), ContextTooLong, False),
            (fail(400, {"code": "content_filter"}), ContentFiltered, False),
            (
                fail(400, {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}),
                ContentFiltered,
                False,
            ),
            (fail(429), RateLimited, True),
            (fail(429, {"code": "rate_limit_exceeded"}), RateLimited, True),
            (fail(429, {"code": "insufficient_quota"}), QuotaExhausted, False),
            (fail(429, {"type": "insufficient_quota", "code": None}), QuotaExhausted, False),
            (fail(429, {"message": "You exceeded your current quota"}), QuotaExhausted, False),
            (fail(408), ServerFault, True),
            (fail(409), ServerFault, True),
            (fail(500), ServerFault, True),
            (fail(503), ServerFault, True),
            (fail(529), ServerFault, True),
            (fail(None, {"message": "busy"}), ServerFault, True),
            (fail(None, {"code": 429, "message": "slow"}), RateLimited, True),
            (fail(None, {"code": "insufficient_quota"}), QuotaExhausted, False),
            (fail(None, "something"), ServerFault, True),
            (ConnectionFailed("reset"), ConnectionFailed, True),
            (TimedOut("late"), TimedOut, True),
            (ConfigError("no key"), ConfigError, False),
        ],
    )
    def test_class_and_decision(self, error: Any, cls: type, retried: bool) -> None:
        """Each failure has its class, and only what may pass is tried again."""
        assert type(error) is cls
        assert decide_retry(error).retry is retried

    @pytest.mark.parametrize(("said", "status"), [("true", 400), ("false", 500)])
    def test_server_decides(self, said: str, status: int) -> None:
        """`x-should-retry` is obeyed, either way."""
        error = fail(status, headers={"x-should-retry": said})
        assert decide_retry(error).retry is (said == "true")

    def test_what_the_server_said_is_carried(self) -> None:
        """Status, code, request id, wait and the server's words are on the error."""
        headers = {"x-request-id": "req-1", "retry-after": "3"}
        error = fail(429, {"message": "Slow down.", "code": "rate_limit_exceeded"}, headers)
        assert (error.status, error.code, error.request_id) == (429, "rate_limit_exceeded", "req-1")
        assert decide_retry(error).after_seconds == 3
        assert "Slow down." in str(error)

    @given(st.none() | st.integers(300, 599), st.binary(max_size=100))
    def test_any_body_has_an_outcome(self, status: int | None, body: bytes) -> None:
        """Whatever a failing server sends becomes a typed error."""
        assert isinstance(classify_failure(status, {}, body, 0), LLMAPIError)

    @given(
        st.none() | st.integers(300, 599),
        st.dictionaries(
            st.sampled_from(["code", "type", "message", "status", "innererror"]),
            st.none() | st.integers() | st.text() | st.lists(st.text()) | st.just({}),
        ),
    )
    def test_any_error_object_has_an_outcome(self, status: int | None, error: Any) -> None:
        """Whatever an error object holds becomes a typed error."""
        assert isinstance(fail(status, error), LLMAPIError)


class TestParameters:
    @pytest.mark.parametrize(
        ("model", "family"),
        [
            ("gpt-4o", None),
            ("gpt-4o-mini", None),
            ("gpt-4.1", None),
            ("gpt-3.5-turbo", None),
            ("llama-3", None),
            ("o1000", None),
            ("o1", "reasoning"),
            ("o3-mini", "reasoning"),
            ("o4-mini-2025-04-16", "reasoning"),
            ("gpt-5", "reasoning"),
            ("gpt-5-mini", "reasoning"),
            ("gpt-5-chat-latest", "gpt-5 chat"),
            ("gpt-5.2", "gpt-5.1 and later"),
            ("gpt-5.2-chat-latest", "gpt-5 chat"),
        ],
    )
    def test_family(self, model: str, family: str | None) -> None:
        """A model is known by its name."""
        found = find_family(model)
        assert (found.name if found else None) == family

    def test_reasoning_models(self) -> None:
        """What reasoning models refuse is left out or renamed, and each change is told."""
        request, notes = adapt_request(
            chat_request("o3-mini", USER, temperature=1, max_tokens=5, stop=["x"], seed=1)
        )
        assert request.parameters == {"max_completion_tokens": 5, "seed": 1}
        assert len(notes) == 3
        assert any("max_tokens is sent as max_completion_tokens" in note for note in notes)

    def test_new_name_wins(self) -> None:
        """Where both names are given the new one stays."""
        request, _ = adapt_request(chat_request("o3", USER, max_tokens=5, max_completion_tokens=9))
        assert request.parameters == {"max_completion_tokens": 9}

    @pytest.mark.parametrize(
        ("model", "effort", "kept"),
        [
            ("gpt-5", "low", False),
            ("gpt-5", None, False),
            ("gpt-5.2", None, True),
            ("gpt-5.2", "none", True),
            ("gpt-5.2", "high", False),
        ],
    )
    def test_temperature_while_not_reasoning(
        self, model: str, effort: str | None, kept: bool
    ) -> None:
        """A temperature stays where the model does not reason, and only there."""
        request, _ = adapt_request(
            chat_request(model, USER, temperature=0.5, reasoning_effort=effort)
        )
        assert ("temperature" in request.parameters) is kept

    def test_others_are_left_alone(self) -> None:
        """A request that needs no change is the same object."""
        for request in (
            chat_request("gpt-4o", USER, temperature=1, max_tokens=5),
            chat_request("o3", USER, seed=1),
            embedding_request("o3", "text"),
        ):
            assert adapt_request(request) == (request, ())
            assert adapt_request(request)[0] is request

    def test_adapting_twice_changes_nothing_more(self) -> None:
        """An adapted request is one that its family takes."""
        for model in ("o3", "gpt-5", "gpt-5.2", "gpt-5-chat-latest"):
            once, _ = adapt_request(chat_request(model, USER, temperature=1, max_tokens=5))
            assert adapt_request(once) == (once, ())

    def test_each_family_is_reachable(self) -> None:
        """No family is hidden behind an earlier one."""
        reached = {find_family(name) for name in ("o3", "gpt-5.2", "gpt-5-chat-latest")}
        assert reached == set(FAMILIES)
