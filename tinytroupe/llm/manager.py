"""Models by name: read from configurations, asked one by one or balanced."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any, cast

import orjson

from tinytroupe.llm.config.load import load_settings, suggest
from tinytroupe.llm.config.model_entries import (
    KINDS,
    NAME_KEYS,
    ModelSource,
)
from tinytroupe.llm.config.models import (
    ModelKind,
)
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.errors import BadRequest, ConfigError
from tinytroupe.llm.meter import Meter
from tinytroupe.llm.rules.routes import STRATEGIES
from tinytroupe.llm.store.entry import Store
from tinytroupe.llm.talk.assembly import AnyModel, Assembly
from tinytroupe.llm.talk.catalog import Catalog, UnknownModel, check_kinds
from tinytroupe.llm.talk.conversation import format_messages
from tinytroupe.llm.talk.models import EmbeddingModel, Model
from tinytroupe.llm.transports.adapted import ModelAdapterBase

if TYPE_CHECKING:
    from tinytroupe.llm.transports.openai import SyncSDK
    from tinytroupe.llm.transports.sdk_shapes import SDKMessage

__all__ = [
    "ModelManager",
    "UnknownModel",
    "call_llm",
    "configure_load_balancer",
    "get_embedding_model",
    "get_model",
    "get_model_manager",
    "load_model_configs",
    "register_model",
]

CLIENT_TIMEOUT_SECONDS = 120.0
"""For clients of the SDK, where the configuration does not say."""


class ModelManager:
    """Reads named models and hands out what asks them. Safe to use from many threads.

    Args:
        config: `{"models": {name: {…}}}`, a list of entries, or a path; None: the
            sections `[Model name]` of config.ini in the current folder, where it has any.
        store: Where answers are kept; None: in the folder that the settings name.
        settings: How calls are made where a model does not say; None: those of
            the current folder, read when they are first needed.

    Raises:
        ConfigError: An entry cannot be used; the message says source, entry and key.
    """

    def __init__(
        self,
        config: ModelSource | None = None,
        *,
        store: Store | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.clients: dict[str, SyncSDK] = {}
        self._lock = RLock()
        self._catalog = Catalog()
        self._assembly = Assembly(self._catalog.registered, store, settings)
        self._models: dict[str, AnyModel] = {}
        self._balancers: dict[ModelKind, AnyModel] = {}
        if config is not None:
            self.load_model_configs(config)
        elif path := self.settings.path:
            self.load_model_configs(path)

    @property
    def settings(self) -> Settings:
        """How calls are made where a model does not say."""
        return self._assembly.settings

    @property
    def meter(self) -> Meter:
        """What the calls of all models cost."""
        return self._assembly.meter

    def load_model_configs(self, source: ModelSource, *, clear_existing: bool = False) -> list[str]:
        """Adds the models of a source, and returns their names.

        Args:
            source: A path (JSON, YAML, a folder of YAML files, config.ini), a
                mapping, or a list of entries.
            clear_existing: Whether those known before are forgotten.

        Raises:
            ConfigError: An entry cannot be used, or its name is taken by a
                different one. Then none of the source is added.
        """
        with self._lock:
            configs = self._catalog.read(source, clear_existing=clear_existing)
            if clear_existing:
                self._forget()
            self._catalog.add(configs)
        return [config.name for config in configs]

    def register(self, model_type: str, adapter: type[ModelAdapterBase]) -> None:
        """Makes a model of one's own known by a `model_type` of configurations.

        Raises:
            ConfigError: The name is taken, or it is no such class.
        """
        with self._lock:
            self._catalog.register(model_type, adapter)

    def list_models(self, kind: ModelKind | None = None) -> list[str]:
        """Returns the names of the models, in the order in which they were added."""
        return self._catalog.list_names(kind)

    def get_model_config(self, model_name: str | None = None) -> dict[str, Any]:
        """Returns a model's entry as it was written, its variables put in.

        Args:
            model_name: The name in the configuration; None: the first one.

        Raises:
            UnknownModel: There is none; also a ValueError.
        """
        return dict(self._catalog.find(model_name).source)

    def create_client(self, model_name: str | None = None) -> SyncSDK:
        """Returns a client of OpenAI's SDK for a model's endpoint; one and the same each time.

        Its calls do not go through the chain: no cache, no balancing, no meter.

        Raises:
            UnknownModel: There is no such model; also a ValueError.
            ConfigError: Its endpoint does not speak OpenAI's API, or has no key.
        """
        from tinytroupe.llm.transports.openai import OpenAITransport

        config = self._catalog.find(model_name)
        with self._lock:
            if config.name not in self.clients:
                transport = self._assembly.get_endpoint(config).transport
                if not isinstance(transport, OpenAITransport):
                    raise ConfigError(
                        f"{config.where}: {config.provider or config.model_type} is not asked "
                        "through OpenAI's SDK"
                    )
                sdk = transport.make_sdk()
                retries = 2 if config.max_retries is None else config.max_retries
                self.clients[config.name] = sdk.with_options(
                    timeout=config.timeout_seconds or CLIENT_TIMEOUT_SECONDS, max_retries=retries
                )
            return self.clients[config.name]

    def get_model(
        self,
        config_name: str | None = None,
        model_type: str | None = None,
        model_name: str | None = None,
    ) -> Any:
        """Returns a model: by name, by what it is, the balancer, or the first one.

        Args:
            config_name: The name in the configuration, or of a balancer.
            model_type: A kind (`llm`, `embedding`), a provider, or a type as it was written.
            model_name: What the endpoint calls the model.

        Returns:
            A `Model`, or an `EmbeddingModel` where that is what was named.

        Raises:
            UnknownModel: There is none; also a ValueError.
        """
        with self._lock:
            if config_name is not None:
                return self._get_named(config_name)
            kind = cast(ModelKind, KINDS.get(model_type or "llm", "llm"))
            if model_name is None and (model_type is None or model_type in KINDS):
                return self._balancers.get(kind) or self._get_first(kind)
            return self._get_named(self._catalog.search(model_type, model_name))

    def get_embedding_model(self, config_name: str | None = None) -> EmbeddingModel:
        """Returns an embedding model: by name, the balancer, or the first one.

        Raises:
            UnknownModel: There is none; also a ValueError.
        """
        model = self.get_model(config_name, None if config_name else "embedding")
        if not isinstance(model, EmbeddingModel):
            raise UnknownModel(f"{config_name!r} is not an embedding model")
        return model

    def configure_load_balancer(
        self,
        model_configs: Iterable[str] | None = None,
        strategy: str = "round_robin",
        config_name: str = "load_balancer",
        model_type: str = "llm",
        fallback: Iterable[str] = (),
    ) -> Any:
        """Puts a balancer over models; `get_model()` then returns it.

        Args:
            model_configs: Names of models of one kind; None: all of the kind.
            strategy: `round_robin`, `random`, `weighted`, `least_busy` or `latency`.
            config_name: How the balancer is called.
            model_type: The kind, `llm` or `embedding`.
            fallback: Names of models that are asked, in order, when the others
                are down or too slow; those that the models name themselves follow.

        Returns:
            The balancer, which is used like any model.

        Raises:
            ConfigError: There is nothing to balance, the kinds differ, or there is
                no such strategy, kind or name.
        """
        where = f"balancer {config_name!r}"
        if model_type not in KINDS:
            raise ConfigError(
                f"{where}: there is no kind {model_type!r}{suggest(model_type, KINDS)}"
            )
        if strategy not in STRATEGIES:
            raise ConfigError(
                f"{where}: there is no strategy {strategy!r}{suggest(str(strategy), STRATEGIES)}"
            )
        kind = cast(ModelKind, KINDS[model_type])
        with self._lock:
            names = self.list_models(kind) if model_configs is None else _read_names(model_configs)
            if not names:
                raise ConfigError(f"{where}: there is no {kind} model to balance")
            if config_name in self._catalog.list_names():
                raise ConfigError(f"{where}: a model has this name already")
            main = [self._catalog.find(name) for name in names]
            spare = self._catalog.find_spare(main, _read_names(fallback))
            check_kinds(where, kind, [*main, *spare])
            balancer = self._assembly.make_model(config_name, main, spare, strategy)
            self._models[config_name] = self._balancers[kind] = balancer
            return balancer

    def close(self) -> None:
        """Closes connections and the store; the next call opens them again."""
        self._assembly.close()
        for sdk in list(self.clients.values()):
            sdk.close()

    def _get_first(self, kind: ModelKind) -> AnyModel:
        names = self.list_models(kind)
        if not names:
            self._catalog.find(None)
            known = ", ".join(self.list_models())
            raise UnknownModel(f"there is no {kind} model; available are: {known}")
        return self._get_named(names[0])

    def _get_named(self, name: str) -> AnyModel:
        if name not in self._models:
            config = self._catalog.find(name)
            spare = self._catalog.find_spare([config], [])
            check_kinds(config.where, config.kind, [config, *spare])
            self._models[name] = self._assembly.make_model(name, [config], spare)
        return self._models[name]

    def _forget(self) -> None:
        self.close()
        self._assembly.forget()
        for held in (self._catalog.configs, self._models, self._balancers, self.clients):
            held.clear()


def _read_names(names: Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def call_llm(
    model: str,
    config: ModelSource | ModelManager | None = None,
    usr_prompt: object = "Hello, how can I help you?",
    tools: Sequence[Mapping[str, Any]] | None = None,
    messages: object = None,
) -> SDKMessage:
    """Asks a named model once, through the chain, and returns the SDK's message.

    Args:
        model: The name in the configuration.
        config: As for `ModelManager`, or a flat `{"api_key": …, "temperature": …}`,
            which is that of the model; or a manager.
        usr_prompt: A text, or an iterable of messages.
        tools: What the model may call.
        messages: A conversation; wins over `usr_prompt`.

    Raises:
        UnknownModel: There is no such model; also a ValueError.
        LLMError: There is no answer; the class says why.
    """
    from tinytroupe.llm.transports.sdk_shapes import to_sdk_message

    conversation = format_messages(messages) or format_messages(usr_prompt)
    if not conversation:
        raise BadRequest("there are neither messages nor a usr_prompt")
    manager = config if isinstance(config, ModelManager) else _find_manager(model, config)
    asked = manager.get_model(model)
    if not isinstance(asked, Model):
        raise UnknownModel(f"{model!r} is an embedding model, which does not talk")
    further = {"tools": list(tools)} if tools else {}
    return to_sdk_message(asked(conversation, **further).response)


class _Process:
    """What the functions below share."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.manager: ModelManager | None = None
        self.by_config: dict[str, ModelManager] = {}


