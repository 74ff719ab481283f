"""`tinytroupe runs`: what is on a tape, whether it is as recorded, and taking it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from fakes import FakeTransport, chat_content

from tinytroupe import cli
from tinytroupe.llm.client import Client, ClientDefaults
from tinytroupe.llm.errors import ServerFault
from tinytroupe.llm.request import RetryPolicy, chat_request
from tinytroupe.llm.runs.lanes import lane
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.store.compression import read_lines
from tinytroupe.llm.store.tape import TAPE_FORMAT, TapeReader, TapeWriter

AMISS, FAILED = 1, 2


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *words: str, code: int = 0) -> str:
    """Runs `tinytroupe runs …` and returns what it printed."""
    assert cli.main(["runs", *words]) == code
    return capsys.readouterr().out


def tell(capsys, *words: str, code: int = 0) -> Any:
    return json.loads(run(capsys, *words, "--json", code=code))


def make_call(lane_name: str, order: int, **changes: Any) -> dict[str, Any]:
    """Makes an event as a run writes it."""
    return {
        "event": "call",
        "lane": lane_name,
        "branch": f"/{lane_name}",
        "sample": 0,
        "order": order,
        "ambiguous": False,
        "digest": f"{order:064x}",
        "purpose": None,
        "kind": "chat",
        "seconds": 0.5,
        "request": {"model": "m", "messages": [{"role": "user", "content": "Who are you?"}]},
        "origin": "live",
        "attempts": 1,
        "endpoint": "openai",
        "request_id": "req_1",
        "response": json.loads(chat_content(f"I am {lane_name}.")),
        **changes,
    }


def record(
    name: str,
    *events: dict[str, Any],
    ended: bool = True,
    error: str | None = None,
    **header: Any,
) -> Path:
    """Writes a tape."""
    path = Path(name)
    facts = {
        "mode": "record",
        "tinytroupe": "0.1.0",
        "key_schema": 1,
        "started_at": "2026-01-02T03:04:05+00:00",
        **header,
    }
    writer = TapeWriter(path, facts)
    for event in events:
        assert writer.append(event)
    if ended:
        writer.append({"event": "ended", "error": error})
    writer.close()
    return path


def change(path: Path, number: int, old: bytes, new: bytes) -> None:
    """Changes a line of a tape by hand."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new)
    path.write_bytes(b"".join(lines))


def test_a_recorded_run_is_shown_as_it_was(capsys):
    """What a real run recorded is counted lane by lane: calls, tokens, time, errors."""

    def answer(attempt):
        if "fail" in attempt.call.request.messages[0].content:
            raise ServerFault("the endpoint is down", status=500)
        return chat_content("Hello.")

    once = ClientDefaults(retry=RetryPolicy(max_attempts=1))
    client = Client(FakeTransport(answer), defaults=once)
    with Run.record("real.tape"):
        for name, questions in (("lisa", 3), ("oscar", 1)):
            with lane(name):
                for number in range(questions):
                    client.send(chat_request("m", [{"role": "user", "content": f"{number}?"}]))
        with lane("oscar"), pytest.raises(ServerFault):
            client.send(chat_request("m", [{"role": "user", "content": "fail"}]))
    told = tell(capsys, "show", "real.tape")
    assert (told["calls"], told["end"], told["changed_lines"]) == (5, "ended", [])
    lisa, oscar = (told["lanes"][name] for name in ("lisa", "oscar"))
    assert (lisa["calls"], lisa["live"], lisa["errors"]) == (3, 3, 0)
    assert (lisa["input_tokens"], lisa["output_tokens"]) == (21, 9)
    assert (oscar["calls"], oscar["live"], oscar["errors"]) == (2, 1, 1)
    text = run(capsys, "show", "real.tape")
    assert "started at:" in text
    assert "fake" in text
    assert next(line for line in text.splitlines() if line.startswith("lisa")).split() == [
        *("lisa", "3", "3", "21", "9", "0.0", "0")
    ]
    assert "as recorded" in run(capsys, "verify", "real.tape")


