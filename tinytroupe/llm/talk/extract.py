"""Finding what was asked for inside a model's answer: JSON, or a block of code."""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any, NoReturn, TypeAlias, cast

from tinytroupe.llm.errors import ParseError
from tinytroupe.llm.talk.places import Unreadable, find_closing, make_parse_error

Found: TypeAlias = "dict[str, Any] | list[Any]"


def extract_json(text: str) -> Found:
    """Returns the first complete JSON object or array in a text.

    Prose around it is skipped, with its brackets, as in "[sighs]" and "{name}". If the
    text does not begin with JSON itself, a fenced block that has some goes before the
    rest, and one that is marked as JSON before others. What models get wrong most often
    is put up with: line ends and tabs inside strings, and a backslash before a character
    that needs none.

    What is broken or cut short is an error: neither is an empty object returned in its
    place, nor a smaller one found inside it. NaN and the infinities are not JSON.

    Raises:
        ParseError: There is no JSON, or it cannot be read; the message shows the place.
    """
    if not isinstance(text, str):
        raise ParseError(f"JSON is looked for in text, not in a {type(text).__name__}")
    if not text.lstrip().startswith(("{", "[")):
        for block in sorted(_FENCED.finditer(text), key=lambda block: not _is_json(block)):
            try:
                value = _find_value(text, block.start("inside"), block.end("inside"))
            except ParseError:
                if _is_json(block):
                    raise
            else:
                if value is not None:
                    return value
    value = _find_value(text, 0, len(text))
    if value is None:
        nothing = Unreadable(f"there is no JSON in the answer, which begins with {text[:80]!r}")
        raise make_parse_error(text, "JSON", nothing)
    return value


def extract_code_block(text: str) -> str:
    """Returns the first block of code in a text with its fences, or "" if there is none.

    A block ends at as many backticks as it begins with, at least three. As in TinyTroupe,
    the fences and the name of the language are returned with the code.
    """
    block = _BLOCK.search(text)
    return block.group() if block else ""


_FENCED = re.compile(
    r"^[ \t]*(?P<marks>```+)(?P<language>[^\n`]*)\n(?P<inside>.*?)^[ \t]*(?P=marks)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_BLOCK = re.compile(r"(?P<marks>```+)(?!`).*?(?<!`)(?P=marks)(?!`)", re.DOTALL)
_BRACKET = re.compile(r"[{\[]")
_BEGINS_JSON = re.compile(
    r"""\{\s*(?:["}]|\Z) | \[\s*(?:["{\[\]\d-]|true|false|null|NaN|Infinity|\Z)""", re.VERBOSE
)
_TEXT_OR_OBJECT = re.compile(r'["{]')
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


def _is_json(block: re.Match[str]) -> bool:
    return block["language"].strip().lower().startswith("json")


class _Refused(ValueError):
    """A number that Python reads and JSON does not have."""

    def __init__(self, literal: str) -> None:
        super().__init__(f"{literal} is not a number in JSON")
        self.literal = literal


def _find_value(text: str, start: int, end: int) -> Found | None:
    """Returns the first value that begins in a part of a text, or None if none does."""
    part = text[:end]
    skipped = None
    while bracket := _BRACKET.search(part, start):
        place = bracket.start()
        if _BEGINS_JSON.match(part, place):
            try:
                return _decode(part, place)
            except ParseError:
                if not _is_plain_list(part, place):
                    raise
        closing = find_closing(part, place, end)
        if closing is None:
            return _decode(part, place)
        skipped = place if skipped is None else skipped
        start = closing
    # Where nothing can be read, the error is that of the first attempt.
    return None if skipped is None else _decode(part, skipped)


def _decode(text: str, start: int) -> Found:
    try:
        return cast(Found, _DECODER.raw_decode(text, start)[0])
    except json.JSONDecodeError as error:
        if error.msg.startswith("Invalid \\"):
            repaired = _ESCAPE.sub(_repair_escape, text[start:])
            with contextlib.suppress(ValueError, RecursionError):
                return cast(Found, _DECODER.raw_decode(repaired)[0])
        raise _explain(text, error.pos, error.msg) from error
    except _Refused as error:
        raise _explain(text, text.find(error.literal, start), str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _explain(text, start, str(error)) from error


def _is_plain_list(text: str, start: int) -> bool:
    """Tells times, dates and references in prose, as in "[12:30]", from JSON that is broken:
    they begin as a list may, but have neither texts nor objects in them."""
    closing = find_closing(text, start, len(text))
    if text[start] != "[" or closing is None:
        return False
    return not _TEXT_OR_OBJECT.search(text, start, closing)


def _repair_escape(escape: re.Match[str]) -> str:
    escaped = escape.group(1)
    if len(escaped) > 1 or escaped in '"\\/bfnrt':
        return escape.group()
    # Punctuation is escaped by mistake; before a letter the backslash itself was meant.
    return "\\\\" + escaped if escaped.isalnum() else escaped


def _explain(text: str, place: int, reason: str) -> ParseError:
    return make_parse_error(text, "JSON", Unreadable(f"it cannot be read: {reason}", place))


def _refuse(literal: str) -> NoReturn:
    raise _Refused(literal)


def _parse_float(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise _Refused(literal)
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_parse_float, strict=False)