_process = _Process()
_MOST_CONFIGS = 64


def _find_manager(model: str, config: ModelSource | None) -> ModelManager:
    """Returns the manager of a configuration; the same one for an equal configuration."""
    if config is None:
        return get_model_manager()
    if isinstance(config, Mapping) and not _holds_models(config):
        config = {"models": {model: config}}
    key = _digest(config)
    with _process.lock:
        if key not in _process.by_config:
            if len(_process.by_config) >= _MOST_CONFIGS:
                _process.by_config.pop(next(iter(_process.by_config))).close()
            _process.by_config[key] = ModelManager(config)
        return _process.by_config[key]


def _holds_models(config: Mapping[str, object]) -> bool:
    names = ("models", *NAME_KEYS, *KINDS)
    return any(name in config for name in names)


def _digest(config: object) -> str:
    # A digest, so that no key of an account is held as one of a dictionary. The cache belongs
    # to the current folder, so the settings do as well.
    folder = load_settings().folder
    shown = orjson.dumps([folder, config], default=str, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(shown).hexdigest()


def get_model_manager() -> ModelManager:
    """Returns the process's manager; made at first with the models of config.ini, if any."""
    with _process.lock:
        if _process.manager is None:
            _process.manager = ModelManager()
        return _process.manager


def load_model_configs(source: ModelSource, *, clear_existing: bool = False) -> list[str]:
    """Adds models to the process's manager. See `ModelManager.load_model_configs`."""
    return get_model_manager().load_model_configs(source, clear_existing=clear_existing)


def register_model(model_type: str, adapter: type[ModelAdapterBase]) -> None:
    """Makes a model of one's own known to the process's manager. See `ModelManager.register`."""
    get_model_manager().register(model_type, adapter)


def get_model(
    config_name: str | None = None, model_type: str | None = None, model_name: str | None = None
) -> Any:
    """Returns a model of the process's manager. See `ModelManager.get_model`."""
    return get_model_manager().get_model(config_name, model_type, model_name)


def get_embedding_model(config_name: str | None = None) -> EmbeddingModel:
    """Returns an embedding model of the process's manager."""
    return get_model_manager().get_embedding_model(config_name)


def configure_load_balancer(
    model_configs: Iterable[str] | None = None,
    strategy: str = "round_robin",
    config_name: str = "load_balancer",
    model_type: str = "llm",
    fallback: Iterable[str] = (),
) -> Any:
    """Puts a balancer over models of the process's manager. See `ModelManager`."""
    return get_model_manager().configure_load_balancer(
        model_configs, strategy, config_name, model_type, fallback
    )
