"""The models of a site: a YAML file each, in the folder that `LLM_CONFIGS_PATH` names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from types import MappingProxyType

from django.core.signals import setting_changed

from tinytroupe.contrib.django.conf import is_of_the_app, read_configs_path, read_core_settings
from tinytroupe.contrib.django.errors import UnknownConfig
from tinytroupe.llm.config.load import suggest
from tinytroupe.llm.config.model_entries import NAME_KEYS, ModelEntry, is_yaml, read_entry
from tinytroupe.llm.config.models import KEYS, ModelConfig, read_model
from tinytroupe.llm.config.setting import Setting
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.manager import ModelManager
from tinytroupe.llm.talk.models import Model

CONFIG_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "AzureOpenAILLMConfig": "azure",
        "OpenAILLMConfig": "openai",
        "GeminiConfig": "gemini",
        "AnthropicConfig": "anthropic",
        "GroqConfig": "groq",
        "OpenAICompatibleConfig": "openai-compatible",
        "RehearsalConfig": "rehearsal",
    }
)
"""What `llm_config_class` may be, and the provider that is then asked."""

_CLASS = "llm_config_class"
_TOOLS = Setting("tools_enabled", "", "tools_enabled", "switch", False, "")
_SAID_BY_CLASS = ("provider", "model_type")
_FILE_KEYS = (
    *NAME_KEYS,
    _CLASS,
    _TOOLS.key,
    *(key for key in KEYS if key not in _SAID_BY_CLASS),
)
_PREFERRED_KEYS = {"base_url": "endpoint", "model": "deployment_name"}
_ADDRESS_KEYS = ("endpoint", "base_url", "api_base", "azure_endpoint")
_MODEL_KEYS = ("deployment_name", "model_name", "model")


@dataclass(frozen=True, slots=True)
class LLMConfig:
    """A model of the site, and what it may do. Immutable; its keys are in no repr."""

    name: str
    config_class: str
    """One of `CONFIG_CLASSES`."""
    tools_enabled: bool
    """Whether it may be given tools."""
    model: ModelConfig = field(repr=False)
    path: Path
    """The file that says so."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds: files that can be used, and what is wrong with the others."""

    configs: Mapping[str, LLMConfig]
    """By name."""
    faults: Mapping[str, ConfigError]
    """By the name that the file should have; each error names the file."""


def list_config_files(folder: Path) -> list[Path]:
    """Returns the files of a folder that configure a model, by name.

    Raises:
        ConfigError: There is no such folder, or it cannot be looked into.
    """
    try:
        return sorted(item for item in folder.iterdir() if is_yaml(item) and not item.is_dir())
    except OSError as error:
        said = error.strerror or error
        raise ConfigError(f"the folder {folder} cannot be read: {said}") from error


def read_config(path: Path) -> LLMConfig:
    """Reads a file: plain YAML, in which `${VAR}` is a variable of the environment.

    Raises:
        ConfigError: It cannot be used; the message names the file and the key, and
            shows no key of an account.
    """
    entry = read_entry(path)
    values = dict(entry.values)
    config_class = _take_class(entry, values)
    values["provider"] = provider = CONFIG_CLASSES[config_class]
    tools_enabled = _take_switch(entry, values)
    _check_address(entry, values, provider)
    model = read_model(_make_entry(entry.name, entry.where, values))
    if "api_version" in model.client_args and provider != "azure":
        raise _refuse(entry, "api_version", "only AzureOpenAILLMConfig has one")
    return LLMConfig(entry.name, config_class, tools_enabled, model, path)


