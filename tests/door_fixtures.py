"""Fixtures for tests of the door: `pytest_plugins = ("door_fixtures",)`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from doors import Endpoint, FakeClient, configure, make_state
from provider_servers import PatientServer

from tinytroupe import openai_utils


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for each test, and a process that has read nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(openai_utils, "_state", make_state())
    level = logging.getLogger("tinytroupe").level
    configure(WAITING_TIME="0")
    yield tmp_path
    logging.getLogger("tinytroupe").setLevel(level)


@pytest.fixture
def fake(folder: Path) -> FakeClient:
    """The client of the moment, with a fake endpoint."""
    client = FakeClient()
    openai_utils.register_client("fake", client)
    openai_utils.force_api_type("fake")
    return client


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A server on a free loopback port, stopped after the test."""
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = state.answer(
                self.path, {key.lower(): value for key, value in self.headers.items()}, content
            )
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = PatientServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
