"""Streamed answers: pieces as they come, then the whole, in both colours."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fakes import FakeTransport, chat_content
from hypothesis import given
from hypothesis import strategies as st
from servers import Close, Pause, ScriptedServer, chat_body, drip, http_reply

from tinytroupe.llm.client import AsyncClient, Client, ClientDefaults
from tinytroupe.llm.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    LLMError,
    MalformedResponse,
    TimedOut,
)
from tinytroupe.llm.request import RetryPolicy, chat_request, completion_request
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.transports.openai import OpenAITransport
from tinytroupe.llm.transports.streaming import AnswerBuilder, EventReader

THRICE = ClientDefaults(retry=RetryPolicy(max_attempts=3, waiting_seconds=0), timeout_seconds=5)
ASK = chat_request("m", [{"role": "user", "content": "Hi"}])
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: r1\r\n\r\n"


def event(**piece: Any) -> bytes:
    return b"data: " + json.dumps(piece).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": fields, "finish_reason": finish_reason}
    return event(id="x", model="scripted", choices=[choice])


WORDS = ["I ", "would ", "buy ☃ it."]
PIECES = [delta(role="assistant", content=""), *[delta(content=word) for word in WORDS]]
USAGE = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 3})
WHOLE = b"".join([*PIECES, delta("stop"), USAGE, b"data: [DONE]\n\n"])


@pytest.fixture
def connect(colour: Any) -> Any:
    clients = []

    def make(url: str, store: Any = None, defaults: ClientDefaults = THRICE) -> Any:
        clients.append(colour.make_client(OpenAITransport("key", url), store, defaults))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


class TestStream:
    def test_pieces_then_the_whole(self, connect: Any) -> None:
        """The text comes in pieces, and the response at the end holds all of it."""
        with ScriptedServer([[HEAD, WHOLE, Close()]]) as server:
            *pieces, response = connect(server.base_url).stream(ASK)
            sent = server.requests[0].json()
        assert pieces == WORDS
        assert response.text == "".join(WORDS)
        assert (response.finish_reason, response.usage.total_tokens) == ("stop", 8)
        assert (response.request_id, response.origin, response.attempts) == ("r1", "live", 1)
        assert sent == {
            **json.loads(ASK.body),
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_pieces_come_before_the_end(self) -> None:
        """The first piece is there while the server still holds the rest back."""
        from threading import Event

        from servers import Wait

        go = Event()
        with ScriptedServer([[HEAD + PIECES[0] + PIECES[1], Wait(go), WHOLE, Close()]]) as server:
            client = Client(OpenAITransport("key", server.base_url))
            pieces = client.stream(ASK)
            assert next(pieces) == WORDS[0]
            go.set()
            assert list(pieces)[-1].finish_reason == "stop"
            client.close()

    def test_hit_streams_from_the_store(self, connect: Any) -> None:
        """A complete stream is stored, and serves streamed and unstreamed calls alike."""
        store = MemoryStore()
        with ScriptedServer([[HEAD, WHOLE, Close()]]) as server:
            client = connect(server.base_url, store)
            client.stream(ASK)
            text, response = client.stream(ASK)
            assert (text, response.origin) == ("".join(WORDS), "cache")
            assert client.send(ASK).text == text
            assert len(server.requests) == 1
        assert client.meter.totals.calls == 3

    @pytest.mark.parametrize(
        "ending",
        [
            [Close()],
            [b"data: {broken\n\n", Close()],
            [event(error={"message": "overloaded"}), Close()],
            [b"data: [DONE]\n\n", Close()],
        ],
    )
    def test_cut_stream_is_an_error_that_carries_what_came(self, connect: Any, ending: Any) -> None:
        """A broken stream is a typed error with its text so far; it is neither retried nor kept."""
        store = MemoryStore()
        with ScriptedServer([[HEAD, *PIECES, *ending]], then=[HEAD, WHOLE, Close()]) as server:
            client = connect(server.base_url, store)
            with pytest.raises((MalformedResponse, ConnectionFailed)) as caught:
                client.stream(ASK)
            assert caught.value.partial == "".join(WORDS)
            assert len(server.requests) == 1
            assert len(store) == 0
            assert client.stream(ASK)[-1].origin == "live"

    def test_failure_before_the_first_piece_is_tried_again(self, connect: Any) -> None:
        """As long as nothing was given out a stream is retried like any call."""
        with ScriptedServer([http_reply(500), [HEAD, Close()], [HEAD, WHOLE, Close()]]) as server:
            *pieces, response = connect(server.base_url).stream(ASK)
        assert pieces == WORDS
        assert response.attempts == 3

    def test_refusal_is_typed(self, connect: Any) -> None:
        """A server that refuses says so as it does for other calls."""
        reply = http_reply(401, {"error": {"message": "wrong key", "code": "invalid_api_key"}})
        with (
            ScriptedServer([reply]) as server,
            pytest.raises(AuthenticationFailed, match="wrong key"),
        ):
            connect(server.base_url).stream(ASK)

    def test_server_that_cannot_stream(self, connect: Any) -> None:
        """An answer that comes unstreamed is given in one piece."""
        with ScriptedServer([http_reply(200, chat_body("Whole."))]) as server:
            text, response = connect(server.base_url).stream(ASK)
        assert (text, response.text) == ("Whole.", "Whole.")

    def test_transport_that_cannot_stream(self, colour: Any) -> None:
        """A transport without streams serves a stream with one piece."""
        text, response = colour.make_client(FakeTransport(), None).stream(ASK)
        assert text == response.text == "You said: Hi"

    def test_deadline_holds(self, connect: Any) -> None:
        """A stream that drips is given up after the attempt's time, with what came."""
        reply = [HEAD, *PIECES, *drip(delta("stop"), 0.05)]
        with ScriptedServer([reply]) as server:
            client = connect(server.base_url, None, ClientDefaults(RetryPolicy(1), 0.5))
            with pytest.raises(TimedOut) as caught:
                client.stream(ASK)
        assert caught.value.partial == "".join(WORDS)

    def test_tool_calls(self, connect: Any) -> None:
        """Tool calls that come in pieces are put together in the response."""

        def call(**part: Any) -> bytes:
            return delta(tool_calls=[{"index": 0, **part}])

        stream = [
            call(id="c1", type="function", function={"name": "look", "arguments": ""}),
            call(function={"arguments": '{"wh'}),
            call(function={"arguments": 'ere": 1}'}),
            delta("tool_calls"),
        ]
        with ScriptedServer([[HEAD, *stream, Close()]]) as server:
            (response,) = connect(server.base_url).stream(ASK)
        assert response.message["tool_calls"] == [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"where": 1}'},
            }
        ]

    def test_completions_stream_too(self, connect: Any) -> None:
        """The old completions are streamed in their own shape."""
        pieces = [event(choices=[{"index": 0, "text": text}]) for text in ("Once ", "more")]
        last = event(choices=[{"index": 0, "text": "", "finish_reason": "stop"}])
        with ScriptedServer([[HEAD, *pieces, last, Close()]]) as server:
            *texts, response = connect(server.base_url).stream(completion_request("m", "Say"))
        assert texts == ["Once ", "more"]
        assert response.text == "Once more"


