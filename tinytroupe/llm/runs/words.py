"""A text and its successor, word by word, in bounded time however long they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from tinytroupe.llm.runs.alignment import Effort, align, count_common_end, count_common_start

Change: TypeAlias = Literal["same", "removed", "added"]
Runs: TypeAlias = list[tuple[Change, str]]

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_WORD_OR_LINE = re.compile(r"\w|\n")
_LONGEST_WORD = 100
_MOST_CHARACTERS = 400_000


def compare_words(recorded: str, asked: str) -> Runs:
    """Returns a text and its successor as runs of words that stayed, went, or came.

    What stayed and what went are together the one text, what stayed and what
    came the other. Where texts of thousands of words have little in common,
    they are compared line by line, and in the end as a whole.
    """
    start, end = _find_common_ends(recorded, asked)
    one, two = recorded[start : len(recorded) - end], asked[start : len(asked) - end]
    runs: Runs = [("same", recorded[:start])]
    runs += _compare_middle(one, two)
    runs.append(("same", recorded[len(recorded) - end :]))
    return _join(runs)


def split_words(text: str) -> list[str]:
    """Returns words, spaces and signs; joined they are the text."""
    return _WORDS.findall(text)


def _find_common_ends(one: str, two: str) -> tuple[int, int]:
    """Returns how much both texts begin and end with, in whole words."""
    start = count_common_start(one, two)
    for _ in range(_LONGEST_WORD):
        if not (_cuts_word(one, start) or _cuts_word(two, start)):
            break
        start -= 1
    end = count_common_end(one, two, start)
    for _ in range(_LONGEST_WORD):
        if not (_cuts_word(one, len(one) - end) or _cuts_word(two, len(two) - end)):
            break
        end -= 1
    return start, end


def _cuts_word(text: str, place: int) -> bool:
    if not 0 < place < len(text):
        return False
    return _WORDS.fullmatch(text, place - 1, place + 1) is not None


def _compare_middle(one: str, two: str) -> Iterator[tuple[Change, str]]:
    effort = Effort()
    if len(one) + len(two) <= _MOST_CHARACTERS:
        runs = _compare_parts(split_words(one), split_words(two), effort)
        if runs is not None:
            yield from runs
            return
    effort = Effort()
    lines, other_lines = one.splitlines(keepends=True), two.splitlines(keepends=True)
    blocks = align(lines, other_lines, effort)
    if blocks is None:
        yield "removed", one
        yield "added", two
        return
    for block in blocks:
        gone = "".join(lines[block.start : block.stop])
        if block.same:
            yield "same", gone
            continue
        came = "".join(other_lines[block.other_start : block.other_stop])
        parts: Runs | None = None
        if len(gone) + len(came) <= _MOST_CHARACTERS and effort.steps > 0:
            parts = _compare_parts(split_words(gone), split_words(came), effort)
        whole: Runs = [("removed", gone), ("added", came)]
        yield from whole if parts is None else parts


def _compare_parts(one: list[str], two: list[str], effort: Effort) -> Runs | None:
    blocks = align(one, two, effort)
    if blocks is None:
        return None
    runs: Runs = []
    for block in blocks:
        if block.same:
            runs.append(("same", "".join(one[block.start : block.stop])))
        else:
            runs.append(("removed", "".join(one[block.start : block.stop])))
            runs.append(("added", "".join(two[block.other_start : block.other_stop])))
    return runs


def _join(runs: Runs) -> Runs:
    """Puts neighbours together: in each stretch that changed first what went, then what came."""
    stretches: list[list[str]] = []
    for change, text in runs:
        if not text:
            continue
        changed = change != "same"
        if not stretches or (len(stretches[-1]) == 2) != changed:
            stretches.append(["", ""] if changed else [""])
        stretches[-1][1 if change == "added" else 0] += text
    joined: list[list[str]] = []
    for index, stretch in enumerate(stretches):
        if _is_lone_sign(stretch) and 0 < index < len(stretches) - 1:
            # Two changed words are read more easily together than with a comma between them.
            stretch = stretch * 2
        if len(stretch) == 2 and joined and len(joined[-1]) == 2:
            joined[-1] = [joined[-1][0] + stretch[0], joined[-1][1] + stretch[1]]
        else:
            joined.append(stretch)
    return [run for stretch in joined for run in _name(stretch)]


def _is_lone_sign(stretch: list[str]) -> bool:
    text = stretch[0]
    return len(stretch) == 1 and len(text) <= 2 and _WORD_OR_LINE.search(text) is None


def _name(stretch: list[str]) -> Runs:
    if len(stretch) == 1:
        return [("same", stretch[0])]
    gone, came = stretch
    runs: Runs = [("removed", gone), ("added", came)]
    return [run for run in runs if run[1]]
