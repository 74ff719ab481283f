"""A focus group: personas hear a product brief, react to each other and give a verdict.

    python examples/focus_group.py --personas 4 --workers 8
    python examples/focus_group.py --async --output transcript.md

In each round all personas speak at the same time, each having heard everything
that was said in the rounds before. So the transcript does not depend on who
was answered first, and a second run is answered from the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from tinytroupe.llm import LLMError, ParseError, Totals
from tinytroupe.openai_utils import LLMCall, client

HERE = Path(__file__).resolve().parent
MAX_SAMPLES = 3
"""How often a verdict is asked for that does not have its shape."""


class Verdict(BaseModel):
    """What a persona says in the end, and the shape that the model is asked for."""

    score: int = Field(ge=1, le=10)
    reason: str
    change: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What one persona said in one round."""

    round: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """What one persona is asked in one round."""

    round: int
    task: str
    """`first`, `reaction` or `verdict`."""
    persona: Mapping[str, Any]
    heard: Sequence[Statement]
    """Everything that was said in the rounds before."""
    brief: str
    size: int

    def prepare(self, sample: int) -> tuple[LLMCall, dict[str, Any]]:
        """Returns the call and what its templates are rendered with."""
        call = LLMCall(
            "focus_group_persona.mustache",
            "focus_group_question.jinja",
            lane=self.persona["name"],
            purpose=self.task,
            sample=sample,
            response_format=Verdict if self.task == "verdict" else None,
        )
        values = {
            "persona": self.persona,
            "name": self.persona["name"],
            "round": self.round,
            "task": self.task,
            "heard": self.heard,
            "brief": self.brief,
            "size": self.size,
        }
        return call, values

    def read(self, text: str | None) -> Statement:
        """Returns what was said; a verdict is told in words."""
        if text is None:
            # With ON_FAILURE=none a failed call was logged and returned nothing.
            raise LLMError(f"{self.persona['name']} gave no answer in round {self.round}.")
        if self.task == "verdict":
            try:
                verdict = Verdict.model_validate_json(text)
            except ValidationError as error:
                raise ParseError(f"{self.persona['name']} gave no verdict: {text!r}") from error
            text = (
                f"**{verdict.score} of 10.** {verdict.reason} What would matter: {verdict.change}"
            )
        return Statement(self.round, self.persona["name"], text)


@dataclass(frozen=True, slots=True)
class FocusGroup:
    """Who takes part, what about, and for how many rounds."""

    personas: Sequence[Mapping[str, Any]]
    brief: str
    rounds: int

    def choose_task(self, number: int) -> str:
        if number == self.rounds:
            return "verdict"
        return "first" if number == 1 else "reaction"

    def pose(self, number: int, heard: Sequence[Statement]) -> list[Question]:
        """Returns the questions of a round, one for each persona."""
        task, size = self.choose_task(number), len(self.personas)
        return [
            Question(number, task, persona, tuple(heard), self.brief, size)
            for persona in self.personas
        ]


Tick = Callable[[], None]
"""Is called whenever somebody has spoken."""


def hold_in_threads(
    group: FocusGroup, workers: int, tick: Tick, pause_seconds: float = 0.0
) -> list[Statement]:
    """Holds the focus group; at most `workers` personas think at the same time.

    Each pauses before answering, for up to `pause_seconds`, drawn by chance.
    """

    def ask(question: Question, sample: int = 0) -> Statement:
        time.sleep(random.uniform(0, pause_seconds))
        call, values = question.prepare(sample)
        try:
            statement = question.read(call.call(**values))
        except ParseError:
            if sample + 1 == MAX_SAMPLES:
                raise
            return ask(question, sample + 1)
        tick()
        return statement

    heard: list[Statement] = []
    with ThreadPoolExecutor(workers) as pool:
        for number in range(1, group.rounds + 1):
            heard += pool.map(ask, group.pose(number, heard))
    return heard


