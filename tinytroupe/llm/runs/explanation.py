"""A divergence and a replay's report, told to people."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from tinytroupe.llm.errors import ReplayMiss
from tinytroupe.llm.runs.divergence import Difference, Divergence
from tinytroupe.llm.runs.report import ReplayReport
from tinytroupe.llm.runs.words import Runs

_MOST_PARTS = 8
_MOST_CHANGES = 12
_MOST_LATER = 20
_MOST_NAMES = 10
_CONTEXT_LENGTH = 40
_CHANGE_LENGTH = 300
_SUMMARY_LENGTH = 100

_MARKS = {"removed": ("[-", "-]", "\x1b[31m"), "added": ("{+", "+}", "\x1b[32m")}
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_JOINERS = "\u200c\u200d"


def wants_colour(stream: TextIO | None, environ: Mapping[str, str] | None = None) -> bool:
    """Tells whether a stream is a terminal that shows colours. NO_COLOR is respected."""
    environ = os.environ if environ is None else environ
    if stream is None or environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:  # It is closed.
        return False


def write_text(text: str, stream: TextIO) -> None:
    """Writes lines to a stream; what its encoding does not have is written as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def make_error(divergence: Divergence, tape: str, colour: bool = False) -> ReplayMiss:
    """Returns the error that tells a divergence."""
    text = "\n".join(
        [
            f"the tape {tape} has no answer for {divergence.name} (lane {divergence.lane}, "
            f"{_say_position(divergence)}): {divergence.reason}",
            *_list_nearest(divergence, colour),
        ]
    )
    return ReplayMiss(text, lane=divergence.lane, model=divergence.model or None)


def explain_report(report: ReplayReport, colour: bool = False) -> str:
    """Tells a replay's first divergence, and the later ones as what may follow from it."""
    lines = [_say_numbers(report)]
    first = report.first
    if first is not None:
        lines += ["", _paint(f"The first divergence is {first.name}", colour), *_list_facts(first)]
        lines += [f"  {line}" for line in _list_nearest(first, colour)]
        if report.left_out:
            lines.append(
                f"  left out before it, though recorded: {_name_some(report.left_out)}"
                f"{_say_more(len(report.left_out) - _MOST_NAMES)}"
            )
        lines += _list_later(report, first, colour)
    if report.unplayed:
        more = report.unplayed - min(len(report.unplayed_names), _MOST_NAMES)
        named = _name_some(report.unplayed_names)
        lines += ["", f"Recorded, but not asked for: {named}{_say_more(more)}"]
    if report.contested:
        lines += ["", say_contested(report.contested)]
    return "\n".join(lines)


def say_contested(branches: Sequence[str]) -> str:
    """Tells that calls cannot be told apart, and what to do."""
    more = _say_more(len(branches) - _MOST_NAMES)
    return (
        f"Calls of {_name_some(branches)}{more} cannot be told apart, because their threads take "
        "work from a shared queue; name the agent with `with lane(name):` to replay them exactly"
    )


def _say_numbers(report: ReplayReport) -> str:
    stopped = "; the process ended before the replay did" if report.state == "running" else ""
    calls = f"{report.answered:,} call{'s' * (report.answered != 1)} answered"
    differing = f"{report.differing:,} without an answer" if report.differing else "none without"
    return f"Replay of {escape(report.tape)}: {calls}, {differing}{stopped}."


def _list_facts(divergence: Divergence) -> Iterator[str]:
    facts = [f"lane {divergence.lane}", _say_position(divergence)]
    if divergence.purpose:
        facts.append(f"purpose {divergence.purpose}")
    if divergence.model:
        facts.append(f"model {divergence.model}")
    if divergence.place and divergence.located:
        facts.append(f"line {divergence.place} of the tape")
    yield f"  {escape(', '.join(facts))}"
    yield f"  {escape(divergence.reason)}"


def _say_position(divergence: Divergence) -> str:
    if not divergence.located:
        where = divergence.branch or "/"
        return f"call {divergence.order} of branch {where} counted from 0"
    position = f"its call {divergence.order} counted from 0"
    if divergence.branch in ("", divergence.lane):
        return position
    # A lane may have many branches, whose calls are counted one after the other.
    return f"{position}, in branch {divergence.branch}"


