"""What the Gemini transport makes of real bytes on real connections, in both colours."""

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
from provider_servers import GeminiServer, to_chunks, write_event
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
    ContentFiltered,
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
from tinytroupe.llm.transports.gemini import GeminiTransport

__all__ = ["no_keys_from_outside"]
pytestmark = pytest.mark.usefixtures("no_keys_from_outside")

MODEL = "gemini-3.8-flash"
OLD_MODEL = "gemini-2.5-flash"

VERSION = "v1" if sys.version_info >= (3, 11) else "v1beta"
"""What the newest SDK for this Python asks unless told otherwise."""


def ask(*messages: Any, model: str = MODEL, **parameters: Any) -> Request:
    return chat_request(model, messages or [user("Hi ☃")], **parameters)


@pytest.fixture
def connect(colour: Any) -> Any:
    """Makes a client for a server, and closes it in the end."""
    clients = []

    def make(url: str, defaults: ClientDefaults = ONCE, store: Any = None) -> Any:
        clients.append(colour.make_client(GeminiTransport("key", url), store, defaults))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def send_one(connect: Any, request: Request) -> tuple[dict[str, Any], Response]:
    """Sends a request to a server of the API; returns what arrived, and the response."""
    with GeminiServer() as server:
        response = connect(server.url).send(request)
        (body,) = server.bodies
    return body, response


