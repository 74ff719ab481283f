"""The configurations that are known, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tinytroupe.llm.config.load import suggest
from tinytroupe.llm.config.model_entries import KINDS, ModelSource, find_entries
from tinytroupe.llm.config.models import ModelConfig, ModelKind, list_model_types, read_model
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.transports.adapted import ModelAdapterBase


class UnknownModel(ConfigError, ValueError):
    """There is no model of this name, type or kind."""


class Catalog:
    """Holds configurations and registered model types. Whoever holds it guards it."""

    def __init__(self) -> None:
        self.configs: dict[str, ModelConfig] = {}
        self.registered: dict[str, type[ModelAdapterBase]] = {}

    def read(self, source: ModelSource, *, clear_existing: bool) -> list[ModelConfig]:
        """Reads the models of a source without adding them.

        Raises:
            ConfigError: An entry cannot be used, or its name is taken by a different one.
        """
        configs = [read_model(entry, self.registered) for entry in find_entries(source)]
        held = {} if clear_existing else self.configs
        for config in configs:
            other = held.get(config.name)
            if other is not None and replace(other, where=config.where) != config:
                raise ConfigError(
                    f"{config.where}: the name {config.name!r} is taken by {other.where}"
                )
        return configs

    def add(self, configs: Sequence[ModelConfig]) -> None:
        """Adds what `read` returned."""
        for config in configs:
            self.configs.setdefault(config.name, config)

    def register(self, model_type: str, adapter: type[ModelAdapterBase]) -> None:
        """Makes a model type known.

        Raises:
            ConfigError: The name is taken, or it is no such class.
        """
        if not (isinstance(adapter, type) and issubclass(adapter, ModelAdapterBase)):
            raise ConfigError(f"{adapter!r} is not a subclass of ModelAdapterBase")
        if adapter.__call__ is ModelAdapterBase.__call__:
            raise ConfigError(f"{adapter.__name__} has no __call__")
        if model_type in list_model_types():
            raise ConfigError(f"the model type {model_type!r} is built in; choose another name")
        if self.registered.setdefault(model_type, adapter) is not adapter:
            raise ConfigError(f"the model type {model_type!r} is registered already")

    def list_names(self, kind: ModelKind | None = None) -> list[str]:
        """Returns the names in the order in which they were added."""
        return [
            name for name, config in self.configs.items() if kind is None or config.kind == kind
        ]

    def find(self, name: str | None) -> ModelConfig:
        """Returns a configuration by name, or the first one.

        Raises:
            UnknownModel: There is none.
        """
        if not self.configs:
            raise UnknownModel("No models found in configuration.")
        if name is None:
            return next(iter(self.configs.values()))
        config = self.configs.get(name)
        if config is None:
            known = ", ".join(self.configs)
            near = suggest(str(name), self.configs)
            hint = near if "did you mean" in near else ""
            raise UnknownModel(f"there is no model {name!r}{hint}; available are: {known}")
        return config

    def search(self, model_type: str | None, model_name: str | None) -> str:
        """Returns the name of the first configuration of a type, for a model, or both.

        Raises:
            UnknownModel: There is none.
        """
        for name, config in self.configs.items():
            types = (config.model_type, config.kind, config.provider)
            if model_type is not None and KINDS.get(model_type, model_type) not in types:
                continue
            if model_name is None or model_name == config.model:
                return name
        wanted = [f"model_type {model_type!r}"] if model_type is not None else []
        wanted += [f"model_name {model_name!r}"] if model_name is not None else []
        known = ", ".join(self.configs) or "none"
        raise UnknownModel(f"there is no model with {' and '.join(wanted)}; available are: {known}")

    def find_spare(self, main: Sequence[ModelConfig], names: Sequence[str]) -> list[ModelConfig]:
        """Returns the fallbacks, in order, without those that are asked anyway."""
        taken = {config.name for config in main}
        spare = []
        for name in (*names, *(name for config in main for name in config.fallback)):
            if name not in taken:
                taken.add(name)
                spare.append(self.find(name))
        return spare


def check_kinds(where: str, kind: ModelKind, configs: Sequence[ModelConfig]) -> None:
    """Checks that all are of one kind.

    Raises:
        ConfigError: One is of another kind.
    """
    for config in configs:
        if config.kind != kind:
            raise ConfigError(
                f"{where}: {config.name!r} is of kind {config.kind}, not {kind}; models of "
                "different kinds cannot stand in for each other"
            )
