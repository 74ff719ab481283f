"""Puts models together out of configurations: endpoints, route, clients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import RLock
from typing import TypeAlias

import orjson

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.client import AsyncClient, Client, ClientDefaults
from tinytroupe.llm.config.endpoints import make_endpoint
from tinytroupe.llm.config.load import load_settings
from tinytroupe.llm.config.models import ModelConfig
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.layers.route import Route
from tinytroupe.llm.meter import Meter
from tinytroupe.llm.rules.routes import Strategy
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Store
from tinytroupe.llm.talk.models import EmbeddingModel, Model, ModelSetup
from tinytroupe.llm.transports.adapted import ModelAdapterBase
from tinytroupe.llm.transports.endpoint import Endpoint

AnyModel: TypeAlias = "Model | EmbeddingModel"


class Assembly:
    """Makes models; those that share an endpoint share its connections and its limits.

    Args:
        registered: The model types that users added, which may grow.
        store: Where answers are kept; None: in the folder that the settings name.
        settings: How calls are made where a model does not say; None: those of
            the current folder, read when they are first needed.
    """

    def __init__(
        self,
        registered: Mapping[str, type[ModelAdapterBase]],
        store: Store | None,
        settings: Settings | None,
    ) -> None:
        self.meter = Meter()
        self._registered = registered
        self._store = store
        self._settings = settings
        self._endpoints: dict[str, Endpoint] = {}
        self._lock = RLock()

    @property
    def settings(self) -> Settings:
        """How calls are made where a model does not say."""
        with self._lock:
            if self._settings is None:
                self._settings = load_settings()
            return self._settings

    def get_endpoint(self, config: ModelConfig) -> Endpoint:
        """Returns the endpoint of a configuration; one and the same each time."""
        with self._lock:
            if config.name not in self._endpoints:
                self._endpoints[config.name] = make_endpoint(config, self._registered)
            return self._endpoints[config.name]

    def make_model(
        self,
        name: str,
        main: Sequence[ModelConfig],
        spare: Sequence[ModelConfig] = (),
        strategy: Strategy = "round_robin",
    ) -> AnyModel:
        """Makes what asks one model, or balances between several of one kind.

        Args:
            name: How it is called.
            main: At least one.
            spare: Asked, in order, when the main ones are down or too slow.
            strategy: How one of the main ones is chosen.
        """
        everyone = [*main, *spare]
        first, alike = main[0], _ask_alike(everyone)
        tiers = [0] * len(main) + list(range(1, len(spare) + 1))
        endpoints = [
            self._place(config, tier, alike) for config, tier in zip(everyone, tiers, strict=True)
        ]
        if len(endpoints) == 1:
            # The client's own time-out says the same, without a route.
            endpoints = [replace(endpoints[0], timeout_seconds=None)]
        client, async_client = self._make_clients(Route(endpoints, strategy), everyone)
        setup = ModelSetup(
            name,
            first.model,
            {config.name: config.model for config in everyone},
            client,
            async_client,
            first.parameters if alike else FrozenDict(),
            first.namespace if alike else _name_world(name, everyone),
        )
        return Model(setup) if first.kind == "llm" else EmbeddingModel(setup)

    def close(self) -> None:
        """Closes connections and the store; the next call opens them again."""
        for endpoint in list(self._endpoints.values()):
            endpoint.transport.close()
        if self._store is not None:
            self._store.close()

    def forget(self) -> None:
        """Forgets the endpoints; those in use stay as they are."""
        with self._lock:
            self._endpoints.clear()

    def _place(self, config: ModelConfig, tier: int, alike: bool) -> Endpoint:
        endpoint = replace(self.get_endpoint(config), tier=tier)
        if alike:
            return endpoint
        return replace(endpoint, model=config.model, parameters=config.parameters)

    def _make_clients(
        self, route: Route, configs: Sequence[ModelConfig]
    ) -> tuple[Client, AsyncClient]:
        settings = self.settings
        retries = [config.max_retries for config in configs if config.max_retries is not None]
        attempts = max(retries) + 1 if retries else settings.max_attempts
        if len(configs) > 1:
            # Each endpoint may fail once, and the first one be asked again.
            attempts = max(attempts, len(configs) + 1)
        defaults = ClientDefaults(
            retry=replace(settings.retry, max_attempts=attempts),
            timeout_seconds=max(each.timeout_seconds or settings.timeout for each in configs),
            deadline_seconds=settings.deadline,
            cache=settings.cache_api_calls,
            max_concurrent=settings.max_concurrent_model_calls,
        )
        store = self._open_store()
        return (
            Client(route, store, defaults, meter=self.meter),
            AsyncClient(route, store, defaults, meter=self.meter),
        )

    def _open_store(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = DiskStore(self.settings.cache_folder)
            return self._store


def _ask_alike(configs: Sequence[ModelConfig]) -> bool:
    """Tells whether all models are asked in the same words, so that they share answers."""
    first = configs[0]
    return all(
        (config.model, config.parameters, config.namespace)
        == (first.model, first.parameters, first.namespace)
        for config in configs
    )


def _name_world(name: str, configs: Sequence[ModelConfig]) -> str:
    # Which of several models answers is chance, so what one of them said must never be
    # taken for the answer of a single one.
    asked = [(each.model, each.parameters, each.namespace) for each in configs]
    digest = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"{name}/{digest[:16]}"
