"""What the Anthropic transport makes of real bytes on real connections, in both colours."""

from __future__ import annotations

import gc
import json
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from provider_calls import (
    ASSISTANT,
    ONCE,
    PERSON,
    PNG,
    TIME,
    TWICE,
    WEATHER,
    call,
    drain,
    image,
    no_keys_from_outside,
    result,
    stamp,
    take_first,
    text,
    user,
)
from provider_servers import AnthropicServer, to_events, write_event
from servers import (
    Close,
    Pause,
    Reset,
    ScriptedServer,
    chunked_reply,
    drip,
    find_dead_url,
    http_reply,
)

from tinytroupe.llm.client import Client, ClientDefaults
from tinytroupe.llm.errors import (
    AuthenticationFailed,
    BadRequest,
    ConfigError,
    ConnectionFailed,
    ContextTooLong,
    LLMAPIError,
    LLMError,
    MalformedResponse,
    ModelNotFound,
    QuotaExhausted,
    RateLimited,
    ServerFault,
    TimedOut,
)
from tinytroupe.llm.request import (
    Request,
    RetryPolicy,
    chat_request,
    completion_request,
    embedding_request,
)
from tinytroupe.llm.response import Response, Usage
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.transports.anthropic import AnthropicTransport
from tinytroupe.llm.transports.anthropic_wire import DEFAULT_MAX_TOKENS

__all__ = ["no_keys_from_outside"]
pytestmark = pytest.mark.usefixtures("no_keys_from_outside")

MODEL = "claude-opus-5"
OLD_MODEL = "claude-sonnet-4-6"


def ask(*messages: Any, model: str = MODEL, **parameters: Any) -> Request:
    return chat_request(model, messages or [user("Hi ☃")], **parameters)


@pytest.fixture
def connect(colour: Any) -> Any:
    """Makes a client for a server, and closes it in the end."""
    clients = []

    def make(url: str, defaults: ClientDefaults = ONCE, store: Any = None) -> Any:
        clients.append(colour.make_client(AnthropicTransport("key", url), store, defaults))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def send_one(connect: Any, request: Request) -> tuple[dict[str, Any], Response]:
    """Sends a request to a server of the API; returns what arrived, and the response."""
    with AnthropicServer() as server:
        response = connect(server.url).send(request)
        (body,) = server.bodies
    return body, response


