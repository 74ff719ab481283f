"""What a run costs: recording, replaying, and reading a tape of 100,000 events."""

from __future__ import annotations

import itertools
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.calls import make_request
from benchmarks.measure import Ratio, time_once
from benchmarks.server import BODY, running
from tinytroupe.llm.client import Client
from tinytroupe.llm.layers.replay import activate, get_active
from tinytroupe.llm.request import Request
from tinytroupe.llm.response import Response, parse_response
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.transports.openai import OpenAITransport

EVENTS = 100_000
FEW_EVENTS = 1_000
LOADING_SECONDS = 2.0
LIVE_CALLS = 1_000


def measure_recording() -> Iterator[Ratio]:
    """The CPU of a live call that is recorded, against one that is not; both are stored."""
    with running() as url, tempfile.TemporaryDirectory() as folder:
        client = Client(OpenAITransport("key", url), DiskStore(Path(folder) / "store"))
        numbers = itertools.count()
        with Run.record(Path(folder) / "run.tape"):
            run = get_active()

            def recorded() -> object:
                return client.send(make_request(next(numbers)))

            def plain() -> object:
                activate(None)
                try:
                    return client.send(make_request(next(numbers)))
                finally:
                    activate(run)

            # Of three rounds the one that the machine's other work disturbed least.
            rounds = [_time_in_turn(recorded, plain) for _ in range(3)]
        one, two = min(rounds, key=lambda times: times[0] / times[1])
        ratio = one / two
        detail = f"{one * 1e3:.3f} ms against {two * 1e3:.3f} ms"
        yield Ratio("CPU of a live call, recorded / not recorded", ratio, 1.1, detail)
        client.close()


def _time_in_turn(work: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Returns the medians of the CPU seconds of single calls, so that one slow one is no matter."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(LIVE_CALLS):
        for one, taken in zip((work, other), times, strict=True):
            taken.append(time_once(one, 1, time.process_time))
    return statistics.median(times[0]), statistics.median(times[1])


def measure_replay() -> Iterator[Ratio]:
    """A replayed call against a hit of the store, and against one from a short tape."""
    with tempfile.TemporaryDirectory() as folder:
        long, short = Path(folder) / "long.tape", Path(folder) / "short.tape"
        _record(long, EVENTS)
        _record(short, FEW_EVENTS)
        client = Client(_Echoing(), DiskStore(Path(folder) / "store"))
        client.send(make_request())

        def ask() -> object:
            # A new request each time: its digest is part of what a call costs.
            asked = make_request()
            return client.send(Request("chat", asked.model, asked.messages, (), asked.parameters))

        hits, replays, quick = [], [], []
        for _ in range(7):
            hits.append(time_once(ask, FEW_EVENTS, time.perf_counter))
            replays.append(_time_replay(long, ask, FEW_EVENTS))
            quick.append(_time_replay(short, ask, FEW_EVENTS))
        client.close()
        hit, replay, other = (statistics.median(times) for times in (hits, replays, quick))
        detail = f"{replay * 1e6:.0f} µs against {hit * 1e6:.0f} µs"
        yield Ratio("replayed call / hit", replay / hit, 2.0, detail)
        detail = f"{replay * 1e6:.0f} µs against {other * 1e6:.0f} µs"
        name = f"replayed call, tape of {EVENTS:,} events / of {FEW_EVENTS:,}"
        yield Ratio(name, replay / other, 1.2, detail)
        yield from _measure_loading(long)


def _measure_loading(tape: Path) -> Iterator[Ratio]:
    """Time and memory to read a tape, each in a fresh process."""
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from tinytroupe.llm.runs.recording import Player, Recording\n"
        "def measure():\n"
        "    pages = Path('/proc/self/statm')\n"
        "    if pages.exists():\n"
        "        return int(pages.read_text().split()[1]) * resource.getpagesize()\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, started = measure(), time.perf_counter()\n"
        "player = Player(Recording(sys.argv[1]))\n"
        "print(time.perf_counter() - started, measure() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tape)]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    seconds = statistics.median(float(one) for one, _ in runs)
    size, taken = tape.stat().st_size, statistics.median(int(two) for _, two in runs)
    name = f"reading a tape of {EVENTS:,} events, in s"
    yield Ratio(name, seconds, LOADING_SECONDS, f"{size / 1e6:.0f} MB")
    detail = f"{taken / 1e6:.0f} MB for {size / 1e6:.0f} MB"
    yield Ratio("memory of a tape that was read / its size", taken / size, 3.0, detail)


class _Echoing:
    """Answers at once, always the same."""

    name = "echo"

    def send(self, attempt: object) -> Response:
        return parse_response("chat", BODY, endpoint=self.name)

    async def asend(self, attempt: object) -> Response:
        return self.send(attempt)

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def _record(tape: Path, events: int) -> None:
    """Records a thousand times the request that is replayed, and others beside it."""
    client = Client(_Echoing(), MemoryStore())
    with Run.record(tape):
        for number in range(events):
            client.send(make_request(max(0, number - FEW_EVENTS + 1)))


def _time_replay(tape: Path, ask: Callable[[], object], times: int) -> float:
    # That most of a long tape is not asked for is meant here, and need not be said.
    logging.getLogger("tinytroupe").setLevel(logging.ERROR)
    with Run.replay(tape):
        return time_once(ask, times, time.perf_counter)
