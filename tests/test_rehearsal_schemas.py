"""The laws of rehearsed JSON: it has the shape that was asked for."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from rehearsing import JSON, QUESTION, ask, rehearse, under, value_under

from tinytroupe.llm.errors import (
    BadRequest,
)
from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.hearing import listen
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.schemas import write_value


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


KEYWORDS = [
    *(
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "minProperties",
        "maxProperties",
        "items",
    ),
    *(
        "prefixItems",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
    ),
    *(
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "not",
        "if",
    ),
]
WILD_SCHEMAS = st.recursive(
    JSON
    | st.sampled_from(["string", "integer", "array", "object", "#", "#/$defs/a", "a+", "date"]),
    lambda items: st.dictionaries(st.sampled_from(KEYWORDS), items) | st.lists(items, max_size=3),
    max_leaves=12,
)


@given(WILD_SCHEMAS)
@settings(max_examples=150, deadline=None)
def test_any_json_as_a_schema_is_fulfilled_or_refused(schema: Any) -> None:
    """No schema, however malformed, causes anything but a value or a refusal."""
    heard = listen([{"role": "user", "content": QUESTION}])
    with contextlib.suppress(Refusal):
        json.dumps(write_value(schema, heard, Draws(0)))
