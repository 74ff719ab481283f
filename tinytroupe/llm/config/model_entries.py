"""Finds the entries of named models in mappings, lists, JSON, YAML, folders and config.ini."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from tinytroupe.llm.config.ini import read_ini
from tinytroupe.llm.config.load import MODEL_SECTION
from tinytroupe.llm.config.yaml_files import read_yaml
from tinytroupe.llm.errors import ConfigError

ModelSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, object] | Sequence[object]"
"""A path (JSON, YAML, a folder of YAML files, config.ini), a mapping, or a list of entries.

A `ModelEntry` in a list is taken as it is."""

KINDS: Mapping[str, str] = MappingProxyType(
    {"llm": "llm", "chat": "llm", "embedding": "embedding", "embeddings": "embedding"}
)
"""What a kind of model may be called, and its name here."""

NAME_KEYS = ("config_name", "name")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One named model as it was written, its variables put in."""

    name: str
    where: str
    """Source and entry, for errors."""
    values: Mapping[str, object]
    """Its keys, without its name."""
    kind: str | None = None
    """`llm` or `embedding` where the place says so."""
    preferred: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What `api_key`, `base_url` and `model` are called in errors where none is written."""

    def __repr__(self) -> str:
        return f"ModelEntry({self.name!r}, {self.where!r})"


def find_entries(source: ModelSource, environ: Mapping[str, str] | None = None) -> list[ModelEntry]:
    """Returns the entries of a source, in order.

    Args:
        source: See `ModelSource`.
        environ: Where `${VAR}` is looked up; None: the process's environment.

    Raises:
        ConfigError: The source cannot be read, an entry has no name, a name
            stands twice, or a variable is not set; the message says where.
    """
    environ = os.environ if environ is None else environ
    if isinstance(source, (str, os.PathLike)):
        entries = list(_read_path(Path(source).expanduser(), environ))
    else:
        entries = list(_read_value(source, "the given configuration", environ))
    seen: dict[str, ModelEntry] = {}
    for entry in entries:
        if entry.name in seen:
            raise ConfigError(
                f"{entry.where}: the name {entry.name!r} stands twice; "
                f"it is that of {seen[entry.name].where}, too"
            )
        seen[entry.name] = entry
    return entries


def read_entry(path: Path, environ: Mapping[str, str] | None = None) -> ModelEntry:
    """Returns the entry of a YAML file that holds one model and is called as its name.

    Args:
        path: The file.
        environ: As for `find_entries`.

    Raises:
        ConfigError: The file cannot be read, it holds something else, its name differs,
            or a variable is not set; the message says where.
    """
    value = read_yaml(_read_text(path), str(path))
    return _read_single(path, value, os.environ if environ is None else environ)


def is_yaml(path: Path) -> bool:
    """Tells by its name whether a file is YAML."""
    return path.suffix.lower() in _YAML


def _read_path(path: Path, environ: Mapping[str, str]) -> Iterator[ModelEntry]:
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if is_yaml(item))
        if not files:
            raise ConfigError(f"the folder {path} holds no YAML file (*.yaml, *.yml)")
        for file in files:
            yield read_entry(file, environ)
    elif path.suffix.lower() == ".ini":
        yield from _read_sections(path, environ)
    elif path.suffix.lower() == ".json":
        yield from _read_value(_read_json(path), str(path), environ)
    elif is_yaml(path):
        value = read_yaml(_read_text(path), str(path))
        if isinstance(value, Mapping) and any(key in value for key in NAME_KEYS):
            yield _read_single(path, value, environ)
        else:
            yield from _read_value(value, str(path), environ)
    else:
        known = ".json, .yaml, .yml, .ini"
        found = "does not exist" if not path.exists() else f"is none of {known}, nor a folder"
        raise ConfigError(f"{path} {found}")


_YAML = (".yaml", ".yml")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text in UTF-8: {error}") from error


def _read_json(path: Path) -> object:
    def refuse_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ConfigError(f"{path}: {twice} stands twice in one object")
        return found

    try:
        return json.loads(_read_text(path), object_pairs_hook=refuse_twice)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}: this is not JSON: {error.msg}") from error
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None


def _read_sections(path: Path, environ: Mapping[str, str]) -> Iterator[ModelEntry]:
    for section, values in read_ini(str(path)).sections.items():
        if section.startswith(MODEL_SECTION):
            name = section.removeprefix(MODEL_SECTION).strip()
            where = f"{path}, section [{section}]"
            given = {key: value.text for key, value in values.items() if value.text.strip()}
            yield _make_entry(name, where, given, environ)


def _read_single(path: Path, value: object, environ: Mapping[str, str]) -> ModelEntry:
    values = _expect_mapping(value, str(path))
    if not any(key in values for key in NAME_KEYS):
        raise ConfigError(f"{path} has no name; write into it: name: {path.stem}")
    entry = _read_entry(values, str(path), environ)
    if entry.name != path.stem:
        raise ConfigError(
            f"{path}: the file is called {path.stem!r} and its name is {entry.name!r}; "
            "both must be the same"
        )
    return entry


def _read_value(value: object, where: str, environ: Mapping[str, str]) -> Iterator[ModelEntry]:
    if isinstance(value, Mapping):
        yield from _read_mapping(value, where, environ)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        yield from _read_list(value, where, environ)
    else:
        raise ConfigError(
            f"{where} is of type {type(value).__name__}; named models stand in a list, or in a "
            "mapping under the key models"
        )


def _read_mapping(
    value: Mapping[object, object], where: str, environ: Mapping[str, str]
) -> Iterator[ModelEntry]:
    if "models" in value:
        models = value["models"]
        if models is None or not isinstance(models, Mapping):
            yield from _read_value([] if models is None else models, f"{where}, models", environ)
            return
        for name, given in models.items():
            place = f"{where}, entry {name!r}"
            yield _make_entry(str(name), place, _expect_mapping(given, place), environ)
    elif any(key in value for key in NAME_KEYS):
        yield _read_entry(_expect_mapping(value, where), where, environ)
    elif value and all(key in KINDS for key in value):
        for kind, entries in value.items():
            yield from _read_list(entries, f"{where}, {kind}", environ, KINDS[str(kind)])
    elif value:
        raise ConfigError(
            f"{where} has the keys {', '.join(map(str, value))}; it must have models, or a "
            f"config_name, or lists under {', '.join(KINDS)}"
        )


def _read_list(
    values: object, where: str, environ: Mapping[str, str], kind: str | None = None
) -> Iterator[ModelEntry]:
    listed: Iterable[object]
    if isinstance(values, Mapping):
        listed = [values]
    elif isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        listed = values
    else:
        raise ConfigError(f"{where} is of type {type(values).__name__}, not a list of entries")
    for number, value in enumerate(listed, start=1):
        if isinstance(value, ModelEntry):
            yield value
            continue
        place = f"{where}, entry {number}"
        yield _read_entry(_expect_mapping(value, place), place, environ, kind)


def _read_entry(
    value: Mapping[str, object], where: str, environ: Mapping[str, str], kind: str | None = None
) -> ModelEntry:
    keys = [key for key in NAME_KEYS if key in value]
    if not keys:
        raise ConfigError(f"{where} has no config_name, and no name either")
    name = value[keys[0]]
    if len(keys) > 1:
        raise ConfigError(f"{where}: only one of config_name and name may be given")
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{where}, key {keys[0]}: {name!r} is not a name")
    rest = {key: item for key, item in value.items() if key not in NAME_KEYS}
    place = where if repr(name) in where else f"{where} ({name!r})"
    return _make_entry(name, place, rest, environ, kind)


def _make_entry(
    name: str,
    where: str,
    values: Mapping[str, object],
    environ: Mapping[str, str],
    kind: str | None = None,
) -> ModelEntry:
    if not name.strip():
        raise ConfigError(f"{where}: the name is empty")
    try:
        filled = {
            key: _fill_in(item, f"{where}, key {key}", environ) for key, item in values.items()
        }
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply, or contains itself") from None
    return ModelEntry(name, where, filled, kind)


_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def _fill_in(value: object, where: str, environ: Mapping[str, str]) -> object:
    if isinstance(value, str):

        def look_up(found: re.Match[str]) -> str:
            if found[1] not in environ:
                raise ConfigError(f"{where}: the environment variable {found[1]} is not set")
            return environ[found[1]]

        return _VARIABLE.sub(look_up, value)
    if isinstance(value, Mapping):
        return {key: _fill_in(item, f"{where}.{key}", environ) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_fill_in(item, f"{where}[{index}]", environ) for index, item in enumerate(value)]
    return value


def _expect_mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is of type {type(value).__name__}, not a mapping of keys")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{where} has the key {key!r}, which is not a text")
    return value
