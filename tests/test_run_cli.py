"""Unchanged scripts in a run: by command, by variable, by config.ini; what is said and returned."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import RehearseServer

from tinytroupe.llm.errors import ConfigError, StoreError
from tinytroupe.llm.runs.divergence import Difference, Divergence
from tinytroupe.llm.runs.plan import RunPlan, parse_plan
from tinytroupe.llm.runs.recording import Recording
from tinytroupe.llm.runs.report import (
    ReplayReport,
    find_report,
    publish_report,
    read_report,
    write_report,
)

posix = pytest.mark.skipif(os.name != "posix", reason="signals, forks and terminals of POSIX")

SIMULATION = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from asking import ask

PERSON = os.environ.get("LISA", "data scientist")

def live(name):
    said, person = "", PERSON if name == "lisa" else "person"
    for step in range(2):
        text = f"You are {name}, a {person}. Step {step}. {said}"
        try:
            said = ask(text)
        except Exception:
            said = "(silence)"
        if os.environ.get("BREAK") == name:
            raise SystemExit(9)
    return said

with ThreadPoolExecutor(3) as pool:
    for said in pool.map(live, ["lisa", "oscar", "marcos"]):
        print(said)
print("ran", file=open("ran", "a"))
sys.exit(int(os.environ.get("CODE", "0")))
"""

ASK = "from asking import ask\n"

BY_DOOR = """
from tinytroupe.openai_utils import client
def ask(text):
    return client().send_message([{"role": "user", "content": text}])["content"]
"""

BY_FAKE = """
from fakes import FakeTransport
from tinytroupe.llm import Client, chat_request
client = Client(FakeTransport())
def ask(text):
    return client.send(chat_request("fake", [{"role": "user", "content": text}])).text
"""
"""The other door, in front of a fake endpoint: it begins in a third of the time."""


class Folder:
    """A throw-away folder with a simulation, and commands run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("sim.py", SIMULATION)
        self.write("asking.py", BY_FAKE)
        # Of the package under test, wherever it is.
        self.environment = {
            **os.environ,
            "TINYTROUPE_API_TYPE": "rehearsal",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        for name in ("TINYTROUPE_RUN", "TINYTROUPE_RUN_TAKEN", "NO_COLOR"):
            self.environment.pop(name, None)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self.path,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def tinytroupe(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "tinytroupe", *words, **variables)

    def simulate(
        self, *words: str, script: str = "sim.py", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return self.tinytroupe(*words, "--", sys.executable, script, **variables)

    def read(self, tape: str = "run.tape") -> Recording:
        return Recording(self.path / tape)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def recorded(folder: Folder) -> Folder:
    """A folder in which the simulation was recorded."""
    done = folder.simulate("record", "run.tape")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_recorded_script_is_replayed_without_an_endpoint(folder):
    """The same output again, with the server gone and no key; and both exit codes are kept."""
    with RehearseServer("--vary") as server:
        live = {"TINYTROUPE_API_TYPE": "openai", "OPENAI_API_KEY": "sk-test", "CODE": "5"}
        folder.write("asking.py", BY_DOOR)
        live["TINYTROUPE_BASE_URL"] = f"{server.url}/v1"
        done = folder.simulate("record", "run.tape", **live)
    assert done.returncode == 5
    assert "run.tape holds 6 calls of 3 lanes" in done.stderr
    assert "record --resume run.tape" in done.stderr
    del live["OPENAI_API_KEY"]
    again = folder.simulate("replay", "run.tape", **live)
    assert again.stdout == done.stdout
    assert again.returncode == 5
    assert "run.tape was replayed: 6 calls, all as recorded" in again.stderr
    assert not (folder.path / "run.tape.replay.json").exists()


def test_a_swallowed_miss_fails_the_command_and_is_explained(recorded):
    """The script ends well, the command does not, and says what differed first."""
    done = recorded.simulate("replay", "run.tape", LISA="poet")
    assert done.returncode == 1
    assert "The first divergence is /0:0\n" in done.stderr
    assert "messages[0].content: You are lisa, a [-data scientist-]{+poet+}. Step 0." in done.stderr
    assert done.stderr.index("first divergence") < done.stderr.index("may be its consequences")
    assert "/0:1: messages[0].content:" in done.stderr
    assert "\x1b" not in done.stderr
    explained = recorded.tinytroupe("explain", "run.tape")
    assert explained.returncode == 0
    assert explained.stdout.strip() in done.stderr
    facts = json.loads(recorded.tinytroupe("explain", "run.tape", "--json").stdout)
    assert facts["first"]["lane"] == "/0"
    assert [one["order"] for one in facts["later"]] == [1]
    assert facts["tape_changed"] is False


def test_a_good_replay_takes_the_old_explanation_away(recorded):
    """After a replay without a miss there is nothing to explain, and the script's code counts."""
    failed = recorded.simulate("replay", "run.tape", "--json", LISA="poet", CODE="7")
    assert failed.returncode == 7
    assert json.loads(failed.stderr.splitlines()[-1])["replays"][0]["differing"] == 2
    assert (recorded.path / "run.tape.replay.json").exists()
    assert recorded.simulate("replay", "run.tape").returncode == 0
    assert "Nothing is known of run.tape" in recorded.tinytroupe("explain", "run.tape").stdout


