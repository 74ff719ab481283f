"""However a simulation starts its agents, each is told apart; afterwards all is as before."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import queue
import subprocess
import sys
import threading
from asyncio import to_thread as to_thread_by_name
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
import simulations
from simulations import (
    Clients,
    DrawingTransport,
    assert_exact,
    pause,
    read_branches,
    record,
    replay,
)

from tinytroupe.llm.errors import ConfigError, StoreError
from tinytroupe.llm.rules.lanes import current_branch
from tinytroupe.llm.runs.run import Run

AGENTS = range(6)


def submit(clients: Clients) -> Any:
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(clients.talk) for _ in AGENTS]
        return [future.result() for future in futures]


def map_over(clients: Clients) -> Any:
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda _: clients.talk(), AGENTS))


def start_threads(clients: Clients) -> Any:
    results: dict[int, list[str]] = {}

    def live(agent: int) -> None:
        results[agent] = clients.talk()

    threads = [threading.Thread(target=live, args=(agent,)) for agent in AGENTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class Living(threading.Thread):
    """A thread that is an agent."""

    def __init__(self, clients: Clients) -> None:
        super().__init__()
        self.clients = clients

    def run(self) -> None:
        self.words = self.clients.talk()


class Announced(Living):
    """A thread whose start does something more."""

    def start(self) -> None:
        self.announced = True
        super().start()


def start_subclasses(clients: Clients) -> Any:
    threads = [(Living, Announced)[agent % 2](clients) for agent in AGENTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [thread.words for thread in threads]


def start_timers(clients: Clients) -> Any:
    results: dict[int, list[str]] = {}
    timers = [
        threading.Timer(
            simulations.draw_pause(), lambda agent: results.update({agent: clients.talk()}), [agent]
        )
        for agent in AGENTS
    ]
    for timer in timers:
        timer.start()
    for timer in timers:
        timer.join()
    return results


def replace_run(clients: Clients) -> Any:
    """Some libraries give a thread another `run` before it starts."""
    results: dict[int, list[str]] = {}
    threads = []
    for agent in AGENTS:
        thread = threading.Thread()
        thread.run = lambda agent=agent: results.update({agent: clients.talk()})
        threads.append(thread)
        thread.start()
    for thread in threads:
        thread.join()
        assert "run" in vars(thread)
    return results


def nest_pools(clients: Clients) -> Any:
    def lead(_: int) -> list[list[str]]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda _: clients.talk(2), range(2)))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lead, range(3)))


def start_threads_in_jobs(clients: Clients) -> Any:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: start_threads(clients), range(2)))


def share_a_pool(clients: Clients) -> Any:
    """Agents that start jobs in the pool in which others' jobs run."""
    with ThreadPoolExecutor(3) as pool, ThreadPoolExecutor(3) as agents:

        def live(_: int) -> list[list[str]]:
            pause()
            futures = [pool.submit(clients.talk, 2) for _ in range(2)]
            return [future.result() for future in futures]

        return list(agents.map(live, AGENTS))


def work_in_rounds(clients: Clients) -> Any:
    """The same pool again and again, its results taken as they come."""
    with ThreadPoolExecutor(3) as pool:
        rounds = []
        for _ in range(3):
            futures = {pool.submit(clients.talk, 2): agent for agent in AGENTS}
            done = concurrent.futures.as_completed(futures)
            rounds.append({futures[future]: future.result() for future in done})
            rounds[-1]["moderator"] = clients.talk(1)
        return rounds


def call_back(clients: Clients) -> Any:
    results: dict[Any, list[str]] = {}
    all_done = threading.Semaphore(0)

    def follow_up(agent: int, future: Any) -> None:
        results[agent] = future.result()
        results[agent, "after"] = clients.talk(2)
        all_done.release()

    with ThreadPoolExecutor(3) as pool:
        for agent in AGENTS:
            future = pool.submit(clients.talk, 1)
            pause()
            # Called by the worker, or at once by this thread if the job is done already.
            future.add_done_callback(functools.partial(follow_up, agent))
        results["main"] = clients.talk(2)
        for _ in AGENTS:
            all_done.acquire()
    return results


def carry_contexts(clients: Clients) -> Any:
    """Jobs that bring a context of their own, one of them for several."""
    with ThreadPoolExecutor(1) as pool:
        shared = copy_context()
        futures = [pool.submit(shared.run, clients.talk) for _ in range(3)]
        futures += [pool.submit(functools.partial(copy_context().run, clients.talk), 2)]
        return [future.result() for future in futures]


