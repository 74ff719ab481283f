"""Settings from their sources: defaults, config.ini, environment, arguments; later ones win."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from tinytroupe.llm.config.ini import IniFile, IniValue, read_ini
from tinytroupe.llm.config.setting import ENVIRONMENT_PREFIX, Setting
from tinytroupe.llm.config.settings import Origin, Settings
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.transports.secrets import SECRET_VARIABLES

logger = logging.getLogger("tinytroupe.config")

CONFIG_VARIABLE = "TINYTROUPE_CONFIG"
CONFIG_NAME = "config.ini"

OWN_SECTIONS = ("Simulation", "Cognition", "ActionGenerator")
"""Sections in which a simulation keeps what it likes."""

MODEL_SECTION = "Model "
"""How the sections begin that name a model, `[Model fast]`; see `config.model_entries`."""

UNUSED_KEYS: Mapping[str, tuple[str, ...]] = {
    "OpenAI": (
        "AZURE_EMBEDDING_MODEL_API_VERSION",
        "NUM_CTX",
        "REASONING_EFFORT",
        "REASONING_MODEL",
        "VISION_DETAIL",
    ),
    "Logging": ("LOGLEVEL_CONSOLE", "LOGLEVEL_FILE", "LOG_INCLUDE_THREAD_ID"),
}
"""Keys that TinyTroupe's own config.ini files have and that mean nothing to this layer."""


def load_settings(
    folder: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: Mapping[str, object] = MappingProxyType({}),
) -> Settings:
    """Reads the settings. Order: defaults, config.ini, environment, arguments; later ones win.

    Args:
        folder: Where config.ini is looked for; None: the current folder.
        environ: The environment; None: the process's own. `TINYTROUPE_CONFIG`
            in it names another file, which is then read instead.
        arguments: Values by attribute name of `Settings`.

    Raises:
        ConfigError: A file is missing or malformed, a key is unknown, or a
            value is not allowed; the message says where, and what is near.
    """
    environ = os.environ if environ is None else environ
    folder = os.path.abspath(os.getcwd() if folder is None else folder)
    return _read_sources(folder, _find_config(folder, environ), environ, arguments)


def make_settings(
    folder: str | os.PathLike[str],
    arguments: Mapping[str, object] = MappingProxyType({}),
    path: str | os.PathLike[str] | None = None,
) -> Settings:
    """Returns settings that depend on nothing but what is given: not on the environment either.

    Args:
        folder: Where relative names start from.
        arguments: Values by attribute name of `Settings`.
        path: A config.ini, whose values count where the arguments say nothing; None: none is read.

    Raises:
        ConfigError: As for `load_settings`.
    """
    folder = os.path.abspath(folder)
    found = None if path is None else os.path.join(folder, os.path.expanduser(path))
    return _read_sources(folder, found, {}, arguments)


def _read_sources(
    folder: str, path: str | None, environ: Mapping[str, str], arguments: Mapping[str, object]
) -> Settings:
    reading = _Reading()
    if path is not None:
        reading.read_file(read_ini(path))
    reading.read_environment(environ)
    settings = Settings(
        **reading.values,
        folder=folder,
        path=path,
        origins=MappingProxyType(reading.origins),
        own=MappingProxyType(reading.own),
        unused=MappingProxyType(reading.unused),
    )
    for name in arguments:
        if name not in SETTINGS:
            raise ConfigError(f"there is no setting {name!r}{suggest(name, SETTINGS)}")
    return settings.overlay(arguments) if arguments else settings


def suggest(name: str, known: Iterable[str]) -> str:
    """Ends a sentence about an unknown name with the nearest known one, or with all of them."""
    known = list(known)
    by_folded = {word.lower(): word for word in known}
    nearest = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    if nearest:
        return f"; did you mean {by_folded[nearest[0]]}?"
    return f"; known are {', '.join(known)}"


