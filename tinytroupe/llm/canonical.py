"""Canonical JSON: one spelling for one value, and its digest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NoReturn, TypeAlias

import orjson

from tinytroupe.llm.errors import BadRequest

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

KEY_SCHEMA = 1
"""Raised whenever the same request would get another digest than before."""


class FrozenDict(dict[str, JSON]):
    """A dictionary that cannot be changed and can be hashed.

    It stays a `dict`, because orjson writes only real dictionaries natively;
    a `MappingProxyType` would take the slow path on every call.
    """

    __slots__ = ()

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("this mapping is part of an immutable value; make a new one instead")

    __setitem__ = __delitem__ = _refuse
    __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[object, ...]:
        return FrozenDict, (dict(self),)

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> FrozenDict:
        return self


class _NoJSON(Exception):
    """A value without a JSON form; the path to it is put together on the way out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""


def freeze(value: object, where: str = "value") -> JSON:
    """Copies a JSON value into an immutable one.

    Args:
        value: None, bool, int, finite float, str, or mappings with string
            keys and sequences of these.
        where: How an error names the value.

    Raises:
        BadRequest: The value has no JSON form; the message names the place.
    """
    try:
        return _freeze(value)
    except _NoJSON as error:
        raise BadRequest(f"{where}{error.path} {error.reason}") from None
    except RecursionError:
        raise BadRequest(f"{where} is nested too deeply, or contains itself") from None


def _freeze(value: object) -> JSON:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise _NoJSON(f"is an integer that JSON readers cannot hold: {value}")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NoJSON(f"is {value}, which JSON cannot express")
        return float(value)
    if isinstance(value, FrozenDict):
        return value
    if isinstance(value, Mapping):
        return _freeze_items(value)
    if isinstance(value, (list, tuple)):
        return tuple([_freeze_item(item, f"[{index}]") for index, item in enumerate(value)])
    raise _NoJSON(f"is of type {type(value).__name__}, which has no JSON form")


def _freeze_items(value: Mapping[object, object]) -> FrozenDict:
    frozen: dict[str, JSON] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise _NoJSON(f"has a key that is not a string: {key!r}")
        try:
            frozen[key] = _freeze(item)
        except _NoJSON as error:
            error.path = f".{key}{error.path}"
            raise
    return FrozenDict(frozen)


def _freeze_item(item: object, place: str) -> JSON:
    try:
        return _freeze(item)
    except _NoJSON as error:
        error.path = place + error.path
        raise


def freeze_mapping(value: Mapping[str, object], where: str = "value") -> FrozenDict:
    """Copies a mapping into an immutable one. See `freeze`.

    Raises:
        BadRequest: A key is not a string, or a value has no JSON form.
    """
    frozen = freeze(value, where)
    if not isinstance(frozen, FrozenDict):
        raise BadRequest(f"{where} is of type {type(value).__name__}, not a mapping")
    return frozen


def encode(value: JSON, in_order: Iterable[str] = ()) -> bytes:
    """Writes canonical JSON: sorted keys, UTF-8, no insignificant space.

    Args:
        value: What to write.
        in_order: Members of a mapping whose keys stay in the order in which they were
            given, all the way down, because there the order means something.

    Raises:
        BadRequest: A string holds an unpaired surrogate, or the value is not JSON.
    """
    try:
        kept = {}
        if isinstance(value, Mapping):
            for name in in_order:
                if name in value:
                    kept[name] = orjson.Fragment(orjson.dumps(value[name]))
            value = {**value, **kept} if kept else value
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(
            f"the request cannot be written as JSON: {error}; "
            "an unpaired surrogate usually comes from text decoded with errors='surrogateescape'"
            if "surrogate" in str(error)
            else f"the request cannot be written as JSON: {error}"
        ) from error


def digest(kind: str, namespace: str, body: bytes) -> str:
    """Names a request: SHA-256 of its canonical form, 64 hexadecimal digits.

    Args:
        kind: What is asked for: `chat`, `completion` or `embedding`.
        namespace: Keeps answers of different worlds apart; usually empty.
        body: The canonical JSON of the request's body.
    """
    return hashlib.sha256(_make_prefix(kind, namespace) + body).hexdigest()


@lru_cache(maxsize=64)
def _make_prefix(kind: str, namespace: str) -> bytes:
    return orjson.dumps([KEY_SCHEMA, kind, namespace]) + b"\n"
