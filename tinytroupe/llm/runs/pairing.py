"""The calls of recorded runs by lane, and which lanes and calls of two runs correspond."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tinytroupe.llm.runs.alignment import Effort, align
from tinytroupe.llm.runs.recording import Recording, Take

AMBIGUOUS = "(calls that cannot be told apart)"
"""The lane of all calls of which nothing says whose they are."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What calls took, added up."""

    calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unknown_usage: int = 0
    """Answers whose endpoint did not tell the tokens."""
    seconds: float = 0.0
    """How long the calls took one after the other, as recorded."""

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.calls + other.calls,
            self.errors + other.errors,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.unknown_usage + other.unknown_usage,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recorded call without its texts."""

    take: Take
    answer: bytes
    """The digest of what it was answered."""
    sums: Sums

    def asks_same(self, other: RecordedCall) -> bool:
        """Tells whether both make the same request."""
        return self.take.digest == other.take.digest


class RecordedLanes:
    """A recording's calls by branch, each in its order; those in doubt are one of their own."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.branches: dict[str, list[RecordedCall]] = {}
        self.models: dict[str, None] = {}
        """The models that answered, as their endpoints named them."""
        for take in recording.takes:
            branch = AMBIGUOUS if recording.is_ambiguous(take) else take.branch
            self.branches.setdefault(branch, []).append(self._read_call(take))
        for branch, calls in self.branches.items():
            # Which of the calls in doubt came first is chance; what they asked is not.
            in_doubt = branch == AMBIGUOUS
            calls.sort(key=lambda call: (call.take.digest if in_doubt else "", call.take.order))

    def _read_call(self, take: Take) -> RecordedCall:
        event = self.recording.read(take)
        response = event.get("response") or {}
        usage = response.get("usage") or {}
        if isinstance(response.get("model"), str):
            self.models.setdefault(response["model"])
        sums = Sums(
            1,
            int(take.failed),
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            int(not usage and not take.failed),
            float(event["seconds"]),
        )
        answer = orjson.dumps(read_answer(event), option=orjson.OPT_SORT_KEYS)
        return RecordedCall(take, hashlib.sha256(answer).digest(), sums)

    def name(self, branch: str) -> str:
        """Returns how people call a branch."""
        return branch if branch == AMBIGUOUS else self.branches[branch][0].take.lane


def add_up(calls: Iterable[RecordedCall]) -> Sums:
    """Returns what calls took together."""
    return sum((call.sums for call in calls), Sums())


def read_answer(event: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what was answered, without what is never the same twice: ids, times, tokens."""
    failed = event.get("error")
    if failed is not None:
        return {"error": f"{failed['class']}: {failed['facts'].get('message', '')}"}
    response = event["response"]
    if "data" in response:
        vectors = [row.get("embedding") for row in response["data"]]
        digest = hashlib.sha256(orjson.dumps(vectors)).hexdigest()[:12]
        return {"vectors": f"{len(vectors)}, with the digest {digest}"}
    answer: dict[str, Any] = {}
    for index, choice in enumerate(response.get("choices") or []):
        prefix = f"choices[{index}]." if index else ""
        message = choice.get("message") or {"content": choice.get("text")}
        for name, value in message.items():
            if value is not None and name != "role":
                answer[prefix + ("answer" if name == "content" else name)] = value
        answer[f"{prefix}finish_reason"] = choice.get("finish_reason")
    return answer


def pair_lanes(one: RecordedLanes, two: RecordedLanes) -> list[tuple[str | None, str | None]]:
    """Returns the branches that correspond, and those of one run only.

    They correspond by a name that is theirs alone, by path and first request,
    by a first request that is theirs alone, or else by path.
    """
    left, right = dict.fromkeys(one.branches), dict.fromkeys(two.branches)
    pairs: dict[str, str] = {}

    def pair_by(identify: Callable[[RecordedLanes, str], str | None]) -> None:
        mine = _find_unique(one, left, identify)
        theirs = _find_unique(two, right, identify)
        for identity, branch in mine.items():
            if identity in theirs:
                pairs[branch] = theirs[identity]
                del left[branch], right[theirs[identity]]

    pair_by(lambda lanes, branch: None if lanes.name(branch) == branch else lanes.name(branch))
    pair_by(lambda lanes, branch: f"{branch} {lanes.branches[branch][0].take.digest}")
    pair_by(lambda lanes, branch: lanes.branches[branch][0].take.digest)
    pair_by(lambda lanes, branch: branch)
    found: list[tuple[str | None, str | None]]
    found = [(branch, pairs.get(branch)) for branch in one.branches]
    return found + [(None, branch) for branch in right]


def _find_unique(
    lanes: RecordedLanes,
    branches: Iterable[str],
    identify: Callable[[RecordedLanes, str], str | None],
) -> dict[str, str]:
    """Returns identities that only one of some branches has → the branch."""
    identities = {branch: identify(lanes, branch) for branch in branches}
    counts = Counter(identities.values())
    return {
        identity: branch
        for branch, identity in identities.items()
        if identity is not None and counts[identity] == 1
    }


def pair_calls(
    one: Sequence[RecordedCall], two: Sequence[RecordedCall], effort: Effort
) -> Iterator[tuple[RecordedCall, RecordedCall | None] | tuple[None, RecordedCall]]:
    """Yields the calls of a lane side by side, as many equal requests as possible together."""
    blocks = align([call.take.digest for call in one], [call.take.digest for call in two], effort)
    spans = [(one, two)]
    if blocks is not None:
        spans = [
            (one[each.start : each.stop], two[each.other_start : each.other_stop])
            for each in blocks
        ]
    for left, right in spans:
        for index, call in enumerate(left):
            yield call, right[index] if index < len(right) else None
        for call in right[len(left) :]:
            yield None, call
