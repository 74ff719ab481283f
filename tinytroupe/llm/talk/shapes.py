"""What a JSON value must be like: a type that pydantic knows, or a JSON Schema."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.talk.places import Unreadable
from tinytroupe.llm.transports.rehearsal.merging import UNSUPPORTED, check_keywords
from tinytroupe.llm.transports.rehearsal.patterns import compile_pattern
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.validity import (
    Schema,
    conforms,
    list_types,
    resolve,
    split_items,
)

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST_PROBLEMS = 5
"""More than these are not told: a model that reads them has to read them all."""


class Shape(Protocol):
    """What a value must be like."""

    schema: Mapping[str, Any]
    """As JSON Schema, for a model to read."""

    def read(self, value: Any) -> Any:
        """Returns the value as the shape's own type.

        Raises:
            Unreadable: It is not like that; the reason names the places in the value.
        """
        ...


def make_shape(given: object) -> Shape:
    """Makes a shape from what a user gives.

    Args:
        given: A pydantic class, any other type that pydantic can validate
            (`list[Person]`, a dataclass, a TypedDict), or a JSON Schema.

    Raises:
        BadRequest: It is none of these, or the schema uses what cannot be checked.
    """
    if isinstance(given, Mapping):
        return _SchemaShape(given)
    return _TypeShape(given)


class _TypeShape:
    """Checks by pydantic; values become the type's own."""

    def __init__(self, kind: object) -> None:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

        if kind is None or isinstance(kind, (str, int, float)) or inspect.isroutine(kind):
            raise BadRequest(f"schema is {kind!r}; it must be a pydantic class or a JSON Schema")
        try:
            self._adapter: Any = TypeAdapter(cast(Any, kind))
            self.schema: Mapping[str, Any] = self._adapter.json_schema()
        except (PydanticUserError, TypeError, NameError) as error:
            reason = str(error).partition("\n")[0]
            raise BadRequest(f"schema {kind!r} has no JSON Schema: {reason}") from error

    def read(self, value: Any) -> Any:
        from pydantic import ValidationError

        try:
            # As JSON and not as Python's values: dates and enumerations are texts there.
            return self._adapter.validate_json(json.dumps(value, ensure_ascii=False))
        except ValidationError as error:
            raise Unreadable(f"it does not fit the schema: {tell_problems(error)}") from error


class _SchemaShape:
    """Checks by the keywords of a schema; values stay as they are."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            # A schema out of a request is frozen, with tuples where keywords want lists.
            self.schema: Mapping[str, Any] = json.loads(json.dumps(schema, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise BadRequest(f"the schema is not JSON: {error}") from error
        schema = self.schema
        try:
            for part in walk_schema(schema):
                unknown = [name for name in UNSUPPORTED if name in part]
                if unknown:
                    raise Refusal(f"{', '.join(unknown)} in it is not understood")
                check_keywords(part)
                if "pattern" in part:
                    compile_pattern(part["pattern"])
                if "$ref" in part:
                    resolve(part["$ref"], schema)
        except Refusal as error:
            raise BadRequest(
                f"the schema cannot be used to check answers: {error.message}; a pydantic class "
                "can say more than that"
            ) from error

    def read(self, value: Any) -> Any:
        try:
            if conforms(value, self.schema, self.schema):
                return value
            problem = _explain(value, self.schema, self.schema, "")
        except Refusal as error:
            raise BadRequest(
                f"the schema cannot be used to check answers: {error.message}"
            ) from error
        raise Unreadable(f"it does not fit the schema: {problem}")


def tell_problems(error: ValidationError, quoted: bool = True) -> str:
    """Returns what pydantic found, with the place and, if `quoted`, the value of each problem."""
    problems = [_describe(problem, quoted) for problem in error.errors()]
    told = problems[:MOST_PROBLEMS]
    if len(problems) > MOST_PROBLEMS:
        told.append(f"and {len(problems) - MOST_PROBLEMS} more")
    return "; ".join(told)


def _describe(problem: Any, quoted: bool) -> str:
    told = f"{_join_path(problem['loc'])}: {problem['msg']}"
    # Where a field is missing, the input is the whole object around it.
    shown = quoted and problem["type"] != "missing"
    return f"{told}, not {_show(problem['input'])}" if shown else told


def _join_path(parts: tuple[int | str, ...]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "the value"


_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_PARTS = ("items", "additionalProperties", "additionalItems")


def walk_schema(schema: object) -> Iterator[Any]:
    """Yields a schema and all schemas in it, as they are."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    parts = [part for name in _MAPS for part in schema.get(name, {}).values()]
    parts += [part for name in _LISTS for part in schema.get(name, [])]
    for name in _PARTS:
        part = schema.get(name)
        parts += part if isinstance(part, list) else [part]
    for part in parts:
        yield from walk_schema(part)


def _explain(value: Any, schema: Schema, root: Schema, path: str) -> str:
    """Returns where and why a value that is not valid is not, as deep inside as can be told."""
    where = path or "the value"
    if isinstance(schema, bool):
        return f"{where} must not be there"
    if "$ref" in schema and not conforms(value, resolve(schema["$ref"], root), root):
        return _explain(value, resolve(schema["$ref"], root), root, path)
    for part in schema.get("allOf", ()):
        if not conforms(value, part, root):
            return _explain(value, part, root, path)
    types = list_types(schema.get("type"))
    if types and not conforms(value, {"type": types}, root):
        return f"{where} must be of type {' or '.join(types)}, not {_show(value)}"
    for name in ("enum", "const"):
        if name in schema and not conforms(value, {name: schema[name]}, root):
            allowed = schema[name] if name == "enum" else [schema[name]]
            return f"{where} must be {' or '.join(map(_show, allowed))}, not {_show(value)}"
    inner = _explain_members(value, schema, root, path)
    if inner is not None:
        return inner
    for name in ("anyOf", "oneOf"):
        if name in schema and not conforms(value, {name: schema[name]}, root):
            return f"{where} must fit one of the {len(schema[name])} shapes in {name} of the schema"
    broken = [
        f"{name} {schema[name]!r}"
        for name in _LIMITS
        if name in schema and not conforms(value, {name: schema[name]}, root)
    ]
    return f"{where} is {_show(value)}, which breaks {' and '.join(broken) or 'the schema'}"


_LIMITS = (
    *("minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems"),
    *("minProperties", "maxProperties"),
)


def _explain_members(value: Any, schema: Mapping[str, Any], root: Schema, path: str) -> str | None:
    if isinstance(value, dict):
        missing = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            return f"{path or 'the value'} lacks {', '.join(map(repr, missing))}"
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, item in value.items():
            part = properties.get(name, others)
            if not conforms(item, part, root):
                return _explain(item, part, root, f"{path}.{name}" if path else name)
    if isinstance(value, list):
        prefix, rest = split_items(schema)
        for index, item in enumerate(value):
            part = prefix[index] if index < len(prefix) else rest
            if not conforms(item, part, root):
                return _explain(item, part, root, f"{path}[{index}]")
    return None


def _show(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    return shown if len(shown) <= 60 else shown[:59] + "…"
