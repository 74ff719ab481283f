"""Where a replayed run differs from the recorded one, and in what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from tinytroupe.llm.request import Call
from tinytroupe.llm.runs.alignment import align, count_common_end, count_common_start
from tinytroupe.llm.runs.recording import Player, Take
from tinytroupe.llm.runs.words import Runs, compare_words, split_words

FULLY_KEPT = 100
"""Divergences of a replay whose texts are kept at length; of later ones only what is near."""
_KEPT_CHARACTERS = 100_000
_KEPT_CHARACTERS_LATER = 2_000
_CONTEXT_CHARACTERS = 400

_MOST_CANDIDATES = 100
_MOST_CANDIDATE_BYTES = 8_000_000
_ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """One part of a request that is not as it was recorded."""

    part: str
    """`messages[1].content`, `temperature`, `model` …"""
    recorded: str | None
    """None: it was not there."""
    asked: str | None
    """None: it is not there any more."""

    def words(self) -> Runs:
        """Returns both sides as runs of words that stayed, went, or came."""
        return compare_words(self.recorded or "", self.asked or "")


@dataclass(frozen=True, slots=True)
class Divergence:
    """A call that the recorded run did not make, and the recorded call it is nearest to."""

    lane: str
    branch: str
    order: int
    """The n-th call of its lane, from 0; where the tape has no call in its place, of its branch."""
    reason: str
    place: int
    """The line of the recorded call that stands where this one does; without one, the line
    of the last call of its branch, or 0."""
    nearest: str | None
    """The nearest recorded call, as `lisa:3`; None when the tape has none."""
    differences: tuple[Difference, ...] = field(default_factory=tuple)
    model: str = ""
    arrival: int = 0
    """The n-th divergence of the replay, from 0, in the order in which they came up."""
    located: bool = True
    """Whether the tape has a call where this one stands."""
    purpose: str | None = None
    digest: str = ""
    """Of what was asked."""

    @property
    def name(self) -> str:
        """How people refer to it: `lisa:3`, as the recorded call that stands where it does."""
        return f"{self.lane}:{self.order}" if self.located else f"a call of {self.lane}"

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return asdict(self)


def read_divergence(data: Mapping[str, Any]) -> Divergence:
    """Returns what `Divergence.to_json` wrote.

    Raises:
        TypeError, KeyError: It is something else.
    """
    differences = tuple(Difference(**each) for each in data["differences"])
    return Divergence(**{**data, "differences": differences})


def find_first(divergences: Iterable[Divergence]) -> Divergence | None:
    """Returns the divergence that is no consequence of another one; None where there is none.

    A recorded call that depends on another one's answer ended after it. So the
    divergence with the smallest place is no consequence of another that has a
    place, in whatever order threads came up with them. Only of a call that the
    tape has no place for can it be a consequence, if that one came up before;
    then the very first to come up is taken, which nothing came before.
    """
    every = sorted(divergences, key=lambda one: one.arrival)
    located = [one for one in every if one.located]
    if not located:
        return every[0] if every else None
    first = min(located, key=lambda one: (one.place, one.arrival))
    for other in every:
        if not other.located and other.arrival < first.arrival and other.place <= first.place:
            return every[0]
    return first


def describe_divergence(player: Player, call: Call, reason: str, arrival: int = 0) -> Divergence:
    """Compares a call that has no answer with the recorded call it is nearest to."""
    position = call.position
    assert position is not None
    counterpart, place = player.locate(position)
    asked = orjson.loads(call.request.body)
    thorough = arrival < FULLY_KEPT
    take = _find_nearest(player, call, asked, counterpart) if thorough else counterpart
    recording, order = player.recording, position.order
    if counterpart is not None and counterpart.lane == position.lane:
        order = recording.find_index(counterpart)
    divergence = Divergence(
        position.lane,
        position.branch,
        order,
        reason,
        place,
        recording.name(take) if take is not None else None,
        model=call.request.model,
        arrival=arrival,
        located=counterpart is not None,
        purpose=call.options.purpose,
        digest=call.request.digest,
    )
    if take is None or take.digest == call.request.digest:
        return divergence
    event = recording.read(take)
    differences = list(compare_requests(event["request"], asked))
    if event["kind"] != call.request.kind:
        differences.insert(0, Difference("kind", event["kind"], call.request.kind))
    if not differences:
        where = f"the namespace {call.request.namespace!r}" if call.request.namespace else "none"
        reason += (
            "; its text is the same, but the client keeps its answers in another namespace "
            f"than when it was recorded (now: {where}), as with another API_TYPE"
        )
    limit = _KEPT_CHARACTERS if thorough else _KEPT_CHARACTERS_LATER
    kept = tuple(cut_difference(each, limit) for each in differences)
    return replace(divergence, reason=reason, differences=kept)


def _find_nearest(
    player: Player, call: Call, asked: Mapping[str, Any], counterpart: Take | None
) -> Take | None:
    """Returns the call in this one's place if they are alike, else the most similar one.

    The same request, answered before, comes first; then calls of the same lane
    that were not asked for yet.
    """
    assert call.position is not None
    lane, order = call.position.lane, call.position.order
    same = player.find_alike(call.request.digest)
    if same:
        return next((take for take in same if take.lane == lane), same[0])
    words = _count_words(asked)
    best, best_likeness, size = counterpart, -1.0, 0
    if counterpart is not None:
        recorded = player.recording.read(counterpart)["request"]
        best_likeness = _measure_likeness(words, _count_words(recorded))
        if best_likeness >= _ALIKE:
            return counterpart
    # Of calls that are equally alike, the one that stands nearest.
    for take in sorted(_list_candidates(player, lane), key=lambda take: abs(take.order - order)):
        size += take.length
        if size > _MOST_CANDIDATE_BYTES and best is not None:
            break
        likeness = _measure_likeness(words, _count_words(player.recording.read(take)["request"]))
        if likeness > best_likeness:
            best, best_likeness = take, likeness
    return best


def _list_candidates(player: Player, lane: str) -> Sequence[Take]:
    unplayed = player.find_unplayed()
    left = [take for take in unplayed if take.lane == lane]
    before = [take for take in player.recording.takes if take.lane == lane] if not left else []
    return (left or before or unplayed or player.recording.takes)[:_MOST_CANDIDATES]


def _count_words(request: Mapping[str, Any]) -> Counter[str]:
    text = orjson.dumps(request, option=orjson.OPT_SORT_KEYS).decode()
    if len(text) > 2 * _KEPT_CHARACTERS_LATER:
        text = text[:_KEPT_CHARACTERS_LATER] + text[-_KEPT_CHARACTERS_LATER:]
    return Counter(word for word in split_words(text) if not word.isspace())


def _measure_likeness(one: Counter[str], two: Counter[str]) -> float:
    """Returns the share of words in common, from 0 to 1 (the Sørensen-Dice coefficient)."""
    total = one.total() + two.total()
    return 2 * (one & two).total() / total if total else 1.0


_ABSENT = object()


def compare_requests(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[Difference]:
    """Yields every part in which two requests differ: parameters first, then messages."""
    names = dict.fromkeys((*recorded, *asked))
    for name in sorted(names, key=lambda name: name == "messages"):
        yield from _compare(name, recorded.get(name, _ABSENT), asked.get(name, _ABSENT))


def _compare(part: str, recorded: Any, asked: Any) -> Iterator[Difference]:
    if isinstance(recorded, list) and isinstance(asked, list):
        yield from _compare_lists(part, recorded, asked)
    elif isinstance(recorded, dict) and isinstance(asked, dict):
        for name in sorted({*recorded, *asked}):
            one, two = recorded.get(name, _ABSENT), asked.get(name, _ABSENT)
            yield from _compare(f"{part}.{name}", one, two)
    elif recorded is _ABSENT or asked is _ABSENT or type(recorded) is not type(asked):
        # As JSON, or the text "1" and the number 1 would look the same.
        spell = _to_json if isinstance(recorded, str) and type(asked) in (int, float) else _to_text
        spell = _to_json if isinstance(asked, str) and type(recorded) in (int, float) else spell
        yield Difference(part, spell(recorded), spell(asked))
    elif recorded != asked:
        yield Difference(part, _to_text(recorded), _to_text(asked))


def _compare_lists(part: str, recorded: list[Any], asked: list[Any]) -> Iterator[Difference]:
    blocks = align([_to_json(each) for each in recorded], [_to_json(each) for each in asked])
    if blocks is None:
        yield Difference(part, _to_json(recorded), _to_json(asked))
        return
    for block in blocks:
        if block.same:
            continue
        gone = recorded[block.start : block.stop]
        came = asked[block.other_start : block.other_stop]
        for offset in range(max(len(gone), len(came))):
            one = gone[offset] if offset < len(gone) else _ABSENT
            two = came[offset] if offset < len(came) else _ABSENT
            index = block.start if two is _ABSENT else block.other_start
            yield from _compare(f"{part}[{index + offset}]", one, two)


def _to_text(value: Any) -> str | None:
    return value if isinstance(value, str) else _to_json(value)


def _to_json(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def cut_difference(difference: Difference, limit: int) -> Difference:
    """Returns a difference of texts so long at most: what is near the change, the rest as `…`."""
    one, two = difference.recorded, difference.asked
    if len(one or "") <= limit and len(two or "") <= limit:
        return difference
    if one is None or two is None:
        kept = (text if text is None else _cut_end(text, limit) for text in (one, two))
        return Difference(difference.part, *kept)
    start = count_common_start(one, two)
    end = count_common_end(one, two, start)
    return Difference(
        difference.part,
        _cut_around(one, start, len(one) - end, limit),
        _cut_around(two, start, len(two) - end, limit),
    )


def _cut_around(text: str, start: int, stop: int, limit: int) -> str:
    begin = max(start - _CONTEXT_CHARACTERS, 0)
    kept = text[begin : stop + _CONTEXT_CHARACTERS]
    after = "…" if stop + _CONTEXT_CHARACTERS < len(text) and len(kept) <= limit else ""
    return f"{'…' if begin else ''}{_cut_end(kept, limit)}{after}"


def _cut_end(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"
