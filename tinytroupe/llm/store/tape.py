"""The recording of one run: an append-only file, one self-contained JSON line per event.

Each line ends with a hash over itself and the hash of the line before, so a
tape that was changed by hand or by accident is noticed, and where. A line is
written with one `write`, so a killed process loses at most its last event.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakMethod

import orjson

from tinytroupe.llm.errors import StoreError

logger = logging.getLogger(__name__)

TAPE_FORMAT = 1
"""Raised when an older reader could not make sense of the lines."""

_BEGINNING = b'{"event":"header",'
_HASH_LENGTH = 32
_TAIL_START = b',"hash":"'
_TAIL_LENGTH = len(_TAIL_START) + _HASH_LENGTH + len(b'"}\n')


def seal(event: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    """Returns the line of an event, and the hash that the next line builds on."""
    try:
        body = orjson.dumps(event)
    except TypeError:
        body = orjson.dumps(_clean(event))
    digest = _hash(body, previous)
    return b"".join((body[:-1], _TAIL_START, digest.encode(), b'"}\n')), digest


def _clean(value: Any) -> Any:
    """Returns a value that can be written: text without halves of characters, the rest as text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_clean(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, orjson.Fragment)):
        return value
    return _clean(repr(value))


def _hash(body: bytes, previous: str) -> str:
    return hashlib.sha256(previous.encode() + body).hexdigest()[:_HASH_LENGTH]


def _unseal(line: bytes) -> tuple[bytes, str]:
    """Returns what a line holds without its hash, and the hash; empty where it has none."""
    tail = line[-_TAIL_LENGTH:]
    if not tail.startswith(_TAIL_START) or not tail.endswith(b'"}\n'):
        return line, ""
    return line[:-_TAIL_LENGTH] + b"}", tail[len(_TAIL_START) : -3].decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class Line:
    """One event as it stands on the tape."""

    number: int
    """From 1: the header's."""
    offset: int
    length: int
    event: dict[str, Any]
    intact: bool
    """Whether its hash fits the line and those before it."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What reading a tape from its beginning found."""

    size_bytes: int
    """Up to the end of the last whole line."""
    last_hash: str
    cut: bool
    """Whether the last line is not whole: its event is lost."""


