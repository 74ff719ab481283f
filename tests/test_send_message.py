"""What `send_message` sends, what it returns, and what it refuses."""

from __future__ import annotations

import asyncio
import copy
import logging
from pathlib import Path
from typing import Any

import pytest
from doors import HELLO, FakeClient, configure
from fakes import Script, chat_content

from tinytroupe import openai_utils
from tinytroupe.llm.errors import (
    AuthenticationFailed,
    BadRequest,
    ConfigError,
    ContentFiltered,
    ServerFault,
    TemplateError,
)
from tinytroupe.openai_utils import LLMCall

pytest_plugins = ("door_fixtures",)
pytestmark = pytest.mark.usefixtures("folder")


def test_the_answer_is_a_message(fake):
    """`send_message` returns a dictionary with at least role and content."""
    message = fake.send_message(HELLO)
    assert message["role"] == "assistant"
    assert message["content"] == "You said: Hello"


def test_the_callers_messages_stay_as_they_are(fake):
    """Neither list nor dictionaries are changed, also when texts are dedented."""
    messages = [
        {"role": "system", "content": "\n    Be brief.\n      Be kind.\n"},
        {"role": "user", "content": [{"type": "text", "text": "  Hello\n  you"}]},
    ]
    before = copy.deepcopy(messages)
    fake.send_message(messages)
    assert messages == before
    assert fake.bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief.\n  Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hello\nyou"}]},
    ]


def test_texts_can_be_sent_as_they_are(fake):
    """With `dedent_messages=False` not a space is lost."""
    fake.send_message([{"role": "user", "content": "  a\n  b\n"}], dedent_messages=False)
    assert fake.bodies[0]["messages"][0]["content"] == "  a\n  b\n"


def test_a_returned_message_is_the_callers(fake):
    """Changing an answer does not change what the next caller gets."""
    fake.send_message(HELLO)["content"] = "spoilt"
    assert fake.send_message(HELLO)["content"] == "You said: Hello"


def test_arguments_win_over_settings(fake):
    """What is given goes into the request, what is not is as the settings say."""
    configure(TEMPERATURE="0.25", MAX_TOKENS="77", TOP_P="0.5", FREQ_PENALTY="0.1")
    fake.send_message(HELLO, model="m", temperature=1, presence_penalty=-1, stop=["x"], n=2)
    assert fake.bodies[0] == {
        "model": "m",
        "messages": HELLO,
        "temperature": 1.0,
        "max_tokens": 77,
        "top_p": 0.5,
        "frequency_penalty": 0.1,
        "presence_penalty": -1.0,
        "stop": ["x"],
        "n": 2,
    }


def test_the_order_of_arguments_is_tinytroupes(fake):
    """Sixteen positional arguments mean what they mean in TinyTroupe."""
    values = ("m", 0.5, 9, 0.9, 0.1, 0.2, ["s"], 8, 2, 0, 3, 1, False)
    fake.send_message(HELLO, *values, {"type": "json_object"}, False)
    options = fake.transport.attempts[0].call.options
    assert (options.timeout_seconds, options.retry.max_attempts, options.retry.factor) == (
        8.0,
        2,
        3.0,
    )
    assert fake.bodies[0]["response_format"] == {"type": "json_object"}
    assert fake.bodies[0]["stop"] == ["s"]


def test_what_says_nothing_is_not_sent(fake):
    """Empty settings, `n=1` and TinyTroupe's `stop=[]` are no part of the request."""
    configure(TEMPERATURE="", MAX_TOKENS="")
    fake.send_message(HELLO, stop=[], n=1, echo=True)
    assert fake.bodies[0] == {"model": "gpt-4o-mini", "messages": HELLO}


def test_other_parameters_go_into_the_request(fake):
    """`seed`, `tools` and what the API will know tomorrow are sent as they are."""
    fake.send_message(HELLO, seed=7, reasoning_effort="low", max_completion_tokens=5)
    assert fake.bodies[0]["seed"] == 7
    assert fake.bodies[0]["reasoning_effort"] == "low"
    assert fake.bodies[0]["max_completion_tokens"] == 5
    assert "max_tokens" not in fake.bodies[0]


def test_options_do_not_go_into_the_request(fake):
    """Lane, purpose, sample, cache mode and deadline say how the call is made."""
    fake.send_message(HELLO, lane="lisa", purpose="plan", sample=2, cache="refresh", deadline=30)
    call = fake.transport.attempts[0].call
    assert set(fake.bodies[0]) == {"model", "messages", "temperature", "max_tokens"}
    assert (call.options.lane, call.options.purpose, call.options.sample) == ("lisa", "plan", 2)
    assert (call.options.cache, call.options.deadline_seconds) == ("refresh", 30.0)
    assert fake.meter.summarize(by="lane")["lisa"].calls == 1


def test_the_whole_response_is_to_be_had(fake):
    """`send` returns usage, origin and attempts."""
    assert fake.send(HELLO).origin == "live"
    response = fake.send(HELLO)
    assert (response.origin, response.usage.total_tokens, response.attempts) == ("cache", 10, 0)


