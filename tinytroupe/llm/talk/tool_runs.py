"""One run of a tool: what a model wants, whether it may, what came of it, what it is told."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.errors import LLMError, ParseError
from tinytroupe.llm.messages import Message
from tinytroupe.llm.response import ToolCall
from tinytroupe.llm.talk.places import Unreadable
from tinytroupe.llm.talk.values import find_nearest


class Callee(Protocol):
    """What a model may call: a `Tool`, or what somebody else makes of their functions."""

    @property
    def function(self) -> Callable[..., Any]:
        """What is run."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether what it returns has to be awaited."""
        ...

    def bind(self, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Returns what the function is called with, by position and by name.

        Raises:
            Unreadable: The arguments do not fit; the reason is told to the model.
        """
        ...


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What came of one tool call.

    Can always be pickled, since errors that carry runs cross process pools: a result
    or an exception that cannot be is left out there.
    """

    id: str
    """By which the model knows the call."""
    name: str
    """As the model wrote it; there may be no such tool."""
    arguments: dict[str, Any]
    """As the model gave them; empty where they could not be read."""
    told: str
    """What was sent back to the model."""
    result: Any = None
    """What the function returned; None also where it was not run or failed."""
    error: str | None = None
    """What was wrong, as the model was told; None: nothing."""
    exception: Exception | None = field(default=None, compare=False)
    """What the function raised; None: nothing, or it was not run."""

    def to_message(self) -> Message:
        """Returns the message that tells the model."""
        return Message("tool", self.told, FrozenDict({"tool_call_id": self.id}))

    def __copy__(self) -> ToolRun:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        result, exception = _keep_picklable(self.result), _keep_picklable(self.exception)
        known = (self.id, self.name, self.arguments, self.told)
        return ToolRun, (*known, result, self.error, exception)


def _keep_picklable(value: Any) -> Any:
    try:
        # Exceptions with arguments of their own can be written, but not read.
        pickle.loads(pickle.dumps(value))
    except Exception:
        return None
    return value


@dataclass(frozen=True, slots=True)
class Job:
    """A tool call that was looked at: with a tool, it is to be run, else refused."""

    call: ToolCall
    arguments: dict[str, Any]
    tool: Callee | None
    positional: list[Any]
    named: dict[str, Any]
    complaint: str = ""
    """Why it is refused."""

    def run(self) -> Any:
        """Calls the function; what it returns may have to be awaited."""
        assert self.tool is not None
        return self.tool.function(*self.positional, **self.named)


def prepare_job(call: ToolCall, tools: Mapping[str, Callee]) -> Job:
    """Finds the tool and reads the arguments; nothing that a model invents is ever run."""
    arguments: dict[str, Any] = {}
    try:
        arguments = call.parsed_arguments
        tool = tools.get(call.name)
        if tool is None:
            raise Unreadable(_tell_missing(call.name, tools))
        positional, named = tool.bind(arguments)
    except (ParseError, Unreadable) as error:
        reason = error.message if isinstance(error, ParseError) else error.reason
        return Job(call, arguments, None, [], {}, reason)
    return Job(call, arguments, tool, positional, named)


def _tell_missing(name: str, tools: Mapping[str, Callee]) -> str:
    nearest = find_nearest(name, tools)
    if nearest is None:
        return f"there is no tool {name!r}, and no other one"
    return f"there is no tool {name!r}; the nearest is {nearest!r}, and all are: {', '.join(tools)}"


def refuse_job(job: Job) -> ToolRun:
    """Makes the run of a call that was refused."""
    told = f"Error: {job.complaint}"
    return ToolRun(job.call.id, job.call.name, job.arguments, told, error=job.complaint)


def finish_job(job: Job, result: Any, failure: Exception | None) -> ToolRun:
    """Makes the run of a call whose function was called.

    Args:
        job: What was called.
        result: What the function returned.
        failure: What it raised; None: nothing.

    Raises:
        LLMError: The function made a call that failed. This is the simulation's affair and not
            the model's: a budget that is used up, say.
    """
    call = job.call
    try:
        if failure is not None:
            raise failure
        told = _write_result(result)
    except LLMError:
        raise
    except Exception as error:
        complaint = f"{type(error).__name__}: {error}"
        told = f"Error: {complaint}"
        return ToolRun(call.id, call.name, job.arguments, told, None, complaint, error)
    return ToolRun(call.id, call.name, job.arguments, told, result)


def _write_result(result: Any) -> str:
    """Returns what a model is told of a result: a text as it is, anything else as JSON."""
    if isinstance(result, str):
        return result
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("the function is asynchronous; arun_tools awaits it")
    from pydantic import TypeAdapter

    try:
        value = TypeAdapter(Any).dump_python(_sort_sets(result), mode="json")
    except ValueError as error:
        raise TypeError(
            f"what the function returned, of type {type(result).__name__}, has no JSON form"
        ) from error
    return json.dumps(value, ensure_ascii=False)


def _sort_sets(value: Any) -> Any:
    """Returns a value with lists for sets: the order of a set differs from process to process.

    What the model is told is part of the next request, which must be the same in every run.
    """
    if isinstance(value, (set, frozenset)):
        return sorted((_sort_sets(item) for item in value), key=repr)
    if type(value) is dict:
        return {key: _sort_sets(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_sort_sets(item) for item in value]
    return value
