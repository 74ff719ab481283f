"""Picks an endpoint for each attempt, and lets one rest that failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.errors import ConfigError, LLMError, RateLimited, TimedOut
from tinytroupe.llm.layers.handler import AttemptHandler
from tinytroupe.llm.request import Attempt, Request
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.buckets import Booking, Limits, attach_booking
from tinytroupe.llm.rules.parameters import adapt_request
from tinytroupe.llm.rules.routes import (
    LONGEST_WAIT_SECONDS,
    STRATEGIES,
    Standing,
    Strategy,
    choose,
    find_candidates,
    is_worth_moving,
    settle_failure,
    settle_success,
    take_turn,
)
from tinytroupe.llm.runtime import Runtime
from tinytroupe.llm.transports.endpoint import Endpoint, check_endpoints

logger = logging.getLogger(__name__)


class Route:
    """Several endpoints, and what is known of each. Safe for many threads and both colours.

    Args:
        endpoints: At least one; their names differ.
        strategy: One of `STRATEGIES`.

    Raises:
        ConfigError: There is no endpoint, a name stands twice, or no such strategy.
    """

    def __init__(self, endpoints: Sequence[Endpoint], strategy: Strategy = "round_robin") -> None:
        if strategy not in STRATEGIES:
            raise ConfigError(
                f"there is no strategy {strategy!r}; known are {', '.join(STRATEGIES)}"
            )
        self.endpoints = check_endpoints(endpoints)
        self.strategy: Strategy = strategy
        self._indexes = {endpoint.name: index for index, endpoint in enumerate(self.endpoints)}
        self._lock = Lock()
        self._standings = [
            Standing(weight=endpoint.weight, tier=endpoint.tier) for endpoint in self.endpoints
        ]
        self._credits = [0.0] * len(self.endpoints)
        self._limits = [
            Limits(each.requests, each.tokens, each.parameters)
            if each.requests or each.tokens
            else None
            for each in self.endpoints
        ]
        self._is_limited = any(self._limits)

    def __repr__(self) -> str:
        return f"Route({', '.join(self._indexes)}; {self.strategy})"

    @property
    def alters(self) -> bool:
        """Whether a request may differ from endpoint to endpoint, or its time to answer."""
        return any(
            each.model or each.parameters or each.timeout_seconds is not None
            for each in self.endpoints
        )

    @property
    def standings(self) -> dict[str, Standing]:
        """What is known of each endpoint now, by name."""
        with self._lock:
            return dict(zip(self._indexes, self._standings, strict=True))

    def find(self, names: Sequence[str]) -> frozenset[int]:
        """Returns the positions of endpoints."""
        return frozenset(self._indexes[name] for name in names if name in self._indexes)

    def pick(
        self, request: Request, failed: frozenset[int], now: float, draw: float
    ) -> tuple[int | None, float, Booking | None]:
        """Takes an endpoint for an attempt, and a place in line where it has limits per minute.

        Returns:
            The endpoint, or None and how long to wait for one; its place in line.
        """
        demands = self._measure(request) if self._is_limited else ()
        with self._lock:
            waits = self._find_waits(demands, now) if demands else ()
            candidates, wait = find_candidates(self._standings, failed, now, waits)
            if wait > 0:
                return None, wait, None
            credits, known = self._credits, self._standings
            chosen = choose(self.strategy, known, credits, candidates, draw)
            self._credits = take_turn(self.strategy, known, credits, candidates, chosen)
            known[chosen] = replace(known[chosen], under_way=known[chosen].under_way + 1)
            limits = self._limits[chosen]
            return chosen, 0.0, limits.book(demands[chosen]) if limits else None

    def _measure(self, request: Request) -> list[float]:
        """Returns how many tokens each endpoint would be asked for."""
        return [limits.measure(request) if limits else 0.0 for limits in self._limits]

    def _find_waits(self, demands: Sequence[float], now: float) -> list[float]:
        return [
            limits.find_wait(tokens, now) if limits else 0.0
            for limits, tokens in zip(self._limits, demands, strict=True)
        ]

    def succeed(self, index: int, seconds: float) -> None:
        """Notes an answer."""
        with self._lock:
            self._standings[index] = settle_success(self._standings[index], seconds)

    def fail(
        self, index: int, error: LLMError, began: float, now: float, failed: frozenset[int]
    ) -> bool:
        """Notes a failure; returns whether the call is worth an attempt elsewhere."""
        with self._lock:
            self._standings[index] = settle_failure(self._standings[index], error, began, now)
            return is_worth_moving(error, self._standings, failed | {index})

    def release(self, index: int) -> None:
        """Notes that an attempt was given up, which tells nothing of the endpoint."""
        with self._lock:
            standing = self._standings[index]
            self._standings[index] = replace(standing, under_way=standing.under_way - 1)

    def reset(self) -> None:
        """Forgets what is under way: after a fork it is not in this process."""
        self._lock = Lock()
        self._standings = [replace(standing, under_way=0) for standing in self._standings]
        for limits in filter(None, self._limits):
            limits.reset()


def routed(
    handlers: Sequence[AttemptHandler],
    route: Route,
    draw: Callable[[], float],
    runtime: Runtime,
) -> AttemptHandler:
    """Makes each attempt at the endpoint that the route picks.

    An endpoint that failed in this call is not asked again while another is up, and
    one whose limits per minute have no room for the call while another has; nor is
    one that the call avoids. Where none can take the call now, it waits for the first
    one that can: for a rest up to a minute, for room as long as it takes.

    Args:
        handlers: One for each endpoint, in order.
        route: Shared by clients of both colours.
        draw: Draws a number from 0 to below 1.
        runtime: The clock.

    Raises:
        RateLimited: All endpoints rest for longer than a minute.
        TimedOut: No endpoint can take the call before its deadline.
    """

    async def pick(attempt: Attempt, failed: frozenset[int]) -> tuple[int, Booking | None]:
        while True:
            now = runtime.now()
            index, wait, booking = route.pick(attempt.call.request, failed, now, draw())
            if index is not None:
                return index, booking
            _check_wait(attempt, wait, now)
            logger.info(
                "None of %d endpoints can take a call; one can in %.1f s", len(handlers), wait
            )
            await runtime.sleep(wait)

    async def attempt_elsewhere(attempt: Attempt) -> Response:
        left_out = attempt.failed + attempt.call.options.avoid
        failed = route.find(left_out) if left_out else _NONE
        index, booking = await pick(attempt, failed)
        endpoint = route.endpoints[index]
        began = runtime.now()
        try:
            fitting = _fit(attempt, endpoint, began)
            if booking is not None:
                fitting = attach_booking(fitting, booking)
            response = await handlers[index](fitting)
        except LLMError as error:
            error.endpoint = endpoint.name
            sent = _find_start(booking, began)
            error.elsewhere = route.fail(index, error, sent, runtime.now(), failed)
            raise
        except BaseException:
            route.release(index)
            raise
        finally:
            if booking is not None:
                booking.give_back()
        route.succeed(index, runtime.now() - _find_start(booking, began))
        return response

    return attempt_elsewhere


_NONE: frozenset[int] = frozenset()


def _find_start(booking: Booking | None, began: float) -> float:
    """Returns when an attempt was sent: the time in line tells nothing of the endpoint."""
    return began if booking is None or booking.used_at is None else booking.used_at


def _check_wait(attempt: Attempt, wait_seconds: float, now: float) -> None:
    if wait_seconds > LONGEST_WAIT_SECONDS:
        raise RateLimited(
            f"all endpoints are cooling down; the first is up again in {wait_seconds:.0f} s",
            retry_after_seconds=wait_seconds,
            should_retry=False,
        )
    expires_at = attempt.call.expires_at
    if expires_at is not None and now + wait_seconds >= expires_at:
        error = TimedOut(
            f"no endpoint can take the call now; the first can in {wait_seconds:.1f} s, which is "
            "after the call's deadline"
        )
        error.should_retry = False
        raise error


def _fit(attempt: Attempt, endpoint: Endpoint, now: float) -> Attempt:
    """Returns the attempt as the endpoint takes it."""
    seconds = attempt.timeout_seconds
    if endpoint.timeout_seconds is not None:
        seconds = min(seconds, endpoint.timeout_seconds)
    if attempt.call.expires_at is not None:
        seconds = min(seconds, max(attempt.call.expires_at - now, 0.001))
    if endpoint.model or endpoint.parameters:
        request = _translate(attempt.call.request, endpoint)
        return replace(
            attempt, call=replace(attempt.call, request=request), timeout_seconds=seconds
        )
    return (
        attempt if seconds == attempt.timeout_seconds else replace(attempt, timeout_seconds=seconds)
    )


def _translate(request: Request, endpoint: Endpoint) -> Request:
    parameters = FrozenDict({**endpoint.parameters, **request.parameters})
    model = endpoint.model or request.model
    if model == request.model and parameters == request.parameters:
        return request
    return adapt_request(replace(request, model=model, parameters=parameters))[0]
