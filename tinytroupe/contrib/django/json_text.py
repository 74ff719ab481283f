"""JSON that people write and read: what is wrong with it, and where; and a spelling for the eye."""

from __future__ import annotations

import json
import re
from typing import Any

from tinytroupe.contrib.django.history import is_unstorable
from tinytroupe.llm.talk.json_reading import read_json_strictly
from tinytroupe.llm.talk.json_tokens import Token, read_tokens
from tinytroupe.llm.talk.places import Repairs, Unreadable, find_line


class FaultyJSON(ValueError):
    """A text is not JSON, or JSON that cannot be stored.

    Attributes:
        reason: What is wrong.
        line: Where, from 1; None: the text as a whole.
        column: Where in the line, from 1; None: the text as a whole.
    """

    def __init__(self, reason: str, place: tuple[int, int] | None) -> None:
        line, column = place or (None, None)
        super().__init__(reason if line is None else f"line {line}, column {column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column


def parse_json(text: str) -> Any:
    """Reads JSON as strictly as the strictest database does.

    Raises:
        FaultyJSON: It is none, a key stands twice in an object, a number is too
            large, or a text holds NUL or half a character.
    """
    # Forms send CRLF; the columns are the same, and places count as the reader sees them.
    text = text.replace("\r\n", "\n")
    try:
        value = read_json_strictly(text)
        _check_texts(text)
    except Unreadable as error:
        place = error.place if error.place is not None else _find_refused(text)
        raise FaultyJSON(error.reason, None if place is None else find_line(text, place)) from error
    return value


def format_json(value: object) -> str:
    """Returns JSON with a line for each member; what has no JSON form is shown as Python does."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2, default=repr)
    except RecursionError:
        # Without indents Python writes as deep as it reads.
        text = json.dumps(value, ensure_ascii=False, default=repr)
    # No page can hold half a character, but its escape.
    return _SURROGATE.sub(lambda half: f"\\u{ord(half.group()):04x}", text)


_SURROGATE = re.compile("[\ud800-\udfff]")
_NUL = re.compile(r"\\u0000")


def _check_texts(text: str) -> None:
    if _NUL.search(text) and (place := _find_refused(text)) is not None:
        raise Unreadable("a text holds the character NUL, which databases cannot store", place)


def _find_refused(text: str) -> int | None:
    """Returns where something stands that JSON's grammar has, or Python's reader takes."""
    written: list[set[str]] = []
    before: Token | None = None
    try:
        for token in read_tokens(text, 0, len(text), Repairs(text)):
            if token.kind in "{[":
                written.append(set())
            elif token.kind in "}]":
                written.pop()
            elif token.kind == ":" and before is not None:
                if before.value in written[-1]:
                    return before.start
                written[-1].add(before.value)
            elif token.kind == "text" and _is_refused(text[token.start : token.end]):
                return token.start
            before = token
    except Unreadable as error:
        return error.place
    return None


def _is_refused(literal: str) -> bool:
    return any(map(is_unstorable, json.loads(literal)))