def test_async_is_the_same(fake):
    """`asend_message` and `asend` share the cache with `send_message`."""
    fake.send_message(HELLO)

    async def both() -> tuple[Any, Any]:
        return await fake.asend_message(HELLO), await fake.asend(HELLO)

    message, response = asyncio.run(both())
    assert message["content"] == "You said: Hello"
    assert response.origin == "cache"
    assert len(fake.bodies) == 1


def test_an_embedding_is_a_list_of_numbers_and_cached(fake):
    """`get_embedding` asks EMBEDDING_MODEL once for each text."""
    assert fake.get_embedding("four") == [4.0, 1.0]
    assert fake.get_embedding("four") == [4.0, 1.0]
    assert fake.get_embedding("four", model="other", dimensions=2) == [4.0, 1.0]
    assert [body["model"] for body in fake.bodies] == ["text-embedding-3-small", "other"]
    assert fake.bodies[1]["dimensions"] == 2


def test_tool_calls_come_without_content():
    """An answer that is only tool calls is an answer."""
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    client = FakeClient(Script(chat_content(None, "tool_calls", tool_calls=calls)))
    message = client.send_message(HELLO)
    assert (message["content"], message["tool_calls"]) == (None, calls)


def test_a_withheld_answer_is_an_error():
    """A content filter that withholds everything raises; what it let through is returned."""
    client = FakeClient(
        Script(chat_content(None, "content_filter"), chat_content("Half", "content_filter"))
    )
    with pytest.raises(ContentFiltered, match="withheld the answer"):
        client.send_message(HELLO)
    assert client.send_message(HELLO)["content"] == "Half"


def test_tokens_are_counted(fake):
    """`_count_tokens` counts the messages as the model frames them."""
    assert fake._count_tokens(HELLO, "gpt-4o") == 8


def test_saving_and_loading_the_cache_cost_nothing(fake, folder):
    """TinyTroupe's methods are there; every answer is on disk without them."""
    assert fake._save_cache() is None
    assert fake._load_cache() == {}
    assert not (folder / "tinytroupe_cache").exists()


def test_a_class_becomes_a_strict_schema(fake):
    """A pydantic class is sent as OpenAI asks: closed objects, all fields required."""
    from pydantic import BaseModel, Field

    class Mood(BaseModel):
        name: str

    class Opinion(BaseModel):
        """What somebody thinks."""

        text: str
        score: int = 3
        moods: list[Mood] = Field(default_factory=list)
        first: Mood = Field(description="the first one")

    fake.send_message(HELLO, response_format=Opinion)
    sent = fake.bodies[0]["response_format"]
    assert sent["type"] == "json_schema"
    assert (sent["json_schema"]["name"], sent["json_schema"]["strict"]) == ("Opinion", True)
    schema = sent["json_schema"]["schema"]
    assert schema["required"] == ["text", "score", "moods", "first"]
    assert schema["additionalProperties"] is False
    assert "default" not in schema["properties"]["score"]
    assert schema["$defs"]["Mood"]["additionalProperties"] is False
    assert schema["properties"]["moods"]["items"] == {"$ref": "#/$defs/Mood"}
    # A reference may have no neighbours, so a described one is written out.
    assert schema["properties"]["first"]["description"] == "the first one"
    assert schema["properties"]["first"]["required"] == ["name"]
    assert "$ref" not in schema["properties"]["first"]


def test_a_recursive_class_stays_finite(fake):
    """A class that holds itself is described once."""
    from pydantic import BaseModel, Field

    class Node(BaseModel):
        name: str
        children: list[Node] = Field(description="below")

    Node.model_rebuild(_types_namespace={"Node": Node})
    fake.send_message(HELLO, response_format=Node)
    schema = fake.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["$defs"]["Node"]["required"] == ["name", "children"]


def test_open_fields_cannot_be_strict(fake):
    """A schema with fields of any name is sent as it is, not strictly: the API refuses that."""
    from pydantic import BaseModel

    class Ratings(BaseModel):
        by_name: dict[str, int]

    fake.send_message(HELLO, response_format=Ratings)
    sent = fake.bodies[0]["response_format"]["json_schema"]
    assert sent["strict"] is False
    assert sent["schema"] == Ratings.model_json_schema()


def test_a_name_is_made_fit(fake):
    """The name of a generic class loses what the API does not take."""
    from typing import Generic, TypeVar

    from pydantic import BaseModel

    T = TypeVar("T")

    class Box(BaseModel, Generic[T]):
        value: T

    fake.send_message(HELLO, response_format=Box[int])
    assert fake.bodies[0]["response_format"]["json_schema"]["name"] == "Box_int_"


def test_a_class_without_a_schema_is_refused(fake):
    """What JSON cannot describe is a BadRequest that names the class."""
    from collections.abc import Callable

    from pydantic import BaseModel

    class Odd(BaseModel):
        call: Callable[[], int]

    with pytest.raises(BadRequest, match="response_format Odd has no JSON schema"):
        fake.send_message(HELLO, response_format=Odd)


