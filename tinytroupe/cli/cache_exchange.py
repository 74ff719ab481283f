"""`tinytroupe cache export`, `import` and `merge`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinytroupe.cli.entry_facts import UNREADABLE, make_filter, select_rows
from tinytroupe.cli.intake import Intake, show_some
from tinytroupe.cli.quantities import show_size
from tinytroupe.cli.tables import count, progress, say, say_json, track
from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.compression import BrokenFile, is_compressed, read_lines, write_file
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.exchange import DamagedLine, NewerFormat, read_line, write_line
from tinytroupe.llm.store.survey import Survey

_AMISS = 1
_PICKLE_SUFFIXES = (".pickle", ".pkl")
_PICKLE_START = b"\x80"


def run_export(args: argparse.Namespace, folder: Path) -> int:
    """Writes the answers to a file. Exit code 1: damaged ones were left out.

    Raises:
        StoreError: There is no cache, or one of both cannot be read or written.
        ConfigError: The file is to be compressed, and the package for that is missing.
    """
    survey = Survey(folder)
    rows = track(survey.list_rows(), "Exporting", survey.sum_up().entries)
    written, damaged = 0, []
    with write_file(args.file, replace=args.force) as file:
        for row in select_rows(survey, rows, make_filter(args)):
            try:
                entry = survey.read(row)
            except UNREADABLE as damage:
                damaged.append({"key": row.key, "problem": str(damage)})
                continue
            if entry is not None:
                file.write(write_line(row.key, entry, row.stored_at_seconds))
                written += 1
    size_bytes = args.file.stat().st_size
    if args.json:
        say_json({"exported": written, "size_bytes": size_bytes, "damaged": damaged})
    else:
        say(f"{count(written, 'answer')} written to {args.file} ({show_size(size_bytes)})")
        show_some("left out, since they are damaged", [one["key"] for one in damaged])
    return _AMISS if damaged else 0


def run_import(args: argparse.Namespace, folder: Path) -> int:
    """Takes in answers from a file. Exit code 1: some of it could not be taken in.

    Raises:
        StoreError: The file cannot be read, is of a newer format, or is a pickle
            that holds what no cache of TinyTroupe holds; or the store cannot be written.
        ConfigError: The file is compressed, and the package for that is missing.
    """
    if is_pickle(args.file):
        from tinytroupe.cli.old_cache import import_pickle

        return import_pickle(args, Intake(DiskStore(folder)))
    intake = Intake(DiskStore(folder))
    damaged: list[dict[str, Any]] = []

    def note(number: int, problem: str) -> None:
        damaged.append({"line": number, "problem": problem})

    _import_lines(args.file, intake, note)
    if args.json:
        say_json({**intake.tell(), "damaged_lines": damaged})
    else:
        intake.show()
        show_some(
            "lines were passed over",
            [f"line {one['line']}: {one['problem']}" for one in damaged],
        )
    return _AMISS if damaged else 0


def is_pickle(path: Path) -> bool:
    """Tells by its name or its first byte whether a file is a pickle.

    Raises:
        StoreError: The file cannot be read.
    """
    if path.suffix in _PICKLE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(1) == _PICKLE_START
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error


def _import_lines(path: Path, intake: Intake, note: Callable[[int, str], None]) -> None:
    number = 0
    # Of a compressed file it is not known how much there will be.
    total = None if is_compressed(path) else path.stat().st_size
    with progress("Importing", total) as advance:
        try:
            for number, line in read_lines(path):
                advance(1 if total is None else len(line or b""))
                if line is None:
                    note(number, "it is too long to be an entry")
                elif line.strip():
                    _import_line(number, line, intake, note)
        except BrokenFile as damage:
            note(number + 1, str(damage))


def _import_line(
    number: int, line: bytes, intake: Intake, note: Callable[[int, str], None]
) -> None:
    try:
        exported = read_line(line)
        intake.take(exported.key, exported.entry, exported.stored_at_seconds)
    except DamagedLine as damage:
        note(number, str(damage))
    except NewerFormat as error:
        raise StoreError(
            f"line {number}: {error.message}. Before that, {count(intake.new, 'answer')} came in"
        ) from error


def run_merge(args: argparse.Namespace, folder: Path) -> int:
    """Takes in what another cache has and this one has not. Exit code 1: some was damaged there.

    Raises:
        StoreError: One of both cannot be read, or this one cannot be written.
    """
    other = Survey(args.folder)
    with suppress(FileNotFoundError):
        if os.path.samefile(args.folder, folder):
            raise StoreError(f"{folder} is this cache itself; name another one")
    intake = Intake(DiskStore(folder))
    damaged = []
    for row in track(other.list_rows(), "Merging", other.sum_up().entries):
        try:
            entry = other.read(row)
        except UNREADABLE as damage:
            damaged.append({"key": row.key, "problem": str(damage)})
            continue
        if entry is not None:
            intake.take(row.key, entry, row.stored_at_seconds)
    if args.json:
        say_json({**intake.tell(), "damaged": damaged})
    else:
        intake.show()
        show_some("left there, since they are damaged", [one["key"] for one in damaged])
    return _AMISS if damaged else 0
