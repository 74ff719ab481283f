"""HTTP connections for event loops, on which no foreign answer comes through.

See `connections`, which does the same for blocking calls.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import httpx2
import openai

KEEPALIVE_SECONDS = 30.0


class _CheckedConnector(aiohttp.TCPConnector):
    """Gives up an idle connection on which something arrived that nobody asked for.

    aiohttp looks for that when a connection comes back to the pool, but not
    when it is taken out again, so a late surplus answer would be read as the
    answer to the next caller's request.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        for protocol, _ in self._conns.get(key, ()):
            if protocol.should_close:
                protocol.close()
        return await super()._get(key, traces)


def make_async_http_client() -> httpx2.AsyncClient:
    """Returns the SDK's aiohttp client over such connections, without a limit on their number.

    How many attempts are on the wire is the gate's business.
    """
    # None would silently mean aiohttp's own limit of 100; 0 means none.
    limits = httpx2.Limits(max_connections=0, keepalive_expiry=KEEPALIVE_SECONDS)
    client = openai.DefaultAioHttpClient(limits=limits)
    # One more transport for each proxy that the environment names.
    transports: list[Any] = [client._transport, *client._mounts.values()]
    for transport in transports:
        if transport is not None:
            transport.client = _SessionMaker(transport.ssl_context)
    return client


class _SessionMaker:
    """Makes the session when the first call is made, on the loop that it belongs to."""

    def __init__(self, ssl_context: Any) -> None:
        self._ssl_context = ssl_context

    def __call__(self) -> aiohttp.ClientSession:
        connector = _CheckedConnector(
            limit=0, keepalive_timeout=KEEPALIVE_SECONDS, ssl=self._ssl_context
        )
        return aiohttp.ClientSession(connector=connector)
