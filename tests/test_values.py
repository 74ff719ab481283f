"""The laws of requests, digests, responses and errors."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from contextlib import suppress
from typing import Any

import pytest
from fakes import chat_content
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.llm import errors
from tinytroupe.llm.canonical import FrozenDict, encode, freeze
from tinytroupe.llm.errors import BadRequest, LLMAPIError, LLMError, MalformedResponse
from tinytroupe.llm.messages import ROLES, Message
from tinytroupe.llm.request import (
    Call,
    CallOptions,
    RetryPolicy,
    chat_request,
    completion_request,
    embedding_request,
)
from tinytroupe.llm.response import Usage, from_record, parse_response

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(sorted(ROLES)), "content": texts}), min_size=1
)
USER = [{"role": "user", "content": "Hi"}]


class TestDigest:
    @given(messages, st.dictionaries(texts.filter(str.isidentifier), json_values, max_size=3))
    def test_same_request_same_digest(self, conversation: Any, parameters: Any) -> None:
        """Equal requests have equal digests, whatever the order of their keys."""
        parameters = {f"p_{name}": value for name, value in parameters.items()}
        backwards = dict(reversed(list(parameters.items())))
        one = chat_request("m", conversation, **parameters)
        two = chat_request("m", copy.deepcopy(conversation), **backwards)
        assert one.digest == two.digest
        assert one.body == two.body
        assert one == two

    @given(messages, messages)
    def test_other_messages_other_digest(self, one: Any, two: Any) -> None:
        """Requests share a digest only if their messages are equal."""
        same = chat_request("m", one).digest == chat_request("m", two).digest
        assert same == (one == two)

    @given(json_values, json_values)
    def test_other_parameter_other_digest(self, one: Any, two: Any) -> None:
        """Requests share a digest only if their parameters are written alike."""
        first, second = (chat_request("m", USER, seed=value).digest for value in (one, two))
        written = [encode({"value": freeze(value)}) for value in (one, two)]
        assert (first == second) == (written[0] == written[1])

    @pytest.mark.parametrize("name", ["tools", "response_format", "functions"])
    def test_order_in_a_schema_counts(self, name: str) -> None:
        """The order of a schema's members reaches the model, and is part of the key."""
        one = {"schema": {"reason": 1, "score": 2}}
        two = {"schema": {"score": 2, "reason": 1}}
        first, second = (chat_request("m", USER, **{name: value}) for value in (one, two))
        assert list(json.loads(first.body)[name]["schema"]) == ["reason", "score"]
        assert list(json.loads(second.body)[name]["schema"]) == ["score", "reason"]
        assert first.digest != second.digest

    def test_what_is_in_the_key(self) -> None:
        """Every field of the request changes the digest."""
        variants = [
            chat_request("m", USER),
            chat_request("n", USER),
            chat_request("m", [{"role": "system", "content": "Hi"}]),
            chat_request("m", [{"role": "user", "content": "Hi", "name": "lisa"}]),
            chat_request("m", USER, temperature=0.5),
            chat_request("m", USER, tools=[{"type": "function"}]),
            chat_request("m", USER, response_format={"type": "json_object"}),
            chat_request("m", USER, namespace="other"),
            completion_request("m", "Hi"),
            completion_request("m", ["Hi", "Hi"]),
            embedding_request("m", "Hi"),
        ]
        assert len({variant.digest for variant in variants}) == len(variants)

    def test_what_is_not(self) -> None:
        """How a request is asked does not change its key, except for the sample."""
        request = chat_request("m", USER)
        options = CallOptions(
            lane="lisa", purpose="plan", timeout_seconds=3, deadline_seconds=9, cache="refresh"
        )
        assert Call(request, options).key == Call(request).key == request.digest
        assert Call(request, CallOptions(sample=2)).key != request.digest

    def test_stable(self) -> None:
        """The digest of a request is the same for ever, or answers would be lost."""
        digest = chat_request("gpt-4o-mini", USER, temperature=1, max_tokens=10).digest
        assert digest == "bea6c103b5ecbffa1ef86a6fa031f660591c1db1512236e809072709369db1ff"

    def test_whole_numbers_are_numbers(self) -> None:
        """A temperature of 1 and one of 1.0 ask the same."""
        one, two = (chat_request("m", USER, temperature=value).digest for value in (1, 1.0))
        assert one == two

    def test_none_is_not_given(self) -> None:
        """A parameter that is None is the same as none."""
        assert chat_request("m", USER, stop=None).digest == chat_request("m", USER).digest


