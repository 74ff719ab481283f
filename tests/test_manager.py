"""Models by name: the manager, `call_llm`, and what a model takes and gives."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel
from servers import RehearseServer, ScriptedServer, chat_body, embedding_body, http_reply

from tinytroupe.llm import manager as doors
from tinytroupe.llm.errors import BadRequest, ConfigError, LLMAPIError, LLMError, MalformedResponse
from tinytroupe.llm.manager import ModelManager, UnknownModel, call_llm
from tinytroupe.llm.messages import Message
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.talk.conversation import (
    AssistantMessage,
    SystemMessage,
    UserMessage,
    image_part,
)
from tinytroupe.llm.talk.parsers import JsonDictParser
from tinytroupe.llm.transports.adapted import ModelAdapterBase

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


class Score(BaseModel):
    """What a model is asked for."""

    score: int


PIXEL = bytes.fromhex("89504e470d0a1a0a")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder, and a process-wide manager, of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doors, "_process", doors._Process())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(then=http_reply(body=chat_body("Hello."))) as running:
        yield running


def manage(server: ScriptedServer, **further: Any) -> ModelManager:
    entry = {"base_url": server.base_url, "api_key": "sk-1", **further}
    return ModelManager({"models": {"gpt-4": entry}}, store=MemoryStore())


class TestConfigs:
    def test_the_first_without_a_name(self) -> None:
        """Without a name the first model is meant, and its entry comes back as written."""
        first = {"api_key": "k", "temperature": 0.2, "timeout": 10}
        manager = ModelManager({"models": {"a": first, "b": {"model": "x"}}})
        assert manager.get_model_config() == first
        assert manager.get_model_config("b") == {"model": "x"}
        assert manager.list_models() == ["a", "b"]

    @pytest.mark.parametrize("config", [{}, {"models": {}}, {"models": None}, [], None])
    def test_without_models(self, config: Any) -> None:
        """Where there is no model, the error says so, for every question."""
        manager = ModelManager(config)
        for ask in (manager.get_model_config, manager.create_client, manager.get_model):
            with pytest.raises(ValueError, match=r"^No models found in configuration\.$"):
                ask()

    def test_an_unknown_name(self) -> None:
        """An unknown name is a ValueError that lists the available ones, and the nearest."""
        manager = ModelManager({"models": {"gpt-4": {}, "claude": {}}})
        for ask in (manager.get_model_config, manager.create_client, manager.get_model):
            with pytest.raises(ValueError, match="available are: gpt-4, claude") as caught:
                ask("gtp-4")
            assert "did you mean gpt-4?" in str(caught.value)
            assert isinstance(caught.value, ConfigError)

    def test_what_was_returned_may_be_changed(self) -> None:
        """Changing a returned entry changes nothing else."""
        manager = ModelManager({"models": {"a": {"model": "x"}}})
        manager.get_model_config()["model"] = "y"
        assert manager.get_model_config() == {"model": "x"}

    def test_loading_more(self, tmp_path: Path) -> None:
        """Sources add up; a name may come again only if it means the same."""
        path = tmp_path / "models.json"
        path.write_text(json.dumps([{"config_name": "b", "model_name": "x"}]))
        manager = ModelManager({"models": {"a": {}}})
        assert manager.load_model_configs(path) == ["b"]
        assert manager.load_model_configs(str(path)) == ["b"]
        with pytest.raises(ConfigError, match="'b' is taken by"):
            manager.load_model_configs([{"config_name": "c"}, {"config_name": "b"}])
        assert manager.list_models() == ["a", "b"]
        manager.load_model_configs([{"config_name": "b"}], clear_existing=True)
        assert manager.list_models() == ["b"]

    def test_config_ini_is_the_default(self, tmp_path: Path) -> None:
        """Without a source, the sections of config.ini in the current folder are read."""
        (tmp_path / "config.ini").write_text("[Model here]\nPROVIDER=rehearsal\n")
        assert ModelManager().list_models() == ["here"]
        assert doors.get_model().config_name == "here"

    def test_search(self) -> None:
        """Models are found by kind, provider, type as written, and the endpoint's name for them."""
        manager = ModelManager(
            {
                "models": {
                    "a": {"model_type": "openai_chat", "model": "gpt"},
                    "b": {"provider": "groq", "model": "llama"},
                    "v": {"model_type": "openai_embedding", "model": "vec"},
                }
            }
        )
        found = [
            manager.get_model(model_type="groq"),
            manager.get_model(model_name="llama"),
            manager.get_model(model_type="openai_chat"),
            manager.get_model(model_type="embedding"),
            manager.get_model(model_type="embedding", model_name="vec"),
            manager.get_embedding_model(),
            manager.get_embedding_model("v"),
        ]
        assert [model.config_name for model in found] == ["b", "b", "a", "v", "v", "v", "v"]
        with pytest.raises(UnknownModel, match="model_name 'nope'"):
            manager.get_model(model_name="nope")
        with pytest.raises(UnknownModel, match="not an embedding model"):
            manager.get_embedding_model("a")

    def test_one_and_the_same(self) -> None:
        """A name gives the same model each time, from any thread."""
        manager = ModelManager({"models": {"a": {"provider": "rehearsal"}}})
        with ThreadPoolExecutor(8) as pool:
            models = list(pool.map(lambda _: manager.get_model("a"), range(50)))
        assert len(set(map(id, models))) == 1