def test_ls_lists_the_tapes_of_a_folder(capsys):
    """Tapes are listed newest first, with how they end; other files are not."""
    Path("runs").mkdir()
    record("runs/old.tape", make_call("lisa", 0), make_call("oscar", 0))
    record(
        "runs/new.tape", make_call("lisa", 0), started_at="2026-02-02T03:04:05+00:00", mode="fork"
    )
    record("runs/open.tape", started_at="2025-01-01T00:00:00+00:00", ended=False)
    record("runs/broken.tape", started_at="2024-06-01T00:00:00+00:00", error="KeyError")
    cut = record("runs/cut.tape", make_call("lisa", 0), started_at="2024-01-01T00:00:00+00:00")
    cut.write_bytes(cut.read_bytes()[:-5])
    spoilt = record("runs/bad.tape", make_call("lisa", 0), started_at="2023-01-01T00:00:00+00:00")
    change(spoilt, 2, b"I am", b"I Am")
    Path("runs/notes.txt").write_text("{ not a tape")
    Path("runs/other.jsonl").write_text('{"event": "call"}\n')
    Path("runs/empty.tape").write_text("")
    Path("runs/folder.tape").mkdir()
    tapes = tell(capsys, "ls", "runs")
    assert [(Path(one["tape"]).name, one["end"]) for one in tapes] == [
        ("new.tape", "ended"),
        ("old.tape", "ended"),
        ("open.tape", "not ended"),
        ("broken.tape", "broken off by KeyError"),
        ("cut.tape", "cut"),
        ("bad.tape", "changed"),
    ]
    assert (tapes[1]["calls"], tapes[1]["lanes"], tapes[1]["mode"]) == (2, 2, "record")
    lines = run(capsys, "ls", "runs").splitlines()
    assert lines[0].split() == [
        *("TAPE", "STARTED", "MODE", "CALLS", "LANES", "SIZE", "END", "TINYTROUPE")
    ]
    assert lines[1].split()[:5] == ["new.tape", "2026-02-02T03:04:05+00:00", "fork", "1", "1"]


def test_ls_without_a_folder_lists_the_current_one(capsys):
    """The current folder is the default; where it has no tape, that is said."""
    assert "There is no tape in" in run(capsys, "ls")
    record("a.tape")
    assert [one["tape"] for one in tell(capsys, "ls")] == ["a.tape"]


def test_a_tape_of_a_newer_format_is_listed_with_its_problem(capsys):
    """One tape that cannot be read does not keep the others from the list."""
    record("a.tape")
    Path("newer.tape").write_bytes(
        orjson.dumps({"event": "header", "format": TAPE_FORMAT + 1, "tinytroupe": "9.0"}) + b"\n"
    )
    listed = {one["tape"]: one for one in tell(capsys, "ls")}
    assert "tinytroupe 9.0" in listed["newer.tape"]["problem"]
    assert "newer.tape" in run(capsys, "ls")
    for action in ("show", "verify"):
        assert cli.main(["runs", action, "newer.tape"]) == FAILED
        assert "install that version or a newer one" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["ls"], ["show"], ["verify"], ["export"]])
def test_what_is_not_there_is_said(capsys, words):
    """A missing folder or tape, and a file that is none, are named."""
    more = ["out.jsonl"] if words == ["export"] else []
    assert cli.main(["runs", *words, "missing", *more]) == FAILED
    assert "missing" in capsys.readouterr().err
    Path("notes.txt").write_text("no tape\n")
    assert cli.main(["runs", *words, "notes.txt", *more]) == FAILED
    assert "notes.txt" in capsys.readouterr().err
    assert not Path("out.jsonl").exists()


