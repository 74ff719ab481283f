"""The door for tests: a client with a fake endpoint, and a server that remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
from fakes import FakeTransport, chat_content, echo

from tinytroupe import openai_utils
from tinytroupe.llm.process import ProcessState
from tinytroupe.openai_utils import OpenAIClient

HELLO = [{"role": "user", "content": "Hello"}]


class FakeClient(OpenAIClient):
    """A client whose endpoint is a fake; all else is real."""

    def __init__(self, answer: Any = echo, **options: Any) -> None:
        super().__init__(**options)
        self.transport = FakeTransport(answer)

    def _make_transport(self, settings: Any) -> FakeTransport:
        return self.transport

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What the endpoint was sent, attempt after attempt."""
        return [orjson.loads(attempt.call.request.body) for attempt in self.transport.attempts]


def make_state() -> ProcessState:
    return ProcessState(openai_utils._state._builders)


def configure(**values: str) -> None:
    """Writes config.ini into the current folder and forgets what was read before."""
    lines = "".join(f"{key}={value}\n" for key, value in values.items())
    Path("config.ini").write_text(f"[OpenAI]\n{lines}")
    openai_utils._state.forget_settings()


def ask(text: str = "Hello", **arguments: Any) -> str:
    """Asks the client of the moment and returns the content."""
    return openai_utils.client().send_message([{"role": "user", "content": text}], **arguments)[
        "content"
    ]


class Endpoint:
    """A server that speaks OpenAI's API as far as these tests need, and remembers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.statuses: list[int] = []
        self.address = ""

    def answer(self, path: str, headers: dict[str, str], content: bytes) -> tuple[int, bytes]:
        body = json.loads(content)
        self.requests.append((path, headers, body))
        if self.statuses:
            return self.statuses.pop(0), b'{"error": {"message": "refused"}}'
        return 200, chat_content(f"You said: {body['messages'][-1]['content']}")
