"""The laws of the rehearsal: the pure engine, and the transport in process."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal

import pytest
from fakes import VirtualRuntime
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from tinytroupe.llm.errors import (
    BadRequest,
    ConfigError,
    ConnectionFailed,
    ContentFiltered,
    LLMError,
    MalformedResponse,
    ModelNotFound,
    QuotaExhausted,
    RateLimited,
    ServerFault,
    TimedOut,
)
from tinytroupe.llm.request import (
    Attempt,
    Call,
    CallOptions,
    Request,
    chat_request,
    completion_request,
    embedding_request,
)
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.tokens import count_messages, count_text
from tinytroupe.llm.transports.rehearsal import Fault, Rehearsal, RehearsalTransport
from tinytroupe.llm.transports.rehearsal.answers import answer
from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.faults import KINDS, FaultPlan, parse_fault
from tinytroupe.llm.transports.rehearsal.hearing import listen
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.schemas import write_value
from tinytroupe.llm.transports.rehearsal.streams import DONE, split_stream

MODEL = "gpt-4o-mini"
PERSONA = (
    "You are Lisa Carter, 28 years old.\n"
    "Your work: data scientist at a search engine\n"
    "What you hold to:\n- measure before you believe\n- nobody eats alone\n"
)
QUESTION = "A courier brings the folding bicycle. The folding bicycle has a warranty. What now?"


def attempt(
    request: Request, *, number: int = 1, timeout: float = 60.0, sample: int = 0
) -> Attempt:
    return Attempt(Call(request, CallOptions(sample=sample)), number, timeout)


def rehearse(request: Request, rehearsal: Rehearsal | None = None, **options: Any) -> Response:
    return RehearsalTransport(rehearsal).send(attempt(request, **options))


def ask(*texts: str, **parameters: Any) -> Request:
    roles = ["system", "user"] if len(texts) == 2 else ["user"]
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    return chat_request(MODEL, messages, **parameters)


def under(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "shape", "schema": schema}}


def value_under(schema: Any, sample: int = 0, prompt: str = QUESTION) -> Any:
    return json.loads(rehearse(ask(prompt, response_format=under(schema)), sample=sample).text)


@given(st.text(min_size=1, max_size=200), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_the_same_request_gets_the_same_answer(text: str, sample: int) -> None:
    """Equal requests and samples give equal bytes, whatever the text holds."""
    first = rehearse(ask(text), sample=sample)
    assert rehearse(ask(text), sample=sample).content == first.content
    assert first.text


@pytest.mark.parametrize("prompt", [QUESTION, "Hm?", "\x00", "🚲" * 3])
def test_another_sample_gets_another_answer(prompt: str) -> None:
    """The first ten samples of a request all differ."""
    texts = [rehearse(ask(prompt), sample=sample).text for sample in range(10)]
    assert len(set(texts)) == 10


def test_another_draw_gets_another_answer() -> None:
    """The independent draws of a run differ, each with samples of its own."""
    transport = RehearsalTransport()
    calls = [
        Call(ask(PERSONA, QUESTION), CallOptions(sample=sample), draw=draw)
        for draw in ("", "a", "b")
        for sample in range(3)
    ]
    assert len({transport.send(Attempt(call, 1, 60.0)).text for call in calls}) == 9


def test_another_seed_gets_another_answer() -> None:
    """A rehearsal with another seed answers otherwise."""
    seeds = (Rehearsal(seed=0), Rehearsal(seed=1))
    first, second = (rehearse(ask(PERSONA, QUESTION), seed).text for seed in seeds)
    assert first != second


def test_the_attempt_does_not_change_the_answer() -> None:
    """A retry gets what the first attempt would have got."""
    first, second = (rehearse(ask(QUESTION), number=number) for number in (1, 2))
    assert first.content == second.content
    assert (first.attempts, second.attempts) == (1, 2)


def test_both_colours_answer_alike() -> None:
    """`asend` returns what `send` returns."""
    transport = RehearsalTransport()
    request = attempt(ask(PERSONA, QUESTION))
    assert asyncio.run(transport.asend(request)).content == transport.send(request).content


def test_how_an_answer_travels_does_not_change_it() -> None:
    """A streamed answer says what the answer in one piece says."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    whole = answer("chat", body)
    assert answer("chat", {**body, "stream": True}) == whole


def test_a_rehearsed_answer_talks_about_the_subject_as_the_persona() -> None:
    """The answer picks up words from the question and from the persona."""
    texts = [rehearse(ask(PERSONA, QUESTION), sample=sample).text for sample in range(20)]
    assert all(re.search("folding bicycle|courier|warranty", text) for text in texts)
    assert any("data scientist at a search engine" in text for text in texts)
    assert any("measure before you believe" in text for text in texts)
    assert all(text[0].isupper() and text[-1] in ".?!" for text in texts)


