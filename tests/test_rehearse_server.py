"""The laws of the rehearsal server, over real HTTP, with the real SDK."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from servers import RehearseServer, get_json

from tinytroupe.cli import main
from tinytroupe.llm.errors import LLMError, TimedOut
from tinytroupe.llm.request import (
    Attempt,
    Call,
    CallOptions,
    Request,
    chat_request,
    completion_request,
    embedding_request,
)
from tinytroupe.llm.response import Response
from tinytroupe.llm.transports.openai import OpenAITransport
from tinytroupe.llm.transports.rehearsal import Fault, Rehearsal, RehearsalTransport

MODEL = "gpt-4o-mini"
QUESTION = "What do you think about the folding bicycle?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[RehearseServer]:
    """One server without options for all tests of this file that count nothing."""
    with RehearseServer() as running:
        yield running


def connect(server: RehearseServer, **options: Any) -> openai.OpenAI:
    defaults: dict[str, Any] = {"base_url": server.base_url, "api_key": "any", "max_retries": 0}
    return openai.OpenAI(**{**defaults, **options})


def connect_async(server: RehearseServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.base_url, api_key="any", max_retries=0)


def connect_azure(server: RehearseServer) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(
        azure_endpoint=server.url, api_key="any", api_version="2024-10-21", max_retries=0
    )


def send(
    server: RehearseServer,
    path: str,
    body: bytes | Any = None,
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> tuple[int, dict[str, str], bytes]:
    """Asks without an SDK; returns the status, the headers and as much body as came."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    with contextlib.closing(connection):
        connection.request(method, path, content, headers or {})
        reply = connection.getresponse()
        try:
            received = reply.read()
        except http.client.IncompleteRead as error:
            received = error.partial
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, received


def ask(
    server: RehearseServer, fault: str = "", **fields: Any
) -> tuple[int, dict[str, str], bytes]:
    headers = {"x-rehearse-fault": fault} if fault else {}
    body = {"model": MODEL, "messages": MESSAGES, **fields}
    return send(server, "/v1/chat/completions", body, headers)


def test_the_sdk_chats(server: RehearseServer) -> None:
    """The SDK gets an answer about the question, with usage and a request id."""
    with connect(server) as client:
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert "folding bicycle" in str(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0
    assert answer._request_id


def test_the_asynchronous_sdk_chats(server: RehearseServer) -> None:
    """The asynchronous SDK gets what the synchronous one gets."""

    async def chat() -> Any:
        async with connect_async(server) as client:
            return await client.chat.completions.create(model=MODEL, messages=MESSAGES)

    with connect(server) as client:
        same = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert asyncio.run(chat()).choices == same.choices


def test_the_sdk_streams(server: RehearseServer) -> None:
    """A stream through the SDK adds up to the answer, with the usage at its end."""
    with connect(server) as client:
        whole = client.chat.completions.create(model=MODEL, messages=MESSAGES)
        stream = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage


def test_the_asynchronous_sdk_streams(server: RehearseServer) -> None:
    """An asynchronous stream adds up to the answer too."""

    async def chat() -> str:
        text = ""
        async with connect_async(server) as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=True
            )
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        return text

    with connect(server) as client:
        whole = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert asyncio.run(chat()) == whole.choices[0].message.content


def test_the_sdk_streams_tool_calls(server: RehearseServer) -> None:
    """The SDK's own accumulator makes whole tool calls out of a stream."""
    with connect(server) as client:
        stream = client.chat.completions.stream(
            model=MODEL, messages=MESSAGES, tools=[WEATHER], tool_choice="required"
        )
        with stream as events:
            message = events.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert isinstance(json.loads(message.tool_calls[0].function.arguments)["city"], str)


def test_azures_sdk_is_served(server: RehearseServer) -> None:
    """Azure's client reaches chat, completions and embeddings by deployment."""
    with connect_azure(server) as client:
        chat = client.chat.completions.create(model="my-deployment", messages=MESSAGES)
        completion = client.completions.create(model="my-deployment", prompt=QUESTION)
        embedding = client.embeddings.create(model="my-embedding", input="a text")
        assert client.models.list().data
    assert chat.model == completion.model == "my-deployment"
    assert "folding bicycle" in str(chat.choices[0].message.content)
    assert len(embedding.data[0].embedding) == 1536


