"""Runs: recorded, replayed, resumed and forked; samples; what a tape says of where it came from."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import simulations
from fakes import FakeTransport, Script, VirtualRuntime, chat_content, echo
from simulations import (
    Clients,
    DeadTransport,
    DrawingTransport,
    read_branches,
    read_calls,
    record,
    replay,
)

from tinytroupe.llm.client import AsyncClient, Client, ClientDefaults
from tinytroupe.llm.errors import (
    ConfigError,
    ContentFiltered,
    LLMError,
    QuotaExhausted,
    RateLimited,
    ReplayMiss,
    StoreError,
    TimedOut,
)
from tinytroupe.llm.request import Call, CallOptions, RetryPolicy, chat_request
from tinytroupe.llm.response import Response
from tinytroupe.llm.runs.lanes import lane
from tinytroupe.llm.runs.recording import Recording
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.memory import MemoryStore

ONCE = ClientDefaults(retry=RetryPolicy(max_attempts=1))


def ask(text: str = "Hello.", **options: Any) -> Call:
    request = chat_request("model", [{"role": "user", "content": text}])
    return Call(request, CallOptions(**options))


def hold(clients: Clients, agents: int = 5, turns: int = 3) -> list[list[str]]:
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda _: clients.talk(turns), range(agents)))


def hold_named(clients: Clients) -> dict[str, list[str]]:
    def live(name: str) -> list[str]:
        with lane(name):
            return clients.talk(4)

    names = ("lisa", "oscar", "marcos")
    with ThreadPoolExecutor(3) as pool:
        return dict(zip(names, pool.map(live, names), strict=True))


def read_lines(tape: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tape.read_bytes().splitlines()]


class TestSamples:
    """The n-th identical request of a lane is sample n."""

    def test_agents_draw_independently(self, tmp_path):
        """Agents that ask the same, and one that asks again, each get an answer of their own."""
        store = MemoryStore()
        with Run.record(tmp_path / "run.tape"):
            client = Client(DrawingTransport(), store)
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _: client.send(ask()).text, range(6)))
            answers += [client.send(ask()).text for _ in range(3)]
        assert len(set(answers)) == 9
        assert sorted(call["sample"] for call in read_calls(tmp_path / "run.tape")) == [
            *[0] * 7,
            1,
            2,
        ]

    def test_shared_draws_are_one_for_all(self, tmp_path):
        """With samples shared, all who ask the same get one answer, which is bought once."""
        tape = tmp_path / "run.tape"

        def simulate(client: Client) -> list[str]:
            with ThreadPoolExecutor(4) as pool:
                return list(pool.map(lambda _: client.send(ask()).text, range(6)))

        transport = DrawingTransport()
        with Run.record(tape, samples="shared"):
            answers = simulate(Client(transport, MemoryStore()))
        assert len(set(answers)) == 1
        assert len(transport.attempts) == 1
        assert len(read_calls(tape)) == 6
        with Run.replay(tape):
            assert simulate(Client(DeadTransport())) == answers

    def test_a_retry_of_the_simulation_is_a_new_sample(self, tmp_path):
        """Who asks again because the answer was bad gets another one, now and in the replay."""
        tape = tmp_path / "run.tape"

        def simulate(client: Client) -> list[str]:
            heard = []
            while not heard or "good" not in heard[-1]:
                heard.append(client.send(ask()).text)
            return heard

        script = Script(*(chat_content(text) for text in ("bad", "bad", "good")))
        with Run.record(tape):
            assert simulate(Client(FakeTransport(script), MemoryStore())) == ["bad", "bad", "good"]
        with Run.replay(tape) as run:
            assert simulate(Client(DeadTransport())) == ["bad", "bad", "good"]
        assert run.find_unplayed() == []

    def test_a_recording_over_a_warm_cache_is_complete(self, tmp_path):
        """What comes from the store is on the tape as what was bought is, and says so."""
        store = DiskStore(tmp_path / "answers")

        def simulate(client: Client) -> Any:
            with ThreadPoolExecutor(3) as pool:
                return list(pool.map(lambda _: simulations.talk(client), range(4)))

        with Run.record(tmp_path / "first.tape"):
            first = simulate(Client(DrawingTransport(), store))
        transport = DrawingTransport()
        with Run.record(tmp_path / "second.tape"):
            second = simulate(Client(transport, store))
        assert second == first
        assert transport.attempts == []
        assert {call["origin"] for call in read_calls(tmp_path / "second.tape")} == {"cache"}
        with Run.replay(tmp_path / "second.tape") as run:
            assert simulate(Client(DeadTransport())) == first
        assert run.find_unplayed() == []
        store.close()

    def test_workers_without_names_buy_nothing_again(self, tmp_path):
        """Which worker takes the work may change; what is in the store is found all the same."""
        store = MemoryStore()

        def simulate(client: Client) -> list[str]:
            source: queue.SimpleQueue[Any] = queue.SimpleQueue()
            heard = []

            def work() -> None:
                barrier.wait()
                while source.get() is not None:
                    heard.append(client.send(ask()).text)
                    simulations.pause()

            barrier = threading.Barrier(3)
            for item in [*[1] * 9, *[None] * 3]:
                source.put(item)
            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return sorted(heard)

        with Run.record(tmp_path / "one.tape"):
            first = simulate(Client(DrawingTransport(), store))
        transport = DrawingTransport()
        with Run.record(tmp_path / "two.tape"):
            second = simulate(Client(transport, store))
        assert len(set(first)) == 9
        # Until the second worker came, the first one was no worker of several.
        assert len(transport.attempts) <= 3
        assert len(set(first) & set(second)) >= 6

    def test_draws_of_a_run_are_not_those_without_one(self):
        """Outside of runs identical requests have one answer, which no run's lane takes."""
        store = MemoryStore()
        client = Client(DrawingTransport(), store)
        assert client.send(ask()).text == client.send(ask()).text
        assert len(store) == 1


