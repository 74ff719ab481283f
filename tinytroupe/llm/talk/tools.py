"""Letting a model call Python's functions: it asks for them, they are run here, it goes on."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from tinytroupe.llm.canonical import JSON, FrozenDict
from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import BadRequest, LLMError, ToolRoundsExceeded
from tinytroupe.llm.messages import Message, to_message
from tinytroupe.llm.request import Call, Request
from tinytroupe.llm.response import Response, Usage
from tinytroupe.llm.runtime import AsyncioRuntime
from tinytroupe.llm.talk.call import read_message
from tinytroupe.llm.talk.tool_runs import Job, ToolRun, finish_job, prepare_job, refuse_job
from tinytroupe.llm.talk.tool_schemas import Tool, make_tool, read_function

__all__ = [
    "Tool",
    "ToolResponse",
    "ToolRun",
    "arun_tools",
    "echo_message",
    "make_tool",
    "read_function",
    "run_tools",
]

MOST_THREADS = 16
"""Tools that run at a time, where threads are asked for."""

Functions: TypeAlias = "Iterable[Callable[..., Any] | Tool]"
"""What a model may call."""
ToolReport: TypeAlias = Callable[[ToolRun], None]
"""Is told of each run."""


@dataclass(frozen=True, slots=True)
class ToolResponse:
    """A model's answer, and what was run on the way to it. Immutable."""

    response: Response
    """The last response, which calls no tool."""
    runs: tuple[ToolRun, ...]
    """Every tool call, in the model's order."""
    messages: tuple[Message, ...]
    """The whole conversation, the answer included."""
    usage: Usage | None
    """Tokens of all responses together; None: one of them did not tell."""

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.response.text


def run_tools(
    client: Client,
    call: Call | Request,
    functions: Functions,
    *,
    max_rounds: int = 8,
    in_threads: bool = False,
    on_run: ToolReport | None = None,
) -> ToolResponse:
    """Asks, runs the functions that the model calls, sends back the results, until it answers.

    Only functions that are given are run, with arguments that fit their hints. Invented names,
    wrong arguments and what a function raises are told to the model, which may
    do better, and to the caller in `runs`. Each response is cached as usual; the functions
    run again each time.

    Args:
        client: Who asks; blocks until the answer is there.
        call: What is asked. Tools among its parameters are sent as well, and describe a
            function in place of its hints where they have its name. A forced `tool_choice`
            counts for the first response only.
        functions: What may be called; for their schemas see `make_tool`.
        max_rounds: How often functions are run, at most, before the model has to answer.
        in_threads: Whether the calls of one response run at the same time, each in a thread.
            If not, they run one after the other on the calling thread.
        on_run: Is told of each run as it is sent back.

    Raises:
        ToolRoundsExceeded: The model went on calling tools.
        BadRequest: A function cannot be described, or two have one name.
        LLMError: A call failed, also one that a function made. Its `runs` are what was
            run before.
    """
    talk = _Talk(call, functions, max_rounds, on_run)
    for tool in talk.tools.values():
        if tool.is_async:
            raise BadRequest(f"the function {tool.name} is asynchronous; use arun_tools")
    with talk.told_on_failure():
        while jobs := talk.hear(client.send(talk.call)):
            _run_jobs(jobs, in_threads, talk.tell)
    return talk.conclude()


async def arun_tools(
    client: AsyncClient,
    call: Call | Request,
    functions: Functions,
    *,
    max_rounds: int = 8,
    in_threads: bool = False,
    on_run: ToolReport | None = None,
) -> ToolResponse:
    """Does what `run_tools` does without blocking the event loop while a model is asked.

    Functions may be asynchronous and are awaited one after the other. Others run on the loop's
    thread and block it, unless `in_threads` is set.
    """
    talk = _Talk(call, functions, max_rounds, on_run)
    with talk.told_on_failure():
        while jobs := talk.hear(await client.send(talk.call)):
            await _arun_jobs(jobs, in_threads, talk.tell)
    return talk.conclude()


