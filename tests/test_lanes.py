"""Who is asking: branches, their names, and what a run makes of them."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import fields, replace
from typing import Any

import pytest
import simulations
from fakes import FakeTransport
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from simulations import (
    Clients,
    DeadTransport,
    DrawingTransport,
    assert_exact,
    pause,
    read_branches,
    read_calls,
    record,
    replay,
)

from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.layers.replay import get_active
from tinytroupe.llm.meter import Meter
from tinytroupe.llm.request import Call, CallOptions, chat_request
from tinytroupe.llm.rules.lanes import (
    BEGINNING,
    DETACHED,
    FOREIGN_PATH,
    Branch,
    Mark,
    current_branch,
    is_contested,
)
from tinytroupe.llm.runs.lanes import lane
from tinytroupe.llm.runs.recording import Recording
from tinytroupe.llm.runs.run import Run

names = st.text(alphabet="ab/01'?²", min_size=1, max_size=6).filter(lambda name: name.strip("/"))


def make_root() -> Branch:
    return Branch(None, "", "")


def ask(text: str = "Hello.", **options: Any) -> Call:
    request = chat_request("model", [{"role": "user", "content": text}])
    return Call(request, CallOptions(**options))


def test_spawns_are_numbered_below_their_parent():
    """A spawn's path is its parent's and its number there."""
    root = make_root()
    first, second = root.spawn(), root.spawn()
    assert [first.path, second.path, second.spawn().path] == ["/0", "/1", "/1/0"]
    assert second.number(7).path == "/1/7"


def test_a_name_is_entered_again():
    """The same name below the same branch is the same branch; below another it is not."""
    root = make_root()
    job = root.spawn()
    assert root.enter("lisa") is root.enter("lisa")
    assert job.enter("lisa") is not root.enter("lisa")
    assert job.enter("lisa").path == "/0/lisa"
    assert job.enter("lisa").spawn().lane == "lisa"
    assert root.enter("team/lisa") is root.enter("team").enter("lisa")
    assert root.enter("team/lisa").lane == "team/lisa"
    assert root.enter("lisa").enter("plan").lane == "lisa/plan"


@given(st.lists(names, min_size=1, max_size=3), st.lists(names, min_size=1, max_size=3))
def test_what_is_named_alike_has_one_path_and_nothing_else_has(one, two):
    """Two chains of names lead to one path exactly when they are the same parts."""
    root = make_root()

    def follow(chain: list[str]) -> Branch:
        branch = root
        for name in chain:
            branch = branch.enter(name)
        return branch

    parts = [[part for part in "/".join(chain).split("/") if part] for chain in (one, two)]
    assert (follow(one) is follow(two)) == (parts[0] == parts[1])
    assert (follow(one).path == follow(two).path) == (parts[0] == parts[1])


class Tree(RuleBasedStateMachine):
    """Any way in which branches come to be, are fed, contested and go on."""

    def __init__(self) -> None:
        super().__init__()
        self.contested: dict[str, Mark] = {FOREIGN_PATH: BEGINNING}
        self.root = make_root()
        self.root.on_contest = self.note
        self.branches = [self.root, Branch.foreign(self.root)]
        self.calls: list[tuple[Branch, int]] = []

    def note(self, branch: Branch, since: Mark) -> None:
        self.contested[branch.path] = since

    def pick(self, number: int) -> Branch:
        return self.branches[number % len(self.branches)]

    def add(self, branch: Branch) -> None:
        if branch not in self.branches:
            self.branches.append(branch)

    @rule(number=st.integers(0))
    def spawn(self, number):
        self.add(self.pick(number).spawn())

    @rule(number=st.integers(0), name=names)
    def enter(self, number, name):
        self.add(self.pick(number).enter(name))

    @rule(number=st.integers(0))
    def call(self, number):
        branch = self.pick(number)
        self.calls.append((branch, branch.count_call("digest")[1]))

    @rule(number=st.integers(0), source=st.integers(1, 3))
    def feed(self, number, source):
        branch = self.pick(number)
        if not branch.is_named and branch is not self.root and not branch.fed_by:
            branch.fed_by = source

    @rule(number=st.integers(0), calls=st.integers(0, 3), spawns=st.integers(0, 3))
    def contest(self, number, calls, spawns):
        self.pick(number).contest(Mark(calls, spawns))

    @invariant()
    def paths_are_unique(self):
        """No two branches have one path."""
        assert len({branch.path for branch in self.branches}) == len(self.branches)

    @invariant()
    def the_tape_tells_what_the_branch_told(self):
        """What is ambiguous can be told from paths alone, as a reader of the tape has to."""
        for branch, order in self.calls:
            told = is_contested(branch.path, order, self.contested)
            assert told == branch.is_ambiguous(order), branch


Tree.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTree = Tree.TestCase


def test_a_contest_reaches_what_comes_after_it():
    """From its mark on a branch's calls and spawns are in doubt; a name ends the doubt."""
    root = make_root()
    before = root.spawn()
    root.count_call("digest")
    root.contest(root.mark())
    after = root.spawn()
    assert not root.is_ambiguous(0)
    assert root.is_ambiguous(1)
    assert not before.is_ambiguous(0)
    assert after.is_ambiguous(0)
    assert after.spawn().is_ambiguous(0)
    assert not after.enter("lisa").is_ambiguous(0)
    assert not root.enter("lisa").spawn().is_ambiguous(0)


