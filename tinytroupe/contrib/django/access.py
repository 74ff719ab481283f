"""How a chat reaches its model, its database and its tools: blocking, or beside an event loop.

The turns of a chat are written once, as coroutines over this. Driven by hand over the blocking
access they never suspend, but for the pieces of a streamed answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeAlias, TypeVar

from asgiref.sync import sync_to_async

from tinytroupe.contrib.django.locks import Lock
from tinytroupe.contrib.django.tools import Toolbox
from tinytroupe.llm.chain import Emission
from tinytroupe.llm.request import Call
from tinytroupe.llm.response import Response, ToolCall
from tinytroupe.llm.runtime import AsyncioRuntime, Cancelled
from tinytroupe.llm.talk.ask import aask, ask
from tinytroupe.llm.talk.formats import read_format
from tinytroupe.llm.talk.models import Model
from tinytroupe.llm.talk.parsing import ParsedResponse, Parser
from tinytroupe.llm.talk.tool_runs import ToolRun

T = TypeVar("T")
Emit: TypeAlias = Callable[[str], Awaitable[None]]

_NOT_HEARD_SECONDS = 0.05
"""After which somebody who still waits for a lock is told again that nobody wants it."""


class Access(Protocol):
    """What the turns of a chat need."""

    async def ask(self, model: Model, call: Call, response_format: object) -> ParsedResponse:
        """Returns an answer, or the tools that the model wants called.

        Raises:
            LLMError: There is no answer, or none that has the format.
        """
        ...

    async def query(self, work: Callable[[], T]) -> T:
        """Does work with the database."""
        ...

    async def run_tool(self, toolbox: Toolbox, call: ToolCall) -> ToolRun:
        """Runs a tool."""
        ...

    async def acquire(self, lock: Lock) -> None:
        """Takes a lock.

        Raises:
            ChatConflict: Somebody else has it.
        """
        ...

    async def release(self) -> None:
        """Gives back the lock that was taken, if any."""
        ...


class BlockingAccess:
    """For threads. See `Access`."""

    def __init__(self) -> None:
        self._lock: Lock | None = None

    async def ask(self, model: Model, call: Call, response_format: object) -> ParsedResponse:
        if response_format is None:
            return _read_text(model.client.send(call))
        parser = _CallsOrAnswer(response_format)
        return ask(model.client, call, parser, response_format=response_format)

    async def query(self, work: Callable[[], T]) -> T:
        return work()

    async def run_tool(self, toolbox: Toolbox, call: ToolCall) -> ToolRun:
        return toolbox.run(call)

    async def acquire(self, lock: Lock) -> None:
        # First of all: an interrupt may come as soon as it is taken.
        self._lock = lock
        lock.acquire()

    async def release(self) -> None:
        if self._lock is not None:
            self._lock.release()


class StreamingAccess(BlockingAccess):
    """For threads; suspends with each piece of an answer. See `Access`."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces = _Pieces()

    async def ask(self, model: Model, call: Call, response_format: object) -> ParsedResponse:
        self._pieces.begin()
        for piece in model.client.stream(call):
            if isinstance(piece, Response):
                return _read_text(piece)
            await Emission(self._pieces.take(piece))
        raise AssertionError("a stream ends with a response or an error")


class AsyncAccess:
    """For event loops, which nothing here blocks. See `Access`.

    Args:
        emit: Is handed the pieces of answers; None: they are wanted as a whole.
    """

    def __init__(self, emit: Emit | None = None) -> None:
        self._emit = emit
        self._pieces = _Pieces()
        self._lock: Lock | None = None
        self._taking: Future[None] | None = None
        # Of its own: in a pool, those who wait could keep out the one that they wait for. The
        # second thread is only for a waiting that is given up.
        self._keeper = ThreadPoolExecutor(2, thread_name_prefix="chat-lock")

    async def ask(self, model: Model, call: Call, response_format: object) -> ParsedResponse:
        if response_format is not None:
            parser = _CallsOrAnswer(response_format)
            return await aask(model.async_client, call, parser, response_format=response_format)
        if self._emit is None:
            return _read_text(await model.async_client.send(call))
        self._pieces.begin()
        async for piece in model.async_client.stream(call):
            if isinstance(piece, Response):
                return _read_text(piece)
            await self._emit(self._pieces.take(piece))
        raise AssertionError("a stream ends with a response or an error")

    async def query(self, work: Callable[[], T]) -> T:
        doing: Future[None] = Future()
        try:
            return await sync_to_async(_do, thread_sensitive=True)(work, doing)
        except Cancelled:
            # What has begun cannot be stopped, and is to end before the lock is given back.
            if not doing.cancel():
                await _outlast(doing)
            raise

    async def run_tool(self, toolbox: Toolbox, call: ToolCall) -> ToolRun:
        return await toolbox.arun(call)

    async def acquire(self, lock: Lock) -> None:
        self._lock, self._taking = lock, self._keeper.submit(lock.acquire)
        await AsyncioRuntime().wait(self._taking)

    async def release(self) -> None:
        if self._lock is None or self._taking is None:
            return
        given_back = self._keeper.submit(_give_back, self._lock, self._taking)
        self._keeper.shutdown(wait=False)
        await _outlast(given_back)


def _do(work: Callable[[], T], doing: Future[None]) -> T:
    if not doing.set_running_or_notify_cancel():
        raise Cancelled
    try:
        return work()
    finally:
        doing.set_result(None)


async def _outlast(future: Future[None]) -> None:
    """Waits for what a thread does. Who cancels is heard, but only when it is done."""
    cancelled: BaseException | None = None
    while not future.done():
        try:
            await AsyncioRuntime().wait(future)
        except Cancelled as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _give_back(lock: Lock, taking: Future[None]) -> None:
    while not taking.done():
        # Nobody waits for it any more. Not heard where the database was not asked yet.
        lock.give_up()
        wait([taking], _NOT_HEARD_SECONDS)
    lock.release()


class _Pieces:
    """Keeps apart, for who reads a stream, what a model says before and after it calls tools."""

    def __init__(self) -> None:
        self._spoken = False
        self._parted = True

    def begin(self) -> None:
        """Says that another answer begins."""
        self._parted = not self._spoken

    def take(self, piece: str) -> str:
        """Returns a piece, behind an empty line where it begins another answer."""
        parted, self._spoken, self._parted = self._parted, True, True
        return piece if parted else f"\n\n{piece}"


def _read_text(response: Response) -> ParsedResponse:
    return ParsedResponse(response, response.text, response.text)


class _CallsOrAnswer:
    """Reads an answer in its format; one that calls tools is no answer yet."""

    def __init__(self, response_format: Any) -> None:
        form = read_format(response_format)
        assert form is not None
        self._parser: Parser = form.parser

    @property
    def format_instruction(self) -> str:
        return self._parser.format_instruction

    def parse(self, response: Response) -> ParsedResponse:
        return _read_text(response) if response.tool_calls else self._parser.parse(response)
