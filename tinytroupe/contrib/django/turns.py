"""A turn: what a user says is stored, asked, and answered, with as many tools as that takes."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from tinytroupe.contrib.django.access import Access
from tinytroupe.contrib.django.chats import ChatHistoryRepository
from tinytroupe.contrib.django.conf import read_site_settings
from tinytroupe.contrib.django.configs import get_model
from tinytroupe.contrib.django.errors import UnknownChat
from tinytroupe.contrib.django.history import (
    StoredMessage,
    clean_text,
    list_for_model,
    make_message,
)
from tinytroupe.contrib.django.locks import make_lock
from tinytroupe.contrib.django.prompts import Prompt
from tinytroupe.contrib.django.storable import clean_json
from tinytroupe.contrib.django.stored_turns import StoredTurn
from tinytroupe.contrib.django.templating import MESSAGE_NAMES
from tinytroupe.contrib.django.tools import Toolbox
from tinytroupe.llm.errors import (
    BadRequest,
    LLMError,
    RateLimited,
    ServerFault,
    TimedOut,
    ToolRoundsExceeded,
)
from tinytroupe.llm.request import Call, RetryPolicy
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.backoff import compute_wait
from tinytroupe.llm.rules.classify import decide_retry
from tinytroupe.llm.talk.models import Model
from tinytroupe.llm.talk.parsing import ParsedResponse
from tinytroupe.llm.talk.tools import echo_message

logger = logging.getLogger("tinytroupe.django")

TIME_LIMITS = (408, 504)
"""By which a server says that it gave up waiting (RFC 9110, 15.5.9 and 15.6.5)."""

_LONGEST_ERROR = 1000

_entered: ContextVar[Set[tuple[str, int]]] = ContextVar("entered", default=frozenset())
"""The chats that the caller is a part of, by database and id."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller wants of an answer. Immutable."""

    prompt: Prompt
    response_format: type | None = None
    """What the answer has to fit; None: it is a text."""
    elsewhere: bool = False
    """Whether another configuration is asked where one takes too long."""
    tags: Mapping[str, Any] = field(default_factory=dict)
    """Found again in the meter's records."""
    namespace: str = ""
    """Keeps the answers apart in the cache; empty: they are shared."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a turn. Immutable."""

    value: Any
    """A text, or the object that was read out of it."""
    config: str
    """Who answered."""


class Turn(Protocol):
    """A message of the user, and what follows it."""

    id: str
    variables: dict[str, Any]

    @property
    def messages(self) -> list[StoredMessage]:
        """The whole conversation."""
        ...

    @property
    def config(self) -> str:
        """Who is asked."""
        ...

    def move(self, config: str) -> None:
        """Says that another one is asked."""
        ...

    def add_round(self, messages: list[StoredMessage]) -> None:
        """Adds tool calls and all their results."""
        ...

    def answer(self, message: StoredMessage) -> None:
        """Adds the answer."""
        ...


@dataclass(slots=True)
class LooseTurn:
    """A turn of no chat, which is kept nowhere. See `Turn`."""

    id: str
    messages: list[StoredMessage]
    config: str
    variables: dict[str, Any]

    def move(self, config: str) -> None:
        self.config = config

    def add_round(self, messages: list[StoredMessage]) -> None:
        self.messages += messages

    def answer(self, message: StoredMessage) -> None:
        self.messages.append(message)


def make_loose_turn(prompt: Prompt, variables: dict[str, Any]) -> LooseTurn:
    """Returns the turn that a template makes by itself, out of variables.

    Raises:
        MissingVariables: The template requires variables that are not given.
        TemplateError: A template cannot be rendered.
        BadRequest: There is nothing to ask.
    """
    messages = prompt.make_opening(variables)
    said = next((str(variables[name]) for name in MESSAGE_NAMES if name in variables), "")
    wrapped = prompt.wrap(said, variables)
    if wrapped:
        messages.append(make_message("user", wrapped))
    if not messages:
        raise BadRequest(
            f"the prompt template {prompt.template.name!r} has no text, and no user_msg was given"
        )
    return LooseTurn(messages[-1]["id"], messages, prompt.configs[0], variables)


async def take_turn(
    access: Access,
    wish: Wish,
    repository: ChatHistoryRepository,
    message: str,
    values: Mapping[str, Any],
) -> Answer:
    """Stores what a user says, asks, and stores the answer, alone in the chat all the while.

    Raises:
        ChatConflict: Somebody else has the chat, and nothing was stored; or took the message up.
        BadRequest: A tool that this chat waits for sends it.
        LLMError: There is no answer; where the message was stored, the chat says why.
    """
    with _enter(repository):
        seconds = read_site_settings().lock_seconds
        lock = await access.query(partial(make_lock, repository.id, repository.alias, seconds))
        try:
            await access.acquire(lock)
            turn = StoredTurn(repository)
            try:
                await access.query(partial(turn.begin, wish.prompt, message, values))
                return await converse(access, wish, turn)
            except BaseException as error:
                await _note_failure(access, turn.fail, error)
                raise
        finally:
            await access.release()


@contextmanager
def _enter(repository: ChatHistoryRepository) -> Iterator[None]:
    """Refuses a tool that writes to the chat which waits for it: they would wait for each other."""
    chat, outer = (repository.alias, repository.id), _entered.get()
    if chat in outer:
        raise BadRequest(
            f"a tool of chat {repository.id} sends a message to the same chat, which goes on only "
            "when the tool has ended; let the tool return what is to be said"
        )
    # What a tool leaves running has this set too, and may write when the turn has ended.
    inner = {*outer, chat}
    _entered.set(inner)
    try:
        yield
    finally:
        inner.discard(chat)
        _entered.set(outer)