async def create_tasks(clients: Clients) -> Any:
    tasks = [asyncio.create_task(clients.atalk()) for _ in AGENTS]
    return [await task for task in tasks]


async def gather(clients: Clients) -> Any:
    return await asyncio.gather(*(clients.atalk() for _ in AGENTS))


async def ensure_futures(clients: Clients) -> Any:
    futures = [asyncio.ensure_future(clients.atalk()) for _ in AGENTS]
    await asyncio.wait(futures)
    return [future.result() for future in futures]


async def wait_for(clients: Clients) -> Any:
    async def live() -> list[list[str]]:
        return [
            await asyncio.wait_for(clients.atalk(2), 20),
            await clients.atalk(1),
            await asyncio.wait_for(asyncio.shield(clients.atalk(2)), 20),
            await asyncio.wait_for(clients.atalk(1), None),
        ]

    return await asyncio.gather(*(asyncio.wait_for(live(), 20) for _ in AGENTS))


async def complete(clients: Clients) -> Any:
    async def live(agent: int) -> tuple[int, list[str]]:
        return agent, await clients.atalk()

    done = asyncio.as_completed([live(agent) for agent in AGENTS])
    first = dict([await each for each in done])
    done = asyncio.tasks.as_completed(tuple(live(agent) for agent in AGENTS))
    second = dict([await each for each in done])
    return first, second, await clients.atalk(2)


async def call_to_thread(clients: Clients) -> Any:
    async def live() -> list[list[str]]:
        return [
            await asyncio.to_thread(clients.talk, 2),
            await to_thread_by_name(clients.talk, turns=2),
            await clients.atalk(1),
        ]

    return await asyncio.gather(*(live() for _ in AGENTS))


async def run_in_executors(clients: Clients) -> Any:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            loop.run_in_executor((None, pool)[agent % 2], functools.partial(clients.talk, 2))
            for agent in AGENTS
        ]
        return await asyncio.gather(*jobs)


async def start_threads_in_tasks(clients: Clients) -> Any:
    async def live() -> Any:
        await simulations.apause()
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(clients.talk(2)))
        thread.start()
        results.append(await clients.atalk(2))
        await asyncio.to_thread(thread.join)
        return sorted(results)

    return await asyncio.gather(*(live() for _ in AGENTS))


async def send_many(clients: Clients) -> Any:
    async def live(workers: int) -> list[str]:
        requests = [make_request("the same") for _ in range(5)]
        outcomes = await clients.awaited.send_many(requests, max_workers=workers)
        return [outcome.text for outcome in outcomes]

    # How many workers there are is no part of who is asking.
    workers = simulations.chance.randrange(1, 9)
    lives = await asyncio.gather(*(live(workers) for _ in range(3)))
    return lives, await asyncio.gather(*(clients.atalk(1) for _ in range(2)))


def make_request(text: str) -> Any:
    return simulations.chat_request("model", [{"role": "user", "content": text}])


def send_many_blocking(clients: Clients) -> Any:
    def live(workers: int) -> list[str]:
        requests = [make_request("the same") for _ in range(5)]
        return [one.text for one in clients.blocking.send_many(requests, max_workers=workers)]

    workers = simulations.chance.randrange(1, 9)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: live(workers), range(3))), live(workers)


async def stay_on_one_context(clients: Clients) -> Any:
    """Tasks that are given a context to run in."""
    loop = asyncio.get_running_loop()
    make = functools.partial(loop.create_task) if sys.version_info >= (3, 11) else None
    if make is None:
        pytest.skip("tasks take a context since Python 3.11")
    return await asyncio.gather(
        *(make(clients.atalk(), context=copy_context()) for _ in AGENTS), clients.atalk()
    )


async def group_tasks(clients: Clients) -> Any:
    if sys.version_info < (3, 11):
        pytest.skip("task groups came with Python 3.11")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(clients.atalk()) for _ in AGENTS]
    return [task.result() for task in tasks]


async def leave_generators_behind(clients: Clients) -> Any:
    """Generators that are not read to their end are ended when the garbage collector likes."""

    async def speak() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)

    async def live() -> list[str]:
        if simulations.chance.random() < 0.5:
            async for _ in speak():
                break
        return await asyncio.create_task(clients.atalk(2))

    return await asyncio.gather(*(live() for _ in AGENTS))


