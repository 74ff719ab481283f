"""What the transports over other providers' SDKs share.

An SDK owns credentials, addresses, versions and headers. What is sent and what
is made of the answer is decided by pure functions beside each transport, and
deadlines hold because the SDK is handed an HTTP client on which they do.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from tinytroupe.llm.errors import ConfigError, LLMAPIError, LLMError
from tinytroupe.llm.request import Attempt, Request
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.classify import find_request_id
from tinytroupe.llm.rules.setting_names import SettingNames
from tinytroupe.llm.transports.wire import Reply, is_installed, list_faults, read_reply

if TYPE_CHECKING:
    import httpx2

    from tinytroupe.llm.transports.http_clients import AioConnections
    from tinytroupe.llm.transports.sdk import DeadlineClient


class Builder(Protocol):
    """Puts the events of a stream together into the answer that would have come unstreamed."""

    def add(self, event: Any) -> str:
        """Takes one event in; returns the text that it adds."""
        ...

    def finish(self) -> bytes:
        """Returns the whole answer in the provider's shape."""
        ...


class SDKTransport(ABC):
    """Asks a provider through its SDK. See `Transport`.

    Nothing is imported, read or opened before the first live call. One SDK
    client serves all blocking calls of a process, another one all event loops.

    Args:
        api_key: None: what the environment says.
        base_url: None: what the environment says, else the provider's own.
        name: The endpoint's name, for people.
        names: What these settings are called where they stand, for errors.
    """

    package: str
    """The SDK's."""

    def __init__(
        self, api_key: str | None, base_url: str | None, name: str, names: SettingNames
    ) -> None:
        self.name = name
        self._names = names
        self._api_key = api_key
        self._base_url = base_url
        self._lock = Lock()
        self._blocking: tuple[int, Any, DeadlineClient] | None = None
        self._awaiting: tuple[int, Any, AioConnections] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, base_url={self._base_url!r})"

    def send(self, attempt: Attempt) -> Response:
        from tinytroupe.llm.transports.connections import deadline

        started = time.monotonic()
        question = self._write(attempt.call.request)
        sdk = self._get_blocking()
        with self._faults_named(attempt), deadline(attempt.timeout_seconds):
            reply = self._ask(sdk, question, attempt.timeout_seconds)
        return self._read(attempt, reply, started)

    async def asend(self, attempt: Attempt) -> Response:
        started = time.monotonic()
        question = self._write(attempt.call.request)
        sdk = self._get_awaiting()
        with self._faults_named(attempt):
            reply = await self._aask(sdk, question, attempt.timeout_seconds)
        return self._read(attempt, reply, started)

    def stream(self, attempt: Attempt) -> Generator[str | Response, None, None]:
        """Yields the answer's text as it comes, then the whole response. Raises as `send` does."""
        from tinytroupe.llm.transports.connections import deadline

        started = time.monotonic()
        question = self._write(attempt.call.request)
        reading = _Reading(self._make_builder())
        events = self._open(self._get_blocking(), question, attempt.timeout_seconds)
        with closing(events):
            while True:
                # The reader pauses between pieces, on this thread: the deadline holds for
                # each wait.
                left = started + attempt.timeout_seconds - time.monotonic()
                with self._faults_named(attempt), deadline(left):
                    event = next(events, None)
                if event is None:
                    break
                if text := reading.take(event):
                    yield text
        yield self._read(attempt, reading.finish(), started)

    async def astream(self, attempt: Attempt) -> AsyncGenerator[str | Response, None]:
        """Does what `stream` does without blocking the event loop."""
        started = time.monotonic()
        question = self._write(attempt.call.request)
        reading = _Reading(self._make_builder())
        events = self._aopen(self._get_awaiting(), question, attempt.timeout_seconds)
        async with aclosing(events):
            while True:
                with self._faults_named(attempt):
                    event = await anext(events, None)
                if event is None:
                    break
                if text := reading.take(event):
                    yield text
        yield self._read(attempt, reading.finish(), started)

    def close(self) -> None:
        with self._lock:
            held, self._blocking = self._blocking, None
        if held is not None and held[0] == os.getpid():
            held[2].close()

    async def aclose(self) -> None:
        if self._awaiting is not None:
            await self._awaiting[2].aclose()

    def list_lacks(self) -> list[str]:
        """Returns what keeps this from being asked, as the first call would say. Sends nothing."""
        return list_faults(self._check_package, self._find_key, self._find_address)

    def _check_package(self) -> None:
        if not is_installed(self.package):
            raise self._refuse_without_package()

    def _get_blocking(self) -> Any:
        # A forked child must not talk on its parent's sockets: each would read the other's
        # answers.
        held = self._blocking
        if held is not None and held[0] == os.getpid():
            return held[1]
        from tinytroupe.llm.transports.sdk import DeadlineClient

        with self._lock:
            if self._blocking is None or self._blocking[0] != os.getpid():
                client = DeadlineClient()
                self._blocking = os.getpid(), self._make_blocking(client), client
            return self._blocking[1]

    def _get_awaiting(self) -> Any:
        held = self._awaiting
        if held is not None and held[0] == os.getpid():
            return held[1]
        from tinytroupe.llm.transports.http_clients import AioClient, AioConnections

        with self._lock:
            if self._awaiting is None or self._awaiting[0] != os.getpid():
                connections = AioConnections()
                sdk = self._make_awaiting(AioClient(connections))
                self._awaiting = os.getpid(), sdk, connections
            return self._awaiting[1]

    @contextmanager
    def _faults_named(self, attempt: Attempt) -> Iterator[None]:
        from tinytroupe.llm.transports.http_clients import name_fault

        try:
            yield
        except LLMError:
            raise
        except Exception as error:
            failure = self._name_failure(error) or name_fault(
                error, self._find_address(), attempt.timeout_seconds
            )
            if failure is None:
                raise
            raise failure from error

    def _read(self, attempt: Attempt, reply: Reply, started: float) -> Response:
        now, request_id = time.time(), find_request_id(reply.headers)
        try:
            content, own_id = self._translate(attempt.call.request, reply.content, int(now))
        except LLMAPIError as error:
            error.request_id = error.request_id or request_id
            raise
        return read_reply(
            attempt,
            Reply(200, {"x-request-id": request_id or own_id}, content),
            endpoint=self.name,
            seconds=time.monotonic() - started,
            now_epoch_seconds=now,
            names=self._names,
        )

    @abstractmethod
    def _find_address(self) -> str:
        """Returns where the endpoint is, for messages."""

    @abstractmethod
    def _find_key(self) -> str:
        """Returns the key that is sent."""

    @staticmethod
    @abstractmethod
    def _refuse_without_package() -> ConfigError:
        """Returns the error for a package that is not installed."""

    @abstractmethod
    def _make_blocking(self, client: httpx2.Client) -> Any:
        """Makes the SDK client for blocking calls, its own retries off."""

    @abstractmethod
    def _make_awaiting(self, client: httpx2.AsyncClient) -> Any:
        """Makes the SDK client for event loops, its own retries off."""

    @abstractmethod
    def _write(self, request: Request) -> Any:
        """Says the request in the provider's words."""

    @abstractmethod
    def _ask(self, sdk: Any, question: Any, timeout_seconds: float) -> Reply:
        """Asks and returns the answer in the provider's shape; a failure is raised."""

    @abstractmethod
    async def _aask(self, sdk: Any, question: Any, timeout_seconds: float) -> Reply:
        """Does the same on an event loop."""

    @abstractmethod
    def _open(
        self, sdk: Any, question: Any, timeout_seconds: float
    ) -> Generator[Reply | Any, None, None]:
        """Asks for a stream; yields its head, then its events for the builder."""

    @abstractmethod
    def _aopen(
        self, sdk: Any, question: Any, timeout_seconds: float
    ) -> AsyncGenerator[Reply | Any, None]:
        """Does the same on an event loop."""

    @abstractmethod
    def _make_builder(self) -> Builder:
        """Returns what puts a stream together."""

    @abstractmethod
    def _name_failure(self, error: Exception) -> LLMError | None:
        """Returns our error for one of the SDK's that tells what the server said."""

    @abstractmethod
    def _translate(self, request: Request, content: bytes, created: int) -> tuple[bytes, str]:
        """Says the provider's answer in OpenAI's shape; also the answer's own name, if any."""


class _Reading:
    """A streamed reply, as far as it has come."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._head = Reply(0, {}, b"")

    def take(self, event: Reply | Any) -> str:
        if isinstance(event, Reply):
            self._head = event
            return ""
        return self._builder.add(event)

    def finish(self) -> Reply:
        # A server that cannot stream has sent everything with the head.
        content = self._head.content or self._builder.finish()
        return Reply(self._head.status, self._head.headers, content)
