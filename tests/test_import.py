"""Importing does nothing: it reads no file, opens nothing, prints nothing and loads no SDK."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from fnmatch import fnmatchcase

import pytest

import tinytroupe

HEAVY = (
    "openai",
    "httpx2",
    "httpcore2",
    "aiohttp",
    "diskcache",
    "sqlite3",
    "jinja2",
    "tiktoken",
    "bpe_openai",
    "pydantic",
    "anthropic",
    "azure",
    "google",
    "rich",
    "requests",
    "django",
    "asgiref",
    "yaml",
)

LOADED_LATE = (
    "tinytroupe.cli.*",
    "tinytroupe.contrib.django.*",
    "tinytroupe.llm.store.database",
    "tinytroupe.llm.store.reader",
    "tinytroupe.llm.store.survey",
    "tinytroupe.llm.store.writer",
    "tinytroupe.llm.talk.jinja",
    "tinytroupe.llm.transports.async_connections",
    "tinytroupe.llm.transports.connections",
    "tinytroupe.llm.transports.http_clients",
    "tinytroupe.llm.transports.sdk",
    "tinytroupe.llm.transports.tls",
    "tinytroupe.llm.wrapper",
    "tinytroupe.llm.wrapper_session",
)
"""Modules that build on a heavy package; others import them in the function that needs them.

Of the command line these are the commands: it loads the one that it runs. Of the Django app
these are all modules: a site loads them once it has read its settings.
"""

WATCH = """
import importlib, json, os, sys, sysconfig, threading
roots = [os.path.realpath(path) for path in (*sys.path, *sysconfig.get_paths().values()) if path]
seen = []

def is_code(path):
    path = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
    return path.endswith((".py", ".pyc", ".so", ".pyd", ".pth", ".zip"))

def watch(event, arguments):
    if event == "open":
        path, mode, _ = arguments
        if not is_code(path) or (mode and set(mode) & set("wax+")):
            seen.append(f"open {path!r} {mode}")
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.mkdir",
                           "os.remove", "os.rename", "sqlite3.", "tempfile.")):
        seen.append(event)

before = dict(os.environ)
sys.dont_write_bytecode = True
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
found = {
    "seen": list(seen),
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "threads": threading.active_count(),
    "environment_changed": dict(os.environ) != before,
}
print(json.dumps(found))
"""


def import_afresh(*names: str) -> dict[str, object]:
    """Imports modules in a new interpreter and returns what was seen; no other output may come."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    run = subprocess.run(
        [sys.executable, "-c", WATCH, *names],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert len(lines) == 1, f"importing printed {lines[:-1]}"
    return json.loads(lines[0])


def list_modules() -> list[str]:
    """Returns every module that may be imported freely; `__main__` would run the program."""
    found = [item.name for item in pkgutil.walk_packages(tinytroupe.__path__, "tinytroupe.")]
    assert all(any(fnmatchcase(name, late) for name in found) for late in LOADED_LATE)
    late = (*LOADED_LATE, "tinytroupe.__main__")
    return [name for name in found if not any(fnmatchcase(name, pattern) for pattern in late)]


@pytest.mark.smoke
@pytest.mark.parametrize(
    "door",
    [
        "tinytroupe",
        "tinytroupe.openai_utils",
        "tinytroupe.llm",
        "tinytroupe.cli",
        "tinytroupe.contrib.django",
    ],
)
def test_importing_a_door_does_nothing(door):
    """A door opens no file but code, no socket and no process, prints nothing, starts no thread."""
    found = import_afresh(door)
    assert found["seen"] == []
    assert found["threads"] == 1
    assert found["environment_changed"] is False
    assert sorted(set(HEAVY) & set(found["modules"])) == []


@pytest.mark.smoke
def test_importing_every_module_does_nothing_and_loads_no_heavy_package():
    """No module loads an SDK, a database or a template engine, save those meant to come late."""
    found = import_afresh(*list_modules())
    assert found["seen"] == []
    assert found["threads"] == 1
    assert sorted(set(HEAVY) & set(found["modules"])) == []


def test_the_watch_sees_what_an_import_does(tmp_path, monkeypatch):
    """The check notices a module that reads a file and loads a database."""
    note = tmp_path / "note.txt"
    note.write_text("x")
    (tmp_path / "planted.py").write_text(
        f"import sqlite3\nwith open({str(note)!r}) as file:\n    file.read()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = import_afresh("planted")
    assert found["seen"] == [f"open {str(note)!r} r"]
    assert "sqlite3" in found["modules"]
