"""What holds of a chat whatever happens: it is a conversation, and nothing is bought twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from chat_server import call_tools
from django_chats import Endpoints, MakePrompt, read_chat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinytroupe.contrib.django.history import check_history, split_turns
from tinytroupe.contrib.django.models import Tool
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper
from tinytroupe.contrib.django.stored_turns import StoredTurn
from tinytroupe.contrib.django.tools import fill_tool_spec
from tinytroupe.llm.errors import LLMError

HOW = ("whole", "stream", "leave the stream", "die at the end", "die after a tool")


class Died(BaseException):
    """The process is gone: nothing is stored any more."""


class Moody:
    """An endpoint that fails, calls tools or answers as the digest of what it is asked says."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.bought: Counter[str] = Counter()

    def answer(self, body: dict[str, Any]) -> Any:
        key = json.dumps(body["messages"])
        mood = hashlib.sha256(key.encode()).digest()[0]
        self.asked[key] += 1
        if mood % 3 == 0 and self.asked[key] == 1:
            return 500
        self.bought[key] += 1
        if mood % 2 and body["messages"][-1]["role"] == "user":
            return call_tools(("add", {"a": 1, "b": mood}), ("divide", {}))
        return f"Answer {mood} to all of it."


def send(wrapper: LLMCommunicationWrapper, text: str, how: str) -> None:
    if how == "whole" or how.startswith("die"):
        wrapper.send_user_message_and_get_response(text)
        return
    for _ in wrapper.stream_user_message(text):
        if how == "leave the stream":
            break


def die(*_: Any) -> None:
    raise Died


def break_off(patch: pytest.MonkeyPatch, how: str) -> None:
    if how.startswith("die"):
        patch.setattr(StoredTurn, "answer" if how == "die at the end" else "add_round", die)
        patch.setattr(StoredTurn, "fail", die)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(HOW)), max_size=8))
def test_whatever_happens(
    endpoints: Endpoints,
    make_prompt: MakePrompt,
    adding: Tool,
    events: list[tuple[str, str]],
) -> None:
    """After any failures, deaths and streams left early a chat is a conversation with each message
    once, and no answer that arrived was bought again."""
    moody = Moody()
    endpoints.servers["main"].answer = moody.answer
    number = len(endpoints.servers["main"].bodies)
    wrapper = LLMCommunicationWrapper(
        prompt_name="support", initializing_context_vars={"customer": f"Nobody {number}"}
    )
    expected: list[str] = []
    for text, how in events:
        if not expected or is_answered(read_chat(wrapper)) or expected[-1] != text:
            expected.append(text)
        with pytest.MonkeyPatch.context() as patch, suppress(LLMError, Died):
            break_off(patch, how)
            send(wrapper, text, how)
        messages = read_chat(wrapper)
        check_history(messages)
        assert [m["content"] for m in messages if m["role"] == "user"] == expected
        calls = sum(len(m.get("tool_calls", ())) for m in messages)
        assert calls == sum(m["role"] == "tool" for m in messages)
    left = sum(how == "leave the stream" for _, how in events)
    # Who leaves a stream in the middle has not got the answer.
    assert sum(moody.bought.values()) - len(moody.bought) <= left


def is_answered(messages: list[dict[str, Any]]) -> bool:
    *_, last = split_turns(messages)
    return bool(last[0].get("status") == "answered")


@pytest.fixture
def adding(endpoints: Endpoints, make_prompt: MakePrompt, site_settings: Any) -> Tool:
    """A tool, and a prompt that has it, asked of an endpoint that the test replaces."""
    site_settings(LLM_WRAPPER_TOOL_MODULES=("django_tools",))
    tool = Tool(name="add", tool_code="django_tools.add")
    fill_tool_spec(tool)
    tool.save()
    endpoints.add("main", lambda body: 500)
    make_prompt(configs=("main",), tools=(tool,))
    return tool
