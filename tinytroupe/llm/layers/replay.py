"""While a run is active: answer from its tape, and write what happened on its tape.

Recording, replaying, resuming and forking are one mechanism: a run may have a
tape to answer from, a tape to write to, and leave to go live where the first
has no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from threading import Lock
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import orjson

from tinytroupe.llm import errors
from tinytroupe.llm.errors import LLMError, ReplayMiss
from tinytroupe.llm.layers.handler import Handler
from tinytroupe.llm.request import Call, Emit, Position
from tinytroupe.llm.response import Response, restore_response
from tinytroupe.llm.rules.lanes import DETACHED, Branch, Mark, current_branch
from tinytroupe.llm.runtime import Cancelled, Runtime
from tinytroupe.llm.spawns.callers import claim, find_branch

Samples: TypeAlias = Literal["lane", "shared"]
_INTERRUPTION = "Cancelled"
_GRACE_SECONDS = 5.0
"""How much later than in the recorded run a call may be cancelled."""


@dataclass(frozen=True, slots=True)
class Interruption:
    """The end of a call that nobody waited for."""

    cancelled: bool
    """Its task was cancelled; else whoever read its stream left."""
    partial: str
    """What had been read of the stream."""


Outcome: TypeAlias = "Response | LLMError | Interruption"
Resolver: TypeAlias = Callable[[Call], "str | None"]
"""Names the agent that makes a call, or returns None."""


class Recorded(NamedTuple):
    """What was recorded of a call."""

    event: dict[str, Any]
    own: bool = False
    """Whether the tape that the run writes to holds it already."""


class Source(Protocol):
    """Recorded answers."""

    def find(self, call: Call) -> Recorded | None:
        """Returns what answers this call, once; None where it must go live.

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
    hermetic: bool = False
    """Whether no call may go live."""
    draws: str = ""
    """Keeps the draws of this run apart from those of all others; empty where they are shared."""
    foreign: Branch = field(init=False)
    """Where callers stand whose thread or task was started before the run."""
    contested: set[str] = field(default_factory=set)
    """Paths of branches with calls that cannot be told apart."""
    _lock: Lock = field(default_factory=Lock)
    _ambiguous: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.foreign = Branch.foreign(self.root)
        self.root.on_contest = self._note_contest

    def place(self, call: Call) -> Call:
        """Returns the call with its position, lane and draw set. Called in program order."""
        branch = current_branch.get()
        if branch is None or branch.root is not self.root:
            branch = find_branch() or self.foreign
        if branch is DETACHED:
            if not self.hermetic:
                return call
            # A replay makes no live calls, so nothing can have been started by one.
            branch = self.foreign
        name = call.options.lane or (self.resolver(call) if self.resolver else None)
        if name:
            branch = branch.enter(name)
        claim(branch)
        sample, order = branch.count_call(call.request.digest)
        ambiguous = branch.is_ambiguous(order)
        if ambiguous:
            self.contested.add(branch.path)
        position = Position(branch.path, branch.lane, sample, order, ambiguous, self.hermetic)
        draw = self._draw(call, branch, sample, ambiguous)
        # Not by `dataclasses.replace`, which would take half the time of all this.
        return Call(
            request=call.request,
            options=call.options,
            expires_at=call.expires_at,
            position=position,
            draw=draw,
            emit=call.emit,
        )

    def _draw(self, call: Call, branch: Branch, sample: int, ambiguous: bool) -> str:
        if self.samples == "shared":
            return self.draws
        if ambiguous:
            # Which worker it is may be another one next time; the n-th of all is found again.
            branch = self.foreign
            with self._lock:
                sample = self._ambiguous.get(call.request.digest, 0)
                self._ambiguous[call.request.digest] = sample + 1
        return f"{self._name_draws(branch)}.{sample}"

    def _name_draws(self, branch: Branch) -> str:
        if branch.draws is None:
            # A path may be long and hold anything; the key of an entry should not.
            asker = f"{self.draws}{branch.path}".encode("utf-8", "surrogatepass")
            branch.draws = hashlib.sha256(asker).hexdigest()[:12]
        return branch.draws

    def _note_contest(self, branch: Branch, since: Mark) -> None:
        # Its calls from that mark on may be on the tape already, and a kill may come before
        # another one tells.
        if branch.calls > since.calls:
            self.contested.add(branch.path)
        if self.sink is not None:
            event = {"event": "contested", "branch": branch.path, **since._asdict()}
            self.sink.append(event)


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
        if session is None and position is not None and position.hermetic:
            raise ReplayMiss("the replay that this call is part of has ended, so it has no answer")
        if session is None or position is None:
            return await handler(call)
        found = session.source.find(call) if session.source else None
        if found is not None:
            event = found.event
            if session.latency:
                await runtime.sleep(event["seconds"])
            if session.sink is not None and not found.own:
                session.sink.append({**event, **_describe(position, call)})
            if "error" in event:
                await _play_cancellation(event, call, runtime)
            return _play(event, call)
        sink = session.sink
        heard: list[str] = []
        if call.emit is not None:
            call = _listen(call, call.emit, heard)
        started = runtime.now()
        outcome: Outcome | None = None
        # What is started below here happens only live; counted, it would shift what follows.
        token = current_branch.set(DETACHED)
        try:
            outcome = await handler(call)
            return outcome
        except LLMError as error:
            outcome = error
            raise
        except (Cancelled, GeneratorExit) as error:
            outcome = Interruption(isinstance(error, Cancelled), "".join(heard))
            raise
        finally:
            current_branch.reset(token)
            if sink is not None and outcome is not None:
                sink.append(_write(position, call, outcome, runtime.now() - started))

    return answer


