"""The focus group of the examples: who hears what, what repeats, what is paid for."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import RehearseServer, find_dead_url

from tinytroupe.llm.talk.templates import Templates, compose_messages

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PERSONAS = sorted((EXAMPLES / "personas").glob("*.json"))


def run(program: str, *options: object, folder: Path, **variables: str) -> Any:
    """Runs an example as a process of its own, rehearsed in the process unless told otherwise."""
    settings = {
        "TINYTROUPE_API_TYPE": "rehearsal",
        "TINYTROUPE_CACHE_FILE_NAME": str(folder / "cache"),
        **variables,
    }
    return subprocess.run(
        [sys.executable, str(EXAMPLES / program), *map(str, options)],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def hold(folder: Path, *options: object, **variables: str) -> tuple[str, dict[str, Any]]:
    """Holds a focus group and returns its transcript and its report."""
    transcript, report = folder / "transcript.md", folder / "report.json"
    written = ("--output", transcript, "--report", report)
    ended = run("focus_group.py", *written, *options, folder=folder, **variables)
    assert ended.returncode == 0, ended.stderr
    return transcript.read_text(encoding="utf-8"), json.loads(report.read_text(encoding="utf-8"))


@pytest.fixture
def server() -> Iterator[RehearseServer]:
    """An endpoint without a model, over real HTTP."""
    with RehearseServer() as server:
        yield server


def load_example(name: str = "focus_group") -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_threads_and_event_loop_say_the_same(tmp_path: Path) -> None:
    """Neither the colour nor the number of workers changes a word or a call."""
    seen = []
    for name, options in {
        "one": ("--workers", 1),
        "many": ("--workers", 8),
        "loop": ("--async",),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        transcript, report = hold(folder, "--personas", 4, *options)
        assert report["totals"]["live_calls"] == 12
        seen.append(transcript)
    assert seen[0] == seen[1] == seen[2]


def test_second_run_buys_nothing(tmp_path: Path) -> None:
    """The second run is the same, word for word, and every call is a hit."""
    first, bought = hold(tmp_path, "--personas", 3)
    second, stored = hold(tmp_path, "--personas", 3)
    assert second == first
    assert (bought["totals"]["hits"], stored["totals"]["hits"]) == (0, 9)
    assert stored["totals"]["usage"] == bought["totals"]["usage"]


def test_second_run_over_http_needs_no_endpoint(tmp_path: Path, server: RehearseServer) -> None:
    """What was asked over HTTP is answered from the disk when the endpoint is gone."""
    variables = {"TINYTROUPE_API_TYPE": "openai", "TINYTROUPE_BASE_URL": server.base_url}
    first, bought = hold(tmp_path, "--personas", 3, **variables)
    assert bought["totals"]["live_calls"] == server.count_requests() == 9
    server.stop()
    second, stored = hold(tmp_path, "--personas", 3, **variables)
    assert second == first
    assert stored["totals"]["hits"] == 9


def test_a_dead_endpoint_is_said_and_costs_no_answer(
    tmp_path: Path, server: RehearseServer
) -> None:
    """A run that loses its endpoint ends with one sentence, and the next one goes on from there."""
    variables = {
        "TINYTROUPE_API_TYPE": "openai",
        "TINYTROUPE_BASE_URL": server.base_url,
        "TINYTROUPE_MAX_ATTEMPTS": "1",
    }
    hold(tmp_path, "--personas", 2, "--rounds", 2, **variables)
    broken = {**variables, "TINYTROUPE_BASE_URL": find_dead_url() + "/v1"}
    ended = run("focus_group.py", "--personas", 2, "--rounds", 3, folder=tmp_path, **broken)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "127.0.0.1" in ended.stderr
    assert "run it again" in ended.stderr
    _, report = hold(tmp_path, "--personas", 2, "--rounds", 3, **variables)
    assert (report["totals"]["hits"], report["totals"]["live_calls"]) == (2, 4)


def test_an_interrupted_run_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    """After Ctrl-C half-way, the next run buys exactly what is missing."""
    with RehearseServer("--latency", "0.2") as server:
        settings = {
            "TINYTROUPE_API_TYPE": "openai",
            "TINYTROUPE_BASE_URL": server.base_url,
            "TINYTROUPE_CACHE_FILE_NAME": str(tmp_path / "cache"),
        }
        command = [sys.executable, str(EXAMPLES / "focus_group.py"), "--workers", "2"]
        with subprocess.Popen(
            [*command, "--personas", "3"],
            cwd=tmp_path,
            env={**os.environ, **settings},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            while server.count_requests() < 4:
                assert running.poll() is None
            running.send_signal(signal.SIGINT)
            said = running.communicate(timeout=60)[1]
        assert running.returncode == 130
        assert "run it again" in said
        assert "Traceback" not in said
        bought = server.count_requests()
        assert bought < 9
        _, report = hold(tmp_path, "--personas", 3, "--workers", 2, **settings)
        assert report["totals"]["hits"] == bought
        assert server.count_requests() == 9


def test_each_persona_hears_the_others(tmp_path: Path) -> None:
    """In each round everybody is told who they are and everything said in the rounds before."""
    example = load_example()
    personas = example.read_personas(EXAMPLES / "personas", 3)
    group = example.FocusGroup(personas, "A box.", 3)
    said = [
        example.Statement(1, persona["name"], f"I am {persona['age']}.") for persona in personas
    ]
    questions = group.pose(2, said)
    assert [question.task for question in questions] == ["reaction"] * 3
    for question, persona in zip(questions, personas, strict=True):
        call, values = question.prepare(0)
        names = call.system_template_name, call.user_template_name
        system, user = compose_messages(Templates([ROOT / "prompts"]), *names, values)
        assert persona["name"] in system["content"]
        assert all(opinion["thinks"] in system["content"] for opinion in persona["opinions"])
        assert "{{" not in system["content"] + user["content"]
        assert all(statement.text in user["content"] for statement in said)
        assert user["content"].count("(that is you)") == 1


def test_rounds_begin_with_a_reaction_and_end_with_a_verdict() -> None:
    """The first round reacts to the brief, the last one judges it, those between to each other."""
    group = load_example().FocusGroup([], "", 4)
    tasks = [group.choose_task(number) for number in range(1, 5)]
    assert tasks == ["first", "reaction", "reaction", "verdict"]


def test_a_verdict_must_have_its_shape() -> None:
    """What is no verdict is an error, never part of a transcript."""
    example = load_example()
    question = example.Question(3, "verdict", {"name": "Amina"}, (), "", 1)
    statement = question.read('{"score": 7, "reason": "Cheap.", "change": "Later hours."}')
    assert statement.text == "**7 of 10.** Cheap. What would matter: Later hours."
    for wrong in ("Seven.", '{"score": 11, "reason": "", "change": ""}', '{"score": 7}'):
        with pytest.raises(example.ParseError, match="Amina"):
            question.read(wrong)


def test_the_table_counts_every_call_of_every_persona(tmp_path: Path) -> None:
    """The printed table and the report have a row for each persona, and the rows add up."""
    report = tmp_path / "report.json"
    ended = run("focus_group.py", "--personas", 3, "--report", report, folder=tmp_path)
    facts = json.loads(report.read_text(encoding="utf-8"))
    assert len(facts["personas"]) == 3
    for name, totals in facts["personas"].items():
        assert totals["calls"] == 3
        assert re.search(rf"^{name} +3 +0 ", ended.stdout, re.MULTILINE)
    for key in ("calls", "hits", "live_calls"):
        assert facts["totals"][key] == sum(one[key] for one in facts["personas"].values())
    assert re.search(r"^all +9 +0 ", ended.stdout, re.MULTILINE)


def test_the_program_runs_from_any_folder_and_config(tmp_path: Path) -> None:
    """`--config` names another config.ini, and prompts are found from any folder."""
    config = tmp_path / "other.ini"
    config.write_text("[OpenAI]\nAPI_TYPE=rehearsal\nMODEL=gpt-4o\n", encoding="utf-8")
    transcript, _ = hold(tmp_path, "--personas", 1, "--rounds", 1, "--config", config)
    assert "## Round 1: verdicts" in transcript
    config.write_text("[OpenAI]\nMODLE=gpt-4o\n", encoding="utf-8")
    ended = run("focus_group.py", "--personas", 1, "--config", config, folder=tmp_path)
    assert ended.returncode == 1
    assert f"{config}:2" in ended.stderr
    assert "MODEL" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--brief", "nowhere.md"), "nowhere.md"),
        (("--output", "nowhere/transcript.md"), "no folder nowhere"),
        (("--folder", "nowhere"), "holds 0 personas"),
        (("--personas", "99"), f"holds {len(PERSONAS)} personas"),
        (("--workers", "0"), "at least 1"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_asked(
    tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    """What cannot be read or written is one sentence, and nothing was bought for it."""
    ended = run("focus_group.py", *options, folder=tmp_path)
    assert ended.returncode != 0
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("path", PERSONAS, ids=[path.stem for path in PERSONAS])
def test_personas_are_rich(path: Path) -> None:
    """Each persona has an age, work, household, values, a way of speaking and much else."""
    persona = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(persona["age"], int)
    for key in ("lives_in", "household", "work", "background", "speaks", "money", "food"):
        assert len(persona[key]) >= 8
    assert min(len(persona[key]) for key in ("values", "habits", "opinions")) >= 3


def test_there_are_enough_personas() -> None:
    """At least eight, and no two of a name."""
    names = {json.loads(path.read_text(encoding="utf-8"))["name"] for path in PERSONAS}
    assert len(names) == len(PERSONAS) >= 8


@pytest.mark.parametrize("where", ["nowhere", "compatible", "azure"])
def test_the_demonstration_shows_what_it_says(
    tmp_path: Path, server: RehearseServer, where: str
) -> None:
    """`make demo` runs live, loses its endpoint, repeats the run from cache and tape, says so."""
    variables = {
        "nowhere": {},
        "compatible": {"BASE_URL": server.base_url},
        "azure": {"AZURE_OPENAI_ENDPOINT": server.url, "AZURE_OPENAI_KEY": "key"},
    }[where]
    variables["TINYTROUPE_API_TYPE"] = "openai"
    ended = run("demo.py", "--personas", 3, folder=tmp_path, **variables)
    assert server.count_requests() == (0 if where == "nowhere" else 9)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ("REHEARSED" in ended.stdout) is (where == "nowhere")
    assert "refuses connections" in ended.stdout
    assert re.search(r"^calls +9 +9$", ended.stdout, re.MULTILINE)
    assert re.search(r"^hits +0 +9$", ended.stdout, re.MULTILINE)
    assert re.search(r"every call a hit: +yes", ended.stdout)
    assert len(re.findall(r"byte for byte: +yes", ended.stdout)) == 2
    assert re.search(r"asked nobody and no store: +yes", ended.stdout)


def test_the_demonstration_fails_when_the_runs_differ() -> None:
    """A second run that had to buy, or said something else, is a failure."""
    demo = load_example("demo")
    first = {"transcript": b"a", "calls": 9, "hits": 0}
    assert demo.compare(first, {"transcript": b"a", "calls": 9, "hits": 9}) == 0
    assert demo.compare(first, {"transcript": b"b", "calls": 9, "hits": 9}) == 1
    assert demo.compare(first, {"transcript": b"a", "calls": 9, "hits": 8}) == 1
    assert demo.compare(first, {"transcript": b"a", "calls": 8, "hits": 8}) == 1
