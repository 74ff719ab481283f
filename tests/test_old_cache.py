"""TinyTroupe's own caches are taken in, and the same simulation finds its answers again."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from doors import configure
from old_pickles import ANSWERS, MODEL, PICKLED, QUESTIONS, SYSTEM, load_pickle, make_key
from old_pickles import make_parameters as make_old_parameters
from openai.types.chat import ChatCompletion

from tinytroupe import cli
from tinytroupe.llm.errors import CacheMiss, StoreError
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.survey import Survey
from tinytroupe.openai_utils import OpenAIClient

pytest_plugins = ("door_fixtures",)
pytestmark = pytest.mark.usefixtures("folder")

AMISS, FAILED = 1, 2

OLD_SETTINGS = {
    "MODEL": MODEL,
    "MAX_TOKENS": "4000",
    "TEMPERATURE": "1.5",
    "TOP_P": "0",
    "FREQ_PENALTY": "0.0",
    "PRESENCE_PENALTY": "0.0",
    "TIMEOUT": "60",
}
"""The config.ini of the simulation that made the caches of `old_pickles`."""


def ask(question: str, **arguments: Any) -> dict[str, Any]:
    """Asks as the simulation did, of nothing but the cache."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    message = OpenAIClient(cache_api_calls="only").send_message(messages, **arguments)
    assert message is not None
    return message


def put_pickle(cache: Any, name: str = "openai_api_cache.pickle") -> str:
    Path(name).write_bytes(cache if isinstance(cache, bytes) else pickle.dumps(cache))
    return name


