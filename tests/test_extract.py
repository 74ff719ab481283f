"""Extracting: the first whole JSON value or block of code, and never a made-up one."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.llm.errors import ParseError
from tinytroupe.llm.talk.extract import extract_code_block, extract_json

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CONTAINERS = st.lists(JSON_VALUES, max_size=3) | st.dictionaries(st.text(), JSON_VALUES, max_size=3)
PROSE = st.text(alphabet=st.characters(exclude_characters='{}[]"`\\'))


@given(value=CONTAINERS, before=PROSE, after=st.text(), indent=st.sampled_from([None, 2]))
def test_a_value_in_prose_is_found(value: Any, before: str, after: str, indent: int | None):
    """A value is found whatever stands around it, and comes back as it was."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert extract_json(before + text) == value
    if "```" not in after:
        assert extract_json(f"{before}{text} {after}") == value


@given(value=CONTAINERS, language=st.sampled_from(["", "json", "JSON", "json5", "text"]))
def test_a_value_in_a_fence_is_found(value: Any, language: str):
    """A value in a fenced block is found, and goes before one outside."""
    text = json.dumps(value)
    answer = f'Not {{"this": 1}}, but:\n\n```{language}\n{text}\n```\nnor ["that"].'
    assert extract_json(answer) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (" \n[1, 2]\n ", [1, 2]),
        ("{}", {}),
        ('first {"a": 1} second {"b": 2}', {"a": 1}),
        ('{"a": 1} {"b": 2}', {"a": 1}),
        ('[sighs] Well, {name}: {"a": [1]}', {"a": [1]}),
        ('[sighs [deeply]] {{name}} {"a": 1}', {"a": 1}),
        ('[12:30] Lisa, [2024-01-01]: {"a": 1}', {"a": 1}),
        ('{"a": "has ```json\\n{}\\n``` in it"}', {"a": "has ```json\n{}\n``` in it"}),
        ('{"a": "x\n```\n{}\n```\n"}', {"a": "x\n```\n{}\n```\n"}),
        ('```python\nd = {"x": 1}\n```\n```json\n{"a": 1}\n```', {"a": 1}),
        ("```python\nd = {'x': 1}\n```\n```\n{\"a\": 1}\n```", {"a": 1}),
        ('```\nnone\n```\nbut {"a": 1}', {"a": 1}),
        ("```python\nd = {'x': 1}\n```\nor {\"a\": 1}", {"a": 1}),
        ('  ```json\n  {"a": 1}\n  ```', {"a": 1}),
        ('````json\n{"a": 1}\n````', {"a": 1}),
        ('```json\n{"a": 1}', {"a": 1}),
        ('```json {"a": 1}```', {"a": 1}),
        ('{"a": "line\nand\ttab"}', {"a": "line\nand\ttab"}),
        (r'{"a": "it\'s", "b": "x\, y\_z"}', {"a": "it's", "b": "x, y_z"}),
        (
            r'{"a": "\d+ C:\users", "b": "\\\' \"ok\" \u00e9"}',
            {"a": r"\d+ C:\users", "b": r"\' " '"ok" é'},
        ),
        ('{"a": 1e5, "b": -0.5}', {"a": 1e5, "b": -0.5}),
    ],
)
def test_answers_as_models_give_them_are_read(text: str, value: object):
    """Prose, fences, raw line ends and needless backslashes do not hide a value."""
    assert extract_json(text) == value


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"a": 1', 1, 8),
        ('{"a": {"b": 1}', 1, 15),
        ('{"a": [{"b": 1}, {"b": 2}', 1, 26),
        ('Here:\n{"a": {"b": 1}, "c', 2, 17),
        ('```json\n{"a": {"b": 1},\n```', 3, 1),
        ("{'a': 1, \"b\": [1]}", 1, 2),
        ("{a: 1, b: [1, 2]}", 1, 2),
        ("{a: [1, 2]", 1, 2),
        ('{"a": {"b": 1}, c: {"d": 2}}', 1, 17),
        ('{"a": 1 "b": {}}', 1, 9),
        ("[1, 2", 1, 6),
        ('["a", {}', 1, 9),
        ("{", 1, 2),
        ('{"a": NaN}', 1, 7),
        ('{"a": [-Infinity]}', 1, 8),
        ("[1, 1e999]", 1, 5),
        ('{"a": ' + "9" * 5000 + "}", 1, 1),
    ],
)
def test_broken_json_is_an_error_that_shows_the_place(text: str, line: int, column: int):
    """What is broken or cut short is neither replaced by {} nor by a smaller value inside it."""
    with pytest.raises(ParseError) as caught:
        extract_json(text)
    assert f"line {line}, column {column}" in str(caught.value)


