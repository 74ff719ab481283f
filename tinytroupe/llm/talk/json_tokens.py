"""The tokens of JSON as models write it: quotes, words, numbers and comments understood."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinytroupe.llm.talk.places import Doubtful, Repairs, Unreadable


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of JSON that has no pieces."""

    kind: str
    """A bracket, a comma or a colon; else `text`, `number` or `word` (true, false, null)."""
    value: Any
    start: int
    end: int
    whole: bool = True
    """Whether the token is known to be complete: the answer does not end in it."""


def read_tokens(text: str, start: int, end: int, repairs: Repairs) -> Iterator[Token]:
    """Yields the tokens of a part of a text, one at a time; what follows is not looked at.

    Raises:
        Unreadable: The next token is nothing that could stand in JSON.
        Doubtful: A text seems to go on behind the quote that closes it.
    """
    place = _skip_space(text, start, end, repairs)
    while place < end:
        char = text[place]
        if char in _MARKS:
            token = Token(char, char, place, place + 1)
        elif char in _QUOTES:
            token = _read_text(text, place, end, repairs)
        elif number := _NUMBER.match(text, place, end):
            token = _read_number(number, text, end, repairs)
        elif word := _WORD.match(text, place, end):
            token = _read_word(word, text, end, repairs)
        else:
            raise Unreadable(f"{char!r} cannot stand here in JSON", place)
        yield token
        place = _skip_space(text, token.end, end, repairs)


_MARKS = "{}[],:"
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»"}
_SPACE = re.compile(r"(?:\s+|//[^\n]*|\#[^\n]*|/\*.*?(?:\*/|\Z)|\ufeff)*", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_STRICT_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)
_AFTER_A_NUMBER = re.compile(r"[\s,:\]}]|//|/\*|\Z")
_WORD = re.compile(r"[^\W\d][\w$-]*|\$[\w$-]*")
_KEY_MARK = re.compile(r"\s*:(?!:)")
_INSIDE = {
    closing: re.compile(rf"((?:[^{closing}\\]+|\\.)*)({closing})?", re.DOTALL)
    for closing in _QUOTES.values()
}
_CONTROL = re.compile(r"[\x00-\x1f]")

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "None", "NULL"), None),
}
_NO_NUMBERS = frozenset({"nan", "inf", "infinity"})


def _skip_space(text: str, start: int, end: int, repairs: Repairs) -> int:
    space = _SPACE.match(text, start, end)
    assert space is not None
    if space.group().strip("\ufeff \t\r\n"):
        repairs.note("a comment was left out", start)
    return space.end()


def _read_number(number: re.Match[str], text: str, end: int, repairs: Repairs) -> Token:
    start, literal = number.start(), number.group()
    if number.end() < end and not _AFTER_A_NUMBER.match(text, number.end(), end):
        raise Unreadable("a number goes on with what is no part of one", number.end())
    if not _STRICT_NUMBER.fullmatch(literal):
        if re.match(r"[-+]?0\d", literal) or not literal.isascii():
            raise Unreadable(f"{literal} is not a number in JSON", start)
        repairs.note("a number was not written as JSON writes numbers", start)
    try:
        value = int(literal) if literal.lstrip("+-").isdecimal() else float(literal)
    except ValueError as error:
        raise Unreadable(f"the number is too long: {error}", start) from error
    if not math.isfinite(value):
        raise Unreadable("the number is too large", start)
    return Token("number", value, start, number.end(), whole=number.end() < end)


def _read_word(word: re.Match[str], text: str, end: int, repairs: Repairs) -> Token:
    start, name = word.start(), word.group()
    if _KEY_MARK.match(text, word.end(), end):
        repairs.note("a key stood without quotes", start)
        return Token("text", name, start, word.end())
    if name in _WORDS:
        if name not in ("true", "false", "null"):
            repairs.note("True, False or None of Python was read as JSON's", start)
        return Token("word", _WORDS[name], start, word.end())
    if word.end() == end and any(known.startswith(name) for known in _WORDS):
        return Token("word", None, start, end, whole=False)
    if name.lower() in _NO_NUMBERS:
        raise Unreadable(f"{name} is not a number in JSON", start)
    raise Unreadable(f"the word {name[:40]!r} stands without quotes", start)


def _read_text(text: str, start: int, end: int, repairs: Repairs) -> Token:
    opening = text[start]
    inside = _INSIDE[_QUOTES[opening]].match(text, start + 1, end)
    assert inside is not None
    whole = inside.group(2) is not None
    if opening != '"':
        repairs.note("quotes of another kind were read as double ones", start)
    if whole:
        _check_what_follows(text, inside.end(), end)
    written = inside.group(1)
    if _CONTROL.search(written):
        repairs.note("a text held a line end or another character that JSON escapes", start)
    if not whole:
        written = _CUT_ESCAPE.sub(r"\1", written)
    value = _decode(written, whole)
    if opening == '"' and _FOREIGN_ESCAPE.search(written):
        repairs.note("an escape that JSON does not have was read as it seems to be meant", start)
    if value.count("\ufffd") > written.count("\ufffd"):
        repairs.note("half a character was replaced by \N{REPLACEMENT CHARACTER}", start)
    return Token("text", value, start, inside.end() if whole else end, whole)


def _check_what_follows(text: str, place: int, end: int) -> None:
    """Refuses a quote after which the text seems to go on: it may not be the closing one."""
    following = place
    while following < end and text[following].isspace():
        following += 1
    if following == end or text[following] in ",:]}":
        return
    spaced = following > place
    if spaced and (text[following] in _QUOTES or text[following] in "{[/#"):
        return
    raise Doubtful("a text goes on after its closing quote; a quote may not be escaped", place)


_ESCAPE = re.compile(
    r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})|(.))",
    re.DOTALL,
)
_CUT_ESCAPE = re.compile(
    r"(?<!\\)((?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3}|x[0-9a-fA-F]?|U[0-9a-fA-F]{0,7})?\Z"
)
_SIMPLE = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/"}


_FOREIGN_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\(?!u[0-9a-fA-F]{4}|[bfnrt\"\\/])")


def _decode(written: str, whole: bool) -> str:
    if "\\" in written:
        written = _ESCAPE.sub(_unescape, written)
    if not whole:
        written = _HIGH_AT_END.sub("", written)
    if not _SURROGATE.search(written):
        return written
    # A pair is one character; half a pair is none, and could not be written again.
    return written.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGH_AT_END = re.compile("[\ud800-\udbff]\\Z")


def _unescape(escape: re.Match[str]) -> str:
    unicode, hexadecimal, long, char = escape.groups()
    if char is None:
        return chr(int(unicode or hexadecimal or long, 16))
    if char in _SIMPLE:
        return _SIMPLE[char]
    # Before a letter the backslash itself was meant; punctuation is escaped by mistake.
    return f"\\{char}" if char.isalnum() else char