class TestReplay:
    """A replay answers from the tape alone."""

    def test_sync_and_async_share_tapes(self, tmp_path):
        """What was recorded with one kind of client replays with the other."""
        tape = tmp_path / "run.tape"
        recorded = record(tape, lambda clients: clients.talk(3))
        replayed, run = asyncio.run(self._replay_async(tape))
        assert replayed == recorded
        assert run.find_unplayed() == []

    async def _replay_async(self, tape: Path) -> tuple[list[str], Run]:
        async with Run.replay(tape) as run:
            return await Clients(DeadTransport()).atalk(3), run

    def test_async_with(self, tmp_path):
        """A run can be begun and ended inside an event loop."""
        tape = tmp_path / "run.tape"

        async def main() -> list[str]:
            async with Run.record(tape):
                return await Clients(DrawingTransport()).atalk(3)

        recorded = asyncio.run(main())
        replayed, run = asyncio.run(self._replay_async(tape))
        assert replayed == recorded
        assert run.find_unplayed() == []

    def test_start_and_stop(self, tmp_path):
        """Without a block a run begins with `start` and ends with `stop`."""
        tape = tmp_path / "run.tape"
        run = Run.record(tape).start()
        recorded = hold(Clients(DrawingTransport()))
        run.stop()
        run = Run.replay(tape).start()
        assert hold(Clients(DeadTransport())) == recorded
        run.stop()
        assert Clients(DrawingTransport()).talk(1) != recorded[0][:1]

    def test_the_whole_response_is_as_it_was(self, tmp_path):
        """Text, tool calls, usage, finish reason, model and fingerprint are the recorded ones."""
        tape = tmp_path / "run.tape"
        content = json.dumps(
            {
                "id": "x",
                "model": "model-2026-01-01",
                "system_fingerprint": "fp_1",
                "choices": [
                    {
                        "index": 0,
                        "message": {
                            "role": "assistant",
                            "content": None,
                            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}],
                        },
                        "finish_reason": "tool_calls",
                    }
                ],
                "usage": {"prompt_tokens": 5, "completion_tokens": 4},
            },
            indent=2,
        ).encode()
        with Run.record(tape):
            recorded = Client(FakeTransport(lambda _: content)).send(ask())
        with Run.replay(tape):
            replayed = Client(DeadTransport()).send(ask())
        assert replayed.raw == recorded.raw
        assert replayed.origin == "tape"
        assert replayed.attempts == 0
        for name in ("text", "finish_reason", "model", "usage", "endpoint", "seconds"):
            assert getattr(replayed, name) == getattr(recorded, name) or name == "seconds"
        assert replayed.system_fingerprint == "fp_1"
        assert replayed.message == recorded.message

    def test_embeddings(self, tmp_path):
        """Vectors are recorded and replayed, one per text."""
        tape = tmp_path / "run.tape"
        with Run.record(tape):
            recorded = Client(FakeTransport(echo)).embed("model", ["a", "bc", "a"])
        with Run.replay(tape) as run:
            assert Client(DeadTransport()).embed("model", ["a", "bc", "a"]) == recorded
        assert run.find_unplayed() == []
        assert recorded == [[1.0, 1.0], [2.0, 1.0], [1.0, 1.0]]

    @pytest.mark.parametrize(
        "error",
        [
            RateLimited("slow down", status=429, retry_after_seconds=3.5, request_id="r1"),
            QuotaExhausted("no money", status=429, code="insufficient_quota", body="x" * 900),
            ContentFiltered("refused", status=400, code="content_filter"),
            TimedOut("too late"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_errors_come_again(self, error, tmp_path):
        """A call that failed fails in the replay with the same class and the same facts."""
        tape = tmp_path / "run.tape"

        def refuse(attempt: Any) -> bytes:
            raise error

        def simulate(client: Client) -> LLMError:
            with lane("lisa"), pytest.raises(type(error)) as caught:
                client.send(ask())
            return caught.value

        with Run.record(tape):
            recorded = simulate(Client(FakeTransport(refuse), defaults=ONCE))
        with Run.replay(tape):
            replayed = simulate(Client(DeadTransport()))
        assert type(replayed) is type(recorded)
        assert vars(replayed) == vars(recorded)
        assert str(replayed) == str(recorded)

    def test_an_error_that_was_overcome_comes_again(self, tmp_path):
        """A simulation that goes on after an error goes on after it in the replay."""
        tape = tmp_path / "run.tape"

        def simulate(client: Client) -> list[str]:
            heard = []
            for _ in range(3):
                try:
                    heard.append(client.send(ask()).text)
                except LLMError as error:
                    heard.append(type(error).__name__)
            return heard

        script = Script(chat_content("one"), TimedOut("late"), chat_content("three"))
        with Run.record(tape):
            recorded = simulate(Client(FakeTransport(script), defaults=ONCE))
        with Run.replay(tape) as run:
            assert simulate(Client(DeadTransport())) == recorded == ["one", "TimedOut", "three"]
        assert run.find_unplayed() == []

    def test_a_race_is_run_again(self, tmp_path):
        """Of two calls the one that was cancelled is cancelled again, the other is the winner."""
        tape = tmp_path / "run.tape"

        class Racing(FakeTransport):
            async def asend(self, attempt: Any) -> Response:
                if "slow" in attempt.call.request.messages[0].content:
                    await asyncio.sleep(30)
                return await super().asend(attempt)

        async def main(client: AsyncClient) -> tuple[str, int]:
            tasks = [asyncio.create_task(client.send(ask(text))) for text in ("slow", "quick")]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)
            return done.pop().result().text, len(pending)

        with Run.record(tape):
            recorded = asyncio.run(main(AsyncClient(Racing())))
        assert [call.get("error", {}).get("class") for call in read_calls(tape)] == [
            None,
            "Cancelled",
        ]
        with Run.replay(tape) as run:
            assert asyncio.run(main(AsyncClient(DeadTransport()))) == recorded
        assert run.find_unplayed() == []

    def test_a_cancelled_call_has_no_answer(self, tmp_path):
        """Who waits for a call that was cancelled in the recorded run is told so."""
        tape = tmp_path / "run.tape"

        async def cancel() -> None:
            task = asyncio.create_task(AsyncClient(FakeTransport(held=True)).send(ask()))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])

        with Run.record(tape):
            asyncio.run(cancel())

        runtime = VirtualRuntime()

        async def wait() -> None:
            task = asyncio.create_task(AsyncClient(DeadTransport(), runtime=runtime).send(ask()))
            await task

        with Run.replay(tape), pytest.raises(ReplayMiss, match=r"cancelled after 0\.0 s"):
            asyncio.run(wait())
        assert runtime.sleeps == [pytest.approx(5.0, abs=0.5)]

    def test_a_stream_that_was_left_is_left_again(self, tmp_path):
        """A reader who stopped after some words hears those words again."""

        class Speaking(FakeTransport):
            def stream(self, attempt: Any) -> Any:
                yield from ("I ", "would ", "buy it.")
                yield self._respond(attempt)

        def simulate(client: Client) -> list[str]:
            heard = []
            pieces = client.stream(ask("Speak."))
            for piece in pieces:
                heard.append(piece)
                if "would" in "".join(heard):
                    break
            pieces.close()
            whole = [piece for piece in client.stream(ask("All.")) if isinstance(piece, str)]
            return ["".join(heard), "".join(whole)]

        tape = tmp_path / "run.tape"
        with Run.record(tape):
            recorded = simulate(Client(Speaking(lambda _: chat_content("I would buy it."))))
        with Run.replay(tape) as run:
            assert simulate(Client(DeadTransport())) == recorded
        assert recorded == ["I would ", "I would buy it."]
        assert run.find_unplayed() == []

    def test_latency_is_played_only_when_asked(self, tmp_path):
        """A replay is as fast as it can be, or as slow as the recorded run was."""
        tape = tmp_path / "run.tape"
        runtime = VirtualRuntime()

        def answer_late(attempt: Any) -> bytes:
            runtime.time += 7.0
            return echo(attempt)

        with Run.record(tape):
            Client(FakeTransport(answer_late), runtime=runtime).send(ask())
        for latency, sleeps in ((False, []), (True, [7.0])):
            runtime = VirtualRuntime()
            with Run.replay(tape, latency=latency):
                Client(DeadTransport(), runtime=runtime).send(ask())
            assert runtime.sleeps == sleeps

    def test_a_call_that_moved_is_found_where_there_is_no_doubt(self, tmp_path):
        """A request that was asked once is found though another thread asks it now."""
        tape = tmp_path / "run.tape"
        recorded = record(tape, lambda clients: clients.talk(3))

        def simulate(clients: Clients) -> list[str]:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(clients.talk, 3).result()

        assert replay(tape, simulate) == recorded

    def test_no_answer_is_given_twice(self, tmp_path):
        """Another agent than were recorded gets none of their answers."""
        tape = tmp_path / "run.tape"
        recorded = record(tape, lambda clients: hold(clients, 4))
        heard = {}

        def live(clients: Clients, agent: int) -> None:
            try:
                heard[agent] = clients.talk(3)
            except ReplayMiss:
                heard[agent] = None

        def hold_five(clients: Clients) -> None:
            with ThreadPoolExecutor(5) as pool:
                list(pool.map(lambda agent: live(clients, agent), range(5)))

        with pytest.raises(ReplayMiss), Run.replay(tape):
            hold_five(Clients(DeadTransport()))
        assert [heard[agent] for agent in range(5)] == [*recorded, None]

    def test_a_recording_that_broke_off_gives_nobody_another_s_answer(self, tmp_path):
        """Where an agent's first answer is not on the tape, it does not get another agent's."""
        tape = tmp_path / "run.tape"

        def live(clients: Clients, agent: int) -> None:
            with ThreadPoolExecutor(2) as pool:
                for _ in range(agent):
                    pool.submit(simulations.pause)
                pool.submit(clients.talk, 1).result()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), Run.record(tape):
            live(Clients(DrawingTransport()), 0)
        assert not Recording(tape).ended
        with pytest.raises(ReplayMiss, match="broke off"), Run.replay(tape):
            live(Clients(DeadTransport()), 1)

    def test_a_run_that_failed_says_so(self, tmp_path):
        """The last line of a tape tells whether the simulation came to its end."""
        with pytest.raises(KeyError), Run.record(tmp_path / "failed.tape"):
            raise KeyError
        with Run.record(tmp_path / "ended.tape"):
            pass
        assert read_lines(tmp_path / "failed.tape")[-1]["error"] == "KeyError"
        assert read_lines(tmp_path / "ended.tape")[-1]["error"] is None

    def test_what_was_not_asked_for_is_told(self, tmp_path, caplog):
        """Recorded calls that a replay did not use are named at its end."""
        tape = tmp_path / "run.tape"
        record(tape, hold_named)
        with Run.replay(tape) as run, lane("nobody"):
            pass
        assert len(run.find_unplayed()) == 12
        assert "12 recorded calls were not asked for" in caplog.text

    def test_several_clients_take_part(self, tmp_path):
        """All clients of the process are in the run, whenever they were made."""
        tape = tmp_path / "run.tape"
        early = Client(DrawingTransport())
        with Run.record(tape):
            recorded = [early.send(ask()).text, Client(DrawingTransport()).send(ask()).text]
        with Run.replay(tape):
            dead = Client(DeadTransport())
            assert [dead.send(ask()).text, Client(DeadTransport()).send(ask()).text] == recorded

    def test_a_straggler_does_not_go_live(self, tmp_path):
        """A call that was made in a replay and is answered after it ended asks no endpoint."""
        tape = tmp_path / "run.tape"
        record(tape, lambda clients: clients.talk(1))
        transport = FakeTransport()
        client = Client(transport)
        with Run.replay(tape):
            coroutine = client._start(ask("Another."))
        with pytest.raises(ReplayMiss, match="ended"):
            coroutine.send(None)
        assert transport.attempts == []