def test_a_rehearsed_answer_refers_to_what_others_said() -> None:
    """In a discussion, the others are named, and the speaker is not taken for another."""
    heard = (
        "\n[round 1] Oscar Klein: I like the folding bicycle.\n"
        "[round 1] Lisa Carter (you): I do not know about the courier.\n"
        "[round 1] Mina Roth: I fear the rain.\n"
    )
    texts = [rehearse(ask(PERSONA, QUESTION + heard), sample=sample).text for sample in range(20)]
    assert all("Oscar" in text or "Mina" in text for text in texts)
    assert not any("Lisa" in text for text in texts)


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [("in 60 to 120 words", 50, 120), ("in at most 12 words", 1, 12), ("in one sentence", 1, 12)],
)
def test_an_asked_length_is_kept(asked: str, low: int, high: int) -> None:
    """An answer has about as many words as the prompt asks for, and never more."""
    for sample in range(10):
        words = rehearse(ask(PERSONA, f"{QUESTION} Answer {asked}."), sample=sample).text.split()
        assert low <= len(words) <= high


def test_a_question_for_a_number_or_yes_or_no_is_answered_shortly() -> None:
    """A scale gives a number on it; yes or no gives one of the two."""
    rating = ask("Rate it from 1 to 5. Answer with the number only.")
    assert {rehearse(rating, sample=n).text for n in range(10)} == set("12345")
    decision = ask("Would you buy it? Answer yes or no.")
    assert {rehearse(decision, sample=n).text for n in range(4)} == {"Yes.", "No."}


