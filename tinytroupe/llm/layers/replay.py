"""While a run is active: answer from its tape, and write what happened on its tape.

Recording, replaying, resuming and forking are one mechanism: a run may have a
tape to answer from, a tape to write to, and leave to go live where the first
has no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Literal, Protocol, TypeAlias

import orjson

from tinytroupe.llm import errors
from tinytroupe.llm.errors import LLMError, ReplayMiss
from tinytroupe.llm.layers.handler import Handler
from tinytroupe.llm.request import Call, Position
from tinytroupe.llm.response import Response, parse_response
from tinytroupe.llm.rules.lanes import DETACHED, Branch, current_branch
from tinytroupe.llm.runtime import Runtime

Samples: TypeAlias = Literal["lane", "shared"]
Resolver: TypeAlias = Callable[[Call], "str | None"]
"""Names the agent that makes a call, or returns None."""


class Source(Protocol):
    """Recorded answers."""

    def find(self, call: Call) -> dict[str, Any] | None:
        """Returns the event that answers this call, once; None where it must go live.

        Raises:
            ReplayMiss: There is none, or more than one in doubt, and it may not go live.
        """
        ...


class Sink(Protocol):
    """Where events are written."""

    def append(self, event: dict[str, Any]) -> bool: ...


@dataclass(slots=True)
class Session:
    """What an active run does with calls. Safe to use from many threads."""

    root: Branch
    source: Source | None = None
    sink: Sink | None = None
    samples: Samples = "lane"
    resolver: Resolver | None = None
    latency: bool = False
    """Whether a replayed answer takes as long as the recorded one took."""
    copies: bool = True
    """Whether what is answered from the source is written, too; not where both are one tape."""
    foreign: Branch = field(default_factory=lambda: Branch(None, "/?", ""))
    """Where callers stand whose thread was started before the run."""
    contested: set[str] = field(default_factory=set)
    """Paths of branches whose calls cannot be told apart."""
    _lock: Lock = field(default_factory=Lock)
    _asked: dict[tuple[str, str], int] = field(default_factory=dict)
    _orders: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.foreign.fed = self.foreign.contested = True
        self.foreign.parent = self.root

    def place(self, call: Call) -> Call:
        """Returns the call with its position, lane and draw set. Called in program order."""
        branch = current_branch.get() or self.foreign
        if branch is DETACHED:
            return call
        options = call.options
        name = options.lane or (self.resolver(call) if self.resolver else None)
        if name:
            branch = branch.enter(name)
        with self._lock:
            asked = (branch.path, call.request.digest)
            sample = self._asked[asked] = self._asked.get(asked, -1) + 1
            order = self._orders[branch.path] = self._orders.get(branch.path, -1) + 1
        ambiguous = branch.is_ambiguous()
        if ambiguous:
            self.contested.add(branch.path)
        position = Position(branch.path, branch.lane, sample, order, ambiguous)
        if options.lane != branch.lane:
            options = replace(options, lane=branch.lane)
        draw = _name_draw(position) if self.samples == "lane" else ""
        return replace(call, options=options, position=position, draw=draw)


def _name_draw(position: Position) -> str:
    # A path may be long and hold anything; the key of an entry should not.
    lane = hashlib.sha256(position.branch.encode()).hexdigest()[:12]
    return f"{lane}.{position.sample}"


_active: Session | None = None


def activate(session: Session | None) -> Session | None:
    """Makes a session the one that all clients of this process serve; returns the one before."""
    global _active
    before, _active = _active, session
    return before


def get_active() -> Session | None:
    """Returns the session of the active run, or None."""
    return _active


def recorded(handler: Handler, runtime: Runtime) -> Handler:
    """Serves the active run: answers from its tape, goes live where it may, and records.

    Raises:
        ReplayMiss: The tape that is replayed holds no answer for this call.
    """

    async def answer(call: Call) -> Response:
        session, position = _active, call.position
        if session is None or position is None:
            return await handler(call)
        event = session.source.find(call) if session.source else None
        if event is not None:
            if session.latency:
                await runtime.sleep(event["seconds"])
            if session.sink is not None and session.copies:
                session.sink.append({**event, **_describe(position, call)})
            return _play(event, call)
        started = runtime.now()
        outcome: Response | LLMError | None = None
        # What is started below here happens only live; counted, it would shift what follows.
        token = current_branch.set(DETACHED)
        try:
            outcome = await handler(call)
            return outcome
        except LLMError as error:
            outcome = error
            raise
        finally:
            current_branch.reset(token)
            if session.sink is not None and outcome is not None:
                seconds = runtime.now() - started
                session.sink.append(_write(position, call, outcome, seconds))

    return answer


def _describe(position: Position, call: Call) -> dict[str, Any]:
    return {
        "lane": position.lane,
        "branch": position.branch,
        "sample": position.sample,
        "order": position.order,
        "ambiguous": position.ambiguous,
        "digest": call.request.digest,
        "purpose": call.options.purpose,
    }


def _write(
    position: Position, call: Call, outcome: Response | LLMError, seconds: float
) -> dict[str, Any]:
    event: dict[str, Any] = {
        "event": "call",
        **_describe(position, call),
        "kind": call.request.kind,
        "seconds": round(seconds, 6),
        "request": orjson.Fragment(call.request.body),
    }
    if isinstance(outcome, LLMError):
        facts = {name: value for name, value in vars(outcome).items() if name != "lane"}
        return {**event, "error": {"class": type(outcome).__name__, "facts": facts}}
    return {
        **event,
        "origin": outcome.origin,
        "attempts": outcome.attempts,
        "endpoint": outcome.endpoint,
        "request_id": outcome.request_id,
        "response": orjson.Fragment(_put_on_one_line(outcome.content)),
    }


def _put_on_one_line(content: bytes) -> bytes:
    return orjson.dumps(orjson.loads(content)) if b"\n" in content else content


def _play(event: dict[str, Any], call: Call) -> Response:
    """Returns the recorded answer, or raises the recorded error."""
    failed = event.get("error")
    if failed is not None:
        raise _rebuild_error(failed)
    response = parse_response(
        call.request.kind,
        orjson.dumps(event["response"]),
        endpoint=event["endpoint"],
        attempts=0,
        seconds=event["seconds"],
        request_id=event["request_id"],
    )
    return replace(response, origin="tape")


def _rebuild_error(failed: dict[str, Any]) -> LLMError:
    cls = getattr(errors, str(failed["class"]), None)
    facts = failed["facts"]
    if not (isinstance(cls, type) and issubclass(cls, LLMError)):
        return ReplayMiss(f"the tape holds an error of an unknown kind: {failed['class']}")
    error = cls(facts["message"])
    for name, value in facts.items():
        if name in vars(error):
            setattr(error, name, tuple(value) if isinstance(value, list) else value)
    return error
