"""Where a replay differs from its recording: found, shown in words, first things first."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fakes import FakeTransport, chat_content
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import LLMError, ReplayMiss
from tinytroupe.llm.request import Request, chat_request
from tinytroupe.llm.runs.alignment import align
from tinytroupe.llm.runs.divergence import (
    Difference,
    Divergence,
    compare_requests,
    cut_difference,
    find_first,
)
from tinytroupe.llm.runs.explanation import escape, explain_report, format_differences
from tinytroupe.llm.runs.lanes import lane
from tinytroupe.llm.runs.points import find_take
from tinytroupe.llm.runs.recording import Recording
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.runs.words import compare_words

AGENTS = ("lisa", "oscar", "marcos", "sofia", "emily")
ROUNDS = 3

texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="ab \n.", max_size=80),
    st.lists(st.sampled_from(["one", "two", "three ", " ", "\n", "It is 10:15."]), max_size=40).map(
        "".join
    ),
)


def join(runs, without):
    return "".join(text for change, text in runs if change != without)


@given(texts, texts)
def test_both_texts_can_be_put_together_again(recorded, asked):
    """What stayed and went is the one text, what stayed and came the other."""
    runs = compare_words(recorded, asked)
    assert join(runs, "added") == recorded
    assert join(runs, "removed") == asked
    assert all(text for _, text in runs)
    assert runs == compare_words(recorded, asked)


@given(texts)
def test_equal_texts_have_no_changes(text):
    """Of a text and itself all stayed."""
    assert all(change == "same" for change, _ in compare_words(text, text))


@given(
    st.lists(st.integers(0, 3), max_size=25),
    st.lists(st.integers(0, 3), max_size=25),
)
def test_as_much_as_possible_stays(one, two):
    """What two sequences are found to have in common is the longest that they have."""
    blocks = align(one, two)
    assert blocks is not None
    kept = [item for block in blocks if block.same for item in one[block.start : block.stop]]
    others = [two[block.other_start : block.other_stop] for block in blocks if block.same]
    assert kept == [item for other in others for item in other]
    assert len(kept) == measure_longest_common(one, two)


def measure_longest_common(one, two):
    lengths = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, j in itertools.product(range(len(one)), range(len(two))):
        longest = max(lengths[i][j + 1], lengths[i + 1][j])
        lengths[i + 1][j + 1] = lengths[i][j] + 1 if one[i] == two[j] else longest
    return lengths[-1][-1]


def test_words_change_as_words():
    """A changed word is shown whole, and changed words side by side as one change."""
    assert compare_words("You are Lisa, a data scientist.", "You are Lisa, a calm poet.") == [
        ("same", "You are Lisa, a "),
        ("removed", "data scientist"),
        ("added", "calm poet"),
        ("same", "."),
    ]


def make_long_text(words: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(10**6)}" for _ in range(words))


LONG = make_long_text(1_300_000, 1)


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [
        (LONG, LONG[:5_000_000] + " changed " + LONG[5_000_000:]),
        (LONG, LONG[::-1]),
        (LONG, make_long_text(1_300_000, 2)),
        (LONG.replace(" ", "\n"), make_long_text(1_300_000, 3).replace(" ", "\n")),
        ("x" * 10_000_000, "y" * 10_000_000),
        ("a b " * 200_000, "b a c " * 200_000),
    ],
    ids=["a word", "backwards", "other words", "other lines", "one long word", "repeating"],
)
def test_ten_million_characters_are_compared_in_bounded_time(recorded, asked):
    """However long two prompts are, comparing and showing them takes moments, not minutes."""
    started = time.perf_counter()
    runs = compare_words(recorded, asked)
    shown = format_differences([Difference("messages[0].content", recorded, asked)])
    assert time.perf_counter() - started < 20
    assert join(runs, "added") == recorded
    assert join(runs, "removed") == asked
    assert len(shown) == 1
    assert len(shown[0]) < 12_000


def test_many_changes_do_not_flood_the_terminal():
    """Thousands of changed words and hundreds of changed parts are shown in a few lines."""
    one = " ".join(f"word {number}" for number in range(3000))
    two = " ".join(f"word {number + number % 2}" for number in range(3000))
    shown = format_differences([Difference("prompt", one, two)] * 300)
    assert len(shown) == 9
    assert shown[-1] == "… and 292 more parts"
    assert max(map(len, shown)) < 12_000


@given(st.text(max_size=50))
def test_no_text_can_steer_the_terminal(text):
    """What a model or a prompt says cannot move the cursor, change colours or reverse a line."""
    shown = escape(text)
    assert all(character.isprintable() or character in "\u200c\u200d\u3000" for character in shown)


def test_colours_are_only_those_asked_for():
    """With colour what went is red and what came green; without there is no escape at all."""
    difference = Difference("prompt", "calm \x1b[2Jday", "calm night")
    plain, coloured = (format_differences([difference], colour)[0] for colour in (False, True))
    assert plain == r"prompt: calm [-\x1b[2Jday-]{+night+}"
    assert coloured == ("prompt: calm \x1b[31m[-\\x1b[2Jday-]\x1b[0m\x1b[32m{+night+}\x1b[0m")


@pytest.mark.parametrize(
    ("recorded", "asked", "expected"),
    [
        ({"seed": 1}, {"seed": 1.0}, [("seed", "1", "1.0")]),
        ({"seed": 1}, {"seed": "1"}, [("seed", "1", '"1"')]),
        ({"stop": None}, {}, [("stop", "null", None)]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [("a.b[1]", "2", "3")]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"stop": "x"}, {"stop": ["x"]}, [("stop", "x", '["x"]')]),
    ],
    ids=["number", "text", "null", "nested", "order of names", "list"],
)
def test_each_kind_of_value_is_told_apart(recorded, asked, expected):
    """Values that are written differently are never shown as if they were alike."""
    found = [(each.part, each.recorded, each.asked) for each in compare_requests(recorded, asked)]
    assert found == expected


def test_a_message_put_in_front_is_one_difference():
    """Messages are compared with those they correspond to, not with those of the same number."""
    messages = [{"role": "user", "content": f"line {number}"} for number in range(5)]
    more = [messages[0], {"role": "user", "content": "By the way."}, *messages[1:]]
    added = list(compare_requests({"messages": messages}, {"messages": more}))
    assert [(each.part, each.recorded is None) for each in added] == [("messages[1]", True)]
    removed = list(compare_requests({"messages": more}, {"messages": messages}))
    assert [(each.part, each.asked is None) for each in removed] == [("messages[1]", True)]


@given(texts, texts, st.integers(1, 50))
def test_a_cut_difference_still_shows_the_change(recorded, asked, limit):
    """Cutting long texts keeps two different texts different, and short."""
    cut = cut_difference(Difference("part", recorded * 9, asked * 9), limit)
    assert (cut.recorded == cut.asked) <= (recorded == asked) or len(recorded + asked) * 9 > limit
    assert len(cut.recorded or "") <= limit + 40 or len(recorded) * 9 <= limit


def locate(place, arrival, located=True):
    return Divergence("x", "/x", 0, "", place, None, arrival=arrival, located=located)


def test_the_first_divergence_has_nothing_before_it():
    """By place where the tape has one, by arrival where only that can tell."""
    assert find_first([]) is None
    assert find_first([locate(9, 0), locate(4, 1), locate(7, 2)]).place == 4
    assert find_first([locate(9, 1), locate(2, 0, False)]).place == 2
    assert find_first([locate(3, 1), locate(5, 0, False)]).place == 3
    assert find_first([locate(9, 0), locate(2, 1, False)]).place == 9
    assert find_first([locate(9, 1), locate(20, 0), locate(2, 2, False)]).place == 9


@dataclass(frozen=True)
class Variant:
    """How a simulation differs from the one that was recorded."""

    agent: str = ""
    round: int = -1
    kind: str = ""

    def is_at(self, agent: str, number: int, kind: str) -> bool:
        return (agent, number, kind) == (self.agent, self.round, self.kind)


class Society:
    """Agents that hear in each round what all said in the last; none is stopped by an error.

    Its tasks go on in an order that the seed decides, and nothing else.
    """

    def __init__(self, client: AsyncClient, seed: int, variant: Variant, patient: bool) -> None:
        self.client = client
        self.draw = random.Random(seed)
        self.variant = variant
        self.patient = patient

    async def live(self) -> None:
        said = dict.fromkeys(AGENTS, "")
        for number in range(ROUNDS):
            turns = [self.take_turn(agent, number, dict(said)) for agent in AGENTS]
            said = dict(zip(AGENTS, await asyncio.gather(*turns), strict=True))

    async def take_turn(self, agent: str, number: int, heard: dict[str, str]) -> str:
        with lane(agent):
            words = ""
            if not self.variant.is_at(agent, number, "left out"):
                opinion = "grumpy " if self.variant.is_at(agent, number, "changed") else ""
                words = await self.ask(f"Round {number}. Be a {opinion}person. Heard: {heard}")
            if self.variant.is_at(agent, number, "added"):
                words += await self.ask("Anything else?")
            if number == 1:
                words += await self.ask(f"Sum up {words} of {agent}.")
            return words

    async def ask(self, text: str) -> str:
        for _ in range(self.draw.randrange(6)):
            await asyncio.sleep(0)
        try:
            return await self.send(text)
        except LLMError:
            return await self.ask_again(text) if self.patient else "(silence)"

    async def ask_again(self, text: str) -> str:
        try:
            return await self.send(f"Please! {text}")
        except LLMError:
            return "(silence)"

    async def send(self, text: str) -> str:
        response = await self.client.send(ask(text))
        for _ in range(self.draw.randrange(6)):
            await asyncio.sleep(0)
        return response.text


def ask(text: str) -> Request:
    return chat_request("fake", [{"role": "user", "content": text}])


def answer_by_number() -> FakeTransport:
    numbers = itertools.count()
    return FakeTransport(lambda attempt: chat_content(f"answer {next(numbers)}"))


def run_society(run: Run, seed: int, variant: Variant = Variant(), patient: bool = False) -> None:
    async def live() -> None:
        run.start()
        await Society(AsyncClient(answer_by_number()), seed, variant, patient).live()

    asyncio.run(live())


@pytest.fixture(scope="module")
def tapes(tmp_path_factory) -> list[Path]:
    """The same society, recorded under different schedules."""
    folder = tmp_path_factory.mktemp("tapes")
    paths = [folder / f"{seed}.tape" for seed in range(5)]
    for seed, path in enumerate(paths):
        run = Run.record(path)
        run_society(run, seed)
        run.stop()
    return paths


def replay_society(
    tape: Path, seed: int, variant: Variant = Variant(), patient: bool = False
) -> Run:
    run = Run.replay(tape)
    run_society(run, seed, variant, patient)
    if variant.kind:
        with pytest.raises(ReplayMiss):
            run.stop()
    else:
        run.stop()
    return run


@settings(max_examples=20, deadline=None)
@given(tape=st.integers(0, 4), seed=st.integers(0, 10**6))
def test_an_unchanged_society_replays_under_every_schedule(tapes, tape, seed):
    """Without a change there is no divergence, and nothing is left on the tape."""
    run = replay_society(tapes[tape], seed)
    assert run.divergences == []
    assert run.find_unplayed() == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    tape=st.integers(0, 4),
    seed=st.integers(0, 10**6),
    agent=st.sampled_from(AGENTS),
    number=st.integers(0, ROUNDS - 1),
    kind=st.sampled_from(["changed", "added"]),
    patient=st.booleans(),
)
def test_the_changed_agent_is_named_under_every_schedule(
    tapes, tape, seed, agent, number, kind, patient
):
    """The first divergence is the changed call itself, however many others follow from it."""
    run = replay_society(tapes[tape], seed, Variant(agent, number, kind), patient)
    first = run.first_divergence
    assert first is not None
    assert run.report is not None
    assert run.report.first == first
    assert first.lane == agent
    orders = {"changed": {0: 0, 1: 1, 2: 3}, "added": {0: 1, 1: 2, 2: 1}}
    assert first.order == orders[kind][number]
    assert first.located == (kind == "changed" or number == 1)
    shown = "\n".join(format_differences(first.differences))
    if kind == "changed":
        assert shown.startswith(
            f"messages[0].content: …Round {number}. Be a {{+grumpy +}}person."
        ) or ("{+grumpy +}" in shown)
    if number < ROUNDS - 1:
        assert len(run.divergences) > len(AGENTS)
    told = explain_report(run.report)
    assert f"The first divergence is {first.name}\n" in told
    assert "Later" not in told[: told.index("The first divergence is")]


def test_a_call_that_is_left_out_is_named_before_what_follows(tapes):
    """A recorded call that the simulation skips is told with the first call that differs."""
    run = replay_society(tapes[0], 3, Variant("sofia", 1, "left out"))
    assert run.first_divergence is not None
    assert run.first_divergence.lane == "sofia"
    assert run.report is not None
    assert run.report.unplayed > 0


def test_every_call_is_found_by_its_name(tapes):
    """The name that is shown of a recorded call is the one that a fork finds it by."""
    recording = Recording(tapes[0])
    assert [find_take(recording, recording.name(take)) for take in recording.takes] == (
        recording.takes
    )
    assert {recording.name(take) for take in recording.takes if take.lane == "lisa"} == {
        f"lisa:{number}" for number in range(4)
    }


class Crew:
    """Agents in a pool of threads; each hears in its second turn what the one before it said."""

    def __init__(self, client: Client, draw: random.Random, changed: str = "") -> None:
        self.client = client
        self.draw = draw
        self.changed = changed

    def live(self) -> None:
        with ThreadPoolExecutor(3) as pool:
            said = list(pool.map(lambda agent: self.take_turn(agent, ""), AGENTS))
            heard = [said[-1], *said[:-1]]
            list(pool.map(self.take_turn, AGENTS, heard))

    def take_turn(self, agent: str, heard: str) -> str:
        with lane(agent):
            mood = "grumpy" if agent == self.changed and not heard else "calm"
            return self.ask(f"You are a {mood} person.") + self.ask(f"You heard: {heard}. Sum up.")

    def ask(self, text: str) -> str:
        for _ in range(self.draw.randrange(4)):
            time.sleep(0)
        try:
            return self.client.send(ask(text)).text
        except LLMError:
            return "(silence)"


def test_the_changed_agent_is_named_whatever_the_threads_do(tmp_path):
    """In a pool of threads, with equal first prompts, the changed agent's first call is named."""
    tape = tmp_path / "crew.tape"
    with Run.record(tape):
        Crew(Client(answer_by_number()), random.Random(0)).live()
    for seed in range(30):
        changed = AGENTS[seed % len(AGENTS)]
        run = Run.replay(tape)
        with pytest.raises(ReplayMiss, match=f"first divergence is {changed}:0"), run:
            Crew(Client(answer_by_number()), random.Random(seed), changed).live()
        assert run.first_divergence is not None
        assert (run.first_divergence.lane, run.first_divergence.order) == (changed, 0)
        assert len(run.divergences) > 1


