"""The program of the child process that runs the source text of one tool.

It is run by its path and imports neither this package nor anything of the site.
`tool_process` says what it is given and what it answers.
"""

from __future__ import annotations
import __future__

import json
import os
import signal
import sys
import types
from contextlib import suppress
from typing import Any

FILE_NAME = "<tool>"
LONGEST_MESSAGE = 2_000


def main() -> None:
    """Reads the task, runs it, and writes one line of JSON."""
    task = json.load(sys.stdin)
    pipe = _take_streams()
    _set_limits(task["limits"], task["alarm_seconds"])
    own_id = os.getpid()
    line = _answer(task) + b"\n"
    # A fork that the tool made and that came back here has nothing to answer.
    if os.getpid() == own_id:
        with os.fdopen(pipe, "wb") as answers:
            answers.write(line)
    # Threads that the tool left behind are not waited for.
    os._exit(0)


def _take_streams() -> int:
    """Keeps the pipe for the answer; what the tool prints goes nowhere, and it can read nothing."""
    pipe = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    return pipe


def _set_limits(limits: dict[str, int], alarm_seconds: int) -> None:
    # If the site's process dies, nobody else ends this one.
    signal.alarm(alarm_seconds)
    import resource

    for name, wanted in limits.items():
        # Systems differ in the limits that they know and that may be set.
        with suppress(AttributeError, OSError, ValueError):
            kind = getattr(resource, name)
            _, hard = resource.getrlimit(kind)
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(kind, (limit, limit))


def _answer(task: dict[str, Any]) -> bytes:
    try:
        result = _run(task)
        try:
            return json.dumps({"result": result}, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError):
            raise TypeError(
                f"what it returned, of type {type(result).__name__}, has no JSON form"
            ) from None
    except BaseException as error:
        return json.dumps({"error": _tell(error), "line": _find_line(error)}).encode()


def _run(task: dict[str, Any]) -> Any:
    # Dataclasses and others look for the module in which they are defined.
    module = sys.modules["tool"] = types.ModuleType("tool")
    # Annotations are for the model; they need no import, as they are not evaluated.
    flags = __future__.annotations.compiler_flag
    code = compile(task["source"], FILE_NAME, "exec", flags, dont_inherit=True)
    exec(code, vars(module))
    result = getattr(module, task["function"])(*task["positional"], **task["named"])
    if not hasattr(result, "__await__"):
        return result
    import asyncio

    async def wait() -> Any:
        return await result

    return asyncio.run(wait())


def _tell(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        message = str(error)[:LONGEST_MESSAGE]
    except Exception:
        message = "its message cannot be told"
    return f"{kind}: {message}" if message else kind


def _find_line(error: BaseException) -> int | None:
    """Returns the line of the source that was running."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE_NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


if __name__ == "__main__":
    main()
