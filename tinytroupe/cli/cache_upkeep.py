"""`tinytroupe cache prune` and `verify`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinytroupe.cli.cache_views import shorten_key
from tinytroupe.cli.entry_facts import UNREADABLE, make_filter, select_rows
from tinytroupe.cli.quantities import show_size, show_time
from tinytroupe.cli.tables import count, say, say_json, say_table, track
from tinytroupe.llm.errors import ConfigError, MalformedResponse, StoreError
from tinytroupe.llm.response import from_record
from tinytroupe.llm.store.failure import UnusableDatabase
from tinytroupe.llm.store.survey import Row, Survey

_AMISS = 1
_MOST_SHOWN = 20


def run_prune(args: argparse.Namespace, folder: Path) -> int:
    """Deletes answers, oldest first, after asking.

    Raises:
        ConfigError: Nothing says what is to be deleted, or nobody can be asked.
        StoreError: There is no cache, or it cannot be written.
    """
    if args.model is None and args.older_than is None and args.max_size is None:
        raise ConfigError("say what to delete: --older-than 30d, --model NAME or --max-size 2GB")
    survey = Survey(folder)
    total = survey.sum_up()
    rows = select_rows(survey, survey.list_rows(), make_filter(args))
    wanted = list(_take_until(rows, total.size_bytes, args.max_size))
    size_bytes = sum(row.size_bytes for row in wanted)
    if args.dry_run or not wanted:
        _report_prune(args, wanted, size_bytes, deleted=0)
        return 0
    if not args.yes and not _ask(args, wanted, size_bytes):
        say("Nothing was deleted.")
        return _AMISS
    deleted = sum(map(survey.remove, track(wanted, "Deleting", len(wanted))))
    _report_prune(args, wanted, size_bytes, deleted)
    try:
        survey.compact()
    except StoreError as error:
        print(
            f"tinytroupe: the space is used for new answers, but not given back to the disk: "
            f"{error}",
            file=sys.stderr,
        )
    return 0


def _take_until(rows: Iterator[Row], size_bytes: int, max_bytes: int | None) -> Iterator[Row]:
    """Yields rows until what would be left is small enough; all of them where there is no limit."""
    for row in rows:
        if max_bytes is not None and size_bytes <= max_bytes:
            return
        size_bytes -= row.size_bytes
        yield row


def _ask(args: argparse.Namespace, rows: list[Row], size_bytes: int) -> bool:
    if args.json or not sys.stdin.isatty():
        raise ConfigError(
            f"{_say_extent(rows, size_bytes)} would be deleted; add --yes to do it without being "
            "asked, or --dry-run to see which"
        )
    try:
        reply = input(f"Delete {_say_extent(rows, size_bytes)}? [y/N] ")
    except EOFError:
        return False
    return reply.strip().lower() in ("y", "yes")


def _say_extent(rows: list[Row], size_bytes: int) -> str:
    times = [row.stored_at_seconds for row in rows]
    return (
        f"{count(len(rows), 'answer')} ({show_size(size_bytes)}, "
        f"from {show_time(min(times))} to {show_time(max(times))})"
    )


def _report_prune(args: argparse.Namespace, rows: list[Row], size_bytes: int, deleted: int) -> None:
    if args.json:
        report: dict[str, Any] = {
            "selected": len(rows),
            "selected_bytes": size_bytes,
            "deleted": deleted,
            "dry_run": args.dry_run,
        }
        if args.dry_run:
            report["keys"] = [row.key for row in rows]
        say_json(report)
    elif not rows:
        say("No answer is like that; nothing was deleted.")
    elif args.dry_run:
        say(f"{_say_extent(rows, size_bytes)} would be deleted:")
        say_table(
            ("KEY", "KEPT", "SIZE"),
            [
                (shorten_key(row.key), show_time(row.stored_at_seconds), show_size(row.size_bytes))
                for row in rows[:_MOST_SHOWN]
            ],
            right=("SIZE",),
        )
        if len(rows) > _MOST_SHOWN:
            say(f"and {len(rows) - _MOST_SHOWN:,} more")
    else:
        say(f"{count(deleted, 'answer')} of {show_size(size_bytes)} deleted.")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    what: str
    """A key, a file, or the database as a whole."""
    problem: str


def run_verify(args: argparse.Namespace, folder: Path) -> int:
    """Reads every answer and reports what is damaged; changes nothing. Exit code 1: something is.

    Raises:
        StoreError: There is no cache, or it cannot be read.
    """
    survey = Survey(folder)
    sound, findings = 0, []
    try:
        total = survey.sum_up()
        for row in track(survey.list_rows(), "Checking", total.entries):
            problem = _find_problem(survey, row)
            if problem:
                findings.append(Finding(row.key, problem))
            else:
                sound += 1
        findings += [Finding("database", text) for text in survey.check_database()]
    except UnusableDatabase as damage:
        findings.append(Finding("database", str(damage)))
    findings += [
        Finding(str(path.relative_to(folder)), what) for path, what in survey.find_stray_files()
    ]
    if args.json:
        tellings = [{"what": one.what, "problem": one.problem} for one in findings]
        say_json({"folder": str(folder), "sound": sound, "findings": tellings})
    else:
        _show_findings(folder, sound, findings)
    return _AMISS if findings else 0


def _find_problem(survey: Survey, row: Row) -> str:
    try:
        entry = survey.read(row)
        if entry is not None:
            from_record(entry.record, "cache")
    except UNREADABLE as damage:
        return str(damage) or type(damage).__name__
    except MalformedResponse as error:
        return f"whole, but not an answer: {error.message}"
    return ""


def _show_findings(folder: Path, sound: int, findings: list[Finding]) -> None:
    say(f"{count(sound, 'sound answer')} in {folder}")
    if not findings:
        return
    say(f"{count(len(findings), 'finding')}:")
    for one in findings:
        say(f"  {one.what}: {one.problem}")
    say(
        "A damaged answer is set aside and asked for again when a simulation next needs it; "
        "files that nothing belongs to can be deleted."
    )