def test_a_miss_says_all_that_is_needed(tmp_path):
    """The error names lane, position, tape, nearest call and what is different in it."""
    tape = tmp_path / "run.tape"
    with Run.record(tape), lane("lisa"):
        client = Client(FakeTransport())
        client.send(ask("Where do you live?"))
        client.send(ask("What do you like to eat?"))
    asked = [ask("Where do you live?"), ask("What do you like to drink?")]
    run, missed = replay_calls(tape, client, asked, "lisa")
    told = str(missed[0])
    assert f"the tape {tape} has no answer for lisa:1 (lane lisa, its call 1" in told
    assert "the nearest recorded call is lisa:1" in told
    assert "messages[0].content: What do you like to [-eat-]{+drink+}?" in told
    assert missed[0].lane == "lisa"
    assert run.report is not None
    assert "The first divergence is lisa:1" in explain_report(run.report)


def replay_calls(
    tape: Path, client: Client, asked: list[Request], name: str
) -> tuple[Run, list[ReplayMiss]]:
    """Replays calls that go on after a miss; returns the run and the errors."""
    run = Run.replay(tape).start()
    missed = []
    with lane(name):
        for request in asked:
            try:
                client.send(request)
            except ReplayMiss as error:
                missed.append(error)
    with pytest.raises(ReplayMiss):
        run.stop()
    return run, missed


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ask("Hello?"), "was asked once in all, and now once more"),
        (replace(ask("Hello?"), namespace="other"), "in another namespace"),
        (replace(ask("Hello?"), model="gpt-9"), "model: [-fake-]{+gpt-9+}"),
        (chat_request("fake", ask("Hello?").messages, seed=7), "seed: added: 7"),
    ],
    ids=["once more", "namespace", "model", "parameter"],
)
def test_the_reason_is_told(tmp_path, asked, said):
    """Whatever is different about a request, the error says it."""
    tape = tmp_path / "run.tape"
    client = Client(FakeTransport())
    with Run.record(tape), lane("lisa"):
        client.send(ask("Hello?"))
    _, missed = replay_calls(tape, client, [ask("Hello?"), asked], "lisa")
    assert said in str(missed[0])


def test_thousands_of_misses_cost_little(tmp_path):
    """A replay in which everything differs is explained without reading the tape for each call."""
    tape = tmp_path / "run.tape"
    client = Client(FakeTransport())
    with Run.record(tape), lane("lisa"):
        for number in range(3000):
            client.send(ask(f"Question {number}. " + "Please answer. " * 100))
    asked = [ask(f"Query {number}. " + "Please answer. " * 100) for number in range(3000)]
    started = time.perf_counter()
    run, missed = replay_calls(tape, client, asked, "lisa")
    assert len(missed) == 3000
    assert time.perf_counter() - started < 30
    assert len(run.divergences) == 3000
    assert run.report is not None
    assert run.report.first is not None
    assert run.report.first.order == 0
    assert len(run.report.later) == 1000
    assert explain_report(run.report).count("\n") < 60
