"""Where chance decides who asks next, nothing is guessed; a name leaves nothing to chance."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from asyncio import as_completed as as_completed_by_name
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from contextvars import copy_context
from multiprocessing.pool import ThreadPool
from queue import SimpleQueue as SimpleQueueByName
from typing import Any

import pytest
import simulations
from simulations import (
    Clients,
    DeadTransport,
    DrawingTransport,
    assert_exact,
    pause,
    read_calls,
    record,
)

from tinytroupe.llm.errors import ReplayMiss
from tinytroupe.llm.runs.lanes import lane
from tinytroupe.llm.runs.recording import Recording
from tinytroupe.llm.runs.run import Run

AGENTS = range(6)


def make_request(text: str) -> Any:
    return simulations.chat_request("model", [{"role": "user", "content": text}])


def work_off(
    clients: Clients,
    source: Any,
    start: Callable[[Callable[[], None]], list[Any]],
    name: Callable[[int], Any],
    **options: Any,
) -> dict[int, list[str]]:
    """Lets workers take agents from a source until it is empty, and returns what each was told."""
    results: dict[int, list[str]] = {}

    def work() -> None:
        while (agent := source()) is not None:
            pause()
            results[agent] = heard = []
            with suppress(ReplayMiss), name(agent):
                talk_into(heard, clients, **options)

    for worker in start(work):
        worker.join()
    return results


def talk_into(heard: list[str], clients: Clients, persona: str = "", turns: int = 3) -> None:
    messages = [{"role": "user", "content": f"Hello{persona}."}]
    for _ in range(turns):
        pause()
        heard.append(clients.blocking.send(simulations.chat_request("model", messages)).text)
        messages.append({"role": "assistant", "content": heard[-1]})


def start_workers(work: Callable[[], None]) -> list[Any]:
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    return threads


class Joined:
    """A job that can be joined as a thread can."""

    def __init__(self, future: Any) -> None:
        self.join = future.result


def fill(source: Any) -> Any:
    for agent in [*AGENTS, *[None] * 3]:
        source.put(agent)
    return source


def unnamed(agent: int) -> Any:
    return nullcontext()


def named(agent: int) -> Any:
    return lane(f"agent-{agent}")


def share_queue(clients: Clients, name: Any) -> Any:
    return work_off(clients, fill(queue.Queue()).get, start_workers, name)


def share_stack(clients: Clients, name: Any) -> Any:
    source = queue.LifoQueue()
    for agent in [*[None] * 3, *AGENTS]:
        source.put(agent)
    return work_off(clients, source.get, start_workers, name)


def share_simple_queue(clients: Clients, name: Any) -> Any:
    """By a closure."""
    source = fill(queue.SimpleQueue())
    return work_off(clients, lambda: source.get(), lambda work: start_workers(work), name)


def share_simple_queue_by_argument(clients: Clients, name: Any) -> Any:
    source = fill(SimpleQueueByName())
    results: dict[int, list[str]] = {}

    def work(source: Any) -> None:
        while (agent := source.get()) is not None:
            pause()
            results[agent] = heard = []
            with suppress(ReplayMiss), name(agent):
                talk_into(heard, clients)

    threads = [threading.Thread(target=work, args=(source,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class Crew(threading.Thread):
    """A worker that holds its queue as an attribute."""

    def __init__(self, source: Any, work: Callable[[], None]) -> None:
        super().__init__()
        self.source = source
        self.work = work

    def run(self) -> None:
        self.work()


def share_simple_queue_by_attribute(clients: Clients, name: Any) -> Any:
    source = fill(SimpleQueueByName())

    def start(work: Callable[[], None]) -> list[Any]:
        crew = [Crew(source, work) for _ in range(3)]
        for thread in crew:
            thread.start()
        return crew

    # The function that takes the work does not hold the queue: only the thread does.
    return work_off(clients, TakesFrom(source), start, name)


class TakesFrom:
    def __init__(self, source: Any) -> None:
        self.source = source

    def __call__(self) -> Any:
        return self.source.get()


def share_queue_in_jobs(clients: Clients, name: Any) -> Any:
    with ThreadPoolExecutor(3) as pool:
        return work_off(
            clients,
            fill(queue.Queue()).get,
            lambda work: [Joined(pool.submit(work)) for _ in range(3)],
            name,
        )


def share_simple_queue_in_jobs(clients: Clients, name: Any) -> Any:
    source = fill(queue.SimpleQueue())
    results: dict[int, list[str]] = {}

    def work(take: Callable[[], Any]) -> None:
        while (agent := take()) is not None:
            results[agent] = heard = []
            with suppress(ReplayMiss), name(agent):
                talk_into(heard, clients)

    with ThreadPoolExecutor(3) as pool:
        # A bound method of the queue is the queue.
        jobs = [pool.submit(functools.partial(work, source.get)) for _ in range(3)]
    assert [job.result() for job in jobs] == [None] * 3
    return results


def use_thread_pool(clients: Clients, name: Any) -> Any:
    results: dict[int, list[str]] = {}

    def live(agent: int) -> None:
        pause()
        results[agent] = heard = []
        with suppress(ReplayMiss), name(agent):
            talk_into(heard, clients)

    with ThreadPool(3) as pool:
        pool.map(live, AGENTS, chunksize=1)
    return results


def share_asyncio_queue(clients: Clients, name: Any) -> Any:
    async def main() -> Any:
        source: asyncio.Queue[Any] = asyncio.Queue()
        for agent in [*AGENTS, *[None] * 3]:
            source.put_nowait(agent)
        results: dict[int, list[str]] = {}

        async def work() -> None:
            while (agent := await source.get()) is not None:
                await simulations.apause()
                results[agent] = heard = []
                with suppress(ReplayMiss), name(agent):
                    request = make_request("Hello.")
                    for _ in range(3):
                        heard.append((await clients.awaited.send(request)).text)

        await asyncio.gather(*(work() for _ in range(3)))
        return results

    return asyncio.run(main())


def use_threads_from_before(clients: Clients, name: Any) -> Any:
    """Workers that were started before the run and are handed their work by no queue."""
    agents = [*AGENTS]

    def take() -> Any:
        with suppress(IndexError):
            return agents.pop()
        return None

    return work_off(clients, take, Early.start, name)


class Early:
    """Threads that wait since before any run."""

    go: queue.Queue[Any] = queue.Queue()
    done: queue.Queue[Any] = queue.Queue()

    @classmethod
    def begin(cls) -> None:
        for _ in range(3):
            threading.Thread(target=cls.serve, daemon=True).start()

    @classmethod
    def serve(cls) -> None:
        while True:
            work = cls.go.get()
            if work is None:
                return
            work()
            cls.done.put(None)

    @classmethod
    def start(cls, work: Callable[[], None]) -> list[Any]:
        for _ in range(3):
            cls.go.put(work)
        return [Early] * 3

    @classmethod
    def join(cls) -> None:
        cls.done.get()

    @classmethod
    def end(cls) -> None:
        for _ in range(3):
            cls.go.put(None)


@pytest.fixture
def early_threads():
    Early.begin()
    yield
    Early.end()


def share_a_branch(clients: Clients, name: Any) -> Any:
    """Jobs that all run in the context of the one that submits them, as some libraries do it."""
    contexts = [copy_context() for _ in AGENTS]
    results: dict[int, list[str]] = {}

    def live(agent: int) -> None:
        contexts.pop().run(live_inside, agent)

    def live_inside(agent: int) -> None:
        pause()
        results[agent] = heard = []
        with suppress(ReplayMiss), name(agent):
            talk_into(heard, clients)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(live, AGENTS))
    return results


def make_tasks_directly(clients: Clients, name: Any) -> Any:
    """Tasks that no event loop was asked to create."""
    results: dict[int, list[str]] = {}

    async def live(agent: int) -> None:
        await simulations.apause()
        results[agent] = heard = []
        with suppress(ReplayMiss), name(agent):
            for _ in range(3):
                heard.append((await clients.awaited.send(make_request("Hello."))).text)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(asyncio.Task(live(agent), loop=loop) for agent in AGENTS))

    asyncio.run(main())
    return results


def follow_as_completed(clients: Clients, name: Any) -> Any:
    """Whoever is ready first is asked first."""
    results: dict[int, list[str]] = {}
    with ThreadPoolExecutor(3) as pool:
        futures = {pool.submit(pause): agent for agent in AGENTS}
        for future in as_completed(futures):
            agent = futures[future]
            results[agent] = heard = []
            with suppress(ReplayMiss), name(agent):
                talk_into(heard, clients)
    return results


def submit_as_completed(clients: Clients, name: Any) -> Any:
    results: dict[int, list[str]] = {}

    def live(agent: int) -> None:
        results[agent] = heard = []
        with suppress(ReplayMiss), name(agent):
            talk_into(heard, clients)

    with ThreadPoolExecutor(3) as pool:
        futures = {pool.submit(pause): agent for agent in AGENTS}
        later = [
            pool.submit(copy_context().run, live, futures[done]) for done in as_completed(futures)
        ]
    assert [job.result() for job in later] == [None] * len(AGENTS)
    return results


def follow_tasks_as_completed(clients: Clients, name: Any) -> Any:
    results: dict[int, list[str]] = {}

    async def wait(agent: int) -> int:
        await simulations.apause()
        return agent

    async def main() -> None:
        for done in asyncio.as_completed([wait(agent) for agent in AGENTS]):
            agent = await done
            results[agent] = heard = []
            with suppress(ReplayMiss), name(agent):
                for _ in range(3):
                    heard.append((await clients.awaited.send(make_request("Hello."))).text)

    asyncio.run(main())
    return results


def complete_by_name(clients: Clients, name: Any) -> Any:
    """`as_completed` imported before the run makes its tasks in the order of a set."""
    results: dict[int, list[str]] = {}

    async def live(agent: int) -> None:
        await simulations.apause()
        results[agent] = heard = []
        with suppress(ReplayMiss), name(agent):
            for _ in range(3):
                heard.append((await clients.awaited.send(make_request("Hello."))).text)

    async def main() -> None:
        agents = [*AGENTS]
        simulations.chance.shuffle(agents)  # As the addresses of the coroutines do it.
        for done in as_completed_by_name([live(agent) for agent in agents]):
            await done

    asyncio.run(main())
    return results


def use_threads_of_anyio(clients: Clients, name: Any) -> Any:
    """They run in the context of the task that waits for them."""
    anyio = pytest.importorskip("anyio")
    results: dict[int, list[str]] = {}

    async def act(agent: int) -> None:
        await simulations.apause()
        results[agent] = heard = []
        with suppress(ReplayMiss), name(agent):
            await anyio.to_thread.run_sync(talk_into, heard, clients)

    async def live() -> None:
        async with anyio.create_task_group() as group:
            for agent in AGENTS:
                group.start_soon(act, agent)

    asyncio.run(live())
    return results


AMBIGUOUS = [
    use_threads_of_anyio,
    share_queue,
    share_stack,
    share_simple_queue,
    share_simple_queue_by_argument,
    share_simple_queue_by_attribute,
    share_queue_in_jobs,
    share_simple_queue_in_jobs,
    use_thread_pool,
    share_asyncio_queue,
    use_threads_from_before,
    share_a_branch,
    make_tasks_directly,
    follow_as_completed,
    submit_as_completed,
    follow_tasks_as_completed,
    complete_by_name,
]


@pytest.mark.usefixtures("early_threads")
@pytest.mark.parametrize("simulate", AMBIGUOUS)
def test_where_chance_decides_nothing_is_guessed(simulate, tmp_path, caplog):
    """Unnamed agents behind a queue get their own answers or an error, never another's."""
    tape = tmp_path / "run.tape"
    recorded = record(tape, lambda clients: simulate(clients, unnamed))
    assert len({tuple(heard) for heard in recorded.values()}) == len(AGENTS)
    assert "cannot be told apart" in caplog.text
    for _ in range(8):
        with pytest.raises(ReplayMiss, match="lane"), Run.replay(tape):
            results = simulate(Clients(DeadTransport()), unnamed)
        assert results.keys() == recorded.keys()
        for agent, heard in results.items():
            assert heard == recorded[agent][: len(heard)]