@pytest.mark.parametrize("text", ['x\n\n  {"a": 1,}', 'x\n\n["a",]', "x\n\n[1, 2,]"])
def test_a_comma_too_many_is_an_error(text: str):
    """A comma before a closing bracket is an error in its line."""
    with pytest.raises(ParseError, match="line 3, column "):
        extract_json(text)


def test_the_error_shows_the_text_around_the_place():
    """The excerpt is short, however long the answer, and marks the place."""
    answer = '{"name": "Lisa", ' + '"likes": "tea" "age": 41, ' + '"x": 1, ' * 10_000 + "}"
    with pytest.raises(ParseError) as caught:
        extract_json(answer)
    assert '"likes": "tea" ▸"age": 41' in str(caught.value)
    assert len(str(caught.value)) < 300
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("text", ["", "No.", "true", "41", '"text"', "```json\n41\n```", "}]"])
def test_an_answer_without_json_is_an_error(text: str):
    """Where there is no object or array, the error says so and shows how the answer begins."""
    with pytest.raises(ParseError, match="there is no JSON in the answer"):
        extract_json(text)


@pytest.mark.parametrize("text", [None, 5, {"a": 1}, b'{"a": 1}'])
def test_json_is_looked_for_in_text_only(text: Any):
    """What is not text is an error that says what it is."""
    with pytest.raises(ParseError, match=type(text).__name__):
        extract_json(text)


def test_deep_json_is_an_error():
    """Brackets that are nested without end are a ParseError, not a crash."""
    with pytest.raises(ParseError, match="recursion"):
        extract_json("[" * 100_000 + "]" * 100_000)


@pytest.mark.parametrize(
    "text",
    [
        "[a] " * 50_000 + "{}",
        "[1:2] " * 10_000 + "{}",
        "{" * 100_000 + "}" * 100_000 + "{}",
        "```\n" * 50_001 + "{}",
        "`" * 100_000 + "{}",
        '{"a": "' + "x" * 5_000_000 + '"}',
        "[" + '{"a": 1},' * 200_000 + "{}]",
    ],
)
def test_long_answers_are_read_soon(text: str):
    """No answer makes the search take more than a moment."""
    assert isinstance(extract_json(text), (dict, list))


@given(st.text(alphabet='{}[]":,\\`1tn -\n'))
def test_any_text_has_a_value_or_is_an_error(text: str):
    """Extraction ends in a value that JSON can express or in a ParseError."""
    try:
        value = extract_json(text)
    except ParseError:
        return
    assert isinstance(value, (dict, list))
    assert math.isfinite(len(json.dumps(value, allow_nan=False)))


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("Here:\n```python\nprint(1)\n```\nDone.", "```python\nprint(1)\n```"),
        ("```\na\n```\n```\nb\n```", "```\na\n```"),
        ("a ```b``` c", "```b```"),
        ("````md\n```\nx\n```\n````", "````md\n```\nx\n```\n````"),
        ("no code", ""),
        ("", ""),
        ("`a` and ``b``", ""),
        ("```python\nnever closed", ""),
        ("```", ""),
    ],
)
def test_the_first_block_of_code_is_found(text: str, block: str):
    """The first whole block comes back with its fences; without one the result is empty."""
    assert extract_code_block(text) == block
