"""Servers for tests: the rehearsal server as a process, and a server that plays exact bytes.

Both listen on a free loopback port and end with the `with` block that started them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import urlsplit

ACCEPT_POLL_SECONDS = 0.05
START_SECONDS = 30.0
STOP_SECONDS = 10.0


def get_json(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """Returns the JSON at an address, whatever the status, past any proxy of the environment."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    try:
        connection.request("GET", parts.path, headers=dict(headers or {}))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def find_dead_url() -> str:
    """Returns the address of a loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class RehearseServer:
    """`python -m tinytroupe rehearse-server` as a process of its own.

    Args:
        *options: Further words of the command line, such as `--latency`, `0.2`.
    """

    def __init__(self, *options: str) -> None:
        words = [sys.executable, "-m", "tinytroupe", "rehearse-server", "--port", "0"]
        self.process = subprocess.Popen(
            [*words, "--quiet", "--exit-with-parent", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self._read_address()
        """`http://127.0.0.1:PORT`."""

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its `base_url`."""
        return self.url + "/v1"

    def _read_address(self) -> str:
        assert self.process.stdout is not None
        # A server that hangs while it starts is killed, so that `readline` ends.
        guard = threading.Timer(START_SECONDS, self.process.kill)
        guard.start()
        line = self.process.stdout.readline()
        guard.cancel()
        _, found, address = line.strip().partition("rehearsal server on ")
        if not found:
            self.kill()
            raise RuntimeError(f"the rehearsal server did not start; it said {line!r}")
        return address

    def stats(self) -> dict[str, Any]:
        """Returns what the server counted: requests by path, statuses, faults, connections."""
        stats: dict[str, Any] = get_json(self.url + "/stats")
        return stats

    def count_requests(self) -> int:
        """Returns how many requests reached the server."""
        return sum(self.stats()["requests"].values())

    def stop(self) -> int:
        """Ends the server as an operator does, by SIGTERM; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        finally:
            self.kill()
        return code

    def kill(self) -> None:
        """Ends the server at once."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> RehearseServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class Pause:
    """Waits; short, for a test."""

    seconds: float


@dataclass(frozen=True)
class Wait:
    """Waits until the test sets the event."""

    event: threading.Event


@dataclass(frozen=True)
class Close:
    """Closes the connection in order (FIN)."""


@dataclass(frozen=True)
class Reset:
    """Breaks the connection off (RST)."""


Step: TypeAlias = "bytes | Pause | Wait | Close | Reset"
Reply: TypeAlias = "bytes | Sequence[Step]"


@dataclass(frozen=True)
class Received:
    """A request as it reached the server."""

    method: str
    path: str
    """With the query."""
    headers: Mapping[str, str]
    """With lower-case names."""
    body: bytes
    connection: int
    """On which connection it came, counted from 0."""

    def json(self) -> Any:
        """Returns the parsed body."""
        return json.loads(self.body)


def http_reply(
    status: int = 200,
    body: bytes | object = b"",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Writes a whole HTTP/1.1 response on a connection that stays open.

    Args:
        status: The status; its reason phrase is the standard one.
        body: Bytes as they are; anything else as JSON.
        headers: Beyond `content-type` and `content-length`, or in place of
            them; a value of "" leaves the header out.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": "application/json", "content-length": str(len(content))}
    fields.update({name.lower(): value for name, value in (headers or {}).items()})
    return _write_head(status, fields) + content


def chunked_reply(
    chunks: Iterable[bytes],
    *,
    terminated: bool = True,
    status: int = 200,
    content_type: str = "application/json",
) -> bytes:
    """Writes a response in chunks; not `terminated`, its last, empty chunk is missing."""
    fields = {"content-type": content_type, "transfer-encoding": "chunked"}
    parts = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk]
    end = b"0\r\n\r\n" if terminated else b""
    return _write_head(status, fields) + b"".join(parts) + end


