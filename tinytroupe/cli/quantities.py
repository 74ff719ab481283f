"""Ages and sizes as people write and read them."""

from __future__ import annotations

import argparse
import re
from datetime import datetime

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(min|[smhdwy])", re.IGNORECASE)
_AGE_SECONDS = {
    "s": 1,
    "min": 60,
    "m": 60,
    "h": 3600,
    "d": 86_400,
    "w": 7 * 86_400,
    "y": 365 * 86_400,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_SIZE_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_age(text: str) -> float:
    """Returns the seconds of an age such as `30d`, `12h` or `90min`.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no age; write 90min, 12h, 30d, 8w or 1y, for example"
        )
    return float(match[1]) * _AGE_SECONDS[match[2].lower()]


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as `2GB` (decimal) or `500MiB` (binary).

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 500MB or 2GB, for example")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** _SIZE_POWERS[match[2].upper()])


def parse_count(text: str) -> int:
    """Returns a whole number from 0 on.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def show_age(seconds: float) -> str:
    """Writes an age in its largest whole unit: `3 d`."""
    for unit in ("y", "w", "d", "h", "min"):
        # Weeks are only read: `17 d` tells more than `2 w`.
        if unit != "w" and seconds >= _AGE_SECONDS[unit]:
            return f"{int(seconds // _AGE_SECONDS[unit])} {unit}"
    return f"{max(int(seconds), 0)} s"


def show_size(size_bytes: float) -> str:
    """Writes a size with two or three digits: `1.2 MB`."""
    units = ["TB", "GB", "MB", "kB", "B"]
    while size_bytes >= 1000 and len(units) > 1:
        size_bytes /= 1000
        units.pop()
    digits = 0 if size_bytes >= 10 or units[-1] == "B" else 1
    return f"{size_bytes:.{digits}f} {units[-1]}"


def show_time(seconds: float | None) -> str:
    """Writes a moment, given in seconds since 1970, in the local time."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
