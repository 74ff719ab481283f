"""The small client: `LLM(LLMConfig(...))`, against real servers."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeTransport, Script, VirtualRuntime, chat_content
from pydantic import ValidationError
from servers import RehearseServer, ScriptedServer, chat_body, find_dead_url, http_reply

from tinytroupe.llm.errors import (
    BadRequest,
    BudgetExceeded,
    ConnectionFailed,
    LLMAPIError,
    LLMConnectionError,
    LLMError,
    RateLimited,
    ServerFault,
)
from tinytroupe.llm.request import RetryPolicy
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.transports.openai import OpenAITransport
from tinytroupe.llm.wrapper import LLM, AsyncLLM, LLMConfig

HELLO = [{"role": "user", "content": "Hello"}]
ERROR = {"error": {"message": "the server is tired"}}


@pytest.fixture(scope="module")
def server() -> Iterator[RehearseServer]:
    with RehearseServer() as running:
        yield running


class TestConfig:
    def test_defaults(self) -> None:
        """The defaults are those that users of such clients know."""
        config = LLMConfig()
        assert config.model_dump(
            include={"base_url", "api_key", "model", "temperature", "max_tokens"}
        ) == {
            "base_url": "http://127.0.0.1:8000",
            "api_key": None,
            "model": "gpt-4",
            "temperature": 0.7,
            "max_tokens": None,
        }
        assert (config.timeout, config.max_retries, config.retry_delay) == (30, 3, 1.0)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", 2.1),
            ("temperature", -0.1),
            ("temperature", float("nan")),
            ("max_tokens", 0),
            ("max_tokens", -5),
            ("timeout", 0),
            ("max_retries", -1),
            ("retry_delay", -1.0),
            ("max_total_tokens", -1),
            ("requests_per_minute", 0),
            ("tokens_per_minute", -10),
            ("base_url", "127.0.0.1:8000"),
            ("base_url", "ftp://x"),
            ("model", ""),
            ("temprature", 1.0),
        ],
    )
    def test_wrong_fields_are_named(self, field: str, value: Any) -> None:
        """A field that is unknown or out of its range is an error that names it."""
        with pytest.raises(ValidationError, match=field):
            LLMConfig(**{field: value})

    def test_the_key_is_never_shown(self) -> None:
        """Neither the repr nor an error about another field holds the key."""
        assert "sk-secret" not in repr(LLMConfig(api_key="sk-secret"))
        with pytest.raises(ValidationError) as caught:
            LLMConfig(apikey="sk-secret")
        assert "sk-secret" not in str(caught.value)

    def test_settings_win_over_the_config(self) -> None:
        """Fields given to `LLM` count over those of the config, and are checked as well."""
        llm = LLM(LLMConfig(model="a", temperature=0.1), model="b", transport=FakeTransport())
        assert (llm.config.model, llm.config.temperature) == ("b", 0.1)
        with pytest.raises(ValidationError):
            LLM(LLMConfig(), temperature=3)


class TestCalls:
    @pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
    def test_with_and_without_v1(self, server: RehearseServer, suffix: str) -> None:
        """The address works with and without its version."""
        with LLM(LLMConfig(base_url=server.url + suffix)) as llm:
            assert llm.chat_completion(HELLO).choices[0].message.content

    def test_chat(self, server: RehearseServer) -> None:
        """A chat answer has the SDK's shape, and what it leaves out is None."""
        with LLM(LLMConfig(base_url=server.url, model="m")) as llm:
            answer = llm.chat_completion(HELLO, temperature=0.2, max_tokens=7, seed=3)
        choice = answer.choices[0]
        assert choice.message.role == "assistant"
        assert choice.message.tool_calls is None
        assert (choice.index, choice.finish_reason) == (0, "length")
        assert answer.usage.completion_tokens <= 7
        assert answer.model == "m"
        assert answer["id"] == answer.id
        assert answer.to_dict()["object"] == "chat.completion"
        with pytest.raises(AttributeError, match="choices"):
            _ = answer.nonsense

    def test_completion_of_one_and_of_many(self, server: RehearseServer) -> None:
        """One prompt has one choice, a list has one for each, in order."""
        with LLM(LLMConfig(base_url=server.url, max_tokens=10)) as llm:
            assert llm.completion("Once upon a time").choices[0].text
            many = llm.completion(["a", "b", "c"])
            assert [choice.index for choice in many.choices] == [0, 1, 2]
            assert llm.get_request_count() == 2

    def test_models(self, server: RehearseServer) -> None:
        """The models have the SDK's shape."""
        with LLM(LLMConfig(base_url=server.url)) as llm:
            assert [model.id for model in llm.list_models().data] == ["rehearsal"]

    def test_what_is_sent(self) -> None:
        """Model, temperature and further arguments reach the server, a missing limit does not."""
        with ScriptedServer(then=http_reply(body=chat_body())) as server:
            with LLM(LLMConfig(base_url=server.url, api_key="sk-x", model="m")) as llm:
                tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
                llm.chat_completion(HELLO, tools=tools)
            body, headers = server.requests[0].json(), server.requests[0].headers
        assert body == {"model": "m", "messages": HELLO, "temperature": 0.7, "tools": tools}
        assert headers["authorization"] == "Bearer sk-x"

    def test_the_key_of_openai_goes_to_openai_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key in the environment is not shown to another server."""
        monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
        with ScriptedServer(then=http_reply(body=chat_body())) as server:
            with LLM(LLMConfig(base_url=server.url)) as llm:
                llm.chat_completion(HELLO)
            assert "sk-environment" not in str(server.requests[0].headers)

    def test_answers_can_be_kept(self, server: RehearseServer) -> None:
        """An answer can be copied, compared and pickled."""
        with LLM(LLMConfig(base_url=server.url)) as llm:
            answer = llm.chat_completion(HELLO)
        assert pickle.loads(pickle.dumps(answer)) == answer
        assert copy.deepcopy(answer).choices[0].message == answer.choices[0].message

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ({"messages": []}, "no message"),
            ({"messages": None}, "no message"),
            ({"messages": HELLO, "temperature": 3}, "temperature"),
            ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
            ({"messages": HELLO, "stream": True}, "stream"),
            ({"messages": [{"content": "x"}]}, "role"),
        ],
    )
    def test_wrong_arguments(self, arguments: dict[str, Any], complaint: str) -> None:
        """What cannot be sent is refused before it is sent."""
        transport = FakeTransport()
        with pytest.raises(BadRequest, match=complaint):
            LLM(transport=transport).chat_completion(**arguments)
        assert transport.attempts == []


class TestSession:
    def test_count_and_last(self, server: RehearseServer) -> None:
        """Calls are counted, the last answer is kept, and a reset forgets both."""
        with LLM(LLMConfig(base_url=server.url)) as llm:
            assert llm.get_last_response() is None
            answer = llm.chat_completion(HELLO)
            assert llm.get_last_response() is answer
            assert (llm.get_request_count(), llm.usage.total_tokens) == (
                1,
                answer.usage.total_tokens,
            )
            llm.reset_session()
            assert (llm.get_request_count(), llm.get_last_response()) == (0, None)
            assert llm.usage.total_tokens == 0

    def test_fifty_threads_mix_no_answers(self) -> None:
        """Fifty threads through one client each get their own answers; the count is exact."""
        with (
            RehearseServer("--latency", "0.005") as server,
            LLM(LLMConfig(base_url=server.url, max_tokens=30)) as llm,
        ):
            alone = {
                number: llm.chat_completion(f"Tell me about {number}").to_dict()
                for number in range(20)
            }
            llm.reset_session()
            before = server.count_requests()

            def ask(turn: int) -> bool:
                number = turn % 20
                answer = llm.chat_completion(f"Tell me about {number}")
                assert llm.get_last_response() is answer
                return answer.to_dict()["choices"] == alone[number]["choices"]

            with ThreadPoolExecutor(50) as pool:
                right = list(pool.map(ask, range(1000)))
            assert right == [True] * 1000
            assert llm.get_request_count() == 1000
            assert server.count_requests() - before == 1000

    def test_many_at_once_keep_their_order(self) -> None:
        """Answers come in the order of the conversations, and an error stands in its place."""

        def answer(attempt: Any) -> bytes:
            content = attempt.call.request.messages[-1].content
            if content == "bad":
                raise BadRequest("no")
            return chat_content(f"You said: {content}")

        llm = LLM(transport=FakeTransport(answer))
        outcomes = llm.chat_completions(["a", "bad", HELLO], max_workers=3)
        assert isinstance(outcomes[1], BadRequest)
        texts = [outcomes[index].choices[0].message.content for index in (0, 2)]
        assert texts == ["You said: a", "You said: Hello"]

    def test_cache(self, tmp_path: Path) -> None:
        """With a cache the same question is bought once; without one, each time."""
        for cache, asked in ((MemoryStore(), 1), (tmp_path / "kept", 1), (None, 2)):
            transport = FakeTransport()
            with LLM(transport=transport, cache=cache) as llm:
                texts = [llm.chat_completion(HELLO).choices[0].message.content for _ in range(2)]
            assert texts == ["You said: Hello"] * 2
            assert len(transport.attempts) == asked

    def test_stream(self, server: RehearseServer) -> None:
        """The pieces of a stream are the answer, which is then the last one."""
        with LLM(LLMConfig(base_url=server.url)) as llm:
            pieces = list(llm.stream(HELLO))
            last = llm.get_last_response()
        assert len(pieces) > 1
        assert last is not None
        assert "".join(pieces) == last.choices[0].message.content


class TestRetries:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_what_may_pass_is_tried_again(self, status: int) -> None:
        """These statuses are tried again until an answer comes."""
        replies = [http_reply(status, ERROR), http_reply(body=chat_body("late"))]
        with (
            ScriptedServer(replies) as server,
            LLM(LLMConfig(base_url=server.url, retry_delay=0)) as llm,
        ):
            assert llm.chat_completion(HELLO).choices[0].message.content == "late"
            assert llm.get_request_count() == 1

    @pytest.mark.parametrize(("status", "cls"), [(400, LLMAPIError), (401, LLMAPIError)])
    def test_what_cannot_pass_is_not(self, status: int, cls: type[LLMError]) -> None:
        """A wrong request or key is said at once."""
        with ScriptedServer(then=http_reply(status, ERROR)) as server:
            with LLM(LLMConfig(base_url=server.url)) as llm, pytest.raises(cls):
                llm.chat_completion(HELLO)
            assert len(server.requests) == 1

    def test_a_dead_server_is_a_connection_error(self) -> None:
        """Where nobody listens the error says so, after all its tries."""
        runtime = VirtualRuntime()
        llm = LLM(LLMConfig(base_url=find_dead_url()), runtime=runtime)
        with pytest.raises(LLMConnectionError) as caught:
            llm.chat_completion(HELLO)
        assert caught.value.attempts == 4
        assert runtime.sleeps == [1.0, 2.0, 4.0]

    def test_waits_are_exactly_doubled(self) -> None:
        """The waits are retry_delay × 2ⁿ, without chance."""
        runtime = VirtualRuntime()
        transport = FakeTransport(Script(*[ServerFault("no") for _ in range(6)]))
        llm = LLM(transport=transport, runtime=runtime, retry_delay=2.0, max_retries=5)
        with pytest.raises(ServerFault):
            llm.chat_completion(HELLO)
        assert runtime.sleeps == [2.0, 4.0, 8.0, 16.0, 32.0]

    def test_long_rows_are_not_cut(self) -> None:
        """No wait of a row is cut, however long."""
        runtime = VirtualRuntime()
        transport = FakeTransport(Script(*[ServerFault("no") for _ in range(4)]))
        llm = LLM(transport=transport, runtime=runtime, retry_delay=50.0, max_retries=3)
        with pytest.raises(ServerFault):
            llm.chat_completion(HELLO)
        assert runtime.sleeps == [50.0, 100.0, 200.0]

    def test_retry_after_comes_first(self) -> None:
        """What the server asks for counts before the row of delays."""
        runtime = VirtualRuntime()
        transport = FakeTransport(
            Script(RateLimited("slow", retry_after_seconds=7.5), ServerFault("no"), chat_content())
        )
        LLM(transport=transport, runtime=runtime).chat_completion(HELLO)
        assert runtime.sleeps == [7.5, 2.0]

    def test_a_strategy_of_one_s_own(self) -> None:
        """A function decides how long to wait, and when to give up."""
        runtime = VirtualRuntime()
        seen: list[tuple[str, int]] = []

        def decide(error: LLMError, number: int) -> float | None:
            seen.append((type(error).__name__, number))
            return None if number == 3 else number / 2

        transport = FakeTransport(Script(*[BadRequest("no") for _ in range(9)]))
        llm = LLM(transport=transport, runtime=runtime, retry=decide, max_retries=8)
        with pytest.raises(BadRequest):
            llm.chat_completion(HELLO)
        assert runtime.sleeps == [0.5, 1.0]
        assert seen == [("BadRequest", number) for number in (1, 2, 3)]

    def test_a_policy_of_one_s_own(self) -> None:
        """A policy takes the place of the delays."""
        transport = FakeTransport(Script(ServerFault("no"), chat_content()))
        llm = LLM(transport=transport, retry=RetryPolicy(max_attempts=1))
        with pytest.raises(ServerFault):
            llm.chat_completion(HELLO)

    def test_models_are_tried_again(self) -> None:
        """The list of models is asked for again as calls are."""
        replies = [http_reply(503, ERROR), http_reply(body={"data": [{"id": "m"}]})]
        with (
            ScriptedServer(replies) as server,
            LLM(LLMConfig(base_url=server.url, retry_delay=0)) as llm,
        ):
            assert [model.id for model in llm.list_models().data] == ["m"]


class TestLimits:
    def test_the_limit_is_never_passed(self) -> None:
        """A call that could pass the limit is refused before it is sent."""
        transport = FakeTransport()
        llm = LLM(transport=transport, max_tokens=50, max_total_tokens=100)
        llm.chat_completion(HELLO)
        llm.chat_completion(HELLO)
        assert llm.usage.total_tokens == 20
        with pytest.raises(BudgetExceeded, match="max_total_tokens is 100, of which 20 are used"):
            llm.chat_completion("word " * 60)
        assert len(transport.attempts) == 2
        llm.reset_session()
        llm.chat_completion(HELLO)

    def test_an_answer_without_a_limit_gets_what_is_left(self) -> None:
        """Where max_tokens is not given, the answer may take what is left and no more."""
        transport = FakeTransport()
        llm = LLM(transport=transport, max_total_tokens=40)
        llm.chat_completion(HELLO)
        sent = transport.attempts[0].call.request.parameters["max_tokens"]
        assert 0 < sent < 40
        with pytest.raises(BudgetExceeded):
            llm.chat_completion("word " * 60)

    def test_threads_cannot_pass_it_together(self) -> None:
        """Calls at the same time reserve what they may take, so that they do not pass the limit."""
        transport = FakeTransport(held=True)
        llm = LLM(transport=transport, max_tokens=30, max_total_tokens=100)
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(llm.chat_completion, f"Hi {number}") for number in range(8)]
            for _ in range(2):
                transport.arrived.acquire(timeout=10)
            while sum(future.done() for future in futures) < 6:
                pass
            transport.go.set()
            errors = [future.exception(10) for future in futures]
        assert sum(isinstance(error, BudgetExceeded) for error in errors) == 6
        assert len(transport.attempts) == 2

    def test_hits_cost_nothing(self) -> None:
        """What comes from the cache is not counted against the limit."""
        llm = LLM(
            transport=FakeTransport(), cache=MemoryStore(), max_tokens=10, max_total_tokens=40
        )
        for _ in range(5):
            llm.chat_completion(HELLO)
        assert llm.usage.total_tokens == 10

    def test_requests_per_minute(self) -> None:
        """No more requests than allowed begin within any minute, retries included."""
        runtime = VirtualRuntime()
        times: list[float] = []

        def answer(attempt: Any) -> bytes:
            times.append(runtime.time)
            if len(times) % 2:
                raise ServerFault("no")
            return chat_content()

        llm = LLM(
            transport=FakeTransport(answer), runtime=runtime, requests_per_minute=3, retry_delay=0
        )
        for _ in range(6):
            llm.chat_completion(HELLO)
        assert [moment - times[0] for moment in times] == [
            60.0 * (number // 3) for number in range(12)
        ]

    def test_tokens_per_minute(self) -> None:
        """Tokens are estimated before a call and settled by what it took."""
        runtime = VirtualRuntime()
        llm = LLM(transport=FakeTransport(), runtime=runtime, tokens_per_minute=120, max_tokens=60)
        for _ in range(3):
            llm.chat_completion(HELLO)
        # Each took 10 of its estimated 60 and more, so the next has room at once.
        assert runtime.sleeps == []
        llm.chat_completion("word " * 60)
        assert sum(runtime.sleeps) > 0


class TestLogging:
    def test_what_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        """Operations are INFO, detail is DEBUG, failures are ERROR; never a key."""
        caplog.set_level(logging.DEBUG, "tinytroupe.llm")
        error = {"error": {"message": "wrong key sk-very-secret"}}
        replies = [http_reply(body=chat_body("the answer")), http_reply(401, error)]
        with ScriptedServer(replies) as server:
            config = LLMConfig(base_url=server.url, api_key="sk-very-secret", model="m")
            with LLM(config) as llm:
                llm.chat_completion([{"role": "user", "content": "the question"}])
                with pytest.raises(LLMAPIError):
                    llm.chat_completion(HELLO)
                llm.reset_session()
        records = [record for record in caplog.records if record.name == "tinytroupe.llm"]
        informed = [record.getMessage() for record in records if record.levelname == "INFO"]
        assert "started" in informed[0]
        assert informed[1] == "Request to m: 1 message(s), temperature 0.7"
        assert informed[2] == "Response chatcmpl-1: 7 tokens, from live"
        assert informed[-2:] == ["Session reset", "LLM client for m closed"]
        assert [record.levelname for record in records].count("ERROR") == 1
        assert "sk-very-secret" not in caplog.text
        for record in records:
            if record.levelname != "DEBUG":
                assert "the question" not in record.getMessage()
                assert "the answer" not in record.getMessage()
        assert "the question" in caplog.text


class TestAsync:
    def test_the_same_with_await(self, server: RehearseServer) -> None:
        """Every method works on an event loop and gives the same answers."""

        async def run() -> list[Any]:
            async with AsyncLLM(LLMConfig(base_url=server.url, max_tokens=20)) as llm:
                chat = await llm.chat_completion(HELLO)
                text = await llm.completion("a")
                pieces = [piece async for piece in llm.stream(HELLO)]
                many = await llm.chat_completions(["a", "b"])
                models = await llm.list_models()
                return [chat, text, "".join(pieces), many, models, llm.get_request_count()]

        chat, text, streamed, many, models, count = asyncio.run(run())
        with LLM(LLMConfig(base_url=server.url, max_tokens=20)) as llm:
            assert chat.choices == llm.chat_completion(HELLO).choices
            assert text.choices == llm.completion("a").choices
            assert [each.choices for each in many] == [
                each.choices for each in llm.chat_completions(["a", "b"])
            ]
        assert streamed == chat.choices[0].message.content
        assert models.data[0].id == "rehearsal"
        assert count == 5

    def test_waits_are_exactly_doubled(self) -> None:
        """The delays are the same in both colours."""
        runtime = VirtualRuntime()
        transport = FakeTransport(Script(*[ConnectionFailed("no") for _ in range(3)]))
        llm = AsyncLLM(transport=transport, runtime=runtime, max_retries=2)
        with pytest.raises(ConnectionFailed):
            asyncio.run(llm.chat_completion(HELLO))
        assert runtime.sleeps == [1.0, 2.0]


def test_own_transport_lists_no_models() -> None:
    """A transport that has no list of models says so."""
    with pytest.raises(BadRequest, match="list"):
        LLM(transport=FakeTransport()).list_models()
    assert isinstance(LLM()._session._transport, OpenAITransport)