def test_a_process_that_ends_without_notice_is_known_to_have_missed(recorded):
    """A script that swallows a miss and leaves by os._exit does not pass for a good replay."""
    recorded.write("sim.py", SIMULATION.replace("sys.exit(", "os._exit("))
    done = recorded.simulate("replay", "run.tape", LISA="poet")
    assert done.returncode == 1
    assert "the process ended before the replay did" in done.stderr
    assert "The first divergence is /0:0\n" in done.stderr


def test_nothing_is_started_where_the_tape_cannot_be_used(recorded):
    """An existing, missing or foreign tape, or one that cannot be written, costs no simulation."""
    recorded.write("notes.txt", "no tape\n")
    (recorded.path / "ran").unlink()
    for words, said in [
        (("record", "run.tape"), "exists already and is not overwritten"),
        (("record", "."), "is a folder"),
        (("replay", "none.tape"), "there is no tape at none.tape"),
        (("replay", "notes.txt"), "is not a tape"),
        (("check", "none.tape"), "there is no tape at none.tape"),
        (("check", "run.tape", "--times", "0"), "must be 1 or more"),
        (("fork", "run.tape", "--to", "run.tape"), "exists already"),
        (("fork", "run.tape", "--to", "new.tape", "--replace", "x"), "replaces nothing"),
        (("fork", "run.tape", "--to", "new.tape", "--at", "nobody"), "has no lane 'nobody'"),
        (("explain", "none.tape"), "there is no tape"),
        (("diff", "run.tape", "none.tape"), "there is no tape"),
    ]:
        comparing = words[0] in ("explain", "diff")
        done = recorded.tinytroupe(*words) if comparing else recorded.simulate(*words)
        assert done.returncode == 2, words
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (recorded.path / "ran").exists()


def test_a_broken_recording_is_resumed(folder):
    """What was recorded is not asked again, and stands on the tape once."""
    broken = folder.simulate("record", "run.tape", BREAK="lisa")
    assert broken.returncode == 9
    first = folder.read().takes
    done = folder.simulate("record", "--resume", "run.tape")
    assert done.returncode == 0
    takes = folder.read().takes
    assert takes[: len(first)] == first
    assert len({(take.branch, take.order) for take in takes}) == len(takes) == 6
    assert folder.simulate("replay", "run.tape").stdout == done.stdout


