"""A site as servers run it that fork: one process loads it, and its children send messages.

Imported in a site's process only: `serve` does what its standard input says, a line at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from django.db import connections

from tinytroupe.contrib.django.access import AsyncAccess, BlockingAccess
from tinytroupe.contrib.django.chats import ChatHistoryRepository
from tinytroupe.contrib.django.errors import ChatConflict
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper
from tinytroupe.contrib.django.stored_turns import StoredTurn

POINTS = (
    "the lock is taken",
    "the message is stored",
    "the tool runs",
    "a round is there",
    "a round is stored",
    "the answer is there",
    "the answer is written",
    "the answer is stored",
)
"""Where a child may die, in the order of a turn."""

_methods: dict[str, tuple[bool, list[tuple[type, str]]]] = {
    "the lock is taken": (True, [(BlockingAccess, "acquire"), (AsyncAccess, "acquire")]),
    "the message is stored": (True, [(StoredTurn, "begin")]),
    "a round is there": (False, [(StoredTurn, "add_round")]),
    "a round is stored": (True, [(StoredTurn, "add_round")]),
    "the answer is there": (False, [(StoredTurn, "answer")]),
    "the answer is stored": (True, [(StoredTurn, "answer")]),
}
_dies_at: list[str] = []


def add(a: int, b: int) -> int:
    """Adds two numbers, unless it is where this process is to die."""
    if "the tool runs" in _dies_at:
        die()
    return a + b


def die(*_: Any) -> None:
    """Ends this process as a system does that has no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def serve() -> None:
    """Forks a child for each job of a line; tells how they ended."""
    for line in sys.stdin:
        connections.close_all()
        children = [_fork(job) for job in json.loads(line)]
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(ended), flush=True)


def _fork(job: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _do(**job)
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _do(chat: int, messages: list[str], way: str = "sync", point: str | None = None) -> None:
    if point is not None:
        _arm(point)
    wrapper = LLMCommunicationWrapper(prompt_name="support", chat_history_id=chat)
    for message in messages:
        while not _send(wrapper, way, message):
            pass


def _send(wrapper: LLMCommunicationWrapper, way: str, message: str) -> bool:
    """Sends a message; tells whether nobody else was in the chat."""

    async def read() -> None:
        async for _ in wrapper.astream_user_message(message):
            pass

    try:
        if way == "async":
            asyncio.run(wrapper.asend_user_message_and_get_response(message))
        elif way == "async stream":
            asyncio.run(read())
        elif way == "stream":
            list(wrapper.stream_user_message(message))
        else:
            wrapper.send_user_message_and_get_response(message)
    except ChatConflict:
        return False
    return True


def _arm(point: str) -> None:
    _dies_at.append(point)
    if point == "the answer is written":
        _die_before_a_commit()
    after, methods = _methods.get(point, (False, []))
    for owner, name in methods:
        setattr(owner, name, _die_after(getattr(owner, name)) if after else die)


def _die_after(method: Callable[..., Any]) -> Callable[..., Any]:
    async def wait_and_die(*arguments: Any) -> None:
        await method(*arguments)
        die()

    def do_and_die(*arguments: Any) -> None:
        method(*arguments)
        die()

    return wait_and_die if asyncio.iscoroutinefunction(method) else do_and_die


def _die_before_a_commit() -> None:
    answer, update = StoredTurn.answer, ChatHistoryRepository._update

    def update_and_die(self: ChatHistoryRepository, *arguments: Any) -> bool:
        connections[self.alias]._commit = die
        return update(self, *arguments)

    def answer_and_die(self: StoredTurn, message: dict[str, Any]) -> None:
        ChatHistoryRepository._update = update_and_die  # type: ignore[method-assign]
        answer(self, message)

    StoredTurn.answer = answer_and_die  # type: ignore[method-assign]