def _list_nearest(divergence: Divergence, colour: bool) -> list[str]:
    if divergence.nearest is None:
        return ["the tape has no call to compare it with"]
    name = escape(divergence.nearest)
    if not divergence.differences:
        return [f"the nearest recorded call is {name}"]
    lines = [f"the nearest recorded call is {name}, and the difference is:"]
    return lines + [f"  {line}" for line in format_differences(divergence.differences, colour)]


def _list_later(report: ReplayReport, first: Divergence, colour: bool) -> Iterator[str]:
    following = [one for one in report.later if one.arrival > first.arrival]
    others = [one for one in report.later if one.arrival < first.arrival]
    unlisted = report.differing - 1 - len(report.later)
    if following:
        yield ""
        yield _paint("Later divergences, which may be its consequences:", colour)
        yield from (_summarize(one, colour) for one in following[:_MOST_LATER])
        hidden = len(following) - _MOST_LATER + unlisted
        if hidden > 0:
            yield f"  … and {hidden:,} more"
    if others:
        yield ""
        yield _paint("Divergences that came up before it, so that they do not follow:", colour)
        yield from (_summarize(one, colour) for one in others[:_MOST_LATER])
        if len(others) > _MOST_LATER:
            yield f"  … and {len(others) - _MOST_LATER:,} more"


def _summarize(divergence: Divergence, colour: bool) -> str:
    if not divergence.differences:
        return f"  {escape(divergence.name)}: {escape(divergence.reason)}"
    shown = format_differences(divergence.differences[:1], colour, _SUMMARY_LENGTH)
    more = len(divergence.differences) - 1
    return f"  {escape(divergence.name)}: {shown[0]}{_say_more(more, 'parts')}"


def format_differences(
    differences: Sequence[Difference], colour: bool = False, length: int = _CHANGE_LENGTH
) -> list[str]:
    """Returns one line per difference; what stayed is shortened to what is near a change.

    Args:
        differences: What to show; beyond 8 of them only the number is told.
        colour: Whether what went is red and what came is green.
        length: How many characters of each change are shown.
    """
    lines = []
    for difference in differences[:_MOST_PARTS]:
        if difference.recorded is None:
            text = f"added: {_shorten(difference.asked or '', length)}"
        elif difference.asked is None:
            text = f"removed: {_shorten(difference.recorded, length)}"
        else:
            text = _format_runs(difference.words(), colour, length)
        lines.append(f"{escape(difference.part)}: {text}")
    if len(differences) > _MOST_PARTS:
        lines.append(f"… and {len(differences) - _MOST_PARTS} more parts")
    return lines


def _format_runs(runs: Runs, colour: bool, length: int) -> str:
    shown, changes = [], 0
    for index, (change, text) in enumerate(runs):
        if change == "same":
            shown.append(_shorten_same(text, index == 0, index == len(runs) - 1))
            continue
        changes += 1
        if changes > _MOST_CHANGES:
            shown.append(f" … and more changes, {len(runs) - index} in all")
            break
        begin, end, paint = _MARKS[change]
        marked = f"{begin}{_shorten(text, length)}{end}"
        shown.append(f"{paint}{marked}{_PLAIN}" if colour else marked)
    return "".join(shown)


def _shorten_same(text: str, first: bool, last: bool) -> str:
    """Keeps what is near a change: the end of a beginning, the beginning of an end."""
    head = "" if first else text[:_CONTEXT_LENGTH]
    tail = "" if last else text[-_CONTEXT_LENGTH:]
    if len(text) <= len(head) + len(tail):
        return escape(text)
    return f"{escape(head)}…{escape(tail)}"


def _shorten(text: str, length: int) -> str:
    if len(text) <= length:
        return escape(text)
    return f"{escape(text[:length])}… ({len(text):,} characters)"


def escape(text: str) -> str:
    """Returns a text that is one line and cannot steer a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    if character == "\n":
        return "⏎ "
    if character == "\t":
        return " "
    if character.isprintable() or character in _JOINERS or character == "\u3000":
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")


def _paint(text: str, colour: bool) -> str:
    return f"{_BOLD}{escape(text)}{_PLAIN}" if colour else escape(text)


def _name_some(names: Sequence[str]) -> str:
    return escape(", ".join(names[:_MOST_NAMES]))


def _say_more(number: int, what: str = "") -> str:
    if number <= 0:
        return ""
    return f", … ({number:,} more{' ' + what if what else ''})"
