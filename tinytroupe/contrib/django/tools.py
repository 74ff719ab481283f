"""The tools of a prompt template: what a model is told of them, and what happens when it calls."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from asgiref.sync import async_to_sync, sync_to_async

from tinytroupe.contrib.django.models import Tool
from tinytroupe.contrib.django.tool_code import ToolCode, check_permission, read_code
from tinytroupe.contrib.django.tool_process import ToolFailed
from tinytroupe.contrib.django.tool_specs import (
    check_fields,
    check_hidden,
    fill_tool_spec,
    list_hidden,
    list_parameters,
    make_tool_spec,
    read_context,
    read_spec,
)
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.response import ToolCall
from tinytroupe.llm.talk.places import Unreadable
from tinytroupe.llm.talk.shapes import Shape, make_shape
from tinytroupe.llm.talk.tool_runs import Job, ToolRun, finish_job, prepare_job, refuse_job
from tinytroupe.llm.talk.tool_schemas import Tool as Described
from tinytroupe.llm.talk.tool_schemas import read_function
from tinytroupe.llm.talk.values import describe_missing

__all__ = ["Toolbox", "check_tool", "fill_tool_spec", "make_tool_spec"]

logger = logging.getLogger("tinytroupe.django.tools")


def check_tool(tool: Tool) -> None:
    """Refuses a tool that could not be called as the site is set up now. Runs nothing of it.

    A function that is named by its path is imported.

    Raises:
        ToolCodeRefused: Its code may not be run; the message says which setting decides.
        BadRequest: Its code, its spec and its hidden parameters do not fit together.
        ConfigError: There is no interpreter to run source text.
    """
    _read_tool(tool, {})


class Toolbox:
    """The tools that a model may call in a chat.

    What a model does wrong is told to the model: an invented tool, arguments that are no JSON or do
    not fit the spec, an attempt to set a hidden parameter. Nothing is run then. What
    goes wrong in a tool is told to the model as well, and logged.

    Functions that are named by their path run in this process, for as long as they take; source
    text runs in a process of its own, for at most LLM_WRAPPER_TOOL_SECONDS.

    Args:
        tools: Which.
        variables: The chat's, which fill the hidden parameters.

    Raises:
        ToolCodeRefused: The code of one may not be run; the message says which setting decides.
        BadRequest: One cannot be called, or two have one name.
        ConfigError: There is no interpreter to run source text.
    """

    names: tuple[str, ...]
    """What the model calls the tools, in order."""
    wire: list[dict[str, Any]]
    """What the model is told of them, in the shape of OpenAI's API."""

    def __init__(self, tools: Iterable[Tool], variables: Mapping[str, Any]) -> None:
        self._tools: dict[str, _StoredTool] = {}
        for row in tools:
            if row.name in self._tools:
                raise BadRequest(f"two tools are called {row.name}")
            self._tools[row.name] = _read_tool(row, variables)
        self.names = tuple(self._tools)
        self.wire = [
            {"type": "function", "function": dict(tool.spec)} for tool in self._tools.values()
        ]

    def run(self, call: ToolCall) -> ToolRun:
        """Does what a model asks for, and blocks until it is done.

        Raises:
            LLMError: The function made a call that failed.
        """
        job = prepare_job(call, self._tools)
        if job.tool is None:
            return refuse_job(job)
        result, failure = _attempt(job)
        if inspect.isawaitable(result):
            result, failure = async_to_sync(_settle)(result)
        return _conclude(job, result, failure)

    async def arun(self, call: ToolCall) -> ToolRun:
        """Does what a model asks for. Only asynchronous functions run on the event loop's thread.

        Raises:
            LLMError: The function made a call that failed.
        """
        job = prepare_job(call, self._tools)
        if job.tool is None:
            return refuse_job(job)
        if job.tool.is_async:
            result, failure = _attempt(job)
        else:
            # Functions of the site may use the database, whose connections belong to one thread;
            # a child process does not, and would keep that thread from all others.
            shares_thread = not self._tools[call.name].code.in_child
            result, failure = await sync_to_async(_attempt, thread_sensitive=shares_thread)(job)
        if inspect.isawaitable(result):
            result, failure = await _settle(result)
        return _conclude(job, result, failure)


def _attempt(job: Job) -> tuple[Any, Exception | None]:
    """Returns what the function returned, or what it raised."""
    try:
        return job.run(), None
    except Exception as error:
        return None, error


async def _settle(result: Awaitable[Any]) -> tuple[Any, Exception | None]:
    try:
        return await result, None
    except Exception as error:
        return None, error