def test_an_error_that_ends_the_script_is_on_the_tape(folder):
    """A recording of a script that raised did not come to its end; one that exited did."""
    folder.write("raises.py", ASK + "ask('Hello')\nraise ValueError\n")
    assert folder.simulate("record", "raised.tape", script="raises.py").returncode == 1
    assert not folder.read("raised.tape").ended
    folder.write("exits.py", ASK + "ask('Hello')\nraise SystemExit(3)\n")
    assert folder.simulate("record", "exited.tape", script="exits.py").returncode == 3
    assert folder.read("exited.tape").ended


def test_a_fork_goes_on_differently_from_a_replaced_answer(recorded):
    """One answer is another one, what follows from it is new, everybody else is as before."""
    done = recorded.simulate("fork", "run.tape", "--to", "no.tape", "--replace", "/0:0=No: at=all.")
    assert done.returncode == 0, done.stderr
    header = recorded.read("no.tape").header
    assert header["forked_from"]["replaced"] == {"/0:0": "No: at=all."}
    compared = recorded.tinytroupe("diff", "run.tape", "no.tape", "--json")
    assert compared.returncode == 1
    facts = json.loads(compared.stdout)
    assert facts["first"]["name"] == "/0:0"
    assert facts["first"]["kind"] == "answer"
    assert [lane["lane"] for lane in facts["lanes"] if lane["changes"]] == ["/0"]
    assert recorded.simulate("replay", "no.tape").stdout == done.stdout


def test_where_nothing_was_recorded_it_is_said(folder):
    """For what is not Python, imports nothing of ours, or makes no call; and no tape is left."""
    folder.write("idle.py", "import tinytroupe.openai_utils\n")
    for words, code, said in [
        (("echo", "hello"), 0, "without importing tinytroupe.llm or tinytroupe.openai_utils"),
        ((sys.executable, "-c", "raise SystemExit(4)"), 4, "without importing"),
        ((sys.executable, "idle.py"), 0, "the command made no model call"),
        (("no-such-command",), 127, "the command no-such-command is not found"),
        (("sim.py",), 127, "write python sim.py"),
    ]:
        done = folder.tinytroupe("record", "run.tape", "--", *words)
        assert done.returncode == code
        assert said in done.stderr
        assert not (folder.path / "run.tape").exists()
    assert folder.tinytroupe("record", "run.tape", "--", "./sim.py").returncode == 126


def test_the_variable_is_enough(folder):
    """Without the command, importing a door begins the run, and the process's end ends it."""
    folder.write("asking.py", BY_DOOR)
    run = (sys.executable, "sim.py")
    first = folder.run(*run, TINYTROUPE_RUN="record:run.tape")
    assert (first.returncode, first.stderr) == (0, "")
    again = folder.run(*run, TINYTROUPE_RUN="replay:run.tape")
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    missed = folder.run(*run, TINYTROUPE_RUN="replay:run.tape", LISA="poet")
    assert "The first divergence is /0:0\n" in missed.stderr
    refused = folder.run(*run, TINYTROUPE_RUN="record:run.tape")
    assert refused.returncode == 1
    assert "exists already" in refused.stderr
    wrong = folder.run(*run, TINYTROUPE_RUN="replya:run.tape")
    assert "environment TINYTROUPE_RUN" in wrong.stderr
    assert "did you mean replay?" in wrong.stderr
    forked = folder.run(*run, TINYTROUPE_RUN="fork:run.tape:to=new.tape:at=/0:1")
    assert forked.returncode == 0
    assert folder.read("new.tape").header["forked_from"]["at"] == "/0:1"


def test_config_ini_is_enough(folder):
    """[Run] in config.ini records a script, and names its agents by the resolver given there."""
    folder.write("asking.py", BY_DOOR)
    folder.write("names.py", "def name(call):\n    return call.request.messages[0].content[:3]\n")
    folder.write(
        "config.ini",
        "[OpenAI]\nAPI_TYPE=rehearsal\nCACHE_API_CALLS=off\n"
        "[Run]\nRUN=record:run.tape\nRESOLVER=names.name\nCACHE_SAMPLES=shared\n",
    )
    folder.write("asks.py", ASK + "print(ask('Lee') == ask('Lee'), ask('Max')[:0])\n")
    del folder.environment["TINYTROUPE_API_TYPE"]
    done = folder.run(sys.executable, "asks.py")
    assert (done.returncode, done.stderr) == (0, "")
    recording = folder.read()
    assert [take.lane for take in recording.takes] == ["Lee", "Lee", "Max"]
    assert recording.header["settings"]["cache_samples"] == "shared"
    assert recording.header["settings"]["api_type"] == "rehearsal"


