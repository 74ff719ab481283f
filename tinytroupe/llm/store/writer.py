"""Writing the database of a store: the only module that knows diskcache.

diskcache is used without what makes it dangerous in a folder that a stranger
may have touched: nothing is pickled or unpickled, the settings found in the
folder are thrown away unread, no file is removed because a row names it, and
nothing is ever evicted.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NoReturn, cast

import diskcache  # type: ignore[import-untyped]

from tinytroupe.llm.store.damage import MODE_RAW
from tinytroupe.llm.store.reader import APPLICATION_ID, has_tables

_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "sqlite_auto_vacuum": 0,
    "sqlite_cache_size": 2**13,
    "sqlite_journal_mode": "wal",
    # A mapped file that another process cuts short ends the program with SIGBUS.
    "sqlite_mmap_size": 0,
    # Commits survive a kill; only the log's checkpoints wait for the disk.
    "sqlite_synchronous": 1,
    "disk_min_file_size": 0,
    "disk_pickle_protocol": 0,
}


class ByteDisk(diskcache.Disk):  # type: ignore[misc]
    """Takes text for keys and bytes for values, and refuses everything else.

    Values stay inside the database whatever their size, so that one commit
    keeps or loses an entry as a whole and no row ever refers to a file.
    """

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"a key is text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> NoReturn:
        raise TypeError("keys are not read through diskcache")

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, bytes]:
        if type(value) is not bytes or read:
            raise TypeError(f"a value is bytes, not {type(value).__name__}")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: object) -> NoReturn:
        raise TypeError("values are not read through diskcache")

    def remove(self, file_path: object) -> None:
        """Removes nothing: a row that names a file was not written by this store."""


class Writer(diskcache.Cache):  # type: ignore[misc]
    """One open database for writing. May be used by one thread at a time, whichever it is."""

    def __init__(self, path: Path, wait_seconds: float) -> None:
        """Opens the database, and makes it where there is none.

        Raises:
            sqlite3.Error: It cannot be opened or written.
            StoreError: It belongs to another program.
        """
        self._connection = sqlite3.connect(
            path, timeout=wait_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            has_tables(self._connection, path)
            journal_mode = self._prepare_connection()
            self._prepare_tables(path, journal_mode)
        except BaseException:
            self._connection.close()
            raise

    def _prepare_connection(self) -> str:
        execute = self._connection.execute
        execute("PRAGMA trusted_schema = 0").fetchall()
        for name, value in _SETTINGS.items():
            if name.startswith("sqlite_") and name != "sqlite_journal_mode":
                execute(f"PRAGMA {name[7:]} = {value}").fetchall()
        for attempt in range(_JOURNAL_ATTEMPTS):
            try:
                ((mode,),) = execute("PRAGMA journal_mode = wal").fetchall()
                break
            except sqlite3.OperationalError:
                # Two processes that make the same database at once can refuse each other
                # here without SQLite waiting for its timeout; beginning to write does wait.
                if attempt == _JOURNAL_ATTEMPTS - 1:
                    raise
                execute("BEGIN IMMEDIATE")
                execute("ROLLBACK")
        return str(mode)  # still "delete" on the few file systems that cannot have a log

    def _prepare_tables(self, path: Path, journal_mode: str) -> None:
        # One transaction, so that nobody ever sees a database that is half made.
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        if has_tables(self._connection, path):
            execute(f"DELETE FROM Settings WHERE key NOT IN ({_COUNTERS})")
        execute(f"PRAGMA application_id = {APPLICATION_ID}")
        # diskcache expands variables in the path it is given and makes that folder; it
        # never needs the path, since the connection is ours and values are not files.
        settings = {**_SETTINGS, "sqlite_journal_mode": journal_mode}
        super().__init__(path.anchor, disk=ByteDisk, **settings)
        execute("COMMIT")

    @property
    def _con(self) -> sqlite3.Connection:
        # diskcache keeps a connection for each thread; those could not be closed before a fork.
        return self._connection

    @property
    def _sql_retry(self) -> object:
        # SQLite's own timeout has waited already; diskcache would go on for a minute.
        return self._connection.execute

    def close(self) -> None:
        """Does nothing: diskcache closes at the end of its construction, amid our transaction."""

    def disconnect(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def set_patience(self, wait_seconds: float) -> None:
        """Sets how long to wait for a lock that another process holds."""
        self._connection.execute(f"PRAGMA busy_timeout = {int(wait_seconds * 1000)}").fetchall()

    def write(self, key: str, value: bytes) -> None:
        """Commits a value, over an older one.

        Raises:
            sqlite3.Error: It could not be written; nothing has changed.
        """
        try:
            with self.transact():
                # An entry that is written anew goes to the end, which keeps rows in the order of
                # their age; set alone would write it in its old place.
                self.delete(key)
                self.set(key, value)
        except diskcache.Timeout as timeout:
            # diskcache gives every failure to begin this name; the true one is its context.
            raise cast(sqlite3.Error, timeout.__context__) from None

    def write_new(self, key: str, value: bytes, stored_at_seconds: float | None = None) -> bool:
        """Commits a value unless the key has one; returns whether it did.

        Args:
            key: The name of the row.
            value: What is to be kept.
            stored_at_seconds: When it was first stored, elsewhere; None: now.

        Raises:
            sqlite3.Error: It could not be written; nothing has changed.
        """
        try:
            with self.transact():
                added = bool(self.add(key, value))
                if added and stored_at_seconds is not None:
                    self._connection.execute(
                        "UPDATE Cache SET store_time = ? WHERE key = ? AND raw = 1",
                        (float(stored_at_seconds), key),
                    )
                return added
        except diskcache.Timeout as timeout:
            raise cast(sqlite3.Error, timeout.__context__) from None

    def compact(self) -> None:
        """Gives the space of removed entries back to the disk; needs as much again meanwhile.

        Raises:
            sqlite3.Error: It could not be done; nothing has changed.
        """
        self._connection.execute("VACUUM").fetchall()
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def remove_row(self, key: str) -> bool:
        """Commits the removal of a key; returns whether it was there.

        Raises:
            sqlite3.Error: It could not be removed.
        """
        cursor = self._connection.execute("DELETE FROM Cache WHERE key = ? AND raw = 1", (key,))
        return cursor.rowcount > 0

    def find_version(self, key: str) -> tuple[object, object, tuple[object, object]] | None:
        """Returns mode, value and version of a row as this connection sees it, or None.

        Raises:
            sqlite3.Error: It could not be read.
        """
        rows = self._connection.execute(
            "SELECT mode, CAST(value AS BLOB), rowid, store_time FROM Cache"
            " WHERE key = ? AND raw = 1",
            (key,),
        ).fetchall()
        return (rows[0][0], rows[0][1], rows[0][2:]) if rows else None

    def remove_version(self, version: tuple[object, object]) -> bool:
        """Commits the removal of a row, unless it has been written anew; returns whether it did.

        Raises:
            sqlite3.Error: It could not be removed.
        """
        cursor = self._connection.execute(
            "DELETE FROM Cache WHERE rowid = ? AND store_time IS ?", version
        )
        return cursor.rowcount > 0


_JOURNAL_ATTEMPTS = 20
_COUNTERS = "'count', 'size', 'hits', 'misses'"