@given(st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_an_answer_is_cut_at_its_maximum_of_tokens(most: int) -> None:
    """An answer is at most max_tokens of the whole one, and says so when it was cut."""
    whole = rehearse(ask(PERSONA, QUESTION))
    for name in ("max_tokens", "max_completion_tokens"):
        part = rehearse(ask(PERSONA, QUESTION, **{name: most}))
        assert whole.text.startswith(part.text)
        assert part.truncated == (part.text != whole.text)
        assert part.usage is not None
        assert part.usage.output_tokens == count_text(part.text, MODEL).tokens <= most


def test_a_stop_text_ends_an_answer() -> None:
    """An answer ends before the first stop text, which it does not contain."""
    whole = rehearse(ask(QUESTION)).text
    stopped = rehearse(ask(QUESTION, stop=["nowhere to be found", "."]))
    assert stopped.text == whole[: whole.index(".")]
    assert stopped.finish_reason == "stop"
    assert rehearse(ask(QUESTION, stop=" ")).text == whole.split(" ")[0]


def test_n_choices_differ() -> None:
    """`n` gives so many choices, numbered and different."""
    choices = rehearse(ask(PERSONA, QUESTION, n=5)).raw["choices"]
    assert [choice["index"] for choice in choices] == list(range(5))
    assert len({choice["message"]["content"] for choice in choices}) == 5


def test_usage_counts_the_true_tokens() -> None:
    """Usage is what the package's own rules count, tools included."""
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    messages = [{"role": "system", "content": PERSONA}, {"role": "user", "content": "Hello."}]
    for extra in ({}, {"tools": tools}):
        usage = rehearse(chat_request(MODEL, messages, **extra)).usage
        assert usage is not None
        assert usage.input_tokens == count_messages(messages, MODEL, **extra).tokens
    response = rehearse(chat_request(MODEL, messages))
    assert response.usage is not None
    assert response.usage.output_tokens == count_text(response.text, MODEL).tokens


def test_a_huge_prompt_is_answered() -> None:
    """A prompt of a million characters is answered by a few sentences about it."""
    response = rehearse(ask("The folding bicycle is here. " * 40_000))
    assert "folding bicycle" in response.text
    assert response.usage is not None
    assert response.usage.input_tokens > 100_000


def test_content_parts_are_read() -> None:
    """The text parts of a message are heard; images are passed over."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": QUESTION}, image]
    response = rehearse(chat_request(MODEL, [{"role": "user", "content": parts}]))
    assert re.search("folding bicycle|courier|warranty", response.text)


def test_json_takes_the_keys_that_the_prompt_shows() -> None:
    """`json_object` gives an object shaped like the example in the prompt."""
    prompt = 'Return JSON like {"mood": "calm", "score": 3, "tags": ["a"], "sure": true, "x": 1.5}'
    value = json.loads(rehearse(ask(prompt, response_format={"type": "json_object"})).text)
    assert {key: type(item) for key, item in value.items()} == {
        "mood": str,
        "score": int,
        "tags": list,
        "sure": bool,
        "x": float,
    }


@pytest.mark.parametrize(
    ("prompt", "keys"),
    [
        ("Give your verdict as JSON with the fields `score` and `reason`.", {"score", "reason"}),
        ('Answer in JSON: {"plan": <text>, "steps": [<text>]}', {"plan", "steps"}),
        ("Answer in JSON.", {"answer", "reason"}),
    ],
)
def test_json_takes_the_keys_that_the_prompt_names(prompt: str, keys: set[str]) -> None:
    """`json_object` gives the keys that are named, or answer and reason."""
    value = json.loads(rehearse(ask(prompt, response_format={"type": "json_object"})).text)
    assert set(value) == keys


def test_json_without_the_word_is_refused() -> None:
    """`json_object` needs the word JSON in a message, as OpenAI's server does."""
    with pytest.raises(BadRequest, match="json"):
        rehearse(ask(QUESTION, response_format={"type": "json_object"}))


class Mood(str, Enum):
    calm = "calm"
    cross = "cross"


class Address(BaseModel):
    street: str = Field(min_length=5, max_length=30)
    code: str = Field(pattern=r"^[A-Z]{2}\d{1,2} \d[A-Z]{2}$")


class Person(BaseModel):
    name: str
    age: int = Field(ge=18, le=99)
    weight: float = Field(gt=40, lt=150)
    step: float = Field(ge=0, le=1, multiple_of=0.05)
    mood: Mood
    kind: Literal["a", "b"]
    born: date
    seen: datetime
    home: Address | None
    nicknames: list[str] = Field(min_length=1, max_length=3)
    scores: dict[str, int]
    pair: tuple[int, str]
    friends: list[Person] = Field(max_length=2)


class Node(BaseModel):
    value: int
    left: Node | None
    right: Node | None


class Cat(BaseModel):
    species: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    species: Literal["dog"]
    tricks: set[Literal["sit", "roll", "beg"]]


class Home(BaseModel):
    pets: list[Cat | Dog] = Field(min_length=2)


@pytest.mark.parametrize("model", [Person, Node, Home, Address])
def test_a_value_under_a_model_validates(model: type[BaseModel]) -> None:
    """What is written under a pydantic model's schema is an instance of the model."""
    for sample in range(15):
        response = rehearse(ask(QUESTION, response_format=under(model.model_json_schema())))
        model.model_validate_json(response.text, strict=False)
        model.model_validate(value_under(model.model_json_schema(), sample))


Checked = tuple[Any, Callable[[Any], bool]]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@st.composite
def integers_within(draw: st.DrawFn) -> Checked:
    low = draw(st.integers(-1000, 1000))
    high = low + draw(st.integers(7, 500))
    step = draw(st.sampled_from([1, 2, 7]))
    schema = {"type": "integer", "minimum": low, "maximum": high, "multipleOf": step}
    return schema, lambda v: _is_int(v) and low <= v <= high and v % step == 0


@st.composite
def texts_within(draw: st.DrawFn) -> Checked:
    low = draw(st.integers(0, 60))
    high = low + draw(st.integers(0, 60))
    schema = {"type": "string", "minLength": low, "maxLength": high}
    return schema, lambda v: isinstance(v, str) and low <= len(v) <= high


@st.composite
def choices(draw: st.DrawFn) -> Checked:
    items = draw(st.lists(st.integers() | st.text() | st.none() | st.booleans(), min_size=1))
    return {"enum": items}, lambda v: any(type(v) is type(i) and v == i for i in items)


@st.composite
def lists_of(draw: st.DrawFn, items: st.SearchStrategy[Checked]) -> Checked:
    schema, check = draw(items)
    low = draw(st.integers(0, 3))
    high = low + draw(st.integers(0, 3))
    whole = {"type": "array", "items": schema, "minItems": low, "maxItems": high}
    return whole, lambda v: isinstance(v, list) and low <= len(v) <= high and all(map(check, v))


@st.composite
def objects_of(draw: st.DrawFn, items: st.SearchStrategy[Checked]) -> Checked:
    parts = draw(st.dictionaries(st.text(max_size=8), items, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(parts)), unique=True)) if parts else []
    whole = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in parts.items()},
        "required": required,
        "additionalProperties": False,
    }

    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and set(required) <= set(value) <= set(parts)
            and all(parts[name][1](item) for name, item in value.items())
        )

    return whole, check


@st.composite
def combined(draw: st.DrawFn, items: st.SearchStrategy[Checked]) -> Checked:
    parts = draw(st.lists(items, min_size=1, max_size=3))
    schemas = [schema for schema, _ in parts]
    return {"anyOf": schemas}, lambda v: any(check(v) for _, check in parts)


SCHEMAS = st.recursive(
    integers_within() | texts_within() | choices(),
    lambda items: lists_of(items) | objects_of(items) | combined(items),
    max_leaves=8,
)


@given(SCHEMAS, st.integers())
@settings(max_examples=200, deadline=None)
def test_a_value_is_valid_under_its_schema(checked: Checked, seed: int) -> None:
    """Whatever the schema, the value fulfils what each of its keywords asks for."""
    schema, check = checked
    heard = listen([{"role": "user", "content": QUESTION}])
    value = write_value(schema, heard, Draws(seed))
    assert check(json.loads(json.dumps(value)))


