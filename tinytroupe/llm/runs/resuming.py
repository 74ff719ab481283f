"""How a run that was cut off goes on."""

from __future__ import annotations

import logging
from pathlib import Path

from tinytroupe.llm.layers.replay import Recorded
from tinytroupe.llm.request import Call
from tinytroupe.llm.runs.points import find_point, replace_answers
from tinytroupe.llm.runs.recording import Player, Recording

logger = logging.getLogger(__name__)


class ResumedPlayer(Player):
    """Answers from the tape that a run goes on with; what is not there goes live.

    Args:
        recording: The tape.
        origin: For a fork: answers, up to its point, from the tape that it came from.
    """

    def __init__(self, recording: Recording, origin: Player | None = None) -> None:
        # What failed last in its branch may be what ended the run; it is tried again.
        super().__init__(recording, may_go_live=True, goes_live=recording.is_last_failure)
        self._origin = origin

    def find(self, call: Call) -> Recorded | None:
        """Returns what answers this call. See `Source`."""
        # Asked in any case, so that there it counts as played.
        behind = self._origin.find(call) if self._origin is not None else None
        found = super().find(call)
        return behind if found is None else found._replace(own=True)


def read_player(tape: Path) -> ResumedPlayer | None:
    """Returns what answers a run that goes on with a tape; None where it begins.

    Raises:
        StoreError: It is no tape, or not one that can be trusted.
    """
    if not tape.exists() or not tape.stat().st_size:
        return None
    recording = Recording(tape)
    return ResumedPlayer(recording, _read_origin(recording))


def _read_origin(recording: Recording) -> Player | None:
    forked = recording.header.get("forked_from")
    if forked is None:
        return None
    path, at = Path(forked["path"]), forked["at"]
    if not path.exists() or isinstance(at, dict):
        reason = "is not there" if not path.exists() else "was left where a function said"
        logger.warning(
            "The tape %s is a fork of %s, which %s: what it had not yet answered is asked live",
            recording.path,
            path,
            reason,
        )
        return None
    origin = Recording(path)
    return Player(
        origin,
        may_go_live=True,
        goes_live=find_point(origin, at) if at is not None else None,
        replaced=replace_answers(origin, forked["replaced"]),
    )
