"""`tinytroupe diff`: two recorded runs side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tinytroupe.cli import Subparsers
from tinytroupe.cli.tables import count, say_json, say_table
from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.runs.comparison import (
    CallChange,
    Comparison,
    LaneComparison,
    RunFacts,
    compare_recordings,
)
from tinytroupe.llm.runs.explanation import escape, format_differences, wants_colour, write_text
from tinytroupe.llm.runs.page import write_page

SAME, DIFFERENT = 0, 1
_MOST_LANES = 100
_MOST_EXCERPTS = 10


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe diff`."""
    parser = subparsers.add_parser(
        "diff",
        help="compare two recorded runs",
        description="Compares two tapes lane by lane: the first divergence, changed prompts, "
        "changed answers, tokens and seconds. Exit code 0: the runs are the same; 1: they are "
        "not.",
    )
    parser.add_argument("one", help="a tape")
    parser.add_argument("two", help="another tape")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--html", metavar="FILE", help="write one HTML page that needs no other")
    return parser


def run(args: argparse.Namespace) -> int:
    """Compares and returns 0 for runs that are the same, 1 for others.

    Raises:
        StoreError: A tape cannot be used, or the page cannot be written.
    """
    comparison = compare_recordings(args.one, args.two)
    if args.html:
        _write_page(comparison, Path(args.html))
    if args.json:
        say_json(comparison.to_json())
    else:
        _say(comparison)
        if args.html:
            write_text(f"\nThe page is {args.html}", sys.stdout)
    return SAME if comparison.same else DIFFERENT


def _write_page(comparison: Comparison, path: Path) -> None:
    try:
        path.write_text(write_page(comparison), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise StoreError(f"the page {path} cannot be written: {error}") from error


def _say(comparison: Comparison) -> None:
    colour = wants_colour(sys.stdout)
    for line in _list_lines(comparison, colour):
        write_text(line, sys.stdout)
    lanes = comparison.lanes[:_MOST_LANES]
    say_table(
        ("lane", "calls", "", "prompts", "answers", "tokens", "", "seconds", "", "first"),
        map(_list_cells, lanes),
        right=("calls", "prompts", "answers", "tokens", "seconds", ""),
    )
    if len(comparison.lanes) > len(lanes):
        write_text(f"… and {len(comparison.lanes) - len(lanes):,} more lanes", sys.stdout)
    changed = [lane for lane in comparison.lanes if lane.first not in (None, comparison.first)]
    for lane in changed[:_MOST_EXCERPTS]:
        assert lane.first is not None
        write_text("", sys.stdout)
        for line in _list_change(lane.first, colour):
            write_text(line, sys.stdout)
    if len(changed) > _MOST_EXCERPTS:
        more = count(len(changed) - _MOST_EXCERPTS, "more lane")
        write_text(f"\n… and {more} that changed; --html shows them", sys.stdout)


def _list_lines(comparison: Comparison, colour: bool) -> Iterator[str]:
    yield _describe_run("1", comparison.one)
    yield _describe_run("2", comparison.two)
    yield from (f"   {line}" for line in format_differences(comparison.setup, colour))
    yield ""
    if comparison.first is None:
        yield "Both runs ask the same and are answered the same."
    else:
        yield "The first divergence:"
        yield from _list_change(comparison.first, colour)
    yield ""


def _describe_run(number: str, run: RunFacts) -> str:
    sums = run.sums
    facts = [
        count(sums.calls, "call"),
        f"{sums.input_tokens:,} input and {sums.output_tokens:,} output tokens",
        f"{sums.seconds:,.1f} seconds",
    ]
    if sums.errors:
        facts.append(count(sums.errors, "error"))
    if sums.unknown_usage:
        facts.append(f"{count(sums.unknown_usage, 'answer')} without a count of tokens")
    if not run.ended:
        facts.append("it did not come to its end")
    if run.forked_from is not None:
        facts.append(f"a fork of {run.forked_from.get('path')}")
    return escape(f"{number}: {run.path}, {', '.join(facts)}")


def _list_change(change: CallChange, colour: bool) -> Iterator[str]:
    said = {
        "prompt": "is asked differently",
        "answer": "is asked the same and answered differently",
        "removed": "is only in the first run",
        "added": "is only in the second run",
    }
    yield f"{escape(change.name)} {said[change.kind]}"
    if change.kind in ("prompt", "answer"):
        yield from (f"  {line}" for line in format_differences(change.prompt, colour))
        yield from (f"  {line}" for line in format_differences(change.answer, colour))


def _list_cells(lane: LaneComparison) -> tuple[object, ...]:
    return (
        lane.lane,
        f"{lane.sums.calls:,}",
        f"{lane.other_sums.calls:,}",
        f"{lane.count('prompt', 'removed', 'added'):,}",
        f"{lane.changed_answers:,}",
        f"{lane.sums.tokens:,}",
        f"{lane.other_sums.tokens:,}",
        f"{lane.sums.seconds:,.1f}",
        f"{lane.other_sums.seconds:,.1f}",
        lane.first.name if lane.first is not None else "",
    )
