"""Reading the database of a store, in every state a folder can be in.

diskcache cannot open a folder without writing to it and may unpickle what it
finds, so entries are read with SQLite itself, whether or not the folder can be
written.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from pathlib import Path

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.failure import UnusableDatabase

DATABASE_NAME = "cache.db"
APPLICATION_ID = int.from_bytes(b"TTst", "big")
"""Written into the header of the database, so that another program's is not mistaken for ours."""


_SMALLEST_PAGE_BYTES = 512
_CACHE_PAGES = 2**13
_SHARED_MEMORY_BYTES = 2**15


def open_reader(path: Path, wait_seconds: float) -> sqlite3.Connection | None:
    """Opens the database for reading; returns None where there is none yet.

    The connection may be used by one thread at a time, whichever it is.

    Raises:
        UnusableDatabase: The file is not a database, or one that is damaged.
        StoreError: It belongs to another program, or may not be read.
        sqlite3.OperationalError: Another program kept it locked for all that time.
        OSError: It cannot be opened now; the system has too many open files, perhaps.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path} cannot be read: it is not a file; choose another folder")
    if status.st_size == 0:
        return None
    _check_header(path, status.st_size)
    connection = _connect(path, wait_seconds)
    try:
        ready = has_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    if ready:
        return connection
    connection.close()
    return None


def has_tables(connection: sqlite3.Connection, path: Path) -> bool:
    """Says whether the database is ours (True) or still empty (False).

    Raises:
        StoreError: It belongs to another program.
    """
    rows = connection.execute("SELECT CAST(name AS BLOB) FROM sqlite_master").fetchall()
    if not rows:
        return False
    # Looked at after the tables: both are committed at once, so where another process has just
    # made them, the mark is there too.
    ((mark,),) = connection.execute("PRAGMA application_id").fetchall()
    if mark == APPLICATION_ID and (b"Cache",) in rows:
        return True
    raise StoreError(
        f"{path} was written by another program, not by this cache of answers; "
        "choose another folder for the cache, or move that file away"
    )


def _check_header(path: Path, size_bytes: int) -> None:
    """Refuses what is no database, before SQLite changes anything.

    Opened for writing, SQLite writes over a file of a few bytes, and removes the
    log beside a file that it cannot read.
    """
    # Never by opening the file from Python: closing it again would end every lock that the
    # connections of this process hold on it (so POSIX wants it), and lose what they write.
    try:
        if size_bytes >= _SMALLEST_PAGE_BYTES:
            _connect_as(path, "mode=ro&immutable=1", 0.0).close()
            return
        reason = "it is too short"
    except sqlite3.DatabaseError as error:
        # Every other error may come from somebody who writes at this moment.
        if "not a database" not in str(error):
            return
        reason = str(error)
    raise UnusableDatabase(f"{path} is damaged as a whole: {reason}")


def _connect(path: Path, wait_seconds: float) -> sqlite3.Connection:
    try:
        return _connect_as(path, "mode=rw", wait_seconds)
    except sqlite3.OperationalError as error:
        if not os.access(path, os.R_OK):
            raise StoreError(f"{path} may not be read: check its permissions") from error
        if "locked" in str(error) or _can_write(path.parent):
            raise
    except sqlite3.DatabaseError as error:
        raise UnusableDatabase(f"{path} is damaged as a whole: {error}") from error
    # SQLite reads a database in WAL mode through a shared-memory file beside it, which it
    # cannot make in a folder that is read-only or on a disk that is full.
    log = path.with_name(path.name + "-wal")
    if not log.exists() or log.stat().st_size == 0:
        return _connect_as(path, "mode=ro&immutable=1", wait_seconds)
    # A writer was killed, and its newest entries are in the log only. Exclusive locking
    # keeps the log's index in memory; it needs a VFS without locks, because a file that is
    # opened read-only cannot be locked for writing.
    return _connect_as(path, "mode=ro&vfs=unix-none", wait_seconds, locking_mode="EXCLUSIVE")


def _connect_as(
    path: Path, parameters: str, wait_seconds: float, locking_mode: str = "NORMAL"
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?{parameters}",
        uri=True,
        timeout=wait_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.text_factory = bytes  # a planted text that is not UTF-8 must not raise
        connection.execute(f"PRAGMA locking_mode = {locking_mode}").fetchall()
        connection.execute(f"PRAGMA cache_size = {_CACHE_PAGES}").fetchall()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _can_write(folder: Path) -> bool:
    """Says whether the folder takes new files, so that reading it without locks is unsafe."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_SHARED_MEMORY_BYTES))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True
