"""Reading what Python's `repr` writes of plain data, with nothing evaluated.

`ast.literal_eval` builds a whole syntax tree first, which takes many times the
size of the text, and the standard library warns that a text can be made to
crash it. This reads texts, numbers, None, True, False, tuples, lists and
dictionaries, in one pass and to a limited depth.
"""

from __future__ import annotations

import re
from typing import TypeAlias

Scalar: TypeAlias = "bool | int | float | str | None"
Literal: TypeAlias = "Scalar | tuple[Literal, ...] | list[Literal] | dict[str, Literal]"

MAX_DEPTH = 60

_TEXT = re.compile(
    r"'(?P<single>[^'\\\n]*(?:\\.[^'\\\n]*)*)'" r'|"(?P<double>[^"\\\n]*(?:\\.[^"\\\n]*)*)"'
)
# A longer integer is no parameter of any model, and slow to read.
_NUMBER = re.compile(r"-?\d{1,40}(?P<fraction>\.\d*)?(?P<exponent>e[+-]?\d{1,5})?(?![\w.])")
_WORD = re.compile(r"(?:None|True|False)(?!\w)")
_WORDS: dict[str, Literal] = {"None": None, "True": True, "False": False}
_SPACE = re.compile(r"[ \n]*")
_CLASS = re.compile(r"<class '(?P<name>[^']{1,200})'>")
_ESCAPE = re.compile(
    r"\\(?:(?P<plain>[\\'\"nrt])|x(?P<x>[0-9a-f]{2})|u(?P<u>[0-9a-f]{4})|U(?P<U>[0-9a-f]{8})|.)"
)
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class NoLiteral(Exception):
    """The text is not the `repr` of plain data; the message says why."""


def parse_literal(text: str) -> Literal:
    """Returns the value that a `repr` stands for.

    Raises:
        NoLiteral: It is none, or one of a kind that is not plain data.
    """
    value, end = _parse(text, _skip(text, 0), 0)
    if _skip(text, end) != len(text):
        raise NoLiteral(f"it goes on after its end, at character {end}")
    return value


def _parse(text: str, start: int, depth: int) -> tuple[Literal, int]:
    if depth > MAX_DEPTH:
        raise NoLiteral(f"it is nested more than {MAX_DEPTH} deep")
    first = text[start : start + 1]
    if first in ("'", '"'):
        return _parse_text(text, start)
    if first in ("(", "["):
        return _parse_sequence(text, start, depth)
    if first == "{":
        return _parse_dictionary(text, start, depth)
    if number := _NUMBER.match(text, start):
        literal = number.group()
        return (float(literal) if _has_fraction(number) else int(literal)), number.end()
    if word := _WORD.match(text, start):
        return _WORDS[word.group()], word.end()
    raise NoLiteral(_say_what_is_there(text, start))


def _has_fraction(number: re.Match[str]) -> bool:
    return number["fraction"] is not None or number["exponent"] is not None


def _parse_text(text: str, start: int) -> tuple[str, int]:
    match = _TEXT.match(text, start)
    if match is None:
        raise NoLiteral(f"the text that begins at character {start} has no end")
    content = match["single"] if match["single"] is not None else match["double"]
    return (_ESCAPE.sub(_unescape, content) if "\\" in content else content), match.end()


def _unescape(escape: re.Match[str]) -> str:
    if plain := escape["plain"]:
        return _PLAIN.get(plain, plain)
    code = int(escape["x"] or escape["u"] or escape["U"] or "-1", 16)
    if not 0 <= code <= 0x10FFFF:
        raise NoLiteral(f"{escape.group()} is nothing that Python writes")
    return chr(code)


def _parse_sequence(text: str, start: int, depth: int) -> tuple[Literal, int]:
    closing = _CLOSING[text[start]]
    items: list[Literal] = []
    place, commas = _skip(text, start + 1), 0
    while not text.startswith(closing, place):
        item, place = _parse(text, place, depth + 1)
        items.append(item)
        place, commas = _pass_comma(text, place, closing, commas)
    if closing == "]":
        return items, place + 1
    if len(items) == 1 and not commas:
        raise NoLiteral(f"there is a value in brackets at character {start}")
    return tuple(items), place + 1


def _parse_dictionary(text: str, start: int, depth: int) -> tuple[Literal, int]:
    items: dict[str, Literal] = {}
    place, commas = _skip(text, start + 1), 0
    while not text.startswith("}", place):
        if text[place : place + 1] not in ("'", '"'):
            raise NoLiteral(f"a key of a dictionary is not text, at character {place}")
        key, place = _parse_text(text, place)
        place = _skip(text, place)
        if not text.startswith(":", place):
            raise NoLiteral(f"there is no ':' at character {place}")
        items[key], place = _parse(text, _skip(text, place + 1), depth + 1)
        place, commas = _pass_comma(text, place, "}", commas)
    return items, place + 1


def _pass_comma(text: str, place: int, closing: str, commas: int) -> tuple[int, int]:
    place = _skip(text, place)
    if text.startswith(",", place):
        return _skip(text, place + 1), commas + 1
    if not text.startswith(closing, place):
        raise NoLiteral(_say_what_is_there(text, place))
    return place, commas


def _skip(text: str, place: int) -> int:
    space = _SPACE.match(text, place)
    return space.end() if space is not None else place


def _say_what_is_there(text: str, place: int) -> str:
    if place >= len(text):
        return "it breaks off before its end"
    if named := _CLASS.match(text, place):
        return f"it names the Python class {named['name']}, and says nothing of what is in it"
    excerpt = text[place : place + 60].split("\n", 1)[0]
    return f"it holds something that is not plain data at character {place}: {excerpt!r}"
