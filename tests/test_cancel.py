"""What happens to a shared call when one of its callers goes away."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from fakes import FakeTransport

from tinytroupe.llm.client import AsyncClient, Client, ClientDefaults
from tinytroupe.llm.request import chat_request
from tinytroupe.llm.store.memory import MemoryStore

ASK = chat_request("fake", [{"role": "user", "content": "Hi"}])


async def until(condition: Any) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


def test_cancelled_follower_leaves_the_leader_alone() -> None:
    """Cancelling one who waits does not cancel the call for everyone."""

    async def main() -> None:
        transport = FakeTransport(held=True)
        client = AsyncClient(transport, MemoryStore())
        leader = asyncio.create_task(client.send(ASK))
        await until(lambda: transport.attempts)
        followers = [asyncio.create_task(client.send(ASK)) for _ in range(3)]
        await asyncio.sleep(0.01)
        followers[0].cancel()
        await asyncio.sleep(0.01)
        transport.go.set()
        assert (await leader).origin == "live"
        assert (await followers[1]).origin == "flight"
        assert (await followers[2]).origin == "flight"
        assert followers[0].cancelled()
        assert len(transport.attempts) == 1

    asyncio.run(main())


def test_cancelled_leader_hands_over() -> None:
    """When the leader is cancelled a follower makes the call instead."""

    async def main() -> None:
        transport = FakeTransport(held=True)
        client = AsyncClient(transport, MemoryStore())
        leader = asyncio.create_task(client.send(ASK))
        await until(lambda: transport.attempts)
        followers = [asyncio.create_task(client.send(ASK)) for _ in range(3)]
        await asyncio.sleep(0.01)
        leader.cancel()
        await until(lambda: len(transport.attempts) == 2)
        transport.go.set()
        origins = sorted([(await follower).origin for follower in followers])
        assert origins == ["flight", "flight", "live"]
        assert leader.cancelled()
        assert client.meter.totals.errors == 1

    asyncio.run(main())


def test_cancelled_in_the_queue_gives_its_place_back() -> None:
    """A call that is cancelled while it queues does not use up a place."""

    async def main() -> None:
        transport = FakeTransport(held=True)
        client = AsyncClient(transport, None, ClientDefaults(max_concurrent=1))
        first = asyncio.create_task(client.send(ASK))
        await until(lambda: transport.attempts)
        queued = [asyncio.create_task(client.send(ASK)) for _ in range(3)]
        await asyncio.sleep(0.01)
        queued[0].cancel()
        transport.go.set()
        await asyncio.gather(first, queued[1], queued[2])
        assert (await client.send(ASK)).text

    asyncio.run(main())


def test_one_client_in_several_loops() -> None:
    """An asynchronous client serves one loop after another."""
    client = AsyncClient(FakeTransport(), MemoryStore())
    assert asyncio.run(client.send(ASK)).origin == "live"
    assert asyncio.run(client.send(ASK)).origin == "cache"


def test_synchronous_client_inside_a_running_loop() -> None:
    """A synchronous client works where a loop is running, as in a notebook."""

    async def main() -> str:
        return Client(FakeTransport(), MemoryStore()).send(ASK).origin

    assert asyncio.run(main()) == "live"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_child_does_not_wait_for_its_parents_calls() -> None:
    """A child forked in the middle of a call makes that call itself."""
    import threading

    transport = FakeTransport(held=True)
    client = Client(transport, MemoryStore(), ClientDefaults(max_concurrent=1))
    thread = threading.Thread(target=client.send, args=(ASK,), daemon=True)
    thread.start()
    assert transport.arrived.acquire(timeout=10)
    child = os.fork()
    if child == 0:
        transport.go.set()
        os._exit(0 if client.send(ASK).origin == "live" else 1)
    _, status = os.waitpid(child, 0)
    transport.go.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