def test_azures_deployment_takes_the_place_of_the_model(server: RehearseServer) -> None:
    """The name in Azure's path is the model, whatever the body says; api-version is needed."""
    path = "/openai/deployments/mine/chat/completions"
    body = {"model": "other", "messages": MESSAGES}
    assert json.loads(send(server, f"{path}?api-version=2024-10-21", body)[2])["model"] == "mine"
    assert send(server, path, body)[0] == 404
    assert send(server, "/openai/v1/chat/completions", body)[0] == 200


def test_the_sdk_embeds(server: RehearseServer) -> None:
    """Embeddings come as floats and, as the SDK asks by default, as base64: the same numbers."""
    with connect(server) as client:
        coded = client.embeddings.create(model="text-embedding-3-small", input=["a", "b c"])
        plain = client.embeddings.create(
            model="text-embedding-3-small", input=["a", "b c"], encoding_format="float"
        )
        short = client.embeddings.create(model="text-embedding-3-small", input="a", dimensions=3)
    for row, other in zip(coded.data, plain.data, strict=True):
        assert row.embedding == pytest.approx(other.embedding)
    assert len(short.data[0].embedding) == 3


def test_the_sdk_completes(server: RehearseServer) -> None:
    """Completions answer every prompt, and stream."""
    with connect(server) as client:
        whole = client.completions.create(model=MODEL, prompt=["one", "two"], n=2, max_tokens=50)
        stream = client.completions.create(model=MODEL, prompt="one", max_tokens=50, stream=True)
        text = "".join(chunk.choices[0].text for chunk in stream)
        single = client.completions.create(model=MODEL, prompt="one", max_tokens=50)
    assert len(whole.choices) == 4
    assert text == single.choices[0].text


def test_models_are_listed(server: RehearseServer) -> None:
    """Without a list every model exists."""
    with connect(server) as client:
        assert [model.id for model in client.models.list()] == ["rehearsal"]
        assert client.models.retrieve("anything").id == "anything"


@pytest.mark.parametrize(
    "request_",
    [
        chat_request(MODEL, MESSAGES),
        chat_request(MODEL, MESSAGES, n=2, max_tokens=7),
        chat_request(
            MODEL,
            MESSAGES,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object", "minProperties": 1}},
            },
        ),
        chat_request(MODEL, MESSAGES, tools=[WEATHER], tool_choice="required"),
        completion_request(MODEL, ["a", "b"]),
        embedding_request(MODEL, ["a", "b"], dimensions=5),
    ],
    ids=["text", "choices", "schema", "tools", "completion", "embedding"],
)
def test_the_server_says_what_the_transport_in_process_says(
    server: RehearseServer, request_: Request
) -> None:
    """One request has one rehearsed answer, over HTTP and in process, byte for byte."""
    over_http = over_the_wire(server, request_)
    assert isinstance(over_http, Response)
    inside = RehearsalTransport().send(Attempt(Call(request_), 1, 10.0))
    assert over_http.content == inside.content


def over_the_wire(server: RehearseServer, request: Request, timeout: float = 10.0) -> Any:
    """Returns the response, or the error that the transport raised."""
    transport = OpenAITransport(api_key="any", base_url=server.base_url)
    try:
        return transport.send(Attempt(Call(request), 1, timeout))
    except LLMError as error:
        return error
    finally:
        transport.close()


FAULTS = [
    Fault("rate_limited"),
    Fault("rate_limited", retry_after="ms", wait_seconds=0.5),
    Fault("rate_limited", retry_after="seconds", wait_seconds=3),
    Fault("quota_exhausted"),
    Fault("server_fault", status=503),
    Fault("cut"),
    Fault("timeout"),
    Fault("content_filter", refuse_prompt=True),
    *(
        Fault("malformed", body=body)
        for body in ("html", "empty", "null", "list", "no_choices", "null_content")
    ),
    Fault("malformed", body="error_object"),
    Fault("malformed", body="truncated_json"),
]


def spell(fault: Fault) -> str:
    argument = {
        "rate_limited": f"{fault.retry_after}={fault.wait_seconds * 1000:g}"
        if fault.retry_after == "ms"
        else f"{fault.retry_after}={fault.wait_seconds:g}",
        "server_fault": str(fault.status),
        "malformed": fault.body,
        "drip": f"{fault.interval_seconds:g}",
        "content_filter": "prompt",
    }.get(fault.kind, "")
    return fault.kind if fault == Fault(fault.kind) else f"{fault.kind}:{argument}"


