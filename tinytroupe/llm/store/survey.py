"""Looking through a store without changing it, and removing what is no longer wanted.

`DiskStore.get` sets a damaged entry aside, as a running simulation needs it;
who looks at another's store, or checks their own, wants it left as it is.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.damage import DAMAGED_FOLDER, MODE_RAW
from tinytroupe.llm.store.database import Database
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.failure import DatabaseFailed
from tinytroupe.llm.store.frame import DamagedFrame, decode_entry
from tinytroupe.llm.store.reader import DATABASE_NAME

_OURS = "raw = 1 AND typeof(key) = 'text' AND typeof(store_time) = 'real'"
# By their age, which is not the order of the rows where some came from another store.
_ORDER = f"SELECT rowid FROM Cache WHERE {_OURS} ORDER BY store_time {{order}}, rowid {{order}}"
_LIST = (
    "SELECT rowid, CAST(key AS BLOB), store_time, length(value) FROM Cache"
    f" WHERE {_OURS} AND rowid IN ({{numbers}})"
)
_READ = (
    "SELECT mode, typeof(value), CAST(value AS BLOB) FROM Cache WHERE rowid = ? AND store_time IS ?"
)
_TOTAL = (
    "SELECT count(*), ifnull(sum(length(value)), 0), min(store_time),"
    f" max(store_time) FROM Cache WHERE {_OURS}"
)
_FOREIGN = f"SELECT count(*) FROM Cache WHERE NOT ({_OURS})"
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as far as it is known without reading it."""

    number: int
    key: str
    stored_at_seconds: float
    """When it was put, in seconds since 1970 (UTC)."""
    size_bytes: int
    """What it takes, header included."""


@dataclass(frozen=True, slots=True)
class Total:
    """All entries together."""

    entries: int
    size_bytes: int
    oldest_seconds: float | None
    """When the oldest was put, in seconds since 1970 (UTC); None: there are none."""
    newest_seconds: float | None


class Survey:
    """Looks through the store of a folder, while others may use it.

    Args:
        folder: Where the store is.
        wait_seconds: How long to wait for a lock of another process.

    Raises:
        StoreError: There is no store in that folder.
    """

    def __init__(self, folder: str | Path, *, wait_seconds: float = 10.0) -> None:
        self.folder = Path(folder).expanduser().absolute()
        if not (self.folder / DATABASE_NAME).is_file():
            raise StoreError(
                f"there is no cache in {self.folder}; name the folder of one with --store"
                if self.folder.is_dir() or not self.folder.exists()
                else f"{self.folder} is a file, and a cache is a folder"
            )
        self._database = Database(self.folder, wait_seconds)

    def sum_up(self) -> Total:
        """Returns how many entries there are, and how large and old.

        Raises:
            StoreError: The store cannot be read.
        """
        rows = self._read(_TOTAL)
        return Total(*rows[0]) if rows else Total(0, 0, None, None)

    def list_rows(self, *, newest_first: bool = False) -> Iterator[Row]:
        """Yields every entry, oldest first unless told otherwise, without reading it.

        Entries that are put meanwhile may be left out.

        Raises:
            StoreError: The store cannot be read.
        """
        order = "DESC" if newest_first else "ASC"
        numbers = array("q", (row[0] for row in self._read(_ORDER.format(order=order))))
        for start in range(0, len(numbers), _BATCH):
            batch = numbers[start : start + _BATCH]
            listed = self._read(_LIST.format(numbers=",".join(map(str, batch))))
            by_number = {row[0]: row[1:] for row in listed}
            for number in batch:
                if number in by_number:
                    key, stored_at_seconds, size_bytes = by_number[number]
                    yield Row(number, key.decode("utf-8", "replace"), stored_at_seconds, size_bytes)

    def read(self, row: Row) -> Entry | None:
        """Returns the entry; None: it was removed or written anew meanwhile.

        Raises:
            DamagedFrame: It is damaged; it stays where it is.
            NewerFrame: A newer version of this package wrote it.
            StoreError: The store cannot be read.
        """
        rows = self._read(_READ, row.number, row.stored_at_seconds)
        if not rows:
            return None
        ((mode, kind, frame),) = rows
        if mode != MODE_RAW or kind != b"blob":
            raise DamagedFrame(
                "it is kept in a form that this store never writes, such as a pickle"
            )
        return decode_entry(row.key, frame)

    def remove(self, row: Row) -> bool:
        """Forgets an entry, unless it was written anew meanwhile; returns whether it did.

        Raises:
            StoreError: The store cannot be written.
        """
        version = row.number, row.stored_at_seconds
        return bool(self._write(lambda writer: writer.remove_version(version)))

    def compact(self) -> None:
        """Gives the space of removed entries back to the disk.

        Raises:
            StoreError: It cannot be done now, as when others write or the disk is full.
        """
        self._write(lambda writer: writer.compact())

    def check_database(self) -> Iterator[str]:
        """Yields what is wrong with the database as a whole, and with rows that are not entries.

        Raises:
            StoreError: The store cannot be read.
        """
        for (text,) in self._read("PRAGMA integrity_check"):
            if text != b"ok":
                yield f"{DATABASE_NAME}: {text.decode('utf-8', 'replace')}"
        rows = self._read(_FOREIGN)
        if rows and rows[0][0]:
            yield (
                f"{DATABASE_NAME}: rows that this store never writes: {rows[0][0]}; "
                "they are never read"
            )

    def measure_files(self) -> int:
        """Returns the bytes of all files in the folder."""
        sizes = 0
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # SQLite's log comes and goes
                sizes += path.stat().st_size if path.is_file() else 0
        return sizes

    def find_stray_files(self) -> Iterator[tuple[Path, str]]:
        """Yields files in the folder that no entry needs, and what each is."""
        own = {DATABASE_NAME + suffix for suffix in ("", "-wal", "-shm", "-journal")}
        for path in sorted(self.folder.rglob("*")):
            if path.is_dir() or (path.parent == self.folder and path.name in own):
                continue
            if path.parent == self.folder / DAMAGED_FOLDER:
                yield path, "an entry that was set aside because it is damaged"
            elif path.name.startswith(f"{DATABASE_NAME}.damaged-"):
                yield path, "a database that was set aside because it is damaged"
            else:
                yield path, "a file that no entry belongs to"

    def close(self) -> None:
        """Lets go of the files."""
        self._database.close()

    def _read(self, sql: str, *parameters: object) -> list[Any]:
        try:
            return self._database.read(sql, *parameters)
        except DatabaseFailed as error:
            raise StoreError(f"{self._database.path} cannot be read: {error}") from error

    def _write(self, work: Callable[[Any], Any]) -> Any:
        try:
            return self._database.write(work)
        except (DatabaseFailed, sqlite3.Error) as error:
            raise StoreError(f"{self._database.path} cannot be written: {error}") from error