PATTERNS = [
    r"^\d{3}-\d{4}$",
    r"^[A-Z][a-z]+$",
    r"^(red|green|blue)$",
    r"^\+?[1-9]\d{1,14}$",
    r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
    r"ab*c?",
    r"^#(?:[0-9a-fA-F]{3}){1,2}$",
    r"^(?<year>\d{4})-(0[1-9]|1[0-2])$",
    r"^\w+(\s\w+)*$",
    r"^\x41\u0042[\-\]]\/$",
    r"",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_matches_its_pattern(pattern: str) -> None:
    """A string with a pattern matches it."""
    python = pattern.replace("(?<year>", "(?P<year>")
    for sample in range(10):
        assert re.search(python, value_under({"type": "string", "pattern": pattern}, sample))


def test_a_pattern_and_a_length_hold_together() -> None:
    """A string with a pattern and a length fulfils both."""
    schema = {"type": "string", "pattern": "^[ab]*$", "minLength": 30, "maxLength": 40}
    assert re.fullmatch("[ab]{30,40}", value_under(schema))


FORMATS = {
    "date": date.fromisoformat,
    "date-time": lambda text: datetime.fromisoformat(text.replace("Z", "+00:00")),
    "uuid": lambda text: re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab].*", text),
    "email": lambda text: re.fullmatch(r"[\w.]+@[\w.]+", text),
    "ipv4": lambda text: re.fullmatch(r"(\d{1,3}\.){3}\d{1,3}", text),
    "uri": lambda text: re.fullmatch(r"https://\S+", text),
    "time": lambda text: re.fullmatch(r"\d\d:\d\d:\d\dZ", text),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_has_its_format(name: str) -> None:
    """A string with a known format has it."""
    for sample in range(5):
        assert FORMATS[name](value_under({"type": "string", "format": name}, sample))


COMBINATIONS = [
    {"allOf": [{"minimum": 3}, {"maximum": 4}], "type": "integer"},
    {"allOf": [{"type": "number"}, {"type": "integer"}, {"enum": [1, 2.5, "x"]}]},
    {"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 5}]},
    {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": {"deep": [1, None]}}}},
    {"type": ["string", "null"], "maxLength": 2},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"const": 1}, {"const": "b"}], "items": False, "minItems": 2},
    {"type": "object", "minProperties": 2, "additionalProperties": {"type": "integer"}},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6},
    {"type": "integer", "multipleOf": 0.5, "minimum": 7, "maximum": 7},
    {"properties": {"a": {"type": "integer"}}, "required": ["a", "b"]},
    {"allOf": [{"multipleOf": 4}, {"multipleOf": 6}], "type": "integer", "minimum": 1},
    {"type": "string", "minLength": 3000},
    True,
]


@pytest.mark.parametrize("schema", COMBINATIONS, ids=str)
def test_combined_keywords_hold_together(schema: Any) -> None:
    """Keywords that meet in one place are fulfilled together; checked by hand below."""
    for sample in range(8):
        wrapped = {"type": "object", "properties": {"it": schema}, "required": ["it"]}
        if isinstance(schema, dict) and "$defs" in schema:
            wrapped["$defs"] = schema["$defs"]
        value = value_under(wrapped, sample)["it"]
        assert _BY_HAND[COMBINATIONS.index(schema)](value), value


_BY_HAND: list[Callable[[Any], bool]] = [
    lambda v: v in (3, 4),
    lambda v: v == 1,
    lambda v: _is_int(v) and v != 5,
    lambda v: v is None or len(v) <= 3,
    lambda v: v == {"deep": [1, None]},
    lambda v: v is None or len(v) <= 2,
    lambda v: sorted(v) == [False, True],
    lambda v: v == [1, "b"],
    lambda v: len(v) >= 2 and all(map(_is_int, v.values())),
    lambda v: 0 < v < 0.001,
    lambda v: v == 5,
    lambda v: v == 7 and _is_int(v),
    lambda v: _is_int(v["a"]) and "b" in v,
    lambda v: _is_int(v) and v >= 1 and v % 12 == 0,
    lambda v: len(v) >= 3000,
    lambda v: isinstance(v, str),
]