class TestClients:
    def test_a_client_is_kept(self, server: ScriptedServer) -> None:
        """A client is made once, with a time-out of 120 s, and works."""
        manager = manage(server)
        client = manager.create_client()
        assert isinstance(client, openai.OpenAI)
        assert client.timeout == 120.0
        assert manager.create_client("gpt-4") is client
        assert manager.clients == {"gpt-4": client}
        message = [{"role": "user", "content": "Hi"}]
        answer = client.chat.completions.create(model="m", messages=message)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == "Hello."
        assert server.requests[0].headers["authorization"] == "Bearer sk-1"
        manager.close()

    def test_configured(self, server: ScriptedServer) -> None:
        """Time-out, retries and address are as configured."""
        client = manage(server, timeout=7, max_retries=4).create_client()
        assert (client.timeout, client.max_retries) == (7.0, 4)
        assert str(client.base_url).rstrip("/") == server.base_url

    def test_not_for_others(self) -> None:
        """What OpenAI's SDK does not ask has no such client."""
        with pytest.raises(ConfigError, match="not asked through OpenAI's SDK"):
            ModelManager({"models": {"a": {"provider": "rehearsal"}}}).create_client()


class TestCallLLM:
    def test_it_asks_through_the_chain(self, server: ScriptedServer) -> None:
        """The answer is the SDK's message; the same question is bought once."""
        config = {"models": {"gpt-4": {"base_url": server.base_url, "temperature": 0.3}}}
        for _ in range(2):
            message = call_llm("gpt-4", config, "What now?", tools=TOOLS)
            assert isinstance(message, ChatCompletionMessage)
            assert message.content == "Hello."
        assert len(server.requests) == 1
        assert server.requests[0].json() == {
            "model": "gpt-4",
            "messages": [{"role": "user", "content": "What now?"}],
            "temperature": 0.3,
            "tools": TOOLS,
        }

    def test_a_flat_config(self, server: ScriptedServer) -> None:
        """A flat configuration is that of the model."""
        flat = {"api_key": "sk-7", "base_url": server.base_url, "temperature": 0.9}
        assert call_llm("gpt-x", flat).content == "Hello."
        sent = server.requests[0]
        assert (sent.json()["model"], sent.json()["temperature"]) == ("gpt-x", 0.9)
        assert sent.json()["messages"][0]["content"] == "Hello, how can I help you?"
        assert sent.headers["authorization"] == "Bearer sk-7"

    def test_prompts_and_messages(self, server: ScriptedServer) -> None:
        """A prompt may be an iterable of messages, and messages win over it."""
        flat = {"base_url": server.base_url}
        prompt = ({"role": role, "content": role} for role in ("system", "user"))
        call_llm("m", flat, prompt)
        call_llm("m", flat, "ignored", messages=[{"role": "user", "content": "taken"}])
        said = [request.json()["messages"] for request in server.requests]
        assert [message["role"] for message in said[0]] == ["system", "user"]
        assert said[1] == [{"role": "user", "content": "taken"}]

    def test_tools_come_back(self) -> None:
        """Calls of tools are in the SDK's own types."""
        call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        body = chat_body(None, message=message, finish_reason="tool_calls")
        with ScriptedServer(then=http_reply(body=body)) as server:
            answer = call_llm("m", {"base_url": server.base_url}, tools=TOOLS)
        assert answer.tool_calls is not None
        assert answer.tool_calls[0].function.name == "weather"  # type: ignore[union-attr]

    def test_nothing_to_say(self) -> None:
        """Without prompt and messages there is nothing to ask."""
        for prompt in (None, [], ()):
            with pytest.raises(BadRequest, match="neither messages nor a usr_prompt"):
                call_llm("m", {"provider": "rehearsal"}, prompt, messages=[])

    def test_an_unknown_model(self) -> None:
        """A name that the configuration does not have is a ValueError."""
        with pytest.raises(ValueError, match="available are: a"):
            call_llm("b", {"models": {"a": {"provider": "rehearsal"}}})

    def test_connections_are_reused(self, server: ScriptedServer) -> None:
        """Equal configurations share their connections."""
        for number in range(5):
            call_llm("m", {"base_url": server.base_url}, f"question {number}")
        assert (len(server.requests), server.connections) == (5, 1)