def _listen(call: Call, emit: Emit, heard: list[str]) -> Call:
    """Returns the call so that the pieces of its streamed answer are remembered."""

    async def emit_and_remember(piece: str) -> None:
        heard.append(piece)
        await emit(piece)

    return replace(call, emit=emit_and_remember)


def _describe(position: Position, call: Call) -> dict[str, Any]:
    return {
        "event": "call",
        "lane": position.lane,
        "branch": position.branch,
        "sample": position.sample,
        "order": position.order,
        "ambiguous": position.ambiguous,
        "digest": call.request.digest,
        "purpose": call.options.purpose,
    }


def _write(position: Position, call: Call, outcome: Outcome, seconds: float) -> dict[str, Any]:
    event = _describe(position, call)
    event["kind"] = call.request.kind
    event["seconds"] = round(seconds, 6)
    event["request"] = orjson.Fragment(call.request.body)
    if isinstance(outcome, Response):
        event["origin"] = outcome.origin
        event["attempts"] = outcome.attempts
        event["endpoint"] = outcome.endpoint
        event["request_id"] = outcome.request_id
        event["response"] = orjson.Fragment(_put_on_one_line(outcome.content))
    elif isinstance(outcome, Interruption):
        event["error"] = {"class": _INTERRUPTION, "facts": asdict(outcome)}
    else:
        facts = {name: value for name, value in vars(outcome).items() if name != "lane"}
        event["error"] = {"class": type(outcome).__name__, "facts": facts}
    return event


def _put_on_one_line(content: bytes) -> bytes:
    # In JSON a line can only end between values, where a space means the same.
    return content.replace(b"\n", b" ") if b"\n" in content else content


def _play(event: dict[str, Any], call: Call) -> Response:
    """Returns the recorded answer, or raises the recorded error."""
    failed = event.get("error")
    if failed is not None:
        raise _rebuild_error(failed)
    return restore_response(
        call.request.kind,
        event["response"],
        endpoint=event["endpoint"],
        seconds=event["seconds"],
        request_id=event["request_id"],
    )


async def _play_cancellation(event: dict[str, Any], call: Call, runtime: Runtime) -> None:
    """Does again what a call did that nobody waited for to the end; other errors pass.

    Raises:
        ReplayMiss: This time somebody waits.
    """
    failed = event["error"]
    if failed["class"] != _INTERRUPTION:
        return
    facts, seconds = failed["facts"], event["seconds"]
    if facts["partial"] and call.emit is not None:
        await call.emit(facts["partial"])
    if facts["cancelled"]:
        await runtime.sleep(seconds + _GRACE_SECONDS)
    raise ReplayMiss(
        f"in the recorded run this call was cancelled after {seconds:.1f} s, so it has no answer, "
        "and nothing cancels it now"
    )


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
