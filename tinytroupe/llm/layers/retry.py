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
                return await handler(Attempt(call, number, seconds))
            except LLMError as error:
                errors.append(error)
            decision = decide_retry(errors[-1])
            if not decision.retry:
                break
            wait = compute_wait(limits, number, decision.after_seconds, draw_jitter())
            if number == limits.max_attempts or _would_pass_deadline(call, wait, runtime):
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