def test_show_tells_where_a_run_comes_from(capsys):
    """Versions, command, commit, settings, and the tape that a fork began with."""
    record(
        "fork.tape",
        make_call("lisa", 0, response={**json.loads(chat_content()), "system_fingerprint": "fp_7"}),
        mode="fork",
        python="3.11.7",
        packages={"openai": "3.54.0"},
        command=["sim.py", "--fast"],
        git={"commit": "abc123", "changed": True},
        forked_from={"path": "base.tape", "at": "lisa:3", "replaced": {}},
        settings={"model": "m", "temperature": 0.5},
    )
    text = run(capsys, "show", "fork.tape")
    for said in (
        "fork.tape (",
        "3.11.7",
        "openai 3.54.0",
        "sim.py --fast",
        "abc123, with changes that are not committed",
        "base.tape at lisa:3",
        "temperature:",
        "fake (fp_7)",
    ):
        assert said in text


def test_show_marks_lanes_whose_calls_cannot_be_told_apart(capsys):
    """A lane is marked when a call of it was ambiguous, or its branch is contested in the end."""
    path = record(
        "a.tape",
        make_call("lisa", 0),
        make_call("worker", 0, ambiguous=True),
        make_call("oscar", 0),
        make_call("oscar", 1),
        make_call("late", 0),
        make_call("elsewhere", 0, branch="/?"),
        {"event": "contested", "branch": "/oscar", "calls": 1, "spawns": 0},
        {"event": "contested", "branch": "/late", "calls": 1, "spawns": 0},
        ended=False,
    )
    TapeWriter(path, {}, resume=True).close()
    ambiguous = ["worker", "oscar", "elsewhere"]
    assert tell(capsys, "show", "a.tape")["ambiguous_lanes"] == ambiguous
    assert tell(capsys, "show", "a.tape")["resumed"] == 1
    text = run(capsys, "show", "a.tape")
    assert "? worker" in text
    assert "? oscar" in text
    assert "? lisa" not in text
    assert "with lane(name):" in text


def test_show_counts_errors_and_answers_that_were_not_bought(capsys):
    """Failed calls have no tokens; answers from the cache are not counted as live."""
    record(
        "a.tape",
        make_call("lisa", 0, origin="cache"),
        {
            **{k: v for k, v in make_call("lisa", 1).items() if k not in ("response", "origin")},
            "error": {"class": "ServerFault", "facts": {"message": "down"}},
        },
        make_call("lisa", 2, response={"model": "m", "data": [], "usage": None}),
    )
    lisa = tell(capsys, "show", "a.tape")["lanes"]["lisa"]
    assert (lisa["calls"], lisa["live"], lisa["errors"], lisa["input_tokens"]) == (3, 1, 1, 7)


def test_verify_names_every_changed_line(capsys):
    """Lines that were changed, taken out or put in are named; the exit code says it too."""
    path = record("a.tape", *(make_call("lisa", number) for number in range(6)))
    sound = path.read_bytes()
    assert tell(capsys, "verify", "a.tape")["changed_lines"] == []
    change(path, 3, b"I am", b"I Am")
    change(path, 6, b'"sample":0', b'"sample":1')
    told = tell(capsys, "verify", "a.tape", code=AMISS)
    assert told["changed_lines"] == [3, 6]
    text = run(capsys, "verify", "a.tape", code=AMISS)
    assert "a.tape:3: " in text
    assert "a.tape:6: " in text
    lines = sound.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4] + lines[5:]))
    assert tell(capsys, "verify", "a.tape", code=AMISS)["changed_lines"] == [5]
    path.write_bytes(b"".join([*lines[:4], lines[2], *lines[4:]]))
    assert tell(capsys, "verify", "a.tape", code=AMISS)["changed_lines"] == [5, 6]
    assert run(capsys, "show", "a.tape", code=AMISS).count("changed since it was recorded") == 1


