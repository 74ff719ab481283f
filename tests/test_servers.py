"""The laws of the scripted server that other tests rely on."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers import (
    Close,
    Pause,
    Received,
    Reset,
    ScriptedServer,
    Wait,
    chat_body,
    chunked_reply,
    drip,
    embedding_body,
    find_dead_url,
    get_json,
    http_reply,
)


def connect(server: ScriptedServer) -> http.client.HTTPConnection:
    parts = urlsplit(server.url)
    return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=5)


def open_wire(server: ScriptedServer) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((str(parts.hostname), parts.port or 0), timeout=5)


def ask(connection: http.client.HTTPConnection, body: bytes = b"{}") -> tuple[int, bytes]:
    connection.request("POST", "/v1/x?y=1", body, {"X-Test": "yes"})
    reply = connection.getresponse()
    return reply.status, reply.read()


def test_replies_are_played_in_order_and_requests_recorded() -> None:
    """Each request gets the next reply on an open connection, and is kept as it came."""
    with ScriptedServer([http_reply(200, b"one"), http_reply(503, {"a": 1})]) as server:
        connection = connect(server)
        assert ask(connection, b'{"n": 1}') == (200, b"one")
        assert ask(connection) == (503, b'{"a": 1}')
        assert ask(connection)[0] == 599
        connection.close()
        first = server.requests[0]
        assert (first.method, first.path, first.json()) == ("POST", "/v1/x?y=1", {"n": 1})
        assert first.headers["x-test"] == "yes"
        assert (len(server.requests), server.connections, server.surplus) == (3, 1, 1)


def test_a_last_reply_may_be_repeated() -> None:
    """`then` is played for every request after the script."""
    with ScriptedServer([http_reply(500)], then=http_reply(200, b"ok")) as server:
        connection = connect(server)
        assert [ask(connection)[0] for _ in range(4)] == [500, 200, 200, 200]
        connection.close()
        assert server.surplus == 0


def test_a_connection_can_be_closed_or_reset() -> None:
    """Close ends a connection in order; Reset breaks it off."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
    with ScriptedServer([[head, Close()], [head, Reset()], [Close()]]) as server:
        with pytest.raises(http.client.IncompleteRead) as cut:
            ask(connect(server))
        assert cut.value.partial == b"half"
        with pytest.raises(ConnectionResetError):
            ask(connect(server))
        with pytest.raises(http.client.RemoteDisconnected):
            ask(connect(server))
        assert server.connections == 3


def test_a_connection_can_be_ended_before_anything_is_read() -> None:
    """A greeting is played as soon as a connection is accepted, once for each."""
    surplus = http_reply(200, b"too early")
    with ScriptedServer([http_reply(200, b"ok")], greetings=[[Close()], surplus]) as server:
        with open_wire(server) as wire:
            assert wire.recv(100) == b""
        with open_wire(server) as wire:
            assert wire.recv(1000) == surplus
        assert ask(connect(server)) == (200, b"ok")
        assert [request.connection for request in server.requests] == [2]


def test_several_responses_may_come_in_one_write() -> None:
    """A surplus response reaches the client together with the one it asked for."""
    two = http_reply(200, b"one") + http_reply(200, b"surplus")
    with ScriptedServer([two]) as server, open_wire(server) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while len(received) < len(two):
            received += wire.recv(65536)
        assert received == two


def test_pauses_and_events_hold_a_reply_back() -> None:
    """A dripped reply takes its time; a held one comes when the test lets it go."""
    go = threading.Event()
    reply = http_reply(200, b"ok")
    with ScriptedServer([drip(reply, 0.001), [Wait(go), reply], [Pause(0.05), reply]]) as server:
        connection = connect(server)
        assert ask(connection) == (200, b"ok")
        timer = threading.Timer(0.05, go.set)
        timer.start()
        started = time.monotonic()
        assert ask(connection) == (200, b"ok")
        assert go.is_set()
        assert ask(connection) == (200, b"ok")
        assert time.monotonic() - started >= 0.09
        connection.close()


def test_chunks_are_read_and_written() -> None:
    """Chunked bodies are understood in both directions; a missing end is missing."""
    whole = chunked_reply([b"ab", b"", b"c"])
    with ScriptedServer([whole, [chunked_reply([b"ab"], terminated=False), Close()]]) as server:
        connection = connect(server)
        connection.request("POST", "/", iter([b"x" * 100, b"y"]), {}, encode_chunked=True)
        assert connection.getresponse().read() == b"abc"
        assert server.requests[0].body == b"x" * 100 + b"y"
        with pytest.raises(http.client.IncompleteRead):
            ask(connection)


def test_headers_can_be_replaced_and_left_out() -> None:
    """A reply may lie about its length, or not name it."""
    lying = http_reply(200, b"abc", {"Content-Length": "5", "x-more": "1"})
    assert b"content-length: 5\r\n" in lying
    assert b"x-more: 1\r\n" in lying
    assert b"content-length" not in http_reply(200, b"abc", {"content-length": ""})


def test_the_bodies_have_the_shape_of_answers() -> None:
    """The helpers write what the API writes."""
    chat: Any = json.loads(chat_body("Hi", finish_reason="length"))
    assert chat["choices"][0]["message"]["content"] == "Hi"
    assert chat["choices"][0]["finish_reason"] == "length"
    assert json.loads(embedding_body([1.0], [2.0]))["data"][1]["embedding"] == [2.0]


def test_closing_ends_every_thread() -> None:
    """After the `with` block no thread is left, whatever was going on."""
    before = set(threading.enumerate())
    with ScriptedServer([[Wait(threading.Event())], [Pause(30)]]) as server:
        wires = [open_wire(server) for _ in range(3)]
        for wire in wires[:2]:
            wire.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while len(server.requests) < 2:
            time.sleep(0.005)
    assert set(threading.enumerate()) <= before
    for wire in wires:
        wire.close()


def test_many_clients_are_served_at_once() -> None:
    """Each connection has its own thread; replies go to requests in their order of arrival."""
    replies = [http_reply(200, str(number).encode()) for number in range(50)]
    with ScriptedServer(replies) as server:
        got: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: got.append(ask(connect(server))[1])) for _ in replies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(int, got)) == list(range(50))
        assert server.connections == 50
        assert all(isinstance(request, Received) for request in server.requests)


def test_nothing_listens_on_a_dead_address() -> None:
    """A dead address refuses connections."""
    with pytest.raises(ConnectionRefusedError):
        get_json(find_dead_url() + "/")