REFUSED = [
    ({"not": {"type": "string"}}, "not"),
    ({"type": "object", "patternProperties": {"a": {}}}, "patternProperties"),
    ({"if": {}, "then": {}}, "if, then"),
    ({"$ref": "https://example.org/schema"}, "example.org"),
    ({"$ref": "#/$defs/missing"}, "nothing at that place"),
    ({"$ref": "#"}, "no value"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "no value"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "no value"),
    ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no value"),
    ({"type": "text"}, "'text'"),
    ({"type": "string", "pattern": "("}, "cannot be read"),
    ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
    ({"type": "array", "minItems": 10**9, "items": {}}, "no value"),
    ({"type": "string", "minLength": 10**9}, "at most"),
    ({"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": True}, "no value"),
    ({"properties": []}, "properties"),
    ({"type": "integer", "multipleOf": 0}, "multipleOf"),
    ({"enum": "abc"}, "enum"),
    ({"type": "string", "minLength": "3"}, "minLength"),
    (
        {"type": "array", "minItems": 3, "items": {"$ref": "#"}},
        "no value",
    ),
]


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=lambda item: str(item)[:60])
def test_a_schema_that_cannot_be_met_is_refused(schema: Any, said: str) -> None:
    """What is unsupported, malformed, contradictory or endless is a clear error."""
    with pytest.raises(BadRequest, match=re.escape(said)) as caught:
        value_under(schema)
    assert caught.value.status == 400


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the forecast for a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "bookTable", "description": "Books a restaurant."}},
]


def called(prompt: str, **parameters: Any) -> list[str]:
    response = rehearse(ask(prompt, tools=TOOLS, **parameters))
    calls = response.message.get("tool_calls") or []
    assert bool(calls) == (response.message["content"] is None)
    for call in calls:
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "get_weather":
            assert isinstance(arguments["city"], str)
            assert arguments["unit"] in ("celsius", "fahrenheit")
    assert len({call["id"] for call in calls}) == len(calls)
    return [call["function"]["name"] for call in calls]


NAMED = {"type": "function", "function": {"name": "bookTable"}}


@pytest.mark.parametrize(
    ("prompt", "parameters", "names"),
    [
        ("What is the weather like?", {}, ["get_weather"]),
        ("Which forecasts are there?", {}, ["get_weather"]),
        ("Tell me a story.", {}, []),
        ("The weather and a table, please.", {}, ["get_weather", "bookTable"]),
        ("The weather and a table.", {"parallel_tool_calls": False}, ["get_weather"]),
        ("What is the weather like?", {"tool_choice": "none"}, []),
        ("Hm.", {"tool_choice": "required"}, ["get_weather"]),
        ("A table!", {"tool_choice": "required"}, ["bookTable"]),
        ("What is the weather like?", {"tool_choice": NAMED}, ["bookTable"]),
    ],
)
def test_tools_are_called_as_asked(
    prompt: str, parameters: dict[str, Any], names: list[str]
) -> None:
    """Tools are called by choice, or where the question shares a word with them."""
    assert called(prompt, **parameters) == names


def test_a_result_of_a_tool_is_answered_in_words() -> None:
    """After a tool's result no tool is called again, though its words fit."""
    first = rehearse(ask("What is the weather like?", tools=TOOLS)).message
    call_id = first["tool_calls"][0]["id"]
    messages = [
        {"role": "user", "content": "What is the weather like?"},
        first,
        {"role": "tool", "tool_call_id": call_id, "content": "The weather has a cold front."},
    ]
    response = rehearse(chat_request(MODEL, messages, tools=TOOLS))
    assert response.finish_reason == "stop"
    assert "cold front" in response.text


@pytest.mark.parametrize(
    "parameters",
    [
        {"tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
        {"tools": TOOLS, "tool_choice": "sometimes"},
        {"tools": [{"type": "retrieval"}]},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"functions": [{"name": "old"}]},
    ],
)
def test_impossible_tools_are_refused(parameters: dict[str, Any]) -> None:
    """Tools that are none, and choices that fit none, are refused."""
    with pytest.raises(BadRequest):
        rehearse(ask("Hm.", **parameters))


def test_completions_answer_each_prompt() -> None:
    """Each prompt gets n texts, in order, with the prompt before it when echo is asked for."""
    request = completion_request(MODEL, ["The bus", "The tram"], n=2, echo=True, max_tokens=100)
    rows = rehearse(request).raw["choices"]
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    prompts = ["The bus", "The bus", "The tram", "The tram"]
    assert all(row["text"].startswith(p) for row, p in zip(rows, prompts, strict=True))
    assert len({row["text"] for row in rows}) == 4


def test_completions_stop_at_sixteen_tokens_by_default() -> None:
    """Without max_tokens a completion has 16 tokens at most, as OpenAI's has."""
    response = rehearse(completion_request(MODEL, QUESTION))
    assert response.truncated
    assert response.usage is not None
    assert response.usage.output_tokens <= 16


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("model", "parameters", "length"),
    [
        ("text-embedding-3-small", {}, 1536),
        ("text-embedding-3-large", {}, 3072),
        ("text-embedding-3-small", {"dimensions": 64}, 64),
        ("text-embedding-3-small", {"dimensions": 1}, 1),
    ],
)
def test_embeddings_are_unit_vectors(model: str, parameters: Any, length: int) -> None:
    """Each vector has the model's or the asked length as a list, and length 1 as a vector."""
    request = embedding_request(model, ["one text", "another one", "!?", "\x00"], **parameters)
    response = rehearse(request)
    assert [len(vector) for vector in response.embeddings] == [length] * 4
    for vector in response.embeddings:
        assert cosine(vector, vector) == pytest.approx(1, abs=1e-5)
    assert rehearse(request).content == response.content


