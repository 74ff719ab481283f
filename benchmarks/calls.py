"""What a call costs: as a hit, as a live call, and many at once."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Ratio, compare
from benchmarks.server import running
from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.request import Request, chat_request
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.transports.openai import OpenAITransport

PERSONA = "You are Lisa, 28, a data scientist who lives with two cats. " * 8
QUESTION = "What do you think of this product, and would you buy it? " * 9


def make_request(number: int = 0) -> Request:
    """Returns a request with a prompt of about 1 kB."""
    return chat_request(
        "gpt-4o-mini",
        [
            {"role": "system", "content": PERSONA},
            {"role": "user", "content": f"{QUESTION} {number}"},
        ],
        temperature=1.0,
        max_tokens=100,
    )


def measure_hits() -> Iterator[Ratio]:
    """A hit against the bare store library, and against a live call."""
    import diskcache
    import openai

    with running() as url, tempfile.TemporaryDirectory() as folder:
        client = Client(OpenAITransport("key", url), DiskStore(Path(folder) / "store"))
        request = make_request()
        client.send(request)
        plain = diskcache.Cache(str(Path(folder) / "plain"))
        plain.set(request.digest, client.send(request).content)
        sdk = openai.OpenAI(api_key="key", base_url=url, max_retries=0)
        messages = [message.to_wire() for message in request.messages]

        # A new request each time: its digest is part of what a hit costs.
        def hit() -> object:
            return client.send(
                Request("chat", request.model, request.messages, (), request.parameters)
            )

        ratio, ours, theirs = compare(hit, lambda: plain.get(request.digest), 2000)
        detail = f"{ours * 1e6:.0f} µs against {theirs * 1e6:.0f} µs"
        yield Ratio("hit / `diskcache.Cache.get` of the same bytes", ratio, 4.0, detail)

        def live() -> object:
            return sdk.chat.completions.create(
                model="gpt-4o-mini",
                messages=messages,  # type: ignore[arg-type]
                temperature=1.0,
                max_tokens=100,
            )

        ratio, theirs, ours = compare(live, hit, 100)
        detail = f"{ours * 1e6:.0f} µs against {theirs * 1e6:.0f} µs"
        yield Ratio("live SDK call / hit", ratio, 20.0, detail, at_least=True)
        client.close()
        plain.close()


def measure_live() -> Iterator[Ratio]:
    """The CPU of a live blocking call, storing the answer included, against the SDK's."""
    import openai

    with running() as url, tempfile.TemporaryDirectory() as folder:
        client = Client(OpenAITransport("key", url), DiskStore(folder))
        sdk = openai.OpenAI(api_key="key", base_url=url, max_retries=0)
        messages = [message.to_wire() for message in make_request().messages]
        numbers = itertools.count()

        def theirs() -> object:
            return sdk.chat.completions.create(
                model="gpt-4o-mini",
                messages=messages,  # type: ignore[arg-type]
                temperature=1.0,
                max_tokens=100,
            )

        ratio, one, two = compare(
            lambda: client.send(make_request(next(numbers))),
            theirs,
            150,
            clock=time.process_time,
        )
        detail = f"{one * 1e3:.2f} ms against {two * 1e3:.2f} ms"
        yield Ratio("CPU of a live call, stored / SDK `create`, not stored", ratio, 0.6, detail)
        client.close()


LATENCY_SECONDS = 0.2
CALLS = 2000


def measure_many() -> Iterator[Ratio]:
    """Wall time of many calls at once against the ideal."""
    with running(LATENCY_SECONDS) as url:
        for at_once, bound in ((50, 1.15), (200, 1.5)):
            ideal = CALLS / at_once * LATENCY_SECONDS
            seconds = min(asyncio.run(_send_all(url, at_once)) for _ in range(2))
            yield Ratio(
                f"{CALLS} asynchronous calls, {at_once} in flight / ideal",
                seconds / ideal,
                bound,
                f"{seconds:.1f} s against {ideal:.1f} s",
            )


async def _send_all(url: str, at_once: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncClient(OpenAITransport("key", url), DiskStore(folder)) as client:
            await client.send_many(
                (make_request(-number - 1) for number in range(at_once)), max_workers=at_once
            )
            started = time.perf_counter()
            outcomes = await client.send_many(
                (make_request(number) for number in range(CALLS)), max_workers=at_once
            )
            seconds = time.perf_counter() - started
            failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            assert not failed, failed[0]
            return seconds
