"""`tinytroupe replay`: runs a simulation as it is, and answers every model call from a tape."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from tinytroupe.cli import Subparsers
from tinytroupe.cli.launch import (
    DIVERGED,
    NEVER_IMPORTED,
    Launched,
    add_command,
    check_launch,
    launch,
    tell,
    tell_json,
)
from tinytroupe.llm.runs.explanation import explain_report, wants_colour, write_text
from tinytroupe.llm.runs.plan import RunPlan
from tinytroupe.llm.store.tape import TapeReader


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe replay`."""
    parser = subparsers.add_parser(
        "replay",
        help="run a simulation again, with its recorded answers",
        description="Runs a simulation as it is and answers every model call from a tape, without "
        "a key and without a network. The exit code is the simulation's; a call that the tape has "
        f"no answer for makes it {DIVERGED} at least, and the first one is explained.",
    )
    parser.add_argument("path", help="the tape")
    parser.add_argument(
        "--latency", action="store_true", help="let each answer take as long as it took"
    )
    parser.add_argument("--json", action="store_true", help="sum up as JSON, on standard error")
    add_command(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Replays and returns the command's exit code, or 1 where only the replay failed.

    Raises:
        StoreError: The tape cannot be used; the message says why.
    """
    TapeReader(args.path)
    launched = launch(args.words, RunPlan("replay", args.path, latency=args.latency))
    check_launch(launched)
    if args.json:
        tell_json({"code": launched.code, "replays": [asdict(each) for each in launched.reports]})
    else:
        _sum_up(launched, args.path)
    diverged = any(report.diverged for report in launched.reports)
    return launched.code or (DIVERGED if diverged else 0)


def _sum_up(launched: Launched, path: str) -> None:
    if launched.started and not launched.began:
        tell(f"nothing was replayed: {NEVER_IMPORTED}")
    for report in launched.reports:
        if report.diverged:
            write_text(explain_report(report, wants_colour(sys.stderr)), sys.stderr)
            tell(f"`tinytroupe explain {path}` says this again")
        else:
            calls = f"{report.answered:,} call{'' if report.answered == 1 else 's'}"
            tell(f"{path} was replayed: {calls}, all as recorded")
