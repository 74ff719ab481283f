"""Fixtures for tests of the Django app, which every `test_django_*.py` has by its name.

A test that takes `database` runs on SQLite and on PostgreSQL; for one of them only:
`@pytest.mark.parametrize("database", ["postgresql"], indirect=True)`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django_site
import pytest
from asgiref.local import Local
from django.conf import settings
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connections
from django.db.backends.signals import connection_created
from django.test.utils import override_settings, setup_test_environment, teardown_test_environment
from lacking import skip_unless_ci
from postgres_server import PostgresServer, find_binaries

django_site.set_up()

KINDS = ("sqlite", "postgresql")

# What `migrate` fills, and every test finds filled.
FILLED_BY_MIGRATIONS = {"django_migrations", "django_content_type", "auth_permission"}

IN_CHILD = """
import json, sys
import django_site
task = json.loads(sys.argv[1])
django_site.set_up(**task["settings"])
exec(compile(task["code"], "site process", "exec"), {"__name__": "__main__"})
"""

MakeDatabase = Callable[[str], "Database"]


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the tests' own."""

    kind: str
    """`sqlite` or `postgresql`."""

    settings: Mapping[str, Any]
    """Its entry in Django's `DATABASES`."""


@contextmanager
def use_database(database: Database) -> Iterator[None]:
    """Makes it Django's `default`, for every thread; closes whatever was connected to it."""
    opened: list[weakref.ref[Any]] = []

    def note(connection: Any, **_: Any) -> None:
        opened.append(weakref.ref(connection))

    _set_default(database.settings)
    connection_created.connect(note, weak=False)
    try:
        yield
    finally:
        connection_created.disconnect(note)
        _set_default({})
        for connection in filter(None, (reference() for reference in opened)):
            # Django lets only the thread that opened a connection close it, unless told so.
            connection.inc_thread_sharing()
            connection.close()


def _set_default(entry: Mapping[str, Any]) -> None:
    connections.settings.update(connections.configure_settings({"default": dict(entry)}))
    # Each thread keeps its connection, some threads (asgiref's) across tests: all forget theirs.
    connections._connections = Local(connections.thread_critical)


def empty_tables() -> None:
    """Empties all tables of the `default` database but those that migrations fill."""
    connection = connections["default"]
    tables = set(connection.introspection.django_table_names(only_existing=True))
    statements = connection.ops.sql_flush(
        no_style(), sorted(tables - FILLED_BY_MIGRATIONS), reset_sequences=True
    )
    connection.ops.execute_sql_flush(statements)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this process."""
    binaries = find_binaries()
    if binaries is None:
        skip_unless_ci(
            "PostgreSQL is not installed: neither in /usr/lib/postgresql nor initdb on the PATH "
            "(Debian's package is postgresql)"
        )
    server = PostgresServer(binaries)
    yield server
    server.close()


@pytest.fixture(scope="session")
def make_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> MakeDatabase:
    """A function that makes an empty database of a kind, without any table."""
    made: list[Database] = []

    def make(kind: str) -> Database:
        name = f"site_{len(made)}"
        if kind == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            entry = server.make_database(name)
        else:
            path = tmp_path_factory.mktemp("databases") / f"{name}.sqlite3"
            # Nobody's data: what a crash of the machine loses does not matter.
            options = {"init_command": "PRAGMA synchronous = OFF"}
            entry = {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(path),
                "OPTIONS": options,
            }
        made.append(Database(kind, entry))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def _migrated_databases() -> dict[str, Database]:
    return {}


@pytest.fixture(scope="session")
def _test_environment() -> Iterator[None]:
    setup_test_environment()
    yield
    teardown_test_environment()


@pytest.fixture(params=KINDS)
def database(
    request: pytest.FixtureRequest,
    make_database: MakeDatabase,
    _migrated_databases: dict[str, Database],
    _test_environment: None,
) -> Iterator[Database]:
    """A migrated, empty database as Django's `default`, for this thread and all others."""
    if request.param not in _migrated_databases:
        made = make_database(request.param)
        with use_database(made):
            call_command("migrate", verbosity=0, interactive=False)
        _migrated_databases[request.param] = made
    chosen = _migrated_databases[request.param]
    with use_database(chosen):
        yield chosen
    with use_database(chosen):
        empty_tables()


@pytest.fixture
def start_site_process(database: Database) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function `(code, **settings)` that runs code in a process of its own, as the same site.

    It has the test's database and the settings of the app that hold at the moment; its
    three streams are pipes. What is left when the test ends is killed.
    """
    started: list[subprocess.Popen[str]] = []

    def start(code: str, **further: Any) -> subprocess.Popen[str]:
        task = {"code": textwrap.dedent(code), "settings": _copy_settings(database, further)}
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(
            [sys.executable, "-c", IN_CHILD, json.dumps(task, default=str)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _copy_settings(database: Database, further: Mapping[str, Any]) -> dict[str, Any]:
    of_the_app = {
        name: getattr(settings, name)
        for name in dir(settings)
        if name.startswith("LLM_") or name == "TINYTROUPE"
    }
    return {"DATABASES": {"default": dict(database.settings)}, **of_the_app, **further}


@pytest.fixture
def site_settings(_test_environment: None) -> Iterator[Callable[..., None]]:
    """A function that overrides settings of Django until the test ends."""
    overrides: list[override_settings] = []

    def override(**values: Any) -> None:
        overrides.append(override_settings(**values))
        overrides[-1].enable()

    yield override
    for done in reversed(overrides):
        done.disable()


@pytest.fixture
def configs_folder(tmp_path: Path, site_settings: Callable[..., None]) -> Path:
    """The folder of configurations, with `rehearsal.yaml`; answers are kept beside it."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "rehearsal.yaml").write_text(
        "name: rehearsal\n"
        "llm_config_class: RehearsalConfig\n"
        "deployment_name: rehearsal\n"
        "tools_enabled: true\n",
        encoding="utf-8",
    )
    site_settings(
        LLM_CONFIGS_PATH=folder, TINYTROUPE={"cache_file_name": str(tmp_path / "answers")}
    )
    return folder
