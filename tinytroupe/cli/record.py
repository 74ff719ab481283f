"""`tinytroupe record`: runs a simulation as it is, and records every model call."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tinytroupe.cli import Subparsers
from tinytroupe.cli.launch import (
    NEVER_IMPORTED,
    Launched,
    add_command,
    check_launch,
    launch,
    tell,
    tell_json,
)
from tinytroupe.llm.errors import LLMError, StoreError
from tinytroupe.llm.runs.plan import RunPlan
from tinytroupe.llm.runs.recording import Recording


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe record`."""
    parser = subparsers.add_parser(
        "record",
        help="record the model calls of a simulation",
        description="Runs a simulation as it is and records every model call on a tape, which "
        "`tinytroupe replay` answers from. The exit code is the simulation's.",
    )
    parser.add_argument("path", help="the tape; it must not exist yet")
    parser.add_argument(
        "--resume", action="store_true", help="go on with a tape that was cut off, from its end"
    )
    parser.add_argument("--json", action="store_true", help="sum up as JSON, on standard error")
    add_command(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Records and returns the command's exit code.

    Raises:
        StoreError: The tape cannot be used; the message says why.
    """
    path = Path(args.path)
    if not args.resume:
        check_new(path)
    launched = launch(args.words, RunPlan("resume" if args.resume else "record", args.path))
    sum_up_recording(launched, path, args.json)
    return launched.code


def check_new(path: Path) -> None:
    """Makes sure that a tape can be begun, before the simulation costs anything.

    Raises:
        StoreError: There is something already, or nothing can be written there.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder; name a file for the tape")
    if path.exists() and path.stat().st_size:
        raise StoreError(
            f"the tape {path} exists already and is not overwritten; choose another path, or go "
            f"on with it: tinytroupe record --resume {path} -- …"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise StoreError(f"the tape {path} cannot be written: {folder} is read-only")


def sum_up_recording(launched: Launched, path: Path, as_json: bool) -> None:
    """Says what was recorded. A tape on which there is nothing is taken away.

    Raises:
        StoreError: The run could not begin.
    """
    check_launch(launched)
    try:
        recording = Recording(path) if path.exists() else None
    except LLMError as error:
        tell(str(error))
        return
    calls = len(recording.takes) if recording is not None else 0
    lanes = len({take.lane for take in recording.takes}) if recording is not None else 0
    if recording is not None and not calls:
        path.unlink(missing_ok=True)
    if as_json:
        facts = {"tape": str(path), "code": launched.code, "calls": calls, "lanes": lanes}
        tell_json({**facts, "began": launched.began})
    elif not launched.started:
        pass
    elif not launched.began:
        tell(f"nothing was recorded: {NEVER_IMPORTED}")
    elif not calls:
        tell("nothing was recorded: the command made no model call")
    else:
        plural = "" if lanes == 1 else "s"
        tell(f"{path} holds {calls:,} call{'' if calls == 1 else 's'} of {lanes:,} lane{plural}")
        if launched.code:
            tell(
                f"the command ended with code {launched.code}; when that is mended, go on with "
                f"`tinytroupe record --resume {path} -- …`: what is recorded is not asked again"
            )
