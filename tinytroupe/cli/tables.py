"""What the subcommands show: tables, JSON, and how far long work has come."""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

Advance = Callable[[float], None]
"""Is told how much more was done."""

_SECONDS_BETWEEN = 0.1


def say(text: str = "") -> None:
    """Prints a line; what the terminal's encoding cannot show becomes a question mark."""
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding))


def say_json(value: Any) -> None:
    """Prints a value as JSON."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def say_table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()
) -> None:
    """Prints rows in aligned columns; on a terminal each line is cut to its width.

    Args:
        headers: The names of the columns.
        rows: A cell for each column.
        right: The names of columns whose cells stand at the right.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in write_table(headers, rows, right, width):
        say(line)


def write_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Sequence[str] = (),
    width: int | None = None,
) -> Iterator[str]:
    """Yields the lines of a table.

    Args:
        headers: The names of the columns.
        rows: A cell for each column.
        right: Columns whose cells stand at the right.
        width: How many columns of the terminal a line may take; None: any number.
    """
    cells = [list(headers), *([clean(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(measure, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = [
            _pad(cell, wide, header in right)
            for cell, wide, header in zip(row, widths, headers, strict=True)
        ]
        yield cut("  ".join(padded).rstrip(), width)


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - measure(cell))
    return space + cell if right else cell + space


def clean(text: str) -> str:
    """Puts a text on one line, without what would steer a terminal."""
    return "".join(char for char in " ".join(text.split()) if _is_shown(char))


def clean_lines(text: str) -> str:
    """Keeps a text's lines and tabs, without what would steer a terminal."""
    return "".join(char for char in text if char in "\n\t" or _is_shown(char))


def _is_shown(char: str) -> bool:
    # Control characters, and marks that turn the direction of writing: an answer could
    # otherwise paint over what the terminal shows.
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs") or char == "\u200d"


def measure(text: str) -> int:
    """Returns how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_measure_char, text))


def _measure_char(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int | None) -> str:
    """Cuts a text to so many columns, with a mark where something is missing."""
    if width is None or measure(text) <= width:
        return text
    taken, end = 0, 0
    for char in text:
        taken += _measure_char(char)
        if taken > width - 1:
            break
        end += 1
    return text[:end] + "…"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Writes `1 entry` or `2,000 entries`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def track(items: Iterable[T], what: str, total: float | None) -> Generator[T, None, None]:
    """Yields the items, and shows on a terminal how many of them are done.

    Who may stop early closes it, so that nothing is shown any more.
    """
    with progress(what, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def progress(what: str, total: float | None) -> Iterator[Advance]:
    """Shows on a terminal how far work has come; where there is none, nothing is shown.

    Args:
        what: The work, in a word or two.
        total: How much there is to do; None: not known.
    """
    if not sys.stderr.isatty():
        yield lambda amount: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        with _show_plainly(what, total) as advance:
            yield advance
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


@contextmanager
def _show_plainly(what: str, total: float | None) -> Iterator[Advance]:
    done, shown, shown_at = 0.0, "", 0.0

    def advance(amount: float) -> None:
        nonlocal done, shown, shown_at
        done += amount
        if time.monotonic() - shown_at < _SECONDS_BETWEEN:
            return
        shown_at = time.monotonic()
        shown = f"{min(done / total, 1):.0%}" if total else f"{done:,.0f}"
        print(f"\r{what}: {shown}", end="", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        # The line is wiped, so that it does not stand amid the results.
        print("\r" + " " * (len(what) + len(shown) + 2) + "\r", end="", file=sys.stderr, flush=True)