async def _note_failure(access: Access, fail: Any, error: BaseException) -> None:
    if isinstance(error, Exception):
        said = f"{type(error).__name__}: {error}"
    else:
        said = "nobody waited for the answer any more"
    try:
        await access.query(partial(fail, clean_text(said)[:_LONGEST_ERROR]))
    except UnknownChat:
        return
    except Exception:
        # What led here is the cause, and is raised; the message stays pending.
        logger.exception("That a message was not answered could not be stored")


async def converse(access: Access, wish: Wish, turn: Turn) -> Answer:
    """Asks, runs the tools that the model calls, and asks again, until it answers.

    Raises:
        ToolRoundsExceeded: It called tools more often than LLM_WRAPPER_MAX_TOOL_ROUNDS says.
        LLMError: There is no answer; the class says why.
    """
    toolbox = Toolbox(wish.prompt.tools, turn.variables)
    most = read_site_settings().max_tool_rounds
    for number in range(most + 1):
        parsed = await _ask(access, wish, turn, toolbox)
        response = parsed.response
        if not response.tool_calls:
            said = _make_answer(response, turn.config)
            await access.query(partial(turn.answer, said))
            value = said["content"] if wish.response_format is None else parsed.parsed
            return Answer(value, turn.config)
        if number == most:
            names = ", ".join(dict.fromkeys(call.name for call in response.tool_calls))
            raise ToolRoundsExceeded(
                f"the model still calls tools ({names}) after {most} rounds of them; raise "
                "LLM_WRAPPER_MAX_TOOL_ROUNDS, or tell it when to answer",
                response=response,
                model=response.model or None,
            )
        await access.query(
            partial(turn.add_round, await _run_tools(access, toolbox, turn, response))
        )
    raise AssertionError("the last round answers or raises")


async def _run_tools(
    access: Access, toolbox: Toolbox, turn: Turn, response: Response
) -> list[StoredMessage]:
    """Runs the tools and returns the model's message and the results, which belong together."""
    messages = [_make_answer(response, turn.config)]
    for call in response.tool_calls:
        run = await access.run_tool(toolbox, call)
        told = clean_text(run.told)
        messages.append(make_message("tool", told, tool_call_id=run.id, name=clean_text(run.name)))
    return messages


def _make_answer(response: Response, config: str) -> StoredMessage:
    wire = echo_message(response).to_wire()
    content = wire.pop("content") or wire.get("refusal") or ""
    usage = response.usage
    tokens = {"input": usage.input_tokens, "output": usage.output_tokens} if usage else None
    calls = wire.pop("tool_calls", None)
    wire.pop("role")
    message = make_message(
        "assistant",
        clean_text(str(content)),
        tool_calls=clean_json(calls) if calls else None,
        config=config,
        model=response.model,
        origin=response.origin,
        extra=clean_json(wire) or None,
    )
    return {**message, "tokens": tokens}


async def _ask(access: Access, wish: Wish, turn: Turn, toolbox: Toolbox) -> ParsedResponse:
    failures: list[LLMError] = []
    left = [name for name in wish.prompt.configs if name != turn.config]
    while True:
        model = get_model(turn.config)
        may_move = wish.elsewhere and bool(left)
        try:
            call = _make_call(wish, turn, toolbox, model, may_move)
            return await access.ask(model, call, wish.response_format)
        except (TimedOut, RateLimited, ServerFault) as error:
            failures.append(error)
            if not (may_move and _is_too_slow(error)):
                raise _name_cause(failures) from None
        await access.query(partial(turn.move, left.pop(0)))


def _name_cause(failures: list[LLMError]) -> LLMError:
    cause, *others = failures
    cause.history += tuple(f"{type(error).__name__}: {error}" for error in others)
    return cause


def _is_too_slow(error: LLMError) -> bool:
    # A stream that has begun cannot begin again elsewhere: its reader has read it.
    if error.partial:
        return False
    return isinstance(error, (TimedOut, RateLimited)) or (
        isinstance(error, ServerFault) and error.status in TIME_LIMITS
    )


def _make_call(wish: Wish, turn: Turn, toolbox: Toolbox, model: Model, may_move: bool) -> Call:
    given: dict[str, Any] = {"tools": toolbox.wire} if toolbox.wire else {}
    call = model.make_call(
        list_for_model(turn.messages, turn.config, turn.id),
        purpose=wish.prompt.template.name,
        tags=wish.tags,
        **given,
    )
    if wish.namespace:
        apart = f"{call.request.namespace}/{wish.namespace}"
        call = replace(call, request=replace(call.request, namespace=apart))
    if not may_move:
        return call
    policy = replace(model.client.defaults.retry, choose_wait=None)
    policy = replace(policy, choose_wait=partial(_wait_here, policy))
    return replace(call, options=replace(call.options, retry=policy))


def _wait_here(policy: RetryPolicy, error: LLMError, number: int) -> float | None:
    """Decides as the rules do, but never waits for who is too slow: another one may be faster."""
    decision = decide_retry(error)
    if _is_too_slow(error) or not decision.retry:
        return None
    return compute_wait(policy, number, decision.after_seconds, random.random())
