"""What a request wants of an answer: tools and a format, read from OpenAI's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from tinytroupe.llm.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask for."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """The JSON schema of its arguments: an object."""
    strict: bool
    """Whether the arguments have to follow the schema to the letter."""


Mode: TypeAlias = Literal["auto", "required", "none"]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model has to ask for a function."""

    mode: Mode
    name: str | None = None
    """The one that it has to ask for; None: any."""


@dataclass(frozen=True, slots=True)
class Format:
    """How the text of the answer has to look."""

    json: bool = False
    schema: Mapping[str, Any] | None = None
    """The JSON schema that it has to follow."""


def read_tool(tool: Any) -> Tool:
    """Reads one of `tools`.

    Raises:
        BadRequest: It is no function with a name.
    """
    function = _get(tool, "function")
    name = _get(function, "name")
    if _get(tool, "type") != "function" or not isinstance(name, str):
        raise BadRequest(f"a tool of type {_get(tool, 'type')!r} cannot be sent to this provider")
    return Tool(
        name,
        _get(function, "description") or "",
        _get(function, "parameters") or {"type": "object", "properties": {}},
        bool(_get(function, "strict")),
    )


def read_tool_choice(choice: Any) -> ToolChoice:
    """Reads `tool_choice`.

    Raises:
        BadRequest: It is neither auto, required or none, nor a function by name.
    """
    if choice in ("auto", "required", "none"):
        return ToolChoice(cast(Mode, choice))
    name = _get(_get(choice, "function"), "name")
    if _get(choice, "type") != "function" or not isinstance(name, str):
        raise BadRequest(f"tool_choice {choice!r} cannot be sent to this provider")
    return ToolChoice("required", name)


def read_format(wanted: Any) -> Format:
    """Reads `response_format`.

    Raises:
        BadRequest: It is none of text, json_object and json_schema, or has no schema.
    """
    kind = _get(wanted, "type")
    if kind == "text":
        return Format()
    if kind == "json_object":
        return Format(json=True)
    schema = _get(_get(wanted, "json_schema"), "schema")
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise BadRequest(
            f"response_format {wanted!r} cannot be sent to this provider; it takes "
            '{"type": "json_schema", "json_schema": {"name": …, "schema": …}}'
        )
    return Format(json=True, schema=schema)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
