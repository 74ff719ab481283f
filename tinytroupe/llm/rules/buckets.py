"""How many requests and tokens may begin within a minute."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.request import Request

MINUTE_SECONDS = 60.0


@dataclass(slots=True)
class Share:
    """A part of a bucket that one attempt takes."""

    begins: float
    """When it may begin, by the clock of whoever asked."""
    amount: float
    held: bool = True
    """Whether it still counts against the minute."""


class Bucket:
    """Lets an amount through within any minute; who comes first goes first.

    It remembers what began within the last minute. A bucket that only refills
    at a steady rate is simpler, but lets twice its amount through within its
    first minute. Safe to use from many threads, and by clients of both colours.

    Args:
        per_minute: How much may begin within any 60 seconds.

    Raises:
        ConfigError: The amount is not positive.
    """

    def __init__(self, per_minute: float) -> None:
        if not per_minute > 0:
            raise ConfigError(f"a limit per minute must be more than 0, not {per_minute}")
        self.per_minute = per_minute
        self._lock = Lock()
        self._taken: deque[Share] = deque()
        self._sum = 0.0

    def take(self, amount: float, now: float) -> Share:
        """Reserves an amount and says from when on it may be used.

        More than the bucket ever holds is let through alone, when it is empty.
        """
        with self._lock:
            amount = min(max(amount, 0.0), self.per_minute)
            begins = max(now, self._taken[-1].begins) if self._taken else now
            self._forget(begins)
            while self._taken and self._sum + amount > self.per_minute:
                begins = max(begins, self._taken[0].begins + MINUTE_SECONDS)
                self._drop()
            share = Share(begins, amount)
            self._taken.append(share)
            self._sum += amount
            return share

    def settle(self, share: Share, amount: float) -> None:
        """Corrects what an attempt took to what it really used."""
        with self._lock:
            if share.held:
                self._sum += amount - share.amount
            share.amount = amount

    def give_back(self, share: Share) -> None:
        """Returns a share that was not used."""
        self.settle(share, 0.0)

    def find_wait(self, now: float) -> float:
        """Returns how many seconds the next one would wait at least."""
        with self._lock:
            latest = self._taken[-1].begins if self._taken else now
            return max(latest - now, 0.0)

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0].begins <= now - MINUTE_SECONDS:
            self._drop()

    def _drop(self) -> None:
        share = self._taken.popleft()
        share.held = False
        self._sum -= share.amount


BYTES_PER_TOKEN = 4
"""OpenAI's rule of thumb for English text; what an answer really took settles the account."""


def estimate_tokens(request: Request) -> float:
    """Returns how many tokens a request may take, its longest answer included, without counting."""
    asked = 0
    for name in ("max_tokens", "max_completion_tokens"):
        value = request.parameters.get(name)
        asked = max(asked, value) if isinstance(value, int) else asked
    return len(request.body) / BYTES_PER_TOKEN + asked
