"""One request at a time in a chat, over all processes.

Where the database locks rows, a request waits for those before it. The lock is held on a
connection of its own: what happens is committed meanwhile on the ordinary one, and a process that
dies loses its connection and with it the lock. Other databases (SQLite) lie on this machine; there
a locked file tells, and who comes second is refused at once.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import tempfile
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from django.core.files import locks
from django.db import IntegrityError, OperationalError, connections
from django.db.utils import load_backend

from tinytroupe.contrib.django.errors import ChatConflict, UnknownChat
from tinytroupe.contrib.django.models import ChatLock

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL, "Error Codes"."""

_LONGEST_LIMIT = 2**31 - 1
"""Milliseconds; PostgreSQL takes no more."""


class Lock(Protocol):
    """The right to go on with a chat. Any thread may give it back."""

    def acquire(self) -> None:
        """Takes it; blocks where the database can wait.

        Raises:
            ChatConflict: Somebody else has it, still or at all.
        """
        ...

    def release(self) -> None:
        """Gives it back; also where it was not taken, or not wholly."""
        ...

    def give_up(self) -> None:
        """Makes an `acquire` fail that waits on another thread; to be repeated until it does."""
        ...


def read_state(error: BaseException) -> str | None:
    """Returns the code by which PostgreSQL names an error; None: it has none."""
    cause = error.__cause__
    # In psycopg, and in psycopg2.
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)


def make_lock(chat_id: int, alias: str, wait_seconds: float) -> Lock:
    """Returns the lock of a chat, not yet taken. Asks the database.

    Args:
        chat_id: Which chat.
        alias: The database that has it.
        wait_seconds: How long `acquire` waits at most, where it waits.

    Raises:
        UnknownChat: The chat is not there any more.
    """
    if connections[alias].features.has_select_for_update:
        try:
            # A chat that another program made has no such row yet.
            ChatLock.objects.using(alias).get_or_create(chat_id=chat_id)
        except IntegrityError as error:
            raise UnknownChat(f"there is no chat {chat_id} any more") from error
        return _RowLock(chat_id, alias, wait_seconds)
    return _FileLock(chat_id, alias)


class _RowLock:
    def __init__(self, chat_id: int, alias: str, wait_seconds: float) -> None:
        self._chat_id = chat_id
        self._alias = alias
        self._wait_seconds = wait_seconds
        self._settings = _copy_settings(alias)
        self._connection: BaseDatabaseWrapper | None = None

    def acquire(self) -> None:
        backend = load_backend(self._settings["ENGINE"])
        connection = backend.DatabaseWrapper(self._settings, self._alias)
        self._connection = connection
        try:
            connection.set_autocommit(False)
            self._lock_row(connection)
        except OperationalError as error:
            self.release()
            if read_state(error) != LOCK_NOT_AVAILABLE:
                raise
            raise ChatConflict(
                f"other messages of chat {self._chat_id} were still being answered after "
                f"{self._wait_seconds:g} seconds (LLM_WRAPPER_LOCK_SECONDS); nothing was stored, "
                "so send this one again"
            ) from error
        except BaseException:
            self.release()
            raise

    def _lock_row(self, connection: BaseDatabaseWrapper) -> None:
        operations = connection.ops
        table = operations.quote_name(ChatLock._meta.db_table)
        column = operations.quote_name("chat_id")
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                limits = self._list_limits(connection)
                cursor.execute(
                    f"SELECT {', '.join(['set_config(%s, %s, true)'] * len(limits))}",
                    [text for limit in limits.items() for text in limit],
                )
            cursor.execute(
                f"SELECT {column} FROM {table} WHERE {column} = %s {operations.for_update_sql()}",
                [self._chat_id],
            )
            cursor.fetchall()

    def _list_limits(self, connection: Any) -> dict[str, str]:
        # A model may take longer than a site lets its other transactions run or be idle.
        off = ["statement_timeout", "idle_in_transaction_session_timeout"]
        if connection.pg_version >= 170000:
            off.append("transaction_timeout")
        milliseconds = max(int(min(self._wait_seconds * 1000, _LONGEST_LIMIT)), 1)
        return {"lock_timeout": str(milliseconds), **dict.fromkeys(off, "0")}

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.connection is not None:
            # Past Django, which lets no other thread close it, and none that has an event loop:
            # a stream may be left anywhere. Whatever is wrong, the lock ends with the connection.
            with contextlib.suppress(Exception):
                connection.connection.close()

    def give_up(self) -> None:
        connection = self._connection
        driver: Any = None if connection is None else connection.connection
        cancel = getattr(driver, "cancel_safe", None) or getattr(driver, "cancel", None)
        if cancel is not None:
            with contextlib.suppress(Exception):
                cancel()


def _copy_settings(alias: str) -> dict[str, Any]:
    """Returns what makes a connection like the ordinary one, and apart from it."""
    settings = copy.deepcopy(connections[alias].settings_dict)
    # Not of a pool: who waits there for a lock would keep out those who wait for a connection.
    settings["OPTIONS"].pop("pool", None)
    settings["ATOMIC_REQUESTS"] = False
    return settings


class _FileLock:
    def __init__(self, chat_id: int, alias: str) -> None:
        self._chat_id = chat_id
        self._path = _name_file(chat_id, alias)
        self._file: FileIO | None = None

    def acquire(self) -> None:
        while True:
            file = FileIO(self._path, opener=_open_or_make)
            if not locks.lock(file, locks.LOCK_EX | locks.LOCK_NB):
                file.close()
                self._refuse()
            if _is_at(file, self._path):
                self._file = file
                return
            # Who had it has removed the file meanwhile; another one may have the new one.
            file.close()

    def _refuse(self) -> NoReturn:
        raise ChatConflict(
            f"another message of chat {self._chat_id} is being answered at this moment; nothing "
            "was stored, so send this one again. (On PostgreSQL it would have waited its turn.)"
        )

    def release(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        # While it is still held, so that it is nobody else's. Windows removes no open files.
        with contextlib.suppress(OSError):
            self._path.unlink()
        locks.unlock(file)
        file.close()

    def give_up(self) -> None:
        """Never waits."""


def _open_or_make(path: str, flags: int) -> int:
    # For reading: what another user left who was killed can then be taken as well.
    return os.open(path, flags | os.O_CREAT, 0o666)


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _name_file(chat_id: int, alias: str) -> Path:
    connection: Any = connections[alias]
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite" and not connection.is_in_memory_db():
        # Beside the database, where SQLite itself puts its files.
        return Path(f"{Path(name).absolute()}-chat-{chat_id}.lock")
    place = f"{name} {os.getpid()}" if connection.vendor == "sqlite" else name
    digest = hashlib.sha256(place.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"tinytroupe-{digest}-chat-{chat_id}.lock")
