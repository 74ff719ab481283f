"""Kills, full disks, read-only folders and rivals: nothing acknowledged is lost or bought twice."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeTransport, chat_content
from simulations import Clients, DeadTransport, DrawingTransport, record, replay
from test_store_faults import fill_disk, protect, small_disk  # noqa: F401

from tinytroupe.llm.client import Client
from tinytroupe.llm.errors import ReplayMiss, StoreError
from tinytroupe.llm.request import chat_request
from tinytroupe.llm.runs.recording import Recording
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.store.tape import TapeReader

TESTS = str(Path(__file__).parent)
THREADS = 3
AGENTS = 6
TURNS = 5

NURSERY = f"""
import json, os, sys, time, random
sys.path.insert(0, {TESTS!r})
from concurrent.futures import ThreadPoolExecutor
from fakes import FakeTransport, chat_content
from tinytroupe.llm.client import Client
from tinytroupe.llm.request import chat_request
from tinytroupe.llm.runs.run import Run

def begin(folder):
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    bought = os.open(os.path.join(folder, "bought"), flags)
    heard = os.open(os.path.join(folder, "heard"), flags)
    chance = random.Random()

    def answer(attempt):
        time.sleep(chance.random() * 0.004)
        text = "%x" % chance.getrandbits(64)
        os.write(bought, text.encode() + b"\\n")
        return chat_content(text)

    client = Client(FakeTransport(answer))

    def live(agent):
        words = [{{"role": "user", "content": "Hello."}}]
        for _ in range({TURNS}):
            text = client.send(chat_request("model", words)).text
            os.write(heard, text.encode() + b"\\n")
            words.append({{"role": "assistant", "content": text}})
            words.append({{"role": "user", "content": "And?"}})
        return words

    with Run.record(os.path.join(folder, "run.tape"), resume=True):
        with ThreadPoolExecutor({THREADS}) as pool:
            lives = list(pool.map(live, range({AGENTS})))
    with open(os.path.join(folder, "lives"), "w") as file:
        json.dump(lives, file)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        begin(line.strip())
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """A process that forks simulations, each of which can be killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, kill_after_seconds: float | None) -> int:
        """Returns the exit code of a simulation, which is killed after a while."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if kill_after_seconds is not None:
            time.sleep(kill_after_seconds)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    opened = Nursery()
    yield opened
    opened.close()


def read_whole_lines(path: Path) -> list[str]:
    content = path.read_text() if path.exists() else ""
    return content[: content.rfind("\n") + 1].split()


def read_answers(tape: Path) -> set[str]:
    """Returns the answers on a tape; an empty set where it was not even begun."""
    if not tape.exists() or b"\n" not in tape.read_bytes():
        return set()
    events = Recording(tape).events()
    return {event["response"]["choices"][0]["message"]["content"] for event in events}


def simulate_as_killed(clients: Clients) -> list[list[dict[str, str]]]:
    """The simulation of the nursery, for a replay."""
    from concurrent.futures import ThreadPoolExecutor

    def live(_: int) -> list[dict[str, str]]:
        words = [{"role": "user", "content": "Hello."}]
        for _ in range(TURNS):
            text = clients.blocking.send(chat_request("model", words)).text
            words += [{"role": "assistant", "content": text}, {"role": "user", "content": "And?"}]
        return words

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(live, range(AGENTS)))


def test_forty_kills_while_recording(tmp_path, nursery):
    """Killed 40 times at random moments, recordings lose nothing and are resumed to their end."""
    kill_and_resume(tmp_path, nursery, 40)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_two_thousand_kills_while_recording(tmp_path, nursery):
    """The same, for many more moments."""
    kill_and_resume(tmp_path, nursery, 2000)


def kill_and_resume(tmp_path: Path, nursery: Nursery, at_least: int) -> None:
    """Kills recordings until enough were killed, and looks what is lost and what bought twice."""
    chance = random.Random()
    kills, number = 0, 0
    while kills < at_least or number < 4:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        killed_here = 0
        while True:
            # Now and then one is let live to its end, so that tapes of all lengths are resumed.
            patience = None if killed_here >= 8 else chance.uniform(0.004, 0.04)
            code = nursery.run(folder, patience)
            acknowledged = read_whole_lines(folder / "heard")
            assert set(acknowledged) <= read_answers(folder / "run.tape")
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                break
            killed_here += 1
        kills += killed_here
        tape = folder / "run.tape"
        assert TapeReader(tape).verify() == []
        assert len(Recording(tape).takes) == AGENTS * TURNS
        assert Recording(tape).ended
        bought = read_whole_lines(folder / "bought")
        assert AGENTS * TURNS <= len(bought) <= AGENTS * TURNS + THREADS * killed_here
        lives = json.loads((folder / "lives").read_text())
        assert replay(tape, simulate_as_killed) == lives


def ask(text: str = "Hello.") -> Any:
    return chat_request("model", [{"role": "user", "content": text}])


def read_errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [item.getMessage() for item in caplog.records if item.levelno >= logging.ERROR]