class TestQuestion:
    """What arrives at the server."""

    def test_the_plainest(self, connect: Any) -> None:
        """A text of the user, the model, and the limit that the API demands."""
        with AnthropicServer() as server:
            response = connect(server.url).send(ask())
            (received,) = server.requests
        assert received.path == "/v1/messages"
        assert received.headers["authorization"] == "Bearer key"
        assert received.headers["anthropic-version"] == "2026-10-21"
        assert received.json() == {
            "model": MODEL,
            "max_tokens": DEFAULT_MAX_TOKENS,
            "messages": [{"role": "user", "content": [text("Hi ☃")]}],
        }
        assert response.text == "You said: Hi ☃"

    def test_system_messages_anywhere(self, connect: Any) -> None:
        """All the system's messages go in front, in order, as blocks of their own."""
        body, _ = send_one(
            connect,
            ask(
                {"role": "system", "content": "You are Lisa."},
                user("Hi"),
                {"role": "assistant", "content": "Hello."},
                {"role": "developer", "content": [text("Be"), text("brief.")]},
                user("Bye"),
            ),
        )
        assert body["system"] == [text("You are Lisa."), text("Be"), text("brief.")]
        assert body["messages"] == [
            {"role": "user", "content": [text("Hi")]},
            {"role": "assistant", "content": [text("Hello.")]},
            {"role": "user", "content": [text("Bye")]},
        ]

    @pytest.mark.parametrize("before", [[], [user("Hi"), {"role": "assistant", "content": "Yes?"}]])
    def test_system_has_the_last_word(self, connect: Any, before: list[Any]) -> None:
        """Where nothing of the user asks, the system's last message does."""
        first, last = [{"role": "system", "content": words} for words in ("Be Lisa.", "Begin.")]
        body, _ = send_one(connect, ask(first, *before, last))
        assert body["system"] == [text("Be Lisa.")]
        assert body["messages"][-1] == {"role": "user", "content": [text("Begin.")]}

    def test_assistant_speaks_first(self, connect: Any) -> None:
        """A conversation that the assistant began stays as it is."""
        body, _ = send_one(connect, ask(ASSISTANT, user("Hi")))
        assert [turn["role"] for turn in body["messages"]] == ["assistant", "user"]

    def test_neighbours_of_one_side(self, connect: Any) -> None:
        """Messages of one side become one turn of several blocks; empty ones say nothing."""
        body, _ = send_one(
            connect,
            ask(
                user("One"),
                user(""),
                user("two"),
                {"role": "assistant", "content": "A"},
                {"role": "assistant", "content": "B"},
                user("three"),
            ),
        )
        assert body["messages"] == [
            {"role": "user", "content": [text("One"), text("two")]},
            {"role": "assistant", "content": [text("A"), text("B")]},
            {"role": "user", "content": [text("three")]},
        ]

    def test_images(self, connect: Any) -> None:
        """Pictures go by address or as bytes, in their place between texts."""
        address = "https://example.org/a.png"
        body, _ = send_one(
            connect,
            ask(user(text("See"), image(f"data:image/png;base64,{PNG}"), image(address))),
        )
        assert body["messages"][0]["content"] == [
            text("See"),
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PNG},
            },
            {"type": "image", "source": {"type": "url", "url": address}},
        ]

    def test_tools(self, connect: Any) -> None:
        """Functions are tools with a schema of their input; one without parameters has one too."""
        body, _ = send_one(connect, ask(tools=[WEATHER, TIME]))
        assert body["tools"] == [
            {
                "name": "weather",
                "description": "Tells the weather.",
                "input_schema": WEATHER["function"]["parameters"],
            },
            {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
        ]

    @pytest.mark.parametrize(
        ("parameters", "choice"),
        [
            ({"tool_choice": "auto"}, {"type": "auto"}),
            ({"tool_choice": "required"}, {"type": "any"}),
            ({"tool_choice": "none"}, {"type": "none"}),
            (
                {"tool_choice": {"type": "function", "function": {"name": "clock"}}},
                {"type": "tool", "name": "clock"},
            ),
            ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
            (
                {"parallel_tool_calls": False, "tool_choice": "required"},
                {"type": "any", "disable_parallel_tool_use": True},
            ),
            ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
            ({"parallel_tool_calls": True}, None),
        ],
    )
    def test_choice_of_tools(self, connect: Any, parameters: Any, choice: Any) -> None:
        """Whether and which tool has to be used is said in Anthropic's words."""
        body, _ = send_one(connect, ask(tools=[WEATHER, TIME], **parameters))
        assert body.get("tool_choice") == choice

    def test_results_of_tools(self, connect: Any) -> None:
        """Calls and results keep ids and order; the results come first in the user's turn."""
        body, _ = send_one(
            connect,
            ask(
                user("Weather?"),
                {"role": "assistant", "content": "Well.", "tool_calls": [call(1), call(2, "")]},
                result(1),
                {"role": "tool", "tool_call_id": "call_2", "content": [text("rain"), text("y")]},
                user("And now?"),
                tools=[WEATHER],
            ),
        )
        assert body["messages"][1:] == [
            {
                "role": "assistant",
                "content": [
                    text("Well."),
                    {
                        "type": "tool_use",
                        "id": "call_1",
                        "name": "weather",
                        "input": {"city": "Oslo"},
                    },
                    {"type": "tool_use", "id": "call_2", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": [text("4 °C")]},
                    {
                        "type": "tool_result",
                        "tool_use_id": "call_2",
                        "content": [text("rain"), text("y")],
                    },
                    text("And now?"),
                ],
            },
        ]

    def test_schema(self, connect: Any) -> None:
        """A schema becomes the output's format; what the API does not check is described."""
        wanted = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
        body, response = send_one(connect, ask(response_format=wanted, reasoning_effort="low"))
        schema = body["output_config"]["format"]["schema"]
        assert body["output_config"]["effort"] == "low"
        assert schema["additionalProperties"] is False
        assert "minimum: 18" in schema["properties"]["age"]["description"]
        assert json.loads(response.text) == {"name": "Oslo ☃", "age": 7}

    def test_strict_tools(self, connect: Any) -> None:
        """A strict tool's schema is fitted too."""
        function = {"name": "add", "parameters": PERSON, "strict": True}
        body, _ = send_one(connect, ask(tools=[{"type": "function", "function": function}]))
        (tool,) = body["tools"]
        assert tool["strict"] is True
        assert tool["input_schema"]["additionalProperties"] is False

    @pytest.mark.parametrize(
        ("parameters", "sent"),
        [
            ({"max_tokens": 5}, {"max_tokens": 5}),
            ({"max_completion_tokens": 6}, {"max_tokens": 6}),
            ({"stop": "END"}, {"stop_sequences": ["END"]}),
            ({"stop": ["A", "B"]}, {"stop_sequences": ["A", "B"]}),
            ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
            ({"user": "u-1", "metadata": {"a": "b"}}, {"metadata": {"a": "b", "user_id": "u-1"}}),
            ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
            ({"reasoning_effort": "max"}, {"output_config": {"effort": "max"}}),
            ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
            ({"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive"}}),
            ({"temperature": 1, "top_p": 1}, {}),
            ({"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0}, {}),
            ({"logprobs": False, "logit_bias": {}, "store": False}, {}),
            ({"response_format": {"type": "text"}}, {}),
            ({"tools": []}, {}),
        ],
    )
    def test_parameters(self, connect: Any, parameters: Any, sent: Any) -> None:
        """Each parameter is sent in Anthropic's words, or left out where it asks for nothing."""
        plain, _ = send_one(connect, ask())
        body, _ = send_one(connect, ask(**parameters))
        assert body == {**plain, **sent}

    def test_temperature_of_older_models(self, connect: Any) -> None:
        """A model that can still be told how to draw is asked by the version that takes it."""
        with AnthropicServer() as server:
            client = connect(server.url)
            client.send(ask(model=OLD_MODEL, temperature=0.2, top_p=0.5))
            client.send(ask(model=OLD_MODEL))
            told, untold = server.requests
        assert (told.json()["temperature"], told.json()["top_p"]) == (0.2, 0.5)
        assert told.headers["anthropic-version"] == "2023-06-01"
        assert untold.headers["anthropic-version"] == "2026-10-21"

    @pytest.mark.parametrize(
        ("model", "taken"),
        [
            ("claude-3-5-haiku-20241022", True),
            ("claude-opus-4-20250514", True),
            ("claude-opus-4-1-20250805", True),
            ("claude-opus-4-6", True),
            ("claude-opus-4-7", False),
            ("claude-sonnet-4-5-20250929", True),
            ("claude-haiku-4-5", True),
            ("claude-haiku-5-5", False),
            ("claude-sonnet-5", False),
            ("claude-fable-5-1", False),
            ("another-maker-s", True),
        ],
    )
    def test_which_models_take_a_temperature(self, connect: Any, model: str, taken: bool) -> None:
        """Claude models since Opus 4.7 take none, and the request is refused before it is sent."""
        with AnthropicServer() as server:
            client = connect(server.url)
            if taken:
                assert client.send(ask(model=model, temperature=0)).text
            else:
                with pytest.raises(BadRequest, match=r"temperature.*leave temperature out"):
                    client.send(ask(model=model, temperature=0))
            assert len(server.requests) == taken


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (embedding_request("m", "x"), "no embeddings"),
        (completion_request("m", "x"), "no completions"),
        (ask(n=2), "several answers"),
        (ask(seed=1), "no seed"),
        (ask(frequency_penalty=0.1), "penalties"),
        (ask(presence_penalty=-1), "penalties"),
        (ask(logit_bias={"50256": -100}), "logit_bias"),
        (ask(logprobs=True), "log probabilities"),
        (ask(response_format={"type": "json_object"}), "JSON mode without a schema"),
        (ask(response_format={"type": "json_schema"}), "response_format"),
        (ask(response_format={"type": "yaml"}), "response_format"),
        (ask(temperature=1.2, model=OLD_MODEL), "0 to 1"),
        (ask(stop_sequence="x"), "did you mean stop_sequences"),
        (ask({**user("x"), "name": "lisa"}), "names of speakers"),
        (ask(user({"type": "input_audio", "input_audio": {}})), "audio and files"),
        (ask(user({"type": "file", "file": {}})), "audio and files"),
        (ask(user({"type": "video"})), "type 'video'"),
        (ask(user(image("file:///etc/passwd"))), "no image"),
        (ask(user(image("data:image/tiff;base64,AAAA"))), "no images of type image/tiff"),
        (ask(user(image("data:image/png;base64,%%%%"))), "not in base64"),
        (ask(user(image("data:image/png,raw"))), "no image"),
        (ask(user("Hi"), ASSISTANT), "ends with what the assistant said"),
        (ask(user(" \n")), "nothing but space"),
        (ask(user("")), "no words"),
        (ask(tools=[{"type": "web_search"}]), "tool of type 'web_search'"),
        (ask(tools=[WEATHER], tool_choice={"type": "allowed_tools"}), "tool_choice"),
        (ask(user("x"), {"role": "tool", "content": "x"}), "no tool_call_id"),
        (ask(user("x"), {**ASSISTANT, "tool_calls": [call(1, "[1]")]}, result(1)), "JSON object"),
        (ask(user("x"), {**ASSISTANT, "tool_calls": [call(1, "{")]}, result(1)), "JSON object"),
        (ask(user("x"), {**ASSISTANT, "tool_calls": [{"id": "1"}]}, result(1)), "no function"),
        (ask(user("x"), {"role": "function", "name": "f", "content": "x"}), "old way"),
        (ask({"role": "system", "content": [image("https://a.b/c")]}, user("x")), "no image"),
        (
            ask(
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "p", "schema": {"description": "anything"}},
                }
            ),
            "JSON schema",
        ),
    ],
)
def test_refused_before_the_call(connect: Any, request_: Request, said: str) -> None:
    """What Anthropic lacks is a clear error, and nothing is sent."""
    with AnthropicServer() as server:
        with pytest.raises(BadRequest, match=said) as caught:
            connect(server.url, TWICE).send(request_)
        assert not server.requests
    assert caught.value.attempts <= 1