class TapeReader:
    """Reads a tape's lines in order.

    Raises:
        StoreError: There is no such file, it is empty, or it is no tape of ours.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.content = self.path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"there is no tape at {self.path}") from None
        except OSError as error:
            raise StoreError(f"the tape {self.path} cannot be read: {error}") from error
        self.scan = Scan(0, "", False)
        self.header = self._read_header()

    def _read_header(self) -> dict[str, Any]:
        if not self.content:
            raise StoreError(f"the tape {self.path} is empty: nothing was recorded")
        end = self.content.find(b"\n")
        if end < 0 and self.content.startswith(_BEGINNING[: len(self.content)]):
            raise StoreError(f"the tape {self.path} was cut before its first event")
        try:
            header = orjson.loads(self.content[: max(end, 0)])
            version = int(header["format"]) if header["event"] == "header" else None
        except (ValueError, KeyError, TypeError):
            version = None
        if version is None:
            raise StoreError(f"{self.path} is not a tape: its first line is not the header of one")
        if version > TAPE_FORMAT:
            raise StoreError(
                f"the tape {self.path} has format {version} and this version reads up to "
                f"{TAPE_FORMAT}; it was recorded by tinytroupe {header.get('tinytroupe')}: "
                "install that version or a newer one"
            )
        return dict(header)

    def lines(self) -> Iterator[Line]:
        """Yields every whole line; afterwards `scan` tells how the tape ends."""
        previous, offset, number = "", 0, 0
        content, size = self.content, len(self.content)
        while offset < size:
            end = content.find(b"\n", offset) + 1
            if not end:
                break
            number += 1
            body, claimed = _unseal(content[offset:end])
            try:
                event = orjson.loads(body) if claimed == _hash(body, previous) else None
            except ValueError:
                event = None
            if not isinstance(event, dict):
                event = None
            yield Line(number, offset, end - offset, event or {}, event is not None)
            previous, offset = claimed, end
        self.scan = Scan(offset, previous, offset < size)

    def read(self, offset: int, length: int) -> dict[str, Any]:
        """Returns the event of a line again."""
        body, _ = _unseal(self.content[offset : offset + length])
        return dict(orjson.loads(body))

    def verify(self) -> list[int]:
        """Returns the numbers of the lines that were changed; empty for a tape as recorded."""
        return [line.number for line in self.lines() if not line.intact]


class TapeWriter:
    """Appends events to a tape. Safe to use from many threads, of one process.

    A write that fails (a full disk) takes back what it wrote of its line, is
    reported once, and ends the recording: the tape stays readable.

    Args:
        path: The file. Its folder is created.
        header: The facts of the run, written first.
        resume: Go on with an existing tape instead of refusing it.

    Raises:
        StoreError: The tape exists and is not to be resumed, another process
            records into it, or it cannot be written.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.failed = False
        """Whether recording ended because the tape could not be written."""
        self.header: Mapping[str, Any] = header
        """The facts of the run: of the one that began the tape, where it is resumed."""
        self._lock = Lock()
        self._open = True
        self._forked = False
        self._hash = ""
        self._size = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise StoreError(f"the tape {self.path} cannot be written: {error}") from error
        try:
            self._claim(resume)
            self._begin(header)
        except BaseException:
            os.close(self._file)
            raise
        _watch_forks(self)

    def _claim(self, resume: bool) -> None:
        if not self._lock_file():
            raise StoreError(
                f"another process is recording into the tape {self.path}; give this run a tape of "
                "its own"
            )
        if os.fstat(self._file).st_size and not resume:
            raise StoreError(
                f"the tape {self.path} exists already and is not overwritten; choose another "
                "path, or resume it to go on where it ends"
            )

    def _lock_file(self) -> bool:
        """Returns whether nobody else records into the file, as far as that can be told."""
        try:
            import fcntl
        except ImportError:  # Windows has no flock; there two recorders are not told apart.
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # Nor are they on network file systems that know no locks.
            return True
        return True

    def _begin(self, header: Mapping[str, Any]) -> None:
        if not os.fstat(self._file).st_size:
            if not self.append({"event": "header", "format": TAPE_FORMAT, **header}):
                raise StoreError(f"the tape {self.path} cannot be written")
            return
        reader = TapeReader(self.path)
        damaged = reader.verify()
        if damaged:
            raise StoreError(
                f"line {damaged[0]} of the tape {self.path} was changed after it was recorded, "
                "so it cannot be resumed"
            )
        if reader.scan.cut:
            logger.warning("The last event of the tape %s was cut and is taken off", self.path)
            os.ftruncate(self._file, reader.scan.size_bytes)
        self._hash, self._size = reader.scan.last_hash, reader.scan.size_bytes
        self.header = reader.header
        self.append({"event": "resumed", **header})

    @property
    def draws(self) -> str:
        """What keeps the draws of this run apart from all others; empty where they are shared.

        A fork is there to go on differently, so the store's answers are not for it.
        """
        return str(self.header["id"]) if self.header.get("mode") == "fork" else ""

    def append(self, event: Mapping[str, Any]) -> bool:
        """Writes one event; returns whether it is on the tape. Blocks for one `write`."""
        if self._forked:
            # A forked child has a chain of hashes of its own; its lines would not fit.
            self._say_forked()
            return False
        with self._lock:
            if self.failed or not self._open:
                return False
            line, digest = seal(event, self._hash)
            try:
                written = os.write(self._file, line)
                if written < len(line):
                    raise OSError(f"only {written} of {len(line)} bytes could be written")
            except OSError as error:
                self._give_up(error)
                return False
            self._hash = digest
            self._size += len(line)
            return True

    def _leave_to_parent(self) -> None:
        self._forked, self._lock = True, Lock()

    def _say_forked(self) -> None:
        with self._lock:
            told, self.failed = self.failed, True
        if not told:
            logger.warning(
                "Process %d was forked from the one that records into the tape %s; its calls are "
                "not on the tape",
                os.getpid(),
                self.path,
            )

    def _give_up(self, error: OSError) -> None:
        self.failed = True
        # Where not even this is possible, the half line is what a reader takes for a cut.
        with suppress(OSError):
            os.ftruncate(self._file, self._size)
        logger.error(
            "Recording stopped: the tape %s cannot be written (%s). The simulation goes on; "
            "the tape holds everything before this moment",
            self.path,
            error,
        )

    def close(self) -> None:
        """Lets go of the file. Closing twice does nothing."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._file)


def _watch_forks(writer: TapeWriter) -> None:
    # Asking for the process's number at each event would cost a system call.
    if hasattr(os, "register_at_fork"):
        leave = WeakMethod(writer._leave_to_parent)
        os.register_at_fork(after_in_child=lambda: (method := leave()) and method())
