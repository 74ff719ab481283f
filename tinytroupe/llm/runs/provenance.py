"""What a reader needs to know of a run before trusting it."""

from __future__ import annotations

import platform
import secrets
import subprocess
import sys
from collections.abc import Mapping
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
        "command": [argument for argument in sys.orig_argv[1:] if len(argument) < 500],
        "git": _read_commit(),
        "settings": dict(settings or {}),
    }


def _read_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _read_commit() -> dict[str, Any] | None:
    """Returns the commit of the folder the simulation runs in; None where there is none."""
    commit = _ask_git("rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "changed": bool(_ask_git("status", "--porcelain"))}


def _ask_git(*words: str) -> str:
    try:
        ran = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()
