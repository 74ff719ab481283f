"""What every call cost, who made it, and what for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, TypeAlias

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.errors import LLMError
from tinytroupe.llm.layers.handler import Handler
from tinytroupe.llm.request import Call
from tinytroupe.llm.response import Origin, Response, Usage
from tinytroupe.llm.runtime import Runtime

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call, good or bad."""

    lane: str | None
    """Who asked; None: nobody was named."""
    purpose: str | None
    model: str
    """The model as it was asked for."""
    key: str
    """The name of the answer in the store; empty when there is no answer."""
    origin: Origin | None
    """Where the answer came from; None when there is none."""
    attempts: int
    """Tries on the wire that this call made."""
    usage: Usage | None
    """Tokens of the answer, whether bought now or earlier; None: not known."""
    seconds: float
    """How long the caller waited."""
    error: str | None = None
    """The name of the error's class; None when there is an answer."""
    tags: FrozenDict = field(default_factory=FrozenDict)


Sink: TypeAlias = Callable[[CallRecord], None]
"""Is given each record, on the calling thread; it must be quick and safe to use from many."""

Grouping: TypeAlias = Literal["lane", "purpose", "model"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Calls added up."""

    calls: int = 0
    hits: int = 0
    """Answered by the store, a tape, or a simultaneous call: nothing was paid."""
    live_calls: int = 0
    """Answered by the endpoint."""
    errors: int = 0
    attempts: int = 0
    """Tries on the wire, those that failed included."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of all answers, hits included."""
    live_usage: Usage = field(default_factory=Usage)
    """Tokens of the answers that were bought."""
    unknown_usage: int = 0
    """Answers whose endpoint did not tell the tokens."""
    seconds: float = 0.0
    """How long the callers waited, added up."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.calls + other.calls,
            self.hits + other.hits,
            self.live_calls + other.live_calls,
            self.errors + other.errors,
            self.attempts + other.attempts,
            self.usage + other.usage,
            self.live_usage + other.live_usage,
            self.unknown_usage + other.unknown_usage,
            self.seconds + other.seconds,
        )


class Meter:
    """Adds up every call. Safe to use from many threads; may serve several clients.

    It keeps one total per lane, purpose and model, not the records themselves;
    a sink such as `list.append` keeps those.
    """

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = tuple(sinks)
        self._lock = Lock()
        self._tallies: dict[tuple[str | None, str | None, str], _Tally] = {}

    def count(
        self,
        call: Call,
        response: Response | None,
        failure: BaseException | None,
        seconds: float,
    ) -> None:
        """Adds one call. A sink that fails is logged and does not cost the answer."""
        group = (call.lane, call.options.purpose, call.request.model)
        with self._lock:
            tally = self._tallies.get(group)
            if tally is None:
                tally = self._tallies[group] = _Tally()
            tally.add(response, failure, seconds)
        if self._sinks:
            self._tell(_make_record(call, response, failure, seconds))

    def _tell(self, record: CallRecord) -> None:
        for sink in self._sinks:
            try:
                sink(record)
            except Exception:
                logger.exception("A meter sink failed; the call itself is not affected")

    def summarize(self, by: Grouping = "lane") -> dict[str, Totals]:
        """Returns the totals by lane, purpose or model; unnamed ones under an empty name."""
        position = ("lane", "purpose", "model").index(by)
        groups: dict[str, Totals] = {}
        with self._lock:
            tallies = [
                (group[position] or "", tally.total()) for group, tally in self._tallies.items()
            ]
        for name, totals in tallies:
            groups[name] = groups.get(name, Totals()) + totals
        return groups

    @property
    def totals(self) -> Totals:
        """Everything so far."""
        return sum(self.summarize("model").values(), Totals())

    def reset(self) -> None:
        """Starts again from nothing."""
        with self._lock:
            self._tallies.clear()


class _Tally:
    """A `Totals` that is added to in place: making a frozen one per call costs more than a hit."""

    __slots__ = ("attempts", "calls", "errors", "hits", "seconds", "tokens", "unknown")

    def __init__(self) -> None:
        self.calls = self.hits = self.errors = self.attempts = self.unknown = 0
        self.seconds = 0.0
        self.tokens = {True: [0, 0, 0, 0], False: [0, 0, 0, 0]}

    def add(self, response: Response | None, failure: BaseException | None, seconds: float) -> None:
        self.calls += 1
        self.seconds += seconds
        if response is None:
            self.errors += 1
            self.attempts += getattr(failure, "attempts", 0)
            return
        self.attempts += response.attempts
        live = response.origin == "live"
        self.hits += not live
        usage = response.usage
        if usage is None:
            self.unknown += 1
            return
        tokens = self.tokens[live]
        tokens[0] += usage.input_tokens
        tokens[1] += usage.output_tokens
        tokens[2] += usage.cached_tokens
        tokens[3] += usage.reasoning_tokens

    def total(self) -> Totals:
        live = Usage(*self.tokens[True])
        return Totals(
            calls=self.calls,
            hits=self.hits,
            live_calls=self.calls - self.hits - self.errors,
            errors=self.errors,
            attempts=self.attempts,
            usage=live + Usage(*self.tokens[False]),
            live_usage=live,
            unknown_usage=self.unknown,
            seconds=self.seconds,
        )


def metered(handler: Handler, meter: Meter, runtime: Runtime) -> Handler:
    """Records every call, also one that fails or is cancelled."""

    async def answer(call: Call) -> Response:
        started = runtime.now()
        response: Response | None = None
        failure: BaseException | None = None
        try:
            response = await handler(call)
            return response
        except BaseException as error:
            failure = error
            if isinstance(error, LLMError):
                name_caller(error, call)
            raise
        finally:
            meter.count(call, response, failure, runtime.now() - started)

    return answer


def name_caller(error: LLMError, call: Call) -> LLMError:
    """Lets an error tell what was asked, and by whom, where it does not say."""
    error.model = error.model or call.request.model
    error.lane = error.lane or call.lane
    return error


def _make_record(
    call: Call, response: Response | None, failure: BaseException | None, seconds: float
) -> CallRecord:
    options = call.options
    return CallRecord(
        lane=call.lane,
        purpose=options.purpose,
        model=call.request.model,
        key=call.key if response else "",
        origin=response.origin if response else None,
        attempts=response.attempts if response else getattr(failure, "attempts", 0),
        usage=response.usage if response else None,
        seconds=seconds,
        error=type(failure).__name__ if failure else None,
        tags=options.tags,
    )