class TestModels:
    def test_an_answer_says_all(self, server: ScriptedServer) -> None:
        """Text, usage, raw answer and who answered are there."""
        answer = manage(server, model="m").get_model()("Hi", temperature=0.5)
        assert answer.text == answer.content == "Hello."
        assert answer.usage is not None
        assert answer.usage.total_tokens == 7
        assert answer.raw["choices"][0]["message"]["content"] == "Hello."
        assert answer.parsed is None
        assert answer.model_info["config_name"] == "gpt-4"
        assert answer.model_info["model_name"] == "m"
        assert server.requests[0].json()["temperature"] == 0.5

    def test_both_colours_share_answers(self, server: ScriptedServer) -> None:
        """What was bought blocking is a hit on an event loop."""
        model = manage(server).get_model()
        model("Hi")
        assert asyncio.run(model.acall("Hi")).model_info["origin"] == "cache"
        assert len(server.requests) == 1

    def test_options_are_not_sent(self, server: ScriptedServer) -> None:
        """What says how a call is made does not enter the request."""
        model = manage(server).get_model()
        model("Hi", lane="lisa", purpose="plan", cache="off", timeout=9, deadline=20)
        assert set(server.requests[0].json()) == {"model", "messages"}
        assert model.client.meter.summarize("lane")["lisa"].calls == 1

    def test_stream(self) -> None:
        """A model streams its text, then the whole answer, in both colours."""
        with RehearseServer() as server:
            models = {"a": {"base_url": server.base_url}}
            model = ModelManager({"models": models}, store=MemoryStore()).get_model()
            *pieces, last = list(model.stream("Tell me more"))
            assert len(pieces) > 1
            assert "".join(map(str, pieces)) == last.text

            async def gather() -> list[Any]:
                return [piece async for piece in model.astream("Tell me more")]

            assert asyncio.run(gather())[-1].text == last.text

    def test_format(self, tmp_path: Path) -> None:
        """Messages of every kind become one conversation."""
        model = ModelManager({"models": {"a": {"provider": "rehearsal"}}}).get_model()
        image = tmp_path / "dot.png"
        image.write_bytes(PIXEL)
        formatted = model.format(
            SystemMessage("be kind"),
            UserMessage(["look", image_part(image), image_part("https://h/x.png")]),
            None,
            [AssistantMessage("nice"), {"role": "user", "content": "and"}],
            Message("user", [{"type": "text", "text": "parts"}]),  # type: ignore[arg-type]
            "plain",
        )
        assert [message.role for message in formatted] == [
            "system",
            "user",
            "assistant",
            "user",
            "user",
            "user",
        ]
        parts = formatted[1].to_wire()["content"]
        assert [part["type"] for part in parts] == ["text", "image_url", "image_url"]  # type: ignore
        assert str(parts).count("data:image/png;base64,iVBORw0KGgo=") == 1
        assert model(formatted[:1] + formatted[-1:]).text

    def test_message_classes_are_messages(self) -> None:
        """The classes by role are equal to plain messages, and refuse what is not text."""
        assert SystemMessage("x").to_wire() == Message("system", "x").to_wire()
        assert UserMessage("x", name="Lisa").to_wire()["name"] == "Lisa"
        with pytest.raises(BadRequest):
            UserMessage([object()])  # type: ignore[list-item]

    @pytest.mark.parametrize("given", [None, [], 3, [3], b"x", {"content": "x"}, [None]])
    def test_what_is_no_message(self, given: Any) -> None:
        """What is no message is refused before anything is asked."""
        model = ModelManager({"models": {"a": {"provider": "rehearsal"}}}).get_model()
        with pytest.raises(BadRequest, match="message"):
            model(given)

    def test_images_that_are_none(self, tmp_path: Path) -> None:
        """A missing file and a text are no images."""
        for name, complaint in (("none.png", "cannot be read"), ("x.txt", "not called like")):
            with pytest.raises(BadRequest, match=complaint):
                image_part(tmp_path / name)