@pytest.mark.usefixtures("early_threads")
@pytest.mark.parametrize("simulate", AMBIGUOUS)
def test_named_agents_are_told_apart_wherever_they_are(simulate, tmp_path, caplog):
    """With `lane(name)` each agent gets its own answers, whichever worker takes it."""
    tape = tmp_path / "run.tape"
    assert_exact(tape, lambda clients: simulate(clients, named), 6)
    assert "cannot be told apart" not in caplog.text


@pytest.mark.parametrize("simulate", [share_queue, share_simple_queue, use_thread_pool])
def test_what_is_in_no_doubt_needs_no_name(simulate, tmp_path):
    """Behind a queue, requests that differ, or all have one answer, find it without a name."""
    tape = tmp_path / "run.tape"

    def simulate_personas(clients: Clients) -> Any:
        results = {}

        def live(agent: int) -> None:
            results[agent] = heard = []
            talk_into(heard, clients, f", I am {agent}")

        source = fill(queue.SimpleQueue() if simulate is share_simple_queue else queue.Queue())
        if simulate is use_thread_pool:
            with ThreadPool(3) as pool:
                pool.map(live, AGENTS, chunksize=1)
            return results

        def work() -> None:
            while (agent := source.get()) is not None:
                live(agent)

        for thread in start_workers(work):
            thread.join()
        return results

    assert_exact(tape, simulate_personas)