class TestAnswer:
    """What comes out."""

    def test_usage(self, connect: Any) -> None:
        """Input includes what was read from and written to the cache, output includes thought."""
        _, response = send_one(connect, ask())
        assert response.usage == Usage(330, 50, 300, 40)
        assert response.raw["usage"]["total_tokens"] == 380

    def test_facts(self, connect: Any) -> None:
        """The model's own name, the endpoint's, the request's and the time are there."""
        _, response = send_one(connect, ask())
        assert response.model == "claude-opus-5-dated"
        assert (response.endpoint, response.request_id) == ("anthropic", "req_1")
        assert response.raw["id"] == "msg_1"
        assert abs(response.raw["created"] - time.time()) < 60

    @pytest.mark.parametrize(
        ("words", "reason"),
        [("Hi", "stop"), ("be long", "length"), ("forbidden", "content_filter")],
    )
    def test_why_it_stopped(self, connect: Any, words: str, reason: str) -> None:
        """Anthropic's reasons to stop are said in OpenAI's words."""
        _, response = send_one(connect, ask(user(words)))
        assert response.finish_reason == reason
        if reason == "content_filter":
            assert response.message["refusal"] == "I had rather not."

    @pytest.mark.parametrize("reason", ["stop_sequence", "model_context_window_exceeded", "other"])
    def test_rarer_reasons(self, connect: Any, reason: str) -> None:
        """Rarer ones too; an unknown one stays as it is."""
        body = make_message(stop_reason=reason)
        with ScriptedServer([http_reply(200, body)]) as server:
            said = connect(server.url).send(ask()).finish_reason
        assert said == {"stop_sequence": "stop", "other": "other"}.get(reason, "length")

    def test_calls_at_once(self, connect: Any) -> None:
        """Several tool calls come with ids, names and arguments, beside the text."""
        _, response = send_one(connect, ask(user("use tools"), tools=[WEATHER, TIME]))
        assert response.finish_reason == "tool_calls"
        assert response.text == "Let me look."
        assert [
            (call["id"], call["type"], call["function"]["name"], call["function"]["arguments"])
            for call in response.message["tool_calls"]
        ] == [
            ("toolu_1_0", "function", "weather", '{"city":"Oslo ☃"}'),
            ("toolu_1_1", "function", "clock", "{}"),
        ]

    def test_calls_alone(self, connect: Any) -> None:
        """A forced call comes without text."""
        _, response = send_one(connect, ask(tools=[WEATHER], tool_choice="required"))
        assert response.message["content"] is None
        assert len(response.message["tool_calls"]) == 1

    def test_the_loop(self, connect: Any) -> None:
        """The message goes back as it came, thought included, and its results are accepted."""
        question = [user("think, and use tools")]
        with AnthropicServer() as server:
            client = connect(server.url)
            message = client.send(ask(*question, tools=[WEATHER, TIME])).message
            results = [
                {"role": "tool", "tool_call_id": made["id"], "content": "done"}
                for made in message["tool_calls"]
            ]
            answer = client.send(ask(*question, message, *results, user("So?"), tools=[WEATHER]))
            blocks = server.bodies[1]["messages"][1]["content"]
        assert answer.text == "You said: So?"
        assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
        assert blocks[0] == {"type": "thinking", "thinking": "Hm ☃.", "signature": "sig=="}

    def test_refused_ones_are_not_kept(self, connect: Any) -> None:
        """An answer that was kept is not bought again; one that was declined is not kept."""
        store = MemoryStore()
        with AnthropicServer() as server:
            client = connect(server.url, ONCE, store)
            first, again = client.send(ask()), client.send(ask())
            client.send(ask(user("forbidden")))
            client.send(ask(user("forbidden")))
            assert len(server.requests) == 3
        assert (first.origin, again.origin, again.text) == ("live", "cache", first.text)
        assert again.usage == first.usage

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{broken",
            b"[]",
            b"<html>",
            {"type": "message"},
            {"type": "message", "id": "m", "model": "m", "stop_reason": "end_turn", "content": [1]},
            {"type": "message", "id": "m", "model": "m", "stop_reason": "end_turn", "content": []},
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        ],
    )
    def test_meaningless(self, connect: Any, body: Any) -> None:
        """What is no answer is tried again and never kept."""
        store = MemoryStore()
        good = http_reply(200, make_message())
        with ScriptedServer([http_reply(200, body), good]) as server:
            assert connect(server.url, TWICE, store).send(ask()).attempts == 2
        assert len(store) == 1


