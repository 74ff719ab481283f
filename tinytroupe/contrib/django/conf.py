"""What of Django's settings is this app's: read when it is first needed, and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from django.conf import settings
from django.core.signals import setting_changed

from tinytroupe.llm.config.load import make_settings, suggest
from tinytroupe.llm.config.setting import Setting
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.errors import ConfigError

PREFIX = "LLM_WRAPPER_"

CORE = "TINYTROUPE"

CORE_NAMES = (
    "cache_api_calls",
    "cache_file_name",
    "max_attempts",
    "waiting_time",
    "exponential_backoff_factor",
    "max_waiting_time",
    "timeout",
    "deadline",
    "max_concurrent_model_calls",
)
"""The settings of the core that hold for all models of a site."""

FILE = "CONFIG"
"""The key of `TINYTROUPE` that names a config.ini; otherwise none is read."""

_IN_FILES: Mapping[str, str] = {
    "api_type": "llm_config_class",
    "base_url": "endpoint",
    "azure_api_version": "api_version",
    "model": "deployment_name",
    **{
        name: name
        for name in ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty")
    },
}
_OF_RUNS = ("run", "cache_samples", "resolver")


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What the site sets. Frozen, and checked."""

    configs_path: Path | None
    """`LLM_CONFIGS_PATH`: the folder of the models' files; None: it is not set."""
    allow_tool_code: bool
    """`LLM_WRAPPER_ALLOW_TOOL_CODE`: whether the source text of a tool may run."""
    tool_modules: tuple[str, ...] | None
    """`LLM_WRAPPER_TOOL_MODULES`: where functions that are tools may lie; None: in the apps."""
    tool_seconds: float
    """`LLM_WRAPPER_TOOL_SECONDS`: how long the source text of a tool may run."""
    max_tool_rounds: int
    """`LLM_WRAPPER_MAX_TOOL_ROUNDS`: how often a model may call tools before it answers."""
    lock_seconds: float
    """`LLM_WRAPPER_LOCK_SECONDS`: how long a message waits for its turn in a chat."""
    share_answers: bool
    """`LLM_WRAPPER_SHARE_ANSWERS`: whether chats are answered with what others were told."""
    seed: int | None
    """`LLM_WRAPPER_SEED`: repeats the choice of configurations; None: chance decides."""
    tinytroupe: Mapping[str, object]
    """`TINYTROUPE`, by attribute name of the core's settings; of `CONFIG` its path."""


@lru_cache(maxsize=1)
def read_site_settings() -> SiteSettings:
    """Returns what the site sets; the same value until Django says that a setting changed.

    Raises:
        ConfigError: A value is not allowed; the message names the setting.
    """
    return SiteSettings(**{row.attribute: row.read_now() for row in ROWS})


def read_configs_path() -> Path | None:
    """Returns the folder of the models' files, whatever the other settings hold.

    Raises:
        ConfigError: `LLM_CONFIGS_PATH` holds something else than a path.
    """
    path: Path | None = _CONFIGS_PATH.read_now()
    return path


@lru_cache(maxsize=1)
def read_core_settings() -> Settings:
    """Returns how models are called where their files do not say.

    That follows from `TINYTROUPE` alone: neither from the current folder nor from the
    environment, so that a site does the same wherever it is started.

    Raises:
        ConfigError: A value is not allowed, the config.ini that is named cannot be
            used, or the cache's folder is relative to nothing.
    """
    values = dict(_read_core(CORE, getattr(settings, CORE, {})))
    named, base = values.pop(FILE, None), find_base_folder()
    try:
        found = make_settings(base or os.sep, values, None if named is None else str(named))
    except ConfigError as error:
        raise ConfigError(f"{CORE}: {error.message}") from error
    if found.cache_api_calls != "off":
        resolve_path(f"{CORE}: CACHE_FILE_NAME", found.cache_file_name)
    return found


def find_base_folder() -> Path | None:
    """Returns `BASE_DIR`, from which relative paths start; None: the site has none."""
    base = getattr(settings, "BASE_DIR", None)
    return Path(base).absolute() if isinstance(base, (str, os.PathLike)) else None


def resolve_path(name: str, value: object) -> Path:
    """Returns an absolute path; a relative one starts from `BASE_DIR`.

    Raises:
        ConfigError: It is no path, or relative and there is no `BASE_DIR`.
    """
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise ConfigError(f"{name} is of type {type(value).__name__}, not a path")
    text = str(os.fspath(value))
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{name} is {text!r}, which is not a path")
    path, base = Path(os.path.expanduser(text)), find_base_folder()
    if path.is_absolute():
        return path
    if base is None:
        raise ConfigError(
            f"{name} is the relative path {text!r}, and there is no setting BASE_DIR that it could "
            "start from; give an absolute one"
        )
    return base / path


def list_setting_faults() -> list[tuple[str, str]]:
    """Returns each setting that holds what it must not, by name, and what is wrong with it."""
    faults = []
    for row in ROWS:
        try:
            row.read_now()
        except ConfigError as error:
            faults.append((row.name, error.message))
    if CORE not in dict(faults):
        try:
            read_core_settings()
        except ConfigError as error:
            faults.append((CORE, error.message))
    return faults


