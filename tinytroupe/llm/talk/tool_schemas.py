"""Tools out of Python's functions: what a model is told of one, and what it may be called with."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tinytroupe.llm.canonical import FrozenDict, freeze_mapping
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.talk.docstrings import read_docstring
from tinytroupe.llm.talk.places import Unreadable
from tinytroupe.llm.talk.shapes import tell_problems, walk_schema

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call. Make one with `read_function`."""

    name: str
    function: Callable[..., Any]
    wire: FrozenDict
    """What a model is told of it, in the shape of OpenAI's API."""
    _model: Any
    """The pydantic class of its arguments, each field under another name than the parameter's."""
    _parameters: tuple[inspect.Parameter, ...]

    @property
    def is_async(self) -> bool:
        """Whether the function is one of `async def`."""
        call = getattr(self.function, "__call__", None)  # noqa: B004
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def bind(
        self, arguments: Mapping[str, Any], *, quoted: bool = True
    ) -> tuple[list[Any], dict[str, Any]]:
        """Returns what the function is called with; what is not given is left to its defaults.

        Args:
            arguments: By the parameters' names, as JSON has them.
            quoted: Whether the reason shows the values that do not fit.

        Raises:
            Unreadable: The arguments do not fit; the reason names each.
        """
        from pydantic import ValidationError

        try:
            # As JSON and not as Python's values: dates and enumerations are texts there.
            read = self._model.model_validate_json(json.dumps(arguments))
        except ValidationError as error:
            raise Unreadable(tell_problems(error, quoted)) from error
        except RecursionError as error:
            raise Unreadable("the arguments are nested too deeply") from error
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for place, parameter in enumerate(self._parameters):
            field = _name_field(place)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(getattr(read, field))
            elif field in read.model_fields_set:
                named[parameter.name] = getattr(read, field)
        return positional, named


def make_tool(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns what OpenAI's API takes for a tool: name, description and schema of the arguments.

    The types come from the hints, the descriptions from the docstring (Google, NumPy or
    Sphinx style), or from `Annotated[int, "of what year"]`.

    Raises:
        BadRequest: The function has no name that can be sent, or a hint has no JSON Schema.
    """
    told: dict[str, Any] = json.loads(json.dumps(read_function(function).wire))
    return told


def read_function(
    function: Callable[..., Any] | Tool,
    *,
    name: str | None = None,
    parameters: Collection[str] | None = None,
) -> Tool:
    """Makes a tool of a function; a tool is returned as it is.

    Args:
        function: What is called.
        name: What the model calls it; None: as the function is called.
        parameters: The tool knows these only. The others get their values elsewhere, by name.
            None: it knows all.

    Raises:
        BadRequest: The function has no name that can be sent, or a hint has no JSON Schema.
    """
    if isinstance(function, Tool):
        return function
    name = getattr(function, "__name__", "") if name is None else name
    if not callable(function) or not _NAME.fullmatch(name):
        raise BadRequest(
            f"{function!r} cannot be a tool: it must be a function whose name has 1 to 64 "
            "letters, digits, underscores and dashes"
        )
    summary, described = read_docstring(inspect.getdoc(function))
    known = tuple(
        parameter
        for parameter in _list_parameters(function, name)
        if parameters is None or parameter.name in parameters
    )
    model, schema = _describe_arguments(function, name, known, described)
    told: dict[str, Any] = {"name": name, "parameters": schema}
    if summary:
        told["description"] = summary
    wire = freeze_mapping({"type": "function", "function": told}, f"the tool {name}")
    return Tool(name, function, wire, model, known)


def _list_parameters(function: Callable[..., Any], name: str) -> tuple[inspect.Parameter, ...]:
    """Returns the parameters that a model can fill; `*args` and `**kwargs` are left out."""
    try:
        listed = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise BadRequest(f"the parameters of {name} cannot be told: {error}") from error
    collected = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(parameter for parameter in listed if parameter.kind not in collected)


def _describe_arguments(
    function: Callable[..., Any],
    name: str,
    parameters: tuple[inspect.Parameter, ...],
    described: Mapping[str, str],
) -> tuple[Any, dict[str, Any]]:
    from pydantic import ConfigDict, create_model
    from pydantic.errors import PydanticUserError

    hints = _read_hints(function, name)
    try:
        # Parameters may be called what pydantic's own classes call theirs: `schema`, `_x`, `copy`.
        fields: dict[str, Any] = {
            _name_field(place): _make_field(parameter, hints.get(parameter.name, Any), described)
            for place, parameter in enumerate(parameters)
        }
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        schema: dict[str, Any] = model.model_json_schema()
    except (PydanticUserError, TypeError, NameError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise BadRequest(f"the parameters of {name} have no JSON Schema: {reason}") from error
    for part in list(walk_schema(schema)):
        # Titles repeat the names, and are paid for with every call.
        part.pop("title", None)
    return model, schema


def _name_field(place: int) -> str:
    return f"parameter_{place}"


def _read_hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    hinted = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    try:
        return typing.get_type_hints(inspect.unwrap(hinted), include_extras=True)
    except Exception as error:
        raise BadRequest(
            f"a type hint of {name} cannot be understood: {error}; hints that are texts must "
            "name what the function's module knows"
        ) from error


def _make_field(
    parameter: inspect.Parameter, hint: Any, described: Mapping[str, str]
) -> tuple[Any, Any]:
    from pydantic import Field
    from pydantic.fields import FieldInfo

    given: dict[str, Any] = {"alias": parameter.name}
    remarks = getattr(hint, "__metadata__", ())
    own = [
        remark.description if isinstance(remark, FieldInfo) else remark
        for remark in remarks
        if isinstance(remark, (FieldInfo, str))
    ]
    description = next(filter(None, [*own, described.get(parameter.name)]), None)
    if description:
        given["description"] = description
    default = parameter.default
    if default is inspect.Parameter.empty:
        return hint, Field(..., **given)
    if _is_json(default):
        return hint, Field(default, **given)
    # A default without a JSON form is not told; the function has it.
    return hint, Field(default_factory=lambda: default, **given)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
