"""A run that begins without a word in the simulation: by TINYTROUPE_RUN or [Run] in config.ini.

With the variable it begins when the first door of this package is imported,
before the simulation can have spawned anything; with config.ini when the
settings are first read. It ends with the process.
"""

from __future__ import annotations

import atexit
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, cast

from tinytroupe.llm.config.load import load_settings
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.errors import ConfigError, LLMError, ReplayMiss
from tinytroupe.llm.layers.replay import Recorded, Resolver, Session, activate, get_active
from tinytroupe.llm.request import Call
from tinytroupe.llm.rules.lanes import Branch
from tinytroupe.llm.runs.divergence import Divergence
from tinytroupe.llm.runs.explanation import explain_report, wants_colour, write_text
from tinytroupe.llm.runs.plan import RunPlan, parse_plan
from tinytroupe.llm.runs.report import ReplayReport, publish_report, write_report
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.runtime import is_beside_others
from tinytroupe.llm.spawns.callers import leave_home

logger = logging.getLogger("tinytroupe")

RUN_VARIABLE = "TINYTROUPE_RUN"
TAKEN_VARIABLE = "TINYTROUPE_RUN_TAKEN"
"""Set by the process that has the run, for those that it starts: its number and its tape."""

CANNOT_BEGIN = 2
"""The exit code of a command whose run cannot begin."""

_lock = Lock()
_begun = False


def begin_from_environment() -> None:
    """Begins the run that TINYTROUPE_RUN asks for. Reads config.ini.

    Raises:
        LLMError: It cannot begin. Under `tinytroupe record` and the like, the
            command tells the reason and the process ends with code 2.
    """
    text = os.environ.get(RUN_VARIABLE, "")
    try:
        begin_run(load_settings())
    except LLMError as error:
        folder = _find_status_folder(text)
        if folder is None:
            raise
        _write_status(folder, {"state": "failed", "message": error.message})
        sys.exit(CANNOT_BEGIN)


def begin_run(settings: Settings) -> None:
    """Begins the run that the settings ask for, if they do and none has begun.

    Raises:
        ConfigError: RUN cannot be read, or names what does not exist.
        StoreError: A tape cannot be used.
    """
    global _begun
    # The command itself is no simulation; it may be used while the variable is set.
    if settings.run is None or "tinytroupe.cli" in sys.modules:
        return
    with _lock:
        if _begun or get_active() is not None:
            return
        plan = _read_plan(settings)
        taken_by = _find_owner(plan)
        if taken_by is not None and taken_by != os.getpid():
            _stand_apart(plan, taken_by)
        else:
            # A program that replaced itself goes on with the run that it had begun.
            _Activation(plan, settings, again=taken_by is not None).begin()
        _begun = True


def _read_plan(settings: Settings) -> RunPlan:
    try:
        return parse_plan(cast(str, settings.run))
    except ConfigError as error:
        raise ConfigError(f"{settings.origin('run')}: {error.message}") from None


def _find_owner(plan: RunPlan) -> int | None:
    number, _, tape = os.environ.get(TAKEN_VARIABLE, "").partition(":")
    return int(number) if number.isdigit() and tape == plan.tape else None


def _find_status_folder(text: str) -> str | None:
    try:
        return parse_plan(text).status_folder
    except ConfigError:
        return None


