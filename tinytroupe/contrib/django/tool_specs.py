"""What a model is told of a tool: out of its function, or as somebody wrote it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tinytroupe.contrib.django.models import Tool
from tinytroupe.contrib.django.tool_code import ToolCode, read_code
from tinytroupe.contrib.django.validators import list_faults, unwrap_tool_spec
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.talk.tool_schemas import read_function
from tinytroupe.llm.talk.values import find_nearest

_SPELLED = re.compile(r"__(?P<variable>\w+)__")
"""How old tables write the parameters that the chat fills."""

_COMBINATIONS = ("$ref", "allOf", "anyOf", "oneOf")


def make_tool_spec(tool: Tool) -> dict[str, Any]:
    """Makes the spec of a tool out of its function's signature and docstring.

    A function that is named by its path is imported. Of source text nothing is run, so this
    needs no permission. Hidden parameters are left out.

    Returns:
        `name`, `description` and `parameters`, as OpenAI's API has a function.

    Raises:
        ToolCodeRefused: A path leads out of the modules that the site allows.
        BadRequest: There is no such function, or its parameters cannot be described; the
            message says which.
    """
    check_fields(tool)
    code = read_code(tool)
    check_hidden(tool, code)
    return _derive_spec(tool, code)


def fill_tool_spec(tool: Tool) -> None:
    """Sets `tool_json_spec` where it is empty. Saves nothing.

    Raises:
        ToolCodeRefused: See `make_tool_spec`.
        BadRequest: See `make_tool_spec`.
    """
    if not tool.tool_json_spec:
        tool.tool_json_spec = make_tool_spec(tool)


def read_context(tool: Tool) -> dict[str, str]:
    """Returns the variable of the chat that fills a parameter, by parameter.

    They have one name, but for `__user_id__`, which the variable `user_id` fills.
    """
    spelled = {name: _SPELLED.fullmatch(name) for name in tool.context_params}
    return {name: found["variable"] if found else name for name, found in spelled.items()}


def list_hidden(tool: Tool) -> set[str]:
    """Returns the parameters that the model cannot set."""
    return {*tool.context_params, *tool.default_values_for_non_llm_params}


def list_parameters(code: ToolCode) -> dict[str, inspect.Parameter]:
    """Returns the parameters that have a name when the function is called."""
    collected = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    listed = inspect.signature(code.function).parameters
    return {name: item for name, item in listed.items() if item.kind not in collected}


def read_spec(tool: Tool, code: ToolCode) -> dict[str, Any]:
    """Returns what the model is told: the tool's own spec, or one made of its function.

    It has the tool's name, no hidden parameter, and takes no other one than it lists.

    Raises:
        BadRequest: It cannot be made, or does not fit the function.
    """
    if not tool.tool_json_spec:
        return _derive_spec(tool, code)
    spec = unwrap_tool_spec(tool.tool_json_spec)
    given = spec["parameters"]
    combined = [name for name in _COMBINATIONS if name in given]
    if combined:
        raise BadRequest(
            f"the tool {tool.name}: its tool_json_spec has {combined[0]} at the top of its "
            "parameters, where providers take only properties"
        )
    hidden = list_hidden(tool)
    # PostgreSQL keeps no order of names, and a model writes arguments in that of the schema.
    shown = _sort_names(given.get("properties", {}), list(list_parameters(code)))
    properties = _leave_out(shown, hidden)
    required = [name for name in given.get("required", ()) if name not in hidden]
    _check_properties(tool, code, properties, required)
    parameters = {**given, "properties": properties, "additionalProperties": False}
    if "required" in given:
        parameters["required"] = required
    return {**spec, "name": tool.name, "parameters": parameters}


def check_fields(tool: Tool) -> None:
    """Refuses a row that was written past the checks of its model.

    Raises:
        BadRequest: A field does not hold what it should; the message names it.
    """
    for name, fault in list_faults(tool, tool.CHECKS).items():
        raise BadRequest(f"the tool {tool.name}: {name}: {fault}")


def check_hidden(tool: Tool, code: ToolCode) -> None:
    """Refuses hidden parameters that the function does not have.

    Raises:
        BadRequest: It has none of that name, or none that can be given by name.
    """
    parameters = list_parameters(code)
    for field in ("context_params", "default_values_for_non_llm_params"):
        for name in getattr(tool, field):
            _check_parameter(tool, code, field, name)
            parameter = parameters.get(name)
            if parameter is not None and parameter.kind is parameter.POSITIONAL_ONLY:
                raise BadRequest(
                    f"the tool {tool.name}: {field} names {name!r}, which {code.function.__name__} "
                    "takes by position only; hidden parameters are given by name"
                )


def _derive_spec(tool: Tool, code: ToolCode) -> dict[str, Any]:
    hidden = list_hidden(tool)
    for name, annotation in code.unread.items():
        if name not in hidden:
            raise BadRequest(
                f"the tool {tool.name}: its parameter {name!r} is annotated with {annotation}, "
                "which is not read out of source text; use str, int, float, bool, list, dict, "
                "Literal, Optional, Union, Annotated with a text or Any, or write tool_json_spec "
                "by hand"
            )
    shown = [name for name in list_parameters(code) if name not in hidden]
    wire = read_function(code.function, name=tool.name, parameters=shown).wire
    told = json.loads(json.dumps(wire["function"]))
    return {
        "name": tool.name,
        "description": told.get("description", ""),
        "parameters": told["parameters"],
    }


def _check_properties(
    tool: Tool, code: ToolCode, properties: Mapping[str, Any], required: Collection[str]
) -> None:
    """Refuses a spec after which no call can succeed."""
    for name in properties:
        _check_parameter(tool, code, "tool_json_spec", name)
    for name in required:
        if name not in properties:
            raise BadRequest(
                f"the tool {tool.name}: tool_json_spec requires {name!r}, which is not among its "
                "properties"
            )
    for name, parameter in list_parameters(code).items():
        if parameter.default is parameter.empty and name not in {*properties, *list_hidden(tool)}:
            raise BadRequest(
                f"the tool {tool.name}: its parameter {name!r} gets no value: it has no default, "
                "and is neither in tool_json_spec nor in context_params nor in "
                "default_values_for_non_llm_params"
            )


def _check_parameter(tool: Tool, code: ToolCode, field: str, name: str) -> None:
    parameters = inspect.signature(code.function).parameters.values()
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        return
    known = list_parameters(code)
    if name in known:
        return
    nearest = find_nearest(name, known)
    near = "it has none" if nearest is None else f"the nearest is {nearest!r}"
    raise BadRequest(
        f"the tool {tool.name}: {field} names {name!r}, which is no parameter of "
        f"{code.function.__name__}; {near}"
    )


def _sort_names(values: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    places = {name: place for place, name in enumerate(order)}
    return {name: values[name] for name in sorted(values, key=lambda n: places.get(n, len(order)))}


def _leave_out(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
