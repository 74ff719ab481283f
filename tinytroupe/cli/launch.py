"""Runs a command as a child process that takes part in a run, and hears what became of it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.runs.activation import RUN_VARIABLE, TAKEN_VARIABLE
from tinytroupe.llm.runs.explanation import write_text
from tinytroupe.llm.runs.plan import RunPlan
from tinytroupe.llm.runs.report import ReplayReport, read_report

DIVERGED = 1
"""The exit code of a command that went well by itself, but whose run did not."""

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""Exit codes as shells give them."""

NEVER_IMPORTED = (
    "the command ended without importing tinytroupe.llm or tinytroupe.openai_utils, through which "
    "its model calls would have gone"
)

_FORWARDED = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True, slots=True)
class Launched:
    """What became of a command and of its run."""

    code: int
    """The command's exit code; 128 and the signal's number where a signal ended it."""
    began: bool
    """Whether any process of the command began the run."""
    started: bool = True
    """Whether there is such a command."""
    failure: str | None = None
    """Why the run could not begin."""
    reports: tuple[ReplayReport, ...] = ()
    """What became of a replay, for each process that replayed."""


def add_command(parser: argparse.ArgumentParser) -> None:
    """Declares the command that is to be run."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="-- command",
        help="the simulation as it is usually started, after two dashes: -- python sim.py",
    )


def launch(words: Sequence[str], plan: RunPlan, output: TextIO | None = None) -> Launched:
    """Runs a command to its end, with this process's input, output and errors.

    Args:
        words: The command and its arguments.
        plan: What the run is to do; the command is told by TINYTROUPE_RUN.
        output: Where the command's standard output goes; None: to this process's.
    """
    with tempfile.TemporaryDirectory(prefix="tinytroupe-") as folder:
        environment = {name: text for name, text in os.environ.items() if name != TAKEN_VARIABLE}
        environment[RUN_VARIABLE] = plan.report_to(folder).to_text()
        code = _run_command(words, environment, output)
        if isinstance(code, _Refusal):
            tell(code.sentence)
            return Launched(code.code, began=False, started=False)
        return _read_statuses(Path(folder), code)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a command could not even be started."""

    code: int
    sentence: str


def _run_command(
    words: Sequence[str], environment: dict[str, str], output: TextIO | None
) -> int | _Refusal:
    children: list[subprocess.Popen[bytes]] = []
    with _pass_on_signals(children):
        try:
            child = subprocess.Popen(words, env=environment, stdout=output)
        except FileNotFoundError:
            return _refuse(words, "is not found", NOT_FOUND)
        except OSError as error:
            return _refuse(words, f"cannot be run: {error.strerror or error}", NOT_EXECUTABLE)
        children.append(child)
        code = child.wait()
    return 128 - code if code < 0 else code


def _refuse(words: Sequence[str], reason: str, code: int) -> _Refusal:
    hint = f"; write python {words[0]}" if words[0].endswith(".py") else ""
    return _Refusal(code, f"the command {words[0]} {reason}{hint}")


@contextmanager
def _pass_on_signals(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leaves it to the command what signals do; this process waits for its end."""

    def pass_on(number: int, frame: object) -> None:
        # Ctrl-C reaches the command by itself: the terminal tells the whole group.
        if number != signal.SIGINT:
            for child in children:
                child.send_signal(number)

    numbers = [signal.SIGINT]
    numbers += [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    # What is ignored stays so, for the command too, as under nohup.
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_statuses(folder: Path, code: int) -> Launched:
    began, failure, reports = False, None, []
    for path in sorted(folder.glob("*.json")):
        status = _read_status(path)
        if status.get("state") == "failed":
            failure = failure or str(status.get("message"))
            continue
        began = True
        if "fingerprint" in status:
            reports.append(read_report(path))
    return Launched(code, began, failure=failure, reports=tuple(reports))


def _read_status(path: Path) -> dict[str, Any]:
    try:
        status = json.loads(path.read_bytes())
    except ValueError:
        # The process was killed while it wrote this; so it had begun.
        return {}
    return status if isinstance(status, dict) else {}


def check_launch(launched: Launched) -> None:
    """Raises what kept the run from beginning, if anything did.

    Raises:
        StoreError: The run could not begin; the message says why.
    """
    if launched.failure is not None:
        raise StoreError(launched.failure)


def tell(text: str) -> None:
    """Says something about the run, apart from the command's own output."""
    write_text(f"tinytroupe: {text}", sys.stderr)


def tell_json(facts: object) -> None:
    """Says it as one line of JSON."""
    write_text(json.dumps(facts, ensure_ascii=False, default=str), sys.stderr)
