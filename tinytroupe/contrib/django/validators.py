"""What the fields of the tables may hold. Each check raises a ValueError that says the fault."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from django.core.exceptions import ValidationError

from tinytroupe.contrib.django.history import is_unstorable
from tinytroupe.llm.canonical import freeze
from tinytroupe.llm.errors import LLMError
from tinytroupe.llm.talk.shapes import make_shape
from tinytroupe.llm.talk.sources import FORMATS

Check: TypeAlias = Callable[[Any], object]

ROLES = ("system", "user", "assistant")
"""Who may say an initial message."""

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""OpenAI, "Function calling": what a function may be called."""


def check_fields(row: object, checks: Mapping[str, Check]) -> None:
    """Checks fields of a row, each by its own rule.

    Raises:
        ValidationError: What is wrong, by field; each message names the field.
    """
    faults = {
        field: ValidationError(fault if field in fault else f"{field}: {fault}")
        for field, fault in list_faults(row, checks).items()
    }
    if faults:
        raise ValidationError(faults)


def list_faults(row: object, checks: Mapping[str, Check]) -> dict[str, str]:
    """Returns what is wrong with fields of a row, by field."""
    faults = {}
    for field, check in checks.items():
        value = getattr(row, field)
        try:
            check_storable(field, value)
            check(value)
        except (ValueError, LLMError) as error:
            faults[field] = error.message if isinstance(error, LLMError) else str(error)
    return faults


def check_storable(field: str, value: Any) -> None:
    """Refuses what JSON does not have, and characters that not every database can hold."""
    freeze(value, field)
    left = [(field, value)]
    while left:
        place, item = left.pop()
        if isinstance(item, str) and any(map(is_unstorable, item)):
            raise ValueError(f"{place} holds NUL or half a character, which cannot be stored")
        if isinstance(item, Mapping):
            left += [(f"a key of {place}", key) for key in item]
            left += [(f"{place}.{key}", below) for key, below in item.items()]
        elif isinstance(item, (list, tuple)):
            left += [(f"{place}[{index}]", below) for index, below in enumerate(item)]


def check_text(value: Any) -> None:
    """Takes a text."""
    if not isinstance(value, str):
        raise ValueError(f"it must be a text, not {_name_kind(value)}")


def check_tool_name(value: Any) -> None:
    """Refuses what a model cannot call a tool."""
    if not isinstance(value, str) or not TOOL_NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not the name of a tool: 1 to 64 letters, digits, underscores and dashes"
        )


def check_format(value: Any) -> None:
    """Takes the language of a template."""
    if value not in FORMATS:
        raise ValueError(f"{value!r} is none of {', '.join(FORMATS)}")


def check_names(value: Any) -> None:
    """Takes a list of names, none of them twice."""
    if not isinstance(value, list):
        raise ValueError(f"it must be a list of names, not {_name_kind(value)}")
    for place, name in enumerate(value):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"item {place} is {_show(name)}, not a name")
        if name in value[:place]:
            raise ValueError(f"item {place}: the name {name!r} stands twice")


def check_mapping(value: Any) -> None:
    """Takes an object, whose keys are names."""
    if not isinstance(value, dict):
        raise ValueError(f"it must be an object of names and values, not {_name_kind(value)}")
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the key {name!r} is not a name")


def check_initial_messages(value: Any) -> None:
    """Takes a list of `{"role": …, "content": …}`."""
    if not isinstance(value, list):
        raise ValueError(f"it must be a list of messages, not {_name_kind(value)}")
    for place, message in enumerate(value):
        if not isinstance(message, dict):
            raise ValueError(f"item {place} is {_name_kind(message)}, not a message")
        lacking = [name for name in ("role", "content") if name not in message]
        if lacking:
            raise ValueError(f"item {place} has no {' and no '.join(lacking)}")
        further = sorted(set(message) - {"role", "content"})
        if further:
            raise ValueError(f"item {place} has {further[0]!r}; it may have role and content")
        if message["role"] not in ROLES:
            raise ValueError(
                f"item {place}: the role {_show(message['role'])} is none of {', '.join(ROLES)}"
            )
        if not isinstance(message["content"], str):
            raise ValueError(f"item {place}: its content is {_name_kind(message['content'])}")


def check_tool_spec(value: Any) -> None:
    """Takes nothing, or what OpenAI's API takes for a function, bare or wrapped as a tool."""
    if value == {}:
        return
    if not isinstance(value, dict):
        raise ValueError(f"it must be an object, not {_name_kind(value)}")
    spec = unwrap_tool_spec(value)
    if not isinstance(spec.get("name"), str):
        raise ValueError('it has no "name" that is a text')
    if not isinstance(spec.get("description", ""), str):
        raise ValueError(f'its "description" is {_name_kind(spec["description"])}, not a text')
    parameters = spec.get("parameters")
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise ValueError('its "parameters" must be a JSON Schema with the type "object"')
    properties = parameters.get("properties", {})
    if not isinstance(properties, dict):
        raise ValueError('the "properties" of its parameters must be an object')
    for name, schema in properties.items():
        if not isinstance(schema, (dict, bool)):
            raise ValueError(f"its parameter {name!r} is {_name_kind(schema)}, not a JSON Schema")
    make_shape(parameters)


def unwrap_tool_spec(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the function of a spec: bare, with `"type": "function"`, or under `function`."""
    if value.get("type") != "function":
        return dict(value)
    inner = value.get("function", {name: value[name] for name in value if name != "type"})
    return dict(inner) if isinstance(inner, Mapping) else {}


def _name_kind(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {_show(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"the number {_show(value)}"
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def _show(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    return shown if len(shown) <= 60 else shown[:59] + "…"