def test_an_inbox_of_its_own_leaves_nothing_to_chance(tmp_path, caplog):
    """A thread that alone takes from its queue needs no name."""

    def simulate(clients: Clients) -> Any:
        results: dict[int, Any] = {}

        def live(agent: int, inbox: queue.Queue[Any]) -> None:
            heard = results[agent] = []
            while inbox.get() is not None:
                heard.append(clients.talk(2))

        inboxes = [queue.Queue() for _ in AGENTS]
        threads = [threading.Thread(target=live, args=each) for each in enumerate(inboxes)]
        for thread in threads:
            thread.start()
        for word in ("hello", "go on", None):
            for inbox in inboxes:
                inbox.put(word)
        for thread in threads:
            thread.join()
        return results

    assert_exact(tmp_path / "run.tape", simulate)
    assert "cannot be told apart" not in caplog.text


def test_one_name_in_several_inboxes_is_noticed(tmp_path):
    """A name that threads with different queues use does not make one agent of them."""

    def simulate(clients: Clients) -> Any:
        results: dict[int, Any] = {}
        turn = threading.Lock()

        def live(agent: int, inbox: queue.Queue[Any]) -> None:
            inbox.get()
            with turn, lane("plan"), suppress(ReplayMiss):
                results[agent] = clients.talk(1)

        inboxes = [queue.Queue() for _ in range(2)]
        threads = [threading.Thread(target=live, args=each) for each in enumerate(inboxes)]
        order = [*zip(threads, inboxes, strict=True)]
        simulations.chance.shuffle(order)
        for thread in threads:
            thread.start()
        for thread, inbox in order:
            inbox.put("plan!")
            thread.join()
        return results

    tape = tmp_path / "run.tape"
    recorded = record(tape, simulate)
    for _ in range(6):
        with pytest.raises(ReplayMiss, match="lane"), Run.replay(tape):
            results = simulate(Clients(DeadTransport()))
        assert all(results[agent] == recorded[agent] for agent in results)


