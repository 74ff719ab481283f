"""What befalls chats from outside: lost connections, killed processes, cancelled tasks, full disks.

Whatever it is, a chat stays a conversation, a message can be sent again at once, and what was
answered is not asked again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import django_tools
import psycopg
import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from chat_server import call_tools
from django.core.handlers.base import BaseHandler
from django.core.management import call_command
from django.db import OperationalError, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext
from django_chats import Door, Endpoints, MakePrompt, outline, read_chat
from django_fixtures import Database, MakeDatabase, use_database
from postgres_server import PostgresServer

from tinytroupe.contrib.django import access, chats, turns
from tinytroupe.contrib.django.access import AsyncAccess
from tinytroupe.contrib.django.chats import ChatHistoryRepository
from tinytroupe.contrib.django.errors import ChatConflict, UnknownChat
from tinytroupe.contrib.django.history import check_history, make_message
from tinytroupe.contrib.django.models import ChatHistory, ChatLock, Tool
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper
from tinytroupe.contrib.django.stored_turns import StoredTurn
from tinytroupe.contrib.django.tools import fill_tool_spec
from tinytroupe.llm.errors import BadRequest, ConfigError, ServerFault

on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

WAYS = ("sync", "async", "stream", "async stream")

BOTH = ("sync", "async stream")
"""For what holds in all ways for the same reason."""

LOCKING = "state = 'idle in transaction'"
ORDINARY = "state = 'idle'"
WAITING = "wait_event_type = 'Lock'"


def last_said(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def echo(body: dict[str, Any]) -> str:
    return f"Answer to {last_said(body)}"


def add_up(body: dict[str, Any]) -> Any:
    if body["messages"][-1]["role"] == "tool":
        return "Three."
    return call_tools(("add", {"a": 1, "b": 2}))


class Backends:
    """What the test's PostgreSQL does for the site at the moment."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._server = server
        self._name = database

    def count(self, condition: str) -> int:
        """Returns for how many connections a condition holds."""
        return self._ask("count(*)", condition)[0][0]

    def cut(self, condition: str) -> int:
        """Ends connections as an administrator does, and returns how many."""
        return len(self._ask("pg_terminate_backend(pid)", condition))

    def connect(self) -> psycopg.Connection[Any]:
        """Returns a connection past Django."""
        return self._server.connect(self._name)

    def _ask(self, what: str, condition: str) -> list[Any]:
        with self._server.connect() as connection:
            query = f"SELECT {what} FROM pg_stat_activity WHERE datname = %s AND {condition}"
            return connection.execute(query.encode(), [self._name]).fetchall()


@pytest.fixture
def backends(database: Database, postgres_server: PostgresServer) -> Backends:
    """Of the test's database, which has to be a PostgreSQL."""
    return Backends(postgres_server, database.settings["NAME"])


class Held:
    """An endpoint that answers its first message only when it is let go."""

    def __init__(self) -> None:
        self.asked, self._let_go = threading.Event(), threading.Event()
        self.count = 0

    def answer(self, body: dict[str, Any]) -> str:
        self.count += 1
        if self.count == 1:
            self.asked.set()
            assert self._let_go.wait(20)
        return echo(body)

    def let_go(self) -> None:
        self._let_go.set()