class TestResume:
    """A resumed recording goes on exactly."""

    def test_a_resumed_run_is_the_run(self, tmp_path):
        """What is recorded is replayed, what is missing is bought, and the tape is whole."""
        tape = tmp_path / "run.tape"
        recorded = record(tape, hold)
        lines = tape.read_bytes().splitlines(keepends=True)
        for kept in (1, 2, 7, 12, len(lines) - 1):
            tape.write_bytes(b"".join(lines[:kept]))
            before = {(call["branch"], call["order"]) for call in read_calls(tape)}
            transport = DrawingTransport()
            with Run.record(tape, resume=True):
                resumed = hold(Clients(transport))
            assert len(transport.attempts) == 15 - len(before)
            for branch, order in before:
                agent = int(branch.strip("/"))
                assert resumed[agent][order] == recorded[agent][order]
            assert len(read_calls(tape)) == 15
            assert replay(tape, hold) == resumed

    def test_a_cut_line_is_taken_off(self, tmp_path, caplog):
        """An event of which a part is on the tape is asked again."""
        tape = tmp_path / "run.tape"
        record(tape, lambda clients: clients.talk(3))
        content = tape.read_bytes()
        end = content.rindex(b'{"event":"ended"')
        tape.write_bytes(content[: end - 20])
        assert Recording(tape).cut
        transport = DrawingTransport()
        with Run.record(tape, resume=True):
            resumed = Clients(transport).talk(3)
        assert "cut" in caplog.text
        assert len(transport.attempts) == 1
        assert replay(tape, lambda clients: clients.talk(3)) == resumed

    def test_resuming_a_whole_run_buys_nothing(self, tmp_path):
        """Everything is on the tape already, and nothing is written twice."""
        tape = tmp_path / "run.tape"
        recorded = record(tape, hold)
        with Run.record(tape, resume=True):
            assert hold(Clients(DeadTransport())) == recorded
        assert len(read_calls(tape)) == 15
        assert [line["event"] for line in read_lines(tape)][-3:] == ["ended", "resumed", "ended"]

    def test_resuming_nothing_begins(self, tmp_path):
        """Where there is no tape yet, or an empty file, resuming records from the beginning."""
        (tmp_path / "empty.tape").touch()
        for name in ("none.tape", "empty.tape"):
            with Run.record(tmp_path / name, resume=True):
                Clients(DrawingTransport()).talk(1)
            assert len(read_calls(tmp_path / name)) == 1

    def test_what_ended_the_run_is_tried_again(self, tmp_path):
        """The failure that broke a run off is no answer; one that it got over is."""
        tape = tmp_path / "run.tape"

        def simulate(client: Client) -> list[str]:
            heard = []
            for text in ("one", "two", "three"):
                try:
                    heard.append(client.send(ask(text)).text)
                except TimedOut:
                    heard.append("late")
            return heard

        script = Script(chat_content("1"), TimedOut("late"), QuotaExhausted("no money"))
        with pytest.raises(QuotaExhausted), Run.record(tape):
            simulate(Client(FakeTransport(script), defaults=ONCE))
        transport = FakeTransport(lambda _: chat_content("3"))
        with Run.record(tape, resume=True):
            assert simulate(Client(transport)) == ["1", "late", "3"]
        assert len(transport.attempts) == 1
        with Run.replay(tape) as run:
            assert simulate(Client(DeadTransport())) == ["1", "late", "3"]
        assert run.find_unplayed() == []

    def test_a_lane_that_was_not_recorded_buys_its_own(self, tmp_path):
        """An agent without an answer on the tape does not take another's."""
        tape = tmp_path / "run.tape"
        record(tape, lambda clients: hold(clients, 1, 1))
        content = tape.read_bytes()
        tape.write_bytes(content[: content.rindex(b'{"event":"ended"')])
        with Run.record(tape, resume=True):
            resumed = hold(Clients(DrawingTransport()), 4, 1)
        assert len({heard[0] for heard in resumed}) == 4
        assert replay(tape, lambda clients: hold(clients, 4, 1)) == resumed

    def test_a_tape_is_not_overwritten(self, tmp_path):
        """Recording onto an existing tape is refused, and the tape is as it was."""
        tape = tmp_path / "run.tape"
        record(tape, hold)
        before = tape.read_bytes()
        with pytest.raises(StoreError, match="exists already"), Run.record(tape):
            pass
        assert tape.read_bytes() == before


