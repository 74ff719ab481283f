"""Runs the source text of a tool in a child process.

This keeps mistakes apart from the site: endless loops, crashes, floods of output, and the site's
environment variables, modules and open files. It is no sandbox against malice. The child belongs
to the same user: it can read the site's files and use the network, and a process that it starts in
a session of its own outlives it.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from tinytroupe.contrib.django.errors import ToolCodeRefused
from tinytroupe.llm.errors import ConfigError

MOST_ANSWER_BYTES = 1_000_000
MOST_MEMORY_BYTES = 512 * 1024 * 1024
MOST_FILE_BYTES = 16 * 1024 * 1024
MOST_SECONDS = 24 * 60 * 60
"""Longer times do not fit into what systems call a time limit."""

CHILD = Path(__file__).with_name("tool_child.py")

KEPT_VARIABLES = ("LD_LIBRARY_PATH",)
"""Without it some interpreters do not find their own libraries."""


class ToolFailed(Exception):
    """A tool in a process of its own gave no result; the message says why.

    Attributes:
        line: Which line of its source was running; None: not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class SourceCall:
    """A call of one function of a source text."""

    source: str
    function: str
    positional: Sequence[Any]
    named: Mapping[str, Any]

    def run(self, seconds: float) -> Any:
        """Returns what the function returned, as JSON has it.

        The child begins with the standard library, an empty folder, no environment variables
        and no open files. It ends, with all of its process group, before this returns.

        Args:
            seconds: After which it is ended, its start included; at most a day.

        Raises:
            ToolFailed: It raised, took too long, said too much, ended by itself, or
                returned what has no JSON form.
            ConfigError: There is no interpreter to run it.
        """
        seconds = min(seconds, MOST_SECONDS)
        with (
            TemporaryDirectory(prefix="tool-", ignore_cleanup_errors=True) as folder,
            TemporaryFile() as task,
        ):
            task.write(self._describe(seconds))
            task.seek(0)
            expires_at = time.monotonic() + seconds
            process = _start(task, folder)
            try:
                answer = _read_answer(process, expires_at, seconds)
            finally:
                _end(process)
        return _read_result(answer)

    def _describe(self, seconds: float) -> bytes:
        # One more than the parent's, which ends it as a rule and tells why.
        last_second = math.ceil(seconds) + 1
        task = {
            "source": self.source,
            "function": self.function,
            "positional": list(self.positional),
            "named": dict(self.named),
            "alarm_seconds": last_second,
            "limits": {
                "RLIMIT_AS": MOST_MEMORY_BYTES,
                "RLIMIT_CPU": last_second,
                "RLIMIT_FSIZE": MOST_FILE_BYTES,
                "RLIMIT_CORE": 0,
            },
        }
        return json.dumps(task).encode()


def check_system() -> None:
    """Refuses systems on which source text cannot be run.

    Raises:
        ToolCodeRefused: The system has no process groups.
        ConfigError: There is no interpreter to run it.
    """
    if not hasattr(os, "killpg"):
        raise ToolCodeRefused(
            "the source text of a tool runs only where a process can be ended with all that it "
            "started, which is not so on this system, whatever LLM_WRAPPER_ALLOW_TOOL_CODE says; "
            "give the dotted path of a function"
        )
    find_interpreter()


def find_interpreter() -> str:
    """Returns the path of the Python that runs now.

    Raises:
        ConfigError: It is built into another program, and there is none beside it.
    """
    # Under uWSGI `sys.executable` is uWSGI, and where Python is embedded it may be empty.
    found = Path(sys.executable or "nothing")
    if not found.name.lower().startswith(("python", "pypy")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        found = Path(sys.prefix, "bin", f"python{version}")
        if not found.is_file():
            raise ConfigError(
                f"the source text of tools cannot be run: there is no interpreter {found}, and "
                f"sys.executable is {sys.executable!r}"
            )
    return str(found)


def _start(task: IO[bytes], folder: str) -> subprocess.Popen[bytes]:
    # -I: neither the folder of the program nor PYTHONPATH can be imported from. -S: nor can what
    # is installed, the site itself and the start-up code of .pth files included; and the start
    # takes 9 ms in place of 25.
    command = [find_interpreter(), "-I", "-S", str(CHILD)]
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    try:
        return subprocess.Popen(
            command,
            bufsize=0,
            stdin=task,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=kept,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(f"its process could not be started: {error.strerror}") from error


def _read_answer(process: subprocess.Popen[bytes], expires_at: float, seconds: float) -> bytes:
    """Reads one line. Others may hold the pipe open after it, and are not waited for."""
    assert process.stdout is not None
    late = ToolFailed(
        f"it took longer than the {seconds:g} seconds of LLM_WRAPPER_TOOL_SECONDS and was ended"
    )
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while b"\n" not in answer:
            left = expires_at - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise late
            piece = os.read(process.stdout.fileno(), 65_536)
            if not piece:
                break
            answer += piece
            if len(answer) > MOST_ANSWER_BYTES:
                raise ToolFailed(f"what it returned is longer than {MOST_ANSWER_BYTES:,} bytes")
    if b"\n" in answer:
        return bytes(answer.partition(b"\n")[0])
    try:
        status = process.wait(max(expires_at - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        raise late from None
    raise ToolFailed(_tell_end(status))


def _tell_end(status: int) -> str:
    if status >= 0:
        return f"its process ended with exit status {status} before there was a result"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"its process was ended by {name} before there was a result"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all of its group."""
    assert process.stdout is not None
    # Before it is waited for, as a rule: until then no other group can have its number.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()


def _read_result(answer: bytes) -> Any:
    try:
        read = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise ToolFailed("what it returned cannot be read back from JSON") from error
    if not isinstance(read, dict) or not {"result", "error"} & set(read):
        raise ToolFailed("it wrote into the pipe that is meant for its result")
    if "error" in read:
        raise ToolFailed(str(read["error"]), read.get("line"))
    return read["result"]
