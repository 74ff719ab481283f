"""OpenAI and every server that speaks its API."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

import tinytroupe
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames
from tinytroupe.llm.transports.streaming import STREAM_HEADERS, StreamReading, make_stream_body
from tinytroupe.llm.transports.wire import (
    PATHS,
    Reply,
    check_address,
    check_kind,
    find_key,
    list_faults,
    read_reply,
)

if TYPE_CHECKING:
    import openai

    from tinytroupe.llm.transports.async_connections import AsyncConnections
    from tinytroupe.llm.transports.connections import Connections

SyncSDK: TypeAlias = "openai.OpenAI"
AsyncSDK: TypeAlias = "openai.AsyncOpenAI"

OPENAI_URL = "https://api.openai.com/v1"

_UNUSED_KEY = "no-key-needed"
"""What a server of one's own is sent where no key is set; local servers do not look at it."""


class OpenAITransport:
    """Asks OpenAI, or any OpenAI-compatible server. See `Transport`.

    Nothing is imported, read or opened before the first live call. The
    canonical bytes of the request are its body, and are posted without the
    SDK: measured, that takes less than half the CPU of the SDK's low-level
    `post`, and a sixth of `chat.completions.create`.

    Args:
        api_key: None: what `OPENAI_API_KEY` says, or the file in `OPENAI_API_KEY_FILE`.
        base_url: None: what `OPENAI_BASE_URL` says, else OpenAI's own.
        name: The endpoint's name, for people.
        sdk: A ready SDK client to make blocking calls through, with its own
            credentials and connections; there the deadline of an attempt holds per read only.
        async_sdk: The same for calls on an event loop.
        names: What these settings are called where they stand, for errors.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        name: str = "openai",
        *,
        sdk: SyncSDK | None = None,
        async_sdk: AsyncSDK | None = None,
        names: SettingNames = ARGUMENTS,
    ) -> None:
        self.name = name
        self._names = names
        self._api_key = api_key
        self._base_url = base_url
        self._given_sdk = sdk
        self._given_async_sdk = async_sdk
        self._lock = Lock()
        self._connections: tuple[int, Connections] | None = None
        self._async_connections: AsyncConnections | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, base_url={self._base_url!r})"

    def send(self, attempt: Attempt) -> Response:
        started = time.monotonic()
        if self._given_sdk is not None:
            reply = _post_by_sdk(self._given_sdk, self._find_path(attempt), attempt)
        else:
            reply = self._get_connections().post(
                self._find_address() + self._find_path(attempt),
                {**self._make_headers(), **self._make_credentials()},
                attempt.call.request.body,
                attempt.timeout_seconds,
            )
        return self._read(attempt, reply, started)

    async def asend(self, attempt: Attempt) -> Response:
        started = time.monotonic()
        if self._given_async_sdk is not None:
            path = self._find_path(attempt)
            reply = await _apost_by_sdk(self._given_async_sdk, path, attempt)
        else:
            reply = await self._get_async_connections().post(
                self._find_address() + self._find_path(attempt),
                {**self._make_headers(), **await self._amake_credentials()},
                attempt.call.request.body,
                attempt.timeout_seconds,
            )
        return self._read(attempt, reply, started)

    def stream(self, attempt: Attempt) -> Generator[str | Response, None, None]:
        """Yields the answer's text as it comes, then the whole response. Raises as `send` does."""
        started = time.monotonic()
        reading = StreamReading(attempt)
        received = self._get_connections().stream(
            self._find_address() + self._find_path(attempt),
            {**self._make_headers(), **STREAM_HEADERS, **self._make_credentials()},
            make_stream_body(attempt.call.request),
            attempt.timeout_seconds,
        )
        with closing(received):
            for part in received:
                yield from reading.take(part)
        yield self._read(attempt, reading.finish(), started)

    async def astream(self, attempt: Attempt) -> AsyncGenerator[str | Response, None]:
        """Does what `stream` does without blocking the event loop."""
        started = time.monotonic()
        reading = StreamReading(attempt)
        received = self._get_async_connections().stream(
            self._find_address() + self._find_path(attempt),
            {**self._make_headers(), **STREAM_HEADERS, **await self._amake_credentials()},
            make_stream_body(attempt.call.request),
            attempt.timeout_seconds,
        )
        async with aclosing(received):
            async for part in received:
                for text in reading.take(part):
                    yield text
        yield self._read(attempt, reading.finish(), started)

    def close(self) -> None:
        with self._lock:
            held, self._connections = self._connections, None
        if held is not None and held[0] == os.getpid():
            held[1].close()

    async def aclose(self) -> None:
        if self._async_connections is not None:
            await self._async_connections.aclose()

    def make_sdk(self) -> SyncSDK:
        """Returns a new SDK client for the same endpoint, for what this class does not do.

        Raises:
            ConfigError: The endpoint is not set up.
        """
        import openai

        from tinytroupe.llm.transports.sdk import DeadlineClient

        return openai.OpenAI(
            api_key=self._find_key(),
            base_url=self._base_url,
            max_retries=0,
            http_client=DeadlineClient(),
        )

    def list_lacks(self) -> list[str]:
        """Returns what keeps this from being asked, as the first call would say. Sends nothing."""
        return list_faults(self._find_address, self._find_key)

    def _read(self, attempt: Attempt, reply: Reply, started: float) -> Response:
        return read_reply(
            attempt,
            reply,
            endpoint=self.name,
            seconds=time.monotonic() - started,
            now_epoch_seconds=time.time(),
            names=self._names,
        )

    def _get_connections(self) -> Connections:
        # A forked child must not talk on its parent's sockets: each would read the other's
        # answers.
        held = self._connections
        if held is not None and held[0] == os.getpid():
            return held[1]
        from tinytroupe.llm.transports.connections import Connections

        with self._lock:
            if self._connections is None or self._connections[0] != os.getpid():
                self._connections = os.getpid(), Connections()
            return self._connections[1]

    def _get_async_connections(self) -> AsyncConnections:
        if self._async_connections is None:
            from tinytroupe.llm.transports.async_connections import AsyncConnections

            with self._lock:
                self._async_connections = self._async_connections or AsyncConnections()
        return self._async_connections

    def _find_address(self) -> str:
        return check_address(self._base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)

    def _find_path(self, attempt: Attempt) -> str:
        return check_kind(attempt, PATHS)

    def _make_headers(self) -> dict[str, str]:
        return {
            "accept": "application/json",
            "accept-encoding": "gzip",
            "content-type": "application/json",
            "user-agent": f"tinytroupe/{tinytroupe.__version__}",
        }

    def _make_credentials(self) -> dict[str, str]:
        credentials = {"authorization": f"Bearer {self._find_key()}"}
        for name, variable in _ACCOUNT_VARIABLES.items():
            value = os.environ.get(variable)
            if value:
                credentials[name] = value
        return credentials

    async def _amake_credentials(self) -> dict[str, str]:
        return self._make_credentials()

    def _find_key(self) -> str:
        names = self._names
        if key := find_key(self._api_key, ("OPENAI_API_KEY",), names):
            return key
        if self._base_url or os.environ.get("OPENAI_BASE_URL"):
            return _UNUSED_KEY
        raise ConfigError(
            "there is no key for OpenAI: "
            f"{names.say_how_to_give(names.api_key, 'OPENAI_API_KEY')}, or set {names.base_url} "
            "for a server that needs none"
            + (f", or {names.rehearsal} to run without a model" if names.rehearsal else "")
        )


_ACCOUNT_VARIABLES = {
    "openai-organization": "OPENAI_ORG_ID",
    "openai-project": "OPENAI_PROJECT_ID",
}
"""Headers that say on whose account a call goes, and the variables that the SDK takes them from."""


def _post_by_sdk(sdk: SyncSDK, path: str, attempt: Attempt) -> Reply:
    from tinytroupe.llm.transports.connections import deadline
    from tinytroupe.llm.transports.sdk import make_post_arguments, map_sdk_error, to_reply

    try:
        with deadline(attempt.timeout_seconds):
            return to_reply(sdk.post(path, **make_post_arguments(attempt)))
    except Exception as error:
        raise map_sdk_error(error, attempt.timeout_seconds) from error


async def _apost_by_sdk(sdk: AsyncSDK, path: str, attempt: Attempt) -> Reply:
    from tinytroupe.llm.transports.sdk import make_post_arguments, map_sdk_error, to_reply

    try:
        work = sdk.post(path, **make_post_arguments(attempt))
        return to_reply(await asyncio.wait_for(work, attempt.timeout_seconds))
    except Exception as error:
        raise map_sdk_error(error, attempt.timeout_seconds) from error