class _Activation:
    """A run from its beginning to the end of the process."""

    def __init__(self, plan: RunPlan, settings: Settings, again: bool) -> None:
        self._plan = plan
        self._origin = settings.origin("run")
        self._process = os.getpid()
        self._session: Session | None = None
        self._lock = Lock()
        self._run = make_run(plan, settings, again, self._note_divergence)

    def begin(self) -> None:
        late = is_beside_others()
        self._run.start()
        self._session = get_active()
        if late:
            # Which of the simulation's threads comes first is chance; none of them is the root.
            leave_home()
            logger.warning(
                "The run that %s asks for began in a thread or task that others run beside, too "
                "late to tell their calls apart. Start the simulation with `tinytroupe record`, "
                "`replay` or `fork`, or set %s: then the run begins in time",
                self._origin,
                RUN_VARIABLE,
            )
        os.environ[TAKEN_VARIABLE] = f"{self._process}:{self._plan.tape}"
        atexit.register(self._end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave_to_parent)
        self._tell({"state": "begun"})

    def _note_divergence(self, divergence: Divergence) -> None:
        # A process may be ended without notice, so what is known is written down meanwhile,
        # more and more rarely: its cost grows with the number of divergences.
        number = divergence.arrival + 1
        if number & (number - 1):
            return
        with self._lock:
            report = self._run.describe()
            publish_report(report, self._run.path)
            self._tell_report(report)

    def _end(self) -> None:
        if os.getpid() != self._process:
            return
        try:
            # What the interpreter has reported by now is what broke the simulation off.
            self._run.stop(getattr(sys, "last_value", None))
        except ReplayMiss:
            report = self._run.report
            if self._plan.status_folder is None and report is not None:
                write_text(explain_report(report, wants_colour(sys.stderr)), sys.stderr)
        if self._run.report is not None:
            self._tell_report(self._run.report)
        else:
            self._tell({"state": "ended"})

    def _leave_to_parent(self) -> None:
        if self._session is not None and get_active() is self._session:
            _stand_apart(self._plan, self._process)

    def _tell(self, status: dict[str, Any]) -> None:
        if self._plan.status_folder is not None:
            _write_status(self._plan.status_folder, status)

    def _tell_report(self, report: ReplayReport) -> None:
        if self._plan.status_folder is None:
            return
        try:
            write_report(report, _name_status(self._plan.status_folder))
        except OSError as error:
            _warn_untold(error)


def make_run(
    plan: RunPlan,
    settings: Settings,
    again: bool = False,
    on_divergence: Callable[[Divergence], None] | None = None,
) -> Run:
    """Returns the run of a plan, not begun.

    Args:
        plan: What it is to do.
        settings: Name the resolver and how draws are shared; told in the tape's header.
        again: Whether this process began it before, so that a recording goes on.
        on_divergence: See `Run.replay`.
    """
    resolver = _LazyResolver(settings.resolver) if settings.resolver else None
    path = os.path.expanduser(plan.path)
    if plan.mode == "replay":
        return Run.replay(
            path,
            latency=plan.latency,
            resolver=resolver,
            substitute=plan.substitute,
            on_divergence=on_divergence,
        )
    shown = {name: settings.show(name) for name in SETTINGS if name != "run"}
    if plan.mode == "fork" and not again:
        assert plan.to is not None
        return Run.fork(
            path,
            os.path.expanduser(plan.to),
            at=plan.point,
            replace=plan.replace,
            samples=settings.cache_samples,
            resolver=resolver,
            settings=shown,
        )
    return Run.record(
        plan.tape,
        resume=again or plan.mode == "resume",
        samples=settings.cache_samples,
        resolver=resolver,
        settings=shown,
    )


class _LazyResolver:
    """A resolver by its dotted path; imported when first needed, as it may import this package."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._resolve: Resolver | None = None

    def __call__(self, call: Call) -> str | None:
        if self._resolve is None:
            self._resolve = self._load()
        return self._resolve(call)

    def _load(self) -> Resolver:
        module, _, name = self._path.replace(":", ".").rpartition(".")
        try:
            resolve = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"RESOLVER is {self._path}, which cannot be imported ({error}); it must be a "
                "function's dotted path, as in my_simulation.agents.name_agent"
            ) from error
        if not callable(resolve):
            raise ConfigError(f"RESOLVER is {self._path}, which is no function")
        return cast(Resolver, resolve)


class _Apart:
    """What a child process of a run answers its calls from: nothing."""

    def __init__(self, plan: RunPlan, owner: int) -> None:
        self._plan = plan
        self._owner = owner
        self._warned = False

    def find(self, call: Call) -> Recorded | None:
        said = (
            f"this process ({os.getpid()}) was started by process {self._owner}, which has the run "
            f"of the tape {self._plan.tape}; calls of this process are not part of that run"
        )
        if self._plan.mode == "replay":
            raise ReplayMiss(f"{said}, and a replay does not go live", model=call.request.model)
        if not self._warned:
            self._warned = True
            logger.warning("%s: they go live and are not recorded", said)
        return None


def _stand_apart(plan: RunPlan, owner: int) -> None:
    activate(Session(Branch(None, "", ""), source=_Apart(plan, owner), samples="shared"))


def _name_status(folder: str) -> Path:
    return Path(folder) / f"{os.getpid()}.json"


def _write_status(folder: str, status: dict[str, Any]) -> None:
    try:
        _name_status(folder).write_text(json.dumps(status), encoding="utf-8")
    except OSError as error:
        _warn_untold(error)


def _warn_untold(error: OSError) -> None:
    # The command ended before a process that it had left in the background.
    logger.warning("The command that started this run cannot be told of it: %s", error)