def test_whoever_a_queue_feeds_is_known_by_name_only():
    """Below a fed branch a name is the same whichever branch it is."""
    root = make_root()
    one, two, own = root.spawn(), root.spawn(), root.spawn()
    one.fed_by = two.fed_by = 7
    assert one.enter("lisa") is two.spawn().enter("lisa") is root.enter("lisa")
    assert one.enter("lisa").enter("plan").path == "/lisa/plan"
    assert own.enter("lisa").path == "/2/lisa"
    assert not one.enter("lisa").is_ambiguous(0)


def test_a_number_that_chance_decided_is_left_out():
    """What is named below a spawn whose number is chance hangs from the spawn's parent."""
    root = make_root()
    loop = root.spawn()
    loop.unordered += 1
    one, two = loop.spawn(), loop.spawn()
    loop.unordered -= 1
    assert one.is_ambiguous(0)
    assert not loop.spawn().is_ambiguous(0)
    assert one.enter("lisa") is two.enter("lisa") is loop.enter("lisa")
    assert not one.enter("lisa").is_ambiguous(0)


def test_one_inside_a_name_at_a_time():
    """The same caller may be inside a name more than once; another one contests it."""
    name = make_root().enter("lisa")
    name.occupy("one")
    name.occupy("one")
    name.vacate()
    name.vacate()
    name.occupy("two")
    assert not name.is_ambiguous(0)
    name.occupy("one")
    assert name.is_ambiguous(0)


def test_a_name_shows_in_the_meter_without_a_run():
    """`lane` names calls for the meter, also where nothing is recorded."""
    meter = Meter()
    client = Client(FakeTransport(), meter=meter)
    with lane("lisa"):
        client.send(ask())
        with lane("plan"):
            client.send(ask())
        client.send(ask(lane="chosen"))
    client.send(ask())
    assert set(meter.summarize()) == {"lisa", "lisa/plan", "chosen", ""}
    assert current_branch.get() is None


@pytest.mark.parametrize("name", ["", "/", "//"])
def test_a_lane_needs_a_name(name):
    """A name of nothing is refused."""
    with pytest.raises(ConfigError, match="name"), lane(name):
        pass


def test_names_show_on_the_tape(tmp_path):
    """A call's lane is what people called it: by `lane`, its options, or its place."""
    tape = tmp_path / "run.tape"

    def simulate(clients: Clients) -> None:
        client = clients.blocking
        client.send(ask())
        client.send(ask(lane="chosen", purpose="greet"))
        with lane("lisa"):
            client.send(ask(purpose="plan"))
            client.send(ask(lane="inner"))
            with ThreadPoolExecutor(1) as pool:
                pool.submit(client.send, ask()).result()

    record(tape, simulate)
    calls = [(call["lane"], call["branch"], call["purpose"]) for call in read_calls(tape)]
    assert calls == [
        ("/", "", None),
        ("chosen", "/chosen", "greet"),
        ("lisa", "/lisa", "plan"),
        ("lisa/inner", "/lisa/inner", None),
        ("lisa", "/lisa/0", None),
    ]
    replay(tape, simulate)


def test_a_run_within_a_lane_is_in_that_lane(tmp_path):
    """A name that was open when the run began names its calls, and is open afterwards."""
    tape = tmp_path / "run.tape"
    clients = Clients(DrawingTransport())
    with lane("study"):
        before = current_branch.get()
        with Run.record(tape):
            clients.talk(1)
        assert current_branch.get() is before
    assert current_branch.get() is None
    assert [call["lane"] for call in read_calls(tape)] == ["study"]