@contextmanager
def beside(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Does work on another thread meanwhile; at the end the list has what it returned or raised."""
    results: list[Any] = []

    def do() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield results
    finally:
        thread.join(20)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.005)


def close_connections() -> None:
    """Those of this thread, and of the one that asgiref keeps."""
    connections.close_all()
    asyncio.run(sync_to_async(connections.close_all)())


@on_postgresql
class TestConnections:
    @pytest.mark.parametrize("which", [ORDINARY, "pid <> pg_backend_pid()"])
    def test_one_that_is_cut_in_a_call(
        self,
        which: str,
        door: Door,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        backends: Backends,
    ):
        """Whichever connection is cut while a model is asked, the answer is stored, and the next
        message is answered."""
        cut: list[int] = []

        def answer(body: dict[str, Any]) -> str:
            if not cut:
                cut.append(backends.cut(which))
            return echo(body)

        server = endpoints.add("main", answer)
        make_prompt(configs=("main",))
        wrapper = door.open()
        assert door.send(wrapper, "One") == "Answer to One"
        assert cut[0] > 0
        assert door.send(wrapper, "Two") == "Answer to Two"
        close_connections()
        assert [text for _, text in outline(read_chat(wrapper))[1:]] == [
            *("One", "Answer to One", "Two", "Answer to Two")
        ]
        assert len(server.bodies) == 2

    def test_an_answer_that_cannot_be_stored(
        self,
        door: Door,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        backends: Backends,
    ):
        """Where the answer cannot be stored the cause is raised; sent again, it is not bought."""

        def refuse(body: dict[str, Any]) -> str:
            with backends.connect() as connection:
                connection.execute("ALTER TABLE llm_wrapper_chathistory RENAME TO away")
            return echo(body)

        server = endpoints.add("main", refuse)
        make_prompt(configs=("main",))
        wrapper = door.open()
        with pytest.raises(Exception, match="llm_wrapper_chathistory") as caught:
            door.send(wrapper, "One")
        assert isinstance(caught.value.__cause__, psycopg.Error)
        with backends.connect() as connection:
            connection.execute("ALTER TABLE away RENAME TO llm_wrapper_chathistory")
        assert read_chat(wrapper)[-1]["status"] == "pending"
        assert door.send(wrapper, "One") == "Answer to One"
        assert [m["role"] for m in read_chat(wrapper)] == ["system", "user", "assistant"]
        assert len(server.bodies) == 1

    @pytest.mark.parametrize("way", BOTH)
    def test_a_lock_that_is_lost(
        self, way: str, endpoints: Endpoints, make_prompt: MakePrompt, backends: Backends
    ):
        """Who takes up a message whose lock was lost answers it; the first one is told, and stores
        nothing beside."""
        held = Held()
        endpoints.add("main", held.answer)
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        with beside(partial(Door(way).send, wrapper, "Hello")) as first:
            assert held.asked.wait(20)
            assert backends.cut(LOCKING) == 1
            # Streams are not shared with those who want the whole.
            other = "stream" if way == "sync" else "sync"
            assert Door(other).send(wrapper, "Hello") == "Answer to Hello"
            held.let_go()
        assert isinstance(first[0], ChatConflict)
        assert "its lock was lost" in str(first[0])
        assert [m["role"] for m in read_chat(wrapper)] == ["system", "user", "assistant"]
        assert "claim" not in read_chat(wrapper)[1]

    def test_a_failure_behind_a_lost_lock(
        self, endpoints: Endpoints, make_prompt: MakePrompt, backends: Backends
    ):
        """Who lost the lock and gets no answer leaves the message to who took it up."""
        asked, let_go = threading.Event(), threading.Event()
        seen: list[dict[str, Any]] = []

        def answer(body: dict[str, Any]) -> str | int:
            if not body.get("stream"):
                asked.set()
                return 500 if let_go.wait(20) else "Nobody let it go."
            let_go.set()
            wait_until(lambda: bool(first))
            seen.append(read_chat(wrapper)[1])
            connections.close_all()
            return echo(body)

        endpoints.add("main", answer)
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        with beside(partial(Door("sync").send, wrapper, "Hello")) as first:
            assert asked.wait(20)
            assert backends.cut(LOCKING) == 1
            assert Door("stream").send(wrapper, "Hello") == "Answer to Hello"
        assert isinstance(first[0], ServerFault)
        assert (seen[0]["status"], "error" in seen[0]) == ("pending", False)
        assert read_chat(wrapper)[1]["status"] == "answered"

    @pytest.mark.parametrize("committed", [True, False])
    @pytest.mark.parametrize("way", BOTH)
    def test_a_commit_that_nobody_heard_of(
        self,
        committed: bool,
        way: str,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """Where a connection breaks around a commit, what it was to store is stored once."""
        door = Door(way)
        endpoints.add("main", echo)
        make_prompt(configs=("main",))
        wrapper = door.open()
        update, broken = ChatHistoryRepository._update, set[str]()

        def break_off(self: ChatHistoryRepository, chat: ChatHistory, seen: Any) -> bool:
            status = chat.chat_history[1]["status"]
            if status in broken:
                return update(self, chat, seen)
            broken.add(status)
            if committed:
                assert update(self, chat, seen)
            connections[self.alias].connection.close()
            raise OperationalError("the connection is lost")

        monkeypatch.setattr(ChatHistoryRepository, "_update", break_off)
        assert door.send(wrapper, "Hello") == "Answer to Hello"
        assert broken == {"pending", "answered"}
        assert [m["role"] for m in read_chat(wrapper)] == ["system", "user", "assistant"]

    def test_limits_of_the_site(
        self, database: Database, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """Limits that a site sets to statements and transactions do not end the wait for a turn."""

        def take_long(body: dict[str, Any]) -> str:
            time.sleep(0.3)
            return echo(body)

        server = endpoints.add("main", take_long)
        make_prompt(configs=("main",))
        limits = "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"
        options = {"options": " ".join(f"-c {name}=100ms" for name in limits)}
        with use_database(Database("postgresql", {**database.settings, "OPTIONS": options})):
            wrapper = Door("sync").open()
            with beside(partial(Door("async").send, wrapper, "One")) as other:
                assert Door("sync").send(wrapper, "Two") == "Answer to Two"
            assert other == ["Answer to One"]
        lengths = [len(body["messages"]) for body in server.bodies]
        assert lengths == [2, 4], "the second one waited for the first one's answer"

    @pytest.mark.parametrize("way", BOTH)
    def test_a_pool(self, way: str, database: Database, make_prompt: MakePrompt, endpoints: Any):
        """Of a pool of two connections, many threads get their answers: who waits for a turn keeps
        none that another one needs."""
        door = Door(way)
        endpoints.add("main", echo)
        make_prompt(configs=("main",))
        options = {"pool": {"min_size": 1, "max_size": 2, "timeout": 20}}
        with use_database(Database("postgresql", {**database.settings, "OPTIONS": options})):
            wrappers = [door.open() for _ in range(2)]
            close_connections()

            def send(number: int) -> str:
                try:
                    return str(door.send(wrappers[number % 2], f"{number}"))
                finally:
                    close_connections()

            with ThreadPoolExecutor(10) as threads:
                answers = list(threads.map(send, range(10)))
            connections["default"].close_pool()
        assert answers == [f"Answer to {number}" for number in range(10)]

    def test_strict_isolation(
        self, database: Database, endpoints: Endpoints, make_prompt: MakePrompt, backends: Backends
    ):
        """Where the database refuses what came second, that is written again."""
        with backends.connect() as other:

            def interfere(body: dict[str, Any]) -> str:
                other.execute("BEGIN; UPDATE llm_wrapper_chathistory SET updated_at = now()")
                threading.Thread(target=commit).start()
                return echo(body)

            def commit() -> None:
                wait_until(lambda: backends.count(WAITING) == 1)
                other.execute("COMMIT")

            endpoints.add("main", interfere)
            make_prompt(configs=("main",))
            options = {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE}
            with use_database(Database("postgresql", {**database.settings, "OPTIONS": options})):
                wrapper = Door("sync").open()
                assert Door("sync").send(wrapper, "Hello") == "Answer to Hello"
                assert len(read_chat(wrapper)) == 3

    @pytest.mark.usefixtures("chats_apart")
    @pytest.mark.parametrize("way", BOTH)
    def test_a_router(self, way: str, endpoints: Endpoints, make_prompt: MakePrompt):
        """Chats that a router sends to another database are locked, written and read there."""
        endpoints.add("main", echo)
        make_prompt(configs=("main",))
        door = Door(way)
        first = door.open()
        door.send(first, "One")
        second = door.open(chat_history_id=first.chat_history_id)
        assert door.send(second, "Two") == "Answer to Two"
        assert len(second.get_chat_history_object().chat_history) == 5
        for model in (ChatHistory, ChatLock):
            counts = [model._default_manager.using(alias).count() for alias in ("default", "chats")]
            assert counts == [0, 1]


class ApartRouter:
    """Chats are written to one database, and read from a copy of it that is never up to date."""

    def db_for_read(self, model: Any, **_: Any) -> str | None:
        return "copy" if model in (ChatHistory, ChatLock) else None

    def db_for_write(self, model: Any, **_: Any) -> str | None:
        return "chats" if model in (ChatHistory, ChatLock) else None


@pytest.fixture
def chats_apart(
    database: Database, make_database: MakeDatabase, site_settings: Callable[..., None]
) -> Iterator[None]:
    """Chats lie in a database of their own."""
    aliases = {alias: dict(make_database(database.kind).settings) for alias in ("chats", "copy")}
    entries = {"default": dict(database.settings), **aliases}
    connections.settings.update(connections.configure_settings(entries))
    call_command("migrate", database="chats", verbosity=0, interactive=False)
    site_settings(DATABASE_ROUTERS=[ApartRouter()])
    yield
    close_connections()
    for alias in aliases:
        del connections.settings[alias]


class TestProcesses:
    def test_killed_at_every_step(
        self, site: Site, endpoints: Endpoints, make_prompt: MakePrompt, adding: Tool
    ):
        """Wherever a process is killed, the chat is whole and free; sent again, the message is
        answered behind what was stored, and nothing is bought twice."""
        server = endpoints.servers["main"]
        server.answer = add_up
        make_prompt(configs=("main",), tools=(adding,))
        for number, point in enumerate(site.points):
            way = WAYS[number % len(WAYS)]
            server.bodies.clear()
            wrapper = Door("sync").open(initializing_context_vars={"customer": point})
            job = {"chat": wrapper.chat_history_id, "messages": ["1 + 2?"]}
            assert site.run({**job, "way": way, "point": point}) == [-9], point
            messages = read_chat(wrapper)
            check_history(messages)
            if messages[1:2] and messages[1]["status"] == "answered":
                assert point == "the answer is stored"
            else:
                assert Door(way).send(wrapper, "1 + 2?") == "Three.", point
            roles = [m["role"] for m in read_chat(wrapper)[1:]]
            assert roles == ["user", "assistant", "tool", "assistant"], point
            assert len(server.bodies) == 2, point
            assert Door("sync").send(wrapper, "Again?") == "Three."

    def test_two_in_one_chat(self, site: Site, endpoints: Endpoints, make_prompt: MakePrompt):
        """Forked from one that used it before, two processes send to one chat; where they cannot
        wait they try again, and nothing is lost."""
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        texts = [[f"{who} {number}" for number in range(10)] for who in "ab"]
        jobs = [{"chat": wrapper.chat_history_id, "messages": listed} for listed in texts]
        assert site.run({**jobs[0], "way": "sync"}, {**jobs[1], "way": "async stream"}) == [0, 0]
        messages = outline(read_chat(wrapper))[1:]
        said = [text for _, text in messages[::2]]
        assert [text for text in said if text in texts[0]] == texts[0]
        assert [text for text in said if text in texts[1]] == texts[1]
        assert [text for _, text in messages[1::2]] == [f"Answer to {text}" for text in said]
        assert len(messages) == 40

    def test_threads_in_some_chats(
        self, plain_door: Door, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """20 threads in 5 chats: each message stands in its chat once, with its answer."""
        endpoints.add("main", echo)
        make_prompt(configs=("main",))
        wrappers = [plain_door.open() for _ in range(5)]

        def send(number: int) -> None:
            try:
                while True:
                    try:
                        plain_door.send(wrappers[number % 5], f"{number}")
                        return
                    except ChatConflict:
                        # Where the database cannot wait.
                        time.sleep(0.01)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(20) as threads:
            list(threads.map(send, range(20)))
        for place, wrapper in enumerate(wrappers):
            messages = outline(read_chat(wrapper))[1:]
            said = [text for _, text in messages[::2]]
            assert sorted(said, key=int) == [str(number) for number in range(place, 20, 5)]
            assert [text for _, text in messages[1::2]] == [f"Answer to {text}" for text in said]


class Site:
    """A site's process that forks a child for each job."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout
        self.points: tuple[str, ...] = tuple(json.loads(self._output.readline()))

    def run(self, *jobs: dict[str, Any]) -> list[int]:
        """Does jobs beside each other; returns how the children ended."""
        self._input.write(json.dumps(jobs) + "\n")
        self._input.flush()
        ended: list[int] = json.loads(self._output.readline())
        return ended


@pytest.fixture
def site(
    endpoints: Endpoints,
    make_prompt: MakePrompt,
    site_settings: Callable[..., None],
    start_site_process: Callable[..., subprocess.Popen[str]],
) -> Site:
    """A site's process in which the app was used before it forks."""
    # A lock that is left is an error then, not a long wait.
    site_settings(LLM_WRAPPER_TOOL_MODULES=("django_workers",), LLM_WRAPPER_LOCK_SECONDS=10)
    endpoints.add("main", echo)
    make_prompt("warm", configs=("main",))
    return Site(
        start_site_process("""
        import json
        import django_workers
        from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper
        wrapper = LLMCommunicationWrapper(
            prompt_name="warm", initializing_context_vars={"customer": "A"}
        )
        wrapper.send_user_message_and_get_response("Hello")
        print(json.dumps(django_workers.POINTS), flush=True)
        django_workers.serve()
        """)
    )


@pytest.fixture
def adding(database: Database, site_settings: Callable[..., None]) -> Tool:
    """A tool that adds two numbers, and dies where it is to."""
    site_settings(LLM_WRAPPER_TOOL_MODULES=("django_workers",))
    tool = Tool(name="add", tool_code="django_workers.add")
    fill_tool_spec(tool)
    tool.save()
    return tool


class TestTasks:
    @pytest.mark.parametrize(("way", "times"), [("async", 1), ("async stream", 3)])
    def test_cancelled_at_every_step(
        self,
        way: str,
        times: int,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        adding: Tool,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """Wherever a task is cancelled, and however often, its lock is back when it ends; the chat
        is whole and says what was not answered, and the message can be sent again at once."""
        endpoints.add("main", add_up)
        make_prompt(configs=("main",), tools=(adding,))
        for number in itertools.count():
            wrapper = Door("sync").open(initializing_context_vars={"customer": f"{number}"})
            with monkeypatch.context() as patch:
                canceller = Canceller(patch, number, times)
                answered = asyncio.run(canceller.send(wrapper, way))
                assert canceller.given_back == canceller.steps.count("acquire")
            messages = read_chat(wrapper)
            check_history(messages)
            status = messages[1]["status"] if len(messages) > 1 else None
            # Who is cancelled again and again may not come to say so.
            assert status in (None, "failed", "answered", *(["pending"] if times > 1 else []))
            assert Door("sync").send(wrapper, "1 + 2?").strip() == "Three."
            assert len(read_chat(wrapper)) == (9 if status == "answered" else 5)
            if answered:
                break
        assert number > 8
        wait_until(lambda: not list_lock_threads())

    @pytest.mark.parametrize("times", [1, 3])
    def test_cancelled_while_it_is_stored(
        self,
        times: int,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """What a thread does to a chat for a task that is cancelled, it does before the lock is
        given back; and the chat says that it was not answered."""
        make_prompt()
        wrapper = Door("sync").open()
        begin, release = StoredTurn.begin, AsyncAccess.release
        released, early = threading.Event(), list[bool]()

        async def tell_and_release(self: AsyncAccess) -> None:
            released.set()
            await release(self)

        async def cancel() -> None:
            task = asyncio.ensure_future(wrapper.asend_user_message_and_get_response("Hello"))
            loop = asyncio.get_running_loop()

            def cancel_task(left: int) -> None:
                task.cancel()
                if left > 1:
                    loop.call_soon(cancel_task, left - 1)

            def cancel_and_begin(*arguments: Any) -> None:
                loop.call_soon_threadsafe(cancel_task, times)
                early.append(released.wait(0.1))
                begin(*arguments)

            monkeypatch.setattr(StoredTurn, "begin", cancel_and_begin)
            await asyncio.wait([task])
            assert task.cancelled()

        monkeypatch.setattr(AsyncAccess, "release", tell_and_release)
        asyncio.run(cancel())
        assert early == [False]
        assert [m.get("status") for m in read_chat(wrapper)] == [None, "failed"]

    @on_postgresql
    def test_cancelled_while_it_waits(
        self, endpoints: Endpoints, make_prompt: MakePrompt, backends: Backends
    ):
        """Who gives up waiting for a turn leaves neither a thread nor a connection behind."""
        held = Held()
        endpoints.add("main", held.answer)
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()

        async def give_up() -> None:
            waiting = [
                asyncio.ensure_future(wrapper.asend_user_message_and_get_response(f"{number}"))
                for number in range(3)
            ]
            await asyncio.to_thread(wait_until, lambda: backends.count(WAITING) == 3)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert all(task.cancelled() for task in waiting)

        with beside(partial(Door("sync").send, wrapper, "Hello")) as first:
            assert held.asked.wait(20)
            asyncio.run(give_up())
            wait_until(lambda: not list_lock_threads())
            wait_until(lambda: backends.count(WAITING) == 0 and backends.count(LOCKING) == 1)
            held.let_go()
        assert first == ["Answer to Hello"]
        assert len(read_chat(wrapper)) == 3

    def test_requests_of_an_event_loop(
        self, database: Database, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """20 requests as Django's handler runs them are served in 20 chats; and in one, where the
        database can wait."""
        endpoints.add("main", echo)
        make_prompt(configs=("main",))
        wrappers = [Door("sync").open() for _ in range(20)]

        async def request(wrapper: LLMCommunicationWrapper, number: int) -> str:
            async with ThreadSensitiveContext():
                try:
                    if number % 2:
                        return str(await wrapper.asend_user_message_and_get_response(f"{number}"))
                    pieces = wrapper.astream_user_message(f"{number}")
                    return "".join([piece async for piece in pieces]).strip()
                finally:
                    await sync_to_async(connections.close_all)()

        async def serve(chats: list[LLMCommunicationWrapper]) -> list[str]:
            return await asyncio.gather(*map(request, chats, range(20)))

        expected = [f"Answer to {number}" for number in range(20)]
        assert asyncio.run(serve(wrappers)) == expected
        if database.kind == "postgresql":
            assert asyncio.run(serve([wrappers[0]] * 20)) == expected
            assert len(read_chat(wrappers[0])) == 1 + 2 + 40
        wait_until(lambda: not list_lock_threads())


class Canceller:
    """Cancels a message at its n-th step, as the step is under way; again and again, if wanted."""

    STEPS = ("query", "acquire", "ask", "run_tool", "release")

    def __init__(self, patch: pytest.MonkeyPatch, number: int, times: int) -> None:
        self._number = number
        self._times = times
        self.steps: list[str] = []
        """Those that were come to."""
        self.given_back = 0
        """How many locks."""
        for name in self.STEPS:
            patch.setattr(AsyncAccess, name, self._watch(getattr(AsyncAccess, name)))
        patch.setattr(access, "_give_back", partial(self._give_back, access._give_back))

    async def send(self, wrapper: LLMCommunicationWrapper, way: str) -> bool:
        """Tells whether the message was answered all the same."""
        self._task = asyncio.ensure_future(self._send(wrapper, way))
        await asyncio.wait([self._task])
        return not self._task.cancelled() and self._task.result().strip() == "Three."

    async def _send(self, wrapper: LLMCommunicationWrapper, way: str) -> str:
        if way == "async":
            return str(await wrapper.asend_user_message_and_get_response("1 + 2?"))
        return "".join([piece async for piece in wrapper.astream_user_message("1 + 2?")])

    def _watch(self, step: Callable[..., Any]) -> Callable[..., Any]:
        async def watched(*arguments: Any) -> Any:
            self.steps.append(step.__name__)
            if len(self.steps) == self._number + 1:
                asyncio.get_running_loop().call_soon(self._cancel, self._times)
            return await step(*arguments)

        return watched

    def _give_back(self, give_back: Callable[..., None], *arguments: Any) -> None:
        # Longer than a loop takes that does not wait for it.
        time.sleep(0.01)
        give_back(*arguments)
        self.given_back += 1

    def _cancel(self, times: int) -> None:
        self._task.cancel()
        if times > 1:
            asyncio.get_running_loop().call_soon(self._cancel, times - 1)


def list_lock_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("chat-lock")]


class TestStreams:
    @pytest.mark.parametrize("where", ["on another thread", "beside an event loop"])
    def test_left_elsewhere(
        self,
        where: str,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        site_settings: Callable[..., None],
    ):
        """A stream that is left on another thread than it began, or where an event loop runs, gives
        its lock back."""
        site_settings(LLM_WRAPPER_LOCK_SECONDS=5)
        endpoints.add("main", lambda body: "One two three")
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        pieces = wrapper.stream_user_message("Hello")
        assert next(iter(pieces))

        async def close() -> None:
            pieces.close()  # type: ignore[attr-defined]

        if where == "on another thread":
            with beside(pieces.close):  # type: ignore[attr-defined]
                pass
            assert read_chat(wrapper)[1]["status"] == "failed"
        else:
            asyncio.run(close())
        assert Door("stream").send(wrapper, "Hello") == "One two three"
        assert len(read_chat(wrapper)) == 3

    def test_read_by_many_threads(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """Each piece of a stream may be read by another thread."""
        endpoints.add("main", lambda body: "One two three")
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        pieces, read = wrapper.stream_user_message("Hello"), []
        while not read or read[-1] is not None:
            with beside(partial(next, pieces, None)) as results:
                pass
            read += results
        assert "".join(filter(None, read)).strip() == "One two three"
        assert Door("sync").send(wrapper, "Again") == "One two three"
        assert len(read_chat(wrapper)) == 5


class TestDeleted:
    @on_sqlite
    @pytest.mark.parametrize("way", BOTH)
    def test_while_it_is_answered(self, way: str, endpoints: Endpoints, make_prompt: MakePrompt):
        """A chat that is deleted while it is answered is not made anew; it is said."""
        door = Door(way)

        def delete(body: dict[str, Any]) -> str:
            ChatHistory.objects.all().delete()
            connections.close_all()
            return echo(body)

        endpoints.add("main", delete)
        make_prompt(configs=("main",))
        wrapper = door.open()
        with pytest.raises(UnknownChat, match=f"{wrapper.chat_history_id}"):
            door.send(wrapper, "Hello")
        assert (ChatHistory.objects.count(), ChatLock.objects.count()) == (0, 0)

    @on_postgresql
    @pytest.mark.parametrize("way", BOTH)
    def test_behind_the_answer(
        self, way: str, endpoints: Endpoints, make_prompt: MakePrompt, backends: Backends
    ):
        """Where requests wait for each other, a deletion waits for the answer, too, and takes the
        lock's row along."""
        door = Door(way)
        held = Held()
        endpoints.add("main", held.answer)
        make_prompt(configs=("main",))
        wrapper = door.open()
        with beside(partial(door.send, wrapper, "Hello")) as sent:
            assert held.asked.wait(20)
            with beside(ChatHistory.objects.all().delete):
                wait_until(lambda: backends.count(WAITING) == 1)
                held.let_go()
        assert sent == ["Answer to Hello"]
        assert (ChatHistory.objects.count(), ChatLock.objects.count()) == (0, 0)

    @on_postgresql
    @pytest.mark.parametrize("way", BOTH)
    def test_by_who_locked_it_before(
        self,
        way: str,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        backends: Backends,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """Who locks a chat while it is answered, and then deletes it, does not wait for ever for
        who waits for them."""
        monkeypatch.setattr(chats, "ROW_SECONDS", 0.1)
        held = Held()
        endpoints.add("main", held.answer)
        make_prompt(configs=("main",))
        wrapper = Door(way).open()

        def lock_and_delete() -> None:
            with transaction.atomic():
                ChatHistory.objects.select_for_update().get().delete()

        with beside(partial(Door(way).send, wrapper, "Hello")) as sent:
            assert held.asked.wait(20)
            with beside(lock_and_delete) as deleted:
                wait_until(lambda: backends.count(WAITING) == 1)
                held.let_go()
        assert isinstance(sent[0], ChatConflict)
        assert "such as one that deletes it" in str(sent[0])
        assert deleted == [None]
        assert (ChatHistory.objects.count(), ChatLock.objects.count()) == (0, 0)

    @pytest.mark.parametrize("way", BOTH)
    def test_before_it_is_locked(
        self, way: str, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
    ):
        """A chat that is deleted just before it is locked is said, and no lock is left for it."""
        door = Door(way)
        make_prompt()
        wrapper, make_lock = door.open(), turns.make_lock

        def delete_first(*arguments: Any) -> Any:
            ChatHistory.objects.all().delete()
            return make_lock(*arguments)

        monkeypatch.setattr(turns, "make_lock", delete_first)
        with pytest.raises(UnknownChat, match=f"{wrapper.chat_history_id}"):
            door.send(wrapper, "Hello")
        assert ChatLock.objects.count() == 0


@on_sqlite
class TestFullDisk:
    @pytest.mark.parametrize("way", BOTH)
    @pytest.mark.parametrize("pragma", ["max_page_count = 1", "query_only = 1"])
    def test_an_answer_without_room(
        self,
        pragma: str,
        way: str,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """Where a database is full or cannot be written, that is said with its cause; sent again,
        the message is answered from the cache."""
        server = endpoints.add("main", lambda body: "word " * 20_000)
        make_prompt(configs=("main",))
        door, answer = Door(way), StoredTurn.answer
        wrapper = door.open()

        def answer_without_room(self: StoredTurn, message: dict[str, Any]) -> None:
            with connections["default"].cursor() as cursor:
                # What other tests left free is room, too.
                cursor.execute("VACUUM")
                cursor.execute(f"PRAGMA {pragma}")
            answer(self, message)

        with monkeypatch.context() as patch:
            patch.setattr(StoredTurn, "answer", answer_without_room)
            with pytest.raises(OperationalError, match=r"is full|readonly") as caught:
                door.send(wrapper, "Hello")
        assert caught.value.__cause__ is not None
        close_connections()
        assert read_chat(wrapper)[-1]["status"] in ("failed", "pending")
        assert door.send(wrapper, "Hello").strip() == ("word " * 20_000).strip()
        assert [m["role"] for m in read_chat(wrapper)] == ["system", "user", "assistant"]
        assert len(server.bodies) == 1


class TestTools:
    @pytest.mark.parametrize("way", BOTH)
    @pytest.mark.parametrize("tool", ["write", "awrite"])
    def test_one_that_writes_to_a_chat(
        self,
        tool: str,
        way: str,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        monkeypatch: pytest.MonkeyPatch,
        site_settings: Callable[..., None],
    ):
        """A tool may send messages to other chats; to the chat that waits for it, it is refused at
        once, in words."""
        site_settings(LLM_WRAPPER_TOOL_MODULES=("django_tools",))
        target: list[LLMCommunicationWrapper] = []

        def write() -> str:
            """Writes to a chat."""
            return str(target[0].send_user_message_and_get_response("From a tool"))

        async def awrite() -> str:
            """Writes to a chat."""
            return str(await target[0].asend_user_message_and_get_response("From a tool"))

        for function in (write, awrite):
            function.__module__, function.__qualname__ = "django_tools", function.__name__
            monkeypatch.setattr(django_tools, function.__name__, function, raising=False)

        def answer(body: dict[str, Any]) -> Any:
            return call_tools((tool, {})) if last_said(body) == "Go" else echo(body)

        endpoints.add("main", answer)
        row = Tool(name=tool, tool_code=f"django_tools.{tool}")
        fill_tool_spec(row)
        row.save()
        make_prompt(configs=("main",), tools=(row,))
        door = Door(way)
        wrapper, other = door.open(), door.open()
        target[:] = [other]
        assert door.send(wrapper, "Go") == "Answer to Answer to From a tool"
        assert len(read_chat(other)) == 3
        target[:] = [wrapper]
        with pytest.raises(BadRequest, match="a tool of chat"):
            door.send(wrapper, "Go")
        assert read_chat(wrapper)[-1]["status"] == "failed"
        target[:] = [other]
        assert door.send(wrapper, "Go") == "Answer to Answer to From a tool"


class TestSites:
    @pytest.mark.parametrize("base", [TestCase, TransactionTestCase])
    def test_tests_of_a_site(
        self, base: type[TransactionTestCase], endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """Messages can be sent in the test cases that Django offers to sites."""
        endpoints.add("main", echo)
        make_prompt(configs=("main",))

        class Theirs(base):  # type: ignore[misc, valid-type]
            def test_blocking(self) -> None:
                wrapper = Door("sync").open()
                for way in ("sync", "stream"):
                    assert Door(way).send(wrapper, way) == f"Answer to {way}"
                assert len(read_chat(wrapper)) == 5

            async def test_asynchronous(self) -> None:
                wrapper = await LLMCommunicationWrapper.acreate(
                    prompt_name="support", initializing_context_vars={"customer": "Amina"}
                )
                sent = await wrapper.asend_user_message_and_get_response("One")
                pieces = [piece async for piece in wrapper.astream_user_message("Two")]
                assert [sent, "".join(pieces).strip()] == ["Answer to One", "Answer to Two"]
                assert await ChatHistory.objects.acount() == 1

        result = unittest.TestResult()
        Theirs("test_blocking")(result)
        if base is TransactionTestCase:
            # It empties all tables behind each test.
            make_prompt(configs=("main",))
        Theirs("test_asynchronous")(result)
        assert [text for _, text in result.errors + result.failures] == []
        assert result.testsRun == 2
        assert ChatHistory.objects.count() == 0

    def test_atomic_requests(
        self, database: Database, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """With ATOMIC_REQUESTS a view is told what it lacks, and works with it."""
        endpoints.add("main", echo)
        make_prompt(configs=("main",))

        def view(request: HttpRequest) -> HttpResponse:
            return HttpResponse(Door("sync").send(Door("sync").open(), "Hello"))

        request, settings = (
            RequestFactory().get("/"),
            {**database.settings, "ATOMIC_REQUESTS": True},
        )
        with use_database(Database(database.kind, settings)):
            with pytest.raises(ConfigError, match="non_atomic_requests"):
                BaseHandler().make_view_atomic(view)(request)
            assert ChatHistory.objects.count() == 0
            free = transaction.non_atomic_requests(view)
            assert BaseHandler().make_view_atomic(free)(request).content == b"Answer to Hello"


class TestSizes:
    def test_a_long_chat(self, plain_door: Door, endpoints: Endpoints, make_prompt: MakePrompt):
        """A turn in a chat of 2,000 messages asks the database no more than one in a new chat."""
        endpoints.add("main", echo)
        make_prompt(configs=("main",))
        wrapper = plain_door.open()
        counts = []
        for number in (0, 1000):
            turns = [
                message
                for turn in range(number)
                for message in (
                    make_message("user", f"{turn}", status="answered", config="main"),
                    make_message("assistant", "Yes.", config="main"),
                )
            ]
            wrapper.chat_history_repository.edit(
                lambda chat, turns=turns: chat.chat_history.extend(turns)
            )
            with CaptureQueriesContext(connections["default"]) as captured:
                assert plain_door.send(wrapper, f"Message {number}")
            counts.append(len(captured))
        assert counts[0] == counts[1]
        assert len(read_chat(wrapper)) == 2005

    def test_a_long_message(self, plain_door: Door, endpoints: Endpoints, make_prompt: MakePrompt):
        """A message and an answer of a megabyte are stored whole."""
        endpoints.add("main", lambda body: "\u00fc" * 1_000_000)
        make_prompt(configs=("main",))
        wrapper = plain_door.open()
        assert plain_door.send(wrapper, "m" * 1_000_000) == "\u00fc" * 1_000_000
        assert [len(message["content"]) for message in read_chat(wrapper)[1:]] == [1_000_000] * 2
