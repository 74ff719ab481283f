"""The clients of some settings, made when they are first needed and again when settings change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import RLock

from tinytroupe.llm.client import AsyncClient, Client, ClientDefaults
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.meter import Meter
from tinytroupe.llm.store.entry import Store
from tinytroupe.llm.transports.transport import Transport


@dataclass(frozen=True, slots=True)
class ClientPair:
    """A client of each colour over one transport, one store and one meter."""

    settings: Settings
    blocking: Client
    awaiting: AsyncClient

    def serves(self, settings: Settings) -> bool:
        """Tells whether other settings lead to the same place; all else is set for each call."""
        return _find_place(self.settings) == _find_place(settings)

    def close(self) -> None:
        """Closes the connections of the blocking client; the next call opens them again."""
        self.blocking.transport.close()


class ClientPairs:
    """Hands out the clients for the settings of the moment. Safe to use from many threads.

    Args:
        get_settings: Returns the settings of the moment, one and the same value until they change.
        make_transport: Makes the transport; nothing is connected before a live call.
        open_store: Returns the store, which may be shared with others.
    """

    def __init__(
        self,
        get_settings: Callable[[], Settings],
        make_transport: Callable[[Settings], Transport],
        open_store: Callable[[Settings], Store],
    ) -> None:
        self.meter = Meter()
        self._get_settings = get_settings
        self._make_transport = make_transport
        self._open_store = open_store
        self._lock = RLock()
        self._own: Mapping[str, object] = {}
        self._overlaid: tuple[Settings, Mapping[str, object], Settings] | None = None
        self._pair: ClientPair | None = None

    def overlay(self, own: Mapping[str, object]) -> None:
        """Sets what counts over the settings, from the next call on.

        Raises:
            ConfigError: A value is not allowed.
        """
        for name, value in own.items():
            SETTINGS[name].parse(value)
        self._own = own

    def get(self) -> ClientPair:
        """Returns clients that ask as the settings say now; calls under way keep theirs.

        Raises:
            ConfigError: The settings cannot be used, or a key that a file should
                hold cannot be read.
        """
        settings = self._find_settings()
        pair = self._pair
        if pair is not None and pair.settings is settings:
            return pair
        with self._lock:
            if self._pair is not None and self._pair.serves(settings):
                self._pair = replace(self._pair, settings=settings)
            else:
                self._pair = self._make_pair(settings)
            return self._pair

    def _find_settings(self) -> Settings:
        settings, own = self._get_settings(), self._own
        if not own:
            return settings
        held = self._overlaid
        if held is None or held[0] is not settings or held[1] is not own:
            held = self._overlaid = settings, own, settings.overlay(own)
        return held[2]

    def close(self) -> None:
        """Closes the connections of the blocking client; the next call opens them again."""
        if self._pair is not None:
            self._pair.close()

    def _make_pair(self, settings: Settings) -> ClientPair:
        transport, store = self._make_transport(settings), self._open_store(settings)
        defaults = ClientDefaults(
            retry=settings.retry,
            timeout_seconds=settings.timeout,
            deadline_seconds=settings.deadline,
            cache=settings.cache_api_calls,
            max_concurrent=settings.max_concurrent_model_calls,
        )
        return ClientPair(
            settings,
            Client(transport, store, defaults, meter=self.meter),
            AsyncClient(transport, store, defaults, meter=self.meter),
        )


def _find_place(settings: Settings) -> tuple[object, ...]:
    return (
        settings.base_url,
        settings.azure_api_version,
        settings.cache_folder,
        settings.max_concurrent_model_calls,
    )