@pytest.mark.parametrize("fault", FAULTS, ids=spell)
def test_a_fault_on_the_wire_is_the_error_of_the_fault_in_process(
    server: RehearseServer, fault: Fault
) -> None:
    """Through our transport each fault is, over HTTP and in process, the same typed error."""
    with connect(server, default_headers={"x-rehearse-fault": spell(fault)}) as sdk:
        transport = OpenAITransport(sdk=sdk)
        attempt = Attempt(Call(chat_request(MODEL, MESSAGES)), 1, 0.6)
        with pytest.raises(LLMError) as wire:
            transport.send(attempt)
    with pytest.raises(LLMError) as inside:
        RehearsalTransport(Rehearsal(faults=[fault])).send(attempt)
    assert type(wire.value) is type(inside.value)
    for name in ("status", "code", "retry_after_seconds"):
        assert getattr(wire.value, name, None) == getattr(inside.value, name, None)


def test_a_drip_on_the_wire_ends_with_the_timeout() -> None:
    """A body that drips for longer than an attempt may take is a timeout, as in process."""
    fault = Fault("drip", interval_seconds=0.1)
    request = chat_request(MODEL, MESSAGES)
    with RehearseServer("--fault", spell(fault)) as faulty:
        started = time.monotonic()
        assert isinstance(over_the_wire(faulty, request, timeout=0.6), TimedOut)
        assert time.monotonic() - started < 5
    with pytest.raises(TimedOut):
        RehearsalTransport(Rehearsal(faults=[fault])).send(Attempt(Call(request), 1, 0.6))


def test_a_date_to_retry_after_lies_ahead(server: RehearseServer) -> None:
    """A Retry-After date is a date of HTTP, as far ahead as was asked for."""
    status, headers, _ = ask(server, "rate_limited:date=30")
    assert status == 429
    moment = email.utils.parsedate_to_datetime(headers["retry-after"])
    assert 25 < moment.timestamp() - time.time() <= 31


def test_a_cut_body_is_shorter_than_promised(server: RehearseServer) -> None:
    """A cut answer breaks off in the middle, after its length was promised."""
    _, headers, whole = ask(server)
    _, cut_headers, part = ask(server, "cut")
    assert headers["content-length"] == cut_headers["content-length"] == str(len(whole))
    assert whole.startswith(part)
    assert 0 < len(part) < len(whole)


def test_a_cut_stream_breaks_off(server: RehearseServer) -> None:
    """A cut stream ends without its last events."""
    _, _, whole = ask(server, stream=True)
    _, _, part = ask(server, "cut", stream=True)
    assert whole.endswith(b"data: [DONE]\n\n")
    assert whole.startswith(part)
    assert 0 < len(part) < len(whole)


def test_a_drip_comes_byte_by_byte(server: RehearseServer) -> None:
    """A dripped answer is whole, and its bytes come one at a time."""
    parts = urlsplit(server.url)
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "max_tokens": 1}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-rehearse-fault: drip:0.001\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=20) as wire:
        wire.sendall(head.encode() + body)
        pieces = [wire.recv(65536)]
        while b"fp_rehearsal" not in b"".join(pieces):
            pieces.append(wire.recv(65536))
    sizes = [len(piece) for piece in pieces[2:]]
    assert len(sizes) > 50
    assert sizes.count(1) > len(sizes) / 2


def test_a_filtered_stream_says_so(server: RehearseServer) -> None:
    """A content filter ends a stream without a text."""
    headers = {"x-rehearse-fault": "content_filter"}
    with connect(server, default_headers=headers) as client:
        chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b"", 400),
        ("/v1/chat/completions", b"[]", 400),
        ("/v1/chat/completions", b'{"model": "\\ud800", "messages": []}', 400),
        ("/v1/chat/completions", {"messages": MESSAGES}, 400),
        ("/v1/chat/completions", {"model": MODEL}, 400),
        ("/v1/embeddings", {"model": MODEL}, 400),
        ("/v1/nothing", {}, 404),
        ("/", {}, 404),
        ("/v1/models", {}, 405),
    ],
)
def test_a_bad_request_gets_openais_error_object(
    server: RehearseServer, path: str, body: Any, status: int
) -> None:
    """What cannot be answered gets a status and an error object, and a request id."""
    got, headers, content = send(server, path, body)
    assert got == status
    error = json.loads(content)["error"]
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]


def test_other_methods_are_refused(server: RehearseServer) -> None:
    """A chat can only be posted."""
    assert send(server, "/v1/chat/completions", method="GET")[0] == 405


