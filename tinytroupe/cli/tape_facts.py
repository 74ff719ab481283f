"""What a tape tells people, read once from its beginning to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.rules.lanes import BEGINNING, FOREIGN_PATH, Mark, is_contested
from tinytroupe.llm.store.tape import TapeReader

_LONGEST_HEADER = 2**20


@dataclass(slots=True)
class LaneFacts:
    """What one lane asked. Branches of the same name count as one."""

    calls: int = 0
    live: int = 0
    """Calls that were answered by the endpoint, not from the cache or another tape."""
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    """How long the calls took together."""
    errors: int = 0
    branches: dict[str, int] = field(default_factory=dict)
    """Branch → the number of its last call, from 0."""
    ambiguous: bool = False
    """Whether nothing tells its calls from those of other branches."""


@dataclass(slots=True)
class TapeFacts:
    """What is on a tape."""

    header: dict[str, Any]
    size_bytes: int
    lines: int = 0
    calls: int = 0
    resumed: int = 0
    ended: bool = False
    """Whether the recording was ended, and the process not killed."""
    broken_off_by: str = ""
    """The class of the error that ended the simulation; empty: none, or not known."""
    cut: bool = False
    """Whether the last event is not whole."""
    changed_lines: list[int] = field(default_factory=list)
    lanes: dict[str, LaneFacts] = field(default_factory=dict)
    """By name, in the order in which they first asked."""
    models: list[str] = field(default_factory=list)
    """As the endpoint named them, with the fingerprint of the system where it told one."""

    @property
    def started_at(self) -> str:
        """When the run began, as its header tells."""
        return str(self.header.get("started_at") or "")

    @property
    def mode(self) -> str:
        """`record` or `fork`."""
        return str(self.header.get("mode") or "")

    @property
    def end(self) -> str:
        """How the tape ends, in a word or two."""
        if self.changed_lines:
            return "changed"
        if self.cut:
            return "cut"
        if self.broken_off_by:
            return f"broken off by {self.broken_off_by}"
        return "ended" if self.ended else "not ended"

    @property
    def ambiguous_lanes(self) -> list[str]:
        """The lanes whose calls cannot be told from others'."""
        return [name for name, lane in self.lanes.items() if lane.ambiguous]

    def tell(self) -> dict[str, Any]:
        """Returns all of it for JSON."""
        lanes = {}
        for name, lane in self.lanes.items():
            lanes[name] = {**asdict(lane), "branches": sorted(lane.branches)}
        return {
            "header": self.header,
            "size_bytes": self.size_bytes,
            "lines": self.lines,
            "calls": self.calls,
            "resumed": self.resumed,
            "end": self.end,
            "changed_lines": self.changed_lines,
            "models": self.models,
            "ambiguous_lanes": self.ambiguous_lanes,
            "lanes": lanes,
        }


def read_tape(tape: TapeReader) -> TapeFacts:
    """Reads a tape as far as it is whole; changed lines are noted and not believed."""
    facts = TapeFacts(tape.header, len(tape.content))
    contested = {FOREIGN_PATH: BEGINNING}
    for line in tape.lines():
        facts.lines += 1
        if not line.intact:
            facts.changed_lines.append(line.number)
            continue
        event = line.event
        kind = event.get("event")
        facts.ended = kind == "ended"
        facts.broken_off_by = str(event.get("error") or "") if kind == "ended" else ""
        if kind == "contested":
            contested[event["branch"]] = Mark(event["calls"], event["spawns"])
        elif kind == "resumed":
            facts.resumed += 1
        elif kind == "call":
            _add_call(facts, event)
    facts.cut = tape.scan.cut
    for lane in facts.lanes.values():
        lane.ambiguous = lane.ambiguous or any(
            is_contested(branch, order, contested) for branch, order in lane.branches.items()
        )
    return facts


def _add_call(facts: TapeFacts, event: dict[str, Any]) -> None:
    facts.calls += 1
    lane = facts.lanes.setdefault(str(event.get("lane") or ""), LaneFacts())
    lane.calls += 1
    lane.live += event.get("origin") == "live"
    lane.seconds += event.get("seconds") or 0.0
    lane.errors += event.get("error") is not None
    branch, order = str(event.get("branch") or ""), event.get("order") or 0
    lane.branches[branch] = max(lane.branches.get(branch, 0), order)
    lane.ambiguous = lane.ambiguous or bool(event.get("ambiguous"))
    response = event.get("response") or {}
    usage = response.get("usage") or {}
    lane.input_tokens += usage.get("prompt_tokens") or 0
    lane.output_tokens += usage.get("completion_tokens") or 0
    if model := response.get("model"):
        fingerprint = response.get("system_fingerprint")
        named = f"{model} ({fingerprint})" if fingerprint else str(model)
        if named not in facts.models:
            facts.models.append(named)


def list_tapes(folder: Path) -> list[Path]:
    """Returns the files of a folder that begin as tapes do.

    Raises:
        StoreError: There is no such folder, or it cannot be read.
    """
    try:
        return sorted(filter(_is_tape, _list_files(folder)))
    except NotADirectoryError:
        raise StoreError(f"{folder} is a file; `tinytroupe runs show` shows a tape") from None
    except FileNotFoundError:
        raise StoreError(f"there is no folder {folder}") from None
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror}") from error


def _list_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file())


def _is_tape(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if file.read(1) != b"{":
                return False
            header = orjson.loads(b"{" + file.readline(_LONGEST_HEADER))
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and header.get("event") == "header"
