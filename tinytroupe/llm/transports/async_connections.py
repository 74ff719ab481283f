"""HTTP connections for event loops, on which no foreign answer comes through.

See `connections`, which does the same for blocking calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

from tinytroupe.llm.errors import ConfigError, ConnectionFailed, LLMError, TimedOut
from tinytroupe.llm.transports.tls import load_trust
from tinytroupe.llm.transports.wire import Proxies, Reply

KEEPALIVE_SECONDS = 30.0


class _CheckedConnector(aiohttp.TCPConnector):
    """Gives up an idle connection on which something arrived that nobody asked for.

    aiohttp looks for that when a connection comes back to the pool, but not
    when it is taken out again, so a late surplus answer would be read as the
    answer to the next caller's request.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        oldest = time.monotonic() - KEEPALIVE_SECONDS
        # Only as far as the first one that will do: looking at all of them for every request
        # would cost more with every connection.
        for protocol, released_at in self._conns.get(key, ()):
            if protocol.should_close:
                protocol.close()
            elif protocol.is_connected() and released_at >= oldest:
                break
        return await super()._get(key, traces)


class AsyncConnections:
    """Posts bodies and returns replies, over connections that are kept, one set per event loop.

    A program need not close them: a loop that shuts down closes its own.
    """

    def __init__(self) -> None:
        self._proxies = Proxies()
        self._held: dict[
            asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None, None]]
        ] = {}

    async def post(
        self, url: str, headers: dict[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        """Posts a body and returns the reply, whatever its status. See `Connections.post`.

        Raises:
            TimedOut: The whole reply was not there in time.
            ConnectionFailed: The connection could not be made, or broke.
            ConfigError: The address or a header cannot be used.
        """
        with _failures_named(url, timeout_seconds):
            async with await self._open(url, headers, body, timeout_seconds) as reply:
                return Reply(reply.status, _to_mapping(reply), await reply.read())

    async def stream(
        self, url: str, headers: dict[str, str], body: bytes, timeout_seconds: float
    ) -> AsyncGenerator[Reply | bytes, None]:
        """Posts a body and yields the reply without its content, then the content as it comes.

        The headers must not ask for compression. Raises what `post` raises.
        """
        with _failures_named(url, timeout_seconds):
            async with await self._open(url, headers, body, timeout_seconds) as reply:
                yield Reply(reply.status, _to_mapping(reply), b"")
                async for chunk in reply.content.iter_any():
                    yield chunk

    async def _open(self, url: str, headers: dict[str, str], body: bytes, seconds: float) -> Any:
        session = await self._get_session(url.startswith("https:"))
        await _hear_out_the_sockets()
        return session.post(
            url,
            data=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=seconds),
            allow_redirects=False,
            proxy=self._proxies.find(url),
        )

    async def aclose(self) -> None:
        """Closes the running loop's connections; the next post opens new ones."""
        held = self._held.get(asyncio.get_running_loop())
        if held is not None:
            await held[1].aclose()

    async def _get_session(self, secure: bool) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is not None:
            return held[0]
        connector = _CheckedConnector(
            # 0 means no limit. How many are open at a time is the gate's business.
            limit=0,
            keepalive_timeout=KEEPALIVE_SECONDS,
            ssl=load_trust() if secure else True,
        )
        # Left to aiohttp, the environment's proxies would be looked up for every request anew,
        # on another thread.
        session = aiohttp.ClientSession(connector=connector, trust_env=False)
        holder = self._hold(session, loop)
        self._held[loop] = session, holder
        await holder.__anext__()
        return session

    async def _hold(
        self, session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[None, None]:
        # An event loop closes its open generators when it shuts down. So a program that
        # never calls `aclose` still ends without "Unclosed client session".
        try:
            yield
        finally:
            self._held.pop(loop, None)
            await session.close()


async def _hear_out_the_sockets() -> None:
    # What a server sent, or that it hung up, while the loop was busy elsewhere is noticed
    # only when the loop looks at its sockets: once to see it, once more to act on it. Before
    # that an idle connection still looks good, and a stray answer would be taken for ours.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def _to_mapping(reply: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}


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
    # Before Python 3.11 asyncio's is not the built-in one.
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return TimedOut(f"the endpoint at {address} did not answer within {timeout_seconds:g} s")
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return ConfigError(f"the address {address} or the key for it cannot be used in a request")
    if isinstance(error, (aiohttp.ClientError, OSError)):
        reason = str(error) or type(error).__name__
        return ConnectionFailed(f"the connection to the endpoint at {address} failed: {reason}")
    raise error
