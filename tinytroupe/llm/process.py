"""What the doors of one process share: settings, stores, templates, registered clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from tinytroupe.llm.config.describe import write_parser
from tinytroupe.llm.config.load import load_settings, suggest
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.errors import ConfigError

if TYPE_CHECKING:
    from tinytroupe.llm.store.disk import DiskStore
    from tinytroupe.llm.talk.templates import Templates

logger = logging.getLogger("tinytroupe")

PROMPTS_FOLDER = "prompts"


class UnknownName(ConfigError, ValueError):
    """There is no such setting or API type; TinyTroupe raised a ValueError here."""


class ProcessState:
    """Reads settings when they are first needed, and keeps what is made from them.

    Safe to use from many threads.

    Args:
        builders: API type → what makes its client when it is first asked for.
    """

    def __init__(self, builders: Mapping[str, Callable[[], Any]]) -> None:
        self._lock = RLock()
        self._builders = builders
        self._clients: dict[str, Any] = {}
        self._forced: dict[str, object] = {}
        self._settings: Settings | None = None
        self._parser: tuple[Settings, ConfigParser] | None = None
        self._stores: dict[str, DiskStore] = {}
        self._templates: dict[Path, Templates] = {}

    def get_settings(self) -> Settings:
        """Returns the settings in effect; reads them when that has not been done.

        The run that they ask for, if any, begins then.

        Raises:
            ConfigError: They cannot be used; the message says where and why.
            StoreError: The tape of the run that they ask for cannot be used.
        """
        settings = self._settings
        if settings is not None:
            return settings
        with self._lock:
            if self._settings is None:
                settings = load_settings(arguments=self._forced)
                _apply_log_level(settings)
                if settings.run is not None:
                    from tinytroupe.llm.runs.activation import begin_run

                    begin_run(settings)
                self._settings = settings
            return self._settings

    def forget_settings(self) -> None:
        """Lets the next use read config.ini and the environment again; what is forced stays."""
        with self._lock:
            self._settings = None

    def force(self, name: str, value: object) -> None:
        """Sets a value over every other source, from the next call on.

        Raises:
            UnknownName: There is no such setting.
            ConfigError: The value is not allowed.
        """
        if name not in SETTINGS:
            raise UnknownName(f"there is no setting {name!r}{suggest(str(name), SETTINGS)}")
        SETTINGS[name].parse(value)
        with self._lock:
            self._forced = {**self._forced, name: value}
            if self._settings is not None:
                self._settings = self._settings.overlay({name: value})
                if name == "loglevel":
                    _apply_log_level(self._settings)

    def get_parser(self) -> ConfigParser:
        """Returns the settings in effect as a `ConfigParser`; the same one until they change."""
        settings = self.get_settings()
        with self._lock:
            if self._parser is None or self._parser[0] is not settings:
                self._parser = settings, write_parser(settings)
            return self._parser[1]

    def register_client(self, api_type: str, client: Any) -> None:
        """Names a client, over an older one of that name.

        Raises:
            ConfigError: It has no method `send_message`.
        """
        if not callable(getattr(client, "send_message", None)):
            raise ConfigError(f"{client!r} cannot be registered: it has no method send_message")
        with self._lock:
            self._clients[api_type] = client

    def get_client(self, api_type: str) -> Any:
        """Returns the client of an API type; one and the same for all threads.

        Raises:
            UnknownName: There is none.
        """
        client = self._clients.get(api_type)
        if client is not None:
            return client
        with self._lock:
            if api_type not in self._clients:
                if api_type not in self._builders:
                    known = dict.fromkeys((*self._builders, *self._clients))
                    place = self.get_settings().origin("api_type")
                    raise UnknownName(
                        f"API type {api_type!r} is not supported{suggest(str(api_type), known)}; "
                        f"check API_TYPE in config.ini (now from: {place})"
                    )
                self._clients[api_type] = self._builders[api_type]()
            return self._clients[api_type]

    def list_clients(self) -> list[Any]:
        """Returns the clients that were registered or made."""
        with self._lock:
            return list(self._clients.values())

    def open_store(self, settings: Settings) -> DiskStore:
        """Returns the store of the settings' folder, one for each folder; opens nothing yet."""
        from tinytroupe.llm.store.disk import DiskStore

        folder = settings.cache_folder
        with self._lock:
            if folder not in self._stores:
                if settings.names_pickle:
                    logger.info(
                        "CACHE_FILE_NAME is TinyTroupe's %s; answers are kept in the folder %s, "
                        "and the pickle is neither read nor touched",
                        settings.cache_file_name,
                        folder,
                    )
                self._stores[folder] = DiskStore(folder)
            return self._stores[folder]

    def get_templates(self) -> Templates:
        """Returns the prompts of the simulation in the current folder, then the package's."""
        from tinytroupe.llm.talk.templates import Templates, package_prompts_folder

        folder = Path.cwd() / PROMPTS_FOLDER
        with self._lock:
            if folder not in self._templates:
                self._templates[folder] = Templates([folder, package_prompts_folder()])
            return self._templates[folder]


class Defaults(Mapping[str, Any]):
    """TinyTroupe's mapping of lower-case settings, read when it is looked into.

    Setting an item is `force_default_value`.
    """

    def __init__(self, state: Callable[[], ProcessState]) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Any:
        if name not in SETTINGS:
            raise KeyError(name)
        value = getattr(self._state().get_settings(), name)
        if name == "cache_api_calls" and value in ("on", "off"):
            # As TinyTroupe has it; the word `off` would count as true.
            return value == "on"
        return value

    def __setitem__(self, name: str, value: object) -> None:
        self._state().force(name, value)

    def __iter__(self) -> Iterator[str]:
        return iter(SETTINGS)

    def __len__(self) -> int:
        return len(SETTINGS)

    def __repr__(self) -> str:
        return f"<defaults {', '.join(SETTINGS)}>"


class LazyConfig:
    """TinyTroupe's `config`: a `ConfigParser` that is read when it is first used."""

    def __init__(self, state: Callable[[], ProcessState]) -> None:
        self._state = state

    def __getitem__(self, section: str) -> Any:
        return self._state().get_parser()[section]

    def __getattr__(self, name: str) -> Any:
        # Tools that look for special attributes must not cause config.ini to be read.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._state().get_parser(), name)

    def __contains__(self, section: object) -> bool:
        return section in self._state().get_parser()

    def __iter__(self) -> Iterator[str]:
        return iter(self._state().get_parser())

    def __repr__(self) -> str:
        return "<config.ini, read on first use>"


def _apply_log_level(settings: Settings) -> None:
    # A level that nobody chose is left to the program.
    if settings.origin("loglevel").source != "default" and settings.loglevel != "NONE":
        logger.setLevel(settings.loglevel)
