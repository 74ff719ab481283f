"""Whether a value is valid under a JSON Schema: the part of the 2020-12 draft that is written."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from tinytroupe.llm.transports.rehearsal.patterns import compile_pattern
from tinytroupe.llm.transports.rehearsal.refusal import Refusal

Schema: TypeAlias = "bool | Mapping[str, Any]"


def conforms(value: Any, schema: Schema, root: Schema) -> bool:
    """Says whether a value is valid.

    Args:
        value: Parsed JSON.
        schema: What it must fulfil.
        root: Where `$ref` points into.

    Raises:
        Refusal: A `$ref` leads nowhere, or a pattern cannot be read.
    """
    if isinstance(schema, bool):
        return schema
    return (
        _has_type(value, schema.get("type"))
        and ("const" not in schema or same(value, schema["const"]))
        and ("enum" not in schema or any(same(value, item) for item in schema["enum"]))
        and _fulfils_parts(value, schema, root)
        and _fulfils_own(value, schema, root)
    )


def resolve(reference: str, root: Schema) -> Schema:
    """Returns the schema that a `$ref` such as `#/$defs/person` names.

    Raises:
        Refusal: It lies outside the schema, or there is nothing at that place.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise Refusal(
            f"the schema refers to {reference!r}; only references into the schema itself, such as "
            "'#/$defs/person', can be followed",
            code="unsupported_schema",
        )
    found: Any = root
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise Refusal(
                f"the schema refers to {reference!r}, but there is nothing at that place",
                code="invalid_schema",
            )
    return _check_schema(found, reference)


def _check_schema(found: Any, where: str) -> Schema:
    if isinstance(found, (bool, Mapping)):
        return found
    raise Refusal(f"{where} is not a schema but a {type(found).__name__}", code="invalid_schema")


def same(left: Any, right: Any) -> bool:
    """Says whether two JSON values are equal: 1 is 1.0, and neither is true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def list_types(types: str | list[str] | None) -> list[str]:
    """Returns the types that a `type` keyword allows; none means any."""
    return [] if types is None else [types] if isinstance(types, str) else list(types)


def _has_type(value: Any, types: str | list[str] | None) -> bool:
    allowed = list_types(types)
    return not allowed or any(_is_of_type(value, name) for name in allowed)


def _is_of_type(value: Any, name: str) -> bool:
    if name == "integer":
        return _is_number(value) and value == int(value)
    if name == "number":
        return _is_number(value)
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "boolean": bool,
        "null": type(None),
        "array": list,
        "object": dict,
    }
    return name in kinds and isinstance(value, kinds[name])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _fulfils_parts(value: Any, schema: Mapping[str, Any], root: Schema) -> bool:
    if "$ref" in schema and not conforms(value, resolve(schema["$ref"], root), root):
        return False
    if not all(conforms(value, part, root) for part in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(conforms(value, part, root) for part in schema["anyOf"]):
        return False
    fitting = (conforms(value, part, root) for part in schema.get("oneOf", ()))
    return "oneOf" not in schema or sum(fitting) == 1


def _fulfils_own(value: Any, schema: Mapping[str, Any], root: Schema) -> bool:
    if isinstance(value, str):
        return _fulfils_text(value, schema)
    if isinstance(value, dict):
        return _fulfils_object(value, schema, root)
    if isinstance(value, list):
        return _fulfils_array(value, schema, root)
    return not _is_number(value) or _fulfils_number(value, schema)


def _fulfils_text(value: str, schema: Mapping[str, Any]) -> bool:
    return (schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))) and (
        "pattern" not in schema or bool(compile_pattern(schema["pattern"]).search(value))
    )


def _fulfils_number(value: float, schema: Mapping[str, Any]) -> bool:
    return (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        and (
            "multipleOf" not in schema
            or to_fraction(value) % to_fraction(schema["multipleOf"]) == 0
        )
    )


def to_fraction(number: float | Fraction) -> Fraction:
    """Returns a number exactly as JSON spells it: 0.1 is a tenth, not its nearest double."""
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _fulfils_array(value: list[Any], schema: Mapping[str, Any], root: Schema) -> bool:
    prefix, rest = split_items(schema)
    return (
        schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        and all(
            conforms(item, prefix[index] if index < len(prefix) else rest, root)
            for index, item in enumerate(value)
        )
        and not (schema.get("uniqueItems") and has_twins(value))
    )


def split_items(schema: Mapping[str, Any]) -> tuple[list[Schema], Schema]:
    """Returns the schemas of the first items and of all others, in either draft's spelling."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, schema.get("additionalItems", True)
    return schema.get("prefixItems", []), items


def has_twins(values: list[Any]) -> bool:
    """Says whether two of the values are equal."""
    return any(same(value, other) for i, value in enumerate(values) for other in values[:i])


def _fulfils_object(value: dict[str, Any], schema: Mapping[str, Any], root: Schema) -> bool:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    return (
        all(name in value for name in schema.get("required", ()))
        and schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value))
        and all(conforms(item, properties.get(name, others), root) for name, item in value.items())
    )
