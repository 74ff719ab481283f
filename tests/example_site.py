"""The example site as a process of its own, and the endpoint that it asks, in a test's hands."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from chat_server import list_events, make_message
from provider_servers import write_event
from servers import Close, Reply, ScriptedServer, Step, http_reply

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "django_site"
PASSWORD = "of-a-site-that-only-tests-see"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def load_demo() -> ModuleType:
    """Imports the script behind `make demo-django`."""
    name = "run_demo"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


class Endpoint(ScriptedServer):
    """A server whose answers are said from test to test."""

    def play(self, *replies: Reply) -> None:
        """Says what the next requests are answered, in order; what was said before is forgotten."""
        with self._lock:
            self._replies = [b""] * len(self.requests) + list(replies)

    def read_messages(self, number: int = -1) -> list[dict[str, Any]]:
        """Returns the messages of a request."""
        messages: list[dict[str, Any]] = self.requests[number].json()["messages"]
        return messages


def stream(said: dict[str, Any] | str, pause: Step | None = None, after: int = 2) -> list[Step]:
    """Returns a streamed answer, a word at a time.

    Args:
        said: A text, or a message.
        pause: A step that comes between.
        after: So many words.
    """
    events = list(list_events("scripted", make_message(said)))
    events[-1]["usage"]["completion_tokens"] = len(events) - 2
    steps: list[Step] = [STREAM, *map(write_event, events), b"data: [DONE]\n\n", Close()]
    if pause is not None:
        steps.insert(1 + after, pause)
    return steps


def refuse(sentence: str) -> bytes:
    """Returns an answer that no further attempt would better."""
    error = {"message": sentence, "type": "insufficient_quota", "code": "insufficient_quota"}
    return http_reply(429, {"error": error})


@dataclass(frozen=True, slots=True)
class ExampleSite:
    """The site while it runs."""

    url: str
    endpoint: Endpoint
    environment: dict[str, str]
    demo: ModuleType
    """Its script, which knows how to use it."""

    def manage(self, *words: str) -> str:
        """Runs a command of Django's and returns what it printed."""
        return str(self.demo.manage(self.environment, *words))

    def visit(self, user: str | None = None) -> Any:
        """Returns a visitor without a browser, signed in if a user is named."""
        visitor = self.demo.Visitor(self.url)
        if user is not None:
            visitor.open("/login/")
            visitor.send("/login/", username=user, password=PASSWORD)
            assert visitor.path == "/"
        return visitor


@contextmanager
def run_example(folder: Path, *users: str) -> Iterator[ExampleSite]:
    """Runs the site.

    Args:
        folder: Where its data goes.
        users: Who can sign in beside the demonstration's administrator.
    """
    demo = load_demo()
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(Endpoint())
        environment = demo.make_environment(folder, endpoint.base_url)
        demo.prepare_site(environment, PASSWORD)
        for user in users:
            demo.make_administrator(environment, user, PASSWORD)
        url, _ = stack.enter_context(demo.serve_site(environment, folder, 0))
        yield ExampleSite(url, endpoint, environment, demo)
