"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime

from tinytroupe.llm.request import RetryPolicy


def compute_wait(
    policy: RetryPolicy, number: int, retry_after_seconds: float | None, jitter: float
) -> float:
    """Returns the seconds to wait after a failed attempt; never above the policy's cap.

    What the server asked for is obeyed up to the cap. Otherwise the wait is
    drawn from 0 to the capped exponential bound ("full jitter"). The jitter is
    applied after the cap: before it, every long wait would be exactly the cap
    and all callers would come back at once. A policy without jitter waits the bound itself.

    Args:
        policy: How patient the call is.
        number: The attempt that failed, from 1.
        retry_after_seconds: What the server asked for, or None.
        jitter: A number from 0 to 1, drawn by the caller.
    """
    if retry_after_seconds is not None:
        return min(max(retry_after_seconds, 0.0), policy.cap_seconds)
    try:
        bound = policy.waiting_seconds * policy.factor ** (number - 1)
    except OverflowError:
        bound = policy.cap_seconds
    return (jitter if policy.jitter else 1.0) * min(bound, policy.cap_seconds)


def read_retry_after(headers: Mapping[str, str], now_epoch_seconds: float) -> float | None:
    """Returns how many seconds a server asks to wait, or None when it does not say.

    `retry-after-ms` (OpenAI, Azure) wins over `retry-after`, which is either a
    number of seconds or a date (RFC 9110, section 10.2.3). A date in the past
    is 0; a value that cannot be read is as if it were not there.

    Args:
        headers: With lower-case names.
        now_epoch_seconds: The time at which the answer arrived.
    """
    milliseconds = _read_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _read_number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(moment.timestamp() - now_epoch_seconds, 0.0)


def _read_number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    # NaN fails the comparison as well.
    return number if number is not None and 0 <= number < float("inf") else None