def test_a_run_that_begins_too_late_says_so(folder):
    """Where config.ini is first read in a worker thread, no thread is taken for the root."""
    folder.write("asking.py", BY_DOOR)
    folder.write("config.ini", "[Run]\nRUN=record:run.tape\n")
    done = folder.run(sys.executable, "sim.py")
    assert done.returncode == 0
    assert "too late to tell their calls apart" in done.stderr
    assert "tinytroupe record" in done.stderr
    recording = folder.read()
    assert len(recording.takes) == 6
    assert all(recording.is_ambiguous(take) for take in recording.takes)


def test_the_command_line_itself_takes_no_part(recorded):
    """With the variable set in a shell, looking at tapes begins no run."""
    variable = {"TINYTROUPE_RUN": "record:other.tape"}
    assert recorded.tinytroupe("diff", "run.tape", "run.tape", **variable).returncode == 0
    assert not (recorded.path / "other.tape").exists()


CHILDREN = """
import os, subprocess, sys
{ask}
if len(sys.argv) > 1:
    print("child", len(ask("I am a child")) > 0)
    sys.exit()
ask("I am the parent")
for _ in range(2):
    child = subprocess.run([sys.executable, __file__, "child"], capture_output=True, text=True)
    print(child.stdout, child.stderr.count("not part of that run"), child.stderr[-300:])
sys.stdout.flush()
if os.fork() == 0:
    try:
        ask("I am a fork")
        ask("I still am")
    finally:
        os._exit(0)
os.wait()
ask("I am done")
"""


