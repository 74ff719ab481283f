"""Saying what ails a database, and what to do about it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from tinytroupe.llm.errors import StoreError


class UnusableDatabase(StoreError):
    """The database file as a whole cannot be read as one."""


class Failure(NamedTuple):
    """Why a database could not be read or written."""

    kind: str
    """One word, so that the same trouble is reported once."""
    text: str
    """What happened and what to do."""


class DatabaseFailed(Exception):
    """A database could not be read or written this time."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


_FULL = Failure("full", "the disk is full; free some space and the store goes on by itself")
_READ_ONLY = Failure(
    "read-only",
    "the folder cannot be written; check its permissions and whether its disk is mounted read-only",
)
LOCKED = Failure(
    "locked",
    "another program keeps the database locked; close what has it open, "
    "an SQLite browser or a backup perhaps",
)
_MALFORMED = Failure(
    "malformed",
    "a part of the database is damaged; what can still be read is still used. "
    "To start a new one, end all programs that use it and rename cache.db; "
    "the old one is worth keeping, since `sqlite3 cache.db .recover` brings back what is whole",
)

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)
_TOO_LITTLE_BYTES = 2**20


def explain_failure(error: BaseException, folder: Path) -> Failure:
    """Names the reason behind an error of SQLite or of the file system."""
    import sqlite3

    while isinstance(error.__context__, sqlite3.Error):
        error = error.__context__  # what went wrong, when a failed rollback hides it
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if not isinstance(error, sqlite3.Error):
        return Failure(type(error).__name__, str(error) or repr(error))
    text = str(error)
    if "locked" in text or "busy" in text:
        return LOCKED
    if type(error) is sqlite3.DatabaseError:
        return _MALFORMED  # Python's name for SQLITE_CORRUPT and SQLITE_NOTADB only
    if "full" in text or _has_no_space(folder):
        return _FULL
    if "readonly" in text or not os.access(folder, os.W_OK):
        return _READ_ONLY
    if "I/O error" in text:
        return Failure(
            "refused",
            f"the system refused to write ({text}); "
            "check the disk, its quota, and the limit on file sizes (ulimit -f)",
        )
    if "unable to open" in text:
        return _explain_unopened()
    return Failure(text, text)


def _explain_os_error(error: OSError) -> Failure:
    if error.errno in _FULL_ERRNOS:
        return _FULL
    if error.errno in _READ_ONLY_ERRNOS:
        return _READ_ONLY
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _explain_unopened()
    return Failure(f"errno {error.errno}", str(error))


def _explain_unopened() -> Failure:
    return Failure(
        "unopened",
        "a file of the database could not be opened; check the permissions of the files, "
        "and whether too many files are open (ulimit -n)",
    )


def _has_no_space(folder: Path) -> bool:
    # SQLite calls it an I/O error when its shared memory cannot be written to a full disk.
    import shutil

    try:
        return shutil.disk_usage(folder).free < _TOO_LITTLE_BYTES
    except OSError:
        return False