def test_two_branches_with_one_name_stay_apart(tmp_path):
    """Two agents of one name in different threads get each their own answers again."""

    def simulate(clients: Clients) -> Any:
        def live(_: int) -> list[str]:
            with lane("lisa"):
                return clients.talk()

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(live, range(6)))

    tape = tmp_path / "run.tape"
    assert len({tuple(heard) for heard in assert_exact(tape, simulate)}) == 6
    assert {call["lane"] for call in read_calls(tape)} == {"lisa"}


def test_a_resolver_names_who_calls(tmp_path):
    """A function may tell the agent from the call; a name that is given goes first."""

    def name_agent(call: Call) -> str | None:
        text = call.request.messages[0].content
        return text.partition(":")[0] if ":" in text else None

    source = ["lisa: hello", "oscar: hello", "hello", "lisa: hello"]

    def simulate(clients: Clients) -> Any:
        # Handed out by a list, which no run can watch.
        waiting = [*enumerate(source)]
        results = {}

        def work() -> None:
            while waiting:
                index, text = waiting.pop(0)
                results[index] = clients.blocking.send(ask(text)).text

        work()
        clients.blocking.send(ask("lisa: hello", lane="given"))
        return results

    tape = tmp_path / "run.tape"
    recorded = record(tape, simulate, resolver=name_agent)
    assert [call["lane"] for call in read_calls(tape)] == ["lisa", "oscar", "/", "lisa", "given"]
    assert replay(tape, simulate, resolver=name_agent) == recorded


def test_a_resolver_tells_workers_agents_apart(tmp_path, caplog):
    """With a resolver, agents behind a queue need no name of their own."""
    import queue

    agents = {f"agent-{number}" for number in range(5)}
    local = threading.local()

    def simulate(clients: Clients) -> Any:
        source: queue.Queue[Any] = queue.Queue()
        for agent in [*sorted(agents), None, None]:
            source.put(agent)
        results = {}

        def work() -> None:
            while (agent := source.get()) is not None:
                local.agent = agent
                pause()
                results[agent] = clients.talk()

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def name_agent(call: Call) -> str:
        return local.agent

    tape = tmp_path / "run.tape"
    recorded = record(tape, simulate, resolver=name_agent)
    for _ in range(6):
        assert replay(tape, simulate, resolver=name_agent) == recorded
    assert {call["lane"] for call in read_calls(tape)} == agents
    assert "cannot be told apart" not in caplog.text


@pytest.mark.parametrize("coloured", ["blocking", "awaited"])
def test_many_calls_are_placed_by_their_number(coloured, tmp_path):
    """Of many identical calls the n-th gets the n-th's answer, whichever worker sends it."""

    def simulate(clients: Clients, workers: int) -> list[str]:
        calls = [ask() for _ in range(12)]
        if coloured == "blocking":
            outcomes = clients.blocking.send_many(calls, max_workers=workers)
        else:
            outcomes = asyncio.run(clients.awaited.send_many(calls, max_workers=workers))
        return [outcome.text for outcome in outcomes]

    tape = tmp_path / "run.tape"
    recorded = record(tape, lambda clients: simulate(clients, 4))
    assert len(set(recorded)) == 12
    for workers in (1, 3, 12, 30):
        assert replay(tape, lambda clients: simulate(clients, workers)) == recorded  # noqa: B023


def test_calls_that_come_from_a_generator_may_ask_themselves(tmp_path):
    """Whoever makes the calls for `send_many` may ask the model for each; it stays in the run."""

    async def main(clients: Clients) -> list[str]:
        def make_calls() -> Any:
            for number in range(4):
                yield ask(clients.blocking.send(ask(f"topic {number}?")).text)

        outcomes = await clients.awaited.send_many(make_calls(), max_workers=2)
        return [outcome.text for outcome in outcomes]

    tape = tmp_path / "run.tape"
    recorded = record(tape, lambda clients: asyncio.run(main(clients)))
    assert len(read_calls(tape)) == 8
    assert replay(tape, lambda clients: asyncio.run(main(clients))) == recorded


def test_cells_of_a_notebook_are_one_after_another(tmp_path, caplog):
    """A run that one cell starts goes on in the next ones, each in its task and context."""
    tape = tmp_path / "run.tape"

    def run_cells(run: Run, clients: Clients, run_context: Context | None) -> list[Any]:
        results: list[Any] = []

        async def start() -> None:
            run.start()

        async def ask_here() -> None:
            results.append(clients.talk(1))

        async def await_here() -> None:
            results.append(await clients.atalk(1))
            results.append(await asyncio.gather(*(clients.atalk(2) for _ in range(4))))

        async def use_threads() -> None:
            with ThreadPoolExecutor(3) as pool:
                results.append(list(pool.map(lambda _: clients.talk(2), range(4))))

        async def stop() -> None:
            run.stop()

        async def kernel() -> None:
            for cell in (start, ask_here, await_here, use_threads, ask_here, stop):
                await (run_context or copy_context()).run(asyncio.ensure_future, cell())

        asyncio.run(kernel())
        return results

    recorded = run_cells(Run.record(tape), Clients(DrawingTransport()), None)
    shared = copy_context()
    for context in (None, None, shared):
        run = Run.replay(tape)
        assert run_cells(run, Clients(DeadTransport()), context) == recorded
        assert run.find_unplayed() == []
    assert "cannot be told apart" not in caplog.text
    assert "/?" not in read_branches(tape)