class _Talk:
    """The conversation as it grows."""

    def __init__(
        self, call: Call | Request, functions: Functions, max_rounds: int, on_run: ToolReport | None
    ) -> None:
        if max_rounds < 1:
            raise BadRequest(f"max_rounds is {max_rounds}; at least 1 is needed")
        self.tools: dict[str, Tool] = {}
        for tool in map(read_function, functions):
            if tool.name in self.tools:
                raise BadRequest(f"two functions are called {tool.name}")
            self.tools[tool.name] = tool
        if not self.tools:
            raise BadRequest("there is no function to call; at least one is needed")
        call = Call(call) if isinstance(call, Request) else call
        self.call = replace(call, request=_add_tools(call.request, self.tools))
        self._max_rounds = max_rounds
        self._rounds = 0
        self._on_run = on_run
        self._runs: list[ToolRun] = []
        self._messages = list(call.request.messages)
        self._responses: list[Response] = []

    def hear(self, response: Response) -> list[Job]:
        """Takes a response and returns what it wants to be run: nothing where it is the answer.

        Raises:
            ToolRoundsExceeded: It wants more, but has to answer.
            ContentFiltered: The provider's content filter withheld it.
        """
        calls = response.tool_calls
        self._responses.append(response)
        self._messages.append(echo_message(response))
        if not calls:
            return []
        if self._rounds == self._max_rounds:
            names = ", ".join(dict.fromkeys(call.name for call in calls))
            raise ToolRoundsExceeded(
                f"the model still calls tools ({names}) after {self._rounds} rounds of them; raise "
                "max_rounds, or tell it when to answer",
                messages=tuple(self._messages),
                response=response,
                model=response.model or None,
                lane=self.call.options.lane,
            )
        self._rounds += 1
        return [prepare_job(call, self.tools) for call in calls]

    def tell(self, run: ToolRun) -> None:
        """Puts what came of a call into the next one."""
        self._runs.append(run)
        self._messages.append(run.to_message())
        request = self.call.request
        parameters = request.parameters
        # A choice that was forced would be forced for ever.
        if parameters.get("tool_choice") not in (None, "auto", "none"):
            left = {name: value for name, value in parameters.items() if name != "tool_choice"}
            parameters = FrozenDict(left)
        following = replace(request, messages=tuple(self._messages), parameters=parameters)
        self.call = replace(self.call, request=following)
        if self._on_run is not None:
            self._on_run(run)

    @contextmanager
    def told_on_failure(self) -> Iterator[None]:
        """Lets an error that leaves tell what was run before it."""
        try:
            yield
        except LLMError as error:
            if not self._runs:
                raise
            # A copy: who asked the same at the same moment is given this very error.
            told = copy.copy(error)
            told.runs = (*self._runs, *error.runs)
            raise told.with_traceback(error.__traceback__) from error.__cause__

    def conclude(self) -> ToolResponse:
        """Returns the answer and all that was run."""
        told = [response.usage for response in self._responses]
        known = [usage for usage in told if usage is not None]
        usage = sum(known, Usage()) if len(known) == len(told) else None
        return ToolResponse(self._responses[-1], tuple(self._runs), tuple(self._messages), usage)


def _add_tools(request: Request, tools: Mapping[str, Tool]) -> Request:
    if request.kind != "chat":
        raise BadRequest(f"only a conversation can have tools, not a {request.kind}")
    given = cast("Sequence[Mapping[str, Any]]", request.parameters.get("tools") or ())
    named = {(tool.get("function") or {}).get("name") for tool in given}
    added = [tool.wire for tool in tools.values() if tool.name not in named]
    all_tools = cast(JSON, (*given, *added))
    return replace(request, parameters=FrozenDict({**request.parameters, "tools": all_tools}))


_NOT_SENT_BACK = ("annotations", "audio", "function_call")
"""What endpoints put into an answer and do not take in a question."""


def echo_message(response: Response) -> Message:
    """Returns a model's message as it is sent back: with all it may need to go on.

    DeepSeek wants its `reasoning_content` back, Gemini the signature in each tool call.

    Raises:
        ContentFiltered: The provider's content filter withheld it.
        MalformedResponse: What it has for a tool call is not one.
    """
    message, calls = read_message(response), response.tool_calls
    kept = {
        name: value
        for name, value in message.items()
        if name == "content" or (value not in (None, "", [], {}) and name not in _NOT_SENT_BACK)
    }
    if calls:
        pairs = zip(message["tool_calls"], calls, strict=True)
        kept["tool_calls"] = [{**written, "id": call.id} for written, call in pairs]
    elif kept["content"] is None:
        kept["content"] = ""
    return to_message(kept)


def _run_jobs(jobs: Sequence[Job], in_threads: bool, tell: ToolReport) -> None:
    """Runs jobs and tells what came of each, in order."""
    if not in_threads or len(jobs) == 1:
        for job in jobs:
            tell(_run(job, job.run))
        return
    with ThreadPoolExecutor(min(len(jobs), MOST_THREADS)) as pool:
        futures = _submit(pool, jobs)
        for job, future in zip(jobs, futures, strict=True):
            tell(_run(job, future.result if future else job.run))


def _run(job: Job, take_result: Callable[[], Any]) -> ToolRun:
    if job.tool is None:
        return refuse_job(job)
    try:
        result = take_result()
    except Exception as error:
        return finish_job(job, None, error)
    return finish_job(job, result, None)


async def _arun_jobs(jobs: Sequence[Job], in_threads: bool, tell: ToolReport) -> None:
    """Does what `_run_jobs` does; asynchronous functions are awaited and never run in threads."""
    if not in_threads:
        for job in jobs:
            tell(await _arun(job, None))
        return
    pool = ThreadPoolExecutor(min(len(jobs), MOST_THREADS))
    try:
        for job, future in zip(jobs, _submit(pool, jobs), strict=True):
            tell(await _arun(job, future))
    except BaseException:
        # Others may be running still, and the loop must not wait for them.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


async def _arun(job: Job, future: Future[Any] | None) -> ToolRun:
    if job.tool is None:
        return refuse_job(job)
    try:
        result = job.run() if future is None else await AsyncioRuntime().wait(future)
        if inspect.isawaitable(result):
            result = await result
    except Exception as error:
        return finish_job(job, None, error)
    return finish_job(job, result, None)


def _submit(pool: ThreadPoolExecutor, jobs: Sequence[Job]) -> list[Future[Any] | None]:
    """Starts the ordinary functions in threads, each with what the caller's context holds."""
    return [
        pool.submit(functools.partial(copy_context().run, job.run))
        if job.tool is not None and not job.tool.is_async
        else None
        for job in jobs
    ]
