"""HTTP clients to hand to the SDKs of other providers: deadlines hold on them.

The SDKs are built on httpx2, whose time-outs are per read. A blocking client is
`sdk.DeadlineClient`. For event loops, where httpx2 needs several times as long
as aiohttp once hundreds of calls are under way, requests go over the same
aiohttp connections that `OpenAITransport` uses, with a limit on the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import httpcore2
import httpx2

from tinytroupe.llm.errors import ConnectionFailed, LLMError, TimedOut
from tinytroupe.llm.transports.async_connections import AsyncConnections


class AioConnections(AsyncConnections):
    """aiohttp's sessions, one for each event loop, closed with it."""

    async def send(self, request: httpx2.Request, timeout_seconds: float | None) -> Any:
        """Sends a request and returns aiohttp's reply, of which only the head has come."""
        url = str(request.url)
        session = await self._get_session(request.url.scheme == "https")
        # What came while a connection was idle is noticed only when the loop looks at its
        # sockets: once to see it, once more to act on it. See `async_connections`.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return await session.request(
            request.method,
            url,
            headers=request.headers.multi_items(),
            data=await request.aread(),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            allow_redirects=False,
            proxy=self._proxies.find(url),
        )


class AioClient(httpx2.AsyncClient):
    """An httpx2 client over aiohttp. Serves several event loops; closing it closes nothing.

    The read time-out of a request is its limit as a whole, first byte to last.

    Args:
        connections: What it goes over.
    """

    def __init__(self, connections: AioConnections) -> None:
        super().__init__(
            transport=_AioTransport(connections),
            headers={"accept-encoding": "gzip, deflate"},
            follow_redirects=False,
        )


class _AioTransport(httpx2.AsyncBaseTransport):
    def __init__(self, connections: AioConnections) -> None:
        self._connections = connections

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        timeouts = request.extensions.get("timeout") or {}
        reply = await self._connections.send(request, timeouts.get("read"))
        headers = [
            (name, value)
            for name, value in reply.headers.items()
            if name.lower() not in _OF_THE_CONNECTION
        ]
        return httpx2.Response(reply.status, headers=headers, stream=_AioStream(reply))


_OF_THE_CONNECTION = ("content-encoding", "content-length", "transfer-encoding")
"""What no longer holds for a body that aiohttp has put together and unpacked."""


class _AioStream(httpx2.AsyncByteStream):
    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._reply.content.iter_any():
            yield chunk

    async def aclose(self) -> None:
        # A connection whose answer was read to its end has gone back already; any other
        # cannot be used again.
        self._reply.close()


_TIMEOUTS = (
    TimeoutError,
    asyncio.TimeoutError,  # before Python 3.11 another one
    httpx2.TimeoutException,
    httpcore2.TimeoutException,
)
_FAULTS = (
    httpx2.TransportError,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    aiohttp.ClientError,
    OSError,
)


def name_fault(error: BaseException, address: str, timeout_seconds: float) -> LLMError | None:
    """Returns our error for a fault of the connection, however deep an SDK has wrapped it.

    Args:
        error: What was raised.
        address: Where the endpoint is, for the message.
        timeout_seconds: What the attempt was allowed.

    Returns:
        None where it is no fault of the connection.
    """
    chain = list(_unwrap(error))
    if any(isinstance(cause, _TIMEOUTS) for cause in chain):
        return TimedOut(f"the endpoint at {address} did not answer within {timeout_seconds:g} s")
    faults = [cause for cause in chain if isinstance(cause, _FAULTS)]
    if not faults:
        return None
    reason = str(faults[-1]) or type(faults[-1]).__name__
    return ConnectionFailed(f"the connection to the endpoint at {address} failed: {reason}")


def _unwrap(error: BaseException | None) -> Iterator[BaseException]:
    # Only what was raised `from` another: the context may be what the caller is handling.
    while error is not None:
        yield error
        error = error.__cause__
