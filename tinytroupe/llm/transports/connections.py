"""HTTP connections on which a deadline holds and no foreign answer comes through.

An HTTP library's timeout is per read: a server that drips bytes makes four
seconds last as long as it likes. Here every read and write of a connection is
given what is left of the whole attempt. And when a server sends more than was
asked for, the connection is dropped, or the surplus would be read as the
answer to the next caller's request.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpcore2

from tinytroupe.llm.errors import ConfigError, ConnectionFailed, LLMError, TimedOut
from tinytroupe.llm.transports.tls import load_trust
from tinytroupe.llm.transports.wire import Reply, find_proxy, inflate

KEEPALIVE_SECONDS = 30.0
MAX_IDLE_CONNECTIONS = 100

_current = threading.local()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends every wait on the network that this thread does inside, when the time is over."""
    with _until(time.monotonic() + seconds):
        yield


@contextmanager
def _until(ends_at: float) -> Iterator[None]:
    _current.ends_at = ends_at
    try:
        yield
    finally:
        _current.ends_at = None


def _shorten(timeout: float | None) -> float | None:
    ends_at = getattr(_current, "ends_at", None)
    if ends_at is None:
        return timeout
    left = ends_at - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the whole attempt took longer than it may")
    return float(left) if timeout is None else min(timeout, left)


class _DeadlineStream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _shorten(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _shorten(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, _shorten(timeout))
        return _DeadlineStream(secured)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class DeadlineBackend(httpcore2.NetworkBackend):
    """Opens connections on which `deadline` holds."""

    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        stream = self._backend.connect_tcp(
            host, port, _shorten(timeout), local_address, socket_options
        )
        return _DeadlineStream(stream)

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        stream = self._backend.connect_unix_socket(path, _shorten(timeout), socket_options)
        return _DeadlineStream(stream)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class CheckedConnection(httpcore2.ConnectionInterface):
    """A connection that the pool gives up when the server sent more than was asked for."""

    def __init__(self, connection: httpcore2.ConnectionInterface) -> None:
        self._connection = connection

    def has_expired(self) -> bool:
        return self._connection.has_expired() or _has_surplus(self._connection)

    def handle_request(self, request: httpcore2.Request) -> httpcore2.Response:
        return self._connection.handle_request(request)

    def close(self) -> None:
        self._connection.close()

    def info(self) -> str:
        return self._connection.info()

    def can_handle_request(self, origin: httpcore2.Origin) -> bool:
        return self._connection.can_handle_request(origin)

    def is_available(self) -> bool:
        return self._connection.is_available()

    def is_idle(self) -> bool:
        return self._connection.is_idle()

    def is_closed(self) -> bool:
        return self._connection.is_closed()


def _has_surplus(connection: httpcore2.ConnectionInterface) -> bool:
    # The library offers no question for this. It looks whether the socket is readable,
    # which misses what arrived in the same read as the answer and waits in the parser.
    parser = getattr(getattr(connection, "_connection", None), "_h11_state", None)
    return parser is not None and bool(parser.trailing_data[0])


class _Pool(httpcore2.ConnectionPool):
    def create_connection(self, origin: httpcore2.Origin) -> httpcore2.ConnectionInterface:
        return CheckedConnection(super().create_connection(origin))


class Connections:
    """Posts bodies and returns replies, over connections that are kept. Blocks; thread-safe.

    How many are open at a time is the gate's business; there is no limit here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[tuple[bool, str | None], _Pool] = {}

    def post(self, url: str, headers: dict[str, str], body: bytes, timeout_seconds: float) -> Reply:
        """Posts a body and returns the reply, whatever its status.

        Args:
            url: Where to.
            headers: With lower-case names.
            body: What to send.
            timeout_seconds: For the whole exchange, connecting included.

        Raises:
            TimedOut: The whole reply was not there in time.
            ConnectionFailed: The connection could not be made, or broke.
            ConfigError: The address or a header cannot be used.
        """
        pool = self._get_pool(url.startswith("https:"), find_proxy(url))
        with _failures_named(url, timeout_seconds), deadline(timeout_seconds):
            reply = pool.request("POST", url, headers=_to_fields(headers), content=body)
        told = _to_mapping(reply.headers)
        return Reply(reply.status, told, inflate(told, reply.content))

    def stream(
        self, url: str, headers: dict[str, str], body: bytes, timeout_seconds: float
    ) -> Generator[Reply | bytes, None, None]:
        """Posts a body and yields the reply without its content, then the content as it comes.

        The headers must not ask for compression. Raises what `post` raises.
        """
        pool = self._get_pool(url.startswith("https:"), find_proxy(url))
        ends_at = time.monotonic() + timeout_seconds
        with ExitStack() as stack:
            # The reader pauses between pieces, on this thread: the deadline holds for each wait.
            with _failures_named(url, timeout_seconds), _until(ends_at):
                opened = pool.stream("POST", url, headers=_to_fields(headers), content=body)
                reply = stack.enter_context(opened)
            yield Reply(reply.status, _to_mapping(reply.headers), b"")
            chunks = reply.iter_stream()
            while True:
                with _failures_named(url, timeout_seconds), _until(ends_at):
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                yield chunk

    def close(self) -> None:
        """Closes every connection; the next post opens new ones."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()

    def _get_pool(self, secure: bool, proxy: str | None) -> _Pool:
        pool = self._pools.get((secure, proxy))
        if pool is not None:
            return pool
        with self._lock:
            if (secure, proxy) not in self._pools:
                self._pools[(secure, proxy)] = _Pool(
                    ssl_context=load_trust() if secure else None,
                    proxy=httpcore2.Proxy(proxy) if proxy else None,
                    max_connections=None,
                    max_keepalive_connections=MAX_IDLE_CONNECTIONS,
                    keepalive_expiry=KEEPALIVE_SECONDS,
                    network_backend=DeadlineBackend(httpcore2.SyncBackend()),
                )
            return self._pools[(secure, proxy)]


def _to_fields(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _to_mapping(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in fields}


@contextmanager
def _failures_named(url: str, timeout_seconds: float) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failure = _name_failure(error, url, timeout_seconds)
        # The cause of this one shows the header, and so the key.
        raise failure from (None if isinstance(failure, ConfigError) else error)


def _name_failure(error: Exception, url: str, timeout_seconds: float) -> LLMError:
    address = "/".join(url.split("/")[:3])
    if isinstance(error, (httpcore2.TimeoutException, TimeoutError)):
        return TimedOut(f"the endpoint at {address} did not answer within {timeout_seconds:g} s")
    if isinstance(error, (httpcore2.UnsupportedProtocol, httpcore2.LocalProtocolError)):
        return ConfigError(f"the address {address} or the key for it cannot be used in a request")
    if isinstance(error, (httpcore2.NetworkError, httpcore2.ProtocolError, OSError)):
        return ConnectionFailed(f"the connection to the endpoint at {address} failed: {error}")
    raise error
