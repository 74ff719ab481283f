"""The database of a store: opened late, shared by threads, closed for a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.damage import move_database
from tinytroupe.llm.store.failure import (
    LOCKED,
    DatabaseFailed,
    UnusableDatabase,
    explain_failure,
)
from tinytroupe.llm.store.reader import DATABASE_NAME, open_reader

if TYPE_CHECKING:
    from tinytroupe.llm.store.writer import Writer

T = TypeVar("T")

_SHORT_WAIT_SECONDS = 1.0


class Database:
    """A database in a folder, with one connection to read and one to write.

    Each serves one thread at a time: with a connection for each thread there
    would be no moment to close them all before a fork. Reading never waits for
    writing. Nothing is opened before it is used; what is dropped or closed is
    opened again.
    """

    def __init__(self, folder: Path, wait_seconds: float) -> None:
        self.path = folder / DATABASE_NAME
        self._wait_seconds = wait_seconds
        self._patience_seconds = wait_seconds
        self._reader: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._written_file: tuple[int, int] | None = None
        self._make_locks()

    def __del__(self) -> None:
        # Python would close them as well, and since 3.13 complain that nobody else did.
        with suppress(Exception):
            self._drop_connections()

    def read(self, sql: str, *parameters: object) -> list[Any]:
        """Returns the rows of a query; none where there is no database yet.

        Raises:
            StoreError: The folder cannot be used at all.
            UnusableDatabase: The database is damaged as a whole.
            DatabaseFailed: The query failed this time.
        """
        with self._reading_lock:
            try:
                reader = self._reader or self._open_reader()
                return reader.execute(sql, parameters).fetchall() if reader else []
            except (sqlite3.Error, OSError) as error:
                self._drop_reader()
                raise self._explain(error) from error

    def write(self, work: Callable[[Writer], T]) -> T:
        """Does some work with the writer, and returns what it returns.

        Other threads wait for their turn; a lock of another process is waited for as long
        as `wait_seconds` says, and after it has lasted that long, for a second at most.

        Raises:
            StoreError: The folder cannot be used at all.
            UnusableDatabase: The database is damaged as a whole.
            DatabaseFailed: It cannot be opened or written, or stayed locked.
        """
        with self._writing_lock:
            try:
                writer = self._open_writer()
                result = work(writer)
                if self._patience_seconds != self._wait_seconds:
                    self._patience_seconds = self._wait_seconds
                    writer.set_patience(self._wait_seconds)
            except BaseException as error:
                # After any failure, Ctrl-C included, the connection may be amid a transaction
                # that holds the lock against every other process.
                self._drop_writer()
                if isinstance(error, (sqlite3.Error, OSError)):
                    raise self._explain(error) from error
                raise
            return result

    def reopen(self) -> None:
        """Has the next query see the files as they are now."""
        with self._reading_lock:
            self._drop_reader()

    def replace(self) -> Path | None:
        """Renames a database that is damaged as a whole, so that a new one can be made.

        Returns:
            The new name; None when the database is usable after all.

        Raises:
            StoreError: The folder cannot be used at all.
            DatabaseFailed: It cannot be renamed.
        """
        with self._writing_lock, self._reading_lock:
            self._drop_connections()
            try:
                self._open_reader()
            except UnusableDatabase:
                # Another process that finds the same at the same moment could rename our new
                # one; it would be kept all the same, under the next number.
                return self._move()
            except (sqlite3.Error, OSError) as error:
                raise self._explain(error) from error
            return None

    def close(self) -> None:
        """Lets go of the files."""
        with self._writing_lock, self._reading_lock:
            self._drop_connections()

    def prepare_fork(self) -> None:
        """Closes the connections and keeps every thread out."""
        self._writing_lock.acquire()
        self._reading_lock.acquire()
        self._drop_connections()

    def finish_fork(self, in_child: bool) -> None:
        """Lets the threads in again."""
        if in_child:
            self._make_locks()  # whoever waited for the old ones does not exist here
        else:
            self._reading_lock.release()
            self._writing_lock.release()

    def _explain(self, error: Exception) -> DatabaseFailed:
        failure = explain_failure(error, self.path.parent)
        if failure == LOCKED:
            # Whoever keeps it locked may do so for long; not every call shall wait as long.
            self._patience_seconds = min(_SHORT_WAIT_SECONDS, self._wait_seconds)
        return DatabaseFailed(failure)

    def _move(self) -> Path:
        try:
            return move_database(self.path)
        except OSError as error:
            raise self._explain(error) from error

    def _make_locks(self) -> None:
        # Who needs both takes writing first. Reentrant, for a signal handler that uses the
        # store amid a use of it.
        self._writing_lock = threading.RLock()
        self._reading_lock = threading.RLock()

    def _open_reader(self) -> sqlite3.Connection | None:
        make_folder(self.path.parent)
        self._reader = open_reader(self.path, self._patience_seconds)
        return self._reader

    def _open_writer(self) -> Writer:
        # A database that was moved or deleted while it is open still takes writes, and
        # loses them; so its place is looked at before each.
        if self._writer is not None and self._written_file == _identify(self.path):
            return self._writer
        from tinytroupe.llm.store.writer import Writer

        with self._reading_lock:
            self._drop_connections()
            self._open_reader()
            self._writer = Writer(self.path, self._patience_seconds)
            self._written_file = _identify(self.path)
            return self._writer

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with suppress(sqlite3.Error):
                reader.close()

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(sqlite3.Error):
                writer.disconnect()

    def _drop_connections(self) -> None:
        self._drop_writer()
        self._drop_reader()


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def make_folder(folder: Path) -> None:
    """Makes the folder of a store where there is none.

    Raises:
        StoreError: It is a file, or cannot be made.
    """
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StoreError(_explain_file(folder)) from error
    except OSError as error:
        raise StoreError(
            f"the folder {folder} for the cache cannot be made ({error.strerror}); "
            "choose another place, or make the folder yourself"
        ) from error


def _explain_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError:
        start = b""
    # Pickles of protocol 2 and later begin with the opcode PROTO and its number.
    if path.suffix in (".pickle", ".pkl") or (start[:1] == b"\x80" and start[1:] <= b"\x05"):
        name = path.with_suffix("") if path.suffix else path.with_name(path.name + "_answers")
        return (
            f"{path} is a file, the cache of an older TinyTroupe it seems. It is not read, because "
            "a pickle can run any program that someone hid in it. The cache is a folder now: "
            f"give it another name, {name} for example. `tinytroupe cache import {path.name}` "
            "takes the answers over, and runs nothing"
        )
    return f"{path} is a file, but the cache is kept in a folder: give it another name"