def test_similar_texts_lie_nearer() -> None:
    """Texts that share words are nearer to each other than texts that do not."""
    texts = [
        "a cat sleeps on the warm sofa",
        "cats are sleeping on a sofa",
        "quarterly revenue fell in the insurance market",
    ]
    near, nearer, far = rehearse(embedding_request("text-embedding-3-small", texts)).embeddings
    assert cosine(near, nearer) > 0.4 > 0.2 > abs(cosine(near, far))


def test_base64_and_floats_are_the_same_vector() -> None:
    """`encoding_format` changes the spelling of a vector only."""
    body = {"model": "text-embedding-3-small", "input": ["a text", "b"], "dimensions": 8}
    floats = answer("embedding", body)["data"]
    coded = answer("embedding", {**body, "encoding_format": "base64"})["data"]
    for row, other in zip(floats, coded, strict=True):
        decoded = struct.unpack("<8f", base64.b64decode(other["embedding"]))
        assert list(decoded) == list(row["embedding"])


def read_events(events: list[bytes]) -> list[dict[str, Any]]:
    assert events[-1] == DONE
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [json.loads(event[6:]) for event in events[:-1]]


def test_a_stream_adds_up_to_the_answer() -> None:
    """The events of a stream, joined, are the answer: role first, reason last, usage at the end."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "n": 2}
    whole = answer("chat", body)
    *events, usage = read_events(split_stream(whole, include_usage=True))
    assert usage["usage"] == whole["usage"]
    assert usage["choices"] == []
    for choice in whole["choices"]:
        parts = [e["choices"][0] for e in events if e["choices"][0]["index"] == choice["index"]]
        assert parts[0]["delta"]["role"] == "assistant"
        text = "".join(part["delta"].get("content") or "" for part in parts)
        assert text == choice["message"]["content"]
        assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1]["finish_reason"] == "stop"
        assert len(parts) > 5


def test_a_stream_of_tool_calls_adds_up() -> None:
    """The pieces of a call's arguments, joined, are the arguments."""
    messages = [{"role": "user", "content": "What is the weather like?"}]
    whole = answer("chat", {"model": MODEL, "messages": messages, "tools": TOOLS})
    events = read_events(split_stream(whole, include_usage=False))
    parts = [e["choices"][0]["delta"].get("tool_calls", [{}])[0] for e in events]
    arguments = "".join(part.get("function", {}).get("arguments", "") for part in parts)
    call = whole["choices"][0]["message"]["tool_calls"][0]
    assert arguments == call["function"]["arguments"]
    assert {part["id"] for part in parts if "id" in part} == {call["id"]}


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_the_stream(text: str) -> None:
    """However a text is cut into pieces, nothing is lost or added."""
    body = {"model": MODEL, "prompt": "x"}
    whole = answer("completion", body)
    whole["choices"][0]["text"] = text
    pieces = read_events(split_stream(whole, include_usage=False))
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == text


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        ("chat", [], None),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, "model"),
        ("chat", {"model": ""}, "model"),
        ("chat", {"model": "m"}, "messages"),
        ("chat", {"model": "m", "messages": []}, "messages"),
        ("chat", {"model": "m", "messages": "Hello"}, "messages"),
        ("chat", {"model": "m", "messages": ["Hello"]}, "messages[0]"),
        ("chat", {"model": "m", "messages": [{"role": "x", "content": ""}]}, "messages[0].role"),
        ("chat", {"model": "m", "messages": [{"role": "user"}]}, "messages[0].content"),
        ("completion", {"model": "m", "prompt": [1, 2]}, "prompt"),
        ("embedding", {"model": "m"}, "input"),
        ("embedding", {"model": "m", "input": ""}, "input"),
        ("embedding", {"model": "m", "input": ["a", ""]}, "input"),
        ("embedding", {"model": "m", "input": ["a", 2.5]}, "input"),
        ("embedding", {"model": "m", "input": "a", "dimensions": 0}, "dimensions"),
        ("embedding", {"model": "m", "input": "a", "encoding_format": "x"}, "encoding_format"),
    ],
)
def test_a_malformed_body_is_refused(kind: Any, body: Any, param: str | None) -> None:
    """A body that a real server would refuse is refused, and the part at fault is named."""
    with pytest.raises(Refusal) as caught:
        answer(kind, body)
    assert caught.value.status == 400
    assert caught.value.param == param


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 3},
        {"temperature": "warm"},
        {"top_p": -1},
        {"n": 0},
        {"n": 1000},
        {"n": True},
        {"max_tokens": -1},
        {"stop": ["a"] * 5},
        {"stop": 3},
        {"logprobs": True},
        {"stream_options": {"include_usage": True}},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": "json"},
    ],
)
def test_a_parameter_out_of_range_is_refused(parameters: dict[str, Any]) -> None:
    """A parameter of a wrong type or out of its range is refused, by name."""
    with pytest.raises(BadRequest) as caught:
        rehearse(ask(QUESTION, **parameters))
    assert next(iter(parameters)) in str(caught.value)