class TestEmbeddings:
    def make(self, server: ScriptedServer, **further: Any) -> Any:
        entry = {"model_type": "openai_embedding", "base_url": server.base_url, **further}
        models = {"vectors": {"api_key": "k", **entry}}
        return ModelManager({"models": models}, store=MemoryStore()).get_embedding_model()

    def test_missing_texts_are_asked_together(self) -> None:
        """Known texts are hits, the others go in one request, order and doubles are kept."""
        replies = [
            http_reply(body=embedding_body([1.0], [2.0])),
            http_reply(body=embedding_body([3.0], [4.0])),
        ]
        with ScriptedServer(replies) as server:
            model = self.make(server)
            assert model(texts=["a", "bb"]).embeddings == [[1.0], [2.0]]
            answer = model(texts=["c", "bb", "dd", "c"])
            assert answer.embeddings == [[3.0], [2.0], [4.0], [3.0]]
            assert answer.embedding == [3.0]
            assert [request.json()["input"] for request in server.requests] == [
                ["a", "bb"],
                ["c", "dd"],
            ]
            totals = model.client.meter.totals
        assert (totals.calls, totals.hits, totals.live_usage.input_tokens) == (5, 1, 10)

    def test_rows_in_another_order(self) -> None:
        """Vectors belong to texts by their index, not by their place."""
        body = json.loads(embedding_body([1.0], [2.0], [3.0]))
        body["data"].reverse()
        with ScriptedServer(then=http_reply(body=body)) as server:
            assert self.make(server)(texts=["a", "b", "c"]).embeddings == [[1.0], [2.0], [3.0]]

    @pytest.mark.parametrize(
        "rows",
        [
            [{"index": 0, "embedding": [1.0]}],
            [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
            [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [None]}],
            [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": []}],
        ],
    )
    def test_what_is_no_vector(self, rows: list[Any]) -> None:
        """A wrong count, a wrong index and what is not a number are refused and not kept."""
        with ScriptedServer(then=http_reply(body={"data": rows})) as server:
            model = self.make(server, max_retries=0)
            with pytest.raises(MalformedResponse):
                model(texts=["a", "b"])
            assert len(model.client.store) == 0

    def test_not_a_number(self) -> None:
        """NaN on the wire is refused."""
        body = b'{"data": [{"index": 0, "embedding": [NaN]}]}'
        server = ScriptedServer(then=http_reply(body=body))
        with server, pytest.raises(MalformedResponse):
            self.make(server, max_retries=0)(texts=["a"])

    def test_dimensions(self) -> None:
        """`dimensions` is sent, and vectors of another length are refused."""
        with ScriptedServer(then=http_reply(body=embedding_body([1.0, 2.0]))) as server:
            model = self.make(server, dimensions=2)
            assert model("a").embedding == [1.0, 2.0]
            assert server.requests[0].json()["dimensions"] == 2
            with pytest.raises(BadRequest, match="does not heed dimensions"):
                model("a", dimensions=3)

    def test_one_bad_text_does_not_cost_the_others(self) -> None:
        """A text that the endpoint refuses is found; the others are bought and kept."""
        refusal = http_reply(400, {"error": {"message": "too long"}})
        replies = [
            refusal,  # a b bad c
            http_reply(body=embedding_body([1.0], [2.0])),  # a b
            refusal,  # bad c
            refusal,  # bad
            http_reply(body=embedding_body([3.0])),  # c
        ]
        with ScriptedServer(replies) as server:
            model = self.make(server)
            with pytest.raises(LLMAPIError, match="too long"):
                model(texts=["a", "b", "bad", "c"])
            assert model(texts=["c", "a", "b"]).embeddings == [[3.0], [1.0], [2.0]]
            assert server.surplus == 0

    def test_texts_that_are_none(self) -> None:
        """No texts, an empty text and what is no text are refused before anything is asked."""
        with ScriptedServer() as server:
            model = self.make(server)
            for texts in ([], None, [""], ["a", ""], [3], 7):
                with pytest.raises(BadRequest, match="text"):
                    model(texts=texts)
            assert server.requests == []

    def test_threads_with_overlapping_texts(self) -> None:
        """Batches of many threads over the same texts buy each text once and never wait in vain."""

        class Lengths(ModelAdapterBase):
            asked: list[str]

            def __call__(self, texts: list[str], **parameters: Any) -> list[list[float]]:
                self.settings["asked"] += texts
                time.sleep(0.01)
                return [[float(text)] for text in texts]

        asked: list[str] = []
        manager = ModelManager({}, store=MemoryStore())
        manager.register("lengths", Lengths)
        manager.load_model_configs({"embedding": [{"config_name": "v", "model_type": "lengths"}]})
        model = manager.get_embedding_model()
        adapter: Any = model.client.transport
        adapter._adapter.settings["asked"] = asked

        def embed(turn: int) -> bool:
            numbers = [(turn * 7 + step * 3) % 40 for step in range(20)]
            if turn % 2:
                numbers.reverse()
            answer = model(texts=[str(number) for number in numbers])
            return answer.embeddings == [[float(number)] for number in numbers]

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(embed, range(200)))
        assert sorted(asked) == sorted({str(number) for number in range(40)})

    def test_on_an_event_loop(self) -> None:
        """The same on an event loop, many at once."""
        with RehearseServer() as server:
            model = self.make(server)

            async def gather() -> list[Any]:
                return await asyncio.gather(
                    *(model.acall(texts=[f"t{n}", f"t{n + 1}", "all"]) for n in range(20))
                )

            answers = asyncio.run(gather())
            assert len({tuple(answer.embeddings[2]) for answer in answers}) == 1
            for before, after in itertools.pairwise(answers):
                assert before.embeddings[1] == after.embeddings[0]


