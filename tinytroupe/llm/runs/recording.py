"""A recorded run, read from its tape, and how its answers are found again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from tinytroupe.llm.canonical import KEY_SCHEMA
from tinytroupe.llm.errors import ReplayMiss, StoreError
from tinytroupe.llm.layers.replay import Recorded
from tinytroupe.llm.request import Call, Position
from tinytroupe.llm.rules.lanes import BEGINNING, FOREIGN_PATH, Mark, is_contested
from tinytroupe.llm.store.tape import Line, TapeReader


@dataclass(frozen=True, slots=True)
class Take:
    """Where one recorded call stands; its contents stay on the tape until they are asked for."""

    number: int
    """Its line on the tape, from 1."""
    offset: int
    length: int
    branch: str
    lane: str
    digest: str
    sample: int
    order: int
    """The n-th call of its branch, from 0."""
    failed: bool = False
    """Whether it ended without an answer."""
    ambiguous: bool = False
    """Whether its branch took work from a queue that others take work from too."""


class Recording:
    """All calls of a tape, in the order in which they ended.

    Args:
        path: The tape.

    Raises:
        StoreError: It is no tape, was changed after it was recorded, or was
            recorded with other keys.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader = TapeReader(path)
        self.header = self._reader.header
        self._check_keys()
        self.takes: list[Take] = []
        self.contested: dict[str, Mark] = {FOREIGN_PATH: BEGINNING}
        """Branch → since when chance decided what it did, so that nothing tells whose its calls
        are."""
        self.ended = False
        """Whether the recorded run came to its end, and was neither killed nor broken off."""
        self._read_lines()
        self.cut = self._reader.scan.cut
        """Whether the last event was lost when the recording was killed."""

    def _check_keys(self) -> None:
        schema = self.header.get("key_schema")
        if schema != KEY_SCHEMA:
            raise StoreError(
                f"the tape {self.path} was recorded with key schema {schema} and this version has "
                f"{KEY_SCHEMA}, so its calls cannot be found again; replay it with tinytroupe "
                f"{self.header.get('tinytroupe')}, or record the run again"
            )

    def _read_lines(self) -> None:
        names: dict[str, str] = {}
        for line in self._reader.lines():
            if not line.intact:
                raise StoreError(
                    f"line {line.number} of the tape {self.path} was changed after it was "
                    "recorded, so the tape cannot be trusted; `tinytroupe runs verify` tells more"
                )
            event = line.event
            if event["event"] == "call":
                self._add(line, names)
            elif event["event"] == "contested":
                self.contested[event["branch"]] = Mark(event["calls"], event["spawns"])
            elif event["event"] in ("ended", "resumed"):
                self.ended = event["event"] == "ended" and event["error"] is None
        self._forget_superseded()

    def _add(self, line: Line, names: dict[str, str]) -> None:
        event = line.event
        # Of each name one copy; a tape may have a million events.
        branch = names.setdefault(event["branch"], event["branch"])
        self.takes.append(
            Take(
                line.number,
                line.offset,
                line.length,
                branch,
                names.setdefault(event["lane"], event["lane"]),
                event["digest"],
                event["sample"],
                event["order"],
                "error" in event,
                event["ambiguous"],
            )
        )

    def _forget_superseded(self) -> None:
        """Forgets failures that were tried again when the recording was resumed."""
        if not any(take.failed for take in self.takes):
            return
        last = {_name_exactly(take): take.number for take in self.takes}
        self.takes = [
            take
            for take in self.takes
            if not take.failed or take.ambiguous or last[_name_exactly(take)] == take.number
        ]

    def is_ambiguous(self, take: Take) -> bool:
        """Tells whether nothing says whose call it was."""
        return take.ambiguous or is_contested(take.branch, take.order, self.contested)

    def is_last_failure(self, take: Take) -> bool:
        """Tells whether a call failed and its branch made none after it."""
        return take.failed and self._last_orders[take.branch] == take.order

    @cached_property
    def _last_orders(self) -> dict[str, int]:
        orders: dict[str, int] = {}
        for take in self.takes:
            orders[take.branch] = max(orders.get(take.branch, 0), take.order)
        return orders

    @cached_property
    def lanes(self) -> dict[str, list[Take]]:
        """The calls of each lane in the order of the program, not of their ends."""
        lanes: dict[str, list[Take]] = {}
        for take in self.takes:
            lanes.setdefault(take.lane, []).append(take)
        for takes in lanes.values():
            takes.sort(key=lambda take: (_split_path(take.branch), take.order))
        return lanes

    @cached_property
    def _indexes(self) -> dict[int, int]:
        return {
            take.number: index for takes in self.lanes.values() for index, take in enumerate(takes)
        }

    def find_index(self, take: Take) -> int:
        """Returns the n-th of which its lane a call is, from 0."""
        return self._indexes[take.number]

    def name(self, take: Take) -> str:
        """Returns how people refer to a call: `lisa:3`, that lane's fourth."""
        return f"{take.lane}:{self.find_index(take)}"

    def read(self, take: Take) -> dict[str, Any]:
        """Returns the whole event of a call."""
        return self._reader.read(take.offset, take.length)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields the whole events of all calls, in order."""
        return (self.read(take) for take in self.takes)


def _split_path(path: str) -> list[tuple[int, str]]:
    """Returns what sorts the tenth spawn after the second."""
    parts = path.split("/")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _name_exactly(take: Take) -> tuple[str, str, int]:
    return take.branch, take.digest, take.sample


GoesLive = Callable[[Take], bool]
"""Tells whether a recorded call is past the point up to which its answer counts."""


class Player:
    """Finds the recorded answer of each call, at most once. Safe to use from many threads.

    A call is found by its branch, its request and how often the branch asked
    it before. Where the branch is unknown, or takes work from a shared queue,
    the request alone decides, and only where there is nothing to decide: one
    recording, or several with the same answer.

    Args:
        recording: The tape.
        may_go_live: Whether a call without a recorded answer goes to the endpoint.
        goes_live: Which recorded calls do not count.
        replaced: Take number → the event that stands in its place.
        on_miss: Is told every call that has no answer, before the error is raised.
        substitute: Whether a call without an answer of its own is given, once `on_miss`
            knows, the one that was recorded in its place: to see what else differs.
        on_move: Is told every call that is answered from another branch's recording.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        may_go_live: bool = False,
        goes_live: GoesLive | None = None,
        replaced: dict[int, dict[str, Any]] | None = None,
        on_miss: Callable[[Call, str], ReplayMiss] | None = None,
        substitute: bool = False,
        on_move: Callable[[Call, Take], None] | None = None,
    ) -> None:
        self.recording = recording
        self._may_go_live = may_go_live
        self._goes_live = goes_live
        self._replaced = replaced or {}
        self._on_miss = on_miss
        self._substitute = substitute
        self._on_move = on_move
        self._latest: dict[str, int] = {}
        self._missed: dict[str, tuple[int, int]] = {}
        self._placed: dict[tuple[str, int], int] | None = None
        self._last_lines: dict[str, int] = {}
        self._lock = Lock()
        self._exact: dict[tuple[str, str, int], int] = {}
        self._alike: dict[str, list[int]] = {}
        self._played = bytearray(len(recording.takes))
        self._agreeing: dict[str, bool] = {}
        for index, take in enumerate(recording.takes):
            if not recording.is_ambiguous(take):
                self._exact[_name_exactly(take)] = index
            self._alike.setdefault(take.digest, []).append(index)

    def find(self, call: Call) -> Recorded | None:
        """Returns what answers this call. See `Source`.

        Raises:
            ReplayMiss: There is none, and the call may not go live.
        """
        position = call.position
        assert position is not None
        digest = call.request.digest
        with self._lock:
            index, reason = self._choose(position, digest)
            if index is not None:
                self._played[index] = 1
                self._latest[position.branch] = index
        if index is not None:
            take = self.recording.takes[index]
            if self._on_move is not None and take.branch != position.branch:
                self._on_move(call, take)
            if take.number in self._replaced:
                return Recorded(self._replaced[take.number])
            if self._goes_live is not None and self._goes_live(take):
                return None
            return Recorded(self.recording.read(take))
        if self._may_go_live:
            return None
        if self._on_miss is None:
            raise ReplayMiss(reason, lane=position.lane, model=call.request.model)
        error = self._on_miss(call, reason)
        event = self._take_counterpart(call, position) if self._substitute else None
        if event is None:
            raise error
        return Recorded(event)

    def _choose(self, position: Position, digest: str) -> tuple[int | None, str]:
        recording = self.recording
        ambiguous = position.ambiguous or is_contested(
            position.branch, position.order, recording.contested
        )
        if not ambiguous:
            index = self._exact.get((position.branch, digest, position.sample))
            if index is not None and not self._played[index]:
                return index, ""
            if self._may_go_live or not recording.ended:
                # What this call was answered may just not be on the tape.
                return None, self._say_missing(digest)
        alike = self._alike.get(digest, [])
        free = [index for index in alike if not self._played[index]]
        if not free:
            return None, self._say_missing(digest)
        if len(alike) == 1 or self._agree(digest, alike):
            return free[0], ""
        return None, (
            f"the tape holds {len(alike)} different answers to this request and nothing tells "
            "which is this call's; name the agent with `with lane(name):`"
        )

    def _say_missing(self, digest: str) -> str:
        count = len(self._alike.get(digest, ()))
        if not count:
            said = "was never asked"
        elif not self.recording.ended:
            said = "was asked, but not at this place, before the recording broke off"
        else:
            times = f"{count} times" if count > 1 else "once"
            said = f"was asked {times} in all, and now once more"
        return f"in the recorded run this {said}"

    def _agree(self, digest: str, alike: Sequence[int]) -> bool:
        """Tells whether all answers to one request are the same; reads each of them once."""
        if digest not in self._agreeing:
            answers = (self.recording.read(self.recording.takes[index]) for index in alike)
            contents = [(answer.get("response"), answer.get("error")) for answer in answers]
            self._agreeing[digest] = all(content == contents[0] for content in contents)
        return self._agreeing[digest]

    def _take_counterpart(self, call: Call, position: Position) -> dict[str, Any] | None:
        with self._lock:
            index = self._find_counterpart(position)
            if index is None or self._played[index]:
                return None
            event = self.recording.read(self.recording.takes[index])
            if event["kind"] != call.request.kind:
                return None
            self._played[index] = 1
            self._latest[position.branch] = index
            return event

    def locate(self, position: Position) -> tuple[Take | None, int]:
        """Returns the recorded call that stands where a call without an answer does.

        That is the one after the last call of its branch that was answered, or
        later by as many as had no answer since. Each such call is located once.

        Returns:
            The recorded call, or None where its branch has no more; and the
            line of that call or, without one, of the branch's last (0: none).
        """
        with self._lock:
            latest = self._latest.get(position.branch, -1)
            latest_before, missed = self._missed.get(position.branch, (latest, 0))
            missed = missed + 1 if latest_before == latest else 1
            self._missed[position.branch] = latest, missed
            index = self._find_counterpart(position)
            if index is not None:
                take = self.recording.takes[index]
                return take, take.number
            return None, self._last_lines.get(self._follow(position)[0], 0)

    def _find_counterpart(self, position: Position) -> int | None:
        if self._placed is None:
            takes = self.recording.takes
            self._placed = {(take.branch, take.order): i for i, take in enumerate(takes)}
            self._last_lines = {take.branch: take.number for take in takes}
        contested = self.recording.contested
        if position.ambiguous or is_contested(position.branch, position.order, contested):
            return None
        branch, order = self._follow(position)
        return self._placed.get((branch, order + self._missed[position.branch][1]))

    def _follow(self, position: Position) -> tuple[str, int]:
        """Returns the recorded branch and order of the last answer that a branch was given."""
        latest = self._latest.get(position.branch)
        if latest is None:
            return position.branch, -1
        take = self.recording.takes[latest]
        return take.branch, take.order

    def find_alike(self, digest: str) -> list[Take]:
        """Returns the recorded calls of one request."""
        return [self.recording.takes[index] for index in self._alike.get(digest, ())]

    def count_played(self) -> int:
        """Returns how many recorded calls were asked for."""
        return self._played.count(1)

    def find_unplayed(self) -> list[Take]:
        """Returns the recorded calls that were not asked for."""
        takes = self.recording.takes
        return [take for index, take in enumerate(takes) if not self._played[index]]
