"""Named model configurations: which model, where, and how it is asked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

from tinytroupe.llm.canonical import FrozenDict, freeze, freeze_mapping
from tinytroupe.llm.config.load import suggest
from tinytroupe.llm.config.model_entries import KINDS, ModelEntry
from tinytroupe.llm.config.setting import Kind as ValueKind
from tinytroupe.llm.config.setting import Setting
from tinytroupe.llm.errors import BadRequest, ConfigError
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames
from tinytroupe.llm.transports.presets import PROVIDER_NAMES

ModelKind: TypeAlias = Literal["llm", "embedding"]

REHEARSAL = "rehearsal"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One named model. Immutable; its keys are in no repr."""

    name: str
    model: str
    """What the endpoint calls the model."""
    kind: ModelKind
    model_type: str
    """As it was written: a kind, a provider with or without a kind, or a registered type."""
    provider: str
    """One of `PROVIDER_NAMES`; empty for a registered type."""
    where: str
    """Source and entry, for errors."""
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    timeout_seconds: float | None = None
    """For one attempt as a whole; None: as the settings say."""
    max_retries: int | None = None
    """Tries after the first; None: as the settings say."""
    parameters: FrozenDict = field(default_factory=FrozenDict)
    """What goes into each request."""
    client_args: Mapping[str, object] = field(
        default_factory=lambda: MappingProxyType({}), repr=False
    )
    """What else the connection takes, such as `api_version`."""
    weight: float = 1.0
    """Its share of the calls under the strategy `weighted`."""
    fallback: tuple[str, ...] = ()
    """Names of models that are asked, in order, when this one is down or too slow."""
    max_concurrent: int | None = None
    """Attempts at its endpoint at a time; None: no limit."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    namespace: str = ""
    """Keeps its answers apart in the store."""
    further: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """Keys that a registered type is handed as they are."""
    names: SettingNames = field(default=ARGUMENTS, repr=False, compare=False)
    """Where its settings stand and what they are called there, for errors."""
    source: Mapping[str, object] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )
    """The entry as it was written, its variables put in."""


def read_model(entry: ModelEntry, registered: Collection[str] = ()) -> ModelConfig:
    """Checks an entry and returns the model that it configures.

    Args:
        entry: As it was found.
        registered: The model types that users added.

    Raises:
        ConfigError: A key is unknown or its value not allowed; the message says
            the source, the entry and the key, and what is near.
    """
    return _Reading(entry, registered).finish()


class _Reading:
    """Takes an entry apart, key by key."""

    def __init__(self, entry: ModelEntry, registered: Collection[str]) -> None:
        self.entry = entry
        self.registered = registered
        self.rest = {key: value for key, value in entry.values.items() if value is not None}
        self.written: dict[str, str] = {}

    def finish(self) -> ModelConfig:
        kind, model_type, provider = self._take_type()
        for group in ("client_args", "client_kwargs"):
            self._lift(group)
        values = {row.name: self._take(row) for row in _ROWS}
        parameters = self._take_parameters()
        fallback = self._take_names("fallback")
        client_args = {key: self.rest.pop(key) for key in _CLIENT_KEYS if key in self.rest}
        if not provider:
            further, self.rest = self.rest, {}
        else:
            further = {}
        if self.rest:
            key = next(iter(self.rest))
            raise self._refuse(
                key,
                f"there is no such key{suggest(key, KEYS)}; what else a model takes goes into "
                "generate_args",
            )
        return ModelConfig(
            name=self.entry.name,
            model=cast(str, values["model"] or self.entry.name),
            kind=kind,
            model_type=model_type,
            provider=provider,
            where=self.entry.where,
            api_key=cast("str | None", values["api_key"]),
            base_url=cast("str | None", values["base_url"]),
            timeout_seconds=cast("float | None", values["timeout"]),
            max_retries=cast("int | None", values["max_retries"]),
            parameters=parameters,
            client_args=MappingProxyType(client_args),
            weight=cast(float, values["weight"] or 1.0),
            fallback=fallback,
            max_concurrent=cast("int | None", values["max_concurrent"]),
            requests_per_minute=cast("int | None", values["requests_per_minute"]),
            tokens_per_minute=cast("int | None", values["tokens_per_minute"]),
            # A rehearsed answer must never be taken for a model's.
            namespace=cast(str, values["namespace"] or (provider if provider == REHEARSAL else "")),
            further=MappingProxyType(further),
            names=self._name_settings(),
            source=MappingProxyType(dict(self.entry.values)),
        )

    def _name_settings(self) -> SettingNames:
        called = {"api_key": "api_key", "base_url": "base_url", "model": "model"}
        called |= self.entry.preferred
        called |= {name: key for name, key in self.written.items() if name in called}
        return SettingNames(self.entry.where, **called)

    def _take_type(self) -> tuple[ModelKind, str, str]:
        given = self.rest.pop("model_type", None)
        provider = self.rest.pop("provider", None)
        for key, value in (("model_type", given), ("provider", provider)):
            if value is not None and not isinstance(value, str):
                raise self._refuse(key, f"{value!r} is not a text")
        written = cast(str, given or "")
        if written in self.registered:
            return self._choose_kind(None), written, ""
        named, kind = _split_type(written)
        if named is None:
            types = list_model_types(self.registered)
            raise self._refuse("model_type", f"{written!r} is not known{suggest(written, types)}")
        chosen = cast(str, provider or "")
        if chosen and chosen not in PROVIDER_NAMES:
            raise self._refuse(
                "provider", f"{provider!r} is not known{suggest(chosen, PROVIDER_NAMES)}"
            )
        if chosen and named and chosen != named:
            raise self._refuse("provider", f"it is {provider!r}, but model_type says {written!r}")
        return self._choose_kind(kind), written, chosen or named or self._guess_provider()

    def _choose_kind(self, kind: str | None) -> ModelKind:
        said = self.entry.kind
        if said and kind and said != kind:
            raise self._refuse("model_type", f"it is for {kind}, but stands under {said}")
        return cast(ModelKind, said or kind or "llm")

    def _guess_provider(self) -> str:
        return "openai-compatible" if self.rest.get("base_url") else "openai"

    def _lift(self, group: str) -> None:
        """Puts the keys of a group among the others."""
        given = self.rest.pop(group, None)
        if given is None:
            return
        if not isinstance(given, Mapping):
            raise self._refuse(group, f"it is of type {type(given).__name__}, not a mapping")
        for key, value in given.items():
            if key in self.rest:
                raise self._refuse(f"{group}.{key}", "it is given beside client_args, too")
            if value is not None:
                self.rest[key] = value

    def _take(self, row: Setting) -> object:
        keys = [key for key in (row.key, *row.other_keys) if key in self.rest]
        if not keys:
            return row.default
        if len(keys) > 1:
            raise self._refuse(keys[1], f"only one of {' and '.join(keys)} may be given")
        self.written[row.name] = keys[0]
        value = self._parse(row, keys[0], self.rest.pop(keys[0]))
        if row.name == "api_key" and _UNFILLED.fullmatch(str(value)):
            raise self._refuse(
                keys[0], "$ alone reads no variable of the environment; write ${NAME}, in braces"
            )
        return value

    def _parse(self, row: Setting, key: str, value: object) -> object:
        try:
            return row.parse(value)
        except ConfigError as error:
            # A key of an account must not be quoted in an error.
            said = "it is not a key" if row.name == "api_key" else error.message
            raise self._refuse(key, said) from None

    def _take_parameters(self) -> FrozenDict:
        given: dict[str, object] = {}
        for group in ("generate_args", "generate_kwargs"):
            value = self.rest.pop(group, None)
            if value is not None and not isinstance(value, Mapping):
                raise self._refuse(group, f"it is of type {type(value).__name__}, not a mapping")
            for key, item in (value or {}).items():
                row = _PARAMETERS.get(str(key))
                given[str(key)] = self._parse(row, f"{group}.{key}", item) if row else item
        for key, row in _PARAMETERS.items():
            if key in self.rest:
                if key in given:
                    raise self._refuse(key, "it is given in generate_args, too")
                given[key] = self._parse(row, key, self.rest.pop(key))
        for key in _FREE_PARAMETERS:
            if key in self.rest:
                given[key] = self.rest.pop(key)
        reserved = {"model", "messages", "input", "prompt", "stream"}.intersection(given)
        if reserved:
            raise self._refuse(reserved.pop(), "it cannot be a parameter of generation")
        try:
            return freeze_mapping({k: v for k, v in given.items() if v is not None}, "the value")
        except BadRequest as error:
            raise self._refuse("generate_args", error.message) from None

    def _take_names(self, key: str) -> tuple[str, ...]:
        value = self.rest.pop(key, ())
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",") if name.strip()]
        names = freeze(value, key) if isinstance(value, (list, tuple)) else None
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise self._refuse(key, "it must be a list of names")
        return cast("tuple[str, ...]", names)

    def _refuse(self, key: str, said: str) -> ConfigError:
        return ConfigError(f"{self.entry.where}, key {key}: {said}")


def list_model_types(registered: Collection[str] = ()) -> tuple[str, ...]:
    """Returns what a `model_type` may be."""
    types = [f"{provider}_{kind}" for provider in PROVIDER_NAMES for kind in ("chat", "embedding")]
    return (*registered, *KINDS, *PROVIDER_NAMES, *types)


def _split_type(model_type: str) -> tuple[str | None, str | None]:
    """Returns provider and kind; an empty provider: not said; None: there is no such type."""
    if not model_type:
        return "", None
    if model_type in KINDS:
        return "", KINDS[model_type]
    provider, _, kind = model_type.rpartition("_")
    if not provider or kind not in KINDS:
        provider, kind = model_type, ""
    return (provider, KINDS.get(kind)) if provider in PROVIDER_NAMES else (None, None)


def _row(
    name: str,
    kind: ValueKind,
    *other_keys: str,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> Setting:
    return Setting(
        name,
        "",
        name,
        kind,
        None,
        "",
        minimum,
        maximum,
        above,
        optional=True,
        other_keys=other_keys,
    )


_ROWS = (
    _row("model", "text", "model_name", "deployment_name"),
    _row("api_key", "text"),
    _row("base_url", "address", "api_base", "azure_endpoint", "endpoint"),
    _row("timeout", "number", above=0),
    _row("max_retries", "whole number", minimum=0),
    _row("weight", "number", above=0),
    _row("max_concurrent", "whole number", minimum=1),
    _row("requests_per_minute", "whole number", minimum=1),
    _row("tokens_per_minute", "whole number", minimum=1),
    _row("namespace", "text", "cache_namespace"),
)

_PARAMETERS = {
    row.name: row
    for row in (
        _row("temperature", "number", minimum=0, maximum=2),
        _row("max_tokens", "whole number", minimum=1),
        _row("max_completion_tokens", "whole number", minimum=1),
        _row("top_p", "number", minimum=0, maximum=1),
        _row("frequency_penalty", "number", minimum=-2, maximum=2),
        _row("presence_penalty", "number", minimum=-2, maximum=2),
        _row("seed", "whole number"),
        _row("n", "whole number", minimum=1),
        _row("dimensions", "whole number", minimum=1),
        _row("reasoning_effort", "text"),
    )
}

_UNFILLED = re.compile(r"\$[A-Z_][A-Z0-9_]*")
"""No key looks so, but what a shell would fill in."""

_FREE_PARAMETERS = ("stop", "response_format", "extra_body", "user")
_CLIENT_KEYS = ("api_version",)

KEYS = (
    "model_type",
    "provider",
    "client_args",
    "generate_args",
    "fallback",
    *(key for row in _ROWS for key in (row.name, *row.other_keys)),
    *_PARAMETERS,
    *_FREE_PARAMETERS,
    *_CLIENT_KEYS,
)
"""What an entry may hold beside its name."""