def _read_path(name: str, value: object) -> Path | None:
    return None if value is None else resolve_path(name, value)


def _read_switch(name: str, value: object) -> bool:
    # Not even 1 or "true": what lets code of a database run is said in so many words.
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be True or False")
    return value


def _read_modules(name: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} is of type {type(value).__name__}, not a list of modules")
    for module in value:
        if not isinstance(module, str) or not all(map(str.isidentifier, module.split("."))):
            raise ConfigError(f"{name} has the item {module!r}, which is not the name of a module")
    return tuple(value)


def _read_number(row: Setting) -> Read:
    return lambda _, value: row.parse(value)


def _read_core(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is of type {type(value).__name__}, not a dictionary")
    found: dict[str, object] = {}
    faults = []
    for key, item in value.items():
        try:
            known, parsed = _read_core_item(key, item)
            if known in found:
                raise ConfigError(f"{key}: this setting stands twice, under two names")
            found[known] = parsed
        except ConfigError as error:
            faults.append(error.message)
    if faults:
        raise ConfigError(f"{name}: {'; '.join(faults)}")
    return MappingProxyType(found)


def _read_core_item(key: object, value: object) -> tuple[str, object]:
    if not isinstance(key, str):
        raise ConfigError(f"the key {key!r} is not a text")
    if key.upper() == FILE:
        return FILE, resolve_path(key, value)
    setting = _CORE_ROWS.get(key.lower())
    if setting is None or setting.name not in CORE_NAMES:
        raise ConfigError(f"{key}: {_say_where(key, setting)}")
    if setting.kind == "text" and isinstance(value, os.PathLike):
        value = os.fspath(value)
    return setting.name, setting.parse(value)


def _say_where(key: str, setting: Setting | None) -> str:
    """Says where that is set which a site does not set here."""
    if setting is None:
        if "KEY" in key.upper().split("_"):
            return "keys of endpoints stand in the models' files, as in api_key: ${OPENAI_API_KEY}"
        return f"there is no such setting{suggest(key, [SETTINGS[n].key for n in CORE_NAMES])}"
    if setting.name in _IN_FILES:
        return (
            "this is set for each model in its file in LLM_CONFIGS_PATH, as "
            f"{_IN_FILES[setting.name]}"
        )
    if setting.name in _OF_RUNS:
        return f"this belongs to runs; the environment variable {setting.variables[0]} sets it"
    if setting.name == "loglevel":
        return "Django's LOGGING sets this, for the logger tinytroupe"
    return "this is for simulations and means nothing to a site"


_CORE_ROWS: Mapping[str, Setting] = {
    name.lower(): row for row in SETTINGS.values() for name in (row.name, row.key, *row.other_keys)
}

Read: TypeAlias = "Callable[[str, object], Any]"


@dataclass(frozen=True, slots=True)
class Row:
    """A setting of Django's that is this app's."""

    name: str
    attribute: str
    """Of `SiteSettings`."""
    read: Read
    """Takes the name and what is set, and returns the value."""
    default: object = None

    def read_now(self) -> Any:
        """Returns the value.

        Raises:
            ConfigError: It is not allowed; the message names the setting.
        """
        return self.read(self.name, getattr(settings, self.name, self.default))


_NUMBERS = (
    Setting("tool_seconds", "", PREFIX + "TOOL_SECONDS", "number", 10.0, "", above=0),
    Setting("max_tool_rounds", "", PREFIX + "MAX_TOOL_ROUNDS", "whole number", 8, "", minimum=1),
    Setting("lock_seconds", "", PREFIX + "LOCK_SECONDS", "number", 120.0, "", minimum=0),
    Setting("seed", "", PREFIX + "SEED", "whole number", None, "", optional=True),
)

TOOL_MODULES = Row(PREFIX + "TOOL_MODULES", "tool_modules", _read_modules)

_CONFIGS_PATH = Row("LLM_CONFIGS_PATH", "configs_path", _read_path)

ROWS = (
    _CONFIGS_PATH,
    Row(PREFIX + "ALLOW_TOOL_CODE", "allow_tool_code", _read_switch, False),
    TOOL_MODULES,
    Row(PREFIX + "SHARE_ANSWERS", "share_answers", _read_switch, True),
    *(Row(each.key, each.name, _read_number(each), each.default) for each in _NUMBERS),
    Row(CORE, "tinytroupe", _read_core, MappingProxyType({})),
)
"""All of them."""

_NAMES = {*(row.name for row in ROWS), "BASE_DIR"}


def is_of_the_app(setting: str) -> bool:
    """Tells whether what this app does depends on a setting of Django's."""
    return setting in _NAMES


def _forget(*, setting: str, **_: object) -> None:
    if is_of_the_app(setting):
        read_site_settings.cache_clear()
        read_core_settings.cache_clear()


setting_changed.connect(_forget)
