"""What became of a replay, kept beside the tape for `tinytroupe explain`."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import orjson

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.runs.divergence import (
    Divergence,
    cut_difference,
    find_first,
    read_divergence,
)
from tinytroupe.llm.runs.recording import Player, Take

logger = logging.getLogger(__name__)

REPORT_FORMAT = 1
_MOST_NAMED = 1000
_KEPT_CHARACTERS_LATER = 2_000
_TAIL_BYTES = 64


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What became of a replay."""

    tape: str
    fingerprint: str
    """Tells whether the tape is still the one that was replayed."""
    state: Literal["running", "ended"]
    """`running`: the process was ended before the replay was."""
    written_at: str
    answered: int
    """Recorded calls that were asked for."""
    differing: int
    """Calls that the tape had no answer for."""
    first: Divergence | None = None
    """The divergence that is no consequence of another."""
    later: tuple[Divergence, ...] = ()
    """The others, by their place on the tape; at most 1,000."""
    lanes: Mapping[str, int] = field(default_factory=dict)
    """Lane → calls of it that the tape had no answer for."""
    left_out: tuple[str, ...] = ()
    """Recorded calls before the first divergence that were skipped."""
    unplayed: int = 0
    """Recorded calls that were not asked for."""
    unplayed_names: tuple[str, ...] = ()
    """At most 1,000 of them."""
    moved: int = 0
    """Calls that were answered from another branch's recording of the same request."""
    moved_names: tuple[str, ...] = ()
    """Lanes of at most 1,000 of them."""
    contested: tuple[str, ...] = ()
    """Branches whose calls cannot be told apart."""
    command: tuple[str, ...] = ()

    @property
    def diverged(self) -> bool:
        """Whether a call had no answer on the tape."""
        return self.differing > 0


def describe_replay(
    player: Player,
    divergences: Sequence[Divergence],
    *,
    ended: bool = True,
    moved: Sequence[str] = (),
    contested: Sequence[str] = (),
) -> ReplayReport:
    """Sums up a replay. Reads the clock."""
    tape = player.recording.path
    first = find_first(divergences)
    later = sorted(
        (one for one in divergences if one is not first), key=lambda one: (one.place, one.arrival)
    )
    unplayed = player.find_unplayed()
    return ReplayReport(
        str(tape.absolute()),
        read_fingerprint(tape),
        "ended" if ended else "running",
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        player.count_played(),
        len(divergences),
        first,
        tuple(_shorten(one) for one in later[:_MOST_NAMED]),
        dict(Counter(one.lane for one in divergences)),
        _name(player, _find_left_out(player, unplayed, first)),
        len(unplayed),
        _name(player, unplayed),
        len(moved),
        tuple(moved[:_MOST_NAMED]),
        tuple(contested),
        tuple(argument[:500] for argument in sys.orig_argv[:100]),
    )


def _shorten(divergence: Divergence) -> Divergence:
    cut = (cut_difference(each, _KEPT_CHARACTERS_LATER) for each in divergence.differences[:20])
    return replace(divergence, differences=tuple(cut))


def _find_left_out(
    player: Player, unplayed: Sequence[Take], first: Divergence | None
) -> list[Take]:
    """Returns the recorded calls that their branch went past without asking for them."""
    if first is None:
        return []
    left = {take.number for take in unplayed}
    reached: dict[str, int] = {}
    for take in player.recording.takes:
        if take.number not in left:
            reached[take.branch] = max(reached.get(take.branch, -1), take.order)
    # A call in place of which another was asked is no call that was left out.
    replaced = {first.nearest}
    return [
        take
        for take in unplayed
        if take.order < reached.get(take.branch, -1)
        and take.number <= first.place
        and player.recording.name(take) not in replaced
    ]


def _name(player: Player, takes: Sequence[Take]) -> tuple[str, ...]:
    return tuple(map(player.recording.name, takes[:_MOST_NAMED]))


def read_fingerprint(tape: Path) -> str:
    """Returns what a tape's size and last bytes tell of it; empty for one that cannot be read."""
    try:
        with tape.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            return f"{size}-{hashlib.sha256(file.read()).hexdigest()[:16]}"
    except OSError:
        return ""


def write_report(report: ReplayReport, path: Path) -> None:
    """Writes a report whole, or not at all.

    Raises:
        OSError: It cannot be written there.
    """
    content = orjson.dumps({"format": REPORT_FORMAT, **asdict(report)}, option=orjson.OPT_INDENT_2)
    handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def publish_report(report: ReplayReport, tape: Path) -> Path | None:
    """Keeps the report of a replay that diverged where `find_report` looks; forgets older ones.

    A failure is logged: it must not cost the simulation's own result.

    Returns:
        Where it is; None where there is nothing to keep, or no place to keep it.
    """
    beside, aside = _list_places(tape)
    for place in (beside, aside):
        with suppress(OSError):
            place.unlink()
    if not report.diverged:
        return None
    for place in (beside, aside):
        try:
            write_report(report, place)
            return place
        except OSError as error:
            failure = error
    logger.warning("The report of the replay of %s cannot be written: %s", tape, failure)
    return None


def read_report(path: Path) -> ReplayReport:
    """Reads a report.

    Raises:
        StoreError: It is none.
    """
    try:
        data = orjson.loads(path.read_bytes())
        if data.pop("format") != REPORT_FORMAT:
            raise StoreError(f"{path} was written by another version; replay the tape again")
        data["first"] = read_divergence(data["first"]) if data["first"] else None
        data["later"] = tuple(read_divergence(each) for each in data["later"])
        for name in ("left_out", "unplayed_names", "moved_names", "contested", "command"):
            data[name] = tuple(data[name])
        return ReplayReport(**data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} cannot be read as the report of a replay: {error}") from None


def find_report(tape: Path) -> Path | None:
    """Returns where the report of a tape's last replay is; None where it is not kept."""
    for place in _list_places(tape):
        with suppress(OSError):
            facts = place.stat()
            # In the folder for temporary files another user could have put one for us to read.
            beside = place.parent == tape.absolute().parent
            if beside or not hasattr(os, "getuid") or facts.st_uid == os.getuid():
                return place
    return None


def _list_places(tape: Path) -> tuple[Path, Path]:
    """Returns the place beside the tape, and the one for tapes in folders that are read-only."""
    whole = tape.absolute()
    name = hashlib.sha256(os.fsencode(whole)).hexdigest()[:16]
    return (
        whole.with_name(f"{whole.name}.replay.json"),
        Path(tempfile.gettempdir()) / f"tinytroupe-{name}.replay.json",
    )