def give_work_to_a_loop(clients: Clients) -> Any:
    """A loop in a thread of its own, to which others bring coroutines and callbacks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    results: list[Any] = []

    def live(_: int) -> list[Any]:
        pause()
        future = asyncio.run_coroutine_threadsafe(clients.atalk(2), loop)
        done = threading.Event()
        task: list[Any] = []
        loop.call_soon_threadsafe(
            lambda: (task.append(loop.create_task(clients.atalk(2))), done.set())
        )
        mine = clients.talk(2)
        done.wait(10)
        second = asyncio.run_coroutine_threadsafe(asyncio.wait_for(task[0], 20), loop)
        return [future.result(), mine, second.result()]

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(live, AGENTS))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    return results


def run_loops_in_threads(clients: Clients) -> Any:
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda _: asyncio.run(gather(clients)), range(3)))


def run_loops_in_turn(clients: Clients) -> Any:
    first = asyncio.run(gather(clients)), clients.talk(1)
    if sys.version_info < (3, 11):
        return first
    with asyncio.Runner() as runner:
        second = runner.run(create_tasks(clients)), runner.run(gather(clients)), clients.talk(1)
    return first, second


BLOCKING = [
    submit,
    map_over,
    start_threads,
    start_subclasses,
    start_timers,
    replace_run,
    nest_pools,
    start_threads_in_jobs,
    share_a_pool,
    work_in_rounds,
    call_back,
    carry_contexts,
    send_many_blocking,
    give_work_to_a_loop,
    run_loops_in_threads,
    run_loops_in_turn,
]
AWAITED = [
    create_tasks,
    gather,
    ensure_futures,
    wait_for,
    complete,
    call_to_thread,
    run_in_executors,
    start_threads_in_tasks,
    send_many,
    stay_on_one_context,
    group_tasks,
    leave_generators_behind,
]


@pytest.mark.parametrize("simulate", BLOCKING)
def test_threads_are_told_apart(simulate, tmp_path):
    """Agents that ask the same in threads of any kind get their own answers again."""
    assert_exact(tmp_path / "run.tape", simulate)


@pytest.mark.parametrize("simulate", AWAITED)
def test_tasks_are_told_apart(simulate, tmp_path):
    """Agents that ask the same in tasks of any kind get their own answers again."""
    assert_exact(tmp_path / "run.tape", lambda clients: asyncio.run(simulate(clients)))


@pytest.mark.parametrize("simulate", AWAITED)
def test_tasks_of_uvloop_are_told_apart(simulate, tmp_path):
    """It is the same on another event loop; the tape of the one is the tape of the other."""
    uvloop = pytest.importorskip("uvloop")
    tape = tmp_path / "run.tape"

    def run_on_uvloop(clients: Clients) -> Any:
        loop = uvloop.new_event_loop()
        try:
            return loop.run_until_complete(simulate(clients))
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    recorded = assert_exact(tape, run_on_uvloop, 5)

    def run_on_asyncio(clients: Clients) -> Any:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(simulate(clients))
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    assert replay(tape, run_on_asyncio) == recorded


def test_a_loop_that_is_loaded_late_is_seen(tmp_path):
    """A simulation that imports uvloop after the run began is exact."""
    pytest.importorskip("uvloop")
    code = f"""
import sys
sys.path.insert(0, {str(simulations.__file__).rsplit("/", 1)[0]!r})
from simulations import *
from pathlib import Path
assert "uvloop" not in sys.modules

def simulate(clients):
    import uvloop
    async def main():
        return await asyncio.gather(*(clients.atalk() for _ in range(5)))
    loop = uvloop.new_event_loop()
    return loop.run_until_complete(main())

assert_exact(Path({str(tmp_path / "run.tape")!r}), simulate, 5)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_numbers_are_the_same_in_every_version_of_python(tmp_path):
    """A tape's branches are a matter of the program, not of what asyncio does inside."""

    async def live(clients: Clients) -> None:
        await clients.atalk(1)
        await asyncio.wait_for(clients.atalk(1), 20)
        await asyncio.wait_for(asyncio.gather(clients.atalk(1), clients.atalk(1)), 20)
        await asyncio.to_thread(clients.talk, 1)
        await asyncio.gather(*[each async for each in listed(clients)])
        for done in asyncio.as_completed([clients.atalk(1), clients.atalk(1)]):
            await done
        await asyncio.create_task(clients.atalk(1))

    async def listed(clients: Clients) -> Any:
        for _ in range(2):
            yield clients.atalk(1)

    def simulate(clients: Clients) -> None:
        asyncio.run(live(clients))
        thread = threading.Thread(target=clients.talk, args=(1,))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(2) as pool:
            pool.submit(asyncio.run, live(clients)).result()
        clients.talk(1)

    tape = tmp_path / "run.tape"
    record(tape, simulate)
    alive = ["", "/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"]
    expected = ["", "/3", *(f"/0{path}" for path in alive), *(f"/4/0{path}" for path in alive)]
    assert read_branches(tape) == sorted(expected)


