"""The endpoints of named models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tinytroupe.llm.config.models import ModelConfig
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.rules.buckets import Bucket
from tinytroupe.llm.transports.adapted import AdaptedTransport, ModelAdapterBase
from tinytroupe.llm.transports.endpoint import Endpoint
from tinytroupe.llm.transports.presets import list_lacks, make_transport
from tinytroupe.llm.transports.transport import Transport


def make_endpoint(
    config: ModelConfig, registered: Mapping[str, type[ModelAdapterBase]]
) -> Endpoint:
    """Returns the endpoint of a model, named as the model is. Nothing is connected yet.

    Raises:
        ConfigError: The provider cannot be set up as the configuration says.
    """
    requests, tokens = config.requests_per_minute, config.tokens_per_minute
    return Endpoint(
        config.name,
        _make_transport(config, registered),
        weight=config.weight,
        timeout_seconds=config.timeout_seconds,
        max_concurrent=config.max_concurrent,
        requests=Bucket(requests) if requests else None,
        tokens=Bucket(tokens) if tokens else None,
    )


def list_model_lacks(config: ModelConfig) -> list[str]:
    """Returns what keeps a model from being asked, as the first call would say.

    That is an address, a key or a package that the entry's provider needs. A type that
    users registered is not made for this; what it needs is its own business.
    """
    if not config.provider:
        return []
    names = replace(config.names, where="")
    return list_lacks(_make_transport(replace(config, names=names), {}))


def _make_transport(
    config: ModelConfig, registered: Mapping[str, type[ModelAdapterBase]]
) -> Transport:
    if not config.provider:
        return AdaptedTransport(_make_adapter(config, registered[config.model_type]), config.name)
    version = config.client_args.get("api_version")
    try:
        return make_transport(
            config.provider,
            api_key=config.api_key,
            base_url=config.base_url,
            name=config.name,
            api_version=str(version) if version else None,
            names=config.names,
        )
    except ConfigError as error:
        raise ConfigError(f"{config.where}: {error.message}") from error


def _make_adapter(config: ModelConfig, cls: type[ModelAdapterBase]) -> ModelAdapterBase:
    known = {
        "api_key": config.api_key,
        "base_url": config.base_url,
        "timeout": config.timeout_seconds,
    }
    given = {key: value for key, value in known.items() if value is not None}
    try:
        return cls(config.name, config.model, **given, **config.client_args, **config.further)
    except TypeError as error:
        raise ConfigError(f"{config.where}: {cls.__name__} cannot be made: {error}") from error