def survey_configs(folder: Path) -> Survey:
    """Reads all files of a folder.

    Raises:
        ConfigError: There is no such folder, or it cannot be looked into.
    """
    files = list_config_files(folder)
    configs: dict[str, LLMConfig] = {}
    faults: dict[str, ConfigError] = {}
    for name in dict.fromkeys(file.stem for file in files):
        try:
            configs[name] = read_config(_choose_file(folder, files, name))
        except ConfigError as error:
            faults[name] = error
    for config in configs.values():
        try:
            for name in config.model.fallback:
                if name not in faults:
                    _check_spare(config, name, configs)
        except ConfigError as error:
            faults[config.name] = error
    usable = {name: config for name, config in configs.items() if name not in faults}
    return Survey(usable, faults)


def load_configs() -> dict[str, LLMConfig]:
    """Returns all models of the site, by name, as their files say at the moment.

    Raises:
        ConfigError: `LLM_CONFIGS_PATH` is not set or names no folder, or a file cannot
            be used; the message tells of each.
    """
    survey = survey_configs(find_folder())
    if survey.faults:
        raise ConfigError("; ".join(error.message for error in survey.faults.values()))
    return dict(survey.configs)


def find_folder() -> Path:
    """Returns the folder that `LLM_CONFIGS_PATH` names.

    Raises:
        ConfigError: The setting says nothing, or something else.
    """
    folder = read_configs_path()
    if folder is None:
        raise ConfigError("LLM_CONFIGS_PATH is not set: it names the folder of the models' files")
    return folder


def get_config(name: str) -> LLMConfig:
    """Returns a model of the site; read when it is first asked for, and then kept.

    Raises:
        UnknownConfig: No file has this name; the message says which is near.
        ConfigError: The file cannot be used, or there is no folder of them.
    """
    held = _held
    found = held.configs.get(name)
    if found is not None:
        return found
    with held.lock:
        if name not in held.configs:
            folder = find_folder()
            held.configs[name] = read_config(_choose_file(folder, list_config_files(folder), name))
        return held.configs[name]


def get_model(name: str) -> Model:
    """Returns what asks a model of the site; one and the same each time. Connects to nothing yet.

    All of them share one store, one meter and the settings that `TINYTROUPE` names.

    Raises:
        UnknownConfig: No file has this name, or that of a fallback.
        ConfigError: A file cannot be used, or a setting.
    """
    held = _held
    found = held.models.get(name)
    if found is not None:
        return found
    with held.lock:
        if name not in held.models:
            config = get_config(name)
            models = [each.model for each in (config, *_find_spare(config).values())]
            manager = held.get_manager()
            manager.load_model_configs(
                [_make_entry(each.name, each.where, each.source) for each in models]
            )
            held.models[name] = manager.get_model(name)
        return held.models[name]


