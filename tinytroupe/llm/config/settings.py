"""What the simulation is set to, as one frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from tinytroupe.llm.config.setting import mask_url as mask_url
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.request import CacheMode, RetryPolicy

Source: TypeAlias = Literal["default", "config.ini", "environment", "argument"]

_PICKLE_SUFFIX = ".pickle"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from."""

    source: Source
    place: str = ""
    """`path:line`, the name of a variable, or the name of an argument; empty for a default."""

    def __str__(self) -> str:
        if self.source == "config.ini":
            return self.place
        return f"{self.source} {self.place}".rstrip()


_DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """What the simulation is set to. Frozen, valid, and free of secrets.

    Make one with `load_settings`, which reads and checks every source. What
    each value means stands in the table of `tinytroupe.llm.config.table`.
    """

    api_type: str
    base_url: str | None
    azure_api_version: str
    model: str
    embedding_model: str
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    timeout: float
    deadline: float | None
    max_attempts: int
    waiting_time: float
    exponential_backoff_factor: float
    max_waiting_time: float
    max_concurrent_model_calls: int | None
    cache_api_calls: CacheMode
    cache_file_name: str
    max_content_display_length: int
    on_failure: Literal["raise", "none"]
    run: str | None
    cache_samples: Literal["lane", "shared"]
    resolver: str | None
    rai_harmful_content_prevention: bool
    rai_copyright_infringement_prevention: bool
    loglevel: str

    folder: str
    """The current folder when the settings were read; relative names start from it."""
    path: str | None
    """The config.ini that was read, or None when there was none."""
    origins: Mapping[str, Origin]
    """Where each value came from, by name; what is missing is a default."""
    own: Mapping[str, Mapping[str, str]]
    """The simulation's own keys, by section and in lower case, as they were found."""
    unused: Mapping[str, Origin]
    """Keys of TinyTroupe's own config.ini that are accepted and have no effect here."""

    def origin(self, name: str) -> Origin:
        """Says where a value came from."""
        return self.origins.get(name, _DEFAULT)

    @property
    def names_pickle(self) -> bool:
        """Whether `CACHE_FILE_NAME` names TinyTroupe's pickle instead of a folder."""
        name = os.path.basename(self.cache_file_name)
        return name.endswith(_PICKLE_SUFFIX) and name != _PICKLE_SUFFIX

    @property
    def cache_folder(self) -> str:
        """The folder that keeps the answers, as an absolute path."""
        name = self.cache_file_name
        if self.names_pickle:
            name = name.removesuffix(_PICKLE_SUFFIX)
        return os.path.join(self.folder, os.path.expanduser(name))

    @property
    def retry(self) -> RetryPolicy:
        """How often and how patiently a call is tried."""
        return RetryPolicy(
            max_attempts=self.max_attempts,
            waiting_seconds=self.waiting_time,
            factor=self.exponential_backoff_factor,
            cap_seconds=self.max_waiting_time,
        )

    def show(self, name: str) -> str:
        """Writes a value for people, as config.ini would hold it, a password in a URL masked."""
        text = SETTINGS[name].to_text(getattr(self, name))
        return mask_url(text) if name == "base_url" else text

    def overlay(self, arguments: Mapping[str, object]) -> Settings:
        """Returns settings in which a program's arguments take the place of other values.

        Args:
            arguments: New values by name; text is read as config.ini is.

        Raises:
            ConfigError: A value is not allowed.
            KeyError: There is no such setting.
        """
        values: dict[str, Any] = {
            name: SETTINGS[name].parse(value) for name, value in arguments.items()
        }
        origins = {**self.origins, **{name: Origin("argument", name) for name in arguments}}
        return replace(self, **values, origins=MappingProxyType(origins))

    def __repr__(self) -> str:
        shown = "".join(f" {name}={self.show(name)}" for name in self.origins)
        return f"<Settings{shown or ' as by default'}>"
