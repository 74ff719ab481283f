"""Where in an answer something is wrong, said so that a person finds it."""

from __future__ import annotations

import re

from tinytroupe.llm.errors import ParseError

_BESIDE = 40
"""Characters of the answer that are shown before and after the place."""


class Unreadable(Exception):
    """A part of an answer cannot be read; the parser says of what answer, and what it wanted.

    Attributes:
        reason: What is wrong.
        place: The index of the character where it is; None: the answer as a whole.
    """

    def __init__(self, reason: str, place: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = place


class Doubtful(Unreadable):
    """What was read so far may have been misread: a quote that ends no text, a bracket too many."""


def find_line(text: str, place: int) -> tuple[int, int]:
    """Returns the line and the column of a place, both from 1."""
    return text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)


def make_parse_error(text: str, wanted: str, unreadable: Unreadable) -> ParseError:
    """Makes the error that names what was wanted and shows the place."""
    message = f"wanted {wanted}, but {unreadable.reason}"
    if unreadable.place is None:
        return ParseError(message, wanted=wanted, answer=text)
    line, column = find_line(text, unreadable.place)
    before = text[max(unreadable.place - _BESIDE, 0) : unreadable.place]
    excerpt = f"{before}▸{text[unreadable.place : unreadable.place + _BESIDE]}"
    return ParseError(
        f"{message}; see line {line}, column {column}: {excerpt!r}",
        wanted=wanted,
        place=(line, column),
        excerpt=excerpt,
        answer=text,
    )


class Repairs:
    """What was put right in an answer, and where first."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._places: dict[str, list[int]] = {}

    def note(self, sentence: str, place: int) -> None:
        """Remembers that something was put right at a place."""
        self._places.setdefault(sentence, []).append(place)

    def tell(self) -> tuple[str, ...]:
        """Returns one sentence for each kind of repair, in the order of their first places."""
        return tuple(
            f"{sentence} ({self._describe(places)})" for sentence, places in self._places.items()
        )

    def _describe(self, places: list[int]) -> str:
        line, _ = find_line(self._text, places[0])
        return f"line {line}" if len(places) == 1 else f"line {line}, {len(places)} times in all"


_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_NO_LINE_END = re.compile(r"[^\n]")


def blank_thoughts(text: str) -> str:
    """Puts spaces in place of what a model thinks aloud before it answers; places stay the same.

    Servers without a parser for reasoning leave it in the text, between `<think>` and `</think>`.
    """
    return _THOUGHTS.sub(lambda thoughts: _NO_LINE_END.sub(" ", thoughts.group()), text)


def find_closing(text: str, start: int, end: int) -> int | None:
    """Returns where the brackets end that begin at a place, or None if they never do.

    Counts brackets only, as prose has no strings; JSON is read by what knows better.
    """
    depth = 0
    for bracket in _PAIRS[text[start]].finditer(text, start, end):
        depth += 1 if bracket.group() == text[start] else -1
        if depth == 0:
            return bracket.end()
    return None


_PAIRS = {"{": re.compile(r"[{}]"), "[": re.compile(r"[\[\]]")}