def test_leaving_early_ends_the_call() -> None:
    """Whoever stops reading gives the place back, and nothing is kept."""
    store = MemoryStore()
    with ScriptedServer(
        [[HEAD, *PIECES, Pause(0.3), Close()]], then=[HEAD, WHOLE, Close()]
    ) as server:
        defaults = ClientDefaults(max_concurrent=1)
        client = Client(OpenAITransport("key", server.base_url), store, defaults)
        pieces = client.stream(ASK)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        assert len(store) == 0
        assert client.send is not None
        assert list(client.stream(ASK))[-1].text == "".join(WORDS)
        client.close()


def test_leaving_early_on_an_event_loop() -> None:
    """The same on an event loop."""

    async def main(url: str) -> None:
        async with AsyncClient(
            OpenAITransport("key", url), None, ClientDefaults(max_concurrent=1)
        ) as client:
            pieces = client.stream(ASK)
            await anext(pieces)
            await pieces.aclose()  # type: ignore[attr-defined]
            texts = [piece async for piece in client.stream(ASK)]
            assert texts[:-1] == WORDS

    with ScriptedServer(
        [[HEAD, *PIECES, Pause(0.3), Close()]], then=[HEAD, WHOLE, Close()]
    ) as server:
        asyncio.run(main(server.base_url))


class TestReading:
    @given(st.lists(st.integers(1, 40), max_size=60), st.sampled_from([b"\n", b"\r\n"]))
    def test_events_are_the_same_however_the_bytes_are_cut(
        self, cuts: list[int], end: bytes
    ) -> None:
        """Where the network cuts the bytes makes no difference to the events."""
        content = b": hello\nretry: 5\n\n".replace(b"\n", end) + WHOLE.replace(b"\n", end)
        reader, events, at = EventReader(), [], 0
        for cut in [*cuts, len(content)]:
            events += reader.feed(content[at : at + cut])
            at += cut
        assert events[-1] == "[DONE]"
        builder = AnswerBuilder(ASK)
        texts = [builder.add(one) for one in events[:-1]]
        assert "".join(texts) == "".join(WORDS)

    @given(st.lists(st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=4))
    def test_any_piece_has_an_outcome(self, values: list[Any]) -> None:
        """Whatever a server puts into a piece is read or refused, never another exception."""
        for name in ("choices", "usage", "error", "id"):
            for value in [values, *values]:
                builder = AnswerBuilder(ASK)
                try:
                    builder.add(json.dumps({name: value}))
                    builder.finish()
                except MalformedResponse:
                    continue

    def test_several_choices(self) -> None:
        """Pieces of the first choice are given out; the others wait for the whole."""
        builder = AnswerBuilder(ASK)
        for index, text in ((0, "a"), (1, "x"), (0, "b"), (1, "y")):
            choice = {"index": index, "delta": {"content": text}}
            assert builder.add(json.dumps({"choices": [choice]})) == ("" if index else text)
        for index in (0, 1):
            choice = {"index": index, "delta": {}, "finish_reason": "stop"}
            builder.add(json.dumps({"choices": [choice]}))
        contents = [c["message"]["content"] for c in json.loads(builder.finish())["choices"]]
        assert contents == ["ab", "xy"]


def test_errors_of_other_calls_have_nothing_partial() -> None:
    """Only a broken stream tells something partial."""
    with pytest.raises(LLMError) as caught:
        Client(FakeTransport(lambda _: chat_content(None)), None, THRICE).send(ASK)
    assert caught.value.partial == ""
    assert caught.value.attempts == 3
