"""Draws: choices that look random and follow from a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1


class Draws:
    """A stream of choices; equal seeds give equal streams on every Python version.

    The generator is SplitMix64 (Steele, Lea, Flood: "Fast Splittable
    Pseudorandom Number Generators", OOPSLA 2014). The standard library's
    `random` promises the same stream across versions for `random()` only, and
    costs several microseconds to seed. Not for more than one thread.
    """

    __slots__ = ("_state",)

    def __init__(self, *seed: bytes | str | int) -> None:
        parts = [part if isinstance(part, bytes) else str(part).encode() for part in seed]
        digest = hashlib.sha256(b"\x1f".join(parts)).digest()
        self._state = int.from_bytes(digest[:8], "big")

    def _next(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def below(self, bound: int) -> int:
        """Returns an integer from 0 to `bound - 1`."""
        return self._next() % bound

    def between(self, low: int, high: int) -> int:
        """Returns an integer from `low` to `high`, both included."""
        return low + self._next() % (high - low + 1)

    def fraction(self) -> float:
        """Returns a number from 0 up to, not including, 1."""
        return (self._next() >> 11) / (1 << 53)

    def pick(self, items: Sequence[T]) -> T:
        """Returns one of the items; there must be one."""
        return items[self._next() % len(items)]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """Returns the items in another order."""
        shuffled = list(items)
        for last in range(len(shuffled) - 1, 0, -1):
            other = self.below(last + 1)
            shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
        return shuffled
