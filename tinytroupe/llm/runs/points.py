"""Points of a run, as people name them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.runs.recording import GoesLive, Recording, Take

Point: TypeAlias = "str | int | GoesLive"
"""`lisa:3`, `lisa`, a line of the tape, or a function that says of a take whether it is past it."""


def find_point(recording: Recording, at: Point) -> GoesLive:
    """Returns what tells of each recorded call whether it is past a point.

    A lane's n-th call and a line of the tape are moments: all that ended from
    then on is past them. A lane's name is that lane, and those below it.

    Raises:
        ConfigError: There is no such point on the tape.
    """
    if callable(at):
        return at
    if isinstance(at, int):
        numbers = [take.number for take in recording.takes]
        if not numbers or not 1 <= at <= numbers[-1]:
            raise ConfigError(
                f"the tape {recording.path} has no line {at}; its calls are on lines "
                f"{numbers[0] if numbers else 0} to {numbers[-1] if numbers else 0}"
            )
        line = at
        return lambda take: take.number >= line
    if any(_is_in_lane(take, at) for take in recording.takes):
        name = at
        return lambda take: _is_in_lane(take, name)
    if ":" not in at:
        raise ConfigError(_say_unknown_lane(recording, at))
    line = find_take(recording, at).number
    return lambda take: take.number >= line


def find_take(recording: Recording, name: str) -> Take:
    """Returns the call that `lisa:3` names: the lane's fourth, counted from 0.

    Raises:
        ConfigError: The tape has no such call.
    """
    lane, _, index = name.rpartition(":")
    if not index.isdecimal():
        raise ConfigError(f"{name!r} names no call; a call is a lane and a number, as in lisa:3")
    takes = recording.lanes.get(lane, [])
    if not takes:
        raise ConfigError(_say_unknown_lane(recording, lane))
    if int(index) >= len(takes):
        raise ConfigError(
            f"lane {lane} of the tape {recording.path} has {len(takes)} calls, numbered from 0; "
            f"there is no {name}"
        )
    return takes[int(index)]


def replace_answers(recording: Recording, replaced: Mapping[str, str]) -> dict[int, dict[str, Any]]:
    """Returns the events that say something else than was recorded, by take number.

    Raises:
        ConfigError: The tape has no such call, or it has no text to replace.
    """
    events = {}
    for name, text in replaced.items():
        take = find_take(recording, name)
        event = copy.deepcopy(recording.read(take))
        if event.get("kind") != "chat" or "response" not in event:
            raise ConfigError(f"call {name} has no text that could be replaced")
        choice = event["response"]["choices"][0]
        choice["finish_reason"] = "stop"
        choice["message"] = {"role": "assistant", "content": text}
        events[take.number] = {**event, "replaced": True}
    return events


def _is_in_lane(take: Take, name: str) -> bool:
    return take.lane == name or take.lane.startswith(f"{name.rstrip('/')}/")


def _say_unknown_lane(recording: Recording, name: str) -> str:
    lanes = sorted({take.lane for take in recording.takes})
    nearest = get_close_matches(name, lanes, 1)
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    return f"the tape {recording.path} has no lane {name!r}{hint}"