def test_verify_notices_any_changed_byte(capsys):
    """Whichever byte of a line is changed, that line is named: its hash and its quotes too."""
    path = record("a.tape", make_call("lisa", 0), make_call("lisa", 1))
    sound = path.read_bytes()
    first, second, third, fourth = sound.splitlines(keepends=True)
    for place in range(len(second) - 1):
        spoilt = bytes([*second[:place], second[place] ^ 1, *second[place + 1 :]])
        path.write_bytes(b"".join([first, spoilt, third, fourth]))
        reader = TapeReader(path)
        assert 2 in reader.verify(), f"byte {place}: {spoilt[max(place - 5, 0) : place + 5]!r}"


def test_verify_says_when_the_end_is_cut(capsys):
    """A tape whose last line is not whole is named with that line; all before it counts."""
    path = record("a.tape", make_call("lisa", 0), make_call("lisa", 1), ended=False)
    path.write_bytes(path.read_bytes()[:-1])
    told = tell(capsys, "verify", "a.tape", code=AMISS)
    assert (told["lines"], told["cut"], told["changed_lines"]) == (2, True, [])
    assert "a.tape:3: the last event is not whole" in run(capsys, "verify", "a.tape", code=AMISS)
    assert tell(capsys, "show", "a.tape")["calls"] == 1


def test_a_tape_that_is_being_recorded_can_be_looked_at(capsys):
    """Looking at a tape neither waits for who records into it nor disturbs them."""
    writer = TapeWriter("a.tape", {"mode": "record", "started_at": "2026-01-01T00:00:00+00:00"})
    writer.append(make_call("lisa", 0))
    assert "not ended" in run(capsys, "verify", "a.tape")
    assert tell(capsys, "ls")[0]["calls"] == 1
    assert writer.append(make_call("lisa", 1))
    writer.close()
    assert tell(capsys, "show", "a.tape")["calls"] == 2


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.zst"])
def test_export_writes_one_line_for_each_call(capsys, name):
    """Each line stands for itself: who asked what, when, and what came back."""
    failed = make_call("oscar", 1)
    del failed["response"]
    failed["error"] = {"class": "ServerFault", "facts": {"message": "down"}}
    record("a.tape", make_call("lisa", 0, purpose="plan"), failed)
    assert tell(capsys, "export", "a.tape", name)["exported"] == 2
    lines = [json.loads(line) for _, line in read_lines(Path(name))]
    assert lines[0] == {
        "tinytroupe": "call",
        "format": 1,
        "tape": "a.tape",
        "line": 2,
        **{k: v for k, v in make_call("lisa", 0, purpose="plan").items() if k != "event"},
        "error": None,
    }
    assert lines[1]["error"]["class"] == "ServerFault"
    assert lines[1]["response"] is None
    assert cli.main(["runs", "export", "a.tape", name]) == FAILED
    assert "exists already" in capsys.readouterr().err
    assert "2 calls written" in run(capsys, "export", "a.tape", name, "--force")


def test_export_leaves_out_what_was_changed(capsys):
    """A call that is not as it was recorded is not passed on as if it were."""
    path = record("a.tape", *(make_call("lisa", number) for number in range(3)))
    change(path, 3, b"I am", b"I Am")
    told = tell(capsys, "export", "a.tape", "out.jsonl", code=AMISS)
    assert (told["exported"], told["changed_lines"]) == (2, [3])
    text = run(capsys, "export", "a.tape", "out.jsonl", "--force", code=AMISS)
    assert "Left out, since they were changed since they were recorded: lines 3" in text


def test_what_would_steer_a_terminal_is_not_printed(capsys):
    """Names of lanes and facts of a tape from elsewhere cannot move the cursor."""
    record("a.tape", make_call("li\x1b[2Jsa", 0), mode="rec\x1b]0;ord\x07", command=["\x1b[31m"])
    for words in (["ls"], ["show", "a.tape"], ["verify", "a.tape"]):
        text = run(capsys, *words)
        assert not {"\x1b", "\x07"} & set(text)
