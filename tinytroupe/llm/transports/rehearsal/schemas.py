"""Values that are valid under a JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import Any

from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.formats import write_text
from tinytroupe.llm.transports.rehearsal.hearing import Heard
from tinytroupe.llm.transports.rehearsal.merging import flatten
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.validity import (
    Schema,
    conforms,
    has_twins,
    list_types,
    split_items,
    to_fraction,
)

MOST_STEPS = 20_000
"""Parts of one value, and ways tried to make them; more is refused."""
SHALLOW = 4
"""Down to this depth optional properties are written; below, only what must be."""
DEEPEST = 40
TRIES = 20


def write_value(schema: Schema, heard: Heard, draws: Draws) -> Any:
    """Writes a value that is valid under a schema, made of words from the prompt.

    Recursive schemas give values of a few levels.

    Raises:
        Refusal: The schema is malformed, uses a keyword that the rehearsal does
            not know, or no value of a reasonable size is valid.
    """
    try:
        return _Writer(schema, heard, draws).write(schema, "", 0)
    except _NoValue as error:
        raise Refusal(
            "no value of a reasonable size was found that is valid under the schema; "
            "it may contradict itself, or refer to itself without an end",
            code="invalid_schema",
        ) from error
    except (TypeError, AttributeError, RecursionError) as error:
        raise Refusal(f"the schema is malformed: {error}", code="invalid_schema") from error


class _NoValue(Exception):
    """This way leads to no valid value; another one may."""


class _Writer:
    def __init__(self, root: Schema, heard: Heard, draws: Draws) -> None:
        self._root = root
        self._heard = heard
        self._draws = draws
        self._steps = 0

    def write(self, schema: Schema, name: str, depth: int) -> Any:
        """Writes a value for the property `name`, the first of the ways that succeeds."""
        if depth > DEEPEST:
            raise _NoValue
        for flat in flatten(schema, self._root, lambda options: self._order(options, depth)):
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise _NoValue
            try:
                value = self._write_flat(flat, name, depth)
            except _NoValue:
                continue
            if conforms(value, schema, self._root):
                return value
        raise _NoValue

    def _order(self, options: Sequence[Schema], depth: int) -> Sequence[Schema]:
        """Shuffles the branches; null comes last, but first where a value grows too deep."""
        shuffled = self._draws.shuffle(options)
        if depth > SHALLOW:
            return sorted(shuffled, key=lambda option: "$ref" in str(option))
        return sorted(shuffled, key=lambda option: option in _NULLS)

    def _write_flat(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            fitting = [item for item in schema["enum"] if conforms(item, schema, self._root)]
            if not fitting:
                raise _NoValue
            return self._draws.pick(fitting)
        kind = self._choose_type(schema, depth)
        if kind == "object":
            return self._write_object(schema, depth)
        if kind == "array":
            return self._write_array(schema, name, depth)
        if kind in ("integer", "number"):
            return self._write_number(schema, whole=kind == "integer")
        if kind == "boolean":
            return self._draws.below(2) == 0
        if kind == "null":
            return None
        text = write_text(schema, name, self._heard, self._draws)
        if text is None:
            raise _NoValue
        return text

    def _choose_type(self, schema: Mapping[str, Any], depth: int) -> str:
        types = list_types(schema.get("type"))
        if types:
            if depth > SHALLOW and "null" in types:
                return "null"
            return self._draws.pick([kind for kind in types if kind != "null"] or types)
        return next((kind for keyword, kind in _IMPLIED_TYPES if keyword in schema), "string")

    def _write_object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        most = schema.get("maxProperties", len(properties) + len(required) + 2)
        optional = [key for key in properties if key not in required] if depth < SHALLOW else []
        chosen = {*required, *optional[: max(0, most - len(required))]}
        others = schema.get("additionalProperties", True)
        value: dict[str, Any] = {}
        for key in [*properties, *(key for key in required if key not in properties)]:
            if key in chosen:
                try:
                    value[key] = self.write(properties.get(key, others), key, depth + 1)
                except _NoValue:
                    if key in required:
                        raise
        self._add_others(value, schema, depth)
        return value

    def _add_others(self, value: dict[str, Any], schema: Mapping[str, Any], depth: int) -> None:
        """Adds properties that the schema does not name, where it asks for or describes them."""
        others = schema.get("additionalProperties", True)
        described = isinstance(others, Mapping) and not schema.get("properties")
        least = schema.get("minProperties", 0)
        if described and depth < SHALLOW:
            least = max(least, min(2, schema.get("maxProperties", 2)))
        if least > MOST_STEPS:
            raise _NoValue
        names = [*(topic.replace(" ", "_") for topic in self._heard.topics[:least])]
        names += [f"item_{number}" for number in range(1, least + 1)]
        for name in names:
            if len(value) >= least:
                return
            if name not in value and name not in schema.get("properties", {}):
                value[name] = self.write(others, name, depth + 1)

    def _write_array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        prefix, rest = split_items(schema)
        least = schema.get("minItems", 0)
        extra = self._draws.between(1, 2) if depth < SHALLOW else 0
        count = min(max(least, len(prefix)) + extra, schema.get("maxItems", MOST_STEPS))
        if least > MOST_STEPS:
            raise _NoValue
        value: list[Any] = []
        for index in range(count):
            item = prefix[index] if index < len(prefix) else rest
            try:
                self._append(value, item, name, depth, bool(schema.get("uniqueItems")))
            except _NoValue:
                if len(value) < least:
                    raise
                break
        return value

    def _append(
        self, value: list[Any], schema: Schema, name: str, depth: int, unique: bool
    ) -> None:
        for _ in range(TRIES if unique else 1):
            item = self.write(schema, name, depth + 1)
            if not unique or not has_twins([*value, item]):
                value.append(item)
                return
        twinless = [item for item in _list_choices(schema) if not has_twins([*value, item])]
        if not twinless:
            raise _NoValue
        value.append(twinless[0])

    def _write_number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low, high = _find_range(schema)
        if "multipleOf" in schema:
            step = to_fraction(schema["multipleOf"])
            step = Fraction(step.numerator) if whole else step
        else:
            step = Fraction(1) if whole else _choose_step(high - low)
        first, last = ceil(low / step), floor(high / step)
        # Compared as fractions: a tenth is not the double nearest to it.
        if first * step == to_fraction(schema.get("exclusiveMinimum", low - 1)):
            first += 1
        if last * step == to_fraction(schema.get("exclusiveMaximum", high + 1)):
            last -= 1
        if first > last:
            raise _NoValue
        number = self._draws.between(first, last) * step
        return int(number) if number.denominator == 1 and whole else _to_float(number)


_NULLS: tuple[Schema, ...] = ({"type": "null"}, {"const": None}, {"enum": [None]})

_IMPLIED_TYPES = (
    ("properties", "object"),
    ("required", "object"),
    ("additionalProperties", "object"),
    ("minProperties", "object"),
    ("maxProperties", "object"),
    ("items", "array"),
    ("prefixItems", "array"),
    ("minItems", "array"),
    ("maxItems", "array"),
    ("minimum", "number"),
    ("maximum", "number"),
    ("exclusiveMinimum", "number"),
    ("exclusiveMaximum", "number"),
    ("multipleOf", "number"),
)


def _list_choices(schema: Schema) -> list[Any]:
    if isinstance(schema, bool):
        return []
    if schema.get("type") == "boolean":
        return [True, False]
    return list(schema.get("enum", ()))


def _find_range(schema: Mapping[str, Any]) -> tuple[Fraction, Fraction]:
    """Returns the least and the greatest number; where one is open, a range of a few steps."""
    lows = [to_fraction(schema[k]) for k in ("minimum", "exclusiveMinimum") if k in schema]
    highs = [to_fraction(schema[k]) for k in ("maximum", "exclusiveMaximum") if k in schema]
    width = 9 * max(Fraction(1), to_fraction(schema.get("multipleOf", 1)))
    if lows and highs:
        return max(lows), min(highs)
    if lows:
        return max(lows), max(lows) + width
    if highs:
        return min(highs) - width, min(highs)
    # A scale from 1 to 10 is what simulations ask for most.
    return Fraction(1), 1 + width


def _choose_step(width: Fraction) -> Fraction:
    """Returns a power of ten that divides a range into some ten parts or more."""
    step = Fraction(1, 10)
    while width and step * 10 > width:
        step /= 10
    return step


def _to_float(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError as error:
        raise _NoValue from error