def make_message(words: str = "Hello.", **changes: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [text(words)],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {"input_tokens": 1, "output_tokens": 2},
        **changes,
    }


def make_error(kind: str, said: str = "No.", **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": said, **more}}


GOOD = http_reply(200, make_message())


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "body", "cls"),
        [
            (400, make_error("invalid_request_error"), BadRequest),
            (
                400,
                make_error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
                ContextTooLong,
            ),
            (
                400,
                make_error("invalid_request_error", "Your credit balance is too low to access"),
                QuotaExhausted,
            ),
            (401, make_error("authentication_error"), AuthenticationFailed),
            (402, make_error("billing_error"), QuotaExhausted),
            (403, make_error("permission_error"), AuthenticationFailed),
            (404, make_error("not_found_error", "model: claude-x"), ModelNotFound),
            (413, make_error("request_too_large"), BadRequest),
            (429, make_error("rate_limit_error"), RateLimited),
            (
                429,
                make_error(
                    "rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}
                ),
                QuotaExhausted,
            ),
            (500, make_error("api_error"), ServerFault),
            (504, make_error("timeout_error"), ServerFault),
            (529, make_error("overloaded_error"), ServerFault),
            (502, b"<html>bad gateway</html>", ServerFault),
        ],
    )
    def test_table(self, connect: Any, status: int, body: Any, cls: type) -> None:
        """Each failure is one of ours, with status, request id, wait, and the server's words."""
        headers = {"request-id": "req_9", "retry-after": "7"}
        with ScriptedServer([http_reply(status, body, headers)]) as server:
            with pytest.raises(LLMAPIError) as caught:
                connect(server.url).send(ask())
            assert len(server.requests) == 1
        error = caught.value
        assert type(error) is cls
        assert (error.status, error.request_id, error.retry_after_seconds) == (status, "req_9", 7)
        if isinstance(body, dict):
            assert body["error"]["message"] in str(error)
            assert error.code == body["error"].get("details", {}).get(
                "error_code", body["error"]["type"]
            )

    def test_the_sdk_tries_once(self, connect: Any) -> None:
        """Trying again is the chain's business, and follows the server's wish."""
        overloaded = http_reply(529, make_error("overloaded_error"), {"retry-after-ms": "1"})
        with ScriptedServer([overloaded, GOOD]) as server:
            assert connect(server.url, TWICE).send(ask()).attempts == 2
            assert len(server.requests) == 2

    def test_nobody_listens(self, connect: Any) -> None:
        """A dead address is a connection failure that names the address and the reason."""
        url = find_dead_url()
        with pytest.raises(ConnectionFailed, match="failed:") as caught:
            connect(url).send(ask())
        assert url in str(caught.value)

    @pytest.mark.parametrize("end", [Close(), Reset()])
    def test_cut_short(self, connect: Any, end: Any) -> None:
        """An answer whose connection breaks is a connection failure, and is tried again."""
        with ScriptedServer([[GOOD[:-20], end], [end], GOOD]) as server:
            client = connect(server.url)
            for _ in range(2):
                with pytest.raises(ConnectionFailed):
                    client.send(ask())
            assert client.send(ask()).text == "Hello."

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize("kind", ["silent", "drip"])
    def test_deadline(self, connect: Any, kind: str, streamed: bool) -> None:
        """A server that is silent or drips is given up after the attempt's time as a whole."""
        replies = {"silent": [Pause(5)], "drip": [GOOD[:60], *drip(GOOD[60:], 0.05)]}
        started = time.monotonic()
        with ScriptedServer([replies[kind]]) as server:
            client = connect(server.url, ClientDefaults(RetryPolicy(1), 0.4))
            with pytest.raises(TimedOut, match=r"0\.4 s"):
                drain(client, ask()) if streamed else client.send(ask())
        assert time.monotonic() - started < 3

    def test_surplus_reaches_nobody(self, connect: Any) -> None:
        """A second answer to one request is not read as the answer to the next."""
        foreign = http_reply(200, make_message("Meant for another."))
        with ScriptedServer([[GOOD, Pause(0.05), foreign], GOOD]) as server:
            client = connect(server.url)
            assert client.send(ask()).text == "Hello."
            time.sleep(0.15)
            assert client.send(ask()).text == "Hello."
            assert server.connections == 2

    def test_connections_are_kept(self, connect: Any) -> None:
        """Calls one after another share a connection, streamed ones included."""
        with AnthropicServer() as server:
            client = connect(server.url)
            for _ in range(3):
                client.send(ask())
                drain(client, ask())
            assert server.connections == 1

    def test_proxy(self, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy that the environment names is used."""
        with ScriptedServer(then=GOOD) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            connect("http://far.example").send(ask())
            assert proxy.requests[0].path == "http://far.example/v1/messages"


def write_stream(events: list[dict[str, Any]], *, terminated: bool = True) -> bytes:
    written = [write_event(event) for event in events]
    return chunked_reply(written, terminated=terminated, content_type="text/event-stream")


class TestStream:
    @pytest.mark.parametrize(
        ("words", "tools"),
        [
            ("tell me of ☃ and 𝄞", []),
            ("think first", []),
            ("use tools", [WEATHER, TIME]),
            ("think, then use tools", [WEATHER]),
            ("forbidden", []),
            ("something long", []),
        ],
    )
    def test_same_as_unstreamed(self, connect: Any, words: str, tools: list[Any]) -> None:
        """The pieces are the text, and the response is the one that comes unstreamed."""
        request = ask(user(words), tools=tools)
        with AnthropicServer() as server:
            client = connect(server.url)
            pieces, streamed = drain(client, request)
            whole = client.send(request)
        assert "".join(pieces) == streamed.text == whole.text
        assert len(pieces) > 1 or not whole.text
        assert server.bodies[0] == {**server.bodies[1], "stream": True}
        for raw in (first := streamed.raw, second := whole.raw):
            del raw["id"], raw["created"]
            for made in raw["choices"][0]["message"].get("tool_calls", []):
                made["id"] = made["id"].replace("_1_", "_2_")
        assert first == second
        assert (streamed.usage, streamed.request_id) == (whole.usage, "req_1")

    def test_pieces_come_as_they_are_sent(self, connect: Any) -> None:
        """A piece is there before the next one is written, and a late one ends the wait."""
        events = [write_event(event) for event in to_events(make_message("one two"))]
        head = chunked_reply([b"x"], content_type="text/event-stream").partition(b"\r\n\r\n")[0]
        steps: list[Any] = [head + b"\r\n\r\n"]
        for event in events:
            steps += [b"%x\r\n%s\r\n" % (len(event), event), Pause(0.1)]
        with ScriptedServer([[*steps, b"0\r\n\r\n"]]) as server:
            client = connect(server.url)
            arrivals: list[float] = []
            stamp(client, ask(), arrivals)
        assert len(arrivals) == 3
        assert arrivals[1] - arrivals[0] > 0.05

    def test_kept(self, connect: Any) -> None:
        """A whole stream is kept, and the next call is a hit that streams from the store."""
        with AnthropicServer() as server:
            client = connect(server.url, ONCE, MemoryStore())
            first = drain(client, ask())[1]
            pieces, hit = drain(client, ask())
            assert client.send(ask()).origin == "cache"
            assert len(server.requests) == 1
        assert (pieces, hit.origin) == ([first.text], "cache")

    @pytest.mark.parametrize("end", [Close(), Reset()])
    def test_cut(self, connect: Any, end: Any) -> None:
        """A stream that breaks is a typed error with what had come; it is not tried or kept."""
        events = list(to_events(make_message("one two three")))[:-3]
        store = MemoryStore()
        with ScriptedServer([[write_stream(events, terminated=False), Pause(0.1), end]]) as server:
            with pytest.raises(ConnectionFailed) as caught:
                drain(connect(server.url, TWICE, store), ask())
            assert len(server.requests) == 1
        assert caught.value.partial == "one two three"
        assert len(store) == 0

    def test_ended_early(self, connect: Any) -> None:
        """A stream that ends in order before its last event is none either."""
        events = list(to_events(make_message("one two")))[:-1]
        with (
            ScriptedServer([write_stream(events)]) as server,
            pytest.raises(MalformedResponse, match="before the answer was whole") as caught,
        ):
            drain(connect(server.url), ask())
        assert caught.value.partial == "one two"

    def test_breaks_off_with_an_error(self, connect: Any) -> None:
        """An error in the middle is the one it says, with its request id and what had come."""
        events = [
            *list(to_events(make_message("one two")))[:-3],
            {**make_error("overloaded_error", "Overloaded"), "request_id": "req_5"},
        ]
        with (
            ScriptedServer([write_stream(events)]) as server,
            pytest.raises(ServerFault, match="Overloaded") as caught,
        ):
            drain(connect(server.url), ask())
        assert (caught.value.request_id, caught.value.partial) == ("req_5", "one two")

    def test_garbage(self, connect: Any) -> None:
        """A piece that is no event is no answer."""
        garbage = chunked_reply([b"data: {broken\n\n"], content_type="text/event-stream")
        with ScriptedServer([garbage]) as server, pytest.raises(MalformedResponse):
            drain(connect(server.url), ask())

    def test_refused(self, connect: Any) -> None:
        """A failure before the first piece is the same as without a stream, and tried again."""
        busy = http_reply(529, make_error("overloaded_error"), {"retry-after-ms": "1"})
        good = write_stream(list(to_events(make_message("one two"))))
        with ScriptedServer([busy, good]) as server:
            pieces, response = drain(connect(server.url, TWICE), ask())
        assert (pieces, response.attempts) == (["one ", "two"], 2)

    def test_server_that_does_not_stream(self, connect: Any) -> None:
        """A server that answers whole where a stream was asked for is understood."""
        with ScriptedServer([GOOD]) as server:
            pieces, response = drain(connect(server.url), ask())
        assert (pieces, response.text) == (["Hello."], "Hello.")

    def test_cut_arguments(self, connect: Any) -> None:
        """The arguments of a call that the limit cut are handed on as they came."""
        made = {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Oslo"}}
        events = list(to_events(make_message(content=[made], stop_reason="max_tokens")))
        del events[-4]
        with ScriptedServer([write_stream(events)]) as server:
            _, response = drain(connect(server.url), ask(tools=[WEATHER]))
        assert response.finish_reason == "length"
        (cut,) = response.message["tool_calls"]
        assert cut["function"]["arguments"] == '{"city":'

    def test_leaving_early_hangs_up(self, connect: Any) -> None:
        """Who stops reading ends the exchange, and the next call has a connection of its own."""
        events = list(to_events(make_message("one two three")))
        started = write_stream(events[:-4], terminated=False)
        with ScriptedServer([[started, Pause(5)], GOOD]) as server:
            client = connect(server.url)
            assert take_first(client, ask()) == "one "
            gc.collect()
            assert client.send(ask()).text == "Hello."
            assert server.connections == 2


class TestSetup:
    def test_missing_key(self, colour: Any) -> None:
        """Without a key the error names the variable."""
        with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
            colour.make_client(AnthropicTransport(), None, ONCE).send(ask())

    @pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
    @pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
    def test_environment(
        self, colour: Any, monkeypatch: pytest.MonkeyPatch, variable: str, suffix: str
    ) -> None:
        """Key and address are found under their usual names, the address with and without /v1."""
        with AnthropicServer() as server:
            monkeypatch.setenv(variable, "key")
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url + suffix)
            client = colour.make_client(AnthropicTransport(), None, ONCE)
            assert client.send(ask()).text
            client.close()

    def test_another_server_needs_no_key(self, colour: Any) -> None:
        """With an address of one's own no key is needed."""
        with ScriptedServer([GOOD]) as server:
            client = colour.make_client(AnthropicTransport(base_url=server.url), None, ONCE)
            assert client.send(ask()).text == "Hello."
            client.close()

    def test_key_is_not_shown(self, colour: Any) -> None:
        """Neither the repr nor an error shows the key."""
        transport = AnthropicTransport("sk-secret", find_dead_url())
        with pytest.raises(LLMError) as caught:
            colour.make_client(transport, None, ONCE).send(ask())
        assert "sk-secret" not in repr(transport) + repr(caught.value) + repr(vars(caught.value))

    def test_missing_package(self, colour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the package the error says how to install it."""
        monkeypatch.setitem(sys.modules, "anthropic", None)
        with pytest.raises(ConfigError, match=r"pip install 'tinytroupe\[anthropic\]'"):
            colour.make_client(AnthropicTransport("key"), None, ONCE).send(ask())

    def test_close_and_go_on(self, connect: Any) -> None:
        """After closing, the next call opens a new connection."""
        with AnthropicServer() as server:
            client = connect(server.url)
            client.send(ask())
            client.close()
            assert client.send(ask()).text
            assert server.connections == 2

    def test_many_threads(self) -> None:
        """Threads that share a transport get their own answers."""
        with AnthropicServer() as server:
            client = Client(AnthropicTransport("key", server.url), None, ONCE)
            with ThreadPoolExecutor(16) as pool:
                said = list(pool.map(lambda n: client.send(ask(user(f"n {n}"))).text, range(100)))
            client.close()
        assert said == [f"You said: n {n}" for n in range(100)]

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
    def test_fork(self) -> None:
        """A forked child opens connections of its own."""
        with AnthropicServer() as server:
            client = Client(AnthropicTransport("key", server.url), None, ONCE)
            client.send(ask())
            child = multiprocessing.get_context("fork").Process(target=client.send, args=(ask(),))
            child.start()
            child.join(30)
            assert child.exitcode == 0
            assert client.send(ask()).text
            assert server.connections == 2
            client.close()

    def test_program_that_never_closes_ends_quietly(self) -> None:
        """A program that forgets to close, over two event loops, prints nothing at its end."""
        with AnthropicServer() as server:
            program = f"""
import asyncio
from tinytroupe.llm import AsyncClient, Client, chat_request
from tinytroupe.llm.transports.anthropic import AnthropicTransport
transport = AnthropicTransport("key", {server.url!r})
client = AsyncClient(transport)
ask = chat_request("m", [{{"role": "user", "content": "Hi"}}])
async def main():
    await client.send(ask)
    async for piece in client.stream(ask):
        break
Client(transport).send(ask)
asyncio.run(main())
asyncio.run(main())
"""
            ran = subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
            assert len(server.requests) == 5