def test_an_unreadable_fault_in_the_header_is_refused(server: RehearseServer) -> None:
    """A fault that is misspelled is an error, not an answer."""
    assert ask(server, "flood")[0] == 400


def test_a_huge_prompt_is_accepted(server: RehearseServer) -> None:
    """Ten megabytes are no reason to refuse."""
    status, _, content = ask(server, messages=[{"role": "user", "content": "the tea " * 1_300_000}])
    assert status == 200
    assert json.loads(content)["usage"]["prompt_tokens"] > 1_000_000


def test_every_request_has_its_own_id(server: RehearseServer) -> None:
    """Two requests, also equal ones, have different ids."""
    assert ask(server)[1]["x-request-id"] != ask(server)[1]["x-request-id"]


def test_health_and_stats_are_told() -> None:
    """The server counts what reached it, by path, and not its own questions."""
    with RehearseServer("--fault", "server_fault@times=1") as server:
        assert get_json(server.url + "/healthz") == {"status": "ok"}
        assert server.count_requests() == 0
        ask(server)
        ask(server)
        send(server, "/v1/models", method="GET")
        stats = server.stats()
        assert stats["requests"] == {"/v1/chat/completions": 2, "/v1/models": 1}
        assert stats["statuses"] == {"500": 1, "200": 2}
        assert stats["faults"] == {"server_fault": 1}
        assert stats["peak_in_flight"] == 1


def test_faults_of_the_command_line_pass_and_the_sdk_gets_over_them() -> None:
    """Two rate limits that ask for a few milliseconds, and the SDK's third try succeeds."""
    options = ["--fault", "rate_limited:ms=5@times=1", "--fault", "server_fault:ms=5@times=1"]
    with RehearseServer(*options) as server, connect(server, max_retries=2) as client:
        assert client.chat.completions.create(model=MODEL, messages=MESSAGES).choices
        assert server.stats()["statuses"] == {"429": 1, "500": 1, "200": 1}


def test_a_key_and_models_are_checked_where_they_are_named() -> None:
    """With a key every other one is refused; with models every other one is unknown."""
    with RehearseServer("--api-key", "sesame", "--models", "gpt-4o, o3") as server:
        with connect(server) as client, pytest.raises(openai.AuthenticationError) as refused:
            client.chat.completions.create(model="o3", messages=MESSAGES)
        assert refused.value.code == "invalid_api_key"
        assert "sesame" not in str(refused.value)
        with connect(server, api_key="sesame") as client:
            assert client.chat.completions.create(model="o3", messages=MESSAGES).choices
            assert [model.id for model in client.models.list()] == ["gpt-4o", "o3"]
            for ask_for_it in (
                lambda: client.chat.completions.create(model="gpt-5", messages=MESSAGES),
                lambda: client.models.retrieve("gpt-5"),
            ):
                with pytest.raises(openai.NotFoundError) as unknown:
                    ask_for_it()
                assert unknown.value.code == "model_not_found"
        headers = {"api-key": "sesame"}
        assert send(server, "/openai/v1/models", headers=headers, method="GET")[0] == 200


def test_a_repeated_request_varies_where_that_is_asked_for(server: RehearseServer) -> None:
    """With --vary the n-th equal request gets what sample n gets in process; else the first."""

    def talk(asked: RehearseServer) -> list[bytes]:
        return [ask(asked)[2] for _ in range(3)]

    def rehearse(rehearsal: Rehearsal, sample: int) -> bytes:
        call = Call(chat_request(MODEL, MESSAGES), CallOptions(sample=sample))
        return RehearsalTransport(rehearsal).send(Attempt(call, 1, 10.0)).content

    with RehearseServer("--vary", "--seed", "1") as varying:
        varied = talk(varying)
    assert varied == [rehearse(Rehearsal(seed=1), sample) for sample in range(3)]
    assert len(set(varied)) == 3
    assert talk(server) == [rehearse(Rehearsal(), 0)] * 3


def test_canned_answers_are_the_same_for_everyone() -> None:
    """--canned answers a chat without reading it."""
    with RehearseServer("--canned") as server:
        first, second = (ask(server, messages=text)[2] for text in ("x", [1]))
        assert first == second
        assert json.loads(first)["choices"][0]["message"]["content"]