class TestQuestion:
    """What arrives at the server."""

    def test_the_plainest(self, connect: Any) -> None:
        """A text of the user, at the model's address, with the key in a header."""
        with GeminiServer() as server:
            response = connect(server.url).send(ask())
            (received,) = server.requests
        assert received.path == f"/{VERSION}/models/{MODEL}:generateContent"
        assert received.headers["x-goog-api-key"] == "key"
        assert received.json() == {
            "contents": [{"role": "user", "parts": [{"text": "Hi ☃"}]}],
            "generationConfig": {},
        }
        assert response.text == "You said: Hi ☃"

    def test_system_messages_anywhere(self, connect: Any) -> None:
        """All the system's messages go in front, in order, as parts of their own."""
        body, _ = send_one(
            connect,
            ask(
                {"role": "system", "content": "You are Lisa."},
                user("Hi"),
                ASSISTANT,
                {"role": "developer", "content": [text("Be"), text("brief.")]},
                user("Bye"),
            ),
        )
        assert body["systemInstruction"] == {
            "parts": [{"text": "You are Lisa."}, {"text": "Be"}, {"text": "brief."}]
        }
        assert body["contents"] == [
            {"role": "user", "parts": [{"text": "Hi"}]},
            {"role": "model", "parts": [{"text": "Hello."}]},
            {"role": "user", "parts": [{"text": "Bye"}]},
        ]

    @pytest.mark.parametrize("before", [[], [user("Hi"), ASSISTANT]])
    def test_system_has_the_last_word(self, connect: Any, before: list[Any]) -> None:
        """Where nothing of the user asks, the system's last message does."""
        body, _ = send_one(connect, ask(*before, {"role": "system", "content": "Begin."}))
        assert "systemInstruction" not in body
        assert body["contents"][-1] == {"role": "user", "parts": [{"text": "Begin."}]}

    def test_assistant_speaks_first(self, connect: Any) -> None:
        """Where the assistant speaks first, a silent turn of the user goes before it."""
        body, _ = send_one(connect, ask(ASSISTANT, user("Hi")))
        assert [(turn["role"], turn["parts"][0]["text"]) for turn in body["contents"]] == [
            ("user", "…"),
            ("model", "Hello."),
            ("user", "Hi"),
        ]

    def test_neighbours_of_one_side(self, connect: Any) -> None:
        """Messages of one side become one turn of several parts; empty ones say nothing."""
        body, _ = send_one(
            connect,
            ask(user("One"), user(""), user("two"), ASSISTANT, ASSISTANT, user("three")),
        )
        assert [[part["text"] for part in turn["parts"]] for turn in body["contents"]] == [
            ["One", "two"],
            ["Hello.", "Hello."],
            ["three"],
        ]

    def test_images(self, connect: Any) -> None:
        """Pictures go as bytes or by address, with their type where the address tells it."""
        addresses = ["https://example.org/a.png?x=1", "https://example.org/picture"]
        data = f"data:image/heic;base64,{PNG}"
        body, _ = send_one(connect, ask(user(text("See"), image(data), *map(image, addresses))))
        assert body["contents"][0]["parts"] == [
            {"text": "See"},
            {"inlineData": {"mimeType": "image/heic", "data": PNG}},
            {"fileData": {"fileUri": addresses[0], "mimeType": "image/png"}},
            {"fileData": {"fileUri": addresses[1]}},
        ]

    def test_tools(self, connect: Any) -> None:
        """Functions are declared with the JSON schema of their parameters."""
        body, _ = send_one(connect, ask(tools=[WEATHER, TIME]))
        assert body["tools"] == [
            {
                "functionDeclarations": [
                    {
                        "name": "weather",
                        "description": "Tells the weather.",
                        "parametersJsonSchema": WEATHER["function"]["parameters"],
                    },
                    {
                        "name": "clock",
                        "parametersJsonSchema": {"type": "object", "properties": {}},
                    },
                ]
            }
        ]
        assert "toolConfig" not in body

    @pytest.mark.parametrize(
        ("parameters", "config"),
        [
            ({"tool_choice": "auto"}, {"mode": "AUTO"}),
            ({"tool_choice": "required"}, {"mode": "ANY"}),
            ({"tool_choice": "none"}, {"mode": "NONE"}),
            (
                {"tool_choice": {"type": "function", "function": {"name": "clock"}}},
                {"mode": "ANY", "allowedFunctionNames": ["clock"]},
            ),
        ],
    )
    def test_choice_of_tools(self, connect: Any, parameters: Any, config: Any) -> None:
        """Whether and which tool has to be used is said in Gemini's words."""
        body, _ = send_one(connect, ask(tools=[WEATHER, TIME], **parameters))
        assert body["toolConfig"] == {"functionCallingConfig": config}

    @pytest.mark.parametrize(("choice", "mode"), [(None, "VALIDATED"), ("required", "ANY")])
    def test_strict_tools(self, connect: Any, choice: Any, mode: str) -> None:
        """Where a tool is strict, calls are validated, unless one is forced, which does it too."""
        strict = {"type": "function", "function": {"name": "f", "strict": True}}
        body, _ = send_one(connect, ask(tools=[strict], tool_choice=choice))
        assert body["toolConfig"]["functionCallingConfig"]["mode"] == mode

    def test_results_of_tools(self, connect: Any) -> None:
        """Calls and results keep ids and order, and results the name of their function."""
        body, _ = send_one(
            connect,
            ask(
                user("Weather?"),
                {
                    "role": "assistant",
                    "content": "Well.",
                    "tool_calls": [call(1), call(2, "", "clock")],
                },
                {"role": "tool", "tool_call_id": "call_2", "content": [text("a"), text("b")]},
                result(1),
                user("And now?"),
                tools=[WEATHER, TIME],
            ),
        )
        unsigned = "skip_thought_signature_validator"
        assert body["contents"][1:] == [
            {
                "role": "model",
                "parts": [
                    {"text": "Well."},
                    {
                        "functionCall": {
                            "id": "call_1",
                            "name": "weather",
                            "args": {"city": "Oslo"},
                        },
                        "thoughtSignature": unsigned,
                    },
                    {"functionCall": {"id": "call_2", "name": "clock", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {
                        "functionResponse": {
                            "id": "call_2",
                            "name": "clock",
                            "response": {"output": "a\nb"},
                        }
                    },
                    {
                        "functionResponse": {
                            "id": "call_1",
                            "name": "weather",
                            "response": {"output": "4 °C"},
                        }
                    },
                    {"text": "And now?"},
                ],
            },
        ]

    @pytest.mark.parametrize(
        ("parameters", "settings"),
        [
            (
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "p", "schema": PERSON},
                    }
                },
                {"responseMimeType": "application/json", "responseJsonSchema": PERSON},
            ),
            (
                {"response_format": {"type": "json_object"}},
                {"responseMimeType": "application/json"},
            ),
            ({"response_format": {"type": "text"}}, {}),
            ({"temperature": 0.3, "top_p": 0.9}, {"temperature": 0.3, "topP": 0.9}),
            ({"max_tokens": 5}, {"maxOutputTokens": 5}),
            ({"max_completion_tokens": 6}, {"maxOutputTokens": 6}),
            ({"stop": "END"}, {"stopSequences": ["END"]}),
            ({"stop": ["A", "B"]}, {"stopSequences": ["A", "B"]}),
            ({"seed": 0}, {"seed": 0}),
            ({"n": 2}, {"candidateCount": 2}),
            (
                {"frequency_penalty": 0.5, "presence_penalty": -1},
                {"frequencyPenalty": 0.5, "presencePenalty": -1},
            ),
            ({"logprobs": True, "top_logprobs": 1}, {"responseLogprobs": True, "logprobs": 1}),
            ({"reasoning_effort": "low"}, {"thinkingConfig": {"thinkingLevel": "low"}}),
            ({"n": 1, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": False}, {}),
            ({"user": "u-1", "store": False, "logit_bias": {}, "parallel_tool_calls": True}, {}),
        ],
    )
    def test_parameters(self, connect: Any, parameters: Any, settings: Any) -> None:
        """Each parameter is sent in Gemini's words, or left out where it asks for nothing."""
        body, _ = send_one(connect, ask(**parameters))
        assert body["generationConfig"] == settings

    @pytest.mark.parametrize(("effort", "budget"), [("none", 0), ("medium", 8192)])
    def test_effort_of_older_models(self, connect: Any, effort: str, budget: int) -> None:
        """Gemini 2.5 is told by a budget of tokens how long to think."""
        body, _ = send_one(connect, ask(model=OLD_MODEL, reasoning_effort=effort))
        assert body["generationConfig"] == {"thinkingConfig": {"thinkingBudget": budget}}

    def test_own_parameters(self, connect: Any) -> None:
        """Google's own parameters are sent as they are."""
        safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
        body, _ = send_one(connect, ask(safety_settings=safety, top_k=3))
        assert body["safetySettings"] == safety
        assert body["generationConfig"] == {"topK": 3}

    def test_names_in_a_schema_stay(self, connect: Any) -> None:
        """Names that look like the API's own stay as they are inside schemas and arguments."""
        properties = {name: {"type": "string"} for name in ("system_instruction", "maxTokens")}
        schema = {"type": "object", "properties": properties}
        wanted = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
        body, _ = send_one(connect, ask(response_format=wanted))
        assert body["generationConfig"]["responseJsonSchema"] == schema


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (completion_request(MODEL, "x"), "no completions"),
        (ask(model="gemini?alt=x"), "name of a model"),
        (ask(model="../files"), "name of a model"),
        (ask(logit_bias={"1": 1}), "logit_bias"),
        (ask(tools=[WEATHER], parallel_tool_calls=False), "forbid several tool calls"),
        (ask(reasoning_effort="none"), "takes no reasoning_effort 'none'"),
        (ask(reasoning_effort="xhigh", model=OLD_MODEL), "takes no reasoning_effort"),
        (ask(response_format={"type": "json_schema"}), "response_format"),
        (ask(safety_setting=[]), "did you mean safety_settings"),
        (ask({**user("x"), "name": "lisa"}), "names of speakers"),
        (ask(user({"type": "input_audio", "input_audio": {}})), "audio and files"),
        (ask(user(image("gs://bucket/x.png"))), "no image"),
        (ask(user(image("data:image/png;base64,A"))), "not in base64"),
        (ask(user("Hi"), ASSISTANT), "ends with what the assistant said"),
        (ask(user("")), "no words"),
        (ask(tools=[{"type": "code_interpreter"}]), "tool of type"),
        (ask(user("x"), {"role": "tool", "tool_call_id": "no", "content": "x"}), "'no'"),
        (
            ask(
                user("x"),
                {**ASSISTANT, "tool_calls": [call(1)]},
                {"role": "tool", "tool_call_id": "call_1", "content": [image("https://a.b/c")]},
            ),
            "no images in the results",
        ),
        (embedding_request("m", "x", encoding_format="base64"), "encoding_format"),
    ],
)
def test_refused_before_the_call(connect: Any, request_: Request, said: str) -> None:
    """What Gemini lacks is a clear error, and nothing is sent."""
    with GeminiServer() as server:
        with pytest.raises(BadRequest, match=said) as caught:
            connect(server.url, TWICE).send(request_)
        assert not server.requests
    assert caught.value.attempts <= 1


