"""Asking until the answer can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import (
    BadRequest,
    CacheMiss,
    LLMConnectionError,
    LLMError,
    ParseError,
)
from tinytroupe.llm.messages import Message
from tinytroupe.llm.request import Call, Request
from tinytroupe.llm.response import Response
from tinytroupe.llm.talk.formats import Refusals, read_format
from tinytroupe.llm.talk.parsers import ParsedResponse, Parser
from tinytroupe.llm.talk.steps import Steps, adrive, drive

_refusals = Refusals()


def ask(
    client: Client,
    call: Call | Request,
    parser: Parser | None = None,
    *,
    response_format: object = None,
    attempts: int = 3,
    instruct: bool = True,
) -> ParsedResponse:
    """Asks, and asks again while the answer cannot be read; blocks.

    After an answer that cannot be read, the same question is asked with that answer and
    what is wrong with it in the conversation, as a new sample. Every answer is
    cached as usual, so a later run gets the same result without buying.

    With `response_format` the endpoint itself keeps to the schema. Where it refuses that
    (status 400 or 422, or it has no such mode), the format is asked for in words; this is
    remembered for the endpoint and the model while the process runs.

    Args:
        client: Who asks.
        call: What is asked. A `response_format` among its parameters counts as if given here.
        parser: Reads the answer; None: what `response_format` asks for.
        response_format: A pydantic class, a JSON Schema, or what OpenAI's API
            takes; None: the format is asked for in words.
        attempts: How often is asked at most, tries on the wire not counted.
        instruct: Whether the parser's `format_instruction` is put behind the last message
            where no message holds it yet, and the endpoint knows no schema.

    Returns:
        The response that could be read; its `rejected` says what was wrong with those before.

    Raises:
        ParseError: No answer could be read. It is the first answer's; `history` tells the others'.
        BadRequest: Neither parser nor format is given, or one cannot be used.
        LLMError: A call failed; the class says why.
    """
    return drive(client, _converse(client, call, parser, response_format, attempts, instruct))


async def aask(
    client: AsyncClient,
    call: Call | Request,
    parser: Parser | None = None,
    *,
    response_format: object = None,
    attempts: int = 3,
    instruct: bool = True,
) -> ParsedResponse:
    """Does what `ask` does without blocking the event loop."""
    steps = _converse(client, call, parser, response_format, attempts, instruct)
    return await adrive(client, steps)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The two ways to ask."""

    parser: Parser
    plain: Call
    """Asks for the format in words."""
    formatted: Call | None
    """Asks the endpoint to keep to the format; None: none was given."""
    kind: str = ""
    """`json_schema` or `json_object`."""


def _make_plan(
    call: Call | Request, parser: Parser | None, response_format: object, instruct: bool
) -> _Plan:
    call = Call(call) if isinstance(call, Request) else call
    request = call.request
    if request.kind != "chat":
        raise BadRequest(f"only a conversation can be asked for a format, not a {request.kind}")
    given = (
        request.parameters.get("response_format") if response_format is None else response_format
    )
    form = None if given is None else read_format(given)
    reader = parser or (form.parser if form else None)
    if reader is None:
        raise BadRequest("give a parser or a response_format: nothing says what the answer is like")
    parameters = {name: item for name, item in request.parameters.items() if name != _PARAMETER}
    bare = replace(request, parameters=FrozenDict(parameters))
    told = _instruct(bare, reader.format_instruction)
    plain = replace(call, request=told if instruct else bare)
    if form is None:
        return _Plan(reader, plain, None)
    # The word JSON must be in the prompt where there is no schema (OpenAI, "JSON mode").
    base = bare if form.has_schema or not instruct else told
    formatted = replace(base, parameters=FrozenDict({**parameters, _PARAMETER: form.wire}))
    # In place of the schema only words can tell the format, so the caller has no choice here.
    plain = replace(call, request=told)
    return _Plan(reader, plain, replace(call, request=formatted), str(form.wire["type"]))


