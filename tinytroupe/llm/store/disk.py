"""A store in a folder: every answer is on disk when `put` returns."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.damage import MODE_RAW, save_frame
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.failure import DatabaseFailed, UnusableDatabase, explain_failure
from tinytroupe.llm.store.fork import watch_forks
from tinytroupe.llm.store.frame import DamagedFrame, NewerFrame, decode_entry, encode_entry

if TYPE_CHECKING:
    from tinytroupe.llm.store.writer import Writer

logger = logging.getLogger(__name__)

_FIND = "SELECT mode, value FROM Cache WHERE key = ? AND raw = 1"
_DESCRIBE = "SELECT store_time, length(value) FROM Cache WHERE key = ? AND raw = 1"
# Keys that are not text, or pickled, were planted: this store never writes one.
_OURS = "raw = 1 AND typeof(key) = 'text'"
_COUNT = f"SELECT count(*) FROM Cache WHERE {_OURS}"
_LAST_ROW = "SELECT ifnull(max(rowid), 0) FROM Cache"
_LIST = (
    "SELECT rowid, key, store_time, length(value) FROM Cache"
    f" WHERE rowid > ? AND rowid <= ? AND {_OURS} ORDER BY rowid LIMIT 1000"
)


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """What is known of an entry without reading it."""

    key: str
    stored_at_seconds: float
    """When it was put, in seconds since 1970 (UTC)."""
    size_bytes: int
    """What it takes, header included."""


class DiskStore:
    """Keeps entries in a folder. See `Store`.

    Safe to use from many threads, from many processes of one machine at once,
    and after a fork. Nothing is opened or made before the first use. An entry
    is never evicted. What a kill, a full disk, a read-only folder and damage
    do to it is told in docs/store.md.

    Attributes:
        folder: Where the entries are, as an absolute path.
        failed_writes: Entries that could not be kept.
        damaged: Entries, and databases as a whole, that were found damaged.
    """

    local = True

    def __init__(self, folder: str | os.PathLike[str], *, wait_seconds: float = 10.0) -> None:
        """Names the folder.

        Args:
            folder: Made on first use where it does not exist; `~` is the home folder.
            wait_seconds: How long a write waits for a lock of another process before it fails.
        """
        from tinytroupe.llm.store.database import Database  # SQLite; importing this module is light

        self.folder = Path(folder).expanduser().absolute()
        self.failed_writes = 0
        self.damaged = 0
        self._wait_seconds = wait_seconds
        self._reported: set[str] = set()
        self._counting_lock = threading.Lock()
        self._database = Database(self.folder, wait_seconds)
        watch_forks(self)

    def __repr__(self) -> str:
        return f"DiskStore({str(self.folder)!r})"

    def __getstate__(self) -> tuple[Path, float]:
        return self.folder, self._wait_seconds

    def __setstate__(self, state: tuple[Path, float]) -> None:
        DiskStore.__init__(self, state[0], wait_seconds=state[1])

    def get(self, key: str) -> Entry | None:
        """Returns the entry, or None where there is none or it is damaged.

        A damaged entry is moved to the folder `damaged`, reported and counted.

        Raises:
            StoreError: The folder cannot be used at all: it is a file, cannot be
                made or read, or holds a database of another program.
        """
        try:
            rows = self._database.read(_FIND, key)
        except (DatabaseFailed, UnusableDatabase):
            rows = self._read_again(key)
        if not rows:
            return None
        ((mode, frame),) = rows
        try:
            return _decode_row(key, mode, frame)
        except DamagedFrame:
            return self._examine(key)
        except NewerFrame as newer:
            self._report_newer(newer)
            return None

    def put(self, key: str, entry: Entry) -> bool:
        """Keeps an entry, over an older one; returns whether it is safely kept.

        Blocks while others write; a lock of another process for `wait_seconds` at most.
        """
        try:
            frame = encode_entry(key, entry)
            try:
                self._database.write(lambda writer: writer.write(key, frame))
            except UnusableDatabase as damage:
                self._replace_database(damage)
                self._database.write(lambda writer: writer.write(key, frame))
        except Exception as error:  # an answer that was paid for is never lost to its store
            self._report_failed_write(error)
            return False
        return True

    def add(self, key: str, entry: Entry, stored_at_seconds: float | None = None) -> bool:
        """Keeps an entry unless there is one; returns whether it did.

        Who else puts an answer under this key at the same moment keeps theirs.

        Args:
            key: The entry's name.
            entry: What is to be kept.
            stored_at_seconds: When another store got it, in seconds since 1970; None: now.

        Raises:
            StoreError: The store cannot be written, or the entry is too large.
        """
        try:
            frame = encode_entry(key, entry)
            return self._database.write(
                lambda writer: writer.write_new(key, frame, stored_at_seconds)
            )
        except (DatabaseFailed, ValueError) as error:
            raise StoreError(f"{self.folder} could not keep {key}: {error}") from error

    def delete(self, key: str) -> bool:
        """Forgets an entry; returns whether there was one.

        Raises:
            StoreError: The store cannot be written.
        """
        if self.describe(key) is None:
            return False
        try:
            return self._database.write(lambda writer: writer.remove_row(key))
        except DatabaseFailed as error:
            raise StoreError(f"{self.folder} could not forget {key}: {error}") from error

    def describe(self, key: str) -> EntryInfo | None:
        """Returns an entry's age and size without reading it, or None where there is none.

        Raises:
            StoreError: The store cannot be read.
        """
        rows = self._read_or_raise(_DESCRIBE, key)
        return EntryInfo(key, rows[0][0], rows[0][1]) if rows else None

    def list_entries(self) -> Iterator[EntryInfo]:
        """Yields what is known of every entry, oldest first, without reading them.

        One that came from another store stands where it came in. Entries that
        are put meanwhile may be left out.

        Raises:
            StoreError: The store cannot be read.
        """
        last = self._read_or_raise(_LAST_ROW)
        rowid = 0
        while rows := self._read_or_raise(_LIST, rowid, last[0][0] if last else 0):
            for _, key, stored_at_seconds, size_bytes in rows:
                yield EntryInfo(key.decode("utf-8", "replace"), stored_at_seconds, size_bytes)
            rowid = rows[-1][0]

    def keys(self) -> Iterator[str]:
        """Yields the keys, oldest entry first. See `list_entries`.

        Raises:
            StoreError: The store cannot be read.
        """
        return (info.key for info in self.list_entries())

    def __len__(self) -> int:
        rows = self._read_or_raise(_COUNT)
        return int(rows[0][0]) if rows else 0

    def close(self) -> None:
        """Lets go of files; the store opens again by itself when it is next used."""
        self._database.close()

    def prepare_fork(self) -> None:
        """Keeps every thread out. See `watch_forks`."""
        self._database.prepare_fork()
        self._counting_lock.acquire()

    def finish_fork(self, in_child: bool) -> None:
        """Lets the threads in again."""
        self._counting_lock.release()
        self._database.finish_fork(in_child)

    def _read_again(self, key: str) -> list[Any]:
        try:
            return self._database.read(_FIND, key)
        except UnusableDatabase as damage:
            self._replace_database(damage)
        except DatabaseFailed as error:
            self._report(
                f"read {error.failure.kind}",
                f"The cache {self.folder} could not be read, so an answer may be asked for again: "
                f"{error}.",
            )
        return []

    def _read_or_raise(self, sql: str, *parameters: object) -> list[Any]:
        try:
            return self._database.read(sql, *parameters)
        except DatabaseFailed as error:
            raise StoreError(f"{self._database.path} cannot be read: {error}") from error

    def _examine(self, key: str) -> Entry | None:
        """Looks at a damaged entry afresh, and sets it aside if it is damaged indeed."""
        self._database.reopen()
        rows = self._read_again(key)
        try:
            if not rows:
                return None
            return _decode_row(key, *rows[0])
        except NewerFrame as newer:
            self._report_newer(newer)
            return None
        except DamagedFrame as damage:
            reason = str(damage)
        try:
            entry, place = self._database.write(lambda writer: self._set_aside(writer, key))
        except (DatabaseFailed, StoreError) as error:
            outcome = f"It stays there, since {error}"
        else:
            if place is None:
                return entry
            outcome = f"It was moved to {place}"
        self._report_damage(
            f"entry {key}",
            f"The answer {key} in {self._database.path} is damaged: {reason}. {outcome}; "
            "the other answers are not affected, and this one is asked for again.",
        )
        return None

    def _set_aside(self, writer: Writer, key: str) -> tuple[Entry | None, Path | None]:
        """Returns the entry if the writer sees a whole one, or where the damaged one now is."""
        row = writer.find_version(key)
        if row is None:
            return None, None  # another thread or process has done it
        mode, frame, version = row
        try:
            return _decode_row(key, mode, frame), None
        except NewerFrame:
            return None, None
        except DamagedFrame:
            place = save_frame(self.folder, key, frame)
            writer.remove_version(version)
            return None, place

    def _replace_database(self, damage: UnusableDatabase) -> None:
        """Sets aside a database that is damaged as a whole, so that a new one can be made."""
        try:
            place = self._database.replace()
            if place is None:
                return  # another thread or process has done it
            outcome = f"It was renamed to {place} and a new one is begun"
        except DatabaseFailed as error:
            outcome = f"It stays there, since {error}"
        self._report_damage(
            "database",
            f"{damage}. {outcome}. It is worth keeping, since `sqlite3 <file> .recover` can bring "
            "back what is whole in it.",
        )

    def _report_failed_write(self, error: Exception) -> None:
        with self._counting_lock:
            self.failed_writes += 1
        failure = (
            error.failure
            if isinstance(error, DatabaseFailed)
            else explain_failure(error, self.folder)
        )
        self._report(
            f"write {failure.kind}",
            f"An answer could not be kept in {self.folder}: {failure.text}. The run goes on and "
            "uses what was kept before; new answers will have to be asked for again. "
            "Further failures of this kind are only counted.",
        )

    def _report_newer(self, newer: NewerFrame) -> None:
        self._report(
            "newer",
            f"{self._database.path} holds answers that a newer version of this package wrote "
            f"({newer}). They are left as they are and asked for again; "
            "update the package to use them.",
        )

    def _report_damage(self, kind: str, message: str) -> None:
        with self._counting_lock:
            if kind not in self._reported or kind == "database":
                self.damaged += 1
        self._report(kind, message)

    def _report(self, kind: str, message: str) -> None:
        with self._counting_lock:
            known = kind in self._reported
            self._reported.add(kind)
        logger.log(logging.DEBUG if known else logging.WARNING, message)


def _decode_row(key: str, mode: object, frame: object) -> Entry:
    if mode == MODE_RAW and type(frame) is bytes:
        return decode_entry(key, frame)
    raise DamagedFrame(
        "it is kept in a form that this store never writes, such as a pickle, and was not opened"
    )
