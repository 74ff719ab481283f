"""What a reader needs to know of a run before trusting it."""

from __future__ import annotations

import os
import platform
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import tinytroupe
from tinytroupe.llm.canonical import KEY_SCHEMA

_PACKAGES = ("openai", "tiktoken", "jinja2", "diskcache", "orjson", "aiohttp")
_GIT_SECONDS = 5


def describe_run(mode: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the facts for a tape's header. Reads the clock and asks git; starts no SDK.

    Args:
        mode: What the run does: `record` or `fork`.
        settings: The settings in force, secrets removed.
    """
    return {
        "mode": mode,
        "id": secrets.token_hex(8),
        "tinytroupe": tinytroupe.__version__,
        "key_schema": KEY_SCHEMA,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": _read_versions(),
        "started_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": list(_mask_secrets(sys.orig_argv[1:])),
        "git": _read_commit(),
        "settings": dict(settings or {}),
    }


_SECRET_NAME = re.compile(r"(^|[-_.])(api)?(key|token|secret|password|passwd|credentials?)$", re.I)
_SECRET_VALUE = re.compile(r"\bsk-[\w-]{8,}|(?<=//)[^/@\s]*:[^/@\s]*(?=@)")
_HIDDEN = "***"
_LONGEST_ARGUMENT = 500


def _mask_secrets(arguments: Iterable[str]) -> Iterator[str]:
    """Yields the words of a command without what is, or is named as, a key."""
    named = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if named:
            yield _HIDDEN
        elif equals and _SECRET_NAME.search(name):
            yield f"{name}={_HIDDEN}"
        else:
            yield _SECRET_VALUE.sub(_HIDDEN, argument)[:_LONGEST_ARGUMENT]
        named = argument.startswith("-") and not equals and bool(_SECRET_NAME.search(name))


def _read_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _read_commit() -> dict[str, Any] | None:
    """Returns the commit that the simulation's script is of; None where there is none."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = os.path.dirname(os.path.abspath(script)) if script else os.getcwd()
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changed)}


def _ask_git(folder: str, *words: str) -> str:
    command = ["git", "-C", folder, *words]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()