class TestBadInput:
    @pytest.mark.parametrize(
        ("conversation", "said"),
        [
            ([], "empty"),
            ("Hello", "not a str"),
            ({"role": "user", "content": "Hi"}, "list"),
            (None, "NoneType"),
            (["Hello"], "message 0 is of type str"),
            ([{"content": "Hi"}], "no role"),
            ([{"role": "king", "content": "Hi"}], "unknown role 'king'"),
            ([{"role": "user"}], "neither content nor tool calls"),
            ([*USER, {"role": "user", "content": 5}], "message 1"),
            ([{"role": "user", "content": [{"type": object()}]}], "no JSON form"),
        ],
    )
    def test_messages(self, conversation: Any, said: str) -> None:
        """What is not a list of role and content is refused, and the error names the place."""
        with pytest.raises(BadRequest, match=said):
            chat_request("m", conversation)

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [
            ({"temperature": float("nan")}, "nan"),
            ({"seed": 2**70}, "integer"),
            ({"tools": {"a": object()}}, "parameters.tools.a"),
            ({"tools": {1: 2}}, "not a string"),
            ({"stop": b"x"}, "bytes"),
            ({"stream": True}, "stream"),
        ],
    )
    def test_parameters(self, parameters: Any, said: str) -> None:
        """What JSON cannot express is refused, and the error names the place."""
        with pytest.raises(BadRequest, match=said):
            chat_request("m", USER, **parameters)

    def test_unpaired_surrogate(self) -> None:
        """Text that cannot be sent is refused before anything is sent."""
        with pytest.raises(BadRequest, match="surrogate"):
            _ = chat_request("m", [{"role": "user", "content": "\ud800"}]).digest

    def test_nul_and_huge(self) -> None:
        """A NUL and ten megabytes are ordinary text."""
        request = chat_request("m", [{"role": "user", "content": "\0" + "ä" * 5_000_000}])
        assert len(request.digest) == 64
        assert json.loads(request.body)["messages"][0]["content"].startswith("\0ä")

    @pytest.mark.parametrize("model", ["", "  ", None, 3])
    def test_model(self, model: Any) -> None:
        """A request names a model."""
        with pytest.raises(BadRequest, match="model"):
            chat_request(model, USER)

    @pytest.mark.parametrize("given_texts", [[], [""], [3]])
    def test_texts(self, given_texts: Any) -> None:
        """There is a text to embed, and it is text."""
        with pytest.raises(BadRequest, match="text to embed"):
            embedding_request("m", given_texts)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: RetryPolicy(max_attempts=0),
            lambda: RetryPolicy(factor=0.5),
            lambda: RetryPolicy(waiting_seconds=-1),
            lambda: CallOptions(cache="sometimes"),
            lambda: CallOptions(sample=-1),
            lambda: CallOptions(timeout_seconds=0),
            lambda: CallOptions(deadline_seconds=float("nan")),
        ],
    )
    def test_options(self, make: Any) -> None:
        """An option out of its range is refused when it is made."""
        with pytest.raises(BadRequest):
            make()


