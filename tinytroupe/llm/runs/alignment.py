"""What two sequences have in common, in a time that is bounded whatever they hold."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

MAX_STEPS = 500_000
"""Steps of one comparison before it is given up; a fraction of a second."""


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of one sequence and the stretch of the other that stands in its place."""

    same: bool
    start: int
    stop: int
    other_start: int
    other_stop: int


@dataclass(slots=True)
class Effort:
    """How many steps comparisons may still take together. Counted, not timed: so results repeat."""

    steps: int = MAX_STEPS


def align(
    one: Sequence[Hashable], two: Sequence[Hashable], effort: Effort | None = None
) -> list[Block] | None:
    """Returns what stayed and what was replaced, in order; None where that takes too long.

    The fewest elements are replaced. (E. W. Myers, "An O(ND) difference
    algorithm and its variations", Algorithmica 1, 1986.)

    Args:
        one: The older sequence.
        two: The newer one.
        effort: What it may cost; what it did cost is taken off. None: `MAX_STEPS`.
    """
    effort = effort or Effort()
    start = count_common_start(one, two)
    end = count_common_end(one, two, start)
    middle = _align_middle(one[start : len(one) - end], two[start : len(two) - end], effort)
    if middle is None:
        return None
    pairs = [(0, 0, start), *((i + start, j + start, n) for i, j, n in middle)]
    return _fill(pairs, end, len(one), len(two))


def count_common_start(one: Sequence[Hashable], two: Sequence[Hashable]) -> int:
    """Returns how many elements both begin with."""
    # Comparing slices and halving is much faster than a loop over ten million characters.
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def count_common_end(one: Sequence[Hashable], two: Sequence[Hashable], start: int = 0) -> int:
    """Returns how many elements both end with, not counting the first `start`."""
    low, high = 0, min(len(one), len(two)) - start
    while low < high:
        middle = (low + high + 1) // 2
        stretches = (text[len(text) - middle : len(text) - low] for text in (one, two))
        if next(stretches) == next(stretches):
            low = middle
        else:
            high = middle - 1
    return low


def _align_middle(
    one: Sequence[Hashable], two: Sequence[Hashable], effort: Effort
) -> list[tuple[int, int, int]] | None:
    """Returns the stretches that are equal: where in the one, where in the other, how long."""
    if not one or not two:
        return []
    rounds = _search(one, two, effort)
    if rounds is None:
        return None
    pairs: list[tuple[int, int, int]] = []
    i, j = len(one), len(two)
    for depth in range(len(rounds) - 1, 0, -1):
        reached = rounds[depth - 1]
        diagonal = i - j
        down = _goes_down(reached, diagonal, depth)
        before = diagonal + 1 if down else diagonal - 1
        i_before = reached[before]
        j_before = i_before - before
        i_after = i_before if down else i_before + 1
        if i > i_after:
            pairs.append((i_after, i_after - diagonal, i - i_after))
        i, j = i_before, j_before
    if i:
        pairs.append((0, 0, i))
    return pairs[::-1]


def _search(
    one: Sequence[Hashable], two: Sequence[Hashable], effort: Effort
) -> list[dict[int, int]] | None:
    """Returns, for each number of replaced elements, how far along each diagonal it reaches."""
    rounds: list[dict[int, int]] = []
    reached: dict[int, int] = {1: 0}
    size_one, size_two = len(one), len(two)
    for depth in range(size_one + size_two + 1):
        new: dict[int, int] = {}
        for diagonal in range(-depth, depth + 1, 2):
            if diagonal < -size_two or diagonal > size_one:
                continue
            down = _goes_down(reached, diagonal, depth)
            i = reached[diagonal + 1] if down else reached[diagonal - 1] + 1
            j = begin = i - diagonal
            while i < size_one and j < size_two and one[i] == two[j]:
                i += 1
                j += 1
            new[diagonal] = i
            effort.steps -= 2 + j - begin
            if i >= size_one and j >= size_two:
                rounds.append(new)
                return rounds
        if effort.steps < 0:
            return None
        rounds.append(new)
        reached = new
    raise AssertionError("every sequence can be turned into every other one")


def _goes_down(reached: dict[int, int], diagonal: int, depth: int) -> bool:
    """Tells whether the furthest way to a diagonal takes an element of the other sequence."""
    left, right = reached.get(diagonal - 1, -1), reached.get(diagonal + 1, -1)
    return diagonal == -depth or left < right


def _fill(pairs: list[tuple[int, int, int]], end: int, size_one: int, size_two: int) -> list[Block]:
    blocks: list[Block] = []
    i = j = 0
    for i_pair, j_pair, length in [*pairs, (size_one - end, size_two - end, end)]:
        if i_pair > i or j_pair > j:
            blocks.append(Block(False, i, i_pair, j, j_pair))
        if length:
            last = blocks[-1] if blocks else None
            if last is not None and last.same:
                i_pair, j_pair, length = (
                    last.start,
                    last.other_start,
                    length + last.stop - last.start,
                )
                blocks.pop()
            blocks.append(Block(True, i_pair, i_pair + length, j_pair, j_pair + length))
        i, j = blocks[-1].stop if blocks else 0, blocks[-1].other_stop if blocks else 0
    return blocks