class TestAnswer:
    """What comes out."""

    def test_usage(self, connect: Any) -> None:
        """Input includes what was cached, output includes thought."""
        _, response = send_one(connect, ask())
        assert response.usage == Usage(30, 45, 20, 40)

    def test_facts(self, connect: Any) -> None:
        """The model's own name, the endpoint's, the answer's and the time are there."""
        _, response = send_one(connect, ask())
        assert response.model == f"{MODEL}-001"
        assert (response.endpoint, response.request_id) == ("gemini", "resp-1")
        assert response.raw["id"] == "resp-1"
        assert abs(response.raw["created"] - time.time()) < 60

    @pytest.mark.parametrize(
        ("words", "reason"),
        [("Hi", "stop"), ("be long", "length"), ("forbidden", "content_filter")],
    )
    def test_why_it_stopped(self, connect: Any, words: str, reason: str) -> None:
        """Gemini's reasons to stop are said in OpenAI's words."""
        _, response = send_one(connect, ask(user(words)))
        assert response.finish_reason == reason

    def test_refused_prompt(self, connect: Any) -> None:
        """A prompt that does not reach the model is a final error, not an empty answer."""
        with GeminiServer() as server:
            with pytest.raises(ContentFiltered, match="SAFETY") as caught:
                connect(server.url, TWICE).send(ask(user("blocked")))
            assert len(server.requests) == 1
        assert caught.value.code == "SAFETY"

    def test_model_that_goes_wrong(self, connect: Any) -> None:
        """A call that the model garbled is no answer, and worth another attempt."""
        with GeminiServer() as server:
            with pytest.raises(MalformedResponse, match="MALFORMED_FUNCTION_CALL"):
                connect(server.url, TWICE).send(ask(user("muddle")))
            assert len(server.requests) == 2

    def test_calls_at_once(self, connect: Any) -> None:
        """Several tool calls come with ids, names, arguments and the signature of the first."""
        _, response = send_one(connect, ask(user("use tools"), tools=[WEATHER, TIME]))
        first, second = response.message["tool_calls"]
        assert response.finish_reason == "tool_calls"
        assert first == {
            "id": "fc-1-0",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Oslo ☃"}'},
            "extra_content": {"google": {"thought_signature": "c2ln+/8="}},
        }
        assert second["function"] == {"name": "clock", "arguments": "{}"}
        assert "extra_content" not in second

    @pytest.mark.parametrize("model", [MODEL, OLD_MODEL])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_the_loop(self, connect: Any, model: str, streamed: bool) -> None:
        """The message goes back as it came, signature included, and its results are accepted.

        Older models give their calls no ids; they get some, so that results can refer to them.
        """
        question = ask(user("think, and use tools"), tools=[WEATHER, TIME], model=model)
        with GeminiServer() as server:
            client = connect(server.url)
            first = drain(client, question)[1] if streamed else client.send(question)
            message = first.message
            results = [
                {"role": "tool", "tool_call_id": made["id"], "content": "done"}
                for made in message["tool_calls"]
            ]
            talk = [user("think, and use tools"), message, *results, user("So?")]
            answer = client.send(ask(*talk, tools=[WEATHER], model=model))
            parts = server.bodies[1]["contents"][1]["parts"]
        assert answer.text == "You said: So?"
        assert len({made["id"] for made in message["tool_calls"]}) == 2
        assert parts[0]["thoughtSignature"] == "c2ln+/8="

    def test_several_answers(self, connect: Any) -> None:
        """Several candidates are several choices."""
        _, response = send_one(connect, ask(n=3))
        assert [choice["index"] for choice in response.raw["choices"]] == [0, 1, 2]

    def test_log_probabilities(self, connect: Any) -> None:
        """Log probabilities come in OpenAI's shape."""
        _, response = send_one(connect, ask(logprobs=True))
        (row,) = response.raw["choices"][0]["logprobs"]["content"]
        token = {"token": "You", "logprob": -0.5, "bytes": [89, 111, 117]}
        assert row == {**token, "top_logprobs": [token]}

    def test_schema(self, connect: Any) -> None:
        """An answer by a schema is its JSON."""
        wanted = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
        _, response = send_one(connect, ask(response_format=wanted))
        assert json.loads(response.text) == {"name": "Oslo ☃", "age": 7}

    def test_refused_ones_are_not_kept(self, connect: Any) -> None:
        """An answer that was kept is not bought again; one that was withheld is not kept."""
        store = MemoryStore()
        with GeminiServer() as server:
            client = connect(server.url, ONCE, store)
            first, again = client.send(ask()), client.send(ask())
            client.send(ask(user("forbidden")))
            client.send(ask(user("forbidden")))
            assert len(server.requests) == 3
        assert (first.origin, again.origin, again.text) == ("live", "cache", first.text)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{broken",
            b"[]",
            b"<html>",
            {},
            {"candidates": []},
            {"candidates": [1]},
            {"candidates": [{"finishReason": "STOP"}]},
            {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "OTHER"}]},
            {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}},
        ],
    )
    def test_meaningless(self, connect: Any, body: Any) -> None:
        """What is no answer is tried again and never kept."""
        store = MemoryStore()
        with ScriptedServer([http_reply(200, body), GOOD]) as server:
            assert connect(server.url, TWICE, store).send(ask()).attempts == 2
        assert len(store) == 1


