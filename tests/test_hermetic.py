"""A replay needs no network, no SDK and no key; a simulation cannot tell that they are gone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SIMULATION = """
import asyncio
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from tinytroupe import openai_utils
from tinytroupe.llm.client import AsyncClient
from tinytroupe.llm.runs.lanes import lane
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.transports.openai import OpenAITransport
from tinytroupe.llm.request import chat_request

def live(number):
    words = [{"role": "system", "content": "You are a consumer."}]
    for turn in range(3):
        words.append({"role": "user", "content": "Would you buy it?"})
        words.append(openai_utils.client().send_message(words, temperature=1.0))
    return [word["content"] for word in words if word["role"] == "assistant"]

async def meet():
    client = AsyncClient(OpenAITransport())
    request = chat_request("gpt-4o-mini", [{"role": "user", "content": "And you all?"}])
    responses = await asyncio.gather(*(client.send(request) for _ in range(4)))
    await client.aclose()
    return [response.text for response in responses]

def simulate():
    with ThreadPoolExecutor(4) as pool:
        spoken = list(pool.map(live, range(8)))
    return spoken, asyncio.run(meet())
"""

REFUSING = """
import builtins, os, socket, sys

REFUSED = ("openai", "httpx2", "httpcore2", "aiohttp", "azure", "httpx")

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refusing())

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"):
        raise OSError(f"a replay reached for the network: {event}")

sys.addaudithook(watch)
for name in list(os.environ):
    assert "API_KEY" not in name, name
"""


def run(code: str, folder: Path, **variables: str) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "AZURE_", "TINYTROUPE_"))
    }
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def endpoint():
    """A server that answers over real HTTP."""
    command = [sys.executable, "-m", "tinytroupe", "rehearse-server", "--port", "0", "--quiet"]
    server = subprocess.Popen(
        [*command, "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert server.stdout is not None
    line = server.stdout.readline()
    yield next(word for word in line.split() if word.startswith("http")).rstrip("/.")
    server.terminate()
    server.communicate(timeout=30)


@pytest.fixture(scope="module")
def recorded(endpoint, tmp_path_factory):
    """A tape that was recorded over real HTTP, and what was said."""
    folder = tmp_path_factory.mktemp("recorded")
    code = SIMULATION + "with Run.record('run.tape'):\n    print(simulate())\n"
    said = run(
        code,
        folder,
        OPENAI_API_KEY="sk-test-test-test",
        OPENAI_BASE_URL=f"{endpoint}/v1",
        TINYTROUPE_BASE_URL=f"{endpoint}/v1",
        TINYTROUPE_CACHE_API_CALLS="off",
        NO_PROXY="127.0.0.1",
    )
    return folder / "run.tape", said


def test_a_replay_without_network_sdk_and_key(recorded, tmp_path):
    """The recorded run comes out of the tape where nothing could be asked."""
    tape, said = recorded
    assert said.count("'") > 40
    code = (
        f"{REFUSING}\n{SIMULATION}\nwith Run.replay({str(tape)!r}) as run:\n    print(simulate())\n"
    )
    code += "assert run.find_unplayed() == []\n"
    code += "assert not set(REFUSED) & {name.partition('.')[0] for name in sys.modules}\n"
    assert run(code, tmp_path) == said


def test_what_a_replay_refuses_is_refused(recorded, tmp_path):
    """The test's own guard keeps the SDK and the network out: without a tape nothing works."""
    code = f"{REFUSING}\n{SIMULATION}\n"
    code += "try:\n    simulate()\nexcept Exception as error:\n    print(type(error).__name__)\n"
    said = run(code, tmp_path, TINYTROUPE_MAX_ATTEMPTS="1", TINYTROUPE_CACHE_API_CALLS="off")
    assert "Error" in said or "Failed" in said


def test_a_replay_does_not_write_beside_the_simulation(recorded, tmp_path):
    """A replay leaves no cache and no other file in the folder that it runs in."""
    tape, _ = recorded
    code = f"{SIMULATION}\nwith Run.replay({str(tape)!r}):\n    simulate()\n"
    run(code, tmp_path)
    assert list(tmp_path.iterdir()) == []
