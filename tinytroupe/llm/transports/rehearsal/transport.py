"""The rehearsal as a transport: in process, offline, without an SDK."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from tinytroupe.llm.errors import ConfigError, ConnectionFailed, TimedOut
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.response import Response
from tinytroupe.llm.runtime import AsyncioRuntime, BlockingRuntime, Runtime, run
from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.faults import Fault, FaultPlan
from tinytroupe.llm.transports.rehearsal.replies import spoil, write_reply
from tinytroupe.llm.transports.rehearsal.streams import split_words
from tinytroupe.llm.transports.wire import Reply, read_reply

ChooseFault: TypeAlias = Callable[[Attempt], "Fault | None"]

_NO_CLOCK = 0.0
"""Dates in faults are written and read against this moment, so no clock is needed."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How a rehearsal answers. Immutable.

    Raises:
        ConfigError: A time is negative.
    """

    latency_seconds: float = 0.0
    """How long each answer takes."""
    latency_jitter_seconds: float = 0.0
    """How much longer or shorter at most; how much follows from the request."""
    seed: int = 0
    """Another seed gives another answer to everything."""
    models: tuple[str, ...] = ()
    """The models that are known; empty: all are."""
    faults: Sequence[Fault] | ChooseFault = ()
    """What goes wrong: faults that are asked in order, or a function of the attempt."""

    def __post_init__(self) -> None:
        if self.latency_seconds < 0 or self.latency_jitter_seconds < 0:
            raise ConfigError("the latency of a rehearsal cannot be negative")
        object.__setattr__(self, "models", tuple(self.models))
        if not callable(self.faults):
            object.__setattr__(self, "faults", tuple(self.faults))


class RehearsalTransport:
    """Answers without a model, a network or a key. See `Transport`.

    The same request gives the same answer; another sample or draw, another one. An
    answer is that of the rehearsal server to the same request, byte for byte.
    Faults take no time here: `timeout` raises at once, and so does `drip` where
    the body could not arrive in time.

    Args:
        rehearsal: How to answer; None: at once, without faults.
        name: The endpoint's name, for people.
        runtime: Where the latency is spent; None: in real time.
    """

    def __init__(
        self,
        rehearsal: Rehearsal | None = None,
        name: str = "rehearsal",
        *,
        runtime: Runtime | None = None,
    ) -> None:
        self.name = name
        self.rehearsal = rehearsal or Rehearsal()
        self._runtime = runtime
        faults = self.rehearsal.faults
        self._choose_fault: ChooseFault = (
            faults if callable(faults) else _follow_plan(faults, self.rehearsal.seed)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rehearsal!r}, name={self.name!r})"

    def send(self, attempt: Attempt) -> Response:
        return run(self._answer(attempt, self._runtime or BlockingRuntime()))

    async def asend(self, attempt: Attempt) -> Response:
        return await self._answer(attempt, self._runtime or AsyncioRuntime())

    def stream(self, attempt: Attempt) -> Generator[str | Response, None, None]:
        """Yields the answer word by word, and then the whole response."""
        response = self.send(attempt)
        yield from split_words(response.text)
        yield response

    async def astream(self, attempt: Attempt) -> AsyncGenerator[str | Response, None]:
        """Does what `stream` does without blocking the event loop."""
        response = await self.asend(attempt)
        for word in split_words(response.text):
            yield word
        yield response

    def close(self) -> None:
        """Does nothing: there is no connection."""

    async def aclose(self) -> None:
        """Does nothing: there is no connection."""

    async def _answer(self, attempt: Attempt, runtime: Runtime) -> Response:
        started = runtime.now()
        fault = self._choose_fault(attempt)
        await self._delay(attempt, runtime)
        request = attempt.call.request
        reply = write_reply(
            request.kind,
            orjson.loads(request.body),
            seed=self.rehearsal.seed,
            variation=attempt.call.options.sample,
            draw=attempt.call.draw,
            models=self.rehearsal.models,
        )
        reply = spoil(fault, request.kind, reply, _NO_CLOCK)
        _break_connection(fault, len(reply.content), attempt.timeout_seconds)
        return read_reply(
            attempt,
            Reply(reply.status, dict(reply.headers), reply.content),
            endpoint=self.name,
            seconds=runtime.now() - started,
            now_epoch_seconds=_NO_CLOCK,
        )

    async def _delay(self, attempt: Attempt, runtime: Runtime) -> None:
        latency = self.rehearsal.latency_seconds
        if self.rehearsal.latency_jitter_seconds:
            draws = Draws("latency", self.rehearsal.seed, attempt.call.key, attempt.number)
            latency += (2 * draws.fraction() - 1) * self.rehearsal.latency_jitter_seconds
        if latency > attempt.timeout_seconds:
            await runtime.sleep(attempt.timeout_seconds)
            raise _time_out(attempt.timeout_seconds)
        if latency > 0:
            await runtime.sleep(latency)


def _follow_plan(faults: Sequence[Fault], seed: int) -> ChooseFault:
    plan = FaultPlan(faults, seed)
    return lambda attempt: plan.next()


def _break_connection(fault: Fault | None, length_bytes: int, timeout_seconds: float) -> None:
    if fault is None:
        return
    if fault.kind == "cut":
        raise ConnectionFailed(
            "the connection to the rehearsal failed: rehearsed fault, the body was cut short"
        )
    if fault.kind == "timeout" or (
        fault.kind == "drip" and length_bytes * fault.interval_seconds > timeout_seconds
    ):
        raise _time_out(timeout_seconds)


def _time_out(timeout_seconds: float) -> TimedOut:
    return TimedOut(f"the rehearsal did not answer within {timeout_seconds:g} s")