def test_two_in_one_name_at_a_time_are_noticed(tmp_path):
    """Workers that are both inside one name leave to chance which of them asks first."""

    def simulate(clients: Clients) -> Any:
        source: queue.Queue[Any] = queue.Queue()
        both = threading.Barrier(2)
        results = {}

        def work() -> None:
            agent = source.get()
            with lane("lisa"), suppress(ReplayMiss):
                both.wait()
                pause()
                results[agent] = clients.talk(1)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for agent in range(2):
            source.put(agent)
        for thread in threads:
            thread.join()
        return results

    tape = tmp_path / "run.tape"
    record(tape, simulate)
    with pytest.raises(ReplayMiss, match="lane"), Run.replay(tape):
        assert simulate(Clients(DeadTransport())) == {}


def test_a_second_worker_casts_doubt_on_what_the_first_did_before(tmp_path):
    """That a queue is shared counts from the first time that something was taken from it."""

    def simulate(clients: Clients, order: list[int]) -> Any:
        source: queue.Queue[Any] = queue.Queue()
        for agent in range(2):
            source.put(agent)
        results: dict[int, Any] = {}

        def work() -> None:
            agent = source.get()
            with suppress(ReplayMiss):
                results[agent] = clients.talk(2)

        gates = [threading.Event() for _ in range(2)]
        workers = [
            threading.Thread(target=lambda gate=gate: (gate.wait(), work())) for gate in gates
        ]
        for worker in workers:
            worker.start()
        for index in order:
            gates[index].set()
            workers[index].join()
        return results

    tape = tmp_path / "run.tape"
    with Run.record(tape):
        recorded = simulate(Clients(DrawingTransport()), [0, 1])
    assert [event["ambiguous"] for event in read_calls(tape)] == [False, False, True, True]
    assert all(Recording(tape).is_ambiguous(take) for take in Recording(tape).takes)
    for order in ([0, 1], [1, 0]):
        with pytest.raises(ReplayMiss, match="lane"), Run.replay(tape):
            results = simulate(Clients(DeadTransport()), order)
        assert all(results[agent] == recorded[agent] for agent in results)