async def hold_on_loop(
    group: FocusGroup, workers: int, tick: Tick, pause_seconds: float = 0.0
) -> list[Statement]:
    """Does what `hold_in_threads` does, on an event loop."""
    gate = asyncio.Semaphore(workers)

    async def ask(question: Question, sample: int = 0) -> Statement:
        await asyncio.sleep(random.uniform(0, pause_seconds))
        call, values = question.prepare(sample)
        try:
            async with gate:
                statement = question.read(await call.acall(**values))
        except ParseError:
            if sample + 1 == MAX_SAMPLES:
                raise
            return await ask(question, sample + 1)
        tick()
        return statement

    heard: list[Statement] = []
    for number in range(1, group.rounds + 1):
        questions = group.pose(number, heard)
        # Nobody is interrupted because somebody else failed: what they say is paid for.
        outcomes = await asyncio.gather(*map(ask, questions), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            heard.append(outcome)
    return heard


def write_transcript(group: FocusGroup, statements: Sequence[Statement]) -> str:
    """Returns the transcript as Markdown. Nothing in it depends on time or order of arrival."""
    titles = {"first": "first reactions", "reaction": "reactions", "verdict": "verdicts"}
    lines = ["# Focus group", "", group.brief.strip(), "", "## Who takes part", ""]
    for persona in group.personas:
        lines.append(f"- **{persona['name']}**, {persona['age']}: {persona['work']}")
    for number in range(1, group.rounds + 1):
        lines += ["", f"## Round {number}: {titles[group.choose_task(number)]}"]
        for statement in statements:
            if statement.round == number:
                lines += ["", f"**{statement.name}:** {statement.text}"]
    return "\n".join(lines) + "\n"


def write_table(totals: Mapping[str, Totals]) -> str:
    """Returns what each persona's calls took."""
    width = max(map(len, [*totals, "persona"]))
    rows = [f"{'persona':{width}}  calls  hits  tokens in  tokens out  seconds"]
    everyone = sum(totals.values(), Totals())
    for name, one in [*totals.items(), ("all", everyone)]:
        rows.append(
            f"{name:{width}}  {one.calls:5}  {one.hits:4}  {one.usage.input_tokens:9,}"
            f"  {one.usage.output_tokens:10,}  {one.seconds:7.2f}"
        )
    return "\n".join(rows)


def write_report(totals: Mapping[str, Totals], wall_seconds: float) -> str:
    """Returns the same for programs, as JSON."""
    everyone = sum(totals.values(), Totals())
    personas = {name: asdict(one) for name, one in totals.items()}
    report = {"wall_seconds": wall_seconds, "totals": asdict(everyone), "personas": personas}
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def show_progress(group: FocusGroup) -> Iterator[Tick]:
    """Shows a bar where standard error is a terminal and rich is installed, else a line a round."""
    size, spoken = len(group.personas), 0
    total = size * group.rounds
    if sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import Progress
        except ImportError:
            pass
        else:
            with Progress(console=Console(stderr=True), transient=True) as progress:
                bar = progress.add_task(f"{size} personas, {group.rounds} rounds", total=total)
                yield lambda: progress.advance(bar)
            return

    def tick() -> None:
        nonlocal spoken
        spoken += 1
        if spoken % size == 0:
            print(f"Round {spoken // size} of {group.rounds} is over.", file=sys.stderr)

    yield tick


def read_personas(folder: Path, count: int | None) -> list[dict[str, Any]]:
    """Reads the first personas of a folder, by file name.

    Raises:
        SystemExit: There are not so many, or a file does not hold a persona.
    """
    files = sorted(folder.glob("*.json"))
    if not files or (count or 0) > len(files):
        raise SystemExit(f"{folder} holds {len(files)} personas")
    personas = []
    for file in files[:count]:
        try:
            persona = json.loads(file.read_text(encoding="utf-8"))
            personas.append({**persona, "name": persona["name"]})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SystemExit(f"{file} is not a persona: {error!r}") from error
    return personas


def read_brief(file: Path) -> str:
    """Reads what the focus group is about.

    Raises:
        SystemExit: It cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise SystemExit(f"The brief cannot be read: {error}") from error


def check_folders(*files: Path | None) -> None:
    """Raises SystemExit where a result has no folder to go to, before anything is paid for."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise SystemExit(f"There is no folder {file.parent} for {file.name}")


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError("must be at least 1")
        return int(text)

    parser = argparse.ArgumentParser(description="Holds a focus group of personas on a product.")
    add = parser.add_argument
    add("--personas", type=positive, metavar="N", help="how many take part (default: all)")
    add("--folder", type=Path, default=HERE / "personas", help="where the personas are")
    add("--brief", type=Path, default=HERE / "product_brief.md", help="what it is about")
    add("--rounds", type=positive, default=3, metavar="N", help="the last one is the verdict")
    add("--workers", type=positive, default=8, metavar="N", help="calls at the same time")
    add("--async", action="store_true", dest="on_loop", help="one event loop, not threads")
    add("--pause", type=float, default=0.0, metavar="SECONDS", help="before each answer, at most")
    add("--config", type=Path, metavar="FILE", help="a config.ini other than the one here")
    add("--output", type=Path, metavar="FILE", help="where to write the transcript, too")
    add("--report", type=Path, metavar="FILE", help="where to write the table as JSON")
    add("--quiet", action="store_true", help="do not print the transcript")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; 0 when everybody has spoken."""
    chosen = read_arguments(arguments)
    if chosen.config:
        os.environ["TINYTROUPE_CONFIG"] = str(chosen.config.resolve())
    personas = read_personas(chosen.folder, chosen.personas)
    group = FocusGroup(personas, read_brief(chosen.brief), chosen.rounds)
    check_folders(chosen.output, chosen.report)
    started = time.monotonic()
    try:
        with show_progress(group) as tick:
            if chosen.on_loop:
                statements = asyncio.run(hold_on_loop(group, chosen.workers, tick, chosen.pause))
            else:
                statements = hold_in_threads(group, chosen.workers, tick, chosen.pause)
        totals = client().meter.summarize("lane")
    except (LLMError, KeyboardInterrupt) as error:
        print(f"The focus group ended early. {error}", file=sys.stderr)
        print("Every answer so far is kept: run it again to go on from there.", file=sys.stderr)
        return 1 if isinstance(error, LLMError) else 130
    transcript = write_transcript(group, statements)
    if chosen.output:
        chosen.output.write_text(transcript, encoding="utf-8")
    if chosen.report:
        report = write_report(totals, time.monotonic() - started)
        chosen.report.write_text(report, encoding="utf-8")
    if not chosen.quiet:
        print(transcript)
    print(write_table({name: totals[name] for name in (p["name"] for p in personas)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
