"""OpenAI and every server that speaks its API.

The SDK owns credentials, addresses, proxies and error bodies. Its low-level
`post` is called with the request's canonical bytes, because
`chat.completions.create` spends most of its time walking type annotations.
The SDK's own retries are off: the chain does that, once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

from tinytroupe.llm.errors import ConfigError, ConnectionFailed, LLMError, TimedOut
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.classify import classify_failure
from tinytroupe.llm.transports.wire import PATHS, check_kind, read_reply

if TYPE_CHECKING:
    import openai

SyncSDK: TypeAlias = "openai.OpenAI"
AsyncSDK: TypeAlias = "openai.AsyncOpenAI"

_Held: TypeAlias = "tuple[openai.AsyncOpenAI, AsyncGenerator[None, None]]"

_UNUSED_KEY = "no-key-needed"
"""What a server at BASE_URL is sent where no key is set; local servers do not look at it."""


class OpenAITransport:
    """Asks OpenAI, or any OpenAI-compatible server. See `Transport`.

    Nothing is imported, read or opened before the first live call. There is
    one SDK client per process and one per event loop.

    Args:
        api_key: None: what `OPENAI_API_KEY` says.
        base_url: None: what `OPENAI_BASE_URL` says, else OpenAI's own.
        name: The endpoint's name, for people.
        sdk: A ready SDK client to use for blocking calls; its connections are
            the caller's, so there the deadline of an attempt holds per read only.
        async_sdk: The same for calls on an event loop.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        name: str = "openai",
        *,
        sdk: SyncSDK | None = None,
        async_sdk: AsyncSDK | None = None,
    ) -> None:
        self.name = name
        self._api_key = api_key
        self._base_url = base_url
        self._given_sdk = sdk
        self._given_async_sdk = async_sdk
        self._lock = Lock()
        self._sdk: tuple[int, SyncSDK] | None = None
        self._async_sdks: dict[asyncio.AbstractEventLoop, _Held] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, base_url={self._base_url!r})"

    def send(self, attempt: Attempt) -> Response:
        path = self._find_path(attempt)
        sdk = self._given_sdk or self._get_sdk()
        from tinytroupe.llm.transports.connections import deadline

        started = time.monotonic()
        try:
            with deadline(attempt.timeout_seconds):
                reply = sdk.post(path, **_make_arguments(attempt))
                content = reply.content
        except Exception as error:
            raise map_sdk_error(error, attempt.timeout_seconds) from error
        return self._read(attempt, reply.headers, content, started)

    async def asend(self, attempt: Attempt) -> Response:
        path = self._find_path(attempt)
        sdk = self._given_async_sdk or await self._get_async_sdk()
        await _hear_out_the_sockets()
        started = time.monotonic()
        try:
            reply = await _within(
                attempt.timeout_seconds, sdk.post(path, **_make_arguments(attempt))
            )
            content = reply.content
        except Exception as error:
            raise map_sdk_error(error, attempt.timeout_seconds) from error
        return self._read(attempt, reply.headers, content, started)

    def close(self) -> None:
        with self._lock:
            held, self._sdk = self._sdk, None
        if held is not None and held[0] == os.getpid():
            held[1].close()

    async def aclose(self) -> None:
        held = self._async_sdks.get(asyncio.get_running_loop())
        if held is not None:
            await held[1].aclose()

    def _read(
        self, attempt: Attempt, headers: Mapping[str, str], content: bytes, started: float
    ) -> Response:
        return read_reply(
            attempt,
            headers,
            content,
            endpoint=self.name,
            seconds=time.monotonic() - started,
            now_epoch_seconds=time.time(),
        )

    def _get_sdk(self) -> SyncSDK:
        # A forked child must not talk on its parent's sockets: each would read the other's answers.
        with self._lock:
            if self._sdk is None or self._sdk[0] != os.getpid():
                self._sdk = os.getpid(), self._connect()
            return self._sdk[1]

    async def _get_async_sdk(self) -> AsyncSDK:
        loop = asyncio.get_running_loop()
        held = self._async_sdks.get(loop)
        if held is not None:
            return held[0]
        sdk = self._connect_async()
        holder = self._hold(sdk, loop)
        self._async_sdks[loop] = sdk, holder
        await holder.__anext__()
        return sdk

    async def _hold(
        self, sdk: AsyncSDK, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[None, None]:
        # An event loop closes its open generators when it shuts down. So a program that
        # never calls `aclose` still ends without "Unclosed client session".
        try:
            yield
        finally:
            self._async_sdks.pop(loop, None)
            await sdk.close()

    def _find_path(self, attempt: Attempt) -> str:
        return check_kind(attempt, PATHS)

    def _connect(self) -> SyncSDK:
        import openai

        from tinytroupe.llm.transports.connections import DeadlineClient

        return openai.OpenAI(
            api_key=self._find_key(),
            base_url=self._base_url,
            max_retries=0,
            http_client=DeadlineClient(),
        )

    def _connect_async(self) -> AsyncSDK:
        import openai

        from tinytroupe.llm.transports.async_connections import make_async_http_client

        return openai.AsyncOpenAI(
            api_key=self._find_key(),
            base_url=self._base_url,
            max_retries=0,
            http_client=make_async_http_client(),
        )

    def _find_key(self) -> str:
        key = self._api_key or os.environ.get("OPENAI_API_KEY")
        if key:
            return key
        if self._base_url or os.environ.get("OPENAI_BASE_URL"):
            return _UNUSED_KEY
        raise ConfigError(
            "there is no key for OpenAI: set the environment variable OPENAI_API_KEY, or set "
            "BASE_URL in config.ini for a server that needs none, or API_TYPE = rehearsal to "
            "run without a model"
        )


def _make_arguments(attempt: Attempt) -> dict[str, Any]:
    import httpx2

    return {
        "content": attempt.call.request.body,
        "cast_to": httpx2.Response,
        "options": {
            "headers": {"content-type": "application/json"},
            "timeout": attempt.timeout_seconds,
            "max_retries": 0,
        },
    }


async def _hear_out_the_sockets() -> None:
    # What a server sent, or that it hung up, while the loop was busy elsewhere is noticed
    # only when the loop looks at its sockets: once to see it, once more to act on it. Before
    # that an idle connection still looks good, and a stray answer would be taken for ours.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def _within(seconds: float, work: Awaitable[Any]) -> Any:
    if sys.version_info >= (3, 11):
        async with asyncio.timeout(seconds):
            return await work
    return await asyncio.wait_for(work, seconds)


# Before Python 3.11 the second is not the first.
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)