class TestRegistered:
    @pytest.mark.parametrize(
        ("model_type", "adapter", "complaint"),
        [
            ("own", object, "not a subclass"),
            ("own", ModelAdapterBase, "no __call__"),
            ("openai_chat", None, "built in"),
        ],
    )
    def test_what_cannot_be_registered(self, model_type: str, adapter: Any, complaint: str) -> None:
        """Only complete models under free names can be registered."""

        class Own(ModelAdapterBase):
            def __call__(self, **arguments: Any) -> str:
                return "own"

        with pytest.raises(ConfigError, match=complaint):
            ModelManager({}).register(model_type, adapter or Own)

    @pytest.mark.parametrize(
        ("raised", "cls"),
        [(TimeoutError("slow"), LLMError), (ValueError("a mistake"), LLMAPIError)],
    )
    def test_errors_are_typed(self, raised: Exception, cls: type[LLMError]) -> None:
        """What a user's model raises reaches the caller as an error of ours, with its cause."""

        class Own(ModelAdapterBase):
            def __call__(self, **arguments: Any) -> str:
                raise raised

        manager = ModelManager({}, store=MemoryStore())
        manager.register("own", Own)
        manager.load_model_configs([{"config_name": "a", "model_type": "own", "max_retries": 0}])
        with pytest.raises(cls) as caught:
            manager.get_model()("Hi")
        assert caught.value.__cause__ is raised

    def test_what_is_no_answer(self) -> None:
        """A model that returns nonsense is told what it returned."""

        class Own(ModelAdapterBase):
            def __call__(self, **arguments: Any) -> Any:
                return 3

        manager = ModelManager({}, store=MemoryStore())
        manager.register("own", Own)
        manager.load_model_configs([{"config_name": "a", "model_type": "own", "max_retries": 0}])
        with pytest.raises(MalformedResponse, match="returned a int"):
            manager.get_model()("Hi")


