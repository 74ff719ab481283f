"""`tinytroupe fork`: runs a simulation as recorded up to a point, and differently from there."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinytroupe.cli import Subparsers
from tinytroupe.cli.launch import add_command, launch
from tinytroupe.cli.record import check_new, sum_up_recording
from tinytroupe.llm.runs.plan import RunPlan, split_replacement
from tinytroupe.llm.store.tape import TapeReader


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe fork`."""
    parser = subparsers.add_parser(
        "fork",
        help="go on differently from a point of a recorded run",
        description="Runs a simulation with recorded answers up to a point, goes live after it, "
        "and records all of it on a new tape. Without --at it goes live where calls differ.",
    )
    parser.add_argument("path", help="the tape to begin with")
    parser.add_argument("--to", required=True, metavar="NEW", help="the new tape")
    parser.add_argument(
        "--at",
        metavar="POINT",
        help="a lane's n-th call, from 0 (lisa:3), a lane (lisa), or a line of the tape (120)",
    )
    parser.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="CALL=TEXT",
        help="a recorded call, and what it is answered instead (lisa:3=No.); may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="sum up as JSON, on standard error")
    add_command(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Forks and returns the command's exit code.

    Raises:
        StoreError: One of the tapes cannot be used.
        ConfigError: The point, or the call to replace, does not exist.
    """
    TapeReader(args.path)
    target = Path(args.to)
    check_new(target)
    replaced = dict(map(split_replacement, args.replace))
    plan = RunPlan("fork", args.path, to=args.to, at=args.at, replace=replaced)
    launched = launch(args.words, plan)
    sum_up_recording(launched, target, args.json)
    return launched.code