class TestEmbeddings:
    def test_several_texts(self, connect: Any) -> None:
        """Each text has a vector of its own, in order."""
        with GeminiServer() as server:
            request = embedding_request("gemini-embedding-001", ["a", "bbb"])
            response = connect(server.url).send(request)
            (received,) = server.requests
        assert received.path == f"/{VERSION}/models/gemini-embedding-001:batchEmbedContents"
        assert [asked["content"]["parts"] for asked in received.json()["requests"]] == [
            [{"text": "a"}],
            [{"text": "bbb"}],
        ]
        assert response.embeddings == [[1, 0.25, 0.25, 0.25], [3, 0.25, 0.25, 0.25]]

    @pytest.mark.parametrize("model", ["gemini-embedding-001", "gemini-embedding-2"])
    def test_dimensions(self, connect: Any, model: str) -> None:
        """The number of dimensions and Google's kind of task are respected by every model."""
        with GeminiServer() as server:
            request = embedding_request(
                model, ["a", "b"], dimensions=2, task_type="CLUSTERING", user="u"
            )
            response = connect(server.url).send(request)
            asked = server.bodies[0]["requests"]
        assert [len(vector) for vector in response.embeddings] == [2, 2]
        assert {(one["outputDimensionality"], one["taskType"]) for one in asked} == {
            (2, "CLUSTERING")
        }

    def test_through_the_client(self, connect: Any) -> None:
        """Vectors are kept text by text."""
        with GeminiServer() as server:
            client = connect(server.url, ONCE, MemoryStore())
            first = client.embed("gemini-embedding-001", ["a", "bb"])
            asked = len(server.requests)
            assert client.embed("gemini-embedding-001", ["bb", "a"]) == first[::-1]
            assert len(server.requests) == asked

    def test_too_few(self, connect: Any) -> None:
        """Fewer vectors than texts is not an answer."""
        reply = http_reply(200, {"embeddings": [{"values": [1.0]}]})
        with ScriptedServer([reply]) as server, pytest.raises(MalformedResponse, match="2 texts"):
            connect(server.url).send(embedding_request("m", ["a", "b"]))

    @pytest.mark.parametrize(
        "body",
        [
            {},
            b"[]",
            b"no",
            {"embeddings": [{}]},
            {"embeddings": "x"},
            {"embeddings": [{"values": "x"}]},
        ],
    )
    def test_meaningless(self, connect: Any, body: Any) -> None:
        """Nor is what holds no vector."""
        with ScriptedServer([http_reply(200, body)]) as server, pytest.raises(MalformedResponse):
            connect(server.url).send(embedding_request("m", ["a"]))


