"""Two runs side by side: what corresponds, what differs, what came first; as a page; and causes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fakes import FakeTransport, chat_content
from hypothesis import given, settings
from hypothesis import strategies as st

from tinytroupe import cli
from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import BadRequest, LLMError
from tinytroupe.llm.request import Attempt, Call, CallOptions, Request, chat_request
from tinytroupe.llm.runs.comparison import CallChange, compare_recordings, find_first_change
from tinytroupe.llm.runs.divergence import Difference
from tinytroupe.llm.runs.lanes import lane
from tinytroupe.llm.runs.page import write_page
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.runs.variation import find_causes, find_variations

AGENTS = ("lisa", "oscar", "sofia")


def ask(text: str, **parameters: object) -> Request:
    return chat_request("fake", [{"role": "user", "content": text}], **parameters)


def record(
    path: Path,
    scripts: dict[str, list[str]],
    answer: Callable[[str], str] = str.upper,
    seed: int = 0,
) -> Path:
    """Records agents that each ask a list of questions, in an order of lanes by chance."""

    def reply(attempt: Attempt) -> bytes:
        text = str(attempt.call.request.messages[-1].content)
        if text.startswith("fail"):
            raise BadRequest("the endpoint did not like it")
        return chat_content(answer(text))

    draw = random.Random(seed)

    async def live(client: AsyncClient, name: str, questions: list[str]) -> None:
        with lane(name):
            for question in questions:
                for _ in range(draw.randrange(4)):
                    await asyncio.sleep(0)
                try:
                    await client.send(ask(question))
                except LLMError:
                    continue

    async def live_all() -> None:
        client = AsyncClient(FakeTransport(reply))
        async with Run.record(path):
            tasks = [live(client, name, questions) for name, questions in scripts.items()]
            await asyncio.gather(*tasks)

    asyncio.run(live_all())
    return path


SCRIPTS = {name: [f"{name} asks {number}" for number in range(3)] for name in AGENTS}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_same_run_under_another_schedule_is_the_same(tmp_path_factory, seed):
    """The order in which lanes were answered is no difference."""
    folder = tmp_path_factory.mktemp("tapes")
    one = record(folder / "1.tape", SCRIPTS, seed=seed)
    two = record(folder / "2.tape", SCRIPTS, seed=seed + 1)
    comparison = compare_recordings(one, two)
    assert comparison.same
    assert [lane.changes for lane in comparison.lanes] == [()] * 3
    assert sorted(lane.lane for lane in comparison.lanes) == list(AGENTS)
    assert comparison.one.sums == dataclasses.replace(
        comparison.two.sums, seconds=comparison.one.sums.seconds
    )


def test_each_kind_of_change_is_told_apart(tmp_path):
    """Asked differently, answered differently, no longer asked, and new."""
    changed = {
        "lisa": ["lisa asks 0", "lisa asks again", "lisa asks 2"],
        "oscar": ["oscar asks 0", "oscar asks 2"],
        "sofia": ["sofia asks 0", "sofia asks 0.5", "sofia asks 1", "sofia asks 2"],
        "emily": ["emily asks"],
    }
    one = record(tmp_path / "1.tape", SCRIPTS)
    two = record(
        tmp_path / "2.tape", changed, lambda text: "so" if text == "lisa asks 0" else text.upper()
    )
    lanes = {lane.lane: lane for lane in compare_recordings(one, two).lanes}
    found = {name: [(each.kind, each.name) for each in lanes[name].changes] for name in lanes}
    assert found == {
        "lisa": [("answer", "lisa:0"), ("prompt", "lisa:1")],
        "oscar": [("removed", "oscar:1")],
        "sofia": [("added", "sofia:1")],
        "emily": [("added", "emily:0")],
    }
    lisa = lanes["lisa"].changes
    assert lisa[0].prompt == ()
    assert lisa[0].answer == (Difference("answer", "LISA ASKS 0", "so"),)
    assert lisa[1].prompt == (Difference("messages[0].content", "lisa asks 1", "lisa asks again"),)
    assert lanes["lisa"].changed_answers == 2
    assert lanes["sofia"].count("prompt", "removed", "added") == 1
    assert lanes["emily"].branch is None
    assert (lanes["sofia"].sums.calls, lanes["sofia"].other_sums.calls) == (3, 4)


def test_errors_and_tokens_are_added_up(tmp_path):
    """A failed call counts as an error and differs from an answer; tokens are the recorded ones."""
    one = record(tmp_path / "1.tape", {"lisa": ["a", "b", "c"]})
    two = record(tmp_path / "2.tape", {"lisa": ["a", "fail", "c"]})
    comparison = compare_recordings(one, two)
    assert (comparison.one.sums.errors, comparison.two.sums.errors) == (0, 1)
    assert (comparison.one.sums.input_tokens, comparison.two.sums.input_tokens) == (21, 14)
    assert comparison.one.sums.tokens == 30
    [change] = comparison.lanes[0].changes
    assert [each.part for each in change.answer] == ["answer", "finish_reason", "error"]
    assert change.answer[2].asked == "BadRequest: the endpoint did not like it"
    assert comparison.one.models == ("fake",)
    assert comparison.one.ended


def test_lanes_correspond_when_others_are_put_before_them(tmp_path):
    """A new agent at the front shifts every thread's place, and no lane is mistaken for another."""

    def live(path: Path, agents: list[str]) -> Path:
        client = Client(FakeTransport(lambda attempt: chat_content("yes")))
        with Run.record(path), ThreadPoolExecutor(3) as pool:
            for agent in agents:
                pool.submit(client.send, ask(f"You are {agent}."))
        return path

    one = live(tmp_path / "1.tape", ["lisa", "oscar", "sofia"])
    two = live(tmp_path / "2.tape", ["emily", "lisa", "oscar", "sofia"])
    changes = [each for lane in compare_recordings(one, two).lanes for each in lane.changes]
    assert [each.kind for each in changes] == ["added"]
    assert "You are emily." in [part.asked for part in changes[0].prompt][-1]


