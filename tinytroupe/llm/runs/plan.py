"""A run as it is asked for from outside: by a variable, a setting or a command."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, cast, get_args

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.runs.points import Point

PlanMode: TypeAlias = Literal["record", "resume", "replay", "fork"]

_MODES: tuple[PlanMode, ...] = get_args(PlanMode)
_FORMS = "record:PATH, resume:PATH, replay:PATH or fork:PATH:to=NEW"
_OPTION = re.compile(r":(to|at|replace)=")


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is to do. Written as text for `TINYTROUPE_RUN`, and read from it."""

    mode: PlanMode
    path: str
    """The tape to record, resume, replay or begin with."""
    to: str | None = None
    """The new tape of a fork."""
    at: str | None = None
    """Where a fork leaves the tape: `lisa:3`, a lane's name, or the number of a line."""
    replace: Mapping[str, str] = field(default_factory=dict)
    """Recorded calls whose answer is another one in a fork: `lisa:3` → the text."""
    latency: bool = False
    """Whether replayed answers take as long as the recorded ones."""
    substitute: bool = False
    """Whether a replay goes on after a divergence with the recorded answer."""
    status_folder: str | None = None
    """Where the process says what became of the run; None: it tells people itself."""

    @property
    def point(self) -> Point | None:
        """`at` as `Run.fork` takes it."""
        return int(self.at) if self.at is not None and self.at.isdigit() else self.at

    @property
    def tape(self) -> str:
        """The tape that is written, or replayed, as an absolute path."""
        return os.path.abspath(os.path.expanduser(self.to or self.path))

    def report_to(self, folder: str) -> RunPlan:
        """Returns the same plan, of which the process says in a folder what became of it."""
        return replace(self, status_folder=folder)

    def to_text(self) -> str:
        """Writes the plan as one line of JSON, with absolute paths."""
        facts = asdict(self)
        for name in ("path", "to"):
            if facts[name] is not None:
                facts[name] = os.path.abspath(os.path.expanduser(facts[name]))
        return json.dumps(facts)


def parse_plan(text: str) -> RunPlan:
    """Reads `record:PATH`, `resume:PATH`, `replay:PATH`, `fork:PATH:to=NEW…`, or JSON.

    A fork may go on with `:at=POINT` and any number of `:replace=lisa:3=TEXT`.

    Raises:
        ConfigError: It is none of these.
    """
    if text.startswith("{"):
        return _read_json(text)
    mode, colon, rest = text.partition(":")
    if not colon or mode not in _MODES:
        near = get_close_matches(mode, _MODES, 1) if colon else []
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"RUN is {text!r}; it must be {_FORMS}{hint}")
    path, *options = _OPTION.split(rest) if mode == "fork" else [rest]
    facts: dict[str, Any] = {"mode": mode, "path": path, "replace": {}}
    for name, value in zip(options[::2], options[1::2], strict=True):
        if name == "replace":
            call, answer = split_replacement(value)
            facts["replace"][call] = answer
        else:
            facts[name] = value
    return _check(RunPlan(**facts))


def split_replacement(text: str) -> tuple[str, str]:
    """Splits `lisa:3=TEXT` into the call and the text.

    Raises:
        ConfigError: It has no `=`.
    """
    call, equals, answer = text.partition("=")
    if not equals or not call:
        raise ConfigError(f"{text!r} replaces nothing; write a call and its text, as in lisa:3=No.")
    return call, answer


def _read_json(text: str) -> RunPlan:
    try:
        return _check(RunPlan(**json.loads(text)))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"RUN cannot be read as JSON: {error}; it may be {_FORMS}") from None


def _check(plan: RunPlan) -> RunPlan:
    if cast(str, plan.mode) not in _MODES:
        raise ConfigError(f"RUN asks for {plan.mode!r}; it must be {_FORMS}")
    if not plan.path:
        raise ConfigError(f"RUN names no tape; it must be {_FORMS}")
    if plan.mode == "fork" and not plan.to:
        raise ConfigError("a fork needs a tape of its own, as in RUN=fork:old.tape:to=new.tape")
    return plan
