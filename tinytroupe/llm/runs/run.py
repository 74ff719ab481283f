"""Record a simulation, replay it exactly, resume it, or go on differently from any point."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from tinytroupe.llm.errors import ConfigError, ReplayMiss
from tinytroupe.llm.layers.replay import Resolver, Samples, Session, activate, get_active
from tinytroupe.llm.request import Call
from tinytroupe.llm.rules.lanes import Branch, current_branch
from tinytroupe.llm.runs.divergence import Divergence, describe_divergence, find_first
from tinytroupe.llm.runs.explanation import (
    explain_report,
    make_error,
    say_contested,
    wants_colour,
)
from tinytroupe.llm.runs.points import Point, find_point, replace_answers
from tinytroupe.llm.runs.provenance import describe_run
from tinytroupe.llm.runs.recording import Player, Recording, Take
from tinytroupe.llm.runs.report import ReplayReport, describe_replay, publish_report
from tinytroupe.llm.runs.resuming import read_player
from tinytroupe.llm.spawns.installed import install, remove
from tinytroupe.llm.store.tape import TapeWriter

logger = logging.getLogger(__name__)

Mode: TypeAlias = Literal["record", "replay", "fork"]


class Run:
    """One run of a simulation, while it is active in this process.

    Make one with `Run.record`, `Run.replay` or `Run.fork`, and use it in a
    `with` or `async with` block, or between `start` and `stop`. One run at a
    time is active; every client of the process takes part in it.

    Attributes:
        divergences: Calls that a replay had no answer for, as they came.
        moves: Lanes of calls that were answered from another branch's recording, as they came;
            only noted in a replay that substitutes.
    """

    def __init__(
        self,
        mode: Mode,
        path: Path,
        *,
        open_player: Callable[[Run], Player | None],
        open_writer: Callable[[], TapeWriter | None],
        samples: Samples = "lane",
        resolver: Resolver | None = None,
        latency: bool = False,
        on_divergence: Callable[[Divergence], None] | None = None,
    ) -> None:
        self.mode = mode
        self.path = path
        self.divergences: list[Divergence] = []
        self.moves: list[str] = []
        self.report: ReplayReport | None = None
        """What became of a replay; set when it is stopped."""
        self._arrivals = itertools.count()
        self._on_divergence = on_divergence
        self._open_player = open_player
        self._open_writer = open_writer
        self._samples: Samples = samples
        self._resolver = resolver
        self._latency = latency
        self._player: Player | None = None
        self._writer: TapeWriter | None = None
        self._session: Session | None = None
        self._outer: Branch | None = None

    @classmethod
    def record(
        cls,
        path: str | Path,
        *,
        resume: bool = False,
        samples: Samples = "lane",
        resolver: Resolver | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Records every call onto a new tape.

        Args:
            path: The tape.
            resume: Go on with a tape that was cut off: what it holds is
                replayed, and what follows is live and recorded.
            samples: `lane`: agents that ask the same draw independently;
                `shared`: one answer for all.
            resolver: Names the agent that makes a call, where no lane is open.
            settings: What the header tells of the settings, secrets removed.

        Raises:
            StoreError: On `start`: the tape exists and is not resumed, cannot
                be written, or another process records into it.
        """
        tape = Path(path)

        return cls(
            "record",
            tape,
            open_player=lambda run: read_player(tape) if resume else None,
            open_writer=lambda: TapeWriter(tape, describe_run("record", settings), resume=resume),
            samples=samples,
            resolver=resolver,
        )

    @classmethod
    def replay(
        cls,
        path: str | Path,
        *,
        latency: bool = False,
        resolver: Resolver | None = None,
        substitute: bool = False,
        on_divergence: Callable[[Divergence], None] | None = None,
    ) -> Run:
        """Answers every call from the tape; opens no socket, needs no key.

        Args:
            path: The tape.
            latency: Let each answer take as long as it took when it was recorded.
            resolver: Names the agent that makes a call, where no lane is open.
            substitute: Answer a call that was not recorded with the recorded
                call in its place, to find all that differs in one replay.
            on_divergence: Is told every call that was not recorded, on its own thread.

        Raises:
            StoreError: On `start`: it is no tape, or not one that can be trusted.
            ReplayMiss: From a call that was not recorded, and from `stop` where
                there were such calls. The latter names the first of them, and is
                also kept beside the tape for `tinytroupe explain`.
        """
        tape = Path(path)

        def open_player(run: Run) -> Player:
            return Player(
                Recording(tape),
                on_miss=run._note_miss,
                substitute=substitute,
                on_move=run._note_move if substitute else None,
            )

        return cls(
            "replay",
            tape,
            open_player=open_player,
            open_writer=lambda: None,
            resolver=resolver,
            latency=latency,
            on_divergence=on_divergence,
        )

    @classmethod
    def fork(
        cls,
        path: str | Path,
        to: str | Path,
        *,
        at: Point | None = None,
        replace: Mapping[str, str] | None = None,
        samples: Samples = "lane",
        resolver: Resolver | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Answers from one tape up to a point, goes live after it, and records all on another.

        Args:
            path: The tape to begin with.
            to: The new tape.
            at: Where to leave it: `lisa:3` (that lane's fourth call, counted
                from 0), a lane's name (all its calls), a line of the tape (an
                int), or a function of a `Take`. None: where calls differ.
            replace: A call (`lisa:3`) → the text that stands for its answer.
            samples: See `record`.
            resolver: Names the agent that makes a call, where no lane is open.
            settings: What the header tells of the settings, secrets removed.

        Raises:
            StoreError: On `start`: one of the tapes cannot be used.
            ConfigError: On `start`: the point or the replaced call does not exist.
        """
        source, target = Path(path), Path(to)

        def open_player(run: Run) -> Player:
            recording = Recording(source)
            return Player(
                recording,
                may_go_live=True,
                goes_live=find_point(recording, at) if at is not None else None,
                replaced=replace_answers(recording, replace or {}),
            )

        def open_writer() -> TapeWriter:
            origin = {
                "path": str(source),
                "at": {"function": _name_function(at)} if callable(at) else at,
                "replaced": dict(replace or {}),
            }
            return TapeWriter(target, {**describe_run("fork", settings), "forked_from": origin})

        return cls(
            "fork",
            target,
            open_player=open_player,
            open_writer=open_writer,
            samples=samples,
            resolver=resolver,
        )

    def start(self) -> Run:
        """Makes this run the active one. Opens its tapes.

        Raises:
            ConfigError: Another run is active.
            StoreError: A tape cannot be used.
        """
        if get_active() is not None:
            raise ConfigError("another run is active in this process; stop it first")
        self._player = self._open_player(self)
        self._writer = self._open_writer()
        outer = current_branch.get()
        self._outer = outer if outer is not None and outer.name else None
        root = Branch(None, "", "")
        self._session = Session(
            root,
            source=self._player,
            sink=self._writer,
            samples=self._samples,
            resolver=self._resolver,
            latency=self._latency,
            hermetic=self.mode == "replay",
            draws=self._writer.draws if self._writer is not None else "",
        )
        current_branch.set(root.enter(self._outer.name) if self._outer is not None else root)
        activate(self._session)
        install(root)
        return self

    def stop(self, error: BaseException | None = None) -> None:
        """Ends the run: nothing is patched any more, and the tape is closed.

        Args:
            error: What broke the simulation off; told on the tape. None: it came to its end.

        Raises:
            ReplayMiss: Calls of a replay had no answer: it names the first of them.
        """
        self._end(error)
        if self.report is not None and self.report.diverged:
            raise self._sum_up(self.report)

    def _end(self, error: BaseException | None = None) -> None:
        if self._session is None:
            return
        remove()
        activate(None)
        current_branch.set(self._outer)
        session, self._session = self._session, None
        contested = sorted(session.contested.copy())
        if self._writer is not None:
            failed = type(error).__name__ if error is not None else None
            self._writer.append({"event": "ended", "error": failed})
            self._writer.close()
        if contested:
            logger.warning("%s", say_contested(contested))
        if self.mode == "replay":
            self.report = self.describe(contested)
            publish_report(self.report, self.path)
            if self.report.unplayed and not self.report.diverged:
                names = ", ".join(self.report.unplayed_names[:5])
                more = ", …" if self.report.unplayed > 5 else ""
                count = self.report.unplayed
                logger.warning("%d recorded calls were not asked for: %s%s", count, names, more)

    def describe(self, contested: Sequence[str] = ()) -> ReplayReport:
        """Returns what became of a replay so far."""
        assert self._player is not None
        return describe_replay(
            self._player,
            list(self.divergences),
            ended=self._session is None,
            moved=self.moves,
            contested=contested,
        )

    def find_unplayed(self) -> list[Take]:
        """Returns the recorded calls that this run did not ask for."""
        return self._player.find_unplayed() if self._player is not None else []

    @property
    def first_divergence(self) -> Divergence | None:
        """The one that is no consequence of another; see `find_first`."""
        return find_first(list(self.divergences))

    def _note_miss(self, call: Call, reason: str) -> ReplayMiss:
        assert self._player is not None
        # Numbered before the error is raised: a consequence has a higher number than its cause.
        arrival = next(self._arrivals)
        divergence = describe_divergence(self._player, call, reason, arrival)
        self.divergences.append(divergence)
        if self._on_divergence is not None:
            self._on_divergence(divergence)
        return make_error(divergence, str(self.path), wants_colour(sys.stderr))

    def _note_move(self, call: Call, take: Take) -> None:
        assert call.position is not None
        assert self._player is not None
        if not (call.position.ambiguous or self._player.recording.is_ambiguous(take)):
            self.moves.append(call.position.lane)

    def _sum_up(self, report: ReplayReport) -> ReplayMiss:
        return ReplayMiss(explain_report(report, wants_colour(sys.stderr)))

    def _finish(self, error: BaseException | None) -> None:
        self._end(error)
        report = self.report
        if report is None or not report.diverged:
            return
        if error is None or isinstance(error, ReplayMiss):
            # The error that ended the simulation may tell a consequence; this tells the cause.
            raise self._sum_up(report) from error
        logger.error("%s", explain_report(report))

    def __enter__(self) -> Run:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish(error)

    async def __aenter__(self) -> Run:
        return self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish(error)


def _name_function(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))
