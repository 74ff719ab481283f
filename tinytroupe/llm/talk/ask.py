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
    (status 400 or 422, or it has no such mode), others of the client's endpoints are asked,
    and where all refuse, the format is asked for in words; this is remembered for the
    endpoint and the model while the process runs.

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
    """The two ways to ask what is to be asked next."""

    parser: Parser
    plain: Call
    """Asks for the format in words."""
    formatted: Call | None
    """Asks the endpoint to keep to the format; None: none was given, or it was refused."""
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
    errors: list[ParseError] = []
    refusals: list[BadRequest] = []
    while True:
        plan, response = yield from _put(client, plan, refusals)
        try:
            parsed = plan.parser.parse(response)
        except ParseError as error:
            errors.append(error)
        else:
            rejected = tuple(error.message for error in errors)
            return replace(parsed, rejected=rejected) if rejected else parsed
        if len(errors) == attempts:
            raise _choose_cause(errors, refusals, plan.plain)
        plan = _ask_again(plan, response, errors[-1])


def _put(
    client: Client | AsyncClient, plan: _Plan, refusals: list[BadRequest]
) -> Steps[tuple[_Plan, Response]]:
    """Asks in the better way that is left; returns the plan as far as it holds, and the answer.

    An endpoint that refuses the format is left for another one. Only where all do, or
    those that do not cannot be asked, the format is asked for in words.

    Args:
        client: Who asks.
        plan: What is asked.
        refusals: Takes up what endpoints said of the format.
    """
    if plan.formatted is None:
        return plan, (yield plan.plain)
    in_words = replace(plan, formatted=None)
    known = _refusals.find(client, plan.formatted, plan.kind)
    names = [endpoint.name for endpoint in client.route.endpoints]
    refusing, refused = list(known), len(refusals)
    while len(refusing) < len(names):
        try:
            response = yield _avoid(plan.formatted, refusing)
        except BadRequest as error:
            if error.status not in (None, 400, 422):
                raise
            refusals.append(error)
            name = error.endpoint if len(names) > 1 else names[0]
            if name in refusing or name not in names:
                break
            refusing.append(name)
        except (CacheMiss, LLMConnectionError) as error:
            # Nobody can tell now who refuses; an earlier run may have stored an answer.
            return in_words, (yield from _look(plan.plain, error))
        else:
            _refusals.learn(client, plan.formatted, plan.kind, refusing[len(known) :])
            return plan, response
    try:
        response = yield plan.plain
    except BadRequest as error:
        # It was not the format that was refused.
        raise (refusals[refused] if len(refusals) > refused else error) from None
    _refusals.learn(client, plan.formatted, plan.kind, refusing[len(known) :])
    return in_words, response


def _avoid(call: Call, names: Sequence[str]) -> Call:
    if not names:
        return call
    return replace(call, options=replace(call.options, avoid=(*call.options.avoid, *names)))


def _look(call: Call, failure: LLMError) -> Steps[Response]:
    """Returns the stored answer, or raises why the endpoint could not be asked."""
    if call.options.cache in ("off", "refresh"):
        raise failure
    try:
        return (yield replace(call, options=replace(call.options, cache="only")))
    except CacheMiss:
        raise failure from None


def _ask_again(plan: _Plan, response: Response, error: ParseError) -> _Plan:
    """Returns the plan that goes on after an answer that could not be read."""
    complaint = f"Your answer could not be used: {error.message}."
    if response.truncated:
        complaint += " It was longer than allowed, so be brief."
    complaint += "\n\nAnswer again, the whole of it. " + plan.parser.format_instruction
    messages = [Message("user", complaint)]
    if response.text.strip():
        messages.insert(0, Message("assistant", response.text))
    formatted = plan.formatted
    return replace(
        plan,
        plain=_extend(plan.plain, messages),
        formatted=None if formatted is None else _extend(formatted, messages),
    )


def _extend(call: Call, messages: Sequence[Message]) -> Call:
    # A sample of its own: whatever the conversation, this is not the answer that was bad.
    options = replace(call.options, sample=call.options.sample + 1)
    request = replace(call.request, messages=(*call.request.messages, *messages))
    return replace(call, request=request, options=options)


def _choose_cause(
    errors: Sequence[ParseError], refusals: Sequence[BadRequest], call: Call
) -> ParseError:
    cause = errors[0]
    cause.lane = cause.lane or call.options.lane
    others = (*refusals, *errors[1:])
    cause.history = tuple(f"{type(error).__name__}: {error.message}" for error in others)
    return cause
