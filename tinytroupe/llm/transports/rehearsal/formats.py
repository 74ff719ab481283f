"""Texts for the string properties of a schema: by pattern, by format, by name, by length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.hearing import Heard
from tinytroupe.llm.transports.rehearsal.patterns import write_match
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.speech import write_phrase, write_sentences
from tinytroupe.llm.transports.rehearsal.vocabulary import NAMES, PLACES

LONGEST_TEXT = 1_000_000


def write_text(schema: Mapping[str, Any], name: str, heard: Heard, draws: Draws) -> str | None:
    """Writes a text for the property `name`; None where none was found.

    Raises:
        Refusal: The pattern cannot be written, or the text would be longer than a million.
    """
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if low > LONGEST_TEXT:
        raise Refusal(
            f"the schema asks for a text of at least {low} characters; "
            f"the rehearsal writes at most {LONGEST_TEXT}",
            code="unsupported_schema",
        )
    if "pattern" in schema:
        return write_match(schema["pattern"], draws, low, high)
    writer = _FORMATS.get(schema.get("format", ""))
    if writer is not None:
        return writer(draws)
    return _fit(_write_by_name(name, heard, draws), low, high, heard, draws)


def _write_by_name(name: str, heard: Heard, draws: Draws) -> str:
    parts = name.lower().replace("-", "_").split("_")
    if "name" in parts:
        return heard.name or draws.pick(NAMES)
    if parts[-1] in ("city", "town", "place", "location"):
        return draws.pick(PLACES)
    if parts[-1] == "email":
        return _write_email(draws)
    if parts[-1] in _SHORT or parts[-1].rstrip("s") in _SHORT:
        return write_phrase(heard, draws)
    return write_sentences(heard, draws, draws.between(1, 2))


_SHORT = {
    *("title", "label", "topic", "tag", "word", "keyword", "category", "subject", "key"),
    *("theme", "item", "target", "unit"),
}


def _fit(text: str, low: int, high: int | None, heard: Heard, draws: Draws) -> str:
    while len(text) < low:
        # Padding by one sentence at a time: a longest minimum would take 30,000 of them.
        sentence = write_sentences(heard, draws, 1) + " "
        text += " " + sentence * max(1, (low - len(text)) // len(sentence))
    if high is None or len(text) <= high:
        return text
    shortened = text[:high].rsplit(" ", 1)[0].rstrip(" ,;:")
    return shortened if len(shortened) >= max(low, 1) else text[:high]


def _write_digits(draws: Draws, count: int) -> str:
    return "".join(str(draws.below(10)) for _ in range(count))


def _write_hex(draws: Draws, count: int) -> str:
    return "".join("0123456789abcdef"[draws.below(16)] for _ in range(count))


def _write_date(draws: Draws) -> str:
    return f"20{draws.between(10, 39)}-{draws.between(1, 12):02}-{draws.between(1, 28):02}"


def _write_time(draws: Draws) -> str:
    return f"{draws.below(24):02}:{draws.below(60):02}:{draws.below(60):02}Z"


def _write_email(draws: Draws) -> str:
    return f"{draws.pick(NAMES).lower().replace(' ', '.')}@example.org"


def _write_uuid(draws: Draws) -> str:
    # Version 4, variant 1 (RFC 9562, section 5.4).
    parts = (8, "-", 4, "-4", 3, "-" + "89ab"[draws.below(4)], 3, "-", 12)
    return "".join(_write_hex(draws, part) if isinstance(part, int) else part for part in parts)


def _write_duration(draws: Draws) -> str:
    return f"P{draws.between(1, 30)}DT{draws.below(24)}H"


_FORMATS: dict[str, Callable[[Draws], str]] = {
    "date": _write_date,
    "time": _write_time,
    "date-time": lambda draws: f"{_write_date(draws)}T{_write_time(draws)}",
    "duration": _write_duration,
    "email": _write_email,
    "idn-email": _write_email,
    "uuid": _write_uuid,
    "uri": lambda draws: f"https://example.org/{_write_hex(draws, 8)}",
    "url": lambda draws: f"https://example.org/{_write_hex(draws, 8)}",
    "uri-reference": lambda draws: f"/{_write_hex(draws, 8)}",
    "iri": lambda draws: f"https://example.org/{_write_hex(draws, 8)}",
    "hostname": lambda draws: f"{_write_hex(draws, 6)}.example.org",
    "ipv4": lambda draws: f"192.0.2.{draws.between(1, 254)}",
    "ipv6": lambda draws: f"2001:db8::{_write_hex(draws, 4).lstrip('0') or '1'}",
    "binary": lambda draws: _write_hex(draws, 8),
    "byte": lambda draws: _write_hex(draws, 8),
}
"""Any other format is, as the specification has it, a remark without consequences."""
