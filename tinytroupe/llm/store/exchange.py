"""Entries as lines of JSON, for taking them elsewhere: docs/cache-tools.md has the format.

A line gives answer and request as JSON, for people and programs to read. An
answer is kept as the endpoint spelled it, though, with its spaces and line
ends; where the compact spelling of the JSON is not that, the line has the exact
text as well, so that reading it gives back the very same bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import orjson

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.entry import Entry

FORMAT = 1
"""Raised when an older reader could not make sense of the lines."""

KIND = "cache entry"

_NO_JSON = object()


class DamagedLine(Exception):
    """The line is not an entry as it was written; the message says why."""


class NewerFormat(StoreError):
    """A newer version of this package wrote the lines."""


def write_line(key: str, entry: Entry, stored_at_seconds: float) -> bytes:
    """Returns the line of an entry, with its line end.

    Args:
        key: The entry's name in the store.
        entry: Answer and request.
        stored_at_seconds: When it was kept, in seconds since 1970 (UTC).
    """
    parts = dict(zip(_PARTS, _split(entry), strict=True))
    line: dict[str, Any] = {
        "tinytroupe": KIND,
        "format": FORMAT,
        "key": key,
        "stored_at": _write_time(stored_at_seconds),
    }
    exact = {}
    for name, content in parts.items():
        value, spelling = _tell(content)
        line[name] = value
        if spelling is not None:
            exact[name] = spelling
    if exact:
        line["exact"] = exact
    line["sha256"] = _hash(key, entry)
    return orjson.dumps(line) + b"\n"


@dataclass(frozen=True, slots=True)
class Exported:
    """An entry that was read from a line."""

    key: str
    entry: Entry
    stored_at_seconds: float
    """When it was kept where it comes from, in seconds since 1970 (UTC)."""


def read_line(line: bytes) -> Exported:
    """Returns the entry of a line.

    Raises:
        DamagedLine: It is not a line that `write_line` wrote, or was changed since.
        NewerFormat: It is one of a newer format.
    """
    try:
        fields = orjson.loads(line)
    except ValueError:
        raise DamagedLine("it is not JSON, or only a part of it") from None
    if not isinstance(fields, dict) or fields.get("tinytroupe") != KIND:
        raise DamagedLine("it is JSON, but not an entry of a cache")
    _check_format(fields.get("format"))
    key, exact = fields.get("key"), fields.get("exact", {})
    if not isinstance(key, str) or not key or not isinstance(exact, dict):
        raise DamagedLine("it has no key")
    facts, response, request = (_restore(fields, exact, name) for name in _PARTS)
    entry = Entry(facts + b"\n" + response if facts else response, request)
    if fields.get("sha256") != _hash(key, entry):
        raise DamagedLine("it was changed since it was written: its checksum does not match")
    return Exported(key, entry, _read_time(fields.get("stored_at")))


_PARTS = ("facts", "response", "request")


def _split(entry: Entry) -> tuple[bytes, bytes, bytes]:
    facts, separator, response = entry.record.partition(b"\n")
    if not separator or not facts:
        return b"", entry.record, entry.request
    return facts, response, entry.request


def _tell(content: bytes) -> tuple[Any, str | dict[str, str] | None]:
    """Returns the content as JSON, None where it is none, and its exact spelling where needed."""
    try:
        value = orjson.loads(content)
    except ValueError:
        value = _NO_JSON
    else:
        if orjson.dumps(value) == content:
            return value, None
    try:
        return (None if value is _NO_JSON else value), content.decode()
    except UnicodeDecodeError:
        return None, {"base64": base64.b64encode(content).decode()}


def _restore(fields: dict[str, Any], exact: dict[str, Any], name: str) -> bytes:
    if name not in fields:
        raise DamagedLine(f"it has no {name}")
    spelling = exact.get(name)
    if spelling is None:
        return orjson.dumps(fields[name])
    if isinstance(spelling, str):
        return spelling.encode()
    try:
        return base64.b64decode(spelling["base64"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise DamagedLine(f"the exact form of its {name} cannot be read") from None


def _check_format(number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise DamagedLine("it does not say which format it has")
    if number > FORMAT:
        raise NewerFormat(
            f"format {number} was written by a newer version of tinytroupe, and this one reads "
            f"up to format {FORMAT}; update it: pip install --upgrade tinytroupe"
        )


def _hash(key: str, entry: Entry) -> str:
    parts = (key.encode(), entry.record, entry.request)
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()


def _write_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")


def _read_time(text: object) -> float:
    try:
        time = datetime.fromisoformat(text if isinstance(text, str) else "")
        return time.replace(tzinfo=time.tzinfo or timezone.utc).timestamp()
    except (ValueError, OverflowError):
        raise DamagedLine("it does not say when it was stored") from None