def _conclude(job: Job, result: Any, failure: Exception | None) -> ToolRun:
    run = finish_job(job, result, failure)
    if run.error is None:
        return run
    if isinstance(failure, ToolFailed):
        place = "" if failure.line is None else f" (line {failure.line} of its code)"
        logger.error("the tool %s failed: %s%s", run.name, failure, place)
        return replace(run, told=f"Error: {failure}", error=str(failure))
    logger.error("the tool %s failed: %s", run.name, run.error, exc_info=run.exception)
    return run


@dataclass(frozen=True, slots=True)
class _StoredTool:
    """A tool that is ready to be called, with what only the site sets."""

    code: ToolCode
    spec: Mapping[str, Any]
    """What the model is told; without hidden parameters."""
    shape: Shape
    """What the model's arguments must be like."""
    shown: Described
    """The function with the parameters that the model sets."""
    concealed: Described
    """The function with the hidden ones."""
    known: frozenset[str]
    """All of its parameters; what it takes beyond them goes into its `**`."""
    defaults: Mapping[str, Any]
    context: Mapping[str, str]
    """Hidden parameter → the chat's variable that fills it."""
    variables: Mapping[str, Any]

    @property
    def function(self) -> Callable[..., Any]:
        return self.code.function

    @property
    def is_async(self) -> bool:
        return self.shown.is_async

    def bind(self, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        taken = ", ".join(self.spec["parameters"]["properties"]) or "none"
        for name in arguments:
            if name in self.defaults or name in self.context:
                raise Unreadable(f"{name} cannot be set; the parameters are: {taken}")
        try:
            self.shape.read(arguments)
        except RecursionError as error:
            raise Unreadable("the arguments are nested too deeply") from error
        except Unreadable as error:
            raise Unreadable(f"{error.reason}; the parameters are: {taken}") from error
        positional, named = self._bind(self.shown, arguments)
        return positional, {**named, **self._fill()}

    def _bind(
        self, described: Described, values: Mapping[str, Any], quoted: bool = True
    ) -> tuple[list[Any], dict[str, Any]]:
        own = {name: value for name, value in values.items() if name in self.known}
        positional, named = described.bind(own, quoted=quoted)
        others = {name: value for name, value in values.items() if name not in self.known}
        return positional, {**named, **others}

    def _fill(self) -> dict[str, Any]:
        """Returns the hidden parameters, as the function's hints want them."""
        values = dict(self.defaults)
        for parameter, variable in self.context.items():
            if variable in self.variables:
                values[parameter] = self.variables[variable]
            elif parameter not in values:
                self._give_up(describe_missing(variable, variable, self.variables))
        try:
            # They are the site's: neither the model nor the log is shown them.
            return self._bind(self.concealed, values, quoted=False)[1]
        except Unreadable as error:
            self._give_up(error.reason)
        except (TypeError, ValueError):
            self._give_up(f"a value of {', '.join(values)} has no JSON form")

    def _give_up(self, reason: str) -> NoReturn:
        name = self.spec["name"]
        logger.error("the tool %s was not run: of what the site fills in, %s", name, reason)
        raise Unreadable(f"{name} cannot be used now: of what the site fills in, {reason}")


def _read_tool(row: Tool, variables: Mapping[str, Any]) -> _StoredTool:
    check_fields(row)
    check_permission(row)
    code = read_code(row)
    check_hidden(row, code)
    spec = read_spec(row, code)
    try:
        shape = make_shape(spec["parameters"])
    except BadRequest as error:
        raise BadRequest(f"the tool {row.name}: tool_json_spec: {error.message}") from error
    _check_defaults(row, code)
    return _StoredTool(
        code=code,
        spec=spec,
        shape=shape,
        shown=read_function(code.function, name=row.name, parameters=_list_shown(row, code, spec)),
        concealed=read_function(code.function, name=row.name, parameters=list_hidden(row)),
        known=frozenset(list_parameters(code)),
        defaults=row.default_values_for_non_llm_params,
        context=read_context(row),
        variables=variables,
    )


def _list_shown(row: Tool, code: ToolCode, spec: Mapping[str, Any]) -> list[str]:
    hidden, listed = list_hidden(row), spec["parameters"]["properties"]
    return [
        name
        for name, parameter in list_parameters(code).items()
        # What stands before a place cannot be left out.
        if name in listed or (name not in hidden and parameter.kind is parameter.POSITIONAL_ONLY)
    ]


def _check_defaults(row: Tool, code: ToolCode) -> None:
    values = row.default_values_for_non_llm_params
    own = {name: value for name, value in values.items() if name in list_parameters(code)}
    if not own:
        return
    try:
        read_function(code.function, name=row.name, parameters=own).bind(own)
    except Unreadable as error:
        raise BadRequest(
            f"the tool {row.name}: default_values_for_non_llm_params: {error.reason}"
        ) from error