def test_a_tool_result_without_a_call_is_refused() -> None:
    """A tool's message must answer a call of an earlier message."""
    messages = [{"role": "tool", "tool_call_id": "call_1", "content": "x"}]
    with pytest.raises(BadRequest, match="tool"):
        rehearse(chat_request(MODEL, messages))


def test_an_unknown_model_is_refused_where_models_are_named() -> None:
    """With a list of models, every other model is unknown."""
    rehearsal = Rehearsal(models=["gpt-4o"])
    with pytest.raises(ModelNotFound, match=MODEL) as caught:
        rehearse(ask(QUESTION), rehearsal)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        (Fault("rate_limited"), RateLimited, 429),
        (Fault("quota_exhausted"), QuotaExhausted, 429),
        (Fault("server_fault"), ServerFault, 500),
        (Fault("server_fault", status=529), ServerFault, 529),
        (Fault("content_filter", refuse_prompt=True), ContentFiltered, 400),
        (Fault("cut"), ConnectionFailed, None),
        (Fault("timeout"), TimedOut, None),
        (Fault("drip", interval_seconds=1.0), TimedOut, None),
        (Fault("malformed"), MalformedResponse, None),
        (Fault("malformed", body="error_object"), ServerFault, None),
    ],
    ids=lambda item: getattr(item, "kind", None),
)
def test_a_fault_is_its_typed_error(
    fault: Fault, error: type[LLMError], status: int | None
) -> None:
    """Each fault raises in process what the same fault over HTTP is mapped to."""
    with pytest.raises(error) as caught:
        rehearse(ask(QUESTION), Rehearsal(faults=[fault]))
    assert type(caught.value) is error
    assert getattr(caught.value, "status", None) == status


@pytest.mark.parametrize("form", ["ms", "seconds", "date"])
def test_each_form_of_retry_after_says_how_long(form: Any) -> None:
    """A rate limit says how long to wait, in whichever form."""
    fault = Fault("rate_limited", retry_after=form, wait_seconds=3)
    with pytest.raises(RateLimited) as caught:
        rehearse(ask(QUESTION), Rehearsal(faults=[fault]))
    assert caught.value.retry_after_seconds == 3


MALFORMED = ["html", "empty", "null", "list", "no_choices", "null_content", "truncated_json"]


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize(
    "request_",
    [ask(QUESTION), completion_request(MODEL, "x"), embedding_request(MODEL, "x")],
    ids=["chat", "completion", "embedding"],
)
def test_a_malformed_answer_is_refused_for_every_kind(request_: Request, body: Any) -> None:
    """Each malformation of each kind of answer is seen by the parser."""
    with pytest.raises(MalformedResponse):
        rehearse(request_, Rehearsal(faults=[Fault("malformed", body=body)]))


def test_a_filtered_answer_says_so() -> None:
    """The content filter withholds the text and is the reason for the end."""
    for request in (ask(QUESTION), completion_request(MODEL, "x")):
        response = rehearse(request, Rehearsal(faults=[Fault("content_filter")]))
        assert response.filtered
        assert response.text == ""


def test_a_drip_that_ends_in_time_is_an_answer() -> None:
    """A slow body is no fault where the timeout allows for it."""
    rehearsal = Rehearsal(faults=[Fault("drip", interval_seconds=0.0001)])
    assert rehearse(ask(QUESTION), rehearsal).text


def strikes(*faults: Fault, requests: int = 12, seed: int = 0) -> list[str | None]:
    plan = FaultPlan(faults, seed)
    return [fault and fault.kind for fault in (plan.next() for _ in range(requests))]


def test_faults_strike_as_often_as_they_say() -> None:
    """`times` strikes first, `every` each n-th request; one fault follows the other."""
    assert strikes(Fault("cut", times=2), requests=4) == ["cut", "cut", None, None]
    assert strikes(Fault("cut", every=3), requests=6) == [None, None, "cut"] * 2
    assert strikes(Fault("cut", every=2, times=1), requests=4) == [None, "cut", None, None]
    assert strikes(Fault("cut", times=1), Fault("drip", times=1), requests=3) == [
        "cut",
        "drip",
        None,
    ]
    assert strikes(Fault("cut"), requests=3) == ["cut"] * 3