def make_answer(words: str = "Hello.", **changes: Any) -> dict[str, Any]:
    candidate = {
        "index": 0,
        "finishReason": "STOP",
        "content": {"role": "model", "parts": [{"text": words}]},
        **changes,
    }
    return {"candidates": [candidate], "modelVersion": MODEL, "responseId": "r-1"}


def make_error(status: int, code: str, said: str = "No.", *details: Any) -> dict[str, Any]:
    listed = [{"@type": f"type.googleapis.com/google.rpc.{kind}", **more} for kind, more in details]
    return {"error": {"code": status, "message": said, "status": code, "details": listed}}


GOOD = http_reply(200, make_answer())
PER_MINUTE = ("QuotaFailure", {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProject"}]})
PER_DAY = ("QuotaFailure", {"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]})
IN_34_SECONDS = ("RetryInfo", {"retryDelay": "34.5s"})
QUOTA = "You exceeded your current quota, please check your plan and billing details."


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "body", "cls"),
        [
            (400, make_error(400, "INVALID_ARGUMENT"), BadRequest),
            (
                400,
                make_error(
                    400,
                    "INVALID_ARGUMENT",
                    "API key not valid. Please pass a valid API key.",
                    ("ErrorInfo", {"reason": "API_KEY_INVALID"}),
                ),
                AuthenticationFailed,
            ),
            (
                400,
                make_error(
                    400,
                    "INVALID_ARGUMENT",
                    "The input token count (9) exceeds the maximum number of tokens allowed (8).",
                ),
                ContextTooLong,
            ),
            (400, make_error(400, "FAILED_PRECONDITION"), BadRequest),
            (401, make_error(401, "UNAUTHENTICATED"), AuthenticationFailed),
            (403, make_error(403, "PERMISSION_DENIED"), AuthenticationFailed),
            (404, make_error(404, "NOT_FOUND", "models/x is not found"), ModelNotFound),
            (429, make_error(429, "RESOURCE_EXHAUSTED"), RateLimited),
            (
                429,
                make_error(429, "RESOURCE_EXHAUSTED", QUOTA, PER_MINUTE, IN_34_SECONDS),
                RateLimited,
            ),
            (
                429,
                make_error(429, "RESOURCE_EXHAUSTED", QUOTA, PER_DAY, IN_34_SECONDS),
                QuotaExhausted,
            ),
            (429, make_error(429, "RESOURCE_EXHAUSTED", QUOTA), QuotaExhausted),
            (500, make_error(500, "INTERNAL"), ServerFault),
            (503, make_error(503, "UNAVAILABLE", "busy", IN_34_SECONDS), ServerFault),
            (504, make_error(504, "DEADLINE_EXCEEDED"), ServerFault),
            (502, b"<html>bad gateway</html>", ServerFault),
        ],
    )
    @pytest.mark.parametrize("streamed", [False, True])
    def test_table(self, connect: Any, status: int, body: Any, cls: type, streamed: bool) -> None:
        """Each failure is one of ours, with status, code, wait, and the server's words."""
        with ScriptedServer([http_reply(status, body)]) as server:
            client = connect(server.url)
            with pytest.raises(LLMAPIError) as caught:
                drain(client, ask()) if streamed else client.send(ask())
            assert len(server.requests) == 1
        error = caught.value
        assert (type(error), error.status) == (cls, status)
        if isinstance(body, dict):
            told = body["error"]
            assert error.code == told["status"]
            assert told["message"] in str(error)
            waits = any("retryDelay" in detail for detail in told["details"])
            assert error.retry_after_seconds == (34.5 if waits else None)

    def test_headers(self, connect: Any) -> None:
        """A wait and a request id in the headers are read too, and a request id in the body."""
        told = {"retry-after": "7", "x-request-id": "req-1"}
        named = make_error(500, "INTERNAL", "No.", ("RequestInfo", {"requestId": "req-2"}))
        replies = [http_reply(503, b"", told), http_reply(500, named)]
        with ScriptedServer(replies) as server:
            client = connect(server.url)
            errors = []
            for _ in replies:
                with pytest.raises(ServerFault) as caught:
                    client.send(ask())
                errors.append(caught.value)
        assert (errors[0].retry_after_seconds, errors[0].request_id) == (7, "req-1")
        assert errors[1].request_id == "req-2"

    @pytest.mark.parametrize("fault", [http_reply(503), [Close()]])
    def test_the_sdk_tries_once(self, connect: Any, fault: Any) -> None:
        """Trying again is the chain's business."""
        with ScriptedServer([fault, GOOD]) as server:
            started = time.monotonic()
            assert connect(server.url, TWICE).send(ask()).attempts == 2
            assert len(server.requests) == 2
        assert time.monotonic() - started < 1

    def test_nobody_listens(self, connect: Any) -> None:
        """A dead address is a connection failure that names the address and the reason."""
        url = find_dead_url()
        with pytest.raises(ConnectionFailed, match="failed:") as caught:
            connect(url).send(ask())
        assert url in str(caught.value)

    @pytest.mark.parametrize("end", [Close(), Reset()])
    def test_cut_short(self, connect: Any, end: Any) -> None:
        """An answer whose connection breaks is a connection failure."""
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
        foreign = http_reply(200, make_answer("Meant for another."))
        with ScriptedServer([[GOOD, Pause(0.05), foreign], GOOD]) as server:
            client = connect(server.url)
            assert client.send(ask()).text == "Hello."
            time.sleep(0.15)
            assert client.send(ask()).text == "Hello."
            assert server.connections == 2

    def test_connections_are_kept(self, connect: Any) -> None:
        """Calls one after another share a connection, streamed ones included."""
        with GeminiServer() as server:
            client = connect(server.url)
            for _ in range(3):
                client.send(ask())
                drain(client, ask())
            assert server.connections == 1


def write_stream(chunks: list[dict[str, Any]], *, terminated: bool = True) -> bytes:
    written = [write_event(chunk) for chunk in chunks]
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
        with GeminiServer() as server:
            client = connect(server.url)
            pieces, streamed = drain(client, request)
            whole = client.send(request)
            path = server.requests[0].path
        assert path == f"/{VERSION}/models/{MODEL}:streamGenerateContent?alt=sse"
        assert "".join(pieces) == streamed.text == whole.text
        assert len(pieces) > 1 or not whole.text
        assert server.bodies[0] == server.bodies[1]
        for raw in (first := streamed.raw, second := whole.raw):
            del raw["id"], raw["created"]
            for made in raw["choices"][0]["message"].get("tool_calls", []):
                made["id"] = made["id"].replace("-1-", "-2-")
        assert first == second
        assert (streamed.usage, streamed.request_id) == (whole.usage, "resp-1")

    def test_several_answers(self, connect: Any) -> None:
        """Of several candidates the first is streamed, and all are in the response."""
        with GeminiServer() as server:
            pieces, response = drain(connect(server.url), ask(n=2))
        said = [choice["message"]["content"] for choice in response.raw["choices"]]
        assert said == ["You said: Hi ☃"] * 2
        assert "".join(pieces) == said[0]

    def test_blocked(self, connect: Any) -> None:
        """A refused prompt is the same error as without a stream."""
        with GeminiServer() as server, pytest.raises(ContentFiltered, match="SAFETY"):
            drain(connect(server.url), ask(user("blocked")))

    def test_embeddings(self, connect: Any) -> None:
        """What cannot be streamed comes whole."""
        with GeminiServer() as server:
            request = embedding_request("gemini-embedding-001", ["a"])
            pieces, response = drain(connect(server.url), request)
        assert (pieces, response.embeddings) == ([], [[1, 0.25, 0.25, 0.25]])

    def test_new_fields(self, connect: Any) -> None:
        """Fields that the SDK does not know yet do no harm."""
        chunks = [{**chunk, "newFact": 1} for chunk in to_chunks(make_answer("one two"))]
        chunks[0]["candidates"][0]["newFact"] = {"a": 1}
        with ScriptedServer([write_stream(chunks)]) as server:
            assert drain(connect(server.url), ask())[0] == ["one ", "two"]

    def test_pieces_come_as_they_are_sent(self, connect: Any) -> None:
        """A piece is there before the next one is written."""
        events = [write_event(chunk) for chunk in to_chunks(make_answer("one two"))]
        head = chunked_reply([b"x"], content_type="text/event-stream").partition(b"\r\n\r\n")[0]
        steps: list[Any] = [head + b"\r\n\r\n"]
        for event in events:
            steps += [b"%x\r\n%s\r\n" % (len(event), event), Pause(0.1)]
        with ScriptedServer([[*steps, b"0\r\n\r\n"]]) as server:
            arrivals: list[float] = []
            stamp(connect(server.url), ask(), arrivals)
        assert len(arrivals) == 3
        assert arrivals[1] - arrivals[0] > 0.05

    def test_kept(self, connect: Any) -> None:
        """A whole stream is kept, and the next call is a hit that streams from the store."""
        with GeminiServer() as server:
            client = connect(server.url, ONCE, MemoryStore())
            first = drain(client, ask())[1]
            pieces, hit = drain(client, ask())
            assert len(server.requests) == 1
        assert (pieces, hit.origin) == ([first.text], "cache")

    @pytest.mark.parametrize("end", [Close(), Reset()])
    def test_cut(self, connect: Any, end: Any) -> None:
        """A stream that breaks is a typed error with what had come; it is not tried or kept."""
        chunks = list(to_chunks(make_answer("one two three")))[:-1]
        store = MemoryStore()
        with ScriptedServer([[write_stream(chunks, terminated=False), Pause(0.1), end]]) as server:
            with pytest.raises(ConnectionFailed) as caught:
                drain(connect(server.url, TWICE, store), ask())
            assert len(server.requests) == 1
        assert caught.value.partial == "one two three"
        assert len(store) == 0

    def test_ended_early(self, connect: Any) -> None:
        """A stream that ends in order before the model has is none either."""
        chunks = list(to_chunks(make_answer("one two")))[:-1]
        with (
            ScriptedServer([write_stream(chunks)]) as server,
            pytest.raises(MalformedResponse, match="before the answer was whole") as caught,
        ):
            drain(connect(server.url), ask())
        assert caught.value.partial == "one two"

    def test_breaks_off_with_an_error(self, connect: Any) -> None:
        """An error in the middle is the one it says, with what had come."""
        chunks = list(to_chunks(make_answer("one two")))[:-1]
        chunks.append(make_error(429, "RESOURCE_EXHAUSTED", "Slow down.", IN_34_SECONDS))
        with (
            ScriptedServer([write_stream(chunks)]) as server,
            pytest.raises(RateLimited, match=r"Slow down\.") as caught,
        ):
            drain(connect(server.url), ask())
        assert (caught.value.status, caught.value.partial) == (429, "one two")
        assert caught.value.retry_after_seconds == 34.5

    def test_garbage(self, connect: Any) -> None:
        """A piece that is not JSON is no answer."""
        garbage = chunked_reply([b"data: {broken\n\n"], content_type="text/event-stream")
        with ScriptedServer([garbage]) as server, pytest.raises(MalformedResponse):
            drain(connect(server.url), ask())

    def test_leaving_early_hangs_up(self, connect: Any) -> None:
        """Who stops reading ends the exchange, and the next call has a connection of its own."""
        chunks = list(to_chunks(make_answer("one two three")))[:-1]
        started = write_stream(chunks, terminated=False)
        with ScriptedServer([[started, Pause(5)], GOOD]) as server:
            client = connect(server.url)
            assert take_first(client, ask()) == "one "
            gc.collect()
            assert client.send(ask()).text == "Hello."
            assert server.connections == 2


class TestSetup:
    def test_missing_key(self, colour: Any) -> None:
        """Without a key the error names the variable."""
        with pytest.raises(ConfigError, match="GEMINI_API_KEY"):
            colour.make_client(GeminiTransport(), None, ONCE).send(ask())

    @pytest.mark.parametrize("variable", ["GEMINI_API_KEY", "GOOGLE_API_KEY"])
    @pytest.mark.parametrize(
        ("suffix", "version"), [("", VERSION), ("/", VERSION), ("/v1", "v1"), ("/v1beta", "v1beta")]
    )
    def test_environment(
        self,
        colour: Any,
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
        suffix: str,
        version: str,
    ) -> None:
        """Key and address are found under their usual names, the address with a version or not."""
        with GeminiServer() as server:
            monkeypatch.setenv(variable, "key")
            monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url + suffix)
            client = colour.make_client(GeminiTransport(), None, ONCE)
            assert client.send(ask()).text
            client.close()
            assert server.requests[0].path.startswith(f"/{version}/models/")

    def test_another_server_needs_no_key(self, colour: Any) -> None:
        """With an address of one's own no key is needed."""
        with ScriptedServer([GOOD]) as server:
            client = colour.make_client(GeminiTransport(base_url=server.url), None, ONCE)
            assert client.send(ask()).text == "Hello."
            client.close()

    def test_key_is_not_shown(self, colour: Any) -> None:
        """Neither the repr nor an error shows the key."""
        transport = GeminiTransport("secret-key", find_dead_url())
        with pytest.raises(LLMError) as caught:
            colour.make_client(transport, None, ONCE).send(ask())
        assert "secret-key" not in repr(transport) + repr(caught.value) + repr(vars(caught.value))

    def test_missing_package(self, colour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the package the error says how to install it."""
        monkeypatch.setitem(sys.modules, "google.genai", None)
        monkeypatch.delattr("google.genai", raising=False)
        with pytest.raises(ConfigError, match=r"pip install 'tinytroupe\[gemini\]'"):
            colour.make_client(GeminiTransport("key"), None, ONCE).send(ask())

    def test_close_and_go_on(self, connect: Any) -> None:
        """After closing, the next call opens a new connection."""
        with GeminiServer() as server:
            client = connect(server.url)
            client.send(ask())
            client.close()
            assert client.send(ask()).text
            assert server.connections == 2

    def test_many_threads(self) -> None:
        """Threads that share a transport get their own answers, streamed or not."""
        with GeminiServer() as server:
            client = Client(GeminiTransport("key", server.url), None, ONCE)

            def say(number: int) -> str:
                request = ask(user(f"n {number}"))
                if number % 2:
                    return client.send(request).text
                *pieces, _ = client.stream(request)
                return "".join(map(str, pieces))

            with ThreadPoolExecutor(16) as pool:
                said = list(pool.map(say, range(100)))
            client.close()
        assert said == [f"You said: n {number}" for number in range(100)]

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
    def test_fork(self) -> None:
        """A forked child opens connections of its own."""
        with GeminiServer() as server:
            client = Client(GeminiTransport("key", server.url), None, ONCE)
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
        with GeminiServer() as server:
            program = f"""
import asyncio
from tinytroupe.llm import AsyncClient, Client, chat_request
from tinytroupe.llm.transports.gemini import GeminiTransport
transport = GeminiTransport("key", {server.url!r})
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