def test_the_process_s_manager() -> None:
    """The functions of the module share one manager."""
    doors.load_model_configs([{"config_name": "a", "provider": "rehearsal"}])
    doors.load_model_configs({"embedding": [{"config_name": "v", "provider": "rehearsal"}]})
    assert doors.get_model_manager() is doors.get_model_manager()
    assert doors.get_model().config_name == "a"
    assert doors.get_embedding_model().config_name == "v"
    assert doors.configure_load_balancer(["a"]) is doors.get_model()
    assert doors.get_model("a") is not doors.get_model()


class TestAsking:
    SHAPE = '{"score": 4}'

    def test_asked_until_it_can_be_read(self) -> None:
        """A model asks again on an answer that cannot be read, and gives what was read."""
        replies = [http_reply(body=chat_body("no idea")), http_reply(body=chat_body(self.SHAPE))]
        with ScriptedServer(replies) as server:
            answer = manage(server).get_model().ask("Score?", JsonDictParser())
            assert answer.parsed == {"score": 4}
            assert answer.model_info["config_name"] == "gpt-4"
            assert answer.reading is not None
            assert len(answer.reading.rejected) == len(server.requests) - 1 == 1

    def test_a_format_is_read(self) -> None:
        """With a response format an answer is read, in both colours."""
        with ScriptedServer(then=http_reply(body=chat_body(self.SHAPE))) as server:
            model = manage(server).get_model()
            answer = model("Score?", response_format=Score)
            assert answer.parsed == Score(score=4)
            again = asyncio.run(model.acall("Score?", response_format=Score))
            assert again.parsed == answer.parsed
            assert again.model_info["origin"] == "cache"
            sent = server.requests[0].json()["response_format"]
        assert sent["type"] == "json_schema"

    def test_a_format_of_plain_text_is_no_structure(self) -> None:
        """The API's word for plain text is sent as it is, and nothing is read."""
        with ScriptedServer(then=http_reply(body=chat_body("Four."))) as server:
            answer = manage(server).get_model()("Score?", response_format={"type": "text"})
            assert server.requests[0].json()["response_format"] == {"type": "text"}
        assert (answer.text, answer.parsed) == ("Four.", None)

    def test_parsers_take_models_answers(self, server: ScriptedServer) -> None:
        """A parser reads a model's answer as it reads a response."""
        with ScriptedServer(then=http_reply(body=chat_body(self.SHAPE))) as scripted:
            answer = manage(scripted).get_model()("Score?")
        assert JsonDictParser().parse(answer).parsed == {"score": 4}
        assert copy.copy(answer) == answer == pickle.loads(pickle.dumps(answer))