def test_a_rate_strikes_about_so_often_and_always_the_same_requests() -> None:
    """A rate is a probability that follows from the seed."""
    first = strikes(Fault("cut", rate=0.3), requests=2000)
    assert 500 < first.count("cut") < 700
    assert strikes(Fault("cut", rate=0.3), requests=2000) == first
    assert strikes(Fault("cut", rate=0.3), requests=2000, seed=1) != first
    assert not any(strikes(Fault("cut", rate=0)))


def test_a_function_may_choose_the_fault() -> None:
    """`faults` may be a function of the attempt."""
    rehearsal = Rehearsal(faults=lambda a: Fault("cut") if a.number == 1 else None)
    with pytest.raises(ConnectionFailed):
        rehearse(ask(QUESTION), rehearsal)
    assert rehearse(ask(QUESTION), rehearsal, number=2).text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cut", Fault("cut")),
        ("rate_limited:ms", Fault("rate_limited", retry_after="ms")),
        ("rate_limited:ms=250", Fault("rate_limited", retry_after="ms", wait_seconds=0.25)),
        ("rate_limited:date=2", Fault("rate_limited", retry_after="date", wait_seconds=2.0)),
        ("server_fault:503@every=10", Fault("server_fault", status=503, every=10)),
        ("server_fault:seconds=1", Fault("server_fault", retry_after="seconds")),
        ("drip:0.05@times=2", Fault("drip", interval_seconds=0.05, times=2)),
        ("malformed:null@rate=0.1", Fault("malformed", body="null", rate=0.1)),
        ("content_filter:prompt", Fault("content_filter", refuse_prompt=True)),
        (" timeout@every=2@times=3 ", Fault("timeout", every=2, times=3)),
    ],
)
def test_a_fault_is_read_as_the_command_line_spells_it(text: str, fault: Fault) -> None:
    """The spelling of the command line says what the value says."""
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flood",
        "cut:now",
        "rate_limited:soon",
        "server_fault:404",
        "malformed:odd",
        "drip:slow",
        "cut@sometimes=2",
        "cut@times=x",
        "cut@times=0",
        "cut@rate=2",
        "content_filter:all",
    ],
)
def test_an_unreadable_fault_is_refused(text: str) -> None:
    """A fault that is not spelled as it must be is a ConfigError that says what is known."""
    with pytest.raises(ConfigError):
        parse_fault(text)


def test_every_kind_of_fault_can_be_written() -> None:
    """Each kind is a fault on its own, without an argument."""
    assert [parse_fault(kind).kind for kind in KINDS] == list(KINDS)


def test_the_latency_is_spent_by_the_runtime() -> None:
    """An answer takes as long as the rehearsal says, by the runtime's clock."""
    runtime = VirtualRuntime()
    transport = RehearsalTransport(Rehearsal(latency_seconds=2.5), runtime=runtime)
    assert transport.send(attempt(ask(QUESTION))).seconds == pytest.approx(2.5)


def test_a_latency_beyond_the_timeout_ends_with_it() -> None:
    """No attempt takes longer than it may."""
    runtime = VirtualRuntime()
    transport = RehearsalTransport(Rehearsal(latency_seconds=100), runtime=runtime)
    started = runtime.now()
    with pytest.raises(TimedOut):
        transport.send(attempt(ask(QUESTION), timeout=7))
    assert runtime.now() - started == pytest.approx(7)


def test_jitter_varies_the_latency_and_follows_from_the_request() -> None:
    """Latencies lie within the jitter, differ between requests, and repeat."""

    def measure(text: str) -> float:
        rehearsal = Rehearsal(latency_seconds=2, latency_jitter_seconds=1)
        transport = RehearsalTransport(rehearsal, runtime=VirtualRuntime())
        return transport.send(attempt(ask(text))).seconds

    seconds = [measure(f"Question {number}") for number in range(20)]
    assert all(1 <= item <= 3 for item in seconds)
    assert len(set(seconds)) > 10
    assert measure("Question 0") == seconds[0]


def test_a_negative_latency_is_refused() -> None:
    """Time does not run backwards."""
    with pytest.raises(ConfigError):
        Rehearsal(latency_seconds=-1)


def test_a_rehearsal_imports_no_sdk() -> None:
    """A rehearsed answer needs neither the SDK nor an HTTP library."""
    script = (
        "import sys\n"
        "from tinytroupe.llm.request import Attempt, Call, chat_request\n"
        "from tinytroupe.llm.transports.rehearsal import RehearsalTransport\n"
        "request = chat_request('gpt-4o', [{'role': 'user', 'content': 'Hello'}])\n"
        "assert RehearsalTransport().send(Attempt(Call(request), 1, 60.0)).text\n"
        "heavy = {'openai', 'httpx2', 'aiohttp', 'pydantic', 'jinja2', 'diskcache'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
