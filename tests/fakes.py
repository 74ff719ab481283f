"""Fakes that stand where the network, the clock and the disk would."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tinytroupe.llm.errors import TimedOut
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.response import Response, parse_response


def chat_content(text: str | None = "Hello.", finish_reason: str = "stop", **message: Any) -> bytes:
    """Returns the body of a chat answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish_reason,
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps({"id": "x", "model": "fake", "choices": [choice], "usage": usage}).encode()


def echo(attempt: Attempt) -> bytes:
    """Answers a chat with its last message, and texts with a vector of their length."""
    request = attempt.call.request
    if request.kind == "embedding":
        rows = [
            {"index": index, "embedding": [float(len(text)), 1.0]}
            for index, text in enumerate(request.texts)
        ]
        return json.dumps({"model": request.model, "data": rows}).encode()
    content = request.messages[-1].content
    return chat_content(f"You said: {content}")


class FakeTransport:
    """Answers by a function of the attempt, and remembers what it was asked.

    The function returns a body, or raises what the endpoint would cause.
    With `held`, every attempt waits until the test lets it go.
    """

    name = "fake"

    def __init__(self, answer: Callable[[Attempt], bytes] = echo, *, held: bool = False) -> None:
        self.answer = answer
        self.attempts: list[Attempt] = []
        self.at_once = 0
        self.most_at_once = 0
        self.closed = 0
        self.go = threading.Event()
        self.arrived = threading.Semaphore(0)
        if not held:
            self.go.set()
        self._lock = threading.Lock()

    def send(self, attempt: Attempt) -> Response:
        self._enter(attempt)
        try:
            if not self.go.wait(min(attempt.timeout_seconds, 10)):
                raise TimedOut("the fake endpoint was held")
            return self._respond(attempt)
        finally:
            self._leave()

    async def asend(self, attempt: Attempt) -> Response:
        self._enter(attempt)
        try:
            ends_at = time.monotonic() + min(attempt.timeout_seconds, 10)
            while not self.go.is_set():
                if time.monotonic() > ends_at:
                    raise TimedOut("the fake endpoint was held")
                await asyncio.sleep(0.001)
            return self._respond(attempt)
        finally:
            self._leave()

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1

    def _enter(self, attempt: Attempt) -> None:
        with self._lock:
            self.attempts.append(attempt)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.arrived.release()

    def _leave(self) -> None:
        with self._lock:
            self.at_once -= 1

    def _respond(self, attempt: Attempt) -> Response:
        content = self.answer(attempt)
        return parse_response(
            attempt.call.request.kind, content, endpoint=self.name, attempts=attempt.number
        )


class Script:
    """An answer function that plays a list: bodies are returned, errors are raised."""

    def __init__(self, *steps: bytes | Exception) -> None:
        self.steps = list(steps)

    def __call__(self, attempt: Attempt) -> bytes:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


class VirtualRuntime:
    """A clock that only sleeping moves. Never suspends, so it serves a synchronous client."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds

    async def wait(self, future: Future[Any], timeout_seconds: float | None = None) -> Any:
        if not future.done() and timeout_seconds is not None:
            self.time += timeout_seconds
            raise TimeoutError
        return future.result(10)

    async def blocking(self, work: Callable[[], Any]) -> Any:
        return work()