@pytest.mark.parametrize("wrong", [int, "json", 3])
def test_anything_else_is_refused(fake, wrong):
    """A response format is a dictionary or a class that knows its schema."""
    with pytest.raises(BadRequest, match="must be a pydantic class"):
        fake.send_message(HELLO, response_format=wrong)


def test_failures_raise():
    """By default the typed error leaves, with its attempts."""
    configure(MAX_ATTEMPTS="2", WAITING_TIME="0")
    client = FakeClient(Script(ServerFault("down", status=500), ServerFault("still")))
    with pytest.raises(ServerFault) as caught:
        client.send_message(HELLO)
    assert caught.value.attempts == 2


def test_failures_can_be_none(caplog):
    """With ON_FAILURE=none every door logs the error and returns None, as TinyTroupe did."""
    configure(ON_FAILURE="none", MAX_ATTEMPTS="1")
    Path("prompts").mkdir()
    Path("prompts/s.mustache").write_text("Hi")
    failures = [AuthenticationFailed("wrong key", status=401) for _ in range(5)]
    client = FakeClient(Script(*failures))
    openai_utils.register_client("fake", client)
    openai_utils.force_api_type("fake")
    call = LLMCall("s.mustache")
    assert client.send_message(HELLO) is None
    assert asyncio.run(client.asend_message(HELLO)) is None
    assert client.get_embedding("x") is None
    assert call.call() is None
    assert call.messages == [{"role": "system", "content": "Hi"}]
    assert call.model_output is None
    assert asyncio.run(call.acall()) is None
    said = [r for r in caplog.records if r.levelno == logging.ERROR and r.name == "tinytroupe"]
    assert len(said) == 5
    assert "AuthenticationFailed: wrong key" in said[0].message
    with pytest.raises(TemplateError):
        LLMCall("missing.mustache").call()


def test_send_raises_whatever_the_setting():
    """`send` has no None to give."""
    configure(ON_FAILURE="none")
    client = FakeClient(Script(AuthenticationFailed("wrong key", status=401)))
    with pytest.raises(AuthenticationFailed):
        client.send(HELLO)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "the list of messages is empty"),
        ("Hello", "must be a list of role and content, not a str"),
        ({"role": "user"}, "must be a list of role and content, not a dict"),
        (None, "must be a list of role and content, not a NoneType"),
        ([{"content": "x"}], "message 0 has no role"),
        ([{"role": "user", "content": "x"}, "y"], "message 1 is of type str"),
        ([{"role": "agent", "content": "x"}], "unknown role 'agent'"),
        ([{"role": "user"}], "neither content nor tool calls"),
        ([{"role": "user", "content": 3}], "of type int"),
        ([{"role": "user", "content": [{"type": "x", "y": {1}}]}], "of type set"),
        ([{"role": "user", "content": "\ud800"}], "unpaired surrogate"),
    ],
)
def test_messages_that_are_none_are_refused(fake, messages, said):
    """What is no conversation is a BadRequest that says which message; nothing is sent."""
    with pytest.raises(BadRequest, match=said):
        fake.send_message(messages)
    assert fake.bodies == []


@pytest.mark.parametrize(
    ("arguments", "cls", "said"),
    [
        ({"temperature": float("nan")}, BadRequest, "temperature is nan"),
        ({"seed": object()}, BadRequest, "seed is of type object"),
        ({"model": ""}, BadRequest, "a model is named by a text"),
        ({"model": 3}, BadRequest, "a model is named by a text"),
        ({"timeout": "soon"}, ConfigError, "argument timeout: TIMEOUT is 'soon'"),
        ({"timeout": 0}, ConfigError, "out of range"),
        ({"max_attempts": 0}, ConfigError, "argument max_attempts"),
        ({"waiting_time": -1}, ConfigError, "argument waiting_time"),
        ({"cache": "maybe"}, ConfigError, "argument cache"),
        ({"sample": "x"}, BadRequest, "sample is 'x'"),
        ({"sample": -1}, BadRequest, "sample is -1"),
        ({"lane": 3}, BadRequest, "lane is of type int"),
        ({"messages": HELLO}, BadRequest, "messages is not an argument"),
        ({"stream": True}, BadRequest, "stream cannot be given"),
    ],
)
def test_arguments_that_cannot_be_sent_are_refused(fake, arguments, cls, said):
    """A wrong argument is a typed error that names it; nothing is sent."""
    with pytest.raises(cls, match=said):
        fake.send_message(HELLO, **arguments)
    assert fake.bodies == []


@pytest.mark.parametrize("text", ["a\0b", "x" * 10_000_000, "\n  y" * 1_000_000])
def test_odd_and_huge_texts_arrive_whole(fake, text):
    """A NUL and ten megabytes are sent, kept and found again."""
    first = fake.send([{"role": "user", "content": text}], dedent_messages=False)
    assert first.text == f"You said: {text}"
    assert fake.send([{"role": "user", "content": text}], dedent_messages=False).text == (
        first.text
    )
    assert len(fake.bodies) == 1