class TestImmutable:
    def test_caller_keeps_their_messages(self) -> None:
        """Neither side sees the other's later changes."""
        conversation = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
        before = copy.deepcopy(conversation)
        request = chat_request("m", conversation)
        digest = request.digest
        conversation[0]["content"][0]["text"] = "changed"  # type: ignore[index]
        assert request.digest == digest
        assert json.loads(request.body)["messages"] == before

    def test_values_refuse_changes(self) -> None:
        """A request, its parameters and a response cannot be changed."""
        request = chat_request("m", USER, tools=[{"a": 1}])
        response = parse_response("chat", chat_content("Hi"))
        with pytest.raises(AttributeError):
            request.model = "other"  # type: ignore[misc]
        for change in (
            lambda: request.parameters.update(a=1),
            lambda: request.parameters.__setitem__("a", 1),
            lambda: request.parameters.pop("tools"),
            lambda: request.parameters.clear(),
        ):
            with pytest.raises(TypeError, match="immutable"):
                change()
        response.message["content"] = "changed"
        assert response.message["content"] == "Hi"

    @given(json_values)
    def test_freezing_changes_no_value(self, value: Any) -> None:
        """A frozen value is written as the value it was made from."""
        written = encode({"value": freeze(value)})
        assert json.loads(written) == json.loads(json.dumps({"value": value}))

    @given(json_values)
    def test_frozen_values_travel(self, value: Any) -> None:
        """A frozen mapping survives pickling and copying, and can be hashed."""
        frozen = FrozenDict({"value": freeze(value)})
        assert pickle.loads(pickle.dumps(frozen)) == frozen
        assert copy.deepcopy(frozen) is frozen
        assert hash(frozen) == hash(pickle.loads(pickle.dumps(frozen)))

    def test_requests_and_responses_travel(self) -> None:
        """Requests, calls and responses survive pickling."""
        for value in (
            Call(chat_request("m", USER, tools=[{"a": 1}])),
            Message("user", "Hi"),
            parse_response("chat", chat_content("Hi")),
        ):
            assert pickle.loads(pickle.dumps(value)) == value


class TestResponse:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "empty"),
            (b"   ", "empty"),
            (b"<html>busy</html>", "HTML"),
            (b'{"choices": [', "not valid JSON"),
            (b"null", "JSON null"),
            (b"[]", "JSON list"),
            (b'"Hello"', "JSON str"),
            (b"{}", "no choices"),
            (b'{"choices": []}', "no choices"),
            (b'{"choices": [null]}', "shape"),
            (b'{"choices": [{}]}', "shape"),
            (b'{"choices": [{"message": null}]}', "shape"),
            (b'{"choices": [{"message": {"content": 5}}]}', "not text"),
            (chat_content(None), "neither content nor tool calls"),
        ],
    )
    def test_meaningless_answers_are_refused(self, content: bytes, said: str) -> None:
        """What is not an answer is a typed error that says what came instead."""
        with pytest.raises(MalformedResponse, match=said):
            parse_response("chat", content)

    @pytest.mark.parametrize(
        "content",
        [
            b'{"data": []}',
            b'{"data": [{"index": 1, "embedding": [1]}]}',
            b'{"data": [{"index": 0, "embedding": []}]}',
            b'{"data": [{"index": 0, "embedding": ["1"]}]}',
            b'{"data": [{"index": 0, "embedding": [null]}]}',
        ],
    )
    def test_meaningless_vectors_are_refused(self, content: bytes) -> None:
        """Vectors are numbered from 0 and hold numbers."""
        with pytest.raises(MalformedResponse):
            parse_response("embedding", content)

    def test_vectors_in_the_order_of_their_index(self) -> None:
        """Vectors that come out of order are put in order."""
        rows = [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]
        assert parse_response("embedding", json.dumps({"data": rows}).encode()).embeddings == [
            [1],
            [2],
        ]

    @given(st.binary(max_size=200))
    def test_any_bytes_have_an_outcome(self, content: bytes) -> None:
        """Whatever comes is an answer or a typed error, never another exception."""
        for kind in ("chat", "completion", "embedding"):
            with suppress(MalformedResponse):
                parse_response(kind, content)  # type: ignore[arg-type]

    @given(json_values)
    def test_any_json_has_an_outcome(self, value: Any) -> None:
        """Whatever JSON comes is an answer or a typed error, also under the known names."""
        for name in ("choices", "data", "usage"):
            body = {**json.loads(chat_content("Hi")), name: value}
            for kind in ("chat", "completion", "embedding"):
                with suppress(MalformedResponse):
                    parse_response(kind, json.dumps(body).encode())  # type: ignore[arg-type]

    def test_tool_calls_and_refusals_are_answers(self) -> None:
        """A message without content is an answer when it calls a tool or refuses."""
        for extra in (
            {"tool_calls": [{"id": "1"}]},
            {"refusal": "No."},
            {"function_call": {"a": 1}},
        ):
            response = parse_response("chat", chat_content(None, **extra))
            assert response.text == ""
            assert response.message[next(iter(extra))]

    def test_usage_is_inclusive(self) -> None:
        """Cached and reasoning tokens are told as parts of input and output."""
        body = json.loads(chat_content("Hi"))
        body["usage"] = {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 80},
            "completion_tokens_details": {"reasoning_tokens": 40},
        }
        usage = parse_response("chat", json.dumps(body).encode()).usage
        assert usage == Usage(100, 50, 80, 40)
        assert usage.total_tokens == 150

    def test_unknown_usage_is_said(self) -> None:
        """An endpoint that does not tell the tokens gives None, not zero."""
        body = json.loads(chat_content("Hi"))
        del body["usage"]
        assert parse_response("chat", json.dumps(body).encode()).usage is None

    @given(texts, st.floats(0, 1000), st.none() | texts)
    def test_record_keeps_the_answer(self, text: str, seconds: float, name: str | None) -> None:
        """What a record keeps is found in it again, byte for byte."""
        response = parse_response("chat", chat_content(text), seconds=seconds, request_id=name)
        again = from_record(response.to_record(), "cache")
        assert (again.content, again.text, again.request_id) == (response.content, text, name)
        assert again.seconds == pytest.approx(seconds, abs=1e-6)
        assert (again.origin, again.attempts) == ("cache", 0)