@posix
def test_child_processes_do_not_write_onto_the_tape(folder):
    """A started or forked child says once that its calls are not part of the run, and goes live."""
    folder.write("parents.py", CHILDREN.format(ask=ASK))
    done = folder.simulate("record", "run.tape", script="parents.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("child True\n 1 ") == 2
    assert done.stderr.count("not part of that run: they go live and are not recorded") == 1
    asked = [event["request"]["messages"][0]["content"] for event in folder.read().events()]
    assert asked == ["I am the parent", "I am done"]


@posix
def test_child_processes_of_a_replay_do_not_go_live(folder):
    """What a child asks is not on the tape, and a replay stays off the network."""
    folder.write("parents.py", CHILDREN.format(ask=ASK))
    folder.simulate("record", "run.tape", script="parents.py")
    done = folder.simulate("replay", "run.tape", script="parents.py")
    assert "child True" not in done.stdout
    assert done.stdout.count("a replay does not go live") == 2


@posix
def test_a_program_that_replaces_itself_goes_on_with_its_run(folder):
    """After exec the process is the same, so it resumes its own tape instead of refusing it."""
    folder.write(
        "again.py",
        ASK + "import os, sys\nask('one')\nif len(sys.argv) < 2:\n"
        "    os.execv(sys.executable, [sys.executable, __file__, 'again'])\nask('two')\n",
    )
    done = folder.simulate("record", "run.tape", script="again.py")
    assert done.returncode == 0, done.stderr
    assert [take.order for take in folder.read().takes] == [0, 1]


@posix
def test_two_programs_of_one_command_do_not_share_a_tape(folder):
    """The second program of a shell script cannot record over the first one's tape."""
    folder.write("ask.py", ASK + "ask('Hello')\n")
    script = f"{sys.executable} ask.py; {sys.executable} ask.py"
    done = folder.tinytroupe("record", "run.tape", "--", "sh", "-c", script)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert len(folder.read().takes) == 1


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 21), (signal.SIGKILL, 137)])
def test_signals_are_the_commands_own(folder, number, code):
    """SIGTERM is passed on, and what the command makes of it counts; a killed one gives 128+n."""
    folder.write(
        "waits.py",
        ASK + "import signal, sys, os\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(21))\nask('Hello')\n"
        "print(os.getpid(), flush=True)\nsignal.pause()\n",
    )
    words = [sys.executable, "-m", "tinytroupe", "record", "run.tape", "--"]
    with subprocess.Popen(
        [*words, sys.executable, "waits.py"],
        cwd=folder.path,
        env=folder.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        os.kill(process.pid if number == signal.SIGTERM else child, number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert "run.tape holds 1 call of 1 lane" in said


@posix
def test_on_a_terminal_the_difference_is_in_colour(recorded):
    """Red and green on a terminal, unless NO_COLOR is set."""
    red, green = "\x1b[31m[-data scientist-]\x1b[0m", "\x1b[32m{+poet+}\x1b[0m"
    shown = run_on_terminal(recorded, LISA="poet")
    assert f"{red}{green}" in shown
    assert red not in run_on_terminal(recorded, LISA="poet", NO_COLOR="1")


def run_on_terminal(folder: Folder, **variables: str) -> str:
    """Runs the replay with a terminal for its output and errors; returns what it shows."""
    import pty

    main, terminal = pty.openpty()
    words = [sys.executable, "-m", "tinytroupe", "replay", "run.tape", "--", sys.executable]
    environment = {**folder.environment, "TERM": "xterm", **variables}
    process = subprocess.Popen(
        [*words, "sim.py"], cwd=folder.path, env=environment, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        if not select.select([main], [], [], 0.1)[0]:
            if process.poll() is not None:
                break
            continue
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait(30) == 1
    return shown.decode("utf-8", "replace")


VARYING = """
import datetime, random, uuid
from concurrent.futures import ThreadPoolExecutor
from tinytroupe.llm.runs.lanes import lane
{ask}
FRIENDS = ["Lisa", "Oscar", "Marcos", "Sofia", "Emily", "Anna", "Bob", "Carla", "Dora"]
def clock():
    ask(f"It is {{datetime.datetime.now()}}. What do you do?")
def dice():
    answer = ask(f"You rolled {{random.random()}}.")
    ask(f"{{answer}} And now?")
def ids():
    ask(f"Session {{uuid.uuid4()}} begins.")
def friends():
    ask("Your friends: " + ", ".join(set(FRIENDS)))
def steady():
    ask(f"You said: {{ask('Hello')}}")
def live(agent):
    with lane(agent.__name__):
        agent()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(live, [clock, dice, ids, friends, steady]))
"""


def test_check_names_all_that_varies(folder):
    """One report lists the lanes whose requests vary, and by what, and none that follows."""
    folder.write("varies.py", VARYING.format(ask=ASK))
    assert folder.simulate("record", "run.tape", script="varies.py").returncode == 0
    done = folder.simulate("check", "run.tape", "--times", "2", "--json", script="varies.py")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["replays"], report["deterministic"], report["substituted"]) == (2, False, True)
    assert {lane["lane"]: (lane["causes"], lane["calls"]) for lane in report["lanes"]} == {
        "clock": (["time"], 1),
        "dice": (["random"], 1),
        "ids": (["random"], 1),
        "friends": (["order"], 1),
    }
    told = folder.simulate("check", "run.tape", script="varies.py")
    assert told.returncode == 1
    assert "were given the recorded answers of the calls in their place" in told.stdout
    assert "the order of items, as a set's" in told.stdout
    assert "steady" not in told.stdout


def test_check_passes_what_is_deterministic(recorded):
    """The same requests in every replay give exit code 0; a changed prompt is told as one."""
    done = recorded.simulate("check", "run.tape", "--times", "2")
    assert done.returncode == 0
    assert "Deterministic: 2 replays of run.tape, 6 calls, all as recorded." in done.stdout
    changed = recorded.simulate("check", "run.tape", "--times", "2", LISA="poet")
    assert changed.returncode == 1
    assert "the code or a prompt was changed since it was recorded" in changed.stdout
    assert recorded.tinytroupe("check", "run.tape", "--", "true").returncode == 2


def make_report(tape: Path, **facts: object) -> ReplayReport:
    first = Divergence(
        "lisa", "/lisa", 0, "never", 2, "lisa:0", (Difference("seed", "1", "2"),), purpose="plan"
    )
    values = {"state": "ended", "written_at": "now", "answered": 1, "differing": 1, "first": first}
    return ReplayReport(str(tape), "", **{**values, **facts})


def test_reports_are_read_as_they_were_written(tmp_path):
    """A report survives its file; what is none, or was cut, is refused."""
    report = make_report(tmp_path / "run.tape", lanes={"lisa": 1}, unplayed_names=("lisa:0",))
    path = tmp_path / "report.json"
    write_report(report, path)
    assert read_report(path) == report
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]
    for content in (path.read_bytes()[:99], b"[]", b'{"format": 99}', b'{"format": 1}', b""):
        path.write_bytes(content)
        with pytest.raises(StoreError):
            read_report(path)


def test_a_report_of_a_tape_in_a_read_only_folder_is_kept_aside(tmp_path):
    """Where nothing can be written beside the tape, its report is kept among temporary files."""
    tape = tmp_path / "gone" / "run.tape"
    place = publish_report(make_report(tape), tape)
    try:
        assert place is not None
        assert place.parent != tape.parent
        assert find_report(tape) == place
    finally:
        publish_report(make_report(tape, differing=0, first=None), tape)
    assert find_report(tape) is None


names = st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text)


