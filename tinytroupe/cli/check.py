"""`tinytroupe check`: replays a simulation and finds what in it is not deterministic."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

from tinytroupe.cli import FAILED, Subparsers
from tinytroupe.cli.launch import (
    DIVERGED,
    NEVER_IMPORTED,
    Launched,
    add_command,
    check_launch,
    launch,
    tell,
)
from tinytroupe.cli.tables import count, say_json, say_table
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.runs.explanation import (
    format_differences,
    say_contested,
    wants_colour,
    write_text,
)
from tinytroupe.llm.runs.plan import RunPlan
from tinytroupe.llm.runs.report import ReplayReport
from tinytroupe.llm.runs.variation import CAUSES, Variation, find_variations
from tinytroupe.llm.store.tape import TapeReader

_MOST_EXAMPLES = 20
_HINTS = {
    "time": "give the simulation a clock of its own, or leave times out of prompts",
    "random": "seed the generator of each agent (random.Random(name)); make no ids with uuid4",
    "order": "sort what comes out of sets, files of a folder, or threads before it is used",
    "number of calls": "let no time, chance or other thread decide whether a call is made",
}


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe check`."""
    parser = subparsers.add_parser(
        "check",
        help="find what in a simulation is not deterministic",
        description="Replays a simulation with nothing changed, and reports the lanes whose "
        "requests are not as recorded, and what varies in them. A call that was not recorded is "
        "answered, only here, with the recorded answer of the call in its place: so one report "
        "lists all that varies. Exit code 0: nothing does.",
    )
    parser.add_argument("path", help="the tape")
    parser.add_argument(
        "--times",
        type=int,
        default=1,
        metavar="N",
        help="replay so often; what varies may not show at once",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    add_command(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks and returns 0 for a deterministic simulation, 1 for another one.

    Raises:
        StoreError: The tape cannot be used.
        ConfigError: --times is less than 1.
    """
    if args.times < 1:
        raise ConfigError(f"--times is {args.times}; it must be 1 or more")
    TapeReader(args.path)
    plan = RunPlan("replay", args.path, substitute=True)
    reports: list[ReplayReport] = []
    for _ in range(args.times):
        # Standard output is for the report.
        launched = launch(args.words, plan, sys.stderr)
        check_launch(launched)
        if not launched.reports:
            return _say_nothing_known(launched)
        reports += launched.reports
        if launched.code:
            tell(f"the command ended with code {launched.code}, which may have kept calls from it")
    variations = find_variations(reports)
    if args.json:
        say_json(_to_json(args.path, reports, variations))
    else:
        _say(args.path, reports, variations)
    return DIVERGED if variations else launched.code


def _say_nothing_known(launched: Launched) -> int:
    if launched.started:
        reason = "the process was killed" if launched.began else NEVER_IMPORTED
        tell(f"nothing could be checked: {reason}")
    return launched.code or FAILED


def _to_json(
    path: str, reports: Sequence[ReplayReport], variations: Sequence[Variation]
) -> dict[str, object]:
    return {
        "tape": path,
        "replays": len(reports),
        "deterministic": not variations,
        "substituted": any(report.diverged for report in reports),
        "contested": sorted({branch for report in reports for branch in report.contested}),
        "lanes": [asdict(variation) for variation in variations],
    }


def _say(path: str, reports: Sequence[ReplayReport], variations: Sequence[Variation]) -> None:
    replays = count(len(reports), "replay")
    calls = count(max(report.answered for report in reports), "call")
    if not variations:
        write_text(f"Deterministic: {replays} of {path}, {calls}, all as recorded.", sys.stdout)
    else:
        write_text(
            f"Not deterministic: in {replays} of {path}, {count(len(variations), 'lane')} differed."
            "\nCalls that were not recorded were given the recorded answers of the calls in their "
            "place,\nso what is listed does not follow from one another.\n",
            sys.stdout,
        )
        _say_lanes(variations, len(reports))
        _say_hints(variations)
    contested = sorted({branch for report in reports for branch in report.contested})
    if contested:
        write_text(f"\n{say_contested(contested)}", sys.stdout)


def _say_lanes(variations: Sequence[Variation], replays: int) -> None:
    rows = [
        (
            variation.lane,
            variation.calls,
            f"{variation.replays} of {replays}",
            "; ".join(CAUSES[cause] for cause in variation.causes),
        )
        for variation in variations
    ]
    say_table(("lane", "calls", "replays", "what varies"), rows, right=("calls",))
    colour = wants_colour(sys.stdout)
    for variation in variations[:_MOST_EXAMPLES]:
        if variation.example is None:
            continue
        write_text(f"\n{variation.example.name}: {variation.example.reason}", sys.stdout)
        for line in format_differences(variation.example.differences, colour):
            write_text(f"  {line}", sys.stdout)
        if variation.steady and "other" in variation.causes:
            write_text(
                "  All replays asked the same here: the code or a prompt was changed since it was "
                "recorded.",
                sys.stdout,
            )


def _say_hints(variations: Sequence[Variation]) -> None:
    write_text("", sys.stdout)
    for cause, hint in _HINTS.items():
        if any(cause in variation.causes for variation in variations):
            write_text(f"{CAUSES[cause].capitalize()}: {hint}.", sys.stdout)  # type: ignore[index]