class TestFork:
    """A fork goes on differently from a point."""

    @pytest.fixture
    def recorded(self, tmp_path) -> dict[str, list[str]]:
        return record(tmp_path / "run.tape", hold_named)

    def fork(self, tmp_path: Path, **options: Any) -> tuple[dict[str, list[str]], int]:
        transport = DrawingTransport()
        target = tmp_path / "fork.tape"
        target.unlink(missing_ok=True)
        with Run.fork(tmp_path / "run.tape", target, **options):
            result = hold_named(Clients(transport))
        assert replay(target, hold_named) == result
        return result, len(transport.attempts)

    def test_without_a_point_nothing_differs(self, tmp_path, recorded):
        """Where the simulation is the same and no point is given, all answers are recorded."""
        assert self.fork(tmp_path) == (recorded, 0)
        calls = read_calls(tmp_path / "fork.tape")
        assert len(calls) == 12

    def test_from_a_call_of_a_lane(self, tmp_path, recorded):
        """From a lane's n-th call on all is new, and before it all is recorded."""
        result, bought = self.fork(tmp_path, at="lisa:2")
        assert result["lisa"][:2] == recorded["lisa"][:2]
        assert result["lisa"][2] != recorded["lisa"][2]
        assert result["lisa"][3] != recorded["lisa"][3]
        line = next(
            number
            for number, event in enumerate(read_lines(tmp_path / "run.tape"), 1)
            if event.get("lane") == "lisa" and event["order"] == 2
        )
        kept = sum(
            event["event"] == "call" for event in read_lines(tmp_path / "run.tape")[: line - 1]
        )
        assert bought == 12 - kept

    def test_from_a_line(self, tmp_path, recorded):
        """From a line of the tape on all is new."""
        result, bought = self.fork(tmp_path, at=2)
        assert bought == 12
        assert not set(result["oscar"]) & set(recorded["oscar"])
        _, bought = self.fork(tmp_path, at=13)
        assert bought == 1

    def test_a_lane(self, tmp_path, recorded):
        """All of one agent is new, the others are as recorded."""
        result, bought = self.fork(tmp_path, at="oscar")
        assert bought == 4
        assert result["lisa"] == recorded["lisa"]
        assert result["marcos"] == recorded["marcos"]
        assert not set(result["oscar"]) & set(recorded["oscar"])

    def test_a_predicate(self, tmp_path, recorded):
        """A function may say of each recorded call whether it is past the point."""
        result, bought = self.fork(
            tmp_path, at=lambda take: take.lane == "lisa" and take.order == 3
        )
        assert bought == 1
        assert result["lisa"][:3] == recorded["lisa"][:3]
        assert result["lisa"][3] != recorded["lisa"][3]

    def test_an_unnamed_lane(self, tmp_path):
        """A lane that nobody named is named by its path."""
        recorded = record(tmp_path / "run.tape", hold)
        for at, first in (("/1", 0), ("/1:2", 2)):
            target = tmp_path / f"fork-{first}.tape"
            with Run.fork(tmp_path / "run.tape", target, at=at):
                result = hold(Clients(DrawingTransport()))
            assert result[1][:first] == recorded[1][:first]
            assert result[1][first] != recorded[1][first]

    def test_one_answer_replaced(self, tmp_path, recorded):
        """What if Lisa had said no: her lane goes on from there, the others hear what they did."""
        result, bought = self.fork(tmp_path, replace={"lisa:1": "No."})
        assert result["lisa"][:2] == [recorded["lisa"][0], "No."]
        assert not set(result["lisa"][2:]) & set(recorded["lisa"])
        assert result["oscar"] == recorded["oscar"]
        assert bought == 2
        event = next(call for call in read_calls(tmp_path / "fork.tape") if call.get("replaced"))
        assert (event["lane"], event["order"]) == ("lisa", 1)

    def test_an_answer_replaced_at_the_point(self, tmp_path, recorded):
        """The replaced answer counts also where it is the first one past the point."""
        result, _ = self.fork(tmp_path, at="lisa:1", replace={"lisa:1": "No."})
        assert result["lisa"][:2] == [recorded["lisa"][0], "No."]

    def test_a_fork_draws_anew_though_the_store_is_warm(self, tmp_path):
        """The store holds what the recorded run was answered; a fork is there to go on."""
        store = MemoryStore()

        def simulate(client: Client) -> list[str]:
            return simulations.talk(client, 4)

        with Run.record(tmp_path / "run.tape"):
            recorded = simulate(Client(DrawingTransport(), store))
        results = []
        for name in ("one", "two"):
            with Run.fork(tmp_path / "run.tape", tmp_path / f"{name}.tape", at="/:2"):
                results.append(simulate(Client(DrawingTransport(), store)))
        assert [result[:2] for result in results] == [recorded[:2]] * 2
        assert len({result[2] for result in [*results, recorded]}) == 3

    def test_a_resumed_fork_draws_as_it_did(self, tmp_path):
        """What a fork bought before it was cut is found in the store when it goes on."""
        store = MemoryStore()
        record(tmp_path / "run.tape", lambda clients: clients.talk(2))
        fork = tmp_path / "fork.tape"
        with Run.fork(tmp_path / "run.tape", fork, at="/:0"):
            first = simulations.talk(Client(DrawingTransport(), store), 4)
        lines = fork.read_bytes().splitlines(keepends=True)
        fork.write_bytes(b"".join(lines[:3]))
        transport = DrawingTransport()
        with Run.record(fork, resume=True):
            assert simulations.talk(Client(transport, store), 4) == first
        assert transport.attempts == []

    @pytest.mark.parametrize("kept", [1, 3, 5, 9])
    def test_a_fork_that_was_killed_before_its_point_goes_on(self, kept, tmp_path, recorded):
        """What the recorded run had answered and the fork had not yet taken over is not bought."""
        options = {"at": "lisa:2", "replace": {"oscar:0": "No."}}
        result, bought = self.fork(tmp_path, **options)
        fork = tmp_path / "fork.tape"
        lines = fork.read_bytes().splitlines(keepends=True)
        fork.write_bytes(b"".join(lines[:kept]))
        transport = DrawingTransport()
        with Run.record(fork, resume=True):
            resumed = hold_named(Clients(transport))
        assert len(transport.attempts) <= bought
        assert resumed["lisa"][:2] == recorded["lisa"][:2]
        assert resumed["oscar"][0] == "No."
        assert replay(fork, hold_named) == resumed
        assert result["lisa"][:2] == resumed["lisa"][:2]

    def test_a_fork_at_a_function_goes_on_without_its_origin(self, tmp_path, recorded, caplog):
        """What a function said cannot be said again; that is told, and the rest is asked live."""
        fork = tmp_path / "fork.tape"
        with Run.fork(tmp_path / "run.tape", fork, at=lambda take: take.order > 1):
            hold_named(Clients(DrawingTransport()))
        assert "lambda" in read_lines(fork)[0]["forked_from"]["at"]["function"]
        fork.write_bytes(fork.read_bytes().splitlines(keepends=True)[0])
        with Run.record(fork, resume=True):
            resumed = hold_named(Clients(DrawingTransport()))
        assert "a function said" in caplog.text
        assert replay(fork, hold_named) == resumed

    def test_the_fork_says_what_it_came_from(self, tmp_path, recorded):
        """The header of a fork's tape names the tape, the point and what was replaced."""
        self.fork(tmp_path, at="lisa:2", replace={"lisa:1": "No."})
        header = read_lines(tmp_path / "fork.tape")[0]
        assert header["mode"] == "fork"
        assert header["forked_from"] == {
            "path": str(tmp_path / "run.tape"),
            "at": "lisa:2",
            "replaced": {"lisa:1": "No."},
        }

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"at": "liza:2"}, "nearest is lisa"),
            ({"at": "liza"}, "nearest is lisa"),
            ({"at": "lisa:4"}, "has 4 calls, numbered from 0"),
            ({"at": "lisa:x"}, "lisa:x"),
            ({"at": 0}, "no line 0"),
            ({"at": 99}, "no line 99"),
            ({"replace": {"lisa:9": "No."}}, "no lisa:9"),
            ({"replace": {"lisa": "No."}}, "names no call"),
        ],
        ids=str,
    )
    def test_a_point_that_does_not_exist(self, options, said, tmp_path, recorded):
        """The error names what there is; no tape is begun and nothing is patched."""
        with pytest.raises(ConfigError, match=said):
            Run.fork(tmp_path / "run.tape", tmp_path / "fork.tape", **options).start()
        assert not (tmp_path / "fork.tape").exists()
        with Run.record(tmp_path / "next.tape"):
            pass

    def test_what_has_no_text_is_not_replaced(self, tmp_path):
        """A vector is no answer that could say something else."""
        with Run.record(tmp_path / "run.tape"), lane("lisa"):
            Client(FakeTransport(echo)).embed("model", ["a"])
        with pytest.raises(ConfigError, match="no text"):
            Run.fork(
                tmp_path / "run.tape", tmp_path / "fork.tape", replace={"lisa:0": "No."}
            ).start()

    def test_a_tape_cannot_be_forked_onto_itself(self, tmp_path, recorded):
        """The recorded run stays what it is."""
        before = (tmp_path / "run.tape").read_bytes()
        with pytest.raises(StoreError, match="exists already"):
            Run.fork(tmp_path / "run.tape", tmp_path / "run.tape").start()
        assert (tmp_path / "run.tape").read_bytes() == before