@given(
    st.builds(
        RunPlan,
        mode=st.sampled_from(["record", "resume", "replay"]),
        path=names,
        latency=st.booleans(),
        substitute=st.booleans(),
        status_folder=st.none() | names,
    )
    | st.builds(
        RunPlan,
        mode=st.just("fork"),
        path=names,
        to=names,
        at=st.none() | names,
        replace=st.dictionaries(names, st.text(max_size=20), max_size=3),
    )
)
def test_a_plan_is_read_as_it_was_written(plan):
    """What a command wants reaches the simulation whole, whatever is in names and texts."""
    text = plan.to_text()
    assert "\n" not in text
    again = parse_plan(text)
    assert again.tape == plan.tape
    assert again.to_text() == text


def test_plans_are_written_shortly():
    """The short forms name the tape, and a fork its tape, point and replaced answers."""
    assert parse_plan("record:C:\\runs\\a b.tape") == RunPlan("record", "C:\\runs\\a b.tape")
    assert parse_plan("fork:a:to=b:at=12:replace=x:1=No: no.:replace=y/z:0=") == RunPlan(
        "fork", "a", to="b", at="12", replace={"x:1": "No: no.", "y/z:0": ""}
    )
    assert parse_plan("fork:a:to=b:at=12").point == 12
    assert parse_plan("fork:a:to=b:at=lisa:1").point == "lisa:1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run.tape", "it must be record:PATH"),
        ("recrod:x", "did you mean record?"),
        ("record:", "names no tape"),
        ("fork:a", "needs a tape of its own"),
        ("fork:a:to=b:replace=c", "replaces nothing"),
        ("{", "cannot be read as JSON"),
        ('{"mode": "x", "path": "y"}', "asks for 'x'"),
        ('{"colour": "red"}', "cannot be read"),
    ],
)
def test_a_plan_that_cannot_be_read_says_what_may_stand_there(text, said):
    """Every mistake in RUN is one sentence."""
    with pytest.raises(ConfigError, match=said):
        parse_plan(text)
