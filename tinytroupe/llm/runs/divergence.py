"""Where a replayed run differs from the recorded one, and in what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from typing import Any, Literal, TypeAlias

from tinytroupe.llm.errors import ReplayMiss
from tinytroupe.llm.request import Call
from tinytroupe.llm.runs.recording import Player, Take

Change: TypeAlias = Literal["same", "removed", "added"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One part of a request that is not as it was recorded."""

    part: str
    """`messages[1].content`, `temperature`, `model` …"""
    recorded: str | None
    """None: it was not there."""
    asked: str | None
    """None: it is not there any more."""

    def words(self) -> list[tuple[Change, str]]:
        """Returns both sides as runs of words that stayed, went, or came."""
        return compare_words(self.recorded or "", self.asked or "")


@dataclass(frozen=True, slots=True)
class Divergence:
    """A call that the recorded run did not make, and the recorded call it is nearest to."""

    lane: str
    branch: str
    order: int
    """The n-th call of its branch, from 0."""
    reason: str
    place: int
    """The line of the nearest recorded call; divergences are ordered by it."""
    nearest: str | None
    """The nearest recorded call, as `lisa:3`; None when the tape has none."""
    differences: tuple[Difference, ...] = field(default_factory=tuple)
    model: str = ""

    def to_error(self) -> ReplayMiss:
        """Returns the error that tells it."""
        lines = [f"{self.reason} (lane {self.lane}, its call {self.order})"]
        if self.nearest is not None:
            lines.append(f"the nearest recorded call is {self.nearest}, and the difference is:")
            lines += [f"  {line}" for line in format_differences(self.differences)]
        return ReplayMiss("\n".join(lines), lane=self.lane, model=self.model or None)

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return asdict(self)


def describe_divergence(player: Player, call: Call, reason: str) -> Divergence:
    """Compares a call that has no answer with the recorded call it is nearest to."""
    position = call.position
    assert position is not None
    asked = json.loads(call.request.body)
    take = _find_nearest(player, call, asked)
    if take is None:
        return Divergence(
            position.lane,
            position.branch,
            position.order,
            reason,
            len(player.recording.takes) + 2,
            None,
            model=call.request.model,
        )
    recorded = player.recording.read(take)["request"]
    return Divergence(
        position.lane,
        position.branch,
        position.order,
        reason,
        take.number,
        f"{take.lane}:{take.order}",
        tuple(compare_requests(recorded, asked)),
        call.request.model,
    )


def _find_nearest(player: Player, call: Call, asked: Mapping[str, Any]) -> Take | None:
    """Returns the same call of the same branch, else the most similar one that is left."""
    position = call.position
    assert position is not None
    takes = player.recording.takes
    same_branch = [take for take in takes if take.branch == position.branch]
    for take in same_branch:
        if take.order == position.order:
            return take
    candidates = [take for take in player.find_unplayed() if take.lane == position.lane]
    candidates = candidates or same_branch or player.find_unplayed() or takes
    text = json.dumps(asked, ensure_ascii=False)

    def likeness(take: Take) -> float:
        other = json.dumps(player.recording.read(take)["request"], ensure_ascii=False)
        return SequenceMatcher(None, text[-2000:], other[-2000:]).quick_ratio()

    return max(candidates[:200], key=likeness, default=None)


def compare_requests(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[Difference]:
    """Yields every part in which two requests differ: parameters first, then messages."""
    names = [*recorded, *(name for name in asked if name not in recorded)]
    for name in sorted(names, key=lambda name: name == "messages"):
        yield from _compare(name, recorded.get(name), asked.get(name))


def _compare(part: str, recorded: Any, asked: Any) -> Iterator[Difference]:
    if recorded == asked:
        return
    if isinstance(recorded, list) and isinstance(asked, list):
        for index in range(max(len(recorded), len(asked))):
            one = recorded[index] if index < len(recorded) else None
            two = asked[index] if index < len(asked) else None
            yield from _compare(f"{part}[{index}]", one, two)
    elif isinstance(recorded, dict) and isinstance(asked, dict):
        for name in sorted({*recorded, *asked}):
            yield from _compare(f"{part}.{name}", recorded.get(name), asked.get(name))
    else:
        yield Difference(part, _to_text(recorded), _to_text(asked))


def _to_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def compare_words(recorded: str, asked: str) -> list[tuple[Change, str]]:
    """Returns a text and its successor as runs of words that stayed, went, or came."""
    one, two = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (recorded, asked))
    runs: list[tuple[Change, str]] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if tag == "equal":
            runs.append(("same", "".join(one[i1:i2])))
            continue
        if i2 > i1:
            runs.append(("removed", "".join(one[i1:i2])))
        if j2 > j1:
            runs.append(("added", "".join(two[j1:j2])))
    return runs


def format_differences(differences: tuple[Difference, ...], colour: bool = False) -> list[str]:
    """Returns one line per difference; what stayed is shortened to what is near a change."""
    lines = []
    for difference in differences:
        if difference.recorded is None:
            lines.append(f"{difference.part}: added: {_shorten(difference.asked or '')}")
        elif difference.asked is None:
            lines.append(f"{difference.part}: removed: {_shorten(difference.recorded)}")
        else:
            shown = "".join(_mark(change, text, colour) for change, text in difference.words())
            lines.append(f"{difference.part}: {shown}")
    return lines


_MARKS = {"removed": ("[-", "-]", "\x1b[31m"), "added": ("{+", "+}", "\x1b[32m")}
_CONTEXT_LENGTH = 40


def _mark(change: Change, text: str, colour: bool) -> str:
    if change == "same":
        if len(text) <= 2 * _CONTEXT_LENGTH:
            return text
        return f"{text[:_CONTEXT_LENGTH]}…{text[-_CONTEXT_LENGTH:]}"
    begin, end, paint = _MARKS[change]
    return f"{paint}{begin}{text}{end}\x1b[0m" if colour else f"{begin}{text}{end}"


def _shorten(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
