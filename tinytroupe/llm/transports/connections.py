"""HTTP connections on which a deadline holds and no foreign answer comes through.

The client library's timeout is per read: a server that drips bytes makes four
seconds last as long as it likes. Here every read and write of a connection is
given what is left of the whole attempt. And when a server sends more than was
asked for, the connection is dropped, or the surplus would be read as the
answer to the next caller's request.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2

_current = threading.local()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends every wait on the network that this thread does inside, when the time is over."""
    _current.ends_at = time.monotonic() + seconds
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


class _DeadlineBackend(httpcore2.NetworkBackend):
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


class _CheckedConnection(httpcore2.ConnectionInterface):
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


class DeadlineTransport(httpx2.HTTPTransport):
    """An HTTP transport over such connections, with or without a proxy."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Replaced from outside: the constructor chooses the kind of pool (direct, HTTP
        # proxy, SOCKS) and has no argument for either.
        pool: Any = self._pool
        pool._network_backend = _DeadlineBackend(pool._network_backend)
        create_connection = pool.create_connection
        pool.create_connection = lambda origin: _CheckedConnection(create_connection(origin))


class DeadlineClient(httpx2.Client):
    """An HTTP client over `DeadlineTransport`, without a limit on connections.

    How many attempts are on the wire is the gate's business; a second limit
    here would only turn the wait into a time-out.
    """

    def __init__(self) -> None:
        super().__init__(
            follow_redirects=True,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
        )

    def _init_transport(self, **options: Any) -> httpx2.BaseTransport:  # type: ignore[override]
        options.pop("transport", None)
        return DeadlineTransport(**options)

    def _init_proxy_transport(  # type: ignore[override]
        self, proxy: httpx2.Proxy, **options: Any
    ) -> httpx2.BaseTransport:
        return DeadlineTransport(proxy=proxy, **options)