def _find_config(folder: str, environ: Mapping[str, str]) -> str | None:
    named = environ.get(CONFIG_VARIABLE)
    if named:
        path = os.path.join(folder, os.path.expanduser(named))
        if not os.path.exists(path):
            raise ConfigError(f"{path}, which {CONFIG_VARIABLE} names, does not exist")
        return path
    path = os.path.join(folder, CONFIG_NAME)
    return path if os.path.lexists(path) else None


class _Reading:
    """Collects values and where they came from, source after source."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {name: row.default for name, row in SETTINGS.items()}
        self.origins: dict[str, Origin] = {}
        self.own: dict[str, dict[str, str]] = {}
        self.unused: dict[str, Origin] = {}

    def read_file(self, file: IniFile) -> None:
        for section, values in file.sections.items():
            if section.startswith(MODEL_SECTION):
                continue
            if section not in _KEYS and section not in OWN_SECTIONS:
                raise ConfigError(
                    f"{file.path}:{file.section_lines.get(section, 1)}: there is no section "
                    f"[{section}]{suggest(section, dict.fromkeys((*_KEYS, *OWN_SECTIONS)))}"
                )
            for key, value in values.items():
                self._read_key(file.path, section, key.upper(), value)

    def _read_key(self, path: str, section: str, key: str, value: IniValue) -> None:
        place = f"{path}:{value.line}"
        setting = _KEYS.get(section, {}).get(key)
        if setting is not None:
            if setting.name in self.origins:
                both = (setting.key, *setting.other_keys)
                raise ConfigError(f"{place}: only one of {' and '.join(both)} may be given")
            self._set(setting, value.text, Origin("config.ini", place), f"{place}: ")
        elif section in OWN_SECTIONS:
            self.own.setdefault(section, {})[key.lower()] = value.text
        elif key in UNUSED_KEYS.get(section, ()):
            self.unused[key] = Origin("config.ini", place)
            logger.debug("%s: %s is accepted and has no effect in this layer", place, key)
        else:
            raise ConfigError(f"{place}: {_say_unknown(section, key)}")

    def read_environment(self, environ: Mapping[str, str]) -> None:
        for setting in SETTINGS.values():
            for variable in setting.variables:
                if text := environ.get(variable):
                    where = f"environment variable {variable}: "
                    self._set(setting, text, Origin("environment", variable), where)
                    break
        for variable in environ:
            # Other programs may use the prefix, so only what looks like a slip is worth a word.
            if variable.startswith(ENVIRONMENT_PREFIX) and variable not in _VARIABLES:
                near = difflib.get_close_matches(variable, _VARIABLES, n=1, cutoff=0.85)
                if near:
                    logger.warning("%s has no effect; did you mean %s?", variable, near[0])

    def _set(self, setting: Setting, text: str, origin: Origin, where: str) -> None:
        if "\n" in text:
            raise ConfigError(
                f"{where}{setting.key} goes over several lines; an indented line belongs to the "
                "one above it"
            )
        try:
            self.values[setting.name] = setting.parse(text)
        except ConfigError as error:
            raise ConfigError(where + error.message) from None
        self.origins[setting.name] = origin


def _say_unknown(section: str, key: str) -> str:
    if key in SECRET_VARIABLES or key.removesuffix("_FILE") in SECRET_VARIABLES:
        return (
            f"{key} does not belong in config.ini, which is shared and shown; "
            f"set the environment variable {key} instead"
        )
    for other, keys in _KEYS.items():
        if key in keys:
            return f"{key} belongs into the section [{other}], not into [{section}]"
    return f"[{section}] has no key {key}{suggest(key, _KEYS[section])}"


def _sort_keys() -> Mapping[str, Mapping[str, Setting]]:
    by_section: dict[str, dict[str, Setting]] = {}
    for setting in SETTINGS.values():
        for key in (setting.key, *setting.other_keys):
            by_section.setdefault(setting.section, {})[key] = setting
    return by_section


_KEYS = _sort_keys()
_VARIABLES = dict.fromkeys(
    [CONFIG_VARIABLE, *(name for setting in SETTINGS.values() for name in setting.variables)]
)