def test_calls_that_cannot_be_told_apart_are_compared_by_what_they_ask(tmp_path):
    """Workers that share a queue make the same calls in another order: no difference."""
    import queue
    import threading

    def live(path: Path, seed: int) -> Path:
        client = Client(FakeTransport())
        jobs: queue.Queue[str | None] = queue.Queue()
        draw = random.Random(seed)

        def work() -> None:
            while (job := jobs.get()) is not None:
                client.send(ask(job))

        questions = [f"question {number}" for number in range(20)]
        draw.shuffle(questions)
        with Run.record(path):
            workers = [threading.Thread(target=work) for _ in range(3)]
            for worker in workers:
                worker.start()
            for question in [*questions, None, None, None]:
                jobs.put(question)
            for worker in workers:
                worker.join()
        return path

    comparison = compare_recordings(live(tmp_path / "1.tape", 1), live(tmp_path / "2.tape", 2))
    assert comparison.same
    assert comparison.one.sums.calls == 20


def change(kind, line, other_line):
    return CallChange(kind, "x", f"x:{line}", line, other_line)


def test_the_first_change_has_nothing_before_it():
    """By the first tape's lines; where a call was added before it, by the second tape's."""
    assert find_first_change([]) is None
    changes = [change("prompt", 9, 3), change("answer", 4, 8), change("removed", 6, 2)]
    assert find_first_change(changes) == changes[1]
    added = change("added", 3, 5)
    assert find_first_change([*changes[1:], added]) == added
    assert find_first_change([change("answer", 4, 8), change("added", 3, 9)]).kind == "answer"
    assert find_first_change([change("added", 3, 9), change("added", 0, 4)]).other_line == 4