def map_sdk_error(error: Exception, timeout_seconds: float | None = None) -> LLMError:
    """Returns our error for one of the SDK's, or of the HTTP client below it.

    Args:
        error: What was raised; an `LLMError` is returned as it is.
        timeout_seconds: What the attempt was allowed, for the message.

    Raises:
        Exception: The error itself, when it is none of the SDK's: a bug must not
            look like a network fault.
    """
    import httpcore2
    import httpx2
    import openai

    if isinstance(error, LLMError):
        return error
    if isinstance(error, openai.APIStatusError):
        reply = error.response
        return classify_failure(reply.status_code, reply.headers, reply.content, time.time())
    if isinstance(error, (*_TIMEOUTS, openai.APIConnectionError, httpx2.HTTPError)):
        reason = _find_reason(error)
        if isinstance(reason, (*_TIMEOUTS, httpcore2.TimeoutException)):
            allowed = f" within {timeout_seconds:g} s" if timeout_seconds else " in time"
            return TimedOut(f"the endpoint{_name_address(error)} did not answer{allowed}")
        return ConnectionFailed(
            f"the connection to the endpoint{_name_address(error)} failed: "
            f"{str(reason) or type(reason).__name__}"
        )
    if isinstance(error, openai.OpenAIError):
        return ConfigError(f"the endpoint is not set up: {error}")
    raise error


def _name_address(error: BaseException) -> str:
    url = getattr(getattr(error, "_request", None) or getattr(error, "request", None), "url", None)
    return f" at {url.scheme}://{url.netloc.decode()}" if url is not None else ""


def _find_reason(error: BaseException) -> BaseException:
    """Returns the innermost cause.

    The SDK's own message is only "Connection error.", and its aiohttp backend
    calls a connection that was reset a time-out.
    """
    while error.__cause__ is not None and not isinstance(error, _TIMEOUTS):
        error = error.__cause__
    return error