class _Held:
    """What the process keeps until a setting changes."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.configs: dict[str, LLMConfig] = {}
        self.models: dict[str, Model] = {}
        self.manager: ModelManager | None = None

    def get_manager(self) -> ModelManager:
        if self.manager is None:
            self.manager = ModelManager([], settings=read_core_settings())
        return self.manager


_held = _Held()


def forget_configs() -> None:
    """Lets the next use read the files again. Calls under way end as they began."""
    global _held
    left, _held = _held, _Held()
    if left.manager is not None:
        left.manager.close()


def _forget(*, setting: str, **_: object) -> None:
    if is_of_the_app(setting):
        forget_configs()


setting_changed.connect(_forget)


def _choose_file(folder: Path, files: Iterable[Path], name: str) -> Path:
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(file.stem, []).append(file)
    found = by_name.get(name, [])
    if len(found) > 1:
        raise ConfigError(f"two files have the name {name!r}: {found[0]} and {found[1]}")
    if not found:
        near = suggest(name, by_name) if by_name else "; it holds no file *.yaml or *.yml"
        raise UnknownConfig(f"the folder {folder} has no configuration {name!r}{near}")
    return found[0]


def _find_spare(config: LLMConfig) -> dict[str, LLMConfig]:
    spare = {}
    for name in config.model.fallback:
        try:
            spare[name] = get_config(name)
        except UnknownConfig as error:
            raise UnknownConfig(f"{config.model.where}, key fallback: {error.message}") from error
        _check_spare(config, name, spare)
    return spare


def _check_spare(config: LLMConfig, name: str, known: Mapping[str, LLMConfig]) -> None:
    where = f"{config.model.where}, key fallback"
    if name not in known:
        near = suggest(name, [each for each in known if each != config.name]) if known else ""
        raise UnknownConfig(f"{where}: there is no configuration {name!r}{near}")
    if config.tools_enabled and not known[name].tools_enabled:
        raise ConfigError(
            f"{where}: {name!r} has tools disabled, so it cannot stand in for a model that has "
            "them enabled"
        )


def _make_entry(name: str, where: str, values: Mapping[str, object]) -> ModelEntry:
    return ModelEntry(name, where, values, preferred=_PREFERRED_KEYS)


def _take_class(entry: ModelEntry, values: dict[str, object]) -> str:
    for key in values:
        if key in _SAID_BY_CLASS:
            raise _refuse(entry, key, f"{_CLASS} says who is asked; leave it out")
        if key not in _FILE_KEYS:
            near = suggest(key, _FILE_KEYS)
            raise _refuse(
                entry,
                key,
                f"there is no such key{near}; what else a model takes goes into generate_args",
            )
    config_class = values.pop(_CLASS, None)
    if config_class is None:
        raise ConfigError(f"{entry.where} has no {_CLASS}: one of {', '.join(CONFIG_CLASSES)}")
    if not isinstance(config_class, str) or config_class not in CONFIG_CLASSES:
        near = suggest(str(config_class), CONFIG_CLASSES)
        raise _refuse(entry, _CLASS, f"there is no class {config_class!r}{near}")
    return config_class


def _take_switch(entry: ModelEntry, values: dict[str, object]) -> bool:
    value = values.pop(_TOOLS.key, None)
    if value is None:
        return False
    try:
        return _TOOLS.parse(value) is True
    except ConfigError as error:
        raise _refuse(entry, _TOOLS.key, error.message) from None


def _check_address(entry: ModelEntry, values: dict[str, object], provider: str) -> None:
    """Refuses an address that goes on behind the endpoint's; of Gemini's it takes the model."""
    for key in _ADDRESS_KEYS:
        address = values.get(key)
        if not isinstance(address, str):
            continue
        if "?" in address or "#" in address:
            raise _refuse(entry, key, "an address ends before ? and #; the key stands in api_key")
        if provider == "gemini" and (found := _GEMINI_METHOD.fullmatch(address.strip())):
            _split_gemini(entry, values, key, found)
        elif found := _OPERATION.search(address):
            raise _refuse(
                entry,
                key,
                f"the address of an endpoint ends before {found[0]}; which model is asked stands "
                "in deployment_name",
            )


_OPERATION = re.compile(
    r"/openai/deployments/.*|/(chat/completions|responses|messages|embeddings)/?$|/models/[^/]+:.*"
)
_GEMINI_METHOD = re.compile(r"(https?://.+)/models/([^/:]+)(:(generate|streamGenerate)Content)?")


def _split_gemini(
    entry: ModelEntry, values: dict[str, object], key: str, found: re.Match[str]
) -> None:
    # Older files hold the address of the method that is called.
    address, name = found[1], found[2]
    if "/publishers/" in address + "/":
        raise _refuse(
            entry,
            key,
            "this is an address of Vertex AI; GeminiConfig asks the Gemini API, as at "
            "https://generativelanguage.googleapis.com",
        )
    values[key] = address
    said = [other for other in _MODEL_KEYS if values.get(other) is not None]
    for other in said:
        if values[other] != name:
            raise _refuse(entry, key, f"it asks the model {name!r}, but {other} says another one")
    if not said:
        values["model"] = name


def _refuse(entry: ModelEntry, key: str, said: str) -> ConfigError:
    return ConfigError(f"{entry.where}, key {key}: {said}")