def test_a_pool_that_ends_casts_no_doubt(tmp_path, caplog):
    """A pool that is shut down empties its own queue; that is nobody's work."""

    def simulate(clients: Clients) -> Any:
        def live(_: int) -> list[str]:
            with ThreadPool(2) as pool:
                pool.map(abs, [1])
            pool = ThreadPoolExecutor(1)
            pool.submit(pause)
            pool.shutdown(cancel_futures=True)
            clients.blocking.send_many([make_request("Hello.")])
            with lane("plan"):
                return clients.talk(2)

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(live, AGENTS)), live(0)

    assert_exact(tmp_path / "run.tape", simulate, 5)
    assert "cannot be told apart" not in caplog.text


def test_taking_what_is_left_casts_no_doubt_on_what_was(tmp_path, caplog):
    """That the main program empties a queue at the end does not reach back to its agents."""

    def simulate(clients: Clients) -> Any:
        source: queue.Queue[Any] = queue.Queue()
        with ThreadPoolExecutor(3) as pool:
            first = list(pool.map(lambda _: clients.talk(), AGENTS))
        worker = threading.Thread(target=source.get)
        worker.start()
        source.put(1)
        worker.join()
        source.put(2)
        source.get()
        return first

    assert_exact(tmp_path / "run.tape", simulate)
    assert "cannot be told apart" not in caplog.text


def test_a_callback_of_the_loop_does_not_pass_for_its_task(tmp_path):
    """What a callback starts comes at a moment that chance decides, and is not guessed."""

    def simulate(clients: Clients) -> Any:
        results: dict[str, Any] = {}

        async def live(name: str) -> None:
            with suppress(ReplayMiss):
                results[name] = await clients.atalk(1)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            tasks = []
            for agent in AGENTS:
                delay = simulations.draw_pause()
                loop.call_later(
                    delay, lambda agent=agent: tasks.append(loop.create_task(live(f"{agent}")))
                )
            while len(tasks) < len(AGENTS):
                await asyncio.sleep(0.001)
            await asyncio.gather(*tasks)

        asyncio.run(main())
        return results

    tape = tmp_path / "run.tape"
    recorded = record(tape, simulate)
    assert len(recorded) == len(AGENTS)
    for _ in range(4):
        with pytest.raises(ReplayMiss, match="lane"), Run.replay(tape):
            results = simulate(Clients(DeadTransport()))
        assert all(results[agent] == recorded[agent] for agent in results)
