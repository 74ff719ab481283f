"""How many requests and tokens may begin within a minute."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.request import Attempt, Request

MINUTE_SECONDS = 60.0


@dataclass(slots=True)
class Share:
    """A part of a bucket that one attempt takes."""

    amount: float
    begins: float = math.inf
    """When it may begin, by the clock of whoever asked; infinite while it stands in line."""
    held: bool = True
    """Whether it still counts against the minute, or stands in line."""


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
        self._in_line = 0.0

    def book(self, amount: float) -> Share:
        """Takes a place in line, which those who choose between buckets see.

        More than the bucket ever holds is let through alone, when it is empty.
        """
        share = Share(min(max(amount, 0.0), self.per_minute))
        with self._lock:
            self._in_line += share.amount
        return share

    def begin(self, share: Share, now: float) -> float:
        """Takes a share out of the line; returns the moment from which on it may be used."""
        with self._lock:
            self._in_line = max(self._in_line - share.amount, 0.0)
            begins = max(now, self._taken[-1].begins) if self._taken else now
            self._forget(begins)
            while self._taken and self._sum + share.amount > self.per_minute:
                begins = max(begins, self._taken[0].begins + MINUTE_SECONDS)
                self._drop()
            share.begins = begins
            self._taken.append(share)
            self._sum += share.amount
            return begins

    def take(self, amount: float, now: float) -> Share:
        """Reserves an amount and says from when on it may be used."""
        share = self.book(amount)
        self.begin(share, now)
        return share

    def settle(self, share: Share, amount: float) -> None:
        """Corrects what an attempt took to what it really used."""
        with self._lock:
            if share.held and share.begins < math.inf:
                self._sum += amount - share.amount
            elif share.held:
                self._in_line = max(self._in_line + amount - share.amount, 0.0)
            share.amount = amount

    def give_back(self, share: Share) -> None:
        """Returns a share that was not used."""
        self.settle(share, 0.0)

    def find_wait(self, amount: float, now: float) -> float:
        """Returns how many seconds an amount would wait if it stood in line now.

        Those before it in line are taken to begin as soon as the bucket lets them.
        """
        with self._lock:
            amount, line = min(amount, self.per_minute), self._in_line
            begins = max(now, self._taken[-1].begins) if self._taken else now
            self._forget(begins)
            held = self._sum
            begun: list[Share] = []
            leaving = itertools.chain(self._taken, begun)
            while held + line + amount > self.per_minute:
                part = min(self.per_minute - held, line)
                if part > 0:
                    begun.append(Share(part, begins))
                    line, held = line - part, held + part
                share = next(leaving, None)
                if share is None:
                    break
                begins, held = share.begins + MINUTE_SECONDS, held - share.amount
            return begins - now

    def reset(self) -> None:
        """Forgets who stands in line: after a fork they are not in this process."""
        self._lock = Lock()
        self._in_line = 0.0

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0].begins <= now - MINUTE_SECONDS:
            self._drop()

    def _drop(self) -> None:
        share = self._taken.popleft()
        share.held = False
        # Sums of fractions are not exact: what is empty must be empty.
        self._sum = self._sum - share.amount if self._taken else 0.0


BYTES_PER_TOKEN = 4
"""OpenAI's rule of thumb for English text; what an answer really took settles the account."""


def estimate_tokens(request: Request, defaults: Mapping[str, object] = FrozenDict()) -> float:
    """Returns how many tokens a request may take, its longest answer included, without counting.

    Args:
        request: What is asked.
        defaults: Parameters that it gets where it does not say.
    """
    asked = 0
    for name in ("max_tokens", "max_completion_tokens"):
        value = request.parameters.get(name, defaults.get(name))
        asked = max(asked, value) if isinstance(value, int) else asked
    return len(request.body) / BYTES_PER_TOKEN + asked


class Booking:
    """What one attempt takes of its endpoint's limits per minute.

    It stands in line from the moment when the endpoint is chosen, begins when nothing
    else holds the attempt up, and is used when the attempt goes on the wire.

    Attributes:
        used_at: When that was, by the clock of whoever asked; None: it was not yet.
    """

    __slots__ = ("_shares", "_tokens", "used_at")

    def __init__(self, shares: list[tuple[Bucket, Share]], tokens: Bucket | None) -> None:
        self._shares = shares
        self._tokens = tokens
        self.used_at: float | None = None

    def begin(self, now: float) -> float:
        """Leaves the line; returns when the attempt may go on the wire."""
        return max([bucket.begin(share, now) for bucket, share in self._shares])

    def settle(self, tokens: int) -> None:
        """Corrects the tokens to what the attempt really took."""
        for bucket, share in self._shares:
            if bucket is self._tokens:
                bucket.settle(share, tokens)

    def give_back(self) -> None:
        """Returns all of it, unless it was used."""
        if self.used_at is None:
            for bucket, share in self._shares:
                bucket.give_back(share)


class Limits:
    """How many requests and tokens may begin at an endpoint within a minute.

    Args:
        requests: Limits the requests; None: any number.
        tokens: Limits the tokens; None: any number. One of both is given.
        defaults: Parameters that requests get there where they do not say.
    """

    def __init__(
        self,
        requests: Bucket | None,
        tokens: Bucket | None,
        defaults: Mapping[str, object] = FrozenDict(),
    ) -> None:
        self._buckets = [bucket for bucket in (requests, tokens) if bucket is not None]
        self._tokens = tokens
        self._defaults = defaults

    def measure(self, request: Request) -> float:
        """Returns how many tokens a request may take; 0 where they are not limited."""
        return 0.0 if self._tokens is None else estimate_tokens(request, self._defaults)

    def find_wait(self, tokens: float, now: float) -> float:
        """Returns how many seconds a request of so many tokens would wait."""
        wait = 0.0
        for bucket in self._buckets:
            wait = max(wait, bucket.find_wait(tokens if bucket is self._tokens else 1.0, now))
        return wait

    def book(self, tokens: float) -> Booking:
        """Takes a place in line for a request of so many tokens."""
        shares = [
            (bucket, bucket.book(tokens if bucket is self._tokens else 1.0))
            for bucket in self._buckets
        ]
        return Booking(shares, self._tokens)

    def reset(self) -> None:
        """Forgets who stands in line: after a fork they are not in this process."""
        for bucket in self._buckets:
            bucket.reset()


@dataclass(frozen=True, slots=True)
class BookedAttempt(Attempt):
    """An attempt that stands in line at its endpoint."""

    booking: Booking = field(kw_only=True)


def attach_booking(attempt: Attempt, booking: Booking) -> BookedAttempt:
    """Returns the attempt with its place in line."""
    return BookedAttempt(
        attempt.call, attempt.number, attempt.timeout_seconds, attempt.failed, booking=booking
    )
