"""Fixtures that every test may use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tinytroupe.llm.client import AsyncClient, Client, Outcome
from tinytroupe.llm.request import Call, Request
from tinytroupe.llm.response import Response


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> None:
    """Sets Django up before tests of its app are imported: models need it. Others stay without."""
    if file_path.name.startswith("test_django_"):
        for fixtures in ("django_fixtures", "django_chats", "django_admin_pages", "browser"):
            parent.config.pluginmanager.import_plugin(fixtures)


class Colour:
    """Drives a client of one colour from a plain test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.new_event_loop() if name == "async" else None

    def make_client(self, *args: Any, **options: Any) -> ColouredClient:
        make = Client if self._loop is None else AsyncClient
        return ColouredClient(make(*args, **options), self._loop)

    def run_together(
        self, client: ColouredClient, calls: Sequence[Call | Request], meanwhile: Callable[[], None]
    ) -> list[Outcome | BaseException]:
        """Sends calls at once, does something meanwhile, and returns what became of each."""
        if self._loop is None:
            with ThreadPoolExecutor(len(calls)) as pool:
                futures = [pool.submit(client.inner.send, call) for call in calls]
                meanwhile()
                return [future.exception(30) or future.result() for future in futures]

        async def gather() -> list[Any]:
            tasks = [asyncio.ensure_future(client.inner.send(call)) for call in calls]
            await asyncio.to_thread(meanwhile)
            return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)

        return self._loop.run_until_complete(gather())

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


class ColouredClient:
    """A client of either colour that a plain test calls."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self.inner = inner
        self.meter = inner.meter
        self.store = inner.store
        self._loop = loop

    def send(self, call: Call | Request) -> Response:
        return self._finish(self.inner.send(call))

    def send_many(self, calls: Any, **options: Any) -> list[Outcome]:
        return self._finish(self.inner.send_many(calls, **options))

    def embed(self, *args: Any, **options: Any) -> list[list[float]]:
        return self._finish(self.inner.embed(*args, **options))

    def stream(self, call: Call | Request) -> list[str | Response]:
        """Returns all that a stream yields, or raises what it raises."""
        if self._loop is None:
            return list(self.inner.stream(call))

        async def gather() -> list[str | Response]:
            return [piece async for piece in self.inner.stream(call)]

        return self._loop.run_until_complete(gather())

    def close(self) -> None:
        self._finish(self.inner.close() if self._loop is None else self.inner.aclose())

    def _finish(self, result: Any) -> Any:
        return result if self._loop is None else self._loop.run_until_complete(result)


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Any:
    """The same chain test in both colours."""
    chosen = Colour(request.param)
    yield chosen
    chosen.close()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps keys and addresses of the machine away from the tests."""
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "BASE_URL",
        "API_TYPE",
        "AZURE_OPENAI_ENDPOINT",
        "AZURE_OPENAI_KEY",
        "AZURE_OPENAI_API_KEY",
        "AZURE_API_VERSION",
        "TINYTROUPE_CONFIG",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def threads_end() -> Any:
    """Fails a test that leaves threads of its own behind."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if not thread.daemon]
    assert not left, f"threads left behind: {left}"
