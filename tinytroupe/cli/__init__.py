"""The command `tinytroupe`.

Each subcommand is a module with `add_parser(subparsers)` and `run(args)`. Only
the module of the subcommand that was asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, TypeAlias, cast

from tinytroupe import __version__
from tinytroupe.llm.errors import LLMError

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

FAILED = 2
INTERRUPTED = 130

COMMANDS = {
    "record": ("tinytroupe.cli.record", "record the model calls of a simulation"),
    "replay": ("tinytroupe.cli.replay", "run a simulation again, with its recorded answers"),
    "fork": ("tinytroupe.cli.fork", "go on differently from a point of a recorded run"),
    "explain": ("tinytroupe.cli.explain", "explain why the last replay of a tape differed"),
    "diff": ("tinytroupe.cli.diff", "compare two recorded runs"),
    "check": ("tinytroupe.cli.check", "find what in a simulation is not deterministic"),
    "cache": (
        "tinytroupe.cli.cache",
        "look into the stored answers, take them elsewhere, thin them out",
    ),
    "config": ("tinytroupe.cli.config", "show the settings and where each came from"),
    "rehearse-server": (
        "tinytroupe.cli.rehearse_server",
        "serve rehearsed answers, as an endpoint that needs no model",
    ),
    "runs": ("tinytroupe.cli.runs", "look at recorded runs, check them, take them elsewhere"),
}
"""Subcommand → its module, and what it does in a line."""


class Subcommand(Protocol):
    """What the module of a subcommand offers."""

    def add_parser(self, subparsers: Subparsers) -> argparse.ArgumentParser:
        """Declares the subcommand's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Does it and returns the exit code.

        Raises:
            LLMError: It cannot be done; the message is shown in one line.
        """
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code: 0 is success, 2 a failure.

    Args:
        argv: The words of the command line; None: those of the process.

    Raises:
        SystemExit: The words are no command (code 2), or ask for help (code 0).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="tinytroupe",
        description="The layer that every model call of an agent simulation goes through.",
    )
    parser.add_argument("--version", action="version", version=f"tinytroupe {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    command: Subcommand | None = None
    for name, (module, line) in COMMANDS.items():
        if name == chosen:
            command = cast(Subcommand, importlib.import_module(module))
            command.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=line)
    args = parser.parse_args(words)
    assert command is not None
    return _run(command, args)


def _run(command: Subcommand, args: argparse.Namespace) -> int:
    try:
        code = command.run(args)
        sys.stdout.flush()
        return code
    except LLMError as error:
        print(f"tinytroupe: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # As in `tinytroupe config | head`. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
