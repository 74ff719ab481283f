"""Kills focus groups at random moments, at an endpoint that fails at random, for as long as told.

`python -m benchmarks.soak --minutes 10`. In each cycle a focus group is begun
and killed (SIGKILL) some times, then run to its end, then repeated with the
endpoint gone. What must hold each time:

- the transcript is, word for word, that of an undisturbed run;
- with the endpoint gone, every call is a hit;
- no answer is bought twice: beyond the calls of one run, the endpoint answered
  at most those that were under way at a kill.

Exits with 1 at the first cycle in which one of them does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 4
FAULTS = (
    *("--fault", "rate_limited:ms=20@rate=0.1"),
    *("--fault", "server_fault:503@rate=0.05"),
    *("--fault", "cut@rate=0.05"),
    *("--fault", "malformed:html@rate=0.05"),
)


@dataclass(frozen=True)
class Cycle:
    """What one cycle came to."""

    kills: int
    transcript: str
    calls: int
    hits: int
    bought: int
    """Answers that the endpoint gave, faults not counted."""


@contextmanager
def run_server(*options: str) -> Iterator[str]:
    """Runs a rehearsal server and yields its address."""
    words = [sys.executable, "-m", "tinytroupe", "rehearse-server", "--port", "0", "--quiet"]
    words += ["--exit-with-parent", "--latency", "0.05", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address is not None
        try:
            yield address[0]
        finally:
            server.terminate()


def count_bought(address: str) -> int:
    with urllib.request.urlopen(f"{address}/stats") as reply:
        stats = json.load(reply)
    return int(sum(stats["requests"].values()) - sum(stats["faults"].values()))


def start(folder: Path, address: str, colour: str) -> subprocess.Popen[bytes]:
    """Begins a focus group whose transcript and report go into the folder."""
    settings = {
        "TINYTROUPE_API_TYPE": "openai",
        "TINYTROUPE_BASE_URL": f"{address}/v1",
        "TINYTROUPE_CACHE_FILE_NAME": str(folder / "cache"),
        "TINYTROUPE_MAX_ATTEMPTS": "30",
        "TINYTROUPE_WAITING_TIME": "0.02",
        "TINYTROUPE_MAX_WAITING_TIME": "0.1",
        "TINYTROUPE_LOGLEVEL": "ERROR",
    }
    words = [sys.executable, str(ROOT / "examples" / "focus_group.py"), "--quiet"]
    words += ["--output", str(folder / "transcript.md"), "--report", str(folder / "report.json")]
    words += ["--workers", str(WORKERS), *([colour] if colour else [])]
    none = subprocess.DEVNULL
    return subprocess.Popen(
        words, cwd=folder, env={**os.environ, **settings}, stdout=none, stderr=none
    )


def finish(folder: Path, address: str, colour: str) -> tuple[str, Mapping[str, Any]]:
    """Runs a focus group to its end and returns its transcript and its totals."""
    running = start(folder, address, colour)
    if running.wait(300) != 0:
        raise SystemExit(f"a focus group that nobody killed ended with {running.returncode}")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return (folder / "transcript.md").read_text(encoding="utf-8"), report["totals"]


def kill_some(folder: Path, address: str, colour: str, draw: random.Random) -> int:
    """Begins focus groups and kills them; returns how many were killed before their end."""
    kills = 0
    for _ in range(draw.randint(1, 4)):
        running = start(folder, address, colour)
        try:
            running.wait(draw.uniform(0.3, 2.0))
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
            kills += 1
    return kills


def run_cycle(folder: Path, draw: random.Random) -> Cycle:
    colour = draw.choice(["", "--async"])
    with run_server(*FAULTS, "--seed", "0") as address:
        kills = kill_some(folder, address, colour, draw)
        finish(folder, address, colour)
        bought = count_bought(address)
    transcript, totals = finish(folder, address, colour)
    return Cycle(kills, transcript, totals["calls"], totals["hits"], bought)


def find_fault(cycle: Cycle, expected: str) -> str | None:
    """Returns what does not hold, or None."""
    if cycle.transcript != expected:
        return "the transcript differs from that of an undisturbed run"
    if cycle.hits != cycle.calls:
        return f"with the endpoint gone, {cycle.hits} of {cycle.calls} calls were hits"
    allowed = cycle.calls + cycle.kills * WORKERS
    if not cycle.calls <= cycle.bought <= allowed:
        return f"{cycle.bought} answers were bought, where at most {allowed} could be"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills focus groups and looks what is lost.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, {chosen.minutes:g} minutes", flush=True)
    draw = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder, run_server("--seed", "0") as address:
        expected, _ = finish(Path(folder), address, "")
    ends_at = time.monotonic() + chosen.minutes * 60
    cycles = kills = 0
    while time.monotonic() < ends_at:
        with tempfile.TemporaryDirectory() as folder:
            cycle = run_cycle(Path(folder), draw)
        cycles, kills = cycles + 1, kills + cycle.kills
        fault = find_fault(cycle, expected)
        print(f"cycle {cycles}: {cycle.kills} kills, {cycle.bought} answers bought", flush=True)
        if fault is not None:
            print(f"does not hold: {fault} (seed {chosen.seed})")
            return 1
    print(f"{cycles} cycles, {kills} kills: nothing lost, nothing bought twice")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