def take_in(capsys, cache: Any, code: int = 0) -> dict[str, Any]:
    """Runs the import and returns its report."""
    assert cli.main(["cache", "import", put_pickle(cache), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def read_store() -> dict[str, Any]:
    store = DiskStore("tinytroupe_cache")
    return {info.key: store.get(info.key) for info in store.list_entries()}


def answer_with(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("name", PICKLED)
def test_the_same_simulation_finds_its_answers(capsys, name):
    """What TinyTroupe kept answers the same calls of the same simulation, without a call."""
    configure(**OLD_SETTINGS)
    report = take_in(capsys, load_pickle(name))
    assert report == {
        "entries": 2,
        "imported": 2,
        "already_there": 0,
        "other_answer_kept": 0,
        "not_translated": [],
        "settings": [],
    }
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        assert ask(question) == answer["choices"][0]["message"]
        client = OpenAIClient(cache_api_calls="only")
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        response = client.send(messages)
        assert response.raw == answer
        assert response.origin == "cache"
        assert response.usage.total_tokens == answer["usage"]["total_tokens"]
    with pytest.raises(CacheMiss):
        ask("Another question?")


def test_what_differs_is_another_question(capsys):
    """An answer is found with the arguments it was asked with, and with no others."""
    configure(**OLD_SETTINGS)
    take_in(capsys, {make_key(make_old_parameters(QUESTIONS[0])): ANSWERS[0]})
    assert ask(QUESTIONS[0], temperature=1.5, timeout=5, max_attempts=1)
    for arguments in ({"temperature": 1.4}, {"max_tokens": 10}, {"stop": "x"}, {"model": "gpt-4"}):
        with pytest.raises(CacheMiss):
            ask(QUESTIONS[0], **arguments)


# What TinyTroupe's versions put into a key, besides messages, and what the simulation that
# made it has in config.ini and passes to send_message.
VERSIONS: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = {
    "first: without the model": (
        {
            "temperature": 0.3,
            "max_tokens": 1024,
            "top_p": 0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "stop": [],
            "timeout": 30.0,
            "stream": False,
            "n": 1,
        },
        {
            "MAX_TOKENS": "1024",
            "TEMPERATURE": "0.3",
            "TOP_P": "0",
            "FREQ_PENALTY": "0.0",
            "PRESENCE_PENALTY": "0.0",
        },
        {},
    ),
    "first, after a failed attempt": (
        {
            "temperature": 0.3,
            "max_tokens": 1024,
            "top_p": 0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "stop": None,
            "timeout": 30.0,
            "stream": False,
            "n": 1,
            "model": MODEL,
        },
        {
            "MAX_TOKENS": "1024",
            "TEMPERATURE": "0.3",
            "TOP_P": "0",
            "FREQ_PENALTY": "0.0",
            "PRESENCE_PENALTY": "0.0",
        },
        {},
    ),
    "on Azure, after a failed attempt": (
        {"temperature": 0.3, "max_tokens": 9, "timeout": 30.0, "n": 1, "engine": MODEL},
        {"TEMPERATURE": "0.3", "MAX_TOKENS": "9"},
        {},
    ),
    "stop words": (
        {"model": MODEL, "temperature": 1.0, "max_tokens": 100, "stop": ["END", "STOP"], "n": 1},
        {"TEMPERATURE": "1.0", "MAX_TOKENS": "100"},
        {"stop": ["END", "STOP"]},
    ),
    "several answers": (
        {"model": MODEL, "temperature": 1.0, "max_tokens": 100, "stop": [], "n": 3},
        {"TEMPERATURE": "1.0", "MAX_TOKENS": "100"},
        {"n": 3},
    ),
    "JSON mode": (
        {
            "model": MODEL,
            "temperature": 1.0,
            "max_tokens": 100,
            "response_format": {"type": "json_object"},
        },
        {"TEMPERATURE": "1.0", "MAX_TOKENS": "100"},
        {"response_format": {"type": "json_object"}},
    ),
    "later: max_completion_tokens from config.ini": (
        {
            "model": MODEL,
            "temperature": 1.0,
            "max_completion_tokens": 32000,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.1,
            "timeout": 480.0,
            "stream": False,
            "n": 1,
        },
        {
            "MAX_COMPLETION_TOKENS": "32000",
            "TEMPERATURE": "1.0",
            "FREQ_PENALTY": "0.1",
            "PRESENCE_PENALTY": "0.1",
        },
        {},
    ),
    "later: max_completion_tokens as an argument": (
        {"model": MODEL, "temperature": 1.0, "max_completion_tokens": 500, "n": 1},
        {"TEMPERATURE": "1.0", "MAX_COMPLETION_TOKENS": "32000"},
        {"max_completion_tokens": 500},
    ),
    "LiteLLM": (
        {"model": MODEL, "temperature": 1.0, "max_completion_tokens": 500, "drop_params": True},
        {"TEMPERATURE": "1.0", "MAX_COMPLETION_TOKENS": "500"},
        {},
    ),
    "Ollama": (
        {
            "model": MODEL,
            "options": {"temperature": 0.7, "top_p": 0.9, "num_ctx": 8192},
            "stream": False,
            "n": 1,
        },
        {"TEMPERATURE": "0.7", "TOP_P": "0.9", "MAX_TOKENS": "777"},
        {},
    ),
    "a reasoning model": (
        {
            "model": "o3-mini",
            "temperature": 1.5,
            "max_tokens": 4000,
            "top_p": 0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "stop": [],
            "stream": False,
            "n": 1,
        },
        {"MODEL": "o3-mini", "TEMPERATURE": "1.5", "MAX_TOKENS": "4000", "TOP_P": "0"},
        {},
    ),
    "a reasoning model, after a failed attempt": (
        {
            "model": "o3-mini",
            "stop": [],
            "n": 1,
            "max_completion_tokens": 4000,
            "reasoning_effort": "high",
        },
        {"MODEL": "o3-mini", "TEMPERATURE": "1.5", "MAX_TOKENS": "4000", "TOP_P": "0"},
        {},
    ),
    "another model for one call": (
        {"model": "gpt-4.1", "temperature": 0.0, "max_tokens": 10, "top_p": 0, "n": 1},
        {"TEMPERATURE": "1.5", "MAX_TOKENS": "4000", "TOP_P": "0"},
        {"model": "gpt-4.1", "temperature": 0, "max_tokens": 10},
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model_first", [True, False])
def test_keys_of_every_version_are_translated(capsys, version, model_first):
    """However a version of TinyTroupe named an answer, the simulation that got it finds it."""
    parameters, settings, arguments = VERSIONS[version]
    configure(**{"MODEL": MODEL, **settings})
    messages = make_old_parameters(QUESTIONS[0])["messages"]
    model = parameters.get("model", MODEL)
    named = {"messages": messages, **parameters}
    if model_first and "model" in parameters:
        named = {"model": model, **named}
    report = take_in(capsys, {str((model, named)): answer_with("I am Lisa.")})
    assert (report["imported"], report["not_translated"]) == (1, [])
    assert ask(QUESTIONS[0], **arguments)["content"] == "I am Lisa."


@pytest.mark.parametrize("dedented", [True, False])
def test_answers_are_found_with_and_without_the_indent_of_their_question(capsys, dedented):
    """First versions kept the indent of a text that this package takes away: both find it."""
    configure(**OLD_SETTINGS)
    text = "\n    Who are you?\n      Tell me.\n"
    parameters = make_old_parameters(text)
    report = take_in(capsys, {make_key(parameters): answer_with("I am Lisa.")})
    assert report["imported"] == 1
    assert ask(text, dedent_messages=dedented)["content"] == "I am Lisa."


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "I am Lisa.", "role": "assistant", "refusal": None},
        {"content": "I am Lisa."},
        {**ANSWERS[0], "choices": [{"index": 0, "message": {"content": "I am Lisa."}}]},
        ChatCompletion.construct(
            **{**ANSWERS[0], "choices": [{"index": 0, "message": answer_with("I am Lisa.")}]}
        ),
        ChatCompletion.construct(
            **{**ANSWERS[0], "choices": [{"index": 0, "message": answer_with("I am Lisa.")}]}
        ).model_dump(),
    ],
    ids=["message", "content alone", "dictionary", "object", "dumped object"],
)
def test_every_shape_of_an_answer_is_taken_in(capsys, answer):
    """A message, a whole answer as dictionaries, and an object of the SDK say the same."""
    configure(**OLD_SETTINGS)
    assert take_in(capsys, {make_key(make_old_parameters(QUESTIONS[0])): answer})["imported"] == 1
    message = ask(QUESTIONS[0])
    assert (message["role"], message["content"]) == ("assistant", "I am Lisa.")


def test_an_answer_is_as_old_as_the_endpoint_said(capsys):
    """The age of an answer is when it was made, where that is known."""
    configure(**OLD_SETTINGS)
    take_in(capsys, {make_key(make_old_parameters(QUESTIONS[0])): ANSWERS[0]})
    assert {row.stored_at_seconds for row in Survey("tinytroupe_cache").list_rows()} == {
        float(ANSWERS[0]["created"])
    }


UNTRANSLATABLE: dict[str, tuple[Any, Any, str]] = {
    "class": (
        str((MODEL, make_old_parameters("Who?"))).replace(
            "'n': 1", "'n': 1, 'response_format': <class 'tinytroupe.agent.CognitiveActionModel'>"
        ),
        answer_with("x"),
        "names the Python class tinytroupe.agent.CognitiveActionModel",
    ),
    "object": (f"('{MODEL}', {{'messages': [<x at 0x7f>]}})", answer_with("x"), "not plain data"),
    "code": ("__import__('os').system('touch canary')", answer_with("x"), "not plain data"),
    "no key of TinyTroupe": ("question", answer_with("x"), "cannot be read"),
    "plain text": ("'question'", answer_with("x"), "not TinyTroupe's"),
    "three parts": ("('a', {'messages': []}, 1)", answer_with("x"), "not TinyTroupe's"),
    "no messages": (f"('{MODEL}', {{'prompt': 'x'}})", answer_with("x"), "not TinyTroupe's"),
    "empty messages": (f"('{MODEL}', {{'messages': []}})", answer_with("x"), "cannot be asked"),
    "odd message": (f"('{MODEL}', {{'messages': ['Hi']}})", answer_with("x"), "cannot be asked"),
    "odd role": (
        str((MODEL, {"messages": [{"role": "stranger", "content": "Hi"}]})),
        answer_with("x"),
        "unknown role",
    ),
    "surrogate": (
        str((MODEL, {"messages": [{"role": "user", "content": "\ud800"}]})),
        answer_with("x"),
        "surrogate",
    ),
    "infinite": (
        f"('{MODEL}', {{'messages': [{{'role': 'user', 'content': 'Hi'}}], 'temperature': 1e999}})",
        answer_with("x"),
        "cannot be asked",
    ),
    "two models": (
        str((MODEL, {"model": "gpt-4", "messages": [{"role": "user", "content": "Hi"}]})),
        answer_with("x"),
        "two models",
    ),
    "stream": (
        make_key(make_old_parameters("Who?", stream=True)),
        answer_with("x"),
        "a stream",
    ),
    "no answer": (make_key(make_old_parameters("A?")), None, "the answer is nothing"),
    "text": (make_key(make_old_parameters("A?")), "Hello", "the answer is a str"),
    "list": (make_key(make_old_parameters("A?")), ["Hello"], "the answer is a list"),
    "bytes": (make_key(make_old_parameters("A?")), b"Hello", "holds a bytes"),
    "no choices": (make_key(make_old_parameters("A?")), {"choices": []}, "has no choices"),
    "null content": (
        make_key(make_old_parameters("A?")),
        {"role": "assistant", "content": None},
        "neither content nor tool calls",
    ),
    "filtered": (
        make_key(make_old_parameters("A?")),
        {
            "choices": [
                {"message": {"content": ""}, "finish_reason": "content_filter"},
            ]
        },
        "content filter withheld",
    ),
    "huge number": (
        make_key(make_old_parameters("A?")),
        {"content": "x", "seed": 10**40},
        "no form in JSON",
    ),
}


@pytest.mark.parametrize("name", UNTRANSLATABLE)
def test_what_cannot_be_translated_is_reported_and_costs_no_other(capsys, name):
    """An entry without a counterpart is named with its reason; the others come in."""
    configure(**OLD_SETTINGS)
    key, answer, reason = UNTRANSLATABLE[name]
    good = make_key(make_old_parameters(QUESTIONS[0]))
    report = take_in(capsys, {key: answer, good: ANSWERS[0]}, code=AMISS)
    assert (report["entries"], report["imported"]) == (2, 1)
    (entry,) = report["not_translated"]
    assert entry["entry"] == 1
    assert reason in entry["reason"]
    assert len(entry["key"]) <= 120
    assert ask(QUESTIONS[0]) == ANSWERS[0]["choices"][0]["message"]
    assert not Path("canary").exists()


def test_the_report_for_people_gathers_reasons(capsys):
    """The first few reasons are shown with how often and where; --json lists every entry."""
    configure(**OLD_SETTINGS)
    cache: dict[str, Any] = {key: answer for key, answer, _ in UNTRANSLATABLE.values()}
    for number in range(20):
        key = make_key(make_old_parameters(f"Question {number}?")).replace(
            "'n': 1", "'response_format': <class 'agent.Action'>"
        )
        cache[key] = answer_with("x")
    cache[make_key(make_old_parameters(QUESTIONS[0]))] = ANSWERS[0]
    assert cli.main(["cache", "import", put_pickle(cache)]) == AMISS
    text = capsys.readouterr().out
    assert "1 came in" in text
    assert "  20: the key cannot be read: it names the Python class agent.Action" in text
    assert "more reasons (--json lists all)" in text
    report = take_in(capsys, cache, code=AMISS)
    assert len(report["not_translated"]) == len(cache) - 1
    assert report["already_there"] == 1


def test_a_second_import_changes_nothing(capsys):
    """What came in once is there already; another answer to the same question stays."""
    configure(**OLD_SETTINGS)
    name = next(iter(PICKLED))
    take_in(capsys, load_pickle(name))
    before = read_store()
    assert take_in(capsys, load_pickle(name))["already_there"] == 2
    report = take_in(capsys, {make_key(make_old_parameters(QUESTIONS[0])): answer_with("Another.")})
    assert (report["imported"], report["other_answer_kept"]) == (0, 1)
    assert read_store() == before


def test_settings_that_hide_the_answers_are_named(capsys):
    """Where the settings of now would ask otherwise, the report says which and what they were."""
    configure(MODEL=MODEL, TEMPERATURE="1.5", MAX_TOKENS="1000")
    put_pickle(load_pickle(next(iter(PICKLED))))
    assert cli.main(["cache", "import", "openai_api_cache.pickle", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert [(one["setting"], one["now"], one["then"]) for one in settings] == [
        ("MAX_TOKENS", 1000, 4000),
        ("TOP_P", None, 0),
        ("FREQ_PENALTY", None, 0.0),
        ("PRESENCE_PENALTY", None, 0.0),
    ]
    with pytest.raises(CacheMiss):
        ask(QUESTIONS[0])
    assert cli.main(["cache", "import", "openai_api_cache.pickle"]) == 0
    text = capsys.readouterr().out
    assert "MAX_TOKENS=4000 in 2 of them; now it is 1000" in text
    then = {one["setting"]: str(one["then"]) for one in settings}
    configure(MODEL=MODEL, TEMPERATURE="1.5", **then)
    assert ask(QUESTIONS[0]) == ANSWERS[0]["choices"][0]["message"]


def test_a_hostile_pickle_is_refused_and_leaves_no_trace(capsys):
    """A pickle that would run a program is refused with its name; nothing comes in or runs."""
    hostile = b"cos\nsystem\nX\x0c\x00\x00\x00touch canary\x85R."
    good = pickle.dumps({make_key(make_old_parameters(QUESTIONS[0])): ANSWERS[0]})
    mixed = good[:-1] + b"0" + hostile
    for content in (hostile, mixed):
        assert cli.main(["cache", "import", put_pickle(content)]) == FAILED
        message = capsys.readouterr().err
        assert "openai_api_cache.pickle: the pickle holds the name os.system" in message
        assert "nothing of it was run" in message
    assert not Path("canary").exists()
    assert not Path("tinytroupe_cache").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\x80\x04}", "damaged or cut short"),
        (pickle.dumps(["a"]), "not a dictionary"),
        (b"SQLite format 3\x00", "damaged or cut short"),
    ],
)
def test_a_file_that_is_no_cache_is_said(capsys, content, said):
    """An empty, cut or foreign file under the name of a pickle is a clear error."""
    assert cli.main(["cache", "import", put_pickle(content)]) == FAILED
    assert said in capsys.readouterr().err


def test_who_names_the_pickle_as_the_cache_is_told_of_the_import():
    """A store that is given TinyTroupe's pickle for a folder says how to take it over."""
    put_pickle(load_pickle(next(iter(PICKLED))))
    with pytest.raises(StoreError, match=r"tinytroupe cache import openai_api_cache\.pickle"):
        DiskStore("openai_api_cache.pickle").get("key")


def test_a_missing_pickle_is_said(capsys):
    """A file that is not there is named."""
    for name in ("missing.pickle", "missing.jsonl"):
        assert cli.main(["cache", "import", name]) == FAILED
        assert f"there is no file {name}" in capsys.readouterr().err


def test_a_pickle_is_known_by_its_content_too(capsys):
    """A pickle under any name is read as one."""
    configure(**OLD_SETTINGS)
    name = put_pickle(load_pickle(next(iter(PICKLED))), "cache.bin")
    assert cli.main(["cache", "import", name]) == 0
    assert "2 came in" in capsys.readouterr().out


def test_the_pickle_stays_as_it_is(capsys):
    """Importing reads the old file and never writes to it."""
    configure(**OLD_SETTINGS)
    content = load_pickle(next(iter(PICKLED)))
    Path("old.pickle").write_bytes(content)
    Path("old.pickle").chmod(0o444)
    assert cli.main(["cache", "import", "old.pickle"]) == 0
    assert Path("old.pickle").read_bytes() == content
