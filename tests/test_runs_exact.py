"""A replay is the recorded run: for every agent, under any schedule, however agents are started."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import simulations
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from simulations import Clients, record, replay

from tinytroupe.llm.runs.lanes import lane

SCHEDULES = range(200)


def hold_in_threads(clients: Clients, agents: int, turns: int, threads: int) -> Any:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda _: clients.talk(turns), range(agents)))


def hold_in_tasks(clients: Clients, agents: int, turns: int) -> Any:
    async def main() -> Any:
        return await asyncio.gather(*(clients.atalk(turns) for _ in range(agents)))

    return asyncio.run(main())


def assert_replays(tape: Path, simulate: Callable[[Clients], Any], times: int) -> int:
    """Returns how many of so many replays were the recorded run, of which all agents differ."""
    recorded = record(tape, simulate)
    assert len({tuple(heard) for heard in recorded}) == len(recorded)
    return sum(replay(tape, simulate) == recorded for _ in range(times))


def test_eight_agents_in_threads(tmp_path):
    """8 agents × 4 calls in a pool: 200 of 200 replays are the same for every agent."""
    simulate = functools.partial(hold_in_threads, agents=8, turns=4, threads=8)
    assert assert_replays(tmp_path / "run.tape", simulate, 200) == 200


def test_eight_agents_in_tasks(tmp_path):
    """8 agents × 4 calls in one event loop: 200 of 200 replays are the same for every agent."""
    simulate = functools.partial(hold_in_tasks, agents=8, turns=4)
    assert assert_replays(tmp_path / "run.tape", simulate, 200) == 200


def test_another_number_of_threads(tmp_path):
    """A run recorded over many threads is the same over few, and over one."""
    tape = tmp_path / "run.tape"
    recorded = record(tape, functools.partial(hold_in_threads, agents=12, turns=3, threads=12))
    for threads in (1, 2, 5, 40):
        simulate = functools.partial(hold_in_threads, agents=12, turns=3, threads=threads)
        assert replay(tape, simulate) == recorded


@pytest.fixture
def no_pauses(monkeypatch):
    """With a thousand agents the scheduler itself shuffles enough."""
    monkeypatch.setattr(simulations, "LONGEST_PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_pauses")
def test_a_thousand_agents_over_fifty_threads(tmp_path):
    """1,000 agents × 10 calls over 50 threads replay as they were recorded."""
    simulate = functools.partial(hold_in_threads, agents=1000, turns=10, threads=50)
    assert assert_replays(tmp_path / "run.tape", simulate, 1) == 1


@pytest.mark.usefixtures("no_pauses")
def test_a_thousand_agents_in_one_loop(tmp_path):
    """1,000 agents × 10 calls in one event loop replay as they were recorded."""
    simulate = functools.partial(hold_in_tasks, agents=1000, turns=10)
    assert assert_replays(tmp_path / "run.tape", simulate, 1) == 1


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_thousand_agents_twenty_times(kind, tmp_path):
    """1,000 agents × 10 calls: 20 of 20 replays are the same for every agent."""
    simulate: Callable[[Clients], Any] = (
        functools.partial(hold_in_threads, agents=1000, turns=10, threads=50)
        if kind == "threads"
        else functools.partial(hold_in_tasks, agents=1000, turns=10)
    )
    assert assert_replays(tmp_path / "run.tape", simulate, 20) == 20


@dataclass(frozen=True)
class Node:
    """A piece of a simulation: what it asks, and what it starts in between."""

    kind: str
    name: str
    before: int
    children: tuple[Node, ...]
    joins_early: bool
    after: int


KINDS = ("thread", "job", "shared job", "task", "loop", "lane", "callback", "many")


def make_nodes(children: st.SearchStrategy[tuple[Node, ...]]) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        kind=st.sampled_from(KINDS),
        name=st.sampled_from(["lisa", "oscar", "team/lisa", "0"]),
        before=st.integers(0, 2),
        children=children,
        joins_early=st.booleans(),
        after=st.integers(0, 2),
    )


trees = st.recursive(
    make_nodes(st.just(())),
    lambda nodes: make_nodes(st.lists(nodes, min_size=1, max_size=4).map(tuple)),
    max_leaves=12,
)


class Play:
    """Lives a tree of nodes: each asks as all others do, and hears its own answers."""

    def __init__(self, clients: Clients, pool: ThreadPoolExecutor) -> None:
        self.clients = clients
        self.pool = pool
        self.heard: dict[tuple[int, ...], list[str]] = {}
        self.lock = threading.Lock()

    def note(self, place: tuple[int, ...], words: list[str]) -> None:
        with self.lock:
            self.heard.setdefault(place, []).extend(words)

    def live(self, node: Node, place: tuple[int, ...]) -> None:
        self.note(place, self.clients.talk(node.before))
        with ExitStack() as joined:
            for number, child in enumerate(node.children):
                simulations.pause()
                join = self.start(child, (*place, number))
                if node.joins_early:
                    join()
                else:
                    joined.callback(join)
        self.note(place, self.clients.talk(node.after))

    def start(self, node: Node, place: tuple[int, ...]) -> Callable[[], object]:
        """Starts a node from a thread; returns what waits for its end."""
        if node.kind == "lane":
            with lane(node.name):
                self.live(node, place)
        elif node.kind == "many":
            self.send_many(place)
            self.live(node, place)
        elif node.kind in ("loop", "task"):
            asyncio.run(self.alive(node, place))
        elif node.kind == "job":
            # Not the shared pool: whoever waits there for a job of its own may wait for ever.
            pool = ThreadPoolExecutor(1)
            future = pool.submit(self.live, node, place)
            return lambda: (future.result(), pool.shutdown())
        elif node.kind == "shared job":
            future = self.pool.submit(self.clients.talk, node.before)
            return lambda: self.note(place, future.result())
        elif node.kind == "callback":
            called = threading.Event()
            future = self.pool.submit(simulations.pause)
            future.add_done_callback(lambda _: (self.live(node, place), called.set()))
            return lambda: called.wait(30)
        else:
            thread = threading.Thread(target=self.live, args=(node, place))
            thread.start()
            return thread.join
        return lambda: None

    def send_many(self, place: tuple[int, ...]) -> None:
        request = simulations.chat_request("model", [{"role": "user", "content": "Hello."}])
        outcomes = self.clients.blocking.send_many([request] * 3, max_workers=2)
        self.note(place, [outcome.text for outcome in outcomes])

    async def alive(self, node: Node, place: tuple[int, ...]) -> None:
        self.note(place, await self.clients.atalk(node.before))
        started = []
        for number, child in enumerate(node.children):
            await simulations.apause()
            task = await self.astart(child, (*place, number))
            if task is not None and node.joins_early:
                await task
            elif task is not None:
                started.append(task)
        await asyncio.gather(*started)
        self.note(place, await self.clients.atalk(node.after))

    async def astart(self, node: Node, place: tuple[int, ...]) -> Any:
        """Starts a node from a task; returns what to wait for, unless it has ended."""
        loop = asyncio.get_running_loop()
        if node.kind == "lane":
            with lane(node.name):
                await self.alive(node, place)
            return None
        if node.kind == "many":
            request = simulations.chat_request("model", [{"role": "user", "content": "Hello."}])
            outcomes = await self.clients.awaited.send_many([request] * 3, max_workers=2)
            self.note(place, [outcome.text for outcome in outcomes])
        if node.kind in ("thread", "callback"):
            return asyncio.ensure_future(asyncio.to_thread(self.live, node, place))
        if node.kind == "loop":
            return loop.run_in_executor(None, asyncio.run, self.alive(node, place))
        if node.kind in ("job", "shared job"):
            return asyncio.wait_for(self.alive(node, place), 30)
        return asyncio.create_task(self.alive(node, place))


def simulate_tree(clients: Clients, tree: Node) -> dict[tuple[int, ...], list[str]]:
    with ThreadPoolExecutor(20) as pool:
        play = Play(clients, pool)
        play.live(tree, ())
    return {place: words for place, words in sorted(play.heard.items()) if words}


def check_tree(tree: Node, tape: Path, replays: int) -> None:
    tape.unlink(missing_ok=True)
    simulate = functools.partial(simulate_tree, tree=tree)
    recorded = record(tape, simulate)
    everything = [word for words in recorded.values() for word in words]
    assert len(set(everything)) == len(everything)
    for _ in range(replays):
        assert replay(tape, simulate) == recorded


RANDOM_TREES = settings(
    max_examples=50,
    deadline=None,
    # A schedule does not come again, so an example that failed cannot be made smaller.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@RANDOM_TREES
@given(tree=trees)
def test_any_tree_under_any_schedule(tree, tmp_path):
    """However threads, jobs, tasks, loops, callbacks and names are nested, each hears its own."""
    check_tree(tree, tmp_path / "run.tape", 2)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(RANDOM_TREES, max_examples=1500)
@given(tree=trees)
def test_any_tree_very_often(tree, tmp_path):
    """The same, for many more trees and schedules."""
    check_tree(tree, tmp_path / "run.tape", 4)
