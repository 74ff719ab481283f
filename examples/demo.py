"""Holds the focus group live, and three times more with the endpoint gone.

The second time every answer must come from the store. The third time the run
is recorded, and the last time it is replayed from its tape alone, without a
store and with the timing of its threads shuffled. Each transcript must be the
same, byte for byte. Anything else ends with an error.

It asks the endpoint that the environment or config.ini names (OPENAI_API_KEY,
AZURE_OPENAI_ENDPOINT, BASE_URL). Where none is named, it starts a rehearsal
server, which answers over real HTTP without a model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tinytroupe.llm.config.load import load_settings
from tinytroupe.llm.config.settings import mask_url

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(".demo/focus-group").resolve()
LATENCY_SECONDS = 0.2
END_SECONDS = 30
PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the first run asks, as environment variables, and how the second is kept from it."""

    name: str
    variables: Mapping[str, str]
    address_when_gone: str
    """Where the second run would ask."""
    variables_when_gone: Mapping[str, str]
    """What changes for the second run; nothing where the endpoint itself is stopped."""


def main() -> int:
    """Runs the demonstration; 0 when every run equals the first."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    # A proxy could not reach this machine's own addresses.
    direct = ",".join(
        filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1"))
    )
    environment = {
        **os.environ,
        "NO_PROXY": direct,
        "no_proxy": direct,
        "TINYTROUPE_CACHE_FILE_NAME": str(FOLDER / "cache"),
        "TINYTROUPE_CACHE_API_CALLS": "on",
    }
    with choose_endpoint(environment) as endpoint:
        say(f"First run: live, asking {endpoint.name}")
        environment.update(endpoint.variables)
        first = hold_focus_group(environment, "first")
    environment.update(endpoint.variables_when_gone)
    check_gone(endpoint.address_when_gone)
    say(f"Second run: the endpoint is gone, {endpoint.address_when_gone} refuses connections")
    # Were one answer missing, the run should say so at once and not try again and again.
    environment["TINYTROUPE_MAX_ATTEMPTS"] = "1"
    second = hold_focus_group(environment, "second", "--quiet")
    if compare(first, second):
        return 1
    return record_and_replay(environment, first)


def record_and_replay(environment: Mapping[str, str], first: Mapping[str, Any]) -> int:
    """Records a run and replays it; 0 when both say what the first one said."""
    tape = str(FOLDER / "focus_group.tape")
    say(f"Third run: recorded on {tape}")
    # The answers are bought already. Agents that drew independently would buy others.
    variables = {**environment, "TINYTROUPE_CACHE_SAMPLES": "shared"}
    recorded = hold_focus_group(variables, "third", "--quiet", run=("record", tape))
    say("Fourth run: replayed from the tape alone, without a store, its threads in another order")
    variables = {**environment, "TINYTROUPE_CACHE_FILE_NAME": str(FOLDER / "no-cache")}
    options = ("--quiet", "--pause", str(PAUSE_SECONDS))
    replayed = hold_focus_group(variables, "fourth", *options, run=("replay", tape))
    same = recorded["transcript"] == replayed["transcript"] == first["transcript"]
    alone = replayed["live calls"] == 0 and not (FOLDER / "no-cache").exists()
    say("All runs")
    print(f"Replay asked nobody and no store:         {'yes' if alone else 'NO'}")
    print(f"Transcripts identical, byte for byte:     {'yes' if same else 'NO'}")
    print(f"\nLook into the tape: tinytroupe runs show {tape}")
    return 0 if same and alone else 1


def say(text: str) -> None:
    print(f"\n=== {text}\n", flush=True)


@contextmanager
def choose_endpoint(environment: Mapping[str, str]) -> Iterator[Endpoint]:
    """Yields the endpoint that is set; where none is, a rehearsal server for the time being."""
    settings = load_settings(None, environment)
    base_url = environment.get("BASE_URL") or settings.base_url
    nowhere = find_closed_address()
    if settings.api_type == "azure" or environment.get("AZURE_OPENAI_ENDPOINT"):
        when_gone = {"AZURE_OPENAI_ENDPOINT": nowhere}
        yield Endpoint("Azure OpenAI", {"TINYTROUPE_API_TYPE": "azure"}, nowhere, when_gone)
        return
    variables = {"TINYTROUPE_API_TYPE": "openai"}
    when_gone = {"TINYTROUPE_BASE_URL": f"{nowhere}/v1"}
    if base_url:
        variables["TINYTROUPE_BASE_URL"] = base_url
        yield Endpoint(mask_url(base_url), variables, nowhere, when_gone)
    elif environment.get("OPENAI_API_KEY") or environment.get("OPENAI_API_KEY_FILE"):
        yield Endpoint("OpenAI", variables, nowhere, when_gone)
    else:
        with rehearsal_server() as address:
            print(NO_ENDPOINT)
            variables["TINYTROUPE_BASE_URL"] = f"{address}/v1"
            yield Endpoint(f"the rehearsal server at {address}", variables, address, {})


NO_ENDPOINT = """
No endpoint is set (OPENAI_API_KEY, AZURE_OPENAI_ENDPOINT or BASE_URL), so a rehearsal
server answers: over real HTTP, but without a model. The words below are REHEARSED:
they show how the calls travel, not what people would say."""


@contextmanager
def rehearsal_server() -> Iterator[str]:
    """Runs a rehearsal server as a process of its own and yields its address."""
    command = [sys.executable, "-m", "tinytroupe", "rehearse-server", "--port", "0", "--quiet"]
    command += ["--latency", str(LATENCY_SECONDS), "--exit-with-parent"]
    log = FOLDER / "server.log"
    with log.open("wb") as errors:
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        if address is None:
            raise SystemExit(f"The rehearsal server did not start; see {log}")
        yield address[0]
    finally:
        server.terminate()
        server.communicate(timeout=END_SECONDS)


def find_closed_address() -> str:
    """Returns an address on this machine at which nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def check_gone(address: str) -> None:
    """Raises unless connections to the address are refused."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=5).close()
    except ConnectionRefusedError:
        return
    raise SystemExit(f"{address} still answers, so the second run would prove nothing")


def hold_focus_group(
    environment: Mapping[str, str], name: str, *options: str, run: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Runs the focus group in a process of its own and returns its transcript and its totals.

    Args:
        environment: Its variables.
        name: What its files are called.
        *options: Of the focus group.
        run: `record` or `replay`, and the tape; None: neither.
    """
    transcript, report = FOLDER / f"{name}.md", FOLDER / f"{name}.json"
    command = [sys.executable, str(ROOT / "examples" / "focus_group.py")]
    if run is not None:
        command = [sys.executable, "-m", "tinytroupe", *run, "--", *command]
    command += ["--output", str(transcript), "--report", str(report), *options, *sys.argv[1:]]
    ended = subprocess.run(command, env=environment, check=False)
    if ended.returncode != 0:
        raise SystemExit(ended.returncode)
    facts = json.loads(report.read_text(encoding="utf-8"))
    totals = facts["totals"]
    return {
        "transcript": transcript.read_bytes(),
        "calls": totals["calls"],
        "hits": totals["hits"],
        "live calls": totals["live_calls"],
        "tokens in": totals["usage"]["input_tokens"],
        "tokens out": totals["usage"]["output_tokens"],
        "seconds": facts["wall_seconds"],
    }


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> int:
    """Prints both runs side by side and whether the second equals the first."""
    say("First and second run")
    print(f"{'':14}{'first':>10}{'second':>10}")
    for label in list(first)[1:]:
        digits = 2 if label == "seconds" else 0
        print(f"{label:14}{first[label]:>10,.{digits}f}{second[label]:>10,.{digits}f}")
    all_hits = second["hits"] == second["calls"] == first["calls"]
    identical = first["transcript"] == second["transcript"]
    print()
    print(f"Second run, every call a hit:             {'yes' if all_hits else 'NO'}")
    print(f"Transcripts identical, byte for byte:     {'yes' if identical else 'NO'}")
    print(f"\nTranscripts and store are in {FOLDER}")
    return 0 if all_hits and identical else 1


if __name__ == "__main__":
    sys.exit(main())