class TestErrors:
    @pytest.mark.parametrize(
        "cls",
        [
            value
            for value in vars(errors).values()
            if isinstance(value, type) and issubclass(value, LLMError)
        ],
    )
    def test_every_error_travels(self, cls: type[LLMError]) -> None:
        """Every error crosses process borders with all it knows."""
        error = cls("what happened", model="m", lane="lisa", attempts=2)
        error.history = ("ServerFault: before",)
        if isinstance(error, LLMAPIError):
            error.status, error.code = 429, "rate_limit_exceeded"
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is cls
        assert vars(again) == vars(error)
        assert str(again) == str(error)
        assert "what happened" in str(error)
        assert "lisa" in str(error)

    def test_tree(self) -> None:
        """Whoever catches a kind of failure catches all of its kind."""
        for name in [
            "BadRequest",
            "ContextTooLong",
            "AuthenticationFailed",
            "QuotaExhausted",
            "ModelNotFound",
            "ContentFiltered",
        ]:
            assert issubclass(getattr(errors, name), errors.InvalidRequestError)
        for name in ["RateLimited", "ServerFault", "MalformedResponse"]:
            assert issubclass(getattr(errors, name), errors.NonTerminalError)
        for name in ["ConnectionFailed", "TimedOut"]:
            assert issubclass(getattr(errors, name), errors.LLMConnectionError)

    def test_body_is_an_excerpt(self) -> None:
        """A huge body does not travel with the error."""
        assert len(errors.ServerFault("x", body="y" * 10_000).body) == 500


def test_recursion_has_an_outcome() -> None:
    """A value nested too deeply is refused, not a crash."""
    value: Any = []
    for _ in range(sys.getrecursionlimit() + 100):
        value = [value]
    with pytest.raises(BadRequest):
        chat_request("m", USER, tools=value)
