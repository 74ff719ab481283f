"""A real PostgreSQL for tests: a server of their own, in a folder that is thrown away."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

SUPERUSER = "tests"

# Nobody's data: what a crash of the machine loses does not matter, and tests wait less.
OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "120",
    "shared_buffers": "32MB",
}

# Runs a server until its own standard input ends: however the tests end, they leave none behind.
UNTIL_INPUT_ENDS = """
exec 3<&0
"$@" 3<&- & server=$!
{ cat <&3 >/dev/null; kill -QUIT $server; } & watch=$!
wait $server; ended=$?
kill $watch
exit $ended
"""


class PostgresFailed(Exception):
    """The server or its folder could not be made; the message has what it said."""


def find_binaries() -> Path | None:
    """Returns the folder with `initdb` and `postgres`, the newest there is, or None."""
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(installed, key=lambda path: float(path.parts[-3]), default=None)
    if newest is None:
        on_path = shutil.which("initdb")
        newest = Path(on_path).resolve() if on_path else None
    if newest is None or not (newest.parent / "postgres").is_file():
        return None
    return newest.parent


class PostgresServer:
    """A running server.

    Args:
        binaries: The folder with `initdb` and `postgres`.

    Raises:
        PostgresFailed: It did not start.
    """

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._user = _find_user()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        try:
            self._make_cluster()
            self.port, self._process = self._start_on_a_free_port()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Returns a connection without transactions, past Django."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=SUPERUSER,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def make_database(self, name: str) -> dict[str, Any]:
        """Makes an empty database; returns how Django's settings describe it."""
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": SUPERUSER,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
        }

    def close(self) -> None:
        """Ends the server and throws its folder away."""
        _end(self._process)
        shutil.rmtree(self._folder)

    def _make_cluster(self) -> None:
        if self._user is not None:
            os.chown(self._folder, self._user, -1)
        command = ["initdb", "-D", "data", "-U", SUPERUSER, "-A", "trust", "-E", "UTF8"]
        made = subprocess.run(
            [self._binaries / command[0], *command[1:], "--locale=C", "--no-sync"],
            **self._under_its_own_user(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if made.returncode:
            raise PostgresFailed(f"initdb failed: {made.stdout}")

    def _start_on_a_free_port(self) -> tuple[int, subprocess.Popen[bytes]]:
        for _ in range(5):
            port = _find_free_port()
            process = self._start(port)
            if self._is_ready(port, process):
                return port, process
            # Somebody else may have taken the port in between.
            _end(process)
        log = (self._folder / "log").read_text(encoding="utf-8", errors="replace")
        raise PostgresFailed(f"postgres did not start: {log[-2000:]}")

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        options = [f"-c{name}={value}" for name, value in OPTIONS.items()]
        with open(self._folder / "log", "ab") as log:
            server = [str(self._binaries / "postgres"), "-D", "data", "-p", str(port), *options]
            return subprocess.Popen(
                ["sh", "-c", UNTIL_INPUT_ENDS, "sh", *server],
                **self._under_its_own_user(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the tests, which then end the server.
                start_new_session=True,
            )

    def _under_its_own_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": self._folder}
        group = pwd.getpwuid(self._user).pw_gid
        return {"cwd": self._folder, "user": self._user, "group": group, "extra_groups": []}

    def _is_ready(self, port: int, process: subprocess.Popen[bytes]) -> bool:
        until = time.monotonic() + 30
        self.port = port
        while process.poll() is None and time.monotonic() < until:
            try:
                with self.connect() as connection:
                    found = connection.execute("SHOW data_directory").fetchone()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return found == (str(self._folder / "data"),)
        return False


def _find_user() -> int | None:
    """Returns who runs the server, which root may not; None: the one who runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise PostgresFailed(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody"
    )


def _find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server at once; connections that are still open are cut."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)
