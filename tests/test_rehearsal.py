"""The laws of rehearsed answers: text, tools, vectors, streams, refusals."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import struct
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rehearsing import JSON, MODEL, PERSONA, QUESTION, ask, attempt, rehearse

from tinytroupe.llm.errors import (
    BadRequest,
    ModelNotFound,
)
from tinytroupe.llm.request import (
    Attempt,
    Call,
    CallOptions,
    chat_request,
    completion_request,
    embedding_request,
)
from tinytroupe.llm.rules.tokens import count_messages, count_text
from tinytroupe.llm.transports.rehearsal import Rehearsal, RehearsalTransport
from tinytroupe.llm.transports.rehearsal.answers import answer
from tinytroupe.llm.transports.rehearsal.hearing import listen
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.streams import DONE, split_stream, split_words


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


@given(st.text(max_size=80))
def test_a_stream_in_the_process_is_the_answer_in_pieces(text: str) -> None:
    """`stream` and `astream` yield words that together are the answer, and then the answer."""
    assert "".join(split_words(text)) == text
    transport = RehearsalTransport()
    request = attempt(ask(PERSONA, QUESTION))
    whole = transport.send(request)

    async def read() -> list[object]:
        return [piece async for piece in transport.astream(request)]

    for pieces in (list(transport.stream(request)), asyncio.run(read())):
        *words, response = pieces
        assert len(words) > 1
        assert "".join(map(str, words)) == whole.text
        assert getattr(response, "content", None) == whole.content


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


FIELDS = [
    *("model", "messages", "prompt", "input", "n", "max_tokens", "stop", "tools", "tool_choice"),
    *("response_format", "temperature", "stream", "stream_options", "dimensions", "echo"),
    *("encoding_format", "parallel_tool_calls", "functions", "logprobs"),
]
PARTS = [
    *("role", "content", "tool_calls", "tool_call_id", "function_call", "type", "function", "name"),
    *("parameters", "description", "json_schema", "schema", "text", "id", "properties", "required"),
]
WORDS = [
    *("user", "assistant", "tool", "function", "object", "json_schema", "json_object", "text"),
    *("auto", "required", "none", "base64", "x"),
]
WILD = st.recursive(
    JSON | st.sampled_from(WORDS),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.sampled_from(PARTS), items),
    max_leaves=10,
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(WORDS), "content": WILD})
FUNCTION = st.fixed_dictionaries({"name": st.just("x")}, optional={"parameters": WILD, "z": WILD})
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION})


@given(
    st.sampled_from(["chat", "completion", "embedding"]),
    st.dictionaries(st.sampled_from(FIELDS), WILD),
    st.fixed_dictionaries(
        {},
        optional={
            "messages": st.lists(MESSAGE | WILD, max_size=2),
            "tools": st.lists(TOOL | WILD, min_size=1, max_size=2),
            "tool_choice": st.sampled_from(WORDS),
        },
    ),
)
@settings(max_examples=100, deadline=None)
def test_any_json_as_a_body_is_answered_or_refused(kind: Any, body: Any, likely: Any) -> None:
    """No body, however malformed, causes anything but an answer or a refusal."""
    messages = [{"role": "user", "content": "Say it in JSON."}]
    sound = {"model": "m", "input": "x", "messages": messages}
    for given_body in (body, {**body, **likely}, {**sound, **body, **likely}, {**body, **sound}):
        with contextlib.suppress(Refusal):
            answer(kind, given_body)


RUNS = [
    *("\n", " ", "A ", "Aa ", "*", "[", "{", '"', "`", "1", "the ", " a", '"a": ', "- ", "<"),
    *("A: I\n", "[x] A: b\n", "values: ", "You are a ", "- On a: b\n", "work" + " " * 999),
]


@pytest.mark.timeout(60)
def test_no_prompt_takes_forever_to_hear() -> None:
    """Long runs of the same signs take no time that grows with their square."""
    for run in RUNS:
        text = run * (1_000_000 // len(run))
        listen([{"role": "system", "content": text}, {"role": "user", "content": text}])


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
