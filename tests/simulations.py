"""Small simulations whose answers are drawn anew for each live call, under shuffled timing."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes import FakeTransport, chat_content

from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.request import Call as LLMCall
from tinytroupe.llm.request import CallOptions, chat_request
from tinytroupe.llm.response import Response
from tinytroupe.llm.runs.recording import Recording
from tinytroupe.llm.runs.run import Run

chance = random.Random()
LONGEST_PAUSE_SECONDS = 0.002


def draw_pause() -> float:
    """Mostly nothing, sometimes a little: so threads overtake each other at all places."""
    return chance.choice((0.0, 0.0, chance.random() * LONGEST_PAUSE_SECONDS))


def pause() -> None:
    time.sleep(draw_pause())


async def apause() -> None:
    await asyncio.sleep(draw_pause())


class DrawingTransport(FakeTransport):
    """Answers every live call differently, after a random pause."""

    def __init__(self) -> None:
        super().__init__(lambda attempt: chat_content(f"answer {next(self._numbers)}"))
        self._numbers = itertools.count(chance.randrange(10**9) * 1000)

    def send(self, attempt: Any) -> Response:
        pause()
        return super().send(attempt)

    async def asend(self, attempt: Any) -> Response:
        await apause()
        return await super().asend(attempt)


class DeadTransport(FakeTransport):
    """Cannot be asked."""

    def __init__(self) -> None:
        super().__init__(self._refuse)

    def _refuse(self, attempt: Any) -> bytes:
        raise AssertionError("a replay went live")


def talk(client: Client, turns: int = 3, **options: Any) -> list[str]:
    """Holds a conversation that begins as everybody's does and goes on from its answers."""
    messages = [{"role": "user", "content": "Hello."}]
    for _ in range(turns):
        pause()
        call = LLMCall(chat_request("model", messages), CallOptions(**options))
        text = client.send(call).text
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And?"}]
    return [message["content"] for message in messages if message["role"] == "assistant"]


async def atalk(client: AsyncClient, turns: int = 3, **options: Any) -> list[str]:
    """See `talk`."""
    messages = [{"role": "user", "content": "Hello."}]
    for _ in range(turns):
        await apause()
        call = LLMCall(chat_request("model", messages), CallOptions(**options))
        text = (await client.send(call)).text
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And?"}]
    return [message["content"] for message in messages if message["role"] == "assistant"]


class Clients:
    """Both clients over one transport."""

    def __init__(self, transport: FakeTransport) -> None:
        self.transport = transport
        self.blocking = Client(transport)
        self.awaited = AsyncClient(transport)

    def talk(self, turns: int = 3, **options: Any) -> list[str]:
        return talk(self.blocking, turns, **options)

    async def atalk(self, turns: int = 3, **options: Any) -> list[str]:
        return await atalk(self.awaited, turns, **options)


Simulation = Callable[[Clients], Any]


def record(tape: Path, simulate: Simulation, **options: Any) -> Any:
    """Runs a simulation and records it."""
    with Run.record(tape, **options):
        return simulate(Clients(DrawingTransport()))


def replay(tape: Path, simulate: Simulation, **options: Any) -> Any:
    """Runs a simulation from its tape, which it must use up."""
    with Run.replay(tape, **options) as run:
        result = simulate(Clients(DeadTransport()))
    assert run.find_unplayed() == []
    return result


def assert_exact(tape: Path, simulate: Simulation, replays: int = 10) -> Any:
    """Records a simulation once and replays it often; every replay must be the recorded run."""
    recorded = record(tape, simulate)
    for _ in range(replays):
        assert replay(tape, simulate) == recorded
    return recorded


def read_calls(tape: Path) -> list[dict[str, Any]]:
    """Returns the recorded calls, in the order in which they ended."""
    return list(Recording(tape).events())


def read_branches(tape: Path) -> list[str]:
    """Returns the branches that made calls."""
    return sorted({event["branch"] for event in read_calls(tape)})
