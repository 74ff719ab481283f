"""Chats: stored before they are asked, answered one after the other, never left broken."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest
from chat_server import call_tools
from django.db import connections, transaction
from django_chats import Door, Endpoints, MakePrompt, outline, read_chat
from django_fixtures import Database
from pydantic import BaseModel

from tinytroupe.contrib.django.chats import ChatHistoryRepository
from tinytroupe.contrib.django.errors import (
    ChatConflict,
    InvalidHistory,
    MissingConfigs,
    MissingVariables,
    ToolCodeRefused,
    ToolsDisabled,
    UnknownChat,
    UnknownConfig,
    UnknownPrompt,
)
from tinytroupe.contrib.django.history import check_history
from tinytroupe.contrib.django.models import ChatHistory, PromptTemplate, Tool
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper
from tinytroupe.contrib.django.tools import fill_tool_spec
from tinytroupe.llm.errors import (
    BadRequest,
    ConfigError,
    ParseError,
    ServerFault,
    TemplateError,
    TimedOut,
    ToolRoundsExceeded,
)

on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def last_said(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def echo(body: dict[str, Any]) -> str:
    return f"You said: {last_said(body)}"


class TestTurns:
    def test_a_new_chat(self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt):
        """A chat begins with its opening; a message and its answer follow, with their facts."""
        server = endpoints.add("main", echo)
        make_prompt(
            configs=("main",),
            initial_messages_templates=[{"role": "assistant", "content": "Hello {{ customer }}!"}],
            user_prompt_template="Question: {{ user_msg }}",
            logged_context_vars=["topic"],
        )
        wrapper = door.open()
        text = door.send(wrapper, "Where is it?", {"topic": "delivery"})
        assert text == "You said: Question: Where is it?"
        messages = read_chat(wrapper)
        assert outline(messages) == [
            ("system", "You help Amina."),
            ("assistant", "Hello Amina!"),
            ("user", "Where is it?"),
            ("assistant", text),
        ]
        said, answer = messages[2:]
        assert said["status"] == "answered"
        assert said["prompt"] == "Question: Where is it?"
        assert said["context_vars"] == {"topic": "delivery"}
        assert answer["config"] == "main"
        assert answer["model"] == "model-of-main"
        assert answer["tokens"] == {"input": 11, "output": 3}
        assert len({message["id"] for message in messages}) == 4
        assert all(message["timestamp"] for message in messages)
        sent = server.bodies[0]["messages"]
        assert [set(message) for message in sent] == [{"role", "content"}] * 3
        chat = wrapper.get_chat_history_object()
        assert chat.current_context_variables == {"customer": "Amina", "topic": "delivery"}

    def test_an_endpoint_that_counts_nothing(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """An answer that does not say how many tokens it took is stored, and the chat goes on."""
        endpoints.add("main", echo).counts_tokens = False
        make_prompt(configs=("main",))
        wrapper = door.open()
        for message in ("One", "Two"):
            assert door.send(wrapper, message) == f"You said: {message}"
        answers = read_chat(wrapper)[2::2]
        assert [answer["tokens"] for answer in answers] == [None, None]

    def test_a_chat_goes_on(self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt):
        """A chat that is taken up by its id is sent as the model saw it, with a system message of
        now."""
        server = endpoints.add("main", echo)
        make_prompt(configs=("main",), user_prompt_template="{{ user_msg }} ({{ customer }})")
        first = door.open()
        door.send(first, "One")
        second = door.open(
            chat_history_id=first.chat_history_id,
            initialize=False,
            initializing_context_vars={"customer": "Bo"},
        )
        door.send(second, "Two")
        assert second.chat_history_id == first.chat_history_id
        assert [message["content"].strip() for message in server.bodies[1]["messages"]] == [
            "You help Bo.",
            "One (Amina)",
            "You said: One (Amina)",
            "Two (Bo)",
        ]
        assert [message["content"] for message in read_chat(second)[1::2]] == ["One", "Two"]

    def test_without_initialize(self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt):
        """A chat that is not begun at once is begun by its first message."""
        endpoints.add("main", echo)
        make_prompt(configs=("main",))
        wrapper = door.open(initialize=False)
        assert ChatHistory.objects.count() == 0
        door.send(wrapper, "Hello")
        assert outline(read_chat(wrapper))[0] == ("system", "You help Amina.")

    def test_a_class_for_answers(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """An answer that does not fit the class is asked for again; the one that does is stored."""

        class Order(BaseModel):
            number: int

        answers = iter(["no idea", '{"number": 7}'])
        server = endpoints.add("main", lambda body: next(answers))
        make_prompt(configs=("main",))
        wrapper = Door("sync").open(response_format_class=Order)
        assert Door("sync").send(wrapper, "Which?") == Order(number=7)
        assert server.bodies[0]["response_format"]["type"] == "json_schema"
        assert outline(read_chat(wrapper))[1:] == [
            ("user", "Which?"),
            ("assistant", '{"number": 7}'),
        ]

    def test_a_class_and_tools(self, endpoints: Endpoints, make_prompt: MakePrompt, add: Tool):
        """A model may call tools before it answers in the form of a class."""

        class Total(BaseModel):
            total: int

        said = iter([call_tools(("add", {"a": 1, "b": 2})), '{"total": 3}'])
        endpoints.add("main", lambda body: next(said))
        make_prompt(configs=("main",), tools=(add,))
        wrapper = Door("async").open(response_format_class=Total)
        assert Door("async").send(wrapper, "Sum?") == Total(total=3)

    def test_a_class_that_nothing_fits(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """Without an answer that fits, the message counts as not answered."""

        class Order(BaseModel):
            number: int

        endpoints.add("main", lambda body: "no idea")
        make_prompt(configs=("main",))
        wrapper = Door("async").open(response_format_class=Order)
        with pytest.raises(ParseError):
            Door("async").send(wrapper, "Which?")
        assert read_chat(wrapper)[-1]["status"] == "failed"
        with pytest.raises(BadRequest, match="cannot be streamed"):
            next(wrapper.stream_user_message("Which?"))

    def test_one_time_completion(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """A completion is asked with the template's prompts, and leaves no chat behind."""
        server = endpoints.add("main", echo)
        make_prompt(
            configs=("main",), required_kwargs=["city"], user_prompt_template="About {{ city }}"
        )
        wrapper = Door("sync").open(initialize=False)
        assert wrapper.get_one_time_completion({"city": "Oslo"}) == "You said: About Oslo"
        answer = asyncio.run(wrapper.aget_one_time_completion({"city": "Bergen"}))
        assert answer == "You said: About Bergen"
        assert [message["role"] for message in server.bodies[0]["messages"]] == ["system", "user"]
        with pytest.raises(MissingVariables, match="city"):
            wrapper.get_one_time_completion({})
        assert ChatHistory.objects.count() == 0

    def test_the_same_chat_asked_again_is_not_bought(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """What was asked before, word for word, comes out of the cache."""
        server = endpoints.add("main", echo)
        make_prompt(configs=("main",))
        for _ in range(2):
            door.send(door.open(), "Hello")
        assert len(server.bodies) == 1

    def test_chats_that_share_no_answers(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt, site_settings: Any
    ):
        """Where answers are not shared, each chat buys its own, and finds it again."""
        site_settings(LLM_WRAPPER_SHARE_ANSWERS=False)
        numbers = iter(range(9))
        server = endpoints.add("main", lambda body: f"Answer {next(numbers)}")
        make_prompt(configs=("main",))
        wrappers = [door.open(), door.open()]
        assert [door.send(wrapper, "Hello") for wrapper in wrappers] == ["Answer 0", "Answer 1"]
        # As where the process ended before the answer was stored.
        chat = wrappers[0].get_chat_history_object()
        chat.chat_history = chat.chat_history[:1]
        chat.save()
        assert door.send(wrappers[0], "Hello") == "Answer 0"
        assert len(server.bodies) == 2


class TestVariables:
    def test_those_that_are_required(self, door: Door, make_prompt: MakePrompt):
        """A message without a variable that is required is refused by name, before it is stored."""
        make_prompt(required_kwargs=["customer", "order", "city"])
        wrapper = door.open()
        with pytest.raises(MissingVariables, match="order, city") as caught:
            door.send(wrapper, "Hello")
        assert caught.value.names == ("order", "city")
        assert outline(read_chat(wrapper)) == [("system", "You help Amina.")]
        assert door.send(wrapper, "Hello", {"order": 1, "city": "Oslo"})

    def test_they_stay_until_they_change(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """A variable keeps its last value, whatever the wrapper was made with."""
        server = endpoints.add("main", echo)
        make_prompt(configs=("main",))
        door = Door("sync")
        for chat_id in (None, door.open().chat_history_id):
            wrapper = door.open(chat_history_id=chat_id)
            for given in (None, {"customer": "Bo"}, None):
                door.send(wrapper, f"Hello {chat_id}", given)
        systems = [body["messages"][0]["content"] for body in server.bodies]
        assert systems == ["You help Amina.", "You help Bo.", "You help Bo."] * 2

    def test_nothing_is_begun_without_them(self, door: Door, make_prompt: MakePrompt):
        """A first message that cannot be asked leaves no chat behind."""
        make_prompt(required_kwargs=["city"])
        wrapper = door.open(initialize=False)
        for message, refused in (("Hello", MissingVariables), ("", BadRequest)):
            with pytest.raises(refused):
                door.send(wrapper, message)
        assert ChatHistory.objects.count() == 0
        assert door.send(wrapper, "Hello", {"city": "Oslo"})
        assert ChatHistory.objects.get().current_context_variables == {
            "customer": "Amina",
            "city": "Oslo",
        }

    def test_an_opening_without_its_variables(self, database: Database, make_prompt: MakePrompt):
        """An opening that cannot be rendered is an error that names the variable."""
        make_prompt(required_kwargs=["customer"])
        with pytest.raises(MissingVariables, match="customer"):
            LLMCommunicationWrapper(prompt_name="support")
        make_prompt("other")
        named = r"'other': system_prompt_template, line 1.*'customer'"
        with pytest.raises(TemplateError, match=named):
            LLMCommunicationWrapper(prompt_name="other")
        assert ChatHistory.objects.count() == 0

    @pytest.mark.parametrize(
        ("template_format", "text"),
        [("jinja", "{{ day }} {{ n }}"), ("mustache", "{{day}} {{n}}"), ("dollar", "$day $n")],
    )
    def test_formats(
        self, template_format: str, text: str, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """All formats render the same; dates become texts, and code in a value stays text."""
        server = endpoints.add("main", echo)
        make_prompt(configs=("main",), template_format=template_format, system_prompt_template=text)
        values = {"day": date(2026, 1, 2), "n": "{{ 1 }} $x"}
        wrapper = Door("sync").open(initializing_context_vars=values)
        Door("sync").send(wrapper, "Hello")
        assert server.bodies[0]["messages"][0]["content"] == "2026-01-02 {{ 1 }} $x"

    @pytest.mark.parametrize(
        "value", [object(), float("nan"), {1, 2}, "\0", "\ud800", {"a": ["\0"]}]
    )
    def test_what_cannot_be_stored(self, value: Any, make_prompt: MakePrompt):
        """A variable without a JSON form that every database can hold is refused by name."""
        make_prompt()
        with pytest.raises(BadRequest, match="'odd'"):
            Door("sync").open(initializing_context_vars={"customer": "A", "odd": value})

    @pytest.mark.parametrize("message", ["", "  \n", None, 3, "a\0b", "a\ud800"])
    def test_messages_that_cannot_be_stored(self, message: Any, make_prompt: MakePrompt):
        """A message that is no text, or holds what no database takes, is refused and not stored."""
        make_prompt()
        wrapper = Door("sync").open()
        with pytest.raises(BadRequest):
            Door("sync").send(wrapper, message)
        assert len(read_chat(wrapper)) == 1

    def test_answers_that_cannot_be_stored(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """What a database cannot hold of an answer becomes a mark, and the rest is kept."""
        endpoints.add("main", lambda body: "a\0b")
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        assert Door("sync").send(wrapper, "Hello") == "a\ufffdb"
        assert read_chat(wrapper)[-1]["content"] == "a\ufffdb"


class TestFailures:
    def test_a_message_that_failed_is_sent_again(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """The chat says what failed; the same message sent again stands there once."""
        answers = iter([500, "Now it works."])
        server = endpoints.add("main", lambda body: next(answers))
        make_prompt(configs=("main",))
        wrapper = door.open()
        with pytest.raises(ServerFault):
            door.send(wrapper, "Hello")
        failed = read_chat(wrapper)[-1]
        assert failed["status"] == "failed"
        assert "status 500 on demand" in failed["error"]
        assert door.send(wrapper, "Hello") == "Now it works."
        messages = read_chat(wrapper)
        assert outline(messages)[1:] == [("user", "Hello"), ("assistant", "Now it works.")]
        assert messages[1]["id"] == failed["id"]
        assert "error" not in messages[1]
        assert server.bodies[0]["messages"] == server.bodies[1]["messages"]

    def test_another_message_after_one_that_failed(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """What was never answered stays in the chat and is not sent to the model."""
        answers = iter([500, "Yes."])
        server = endpoints.add("main", lambda body: next(answers))
        make_prompt(configs=("main",))
        wrapper = door.open()
        with pytest.raises(ServerFault):
            door.send(wrapper, "First")
        door.send(wrapper, "Second")
        assert [message["content"] for message in server.bodies[1]["messages"]] == [
            "You help Amina.",
            "Second",
        ]
        assert [message.get("status") for message in read_chat(wrapper)[1:]] == [
            "failed",
            "answered",
            None,
        ]

    def test_the_message_is_stored_before_the_call(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """While a model is asked, the database holds the message."""
        seen = []
        found: dict[str, Any] = {}

        def look(body: dict[str, Any]) -> str:
            seen.append(read_chat(found["wrapper"])[-1])
            connections.close_all()
            return "Yes."

        endpoints.add("main", look)
        make_prompt(configs=("main",))
        found["wrapper"] = door.open()
        door.send(found["wrapper"], "Hello")
        assert [(message["content"], message["status"]) for message in seen] == [
            ("Hello", "pending")
        ]

    def test_a_slow_endpoint(self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt):
        """With the retry, one that takes too long is left for another one; without, it is said."""
        wait = threading.Event()

        def hang(body: dict[str, Any]) -> str:
            wait.wait(20)
            return "Too late."

        endpoints.add("slow", hang, timeout=0.3)
        endpoints.add("quick", lambda body: "Quick.")
        make_prompt(configs=("slow", "quick"))
        seed = next(seed for seed in range(50) if door.open(seed=seed).llm_config_name == "slow")
        wrapper = door.open(seed=seed)
        with pytest.raises(TimedOut):
            door.send(wrapper, "Hello")
        assert read_chat(wrapper)[-1]["config"] == "slow"
        assert door.send(wrapper, "Hello", retry_on_openai_time_limit=True) == "Quick."
        wait.set()
        said, answer = read_chat(wrapper)[1:]
        assert (said["config"], answer["config"]) == ("quick", "quick")
        assert wrapper.llm_config_name == "quick"

    def test_all_are_slow(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """Where none answers, the first cause is raised, and the others are told in it."""
        for name in ("one", "two"):
            endpoints.add(name, lambda body: 504)
        make_prompt(configs=("one", "two"))
        wrapper = Door("sync").open(seed=1)
        with pytest.raises(ServerFault) as caught:
            Door("sync").send(wrapper, "Hello", None, True)
        assert len(caught.value.history) == 1
        assert all(len(server.bodies) == 1 for server in endpoints.servers.values())

    def test_a_stream_that_is_left(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """Who leaves a stream early leaves a message that was not answered, and no lock."""
        endpoints.add("main", lambda body: "One two three four")
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        pieces = wrapper.stream_user_message("Hello")
        assert next(pieces)
        pieces.close()
        assert read_chat(wrapper)[-1]["status"] == "failed"
        assert Door("stream").send(wrapper, "Hello") == "One two three four"

    def test_a_task_that_is_cancelled(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """A cancelled task leaves a message that was not answered, and no lock."""
        asked, wait = threading.Event(), threading.Event()

        def hang(body: dict[str, Any]) -> str:
            asked.set()
            wait.wait(20)
            return "Late."

        endpoints.add("main", hang)
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()

        async def cancel() -> None:
            task = asyncio.create_task(wrapper.asend_user_message_and_get_response("Hello"))
            await asyncio.to_thread(asked.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        assert read_chat(wrapper)[-1]["status"] == "failed"
        wait.set()
        assert Door("async").send(wrapper, "Hello") == "Late."

    def test_inside_a_transaction(self, make_prompt: MakePrompt):
        """A chat that could not be committed before the call is refused with what to do."""
        make_prompt()
        wrapper = Door("sync").open()
        with pytest.raises(ConfigError, match="non_atomic_requests"), transaction.atomic():
            Door("sync").send(wrapper, "Hello")


class TestTools:
    def test_several_in_one_turn(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt, add: Tool
    ):
        """Tools are called round by round until the model answers; all of it is stored."""
        rounds = iter(
            [
                call_tools(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})),
                call_tools(("add", {"a": 3, "b": 7})),
                "Ten.",
            ]
        )
        server = endpoints.add("main", lambda body: next(rounds))
        make_prompt(configs=("main",), tools=(add,))
        wrapper = door.open()
        assert door.send(wrapper, "1 + 2 + 3 + 4?") == "Ten."
        messages = read_chat(wrapper)
        assert outline(messages)[2:] == [
            ("assistant", ""),
            ("tool", "3"),
            ("tool", "7"),
            ("assistant", ""),
            ("tool", "10"),
            ("assistant", "Ten."),
        ]
        assert [message["name"] for message in messages if message["role"] == "tool"] == ["add"] * 3
        assert [tool["function"]["name"] for tool in server.bodies[0]["tools"]] == ["add"]

    def test_what_is_said_before_a_tool(
        self, endpoints: Endpoints, make_prompt: MakePrompt, add: Tool
    ):
        """In a stream an empty line stands between what is said before and after a tool."""
        for way in ("stream", "async stream"):
            rounds = iter([{**call_tools(("add", {"a": 1, "b": 2})), "content": way}, "Three."])
            endpoints.add(way.replace(" ", "-"), lambda body, rounds=rounds: next(rounds))
            make_prompt(way, configs=(way.replace(" ", "-"),), tools=(add,))
            wrapper = Door(way).open(prompt_name=way)
            assert Door(way).send(wrapper, "Go").split(" \n\n") == [way, "Three."]

    def test_what_a_model_invents(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt, add: Tool
    ):
        """Invented tools and arguments are told to the model, and the chat goes on."""
        rounds = iter(
            [
                call_tools(("subtract", {}), ("add", '{"a": 1,'), ("add", {"a": 1, "x": 2})),
                "I see.",
            ]
        )
        server = endpoints.add("main", lambda body: next(rounds))
        make_prompt(configs=("main",), tools=(add,))
        wrapper = door.open()
        assert door.send(wrapper, "Go") == "I see."
        told = [m["content"] for m in server.bodies[1]["messages"] if m["role"] == "tool"]
        assert len(told) == 3
        assert all(text.startswith("Error") for text in told)
        assert "subtract" in told[0]

    def test_tools_without_end(
        self, endpoints: Endpoints, make_prompt: MakePrompt, add: Tool, site_settings: Any
    ):
        """A model that never stops calling tools is stopped; whole rounds are kept."""
        site_settings(LLM_WRAPPER_MAX_TOOL_ROUNDS=2)
        numbers = iter(range(100))
        endpoints.add("main", lambda body: call_tools(("add", {"a": next(numbers), "b": 1})))
        make_prompt(configs=("main",), tools=(add,))
        wrapper = Door("sync").open()
        with pytest.raises(ToolRoundsExceeded, match="2 rounds"):
            Door("sync").send(wrapper, "Go")
        messages = read_chat(wrapper)
        assert [m["role"] for m in messages[2:]] == ["assistant", "tool", "assistant", "tool"]
        check_history(messages)

    def test_a_failure_between_rounds(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt, add: Tool
    ):
        """Sent again, a message goes on behind the tools that were run: none is run twice."""
        rounds = iter([call_tools(("add", {"a": 1, "b": 2})), 500, "Three."])
        server = endpoints.add("main", lambda body: next(rounds))
        make_prompt(configs=("main",), tools=(add,))
        wrapper = door.open()
        with pytest.raises(ServerFault):
            door.send(wrapper, "1 + 2?")
        assert [m["role"] for m in read_chat(wrapper)[1:]] == ["user", "assistant", "tool"]
        assert door.send(wrapper, "1 + 2?") == "Three."
        assert [m["role"] for m in read_chat(wrapper)[1:]] == [
            *("user", "assistant", "tool", "assistant")
        ]
        assert server.bodies[1]["messages"] == server.bodies[2]["messages"]

    def test_variables_that_the_model_does_not_see(
        self, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """Parameters from the chat and fixed ones reach the function, and never the model."""
        tool = make_tool(
            "describe", context_params=["customer"], default_values_for_non_llm_params={"n": 7}
        )
        rounds = iter([call_tools(("describe", {"what": "x"})), "Done."])
        server = endpoints.add("main", lambda body: next(rounds))
        make_prompt(configs=("main",), tools=(tool,))
        wrapper = Door("sync").open()
        Door("sync").send(wrapper, "Go")
        described = server.bodies[0]["tools"][0]["function"]["parameters"]["properties"]
        assert list(described) == ["what"]
        assert read_chat(wrapper)[3]["content"] == "x of Amina, 7"

    def test_the_order_of_parameters(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """A model is told the parameters in the function's order, however a database keeps them."""
        tool = make_tool("name_all")
        server = endpoints.add("main", echo)
        make_prompt(configs=("main",), tools=(tool,))
        Door("sync").send(Door("sync").open(), "Go")
        parameters = server.bodies[0]["tools"][0]["function"]["parameters"]
        assert list(parameters["properties"]) == ["zeta", "b", "alpha"]

    def test_code_that_may_not_run(self, make_prompt: MakePrompt):
        """Without the setting, a tool of source text is an error that names it, before all else."""
        tool = Tool.objects.create(
            name="evil",
            tool_code="def evil():\n    raise SystemExit\n",
            tool_json_spec={"name": "evil", "parameters": {"type": "object", "properties": {}}},
        )
        make_prompt(tools=(tool,))
        with pytest.raises(ToolCodeRefused, match="LLM_WRAPPER_ALLOW_TOOL_CODE"):
            Door("sync").open()
        assert ChatHistory.objects.count() == 0


class TestBesideOthers:
    @on_postgresql
    def test_many_threads_wait_their_turn(
        self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt
    ):
        """20 threads in one chat: 20 messages and 20 answers, each right behind its own."""
        server = endpoints.add("main", lambda body: f"Answer to {last_said(body)}")
        make_prompt(configs=("main",))
        first = door.open()

        def send(number: int) -> str:
            try:
                wrapper = LLMCommunicationWrapper(
                    prompt_name="support", chat_history_id=first.chat_history_id
                )
                return str(door.send(wrapper, f"Message {number}"))
            finally:
                connections.close_all()

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(send, range(20)))
        assert answers == [f"Answer to Message {number}" for number in range(20)]
        turns = outline(read_chat(first))[1:]
        assert len(turns) == 40
        assert sorted(turns[::2]) == sorted(("user", f"Message {n}") for n in range(20))
        assert [said for _, said in turns[1::2]] == [f"Answer to {said}" for _, said in turns[::2]]
        lengths = [len(body["messages"]) for body in server.bodies]
        assert lengths == list(range(2, 42, 2)), "each is asked with all before it answered"

    @on_postgresql
    def test_the_same_text_from_many_threads(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """Messages that are alike are as many as were sent."""
        endpoints.add("main", lambda body: f"Answer {len(body['messages'])}")
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()

        def send(_: int) -> None:
            try:
                wrapper.send_user_message_and_get_response("Again")
            finally:
                connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, range(16)))
        assert [role for role, _ in outline(read_chat(wrapper))[1:]] == ["user", "assistant"] * 16

    @on_postgresql
    def test_tasks_wait_their_turn(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """Tasks of one loop are served one after the other, too, and none is stuck."""
        endpoints.add("main", lambda body: f"Answer to {last_said(body)}")
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()

        async def send_all() -> list[str]:
            sends = [wrapper.asend_user_message_and_get_response(f"Message {n}") for n in range(20)]
            return await asyncio.gather(*sends)

        answers = asyncio.run(send_all())
        assert answers == [f"Answer to Message {n}" for n in range(20)]
        assert len(read_chat(wrapper)) == 41

    @on_postgresql
    def test_who_waits_too_long(
        self, endpoints: Endpoints, make_prompt: MakePrompt, site_settings: Any
    ):
        """A message that waited as long as the setting says is refused and not stored."""
        site_settings(LLM_WRAPPER_LOCK_SECONDS=0.2)
        self.check_conflict(endpoints, make_prompt, "LLM_WRAPPER_LOCK_SECONDS")

    @on_sqlite
    def test_where_nobody_can_wait(self, door: Door, endpoints: Endpoints, make_prompt: MakePrompt):
        """On SQLite who comes second is refused at once, and nothing is lost."""
        self.check_conflict(endpoints, make_prompt, "being answered at this moment", door)

    def check_conflict(
        self, endpoints: Endpoints, make_prompt: MakePrompt, said: str, door: Door | None = None
    ) -> None:
        door = door or Door("sync")
        asked, wait = threading.Event(), threading.Event()

        def hang(body: dict[str, Any]) -> str:
            asked.set()
            wait.wait(20)
            return f"Answer to {last_said(body)}"

        endpoints.add("main", hang)
        make_prompt(configs=("main",))
        wrapper = door.open()
        before: list[Any] = []

        def send_first() -> None:
            before.append(door.send(wrapper, "First"))
            connections.close_all()

        thread = threading.Thread(target=send_first)
        thread.start()
        assert asked.wait(20)
        with pytest.raises(ChatConflict, match=said):
            door.send(wrapper, "Second")
        wait.set()
        thread.join(20)
        assert before == ["Answer to First"]
        assert door.send(wrapper, "Second") == "Answer to Second"
        assert [text for _, text in outline(read_chat(wrapper))[1::2]] == ["First", "Second"]

    def test_what_others_add_meanwhile(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """A message that is added while another is answered is lost by nobody."""
        found: dict[str, Any] = {}

        def add_note(body: dict[str, Any]) -> str:
            repository = ChatHistoryRepository(found["wrapper"].chat_history_id)
            repository.add_msgs_to_chat_history([{"role": "user", "content": "A note."}])
            connections.close_all()
            return "Yes."

        endpoints.add("main", add_note)
        make_prompt(configs=("main",))
        found["wrapper"] = wrapper = Door("sync").open()
        Door("sync").send(wrapper, "Hello")
        assert outline(read_chat(wrapper))[1:] == [
            ("user", "Hello"),
            ("assistant", "Yes."),
            ("user", "A note."),
        ]

    def test_a_process_that_is_killed(
        self,
        database: Database,
        endpoints: Endpoints,
        make_prompt: MakePrompt,
        start_site_process: Any,
    ):
        """Killed between answer and commit, a chat is whole; sent again, the message is answered
        from the cache: nothing is bought twice."""
        server = endpoints.add("main", lambda body: "The only answer.")
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        code = f"""
        import os, signal
        from tinytroupe.contrib.django.stored_turns import StoredTurn
        from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper

        def die(self, message):
            os.kill(os.getpid(), signal.SIGKILL)

        StoredTurn.answer = die
        wrapper = LLMCommunicationWrapper(
            prompt_name="support", chat_history_id={wrapper.chat_history_id}
        )
        wrapper.send_user_message_and_get_response("Hello")
        """
        process = start_site_process(code)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, errors
        assert len(server.bodies) == 1
        messages = read_chat(wrapper)
        check_history(messages)
        assert (messages[-1]["content"], messages[-1]["status"]) == ("Hello", "pending")
        assert Door("sync").send(wrapper, "Hello") == "The only answer."
        assert len(server.bodies) == 1, "the answer was bought once"
        assert outline(read_chat(wrapper))[1:] == [
            ("user", "Hello"),
            ("assistant", "The only answer."),
        ]

    def test_a_killed_process_does_not_hold_the_chat(
        self, endpoints: Endpoints, make_prompt: MakePrompt, start_site_process: Any
    ):
        """While a process that was killed in a call is gone, others go on at once."""
        asked, wait = threading.Event(), threading.Event()

        def hang(body: dict[str, Any]) -> str:
            if last_said(body) == "First":
                asked.set()
                wait.wait(30)
            return "Yes."

        endpoints.add("main", hang)
        make_prompt(configs=("main",))
        wrapper = Door("sync").open()
        process = start_site_process(f"""
        from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper
        wrapper = LLMCommunicationWrapper(
            prompt_name="support", chat_history_id={wrapper.chat_history_id}
        )
        wrapper.send_user_message_and_get_response("First")
        """)
        assert asked.wait(60)
        process.kill()
        process.wait(20)
        assert Door("sync").send(wrapper, "Second") == "Yes."
        wait.set()
        assert [m.get("status") for m in read_chat(wrapper)[1:]] == ["pending", "answered", None]


class TestBadInput:
    def test_names_that_are_not_there(self, endpoints: Endpoints, make_prompt: MakePrompt):
        """An unknown prompt, chat or configuration is said, with what is near."""
        with pytest.raises(UnknownPrompt, match="none at all"):
            LLMCommunicationWrapper(prompt_name="suport")
        make_prompt()
        with pytest.raises(UnknownPrompt, match="nearest is 'support'"):
            LLMCommunicationWrapper(prompt_name="suport")
        for chat_id in (12345, "abc", 10**30):
            with pytest.raises(UnknownChat, match=str(chat_id)):
                Door("sync").open(chat_history_id=chat_id)
        assert Door("sync").open().chat_history_id == 1
        for chat_id in (True, 1.5, [1], ChatHistory.objects.get()):
            with pytest.raises(UnknownChat, match="the id of a chat is a number"):
                Door("sync").open(chat_history_id=chat_id)
        assert Door("sync").open(chat_history_id="1").chat_history_id == 1
        make_prompt("lost", configs=("rehersal",))
        with pytest.raises(UnknownConfig, match=r"rehersal.*rehearsal"):
            Door("sync").open(prompt_name="lost")

    def test_variables_that_are_no_dictionary(self, make_prompt: MakePrompt):
        """Variables in another shape are refused in words, and nothing is stored."""
        make_prompt()
        wrapper = Door("sync").open()
        attempts = [
            lambda: Door("sync").open(initializing_context_vars=["customer"]),
            lambda: Door("sync").send(wrapper, "Hello", ["customer"]),
            lambda: asyncio.run(wrapper.asend_user_message_and_get_response("Hello", "customer")),
            lambda: wrapper.get_one_time_completion(None),
        ]
        for attempt in attempts:
            with pytest.raises(BadRequest, match="variables are given as a dictionary"):
                attempt()
        assert outline(read_chat(wrapper)) == [("system", "You help Amina.")]
        assert ChatHistory.objects.count() == 1

    def test_a_template_written_past_the_checks(self, make_prompt: MakePrompt):
        """A row of a fixture is checked when it is used; the error names prompt and field."""
        row = make_prompt()
        for field, value in {
            "required_kwargs": "customer",
            "initial_messages_templates": {},
        }.items():
            PromptTemplate.objects.filter(pk=row.pk).update(**{field: value})
            with pytest.raises(BadRequest, match=f"'support': {field}: it must be a list"):
                Door("sync").open()
            PromptTemplate.objects.filter(pk=row.pk).update(**{field: []})
        PromptTemplate.objects.filter(pk=row.pk).update(system_prompt_template="{{ customer")
        with pytest.raises(TemplateError, match="'support': system_prompt_template, line 1"):
            Door("sync").open()
        assert ChatHistory.objects.count() == 0

    def test_a_chat_that_was_deleted(self, make_prompt: MakePrompt):
        """A message to a deleted chat begins no other one, whoever deleted it."""
        make_prompt()
        wrapper = Door("sync").open()
        chat_id = wrapper.chat_history_id
        wrapper.get_chat_history_object().delete()
        for attempt in (
            lambda: Door("sync").send(wrapper, "Hello"),
            wrapper.get_chat_history_object,
        ):
            with pytest.raises(UnknownChat, match=str(chat_id)):
                attempt()
        assert ChatHistory.objects.count() == 0

    def test_a_template_without_configs(self, make_prompt: MakePrompt):
        """A template that nobody can answer is said before anything is stored."""
        make_prompt(configs=())
        with pytest.raises(MissingConfigs, match="'support'"):
            Door("sync").open()
        assert ChatHistory.objects.count() == 0

    def test_tools_where_none_are_allowed(
        self, endpoints: Endpoints, make_prompt: MakePrompt, add: Tool
    ):
        """Tools are asked only of configurations that allow them; where none does, it is said."""
        endpoints.add("plain", echo, tools_enabled=False)
        make_prompt(configs=("plain",), tools=(add,))
        with pytest.raises(ToolsDisabled, match="tools_enabled"):
            Door("sync").open()
        make_prompt("mixed", configs=("plain", "rehearsal"), tools=(add,))
        names = {
            Door("sync").open(prompt_name="mixed", seed=seed).llm_config_name for seed in range(9)
        }
        assert names == {"rehearsal"}

    def test_a_history_edited_by_hand(self, make_prompt: MakePrompt):
        """A chat that is no conversation is said, with the message's id, and not touched."""
        make_prompt()
        wrapper = Door("sync").open()
        broken = [{"id": "m1", "role": "tool", "content": "7", "tool_call_id": "c"}]
        ChatHistory.objects.filter(pk=wrapper.chat_history_id).update(chat_history=broken)
        for attempt in (
            lambda: Door("sync").send(wrapper, "Hello"),
            lambda: Door("sync").open(chat_history_id=wrapper.chat_history_id),
        ):
            with pytest.raises(InvalidHistory, match="m1") as caught:
                attempt()
            assert caught.value.message_id == "m1"
        assert read_chat(wrapper) == broken

    def test_what_a_site_adds(self, make_prompt: MakePrompt):
        """A greeting may be added; what would make it no conversation may not."""
        make_prompt()
        repository = Door("sync").open().chat_history_repository
        ids = repository.add_msgs_to_chat_history([{"role": "assistant", "content": "Hi."}])
        assert repository.messages[-1]["id"] == ids[0]
        assert repository.get_msg_list_for_llm()[-1] == {"role": "assistant", "content": "Hi."}
        for wrong in ([{"role": "tool", "content": "7"}], ["Hi."], {"role": "assistant"}):
            with pytest.raises(InvalidHistory):
                repository.add_msgs_to_chat_history(wrong)
        assert repository.refresh().chat_history[-1]["id"] == ids[0]


class TestChoice:
    def test_a_seed_repeats_the_choice(
        self, endpoints: Endpoints, make_prompt: MakePrompt, site_settings: Any
    ):
        """One seed, one choice; over many seeds each configuration is chosen."""
        for name in ("a", "b", "c"):
            endpoints.add(name, echo)
        make_prompt(configs=("a", "b", "c"))
        door = Door("sync")
        chosen = [door.open(seed=seed, initialize=False).llm_config_name for seed in range(30)]
        again = [door.open(seed=seed, initialize=False).llm_config_name for seed in range(30)]
        assert chosen == again
        assert set(chosen) == {"a", "b", "c"}
        site_settings(LLM_WRAPPER_SEED=7)
        chat_id = door.open().chat_history_id
        assert len({door.open(chat_history_id=chat_id).llm_config_name for _ in range(9)}) == 1


def make_tool(function: str, **fields: Any) -> Tool:
    tool = Tool(name=function, tool_code=f"django_tools.{function}", **fields)
    fill_tool_spec(tool)
    tool.save()
    return tool


@pytest.fixture
def add(database: Database, site_settings: Any) -> Tool:
    """A tool that adds two numbers."""
    site_settings(LLM_WRAPPER_TOOL_MODULES=("django_tools",))
    return make_tool("add")


@pytest.fixture(autouse=True)
def _tools(site_settings: Any) -> None:
    site_settings(LLM_WRAPPER_TOOL_MODULES=("django_tools",))