class Busy(DrawingTransport):
    """Starts threads, jobs and tasks of its own for each live call, as HTTP libraries do."""

    def send(self, attempt: Any) -> Any:
        threading.Thread(target=pause).start()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(pause).add_done_callback(lambda _: None)
            queue.Queue().put(1)
        asyncio.run(simulations.apause())
        return super().send(attempt)

    async def asend(self, attempt: Any) -> Any:
        task = asyncio.create_task(simulations.apause())
        await asyncio.to_thread(pause)
        await task
        return await super().asend(attempt)


def test_what_a_live_call_starts_does_not_count(tmp_path):
    """Threads, jobs and tasks that only a live call needs shift no number of the simulation's."""

    async def live(clients: Clients) -> Any:
        first = await clients.atalk(2)
        rest = await asyncio.gather(clients.atalk(2), asyncio.to_thread(clients.talk, 2))
        return first, rest

    def simulate(clients: Clients) -> Any:
        first = clients.talk(2)
        with ThreadPoolExecutor(3) as pool:
            rest = list(pool.map(lambda _: [clients.talk(2), asyncio.run(live(clients))], range(4)))
        return first, rest

    tape = tmp_path / "run.tape"
    with Run.record(tape):
        recorded = simulate(Clients(Busy()))
    for _ in range(5):
        assert replay(tape, simulate) == recorded


def test_threads_of_pools_and_connections_do_not_count(tmp_path):
    """What libraries start when a pool or a connection needs it shifts no number."""
    foreign: dict[str, Any] = {"__name__": "aiohttp.connector"}
    exec("async def connect():\n    pass\ndef monitor():\n    pass", foreign)
    monitor = foreign["monitor"]
    monitor.__module__ = "tqdm._monitor"

    async def live(clients: Clients, connects: bool) -> Any:
        if connects:
            await asyncio.create_task(foreign["connect"]())
            threading.Thread(target=monitor).start()
        return await asyncio.gather(*(clients.atalk(2) for _ in AGENTS))

    tape = tmp_path / "run.tape"
    recorded = record(tape, lambda clients: asyncio.run(live(clients, True)))
    assert replay(tape, lambda clients: asyncio.run(live(clients, False))) == recorded


def test_a_pool_of_connections_is_no_work(tmp_path, caplog):
    """Agents that share a library's pool of connections can still be told apart."""
    foreign: dict[str, Any] = {"__name__": "urllib3.connectionpool"}
    exec("def take(pool):\n    return pool.get(block=False)", foreign)
    pool = queue.LifoQueue()

    def simulate(clients: Clients) -> Any:
        def live(_: int) -> list[str]:
            pool.put(foreign["take"](pool))
            return clients.talk()

        with ThreadPoolExecutor(3) as jobs:
            return list(jobs.map(live, AGENTS))

    for _ in range(3):
        pool.put("connection")
    assert_exact(tmp_path / "run.tape", simulate)
    assert "cannot be told apart" not in caplog.text


def list_attributes() -> dict[str, Any]:
    """Returns everything that a run may patch, and what is near it."""
    owners: list[Any] = [
        ThreadPoolExecutor,
        concurrent.futures.Executor,
        concurrent.futures.Future,
        concurrent.futures._base,
        concurrent.futures,
        threading.Thread,
        threading.Timer,
        threading,
        queue.Queue,
        queue.LifoQueue,
        queue.SimpleQueue,
        queue,
        asyncio.Queue,
        asyncio.tasks,
        asyncio.events,
        asyncio,
        asyncio.AbstractEventLoop,
        asyncio.BaseEventLoop,
        *asyncio.BaseEventLoop.__subclasses__(),
    ]
    if "uvloop" in sys.modules:
        owners.append(sys.modules["uvloop"].Loop)
    return {
        f"{owner.__name__}.{name}": value for owner in owners for name, value in vars(owner).items()
    }


