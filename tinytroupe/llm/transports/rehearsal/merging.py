"""Schemas as they are meant: references followed, combinations chosen, one flat schema left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import lcm
from typing import Any, TypeAlias

from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.validity import (
    Schema,
    list_types,
    resolve,
    same,
    to_fraction,
)

Order: TypeAlias = Callable[[Sequence[Schema]], Sequence[Schema]]

MOST_NESTED_REFERENCES = 50

UNSUPPORTED = (
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "patternProperties",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "$dynamicRef",
    "$recursiveRef",
)

_COMBINATIONS = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
_SHAPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "enum", "required", "prefixItems"), list),
    **dict.fromkeys(("properties", "$defs", "definitions"), Mapping),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), int),
    **dict.fromkeys(("minProperties", "maxProperties"), int),
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), (int, float)),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), (int, float)),
    **dict.fromkeys(("pattern", "format", "$ref"), str),
    **dict.fromkeys(("additionalProperties", "additionalItems"), (bool, Mapping)),
    "items": (bool, Mapping, list),
    "type": (str, list),
}
_TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")


def flatten(
    schema: Schema, root: Schema, order: Order, nested: int = 0
) -> Iterator[Mapping[str, Any]]:
    """Yields the ways in which a schema can be met, as schemas without combinations.

    Args:
        schema: What is to be met.
        root: Where `$ref` points into.
        order: Puts the branches of `anyOf` and `oneOf` into the order to try them in.
        nested: How many references were followed so far.

    Raises:
        Refusal: The schema is malformed, or uses what the rehearsal does not know.
    """
    if isinstance(schema, bool):
        if schema:
            yield {}
        return
    check_keywords(schema)
    if nested > MOST_NESTED_REFERENCES:
        return
    plain = {name: value for name, value in schema.items() if name not in _COMBINATIONS}
    groups: list[Sequence[Schema]] = [[part] for part in schema.get("allOf", ())]
    if "$ref" in schema:
        groups.insert(0, [resolve(schema["$ref"], root)])
    groups += [order(schema[name]) for name in ("anyOf", "oneOf") if name in schema]
    yield from _combine(plain, groups, root, order, nested)


def _combine(
    plain: Mapping[str, Any],
    groups: Sequence[Sequence[Schema]],
    root: Schema,
    order: Order,
    nested: int,
) -> Iterator[Mapping[str, Any]]:
    if not groups:
        yield plain
        return
    for option in groups[0]:
        for flat in flatten(option, root, order, nested + 1):
            merged = merge(plain, flat)
            if merged is not None:
                yield from _combine(merged, groups[1:], root, order, nested)


def check_keywords(schema: Mapping[str, Any]) -> None:
    """Refuses what cannot be met, by name, instead of answering with something invalid."""
    unsupported = [name for name in UNSUPPORTED if name in schema]
    if unsupported:
        raise Refusal(
            f"the rehearsal does not support {', '.join(unsupported)} in a schema",
            code="unsupported_schema",
        )
    for name, shape in _SHAPES.items():
        value = schema.get(name, _ABSENT)
        if value is not _ABSENT and (
            not isinstance(value, shape) or (isinstance(value, bool) and not _may_be_bool(shape))
        ):
            raise Refusal(
                f"{name} in the schema has a value of type {type(value).__name__}",
                code="invalid_schema",
            )
    for name in list_types(schema.get("type")):
        if name not in _TYPES:
            raise Refusal(
                f"the schema names the type {name!r}; a type is one of {', '.join(_TYPES)}",
                code="invalid_schema",
            )
    if schema.get("multipleOf", 1) <= 0:
        raise Refusal("multipleOf in the schema must be more than 0", code="invalid_schema")


_ABSENT = object()


def _may_be_bool(shape: type | tuple[type, ...]) -> bool:
    return isinstance(shape, tuple) and bool in shape


def merge(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any] | None:
    """Makes one flat schema that asks for both; None where they contradict each other.

    Raises:
        Refusal: Both ask for something that cannot be joined, such as two patterns.
    """
    merged = {**left, **right}
    for name in left.keys() & right.keys():
        joined = _join(name, left[name], right[name])
        if joined is _CONTRADICTION:
            return None
        merged[name] = joined
    return merged


_CONTRADICTION = object()


def _join(name: str, left: Any, right: Any) -> Any:
    if name in _JOINS:
        return _JOINS[name](left, right)
    if name in _UNJOINABLE and not same(left, right):
        raise _cannot_join(name)
    return right


_UNJOINABLE = ("pattern", "format", "prefixItems", "additionalItems")


def _cannot_join(name: str) -> Refusal:
    return Refusal(
        f"the rehearsal cannot join two different values of {name} in one place of the schema",
        code="unsupported_schema",
    )


def _join_types(left: Any, right: Any) -> Any:
    first, second = list_types(left), list_types(right)
    both = [name for name in first if name in second]
    if "integer" not in both and {"integer", "number"} <= {*first, *second}:
        both.append("integer")
    return both or _CONTRADICTION


def _join_enums(left: list[Any], right: list[Any]) -> Any:
    both = [item for item in left if any(same(item, other) for other in right)]
    return both or _CONTRADICTION


def _join_constants(left: Any, right: Any) -> Any:
    return left if same(left, right) else _CONTRADICTION


def _join_properties(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    joined = {**left, **right}
    for name in left.keys() & right.keys():
        joined[name] = _join_schemas(left[name], right[name])
    return joined


def _join_schemas(left: Any, right: Any) -> Any:
    if same(left, right):
        return left
    if isinstance(left, list) or isinstance(right, list):
        raise _cannot_join("items")
    return {"allOf": [left, right]}


def _join_required(left: list[str], right: list[str]) -> list[str]:
    return [*left, *(name for name in right if name not in left)]


def _join_steps(left: float, right: float) -> float:
    first, second = to_fraction(left), to_fraction(right)
    step = lcm(
        first.numerator * second.denominator, second.numerator * first.denominator
    ) / to_fraction(first.denominator * second.denominator)
    return int(step) if step.denominator == 1 else float(step)


_JOINS: dict[str, Callable[[Any, Any], Any]] = {
    "type": _join_types,
    "enum": _join_enums,
    "const": _join_constants,
    "properties": _join_properties,
    "items": _join_schemas,
    "additionalProperties": _join_schemas,
    "required": _join_required,
    "multipleOf": _join_steps,
    "uniqueItems": lambda left, right: left or right,
    **dict.fromkeys(("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum"), max),
    **dict.fromkeys(("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum"), min),
}
