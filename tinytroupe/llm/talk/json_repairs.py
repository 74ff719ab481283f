"""Values from JSON as models write it: commas, closing brackets and cut ends put right.

What is certain is read here, token by token. Only what is left, such as quotes
that were not escaped, is given to `json-repair`, and its reading is taken only
if it kept all that the model wrote: by itself it loses empty lists behind
comments and unpaired keys without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tinytroupe.llm.talk.json_tokens import Token, read_tokens
from tinytroupe.llm.talk.places import Doubtful, Repairs, Unreadable

LONGEST_GUESS = 100_000
"""Characters that `json-repair` is given at most: its time grows faster than the text."""


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON value in a text."""

    value: Any
    start: int
    end: int
    cut: bool = False
    """Whether the text ended before the value did."""


def read_value(text: str, start: int, end: int, repairs: Repairs) -> Found:
    """Reads the value that begins at a place.

    Raises:
        Unreadable: It cannot be told what is meant, or so little is there that nothing is left.
        Doubtful: The same, and a guess may tell.
    """
    reader = _Reader(text, start, end, repairs)
    try:
        value = reader.read_value()
    except RecursionError as error:
        raise Unreadable("it is nested too deeply", start) from error
    if value is _NOTHING:
        raise Unreadable("the answer ends before anything of it is complete", start)
    if reader.cut:
        repairs.note(
            "the answer ends too early: what was incomplete there is shortened or left out", end
        )
    return Found(value, start, reader.end, reader.cut)


class _Nothing:
    """The type of what stands for a value that the cut end of an answer left incomplete."""


_NOTHING: Final = _Nothing()


class _Reader:
    """Builds a value from tokens."""

    def __init__(self, text: str, start: int, end: int, repairs: Repairs) -> None:
        self.cut = False
        self.end = start
        self._tokens: Iterator[Token] = read_tokens(text, start, end, repairs)
        self._ahead: Token | None = None
        self._repairs = repairs

    def read_value(self) -> Any:
        token = self._take()
        if token is None:
            return _NOTHING
        if token.kind == "[":
            return self._read_array()
        if token.kind == "{":
            return self._read_object()
        if token.kind not in ("text", "number", "word"):
            raise Doubtful(f"a value is missing in front of {token.value!r}", token.start)
        # Half a text is worth having; half a number is another number.
        worth = token.whole or (token.kind == "text" and token.value)
        return token.value if worth else _NOTHING

    def _read_array(self) -> Any:
        items: list[Any] = []
        for _ in self._each_member("]"):
            value = self.read_value()
            if value is not _NOTHING:
                items.append(value)
        return _NOTHING if self.cut and not items else items

    def _read_object(self) -> Any:
        members: dict[str, Any] = {}
        for _ in self._each_member("}"):
            key = self._take()
            assert key is not None
            if not key.whole or not self._take_colon(key):
                break
            value = self.read_value()
            if value is not _NOTHING:
                self._add(members, key, value)
        return _NOTHING if self.cut and not members else members

    def _each_member(self, closing: str) -> Iterator[None]:
        """Goes past commas up to the closing bracket, stopping at the beginning of each member."""
        comma: Token | None = None
        first = True
        while (token := self._peek()) is not None:
            if token.kind == closing:
                if comma is not None:
                    self._repairs.note("a comma before a closing bracket was left out", comma.start)
                self._take()
                return
            if token.kind == ",":
                if comma is not None or first:
                    raise Unreadable("a value is missing in front of a comma", token.start)
                comma = self._take()
                continue
            if comma is None and not first:
                self._repairs.note("a missing comma was put in", token.start)
            comma, first = None, False
            yield
            if self.cut:
                return

    def _take_colon(self, key: Token) -> bool:
        """Goes past the colon behind a key; False where the answer ends there."""
        if key.kind not in ("text", "number"):
            raise Doubtful(f"a key was expected, not {key.value!r}", key.start)
        if key.kind == "number":
            self._repairs.note("a key stood without quotes", key.start)
        colon = self._take()
        if colon is not None and colon.kind != ":":
            raise Doubtful(f"the key {str(key.value)[:40]!r} has no colon behind it", colon.start)
        return colon is not None and self._peek() is not None

    def _add(self, members: dict[str, Any], key: Token, value: Any) -> None:
        name = key.value if isinstance(key.value, str) else json.dumps(key.value)
        if name in members:
            self._repairs.note(
                f"the key {name[:40]!r} stood twice in one object; the last counts", key.start
            )
        members[name] = value

    def _peek(self) -> Token | None:
        if self._ahead is None:
            self._ahead = next(self._tokens, None)
            # Nobody looks behind the last bracket, so tokens are missing wherever there is none.
            self.cut = self.cut or self._ahead is None
        return self._ahead

    def _take(self) -> Token | None:
        token = self._peek()
        self._ahead = None
        if token is not None:
            self.cut = self.cut or not token.whole
            self.end = token.end
        return token


def guess_value(text: str, start: int, end: int, repairs: Repairs) -> Found | None:
    """Lets `json-repair` read what nothing is certain of; None where it lost or added something.

    What is read ends with the last closing bracket of its kind; without one nothing is guessed.
    """
    last = text.rfind("}" if text[start] == "{" else "]", start, end) + 1
    if not start < last <= start + LONGEST_GUESS or text[last:end].lstrip().startswith(","):
        return None
    import json_repair

    written = text[start:last]
    try:
        value = json_repair.loads(written)
        spelled = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except Exception:
        # Whatever it stumbles over, the error to tell is the one that came before.
        return None
    if not isinstance(value, (dict, list)) or not value or not _keeps_all(spelled, written):
        return None
    repairs.note("the JSON is broken; json-repair's reading of it, a guess, was taken", start)
    return Found(value, start, last)


_BETWEEN = re.compile(r"\\(?:[nrtbf\"'/\\]|u[0-9a-fA-F]{4})|[\s\"'“”,:}\]]+")


def _keeps_all(spelled: str, written: str) -> bool:
    """Tells whether a repair lost and added nothing that counts: no empty texts either."""
    empty = spelled.count('""') <= written.count('""') + written.count("''")
    return empty and _fold(spelled) == _fold(written)


def _fold(written: str) -> str:
    """Leaves out what a repair may change: space, quotes, commas, colons, closing brackets."""
    return _BETWEEN.sub(_decode, written)


def _decode(found: re.Match[str]) -> str:
    return chr(int(found.group()[2:], 16)) if found.group().startswith("\\u") else ""