def find_changes(before: dict[str, Any]) -> list[str]:
    after = list_attributes()
    return [
        name
        for name in {*before, *after}
        if before.get(name, "absent") is not after.get(name, "absent")
    ]


def test_afterwards_everything_is_as_before(tmp_path):
    """A run patches while it lasts, and leaves no trace, however it ends."""
    pytest.importorskip("uvloop")
    before = list_attributes()
    start = threading.Thread.start
    with Run.record(tmp_path / "one.tape"):
        assert threading.Thread.start is not start
        with pytest.raises(ConfigError, match="another run"):
            Run.record(tmp_path / "two.tape").start()
        assert threading.Thread.start is not start
        during = find_changes(before)
    assert find_changes(before) == []
    assert {name.partition(".")[0] for name in during} >= {
        "ThreadPoolExecutor",
        "Thread",
        "Future",
        "Queue",
        "SimpleQueue",
        "BaseEventLoop",
        "Loop",
        "asyncio",
    }

    with pytest.raises(ZeroDivisionError), Run.replay(tmp_path / "one.tape"):
        raise ZeroDivisionError
    assert find_changes(before) == []
    with pytest.raises(StoreError):
        Run.replay(tmp_path / "none.tape").start()
    with pytest.raises(StoreError):
        Run.record(tmp_path / "one.tape").start()
    assert find_changes(before) == []

    run = Run.record(tmp_path / "three.tape").start()
    run.stop()
    run.stop()
    assert find_changes(before) == []
    assert current_branch.get() is None


def test_threads_keep_nothing_of_a_run(tmp_path):
    """A thread object has, after its start, no attribute that it would not have had."""
    plain = threading.Thread(target=pause)
    plain.start()
    plain.join()
    with Run.record(tmp_path / "run.tape"):
        carried = threading.Thread(target=pause)
        carried.start()
        carried.join()
        with pytest.raises(RuntimeError, match="once"):
            carried.start()
        broken = threading.Thread()
        broken._initialized = False
        with pytest.raises(RuntimeError, match="__init__"):
            broken.start()
        assert "run" not in vars(broken)
    assert vars(carried).keys() == vars(plain).keys()


def test_somebody_else_s_patch_stays(tmp_path):
    """What another library patches during a run stays when the run ends, and ours is idle."""
    original = threading.Thread.start
    started = []
    run = Run.record(tmp_path / "one.tape").start()
    ours = threading.Thread.start

    def theirs(self: threading.Thread) -> None:
        started.append(self)
        ours(self)

    threading.Thread.start = theirs
    try:
        run.stop()
        assert threading.Thread.start is theirs
        thread = threading.Thread(target=pause)
        thread.start()
        thread.join()
        assert started == [thread]
        # The next run wraps theirs and ours; a thread is still one spawn.
        tape = tmp_path / "two.tape"
        recorded = assert_exact(tape, start_threads)
        assert len(recorded) == len(AGENTS)
        assert read_branches(tape) == [f"/{agent}" for agent in AGENTS]
        assert threading.Thread.start is theirs
    finally:
        threading.Thread.start = original


def test_nothing_is_patched_without_a_run():
    """Importing runs changes nothing."""
    code = (
        "import asyncio, queue, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "before = [threading.Thread.start, ThreadPoolExecutor.submit, queue.Queue.get,"
        " asyncio.BaseEventLoop.create_task, queue.SimpleQueue.get]\n"
        "from tinytroupe.llm.runs.run import Run\n"
        "assert before == [threading.Thread.start, ThreadPoolExecutor.submit, queue.Queue.get,"
        " asyncio.BaseEventLoop.create_task, queue.SimpleQueue.get]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_who_lives_on_after_a_run_is_nobody_in_the_next(tmp_path):
    """A thread of an earlier run is, to the next, like one that was started before it."""
    go, done = threading.Event(), threading.Event()
    clients = Clients(DrawingTransport())

    def live() -> None:
        go.wait(10)
        clients.talk(1)
        done.set()

    with Run.record(tmp_path / "one.tape"):
        threading.Thread(target=live).start()
    tape = tmp_path / "two.tape"
    with Run.record(tape):
        thread = threading.Thread(target=clients.talk, args=(1,))
        thread.start()
        thread.join()
        go.set()
        assert done.wait(10)
    assert read_branches(tape) == ["/0", "/?"]