class Page(HTMLParser):
    """Collects what a page holds, and fails on markup that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.update(attributes)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


HOSTILE = (
    "</pre><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x1b[2J\u202e\x00\U0001f600"
)


def test_the_page_needs_nothing_and_runs_nothing(tmp_path):
    """Whatever prompts, answers and lanes hold is text; there is no script and no other file."""
    name = "<b>lisa</b>"
    one = record(tmp_path / "1.tape", {name: ["one", HOSTILE]}, lambda text: text)
    two = record(tmp_path / "2.tape", {name: ["two", HOSTILE + " more"]}, lambda text: text)
    html = write_page(compare_recordings(one, two))
    page = Page()
    page.feed(html)
    page.close()
    assert not page.open
    assert not {"script", "img", "link", "iframe", "b"} & set(page.tags)
    assert not {"src", "href", "onerror", "onload", "style"} & set(page.attributes)
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert not {"\x1b", "\u202e", "\x00"} & set(html)
    assert "<script>alert(1)</script>" in page.text
    assert "<b>lisa</b>:1" in page.text
    assert "<del>one</del><ins>two</ins>" in html


def test_the_page_of_a_thousand_changes_stays_small(tmp_path):
    """However much differs, a browser can still open the page, and the rest is counted."""
    long = "word " * 5000
    scripts = {f"agent {number}": [f"{long} {number}"] for number in range(400)}
    other = {name: [f"{texts[0]} more", "new"] for name, texts in scripts.items()}
    one, two = record(tmp_path / "1.tape", scripts), record(tmp_path / "2.tape", other)
    html = write_page(compare_recordings(one, two))
    assert len(html) < 5_000_000
    assert "more lanes that changed" in html


def test_diff_tells_the_first_divergence_lanes_and_sums(tmp_path, capsys, monkeypatch):
    """The command's text, JSON and page; 0 for the same runs, 1 for others, as diff does."""
    monkeypatch.chdir(tmp_path)
    record(Path("1.tape"), SCRIPTS)
    record(Path("2.tape"), {**SCRIPTS, "oscar": ["oscar asks 0", "oscar begs", "oscar asks 2"]})
    assert cli.main(["diff", "1.tape", "1.tape"]) == 0
    assert "Both runs ask the same and are answered the same." in capsys.readouterr().out
    assert cli.main(["diff", "1.tape", "2.tape", "--html", "page.html"]) == 1
    told = capsys.readouterr().out
    assert "1: 1.tape, 9 calls, 63 input and 27 output tokens" in told
    assert "The first divergence:\noscar:1 is asked differently\n" in told
    assert "messages[0].content: oscar [-asks 1-]{+begs+}" in told
    assert "answer: OSCAR [-ASKS 1-]{+BEGS+}" in told
    row = next(line for line in told.splitlines() if line.startswith("oscar  "))
    assert row.split()[:7] == ["oscar", "3", "3", "1", "1", "30", "30"]
    assert row.split()[-1] == "oscar:1"
    assert "oscar:1" in Path("page.html").read_text(encoding="utf-8")
    assert cli.main(["diff", "1.tape", "2.tape", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["same"] is False
    assert facts["first"]["name"] == "oscar:1"
    assert facts["one"]["sums"]["calls"] == 9
    assert cli.main(["diff", "1.tape", "2.tape", "--html", "none/page.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_values_of_a_comparison_are_frozen(tmp_path):
    """A comparison can be kept and passed on: nobody can change it."""
    comparison = compare_recordings(
        record(tmp_path / "1.tape", SCRIPTS), record(tmp_path / "2.tape", SCRIPTS)
    )
    for value in (comparison, comparison.one, comparison.lanes[0], comparison.one.sums):
        field = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, None)


def test_options_are_no_difference(tmp_path):
    """A run compares what was asked, not how: purposes and deadlines do not count."""
    client = Client(FakeTransport())
    for path, purpose in (("1.tape", "plan"), ("2.tape", "think")):
        with Run.record(tmp_path / path):
            client.send(Call(ask("Hello"), CallOptions(purpose=purpose)))
    assert compare_recordings(tmp_path / "1.tape", tmp_path / "2.tape").same


@pytest.mark.parametrize(
    ("recorded", "asked", "causes"),
    [
        ("It is 2026-05-05 10:15:03.", "It is 2026-05-06 09:01:59.", ["time"]),
        ("Today is Tuesday, 5 May 2026.", "Today is Friday, 8 May 2026.", ["time"]),
        ("May 5th, 2026, 9:30 am", "June 12th, 2027, 11:45 pm", ["time"]),
        ("on 05/05/2026", "on 12.06.2027", ["time"]),
        ("at 1778000000.123", "at 1778000777.9", ["time"]),
        ("took 0.5 seconds", "took 12 seconds", ["time"]),
        ("You rolled 0.8444", "You rolled 0.7579", ["random"]),
        ("You have 3 coins and -4e-5 debts", "You have 17 coins and 0 debts", ["random"]),
        (
            "id 6048f265-781e-4f50-877c-737da15f075e",
            "id d2a810e5-613c-4444-a9b6-70e46f95c435",
            ["random"],
        ),
        ("<Agent at 0x7ffafa864bf0>", "<Agent at 0x7f6d1ada4bc0>", ["random"]),
        ("agent_12 of run deadbeef01", "agent_7 of run cafe1234ab", ["random"]),
        ("Lisa, Oscar, Bob", "Bob, Lisa, Oscar", ["order"]),
        ("{'a', 'b'}\n- c\n- d", "{'b', 'a'}\n- d\n- c", ["order"]),
        ("10:15 Lisa, Bob", "11:20 Bob, Lisa", ["time", "order"]),
        ("7 coins: Lisa, Bob", "9 coins: Bob, Lisa", ["random", "order"]),
        ("at 10:15 you rolled 5", "at 11:20 you rolled 66", ["time", "random"]),
        ("a data scientist", "a poet", ["other"]),
        ("a data scientist at 10:15", "a poet at 11:20", ["other"]),
        (None, "a new part", ["other"]),
    ],
)
def test_what_varies_is_named(recorded, asked, causes):
    """Times, numbers and ids, and the order of items are told apart, alone and together."""
    difference = Difference("messages[0].content", recorded, asked)
    assert list(find_causes([difference])) == causes


def test_items_that_changed_places_are_an_order():
    """Parts of a request that differ each for itself, but not together, changed places."""
    swapped = [Difference("stop[0]", "yes", "no"), Difference("stop[1]", "no", "yes")]
    assert find_causes(swapped) == ("order",)
    assert find_causes([*swapped, Difference("seed", "1", "2")]) == ("random", "order")


def test_threads_that_start_in_another_order_are_found(tmp_path):
    """Where each thread asks what another one asked when recorded, the order of threads varies."""
    client = Client(FakeTransport())

    def live(run: Run, agents: tuple[str, ...]) -> Run:
        with run, ThreadPoolExecutor(3) as pool:
            for agent in agents:
                pool.submit(client.send, ask(f"You are {agent}."))
        return run

    tape = tmp_path / "run.tape"
    live(Run.record(tape), AGENTS)
    assert find_variations([live(Run.replay(tape, substitute=True), AGENTS).report]) == []
    report = live(Run.replay(tape, substitute=True), AGENTS[::-1]).report
    assert report.moved == 2
    assert [(each.causes, each.calls) for each in find_variations([report])] == [
        (("order",), 1),
        (("order",), 1),
    ]


@given(st.text(alphabet="0123456789abcdef-:T.xs ", max_size=3000))
def test_causes_are_found_in_time(text):
    """No text makes the patterns search for long."""
    find_causes([Difference("part", text * 20, text * 20 + "!")])
