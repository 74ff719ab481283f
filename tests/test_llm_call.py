"""`LLMCall`: templates in, an answer out, from any client and in both colours."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from doors import FakeClient
from fakes import Script, chat_content

from tinytroupe import openai_utils
from tinytroupe.llm.errors import (
    MalformedResponse,
    TemplateError,
)
from tinytroupe.openai_utils import LLMCall
from tinytroupe.utils import compose_initial_LLM_messages_with_templates

pytest_plugins = ("door_fixtures",)
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(autouse=True)
def _prompts(folder: Path) -> None:
    (folder / "prompts").mkdir()
    (folder / "prompts" / "system.mustache").write_text("You are {{name}}.")
    (folder / "prompts" / "user.jinja").write_text("Say {{ word }}.")


def test_a_call_renders_sends_and_returns_the_content(fake):
    """`call` returns the text, and its attributes tell the rest."""
    call = LLMCall("system.mustache", "user.jinja", temperature=0.5, lane="lisa")
    assert call.messages == []
    assert (call.model_output, call.response) == (None, None)
    assert call.call(name="Lisa", word="hello") == "You said: Say hello."
    assert call.messages == [
        {"role": "system", "content": "You are Lisa."},
        {"role": "user", "content": "Say hello."},
    ]
    assert call.model_params == {"temperature": 0.5, "lane": "lisa"}
    assert call.model_output["content"] == "You said: Say hello."
    assert call.response.usage.total_tokens == 10
    assert fake.bodies[0]["temperature"] == 0.5
    assert asyncio.run(call.acall(name="Lisa", word="hello")) == "You said: Say hello."
    assert call.response.origin == "cache"


def test_the_user_template_is_optional(fake):
    """With one template there is one message."""
    assert LLMCall("system.mustache").call(name="Lisa") == "You said: You are Lisa."


def test_one_call_serves_many_threads(fake):
    """Each thread gets the answer to its own question, and attributes fit together."""
    call = LLMCall("user.jinja")

    def work(number: int) -> None:
        for turn in range(20):
            word = f"{number}-{turn}"
            assert call.call(word=word) == f"You said: Say {word}."
            exchange = call._latest
            assert exchange.message["content"] == f"You said: {exchange.messages[0]['content']}"

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, number) for number in range(8)]:
            future.result()


def test_a_repr_is_short(fake):
    """However long the prompts, the repr names the templates only."""
    call = LLMCall("system.mustache", "user.jinja", temperature=1)
    call.call(name="x" * 10_000, word="y")
    assert repr(call) == "LLMCall('system.mustache', 'user.jinja')"


def test_what_is_missing_is_named(fake):
    """A missing template or variable is a TemplateError, and nothing is sent."""
    with pytest.raises(TemplateError, match=r"sistem\.mustache"):
        LLMCall("sistem.mustache").call()
    with pytest.raises(TemplateError, match="name"):
        LLMCall("system.mustache").call(nome="Lisa")
    with pytest.raises(TemplateError, match="word"):
        asyncio.run(LLMCall("user.jinja").acall(wort="x"))
    assert fake.bodies == []


def test_tool_calls_and_refusals_have_a_text():
    """Tool calls alone are an empty text; a refusal is what the model said."""
    tool = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    client = FakeClient(
        Script(
            chat_content(None, "tool_calls", tool_calls=[tool]),
            chat_content(None, refusal="I would rather not."),
        )
    )
    openai_utils.register_client("fake", client)
    openai_utils.force_api_type("fake")
    call = LLMCall("user.jinja")
    assert call.call(word="a") == ""
    assert call.call(word="b") == "I would rather not."


def test_a_foreign_client_makes_the_call():
    """A registered client that is not ours gets messages and parameters, in both colours."""

    class Foreign:
        def __init__(self) -> None:
            self.answer: Any = {"role": "assistant", "content": "foreign"}

        def send_message(self, messages: Any, **parameters: Any) -> Any:
            assert messages[0]["content"] == "Say x."
            assert parameters == {"temperature": 0}
            return self.answer

    foreign = Foreign()
    openai_utils.register_client("foreign", foreign)
    openai_utils.force_api_type("foreign")
    call = LLMCall("user.jinja", temperature=0)
    assert call.call(word="x") == "foreign"
    assert asyncio.run(call.acall(word="x")) == "foreign"
    assert call.response is None
    foreign.answer = None
    with pytest.raises(MalformedResponse, match="returned None in place of a message"):
        call.call(word="x")
    openai_utils.force_default_value("on_failure", "none")
    assert call.call(word="x") is None


def test_a_foreign_client_may_be_asynchronous_itself():
    """Where a registered client has `asend_message`, `acall` awaits it."""

    class Foreign:
        def send_message(self, messages: Any) -> None: ...

        async def asend_message(self, messages: Any) -> dict[str, str]:
            return {"role": "assistant", "content": "awaited"}

    openai_utils.register_client("foreign", Foreign())
    openai_utils.force_api_type("foreign")
    assert asyncio.run(LLMCall("user.jinja").acall(word="x")) == "awaited"


def test_first_messages_are_composed():
    """TinyTroupe's function gives system and user message from the same folders."""
    compose = compose_initial_LLM_messages_with_templates
    values = {"name": "Lisa", "word": "hello"}
    assert compose("system.mustache", "user.jinja", values) == [
        {"role": "system", "content": "You are Lisa."},
        {"role": "user", "content": "Say hello."},
    ]
    assert compose("system.mustache", rendering_configs=values) == [
        {"role": "system", "content": "You are Lisa."}
    ]


def test_the_current_folder_is_the_one_of_now(fake, tmp_path_factory, monkeypatch):
    """Prompts are looked for where the program is, not where it was."""
    other = tmp_path_factory.mktemp("other")
    (other / "prompts").mkdir()
    (other / "prompts" / "user.jinja").write_text("Sing {{ word }}.")
    call = LLMCall("user.jinja")
    assert call.call(word="a") == "You said: Say a."
    monkeypatch.chdir(other)
    assert call.call(word="a") == "You said: Sing a."
