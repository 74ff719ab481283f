"""`tinytroupe explain`: what the last replay of a tape had no answer for, first things first."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from tinytroupe.cli import Subparsers
from tinytroupe.cli.tables import say_json
from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.runs.explanation import explain_report, wants_colour, write_text
from tinytroupe.llm.runs.report import find_report, read_fingerprint, read_report


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe explain`."""
    parser = subparsers.add_parser(
        "explain",
        help="explain why the last replay of a tape differed",
        description="Names the first call of the last replay that the tape had no answer for, and "
        "shows what is different in it; later ones are listed as what may follow from it.",
    )
    parser.add_argument("path", help="the tape")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Explains the last replay.

    Raises:
        StoreError: There is no such tape, or the report of its replay cannot be read.
    """
    tape = Path(args.path)
    if not tape.is_file():
        raise StoreError(f"there is no tape at {tape}")
    place = find_report(tape)
    if place is None:
        if args.json:
            say_json(None)
        else:
            write_text(
                f"Nothing is known of {tape} that could be explained: it was not replayed, or its "
                "last replay went as recorded.",
                sys.stdout,
            )
        return 0
    report = read_report(place)
    changed = report.fingerprint != read_fingerprint(tape)
    if args.json:
        say_json({**asdict(report), "tape_changed": changed})
        return 0
    write_text(explain_report(report, wants_colour(sys.stdout)), sys.stdout)
    if changed:
        write_text("\nThe tape has been changed since; replay it again.", sys.stdout)
    return 0
