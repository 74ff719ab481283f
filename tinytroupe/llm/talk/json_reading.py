"""JSON in answers: finding it, and reading it strictly or as models really write it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from tinytroupe.llm.talk.json_repairs import Found, guess_value, read_value
from tinytroupe.llm.talk.places import Doubtful, Repairs, Unreadable, blank_thoughts, find_closing


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says."""

    value: Any
    repairs: tuple[str, ...] = ()
    """What had to be put right, a sentence each; empty where the answer was as it should be."""


def read_json_strictly(text: str) -> Any:
    """Reads a text that is JSON (RFC 8259) and nothing else.

    Refused are also a key that stands twice in an object, NaN and the
    infinities, numbers too large for a float, and halves of characters: readers
    of JSON differ in what they make of them.

    Raises:
        Unreadable: It is not such a text.
    """
    try:
        value = _DECODER.decode(text)
        _check_characters(text, value)
    except (ValueError, RecursionError) as error:
        raise _explain(error) from error
    return value


def read_json(text: str, *, objects_only: bool = False) -> Reading:
    """Reads the first JSON value in an answer, put right where it is certain what was meant.

    Args:
        text: The answer, which may have prose and fences around the JSON.
        objects_only: Whether a list in prose, as in "see [1]", is passed over.

    Raises:
        Unreadable: There is no JSON, or it cannot be told what was meant. Never
            is an empty value returned in its place, nor a smaller one from inside.
    """
    try:
        return Reading(read_json_strictly(text))
    except Unreadable:
        text = blank_thoughts(text)
        found, repairs = _find(text, objects_only)
    around = [
        _FENCE_LINE.sub("", part).strip() for part in (text[: found.start], text[found.end :])
    ]
    if any(around):
        before, after = map(len, around)
        repairs.note(
            f"text around the JSON was left out: {before} characters before it, {after} after it",
            found.start,
        )
    return Reading(found.value, repairs.tell())


class _Refused(ValueError):
    """Something that Python's reader takes and JSON does not have."""


def _explain(error: ValueError | RecursionError) -> Unreadable:
    if isinstance(error, json.JSONDecodeError):
        return Unreadable(f"this is not JSON: {error.msg}", error.pos)
    if isinstance(error, RecursionError):
        return Unreadable("it is nested too deeply")
    return Unreadable(str(error))


def _check_characters(text: str, value: Any) -> None:
    if not _MAY_BE_HALF.search(text):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _Refused("a text holds half a character, an unpaired surrogate") from None


def _refuse(literal: str) -> NoReturn:
    raise _Refused(f"{literal} is not a number in JSON")


def _parse_float(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise _Refused(f"the number {literal[:40]} is too large")
    return value


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"the key {twice[:40]!r} stands twice in one object")
    return members


_DECODER = json.JSONDecoder(
    parse_constant=_refuse, parse_float=_parse_float, object_pairs_hook=_make_object
)
_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")

_FENCE = re.compile(
    r"^[ \t]*(?P<marks>```+|~~~+)(?P<language>[^\n`]*)\n(?P<inside>.*?)"
    r"(?:^[ \t]*(?P=marks)[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_FENCE_LINE = re.compile(r"^[ \t]*(?:```+|~~~+)[^\n`]*$|```+\s*\Z", re.MULTILINE)
_BRACKET = re.compile(r"[{\[]")
_GAP = r"(?:\s|//[^\n]*\n|\#[^\n]*\n|/\*.*?\*/)*"
_BEGINS_JSON = re.compile(
    rf"""\{{{_GAP}(?:["'“}}]|[\w$-]+\s*:|\Z)
    | \[{_GAP}(?:["'“{{\[\]\d.+-]|(?i:true|false|null|none)\b|nan|infinity|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_SURELY_BEGINS_JSON = re.compile(rf"""\{{{_GAP}["'“]|\[{_GAP}["'“{{]""", re.DOTALL)


def _find(text: str, objects_only: bool) -> tuple[Found, Repairs]:
    """Returns the first value and how it was put right; fenced ones go before those in prose."""
    if not text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        for block in sorted(_FENCE.finditer(text), key=lambda block: not _is_json(block)):
            try:
                found = _search(text, block.start("inside"), block.end("inside"), objects_only)
            except Unreadable:
                if _is_json(block):
                    raise
            else:
                if found is not None:
                    return found
    found = _search(text, 0, len(text), objects_only)
    if found is None:
        raise Unreadable(f"there is no JSON in the answer, which begins with {text[:80]!r}")
    return found


def _is_json(block: re.Match[str]) -> bool:
    return block["language"].strip().lower().startswith("json")


def _search(text: str, start: int, end: int, objects_only: bool) -> tuple[Found, Repairs] | None:
    """Returns the first value that begins in a part of a text, or None if none does."""
    failure: Unreadable | None = None
    passed: tuple[Found, Repairs] | None = None
    place = start
    while bracket := _BRACKET.search(text, place, end):
        place = bracket.start()
        if not _BEGINS_JSON.match(text, place, end):
            # A bracket of prose, as in "[sighs]" and "{name}".
            place += 1
            continue
        try:
            found = _read_at(text, place, end)
        except Unreadable as error:
            if _SURELY_BEGINS_JSON.match(text, place, end):
                raise
            failure = failure or error
            place = find_closing(text, place, end) or end
            continue
        alone = not text[start:place].strip()
        if alone or not _is_aside(found[0].value, objects_only):
            return found
        passed = passed or found
        place = found[0].end
    if passed is None and failure is not None:
        raise failure
    return passed


def _read_at(text: str, start: int, end: int) -> tuple[Found, Repairs]:
    """Reads the value at a place: strictly, else put right, else as it is guessed to be meant."""
    repairs = Repairs(text)
    part = text[start:end]
    try:
        value, length = _DECODER.raw_decode(part)
        _check_characters(part[:length], value)
    except (ValueError, RecursionError):
        pass
    else:
        return Found(value, start, start + length), repairs
    try:
        return read_value(text, start, end, repairs), repairs
    except Doubtful:
        guessing = Repairs(text)
        found = None
        if _SURELY_BEGINS_JSON.match(text, start, end):
            found = guess_value(text, start, end, guessing)
        if found is None:
            raise
        return found, guessing


def _is_aside(value: Any, objects_only: bool) -> bool:
    """Tells references, times and the like in prose, as in "see [1]", from what was asked for."""
    if isinstance(value, dict):
        return not value
    return objects_only or not any(isinstance(item, (str, dict, list)) for item in value)