def _write_head(status: int, fields: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def drip(content: bytes, interval_seconds: float, size: int = 1) -> list[Step]:
    """Returns the steps that send content piece by piece, with a pause after each."""
    steps: list[Step] = []
    for at in range(0, len(content), size):
        steps += [content[at : at + size], Pause(interval_seconds)]
    return steps


def chat_body(text: str | None = "Hello.", **choice: object) -> bytes:
    """Writes a chat answer in the shape of OpenAI's API.

    Args:
        text: The message's content.
        **choice: What else the choice has, such as `finish_reason`, or in
            place of its message.
    """
    message = {"role": "assistant", "content": text}
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    return json.dumps(answer).encode()


def embedding_body(*vectors: Sequence[float]) -> bytes:
    """Writes an embedding answer in the shape of OpenAI's API."""
    rows = [
        {"object": "embedding", "index": index, "embedding": list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    answer = {"object": "list", "data": rows, "model": "scripted", "usage": usage}
    return json.dumps(answer).encode()


@dataclass
class _Connection:
    number: int
    socket: socket.socket
    buffer: bytes = field(default=b"")


class _Ended(Exception):
    """The connection is over, on either side."""


class ScriptedServer:
    """Plays one reply of a script for each request it receives, byte for byte.

    Each reply is bytes, or steps: bytes, `Pause`, `Wait`, `Close`, `Reset`. A
    request that comes after the script's end is answered with status 599 and
    counted in `surplus`; `then` is played instead if it is given.

    Args:
        replies: One for each request, in the order in which requests arrive.
        then: Played for every request after those.
        greetings: Steps for the first, second … connection, played as soon as
            it is accepted, before anything is read.
    """

    def __init__(
        self,
        replies: Iterable[Reply] = (),
        *,
        then: Reply | None = None,
        greetings: Iterable[Reply] = (),
    ) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.surplus = 0
        self._replies = list(replies)
        self._then = then
        self._greetings = list(greetings)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._open: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.settimeout(ACCEPT_POLL_SECONDS)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="scripted-server", daemon=True)
        self._acceptor.start()

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its `base_url`."""
        return self.url + "/v1"

    def close(self) -> None:
        """Closes every connection and ends every thread."""
        self._ending.set()
        self._acceptor.join(STOP_SECONDS)
        self._listener.close()
        with self._lock:
            opened, threads = list(self._open), list(self._threads)
        for connection in opened:
            _shut(connection.socket)
        for thread in threads:
            thread.join(STOP_SECONDS)
        assert not any(thread.is_alive() for thread in [self._acceptor, *threads])

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                accepted, _ = self._listener.accept()
            except TimeoutError:
                continue
            accepted.settimeout(None)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self.connections, accepted)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self.connections += 1
                self._open.append(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.number < len(self._greetings):
                self._play(connection, self._greetings[connection.number])
            while True:
                self._play(connection, self._take_reply(_receive(connection)))
        except (_Ended, OSError):
            pass
        finally:
            with self._lock:
                self._open.remove(connection)
            connection.socket.close()

    def _take_reply(self, request: Received) -> Reply:
        with self._lock:
            index = len(self.requests)
            self.requests.append(request)
            if index < len(self._replies):
                return self._replies[index]
            if self._then is not None:
                return self._then
            self.surplus += 1
        return http_reply(599, {"error": {"message": "the test's script is over"}})

    def _play(self, connection: _Connection, reply: Reply) -> None:
        for step in [reply] if isinstance(reply, bytes) else reply:
            if isinstance(step, bytes):
                connection.socket.sendall(step)
            elif isinstance(step, Pause):
                self._ending.wait(step.seconds)
            elif isinstance(step, Wait):
                while not step.event.wait(ACCEPT_POLL_SECONDS):
                    if self._ending.is_set():
                        raise _Ended
            else:
                if isinstance(step, Reset):
                    # A linger time of 0 makes `close` send RST in place of FIN.
                    linger = struct.pack("ii", 1, 0)
                    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                else:
                    _discard_unread(connection.socket)
                raise _Ended
            if self._ending.is_set():
                raise _Ended


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _discard_unread(connected: socket.socket) -> None:
    """Reads what has arrived: closing a socket with unread bytes sends RST in place of FIN."""
    connected.setblocking(False)
    with contextlib.suppress(OSError):
        while connected.recv(65536):
            pass


def _receive(connection: _Connection) -> Received:
    head = _read_until(connection, b"\r\n\r\n").decode("latin-1")
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _read_chunks(connection)
    else:
        body = _read_exactly(connection, int(headers.get("content-length", "0")))
    return Received(method, path, headers, body, connection.number)


def _read_chunks(connection: _Connection) -> bytes:
    body = b""
    while True:
        size = int(_read_until(connection, b"\r\n").split(b";")[0], 16)
        body += _read_exactly(connection, size)
        _read_until(connection, b"\r\n")
        if size == 0:
            return body


def _read_until(connection: _Connection, mark: bytes) -> bytes:
    while mark not in connection.buffer:
        _read_more(connection)
    taken, _, connection.buffer = connection.buffer.partition(mark)
    return taken


def _read_exactly(connection: _Connection, size: int) -> bytes:
    while len(connection.buffer) < size:
        _read_more(connection)
    taken, connection.buffer = connection.buffer[:size], connection.buffer[size:]
    return taken


def _read_more(connection: _Connection) -> None:
    received = connection.socket.recv(65536)
    if not received:
        raise _Ended
    connection.buffer += received
