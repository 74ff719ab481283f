"""What a user has after `pip install`: run against the wheel with the source out of reach."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import RehearseServer

import tinytroupe
from tinytroupe.llm import AsyncClient, Client, DiskStore, OpenAITransport, chat_request
from tinytroupe.llm.talk.templates import Templates, package_prompts_folder

pytestmark = pytest.mark.smoke

PROGRAM = """
import json
from tinytroupe.openai_utils import LLMCall, client

call = LLMCall("focus_group_persona.mustache", "question.jinja", lane="Lisa", purpose="taste")
persona = {
    "name": "Lisa", "age": 30, "lives_in": "Bath", "household": "alone", "work": "a baker",
    "background": "none", "values": [], "speaks": "softly", "habits": [], "money": "little",
    "food": "bread", "opinions": [], "worries": "rain", "delights": "sun",
}
text = call.call(persona=persona, product="rye bread")
totals = client().meter.summarize("lane")["Lisa"]
print(json.dumps([text, totals.calls, totals.hits, call.response.usage.input_tokens]))
"""


def run(*command: str, folder: Path, **variables: str) -> str:
    """Runs a command in a folder and returns what it printed."""
    environment = {**os.environ, "TINYTROUPE_API_TYPE": "rehearsal", **variables}
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def simulation(tmp_path: Path) -> Path:
    """A folder with a prompt of its own, and nothing else."""
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "question.jinja").write_text("What of {{ product }}?", encoding="utf-8")
    return tmp_path


def test_the_version_is_one() -> None:
    """The installed metadata and the package say the same version."""
    assert importlib.metadata.version("tinytroupe") == tinytroupe.__version__


def test_types_are_announced() -> None:
    """Type checkers find the mark that says the package is typed."""
    assert (Path(tinytroupe.__file__).parent / "py.typed").is_file()


def test_prompts_come_along() -> None:
    """The package's own prompts, of both kinds, are there and compile."""
    folder = package_prompts_folder()
    assert {path.suffix for path in folder.iterdir()} >= {".jinja", ".mustache"}
    question = {"size": 8, "brief": "A box.", "heard": [], "name": "Lisa"}
    templates = Templates([folder])
    for task in ("first", "reaction", "verdict"):
        values = {**question, "task": task, "round": 1}
        assert "A box." in templates.render("focus_group_question.jinja", values)


@pytest.mark.parametrize("script", [True, False], ids=["tinytroupe", "python -m tinytroupe"])
def test_the_command_runs(tmp_path: Path, script: bool) -> None:
    """The command is installed, tells its version and shows the settings."""
    found = shutil.which("tinytroupe", path=str(Path(sys.executable).parent))
    assert found is not None
    command = [found] if script else [sys.executable, "-m", "tinytroupe"]
    assert tinytroupe.__version__ in run(*command, "--version", folder=tmp_path)
    shown = run(*command, "config", folder=tmp_path)
    assert re.search(r"API_TYPE.*rehearsal.*TINYTROUPE_API_TYPE", shown)


def test_a_simulation_runs_and_repeats(simulation: Path) -> None:
    """A program with its own prompt and one of the package's runs, and runs again for nothing."""
    first, second = (
        json.loads(run(sys.executable, "-c", PROGRAM, folder=simulation)) for _ in range(2)
    )
    assert first[0] == second[0] != ""
    assert (first[1:3], second[1:3]) == ([1, 0], [1, 1])
    assert first[3] == second[3] > 50


def test_both_clients_ask_over_http(tmp_path: Path) -> None:
    """Blocking or awaited, an answer comes over HTTP once and then from the disk."""
    with RehearseServer() as server:
        ask_both_ways(server.base_url, tmp_path)
        assert server.count_requests() == 2


def ask_both_ways(endpoint: str, folder: Path) -> None:
    request = chat_request("gpt-4o-mini", [{"role": "user", "content": "Hello?"}])

    async def ask(store: DiskStore) -> Any:
        async with AsyncClient(OpenAITransport(base_url=endpoint), store) as client:
            return await client.send(request)

    with Client(OpenAITransport(base_url=endpoint), DiskStore(folder / "a")) as client:
        bought = client.send(request)
    assert bought.origin == "live"
    assert asyncio.run(ask(DiskStore(folder / "a"))).origin == "cache"
    again = asyncio.run(ask(DiskStore(folder / "b")))
    assert (again.origin, again.text) == ("live", bought.text)
