"""Texts that match a regular expression, as JSON Schema's `pattern` asks for them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.refusal import Refusal

Writer: TypeAlias = Callable[[Draws], str]

TRIES = 200
MOST_REPEATS = 10_000

_DIGITS = string.digits
_WORD = string.ascii_letters + string.digits + "_"
_PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
_CATEGORIES = {
    "d": _DIGITS,
    "w": _WORD,
    "s": " ",
    "D": string.ascii_letters,
    "W": string.punctuation.replace("_", "") + " ",
    "S": string.ascii_letters + string.digits,
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}


def write_match(pattern: str, draws: Draws, low: int = 0, high: int | None = None) -> str | None:
    """Writes a text that matches, with `low` to `high` characters; None where none was found.

    Raises:
        Refusal: The pattern is not a regular expression, or uses what the
            rehearsal cannot write: look-around, back references, `\\p{…}`.
    """
    compiled = compile_pattern(pattern)
    for tried in range(TRIES):
        # Repetitions grow from try to try, up to twice what the length asks for.
        writer = _Parser(pattern, 2 + tried * 2 * low // TRIES).parse()
        text = writer(draws)
        if len(text) < low and not pattern.endswith("$"):
            text += "".join(draws.pick(string.ascii_lowercase) for _ in range(low - len(text)))
        if len(text) >= low and (high is None or len(text) <= high) and compiled.search(text):
            return text
    return None


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compiles a pattern of JSON Schema, whose named groups are spelled as in JavaScript.

    Raises:
        Refusal: It is not a regular expression.
    """
    try:
        return re.compile(re.sub(r"\(\?<(?![=!])", "(?P<", pattern))
    except re.error as error:
        raise Refusal(
            f"the pattern {pattern!r} in the schema cannot be read: {error}", code="invalid_schema"
        ) from error


class _Parser:
    """Reads a pattern once, by recursive descent, into a function that writes a match."""

    def __init__(self, pattern: str, more: int) -> None:
        self._pattern = pattern
        self._at = 0
        self._more = more
        """How often `*` and `+` repeat beyond their least."""

    def parse(self) -> Writer:
        writer = self._alternatives()
        if self._at < len(self._pattern):
            raise self._unsupported(self._pattern[self._at])
        return writer

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, text: str = "") -> bool:
        if text and not self._pattern.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise self._unsupported("an open end")
        self._at += 1
        return char

    def _unsupported(self, what: str) -> Refusal:
        return Refusal(
            f"the rehearsal cannot write a text for the pattern {self._pattern!r} "
            f"because of {what!r} at position {self._at}; give an enum or a simpler pattern",
            code="unsupported_schema",
        )

    def _alternatives(self) -> Writer:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else lambda draws: draws.pick(branches)(draws)

    def _sequence(self) -> Writer:
        parts: list[Writer] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._quantified())
        return lambda draws: "".join(part(draws) for part in parts)

    def _quantified(self) -> Writer:
        writer = self._atom()
        bounds = self._bounds()
        if bounds is None:
            return writer
        low, high = bounds
        return lambda draws: "".join(writer(draws) for _ in range(draws.between(low, high)))

    def _bounds(self) -> tuple[int, int] | None:
        counted = re.compile(r"\{(\d+)(,?)(\d*)\}").match(self._pattern, self._at)
        if counted:
            self._at = counted.end()
            low = int(counted[1])
            high = int(counted[3]) if counted[3] else low + self._more if counted[2] else low
        elif self._peek() and self._peek() in "*+?":
            mark = self._next()
            low = 1 if mark == "+" else 0
            high = 1 if mark == "?" else low + self._more
        else:
            return None
        if low > MOST_REPEATS or high < low:
            raise self._unsupported(f"{{{low},{high}}}")
        self._take("?")
        return low, min(high, low + self._more)

    def _atom(self) -> Writer:
        char = self._next()
        if char in "^$":
            return lambda draws: ""
        if char == ".":
            return lambda draws: draws.pick(string.ascii_lowercase)
        if char == "(":
            return self._group()
        if char == "[":
            members = self._members()
            return lambda draws: draws.pick(members)
        if char == "\\":
            return self._escaped()
        if char in "*+?":
            raise self._unsupported(char)
        return lambda draws: char

    def _group(self) -> Writer:
        if self._take("?") and not self._take(":"):
            named = re.compile(r"P?<(?![=!])[^>]*>").match(self._pattern, self._at)
            if named is None:
                raise self._unsupported("(?" + self._peek())
            self._at = named.end()
        writer = self._alternatives()
        if not self._take(")"):
            raise self._unsupported("an open group")
        return writer

    def _escaped(self) -> Writer:
        char = self._next()
        if char in "bB":
            return lambda draws: ""
        members = self._escaped_members(char)
        return lambda draws: draws.pick(members)

    def _escaped_members(self, char: str) -> str:
        if char in _CATEGORIES:
            return _CATEGORIES[char]
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char in "xu":
            width = 2 if char == "x" else 4
            digits = self._pattern[self._at : self._at + width]
            if re.fullmatch(rf"[0-9a-fA-F]{{{width}}}", digits):
                self._at += width
                return chr(int(digits, 16))
        if char.isalnum():
            raise self._unsupported("\\" + char)
        return char

    def _members(self) -> str:
        negated = self._take("^")
        members: list[str] = []
        first = True
        while first or self._peek() != "]":
            first = False
            low = self._member()
            if len(low) == 1 and self._peek() == "-" and self._pattern[self._at + 1 :][:1] != "]":
                self._next()
                high = self._member()
                members.extend(map(chr, range(ord(low), min(ord(high), ord(low) + 255) + 1)))
            else:
                members.extend(low)
        self._next()
        chosen = [char for char in _PRINTABLE if char not in members] if negated else members
        if not chosen:
            raise self._unsupported("an empty class")
        return "".join(chosen)

    def _member(self) -> str:
        char = self._next()
        if char != "\\":
            return char
        char = self._next()
        return "\b" if char == "b" else self._escaped_members(char)