def test_tasks_from_before_are_nobody_beside_the_one_that_starts(tmp_path):
    """In an event loop, tasks that were there before the run are told from the one it began in."""
    tape = tmp_path / "run.tape"
    clients = Clients(DrawingTransport())

    async def main() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def before() -> None:
            await begun.wait()
            await clients.atalk(1)
            ended.set()

        task = asyncio.create_task(before())
        async with Run.record(tape):
            begun.set()
            await ended.wait()
            await clients.atalk(1)
        await task

    asyncio.run(main())
    assert read_branches(tape) == ["", "/?"]


def test_a_run_may_be_stopped_elsewhere(tmp_path):
    """Started in one thread and stopped in another, a run leaves nothing behind."""
    run = Run.record(tmp_path / "run.tape")
    run.start()
    thread = threading.Thread(target=run.stop)
    thread.start()
    thread.join()
    with Run.record(tmp_path / "next.tape"):
        Clients(DrawingTransport()).talk(1)
    assert read_branches(tmp_path / "next.tape") == [""]


def test_calls_inside_a_live_call_are_not_the_simulation_s(tmp_path):
    """What a transport asks on its own is no call of the run; a replay never makes it."""
    inner = Client(DrawingTransport())

    class Asking(DrawingTransport):
        def send(self, attempt: Any) -> Any:
            with lane("inside"):
                inner.send(ask("within"))
                inner.send_many([ask("many")])
                asyncio.run(AsyncClient(DrawingTransport()).send_many([ask("many")]))
            return super().send(attempt)

    tape = tmp_path / "run.tape"
    with Run.record(tape):
        text = Client(Asking()).send(ask()).text
    assert [call["branch"] for call in read_calls(tape)] == [""]
    with Run.replay(tape):
        assert Client(DeadTransport()).send(ask()).text == text
    assert DETACHED._named == {}


def test_placing_a_call_keeps_all_of_it(tmp_path):
    """A call that takes part in a run is, but for its place, the call that it was."""

    async def emit(piece: str) -> None:
        pass

    call = replace(ask("Hello.", purpose="p", sample=2), expires_at=7.0, emit=emit)
    plain = Call(call.request)
    kept = [field.name for field in fields(Call) if field.name not in ("position", "draw")]
    assert all(getattr(call, name) != getattr(plain, name) for name in kept if name != "request")
    with Run.record(tmp_path / "run.tape"):
        placed = get_active().place(call)
    assert {name: getattr(placed, name) for name in kept} == {
        name: getattr(call, name) for name in kept
    }


def test_threads_take_their_names_along(tmp_path):
    """What is started inside a lane is in that lane, whatever it is."""
    tape = tmp_path / "run.tape"

    async def live(clients: Clients) -> None:
        await asyncio.gather(clients.atalk(1), asyncio.to_thread(clients.talk, 1))

    def simulate(clients: Clients) -> None:
        with lane("lisa"):
            thread = threading.Thread(target=clients.talk, args=(1,))
            thread.start()
            thread.join()
            asyncio.run(live(clients))
            clients.blocking.send_many([ask()])

    record(tape, simulate)
    assert {call["lane"] for call in read_calls(tape)} == {"lisa"}
    assert len(read_branches(tape)) == 4


def test_random_pauses_do_overtake():
    """The pauses of these tests are of all lengths, so that threads do overtake each other."""
    random.seed(0)
    drawn = [simulations.draw_pause() for _ in range(500)]
    assert drawn.count(0.0) > 100
    assert max(drawn) > simulations.LONGEST_PAUSE_SECONDS / 2


def test_a_tape_of_many_lanes_keeps_each_name_once(tmp_path):
    """Reading a tape does not keep a copy of a lane's name for each of its calls."""
    tape = tmp_path / "run.tape"
    record(tape, lambda clients: clients.talk(6, lane="lisa"))
    takes = Recording(tape).takes
    assert len({id(take.lane) for take in takes}) == 1
    assert len({id(take.branch) for take in takes}) == 1
