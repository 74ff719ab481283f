"""Attempt, classify, back off, again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tinytroupe.llm.errors import LLMError, TimedOut
from tinytroupe.llm.layers.handler import AttemptHandler, Handler
from tinytroupe.llm.request import Attempt, Call, RetryPolicy
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.backoff import compute_wait
from tinytroupe.llm.rules.classify import decide_retry
from tinytroupe.llm.runtime import Runtime

logger = logging.getLogger(__name__)


def retried(
    handler: AttemptHandler,
    policy: RetryPolicy,
    timeout_seconds: float,
    draw_jitter: Callable[[], float],
    runtime: Runtime,
) -> Handler:
    """Tries a call until it is answered, cannot be, or has used up its attempts or its time.

    What is raised is the first real cause. An error after which another try
    cannot help wins over those before it, which pass; else the first one wins.
    The others are told in its `history`.
    """

    async def answer(call: Call) -> Response:
        limits = call.options.retry or policy
        whole = call.options.timeout_seconds or timeout_seconds
        errors: list[LLMError] = []
        for number in range(1, limits.max_attempts + 1):
            remaining = _measure_remaining(call, runtime)
            if remaining is not None and remaining <= 0:
                errors.append(TimedOut("the call's deadline passed before it could be tried"))
                break
            seconds = whole if remaining is None else min(whole, remaining)
            try:
                return await handler(Attempt(call, number, seconds, _list_failed(errors)))
            except LLMError as error:
                errors.append(error)
            wait = _choose_wait(limits, errors[-1], number, draw_jitter)
            if wait is None or number == limits.max_attempts:
                break
            if _would_pass_deadline(call, wait, runtime):
                break
            logger.info(
                "Attempt %d of %d failed (%s); the next one follows in %.1f s",
                number,
                limits.max_attempts,
                errors[-1].message,
                wait,
            )
            await runtime.sleep(wait)
        raise _choose_cause(errors, number)

    return answer


def _choose_wait(
    policy: RetryPolicy, error: LLMError, number: int, draw_jitter: Callable[[], float]
) -> float | None:
    """Returns the seconds until the next attempt; None: there is none."""
    # Moving to another endpoint is the route's business; a stream cannot begin again.
    if policy.choose_wait is not None and not (error.elsewhere or error.partial):
        return policy.choose_wait(error, number)
    decision = decide_retry(error)
    if not decision.retry:
        return None
    return compute_wait(policy, number, decision.after_seconds, draw_jitter())


def _list_failed(errors: list[LLMError]) -> tuple[str, ...]:
    return tuple([error.endpoint for error in errors if error.endpoint])


def _measure_remaining(call: Call, runtime: Runtime) -> float | None:
    return None if call.expires_at is None else call.expires_at - runtime.now()


def _would_pass_deadline(call: Call, wait_seconds: float, runtime: Runtime) -> bool:
    remaining = _measure_remaining(call, runtime)
    return remaining is not None and wait_seconds >= remaining


def _choose_cause(errors: list[LLMError], attempts: int) -> LLMError:
    last = errors[-1]
    cause = errors[0] if decide_retry(last).retry else last
    cause.attempts = attempts
    cause.history = tuple(
        f"{type(error).__name__}: {error.message}" for error in errors if error is not cause
    )
    return cause