_PARAMETER = "response_format"


def _instruct(request: Request, instruction: str) -> Request:
    """Returns the request with an instruction behind its last message, unless one holds it."""
    messages = request.messages
    if not instruction or any(instruction in str(message.content) for message in messages):
        return request
    last = messages[-1]
    if last.role != "user" or last.content is None:
        return replace(request, messages=(*messages, Message("user", instruction)))
    if isinstance(last.content, str):
        longer = replace(last, content=f"{last.content}\n\n{instruction}")
    else:
        part = FrozenDict({"type": "text", "text": instruction})
        longer = replace(last, content=(*last.content, part))
    return replace(request, messages=(*messages[:-1], longer))


def _converse(
    client: Client | AsyncClient,
    call: Call | Request,
    parser: Parser | None,
    response_format: object,
    attempts: int,
    instruct: bool,
) -> Steps[ParsedResponse]:
    if attempts < 1:
        raise BadRequest(f"attempts is {attempts}; at least 1 is needed")
    plan = _make_plan(call, parser, response_format, instruct)
    asked, response, refusal = yield from _open(client, plan)
    first = asked
    errors: list[ParseError] = []
    while True:
        try:
            parsed = plan.parser.parse(response)
        except ParseError as error:
            errors.append(error)
        else:
            rejected = tuple(error.message for error in errors)
            return replace(parsed, rejected=rejected) if rejected else parsed
        if len(errors) == attempts:
            raise _choose_cause(errors, refusal, first)
        asked = _ask_again(first, asked, response, errors, plan.parser.format_instruction)
        response = yield asked


def _open(client: Client | AsyncClient, plan: _Plan) -> Steps[tuple[Call, Response, str]]:
    """Asks for the first time; returns the way that was taken, the answer, and what was refused."""
    formatted, plain = plan.formatted, plan.plain
    if formatted is None or _refusals.knows(client, formatted, plan.kind):
        return plain, (yield plain), ""
    try:
        return formatted, (yield formatted), ""
    except BadRequest as error:
        if error.status not in (None, 400, 422):
            raise
        refusal = error
    except (CacheMiss, LLMConnectionError) as error:
        # The endpoint cannot tell now that it refuses; an earlier run may have stored an answer.
        return plain, (yield from _look(plain, error)), ""
    try:
        response = yield plain
    except BadRequest:
        # It was not the format that was refused.
        raise refusal from None
    _refusals.learn(client, formatted, plan.kind)
    return plain, response, f"BadRequest: {refusal.message}"


def _look(call: Call, failure: LLMError) -> Steps[Response]:
    """Returns the stored answer, or raises why the endpoint could not be asked."""
    if call.options.cache in ("off", "refresh"):
        raise failure
    try:
        return (yield replace(call, options=replace(call.options, cache="only")))
    except CacheMiss:
        raise failure from None


def _ask_again(
    first: Call, asked: Call, response: Response, errors: Sequence[ParseError], instruction: str
) -> Call:
    """Returns the call that goes on after an answer that could not be read."""
    complaint = f"Your answer could not be used: {errors[-1].message}."
    if response.truncated:
        complaint += " It was longer than allowed, so be brief."
    complaint += "\n\nAnswer again, the whole of it. " + instruction
    messages = [*asked.request.messages]
    if response.text.strip():
        messages.append(Message("assistant", response.text))
    messages.append(Message("user", complaint))
    # A sample of its own: whatever the conversation, this is not the answer that was bad.
    options = replace(first.options, sample=first.options.sample + len(errors))
    return replace(asked, request=replace(asked.request, messages=tuple(messages)), options=options)


def _choose_cause(errors: Sequence[ParseError], refusal: str, call: Call) -> ParseError:
    cause = errors[0]
    cause.lane = cause.lane or call.options.lane
    later = [f"ParseError: {error.message}" for error in errors[1:]]
    cause.history = tuple([refusal, *later] if refusal else later)
    return cause