class TestProvenance:
    """A tape tells where it came from, and nothing that is secret."""

    def test_the_header(self, tmp_path):
        """The header tells versions, key schema, settings and the time."""
        with Run.record(tmp_path / "run.tape", settings={"MODEL": "m"}):
            pass
        header = read_lines(tmp_path / "run.tape")[0]
        assert header["format"] == 1
        assert header["key_schema"] == 1
        assert header["settings"] == {"MODEL": "m"}
        assert header["python"] == sys.version.split()[0]
        assert {"openai", "orjson"} <= header["packages"].keys()
        assert header["started_at"].startswith("20")
        assert len(header["id"]) == 16

    def test_the_commit_of_the_simulation(self, tmp_path):
        """The header names the commit of the script's folder, wherever it is started."""
        folder = tmp_path / "simulation"
        folder.mkdir()
        script = folder / "sim.py"
        tape = tmp_path / "run.tape"
        script.write_text(
            f"from tinytroupe.llm.runs.run import Run\nwith Run.record({str(tape)!r}):\n    pass\n"
        )
        git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Begin"]):
            subprocess.run([*git, *words], check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
        package = Path(simulations.__file__).parent.parent
        for changed in (False, True):
            tape.unlink(missing_ok=True)
            subprocess.run(
                [sys.executable, "-B", str(script)],
                check=True,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(package)},
            )
            assert read_lines(tape)[0]["git"] == {"commit": head.strip(), "changed": changed}
            script.write_text(script.read_text() + "# changed\n")

    def test_keys_on_the_command_line_are_not_told(self, tmp_path):
        """An argument that is, or follows, something like a key is masked."""
        tape = tmp_path / "run.tape"
        code = f"from tinytroupe.llm.runs.run import Run\nRun.record({str(tape)!r}).start().stop()"
        secrets = ["--api-key", "hunter2hunter2", "--token=abcdefgh", "sk-proj-abcdefgh12345"]
        subprocess.run(
            [sys.executable, "-c", code, "--agents", "5", *secrets, "sk-live"],
            check=True,
            timeout=60,
        )
        content = tape.read_text()
        for secret in ("hunter2", "abcdefgh"):
            assert secret not in content
        command = read_lines(tape)[0]["command"]
        assert "--agents" in command
        assert "5" in command

    def test_a_tape_holds_no_key(self, tmp_path):
        """The key that calls are made with is not on the tape."""
        tape = tmp_path / "run.tape"
        os.environ["OPENAI_API_KEY"] = "sk-secret-secret-secret"
        try:
            record(tape, hold)
        finally:
            del os.environ["OPENAI_API_KEY"]
        assert b"secret" not in tape.read_bytes()


