"""The response format for a class: its JSON schema, as strict as OpenAI's API asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tinytroupe.llm.canonical import FrozenDict, freeze_mapping
from tinytroupe.llm.errors import BadRequest

MAX_NAME_LENGTH = 64
"""OpenAI's API: a name has letters, digits, `_` and `-`, at most 64 of them."""

_MAPS = ("$defs", "definitions", "properties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def make_response_format(value: object) -> Mapping[str, Any]:
    """Returns what the API takes as `response_format`.

    Args:
        value: What the API takes already, or a class that knows its JSON
            schema, such as a pydantic model.

    Raises:
        BadRequest: It is neither, or the class has no JSON schema.
    """
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, type) or not hasattr(value, "model_json_schema"):
        raise BadRequest(
            f"response_format is {value!r}; it must be a pydantic class, or a dictionary such as "
            '{"type": "json_object"}'
        )
    return _describe_class(value)


# Making a schema takes longer than finding a stored answer.
@lru_cache(maxsize=256)
def _describe_class(cls: Any) -> FrozenDict:
    try:
        schema = cls.model_json_schema()
    except Exception as error:
        raise BadRequest(f"response_format {cls.__name__} has no JSON schema: {error}") from error
    strict = is_closed(schema)
    body = {
        "name": re.sub(r"[^\w-]", "_", cls.__name__, flags=re.ASCII)[:MAX_NAME_LENGTH],
        "strict": strict,
        "schema": make_strict(schema, schema) if strict else schema,
    }
    return freeze_mapping({"type": "json_schema", "json_schema": body}, "response_format")


def is_closed(schema: Any) -> bool:
    """Tells whether no object in a schema may have fields of any name, which strict forbids."""
    if not isinstance(schema, dict):
        return True
    if schema.get("additionalProperties") not in (None, False):
        return False
    # Without fields at all, as of a bare `dict`, every field would be free.
    if schema.get("type") == "object" and "properties" not in schema:
        return False
    return all(map(is_closed, _list_parts(schema)))


def make_strict(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema in which every object is closed and every field required.

    OpenAI, "Structured Outputs", supported schemas: `additionalProperties` is
    false, every property is required, defaults are not taken, and `$ref` has
    no neighbours.
    """
    reference = schema.get("$ref")
    if reference is not None and len(schema) > 1:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return make_strict({**_resolve(reference, root), **beside}, root)
    strict = {key: value for key, value in schema.items() if key != "default"}
    for key in _MAPS:
        if key in strict:
            strict[key] = {name: make_strict(part, root) for name, part in strict[key].items()}
    for key in _LISTS:
        if key in strict:
            strict[key] = [make_strict(part, root) for part in strict[key]]
    if isinstance(strict.get("items"), dict):
        strict["items"] = make_strict(strict["items"], root)
    if "properties" in strict:
        strict["additionalProperties"] = False
        strict["required"] = list(strict["properties"])
    return strict


def _list_parts(schema: dict[str, Any]) -> list[Any]:
    parts = [part for key in _MAPS for part in schema.get(key, {}).values()]
    parts += [part for key in _LISTS for part in schema.get(key, [])]
    return [*parts, schema.get("items")]


def _resolve(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)