def test_the_latency_is_kept_and_calls_do_not_wait_for_each_other() -> None:
    """Many calls at once take little longer than one, and none is answered too early."""

    async def ask_at_once() -> list[float]:
        loop = asyncio.get_running_loop()

        async def ask_one(client: openai.AsyncOpenAI, number: int) -> float:
            started = loop.time()
            messages: Any = [{"role": "user", "content": str(number)}]
            await client.chat.completions.create(model=MODEL, messages=messages)
            return loop.time() - started

        async with connect_async(server) as client:
            return await asyncio.gather(*(ask_one(client, number) for number in range(20)))

    with RehearseServer("--latency", "0.2", "--latency-jitter", "0.05") as server:
        seconds = asyncio.run(ask_at_once())
        assert min(seconds) >= 0.14
        assert server.stats()["peak_in_flight"] > 10


def test_the_pace_of_a_stream_is_kept() -> None:
    """The pieces of a stream come one after the other, none too early, and are the same answer."""
    with RehearseServer("--pace", "0.01") as server, connect(server) as client:
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        moments, pieces = [], []
        for chunk in stream:
            moments.append(time.monotonic())
            pieces.append(chunk.choices[0].delta.content or "")
        whole = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert len(pieces) > 5
    assert moments[-1] - moments[0] >= 0.01 * (len(pieces) - 2)
    assert "".join(pieces) == whole.choices[0].message.content


def test_a_thousand_connections_are_served_at_once() -> None:
    """A thousand clients can be connected and waiting at the same time."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    body = json.dumps({"model": MODEL, "messages": MESSAGES}).encode()
    question = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    )

    async def ask_one(host: str, port: int) -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(question.encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return head[:12]

    async def ask_all(url: str) -> list[bytes]:
        parts = urlsplit(url)
        host, port = str(parts.hostname), parts.port or 0
        return await asyncio.gather(*(ask_one(host, port) for _ in range(1000)))

    try:
        with RehearseServer("--latency", "1.5") as server:
            assert asyncio.run(ask_all(server.url)) == [b"HTTP/1.1 200"] * 1000
            assert server.stats()["peak_in_flight"] > 900
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_server_in_order(name: str) -> None:
    """SIGTERM and SIGINT end the server with code 0, also while calls hang in it."""
    with RehearseServer("--fault", "timeout") as server:
        parts = urlsplit(server.url)
        body = json.dumps({"model": MODEL, "messages": MESSAGES}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((str(parts.hostname), parts.port or 0)) as wire:
            wire.sendall(head.encode() + body)
            while server.stats()["in_flight"] == 0:
                time.sleep(0.01)
            server.process.send_signal(getattr(signal, name))
            assert server.process.wait(10) == 0


def test_a_server_ends_with_its_parent() -> None:
    """With --exit-with-parent a killed parent leaves no server behind."""
    parent = (
        "import subprocess, sys\n"
        "words = [sys.executable, '-m', 'tinytroupe', 'rehearse-server', '--port', '0']\n"
        "server = subprocess.Popen([*words, '--exit-with-parent'], stdin=subprocess.PIPE,\n"
        "                          stdout=subprocess.PIPE, text=True)\n"
        "print(server.pid, server.stdout.readline().split()[-1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid, url = process.stdout.readline().split()
    assert get_json(url + "/healthz")
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while is_running(int(pid)):
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return sys.platform != "linux"


def test_a_port_in_use_is_said_plainly(
    server: RehearseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second server on the same port ends with one sentence, not with a traceback."""
    assert main(["rehearse-server", "--port", str(urlsplit(server.url).port)]) == 2
    said = capsys.readouterr().err
    assert "cannot listen" in said
    assert "--port 0" in said


@pytest.mark.parametrize(
    "words",
    [
        ["--fault", "flood"],
        ["--fault", "cut@times=0"],
        ["--latency", "-1"],
        ["--latency", "soon"],
        ["--port", "70000"],
    ],
)
def test_words_that_cannot_be_read_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelled option ends the command with code 2 and says which one it was."""
    with pytest.raises(SystemExit) as ended:
        main(["rehearse-server", *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_requests_are_logged_unless_quiet() -> None:
    """Without --quiet each request is one line on standard error."""
    words = [sys.executable, "-m", "tinytroupe", "rehearse-server", "--port", "0"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    get_json(url + "/v1/models?limit=1")
    process.terminate()
    _, logged = process.communicate(timeout=10)
    assert logged.count("\n") == 1
    assert logged.startswith("GET /v1/models 200 req_rehearsal_")