def test_one_run_at_a_time(tmp_path):
    """A second run is refused while one is active, and the first goes on."""
    with Run.record(tmp_path / "one.tape"):
        with pytest.raises(ConfigError, match="another run is active"):
            Run.replay(tmp_path / "two.tape").start()
        Clients(DrawingTransport()).talk(2)
    assert len(read_calls(tmp_path / "one.tape")) == 2


def test_names_that_cannot_be_written_cost_no_answer(tmp_path):
    """Halves of characters in a lane or a purpose are replaced on the tape."""
    tape = tmp_path / "run.tape"
    clients = Clients(DrawingTransport())
    with Run.record(tape), lane("lisa\ud83d"):
        text = clients.blocking.send(ask(purpose="\udc80")).text
    assert text
    (call,) = read_calls(tape)
    assert call["lane"].startswith("lisa")


def test_a_forked_child_does_not_write(tmp_path, caplog):
    """A process that was forked during a run leaves the tape to its parent, and says so."""
    tape = tmp_path / "run.tape"
    with Run.record(tape):
        clients = Clients(DrawingTransport())
        clients.talk(1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                clients.talk(2)
                code = 0 if "was forked" in caplog.text else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        clients.talk(1)
    assert len(read_calls(tape)) == 2
    assert Recording(tape).ended


def test_tapes_of_many_threads_are_numbered_within_their_branches(tmp_path):
    """The calls of each branch are numbered from 0 without gaps."""
    tape = tmp_path / "run.tape"
    record(tape, lambda clients: hold(clients, 8, 4))
    calls = sorted((call["branch"], call["order"]) for call in read_calls(tape))
    assert calls == [*itertools.product(read_branches(tape), range(4))]


def test_recording_survives_a_thread_that_is_still_asking(tmp_path):
    """A call that ends after the run's end is answered; it is not on the tape."""
    tape = tmp_path / "run.tape"
    transport = FakeTransport(held=True)
    client = Client(transport)
    heard = []
    with Run.record(tape):
        thread = threading.Thread(target=lambda: heard.append(client.send(ask()).text))
        thread.start()
        assert transport.arrived.acquire(timeout=10)
    transport.go.set()
    thread.join()
    assert heard == ["You said: Hello."]
    assert read_calls(tape) == []