def test_a_full_disk_ends_the_recording_not_the_simulation(small_disk, caplog):  # noqa: F811
    """Every answer is returned, the error is told once, the tape holds all up to then."""
    tape = small_disk / "run.tape"
    client = Client(FakeTransport(lambda _: chat_content("x" * 30_000)))
    with Run.record(tape):
        answers = [client.send(ask(f"Number {number}.")).text for number in range(60)]
    assert answers == ["x" * 30_000] * 60
    (error,) = read_errors(caplog)
    assert "Recording stopped" in error
    assert str(tape) in error
    recording = Recording(tape)
    assert 20 < len(recording.takes) < 60
    assert TapeReader(tape).verify() == []
    assert not recording.cut
    assert not recording.ended
    dead = Client(DeadTransport())
    with pytest.raises(ReplayMiss, match="never asked"), Run.replay(tape):
        assert [dead.send(ask(f"Number {number}.")).text for number in range(60)] == answers


def test_a_recording_goes_on_when_there_is_room_again(small_disk, caplog):  # noqa: F811
    """A tape whose recording ended at a full disk can be resumed."""
    tape = small_disk / "run.tape"
    ballast = None
    transport = DrawingTransport()
    with Run.record(tape):
        clients = Clients(transport)
        heard = clients.talk(2)
        ballast = fill_disk(small_disk)
        heard += clients.talk(30)
    assert len(heard) == 32
    ballast.unlink()
    kept = len(Recording(tape).takes)
    transport = DrawingTransport()
    with Run.record(tape, resume=True):
        clients = Clients(transport)
        resumed = clients.talk(2) + clients.talk(30)
    assert len(transport.attempts) == 32 - kept
    assert resumed[:kept] == heard[:kept]

    def simulate(clients: Clients) -> list[str]:
        return clients.talk(2) + clients.talk(30)

    assert replay(tape, simulate) == resumed


def test_a_tape_cannot_be_begun_on_a_full_disk(small_disk):  # noqa: F811
    """A run that could not be recorded from its first line does not begin."""
    fill_disk(small_disk)
    with pytest.raises(StoreError, match="cannot be written"):
        Run.record(small_disk / "run.tape").start()
    with pytest.raises(StoreError, match="cannot be written"):
        Run.record("/dev/full").start()


def test_a_limit_on_file_sizes(tmp_path):
    """A write of which only a part fits is taken back, so that the tape ends with a whole line."""
    code = f"""
import resource, sys
sys.path.insert(0, {TESTS!r})
from fakes import FakeTransport, chat_content
from tinytroupe.llm.client import Client
from tinytroupe.llm.request import chat_request
from tinytroupe.llm.runs.run import Run
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
client = Client(FakeTransport(lambda _: chat_content("x" * 900)))
with Run.record("run.tape"):
    for number in range(80):
        assert client.send(chat_request("m", [{{"role": "user", "content": str(number)}}])).text
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stderr.count("Recording stopped") == 1
    tape = tmp_path / "run.tape"
    recording = Recording(tape)
    assert 20 < len(recording.takes) < 80
    assert not recording.cut
    assert TapeReader(tape).verify() == []


def test_a_read_only_folder(tmp_path, protect):  # noqa: F811
    """Recording into a read-only folder is refused; replaying from one works."""
    folder = tmp_path / "tapes"
    folder.mkdir()
    recorded = record(folder / "run.tape", lambda clients: clients.talk(3))
    protect(folder)
    with pytest.raises(StoreError, match="cannot be written"):
        Run.record(folder / "new.tape").start()
    with pytest.raises(StoreError, match="cannot be written"):
        Run.record(folder / "run.tape", resume=True).start()
    with pytest.raises(StoreError, match="cannot be written"):
        Run.record(folder / "below" / "new.tape").start()
    assert replay(folder / "run.tape", lambda clients: clients.talk(3)) == recorded
    Clients(DrawingTransport()).talk(1)


def test_another_process_records_into_the_tape(tmp_path):
    """A tape that another process records into is refused, and that process is not disturbed."""
    tape = tmp_path / "run.tape"
    code = f"""
import sys
sys.path.insert(0, {TESTS!r})
from simulations import *
with Run.record({str(tape)!r}):
    clients = Clients(DrawingTransport())
    clients.talk(2)
    print("ready", flush=True)
    sys.stdin.readline()
    clients.talk(2)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    for resume in (False, True):
        with pytest.raises(StoreError, match="another process is recording"):
            Run.record(tape, resume=resume).start()
    assert len(Recording(tape).takes) == 2
    other.communicate("go on\n", timeout=30)
    assert other.returncode == 0
    assert len(Recording(tape).takes) == 4
    with Run.record(tape, resume=True):
        pass


def test_a_killed_recorder_lets_go_of_its_tape(tmp_path, nursery):
    """The claim on a tape ends with the process, however that ends."""
    while not (tmp_path / "run.tape").exists():
        nursery.run(tmp_path, 0.02)
    with Run.record(tmp_path / "run.tape", resume=True):
        pass


def test_a_tape_that_is_deleted_meanwhile(tmp_path):
    """Who deletes a tape during the run loses the tape, not the run."""
    tape = tmp_path / "run.tape"
    with Run.record(tape):
        clients = Clients(DrawingTransport())
        clients.talk(1)
        tape.unlink()
        assert len(clients.talk(2)) == 2
    assert not tape.exists()
