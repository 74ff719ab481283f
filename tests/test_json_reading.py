"""Reading JSON as models write it: equal, or refused, and what was put right is said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinytroupe.llm.talk.json_reading import Reading, read_json, read_json_strictly
from tinytroupe.llm.talk.places import Unreadable

TRICKY = (
    *("it's", 'say "x"', "a, b: c", "{x}", "[y]", "// no", "# no", "/* c */", "True", "null"),
    *("```", "a\nb", "http://x.y/z", "'", "\\", "\\n", "C:\\new", "…", "“quoted”", "a\ttab"),
    *("</think>", "<think>", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")),
)
TEXTS = st.text(max_size=8) | st.sampled_from(TRICKY)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CONTAINERS = st.lists(VALUES, max_size=3) | st.dictionaries(TEXTS, VALUES, max_size=3)

Spell = Callable[[Any], str]


@dataclass(frozen=True)
class Style:
    """Another spelling of JSON."""

    text: Spell
    word: Spell = json.dumps
    key: Spell | None = None
    tail: str = ""
    """What stands behind the last member."""
    gap: str = ""
    """What stands wherever JSON allows space."""

    def write(self, value: Any) -> str:
        if isinstance(value, dict):
            key = self.key or self.text
            members = [f"{key(name)}:{self.gap} {self.write(item)}" for name, item in value.items()]
        elif isinstance(value, list):
            members = [self.write(item) for item in value]
        else:
            return self.text(value) if isinstance(value, str) else self.word(value)
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        body = f",{self.gap} ".join(members) + (self.tail if members else "")
        return f"{opening}{self.gap}{body}{self.gap}{closing}"


def plain(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def single(text: str) -> str:
    """Quotes a text as JavaScript does with single quotes."""
    inside = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"')
    return "'" + inside.replace("'", "\\'") + "'"


def raw(text: str) -> str:
    """Leaves line ends and tabs in a text as they are."""
    return (
        plain(text).replace("\\n", "\n").replace("\\t", "\t") if "\\" not in text else plain(text)
    )


def bare(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII) else plain(text)


HASH = '  # a "note"\n'
DAMAGES: dict[str, Spell] = {
    "fenced": lambda value: f"Sure!\n\n```json\n{json.dumps(value, indent=2)}\n```\nDone.",
    "fence left open": lambda value: f"```json\n{json.dumps(value)}",
    "in prose": lambda value: f"Here you are: {json.dumps(value)} I hope it helps.",
    "commas too many": Style(json.dumps, tail=", ").write,
    "single quotes": Style(single).write,
    "Python's repr": repr,
    "Python's words": Style(plain, repr).write,
    "line comments": Style(plain, gap=" // it's a note\n").write,
    "hash comments": Style(plain, gap=HASH).write,
    "block comments": Style(plain, gap=" /* [a], note */ ").write,
    "raw line ends": Style(raw).write,
    "keys without quotes": Style(plain, key=bare).write,
    "byte order mark": lambda value: "\ufeff" + json.dumps(value),
    "thoughts before": lambda value: f'<think>\n{{"no": 1}}\n</think>\n{json.dumps(value)}',
    "all at once": lambda value: (
        f"Well:\n```\n{Style(single, repr, single, ',', HASH).write(value)}\n```\nSee [1]."
    ),
}


def same(left: Any, right: Any) -> bool:
    """Tells whether two JSON values are equal and of equal types: 1 is not True, nor 1.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@settings(deadline=None)
@given(value=VALUES, indent=st.sampled_from([None, 2]), ascii_only=st.booleans())
def test_strict_json_is_read_as_it_is(value: Any, indent: int | None, ascii_only: bool) -> None:
    """What is JSON comes back equal in both modes, and nothing is said to be put right."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert same(read_json_strictly(text), value)
    reading = read_json(text)
    assert same(reading.value, value)
    assert reading.repairs == ()


@pytest.mark.parametrize("damage", DAMAGES)
@settings(max_examples=100, deadline=None)
@given(value=CONTAINERS)
def test_damaged_json_is_read_back_equal_or_refused(damage: str, value: Any) -> None:
    """Whatever is damaged, what comes back is the value itself, or an error."""
    text = DAMAGES[damage](value)
    try:
        reading = read_json(text)
    except Unreadable:
        return
    assert same(reading.value, value), text


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_damage_is_mended(damage: str) -> None:
    """Refusing is not all: a plain value with each kind of damage is read, and it is said."""
    value = {"name": "Lisa", "age": 41, "likes": ["tea", "rain\nand wind"], "ill": None, "in": True}
    reading = read_json(DAMAGES[damage](value))
    assert same(reading.value, value)
    assert reading.repairs or damage in ("fence left open", "byte order mark", "thoughts before")


@pytest.mark.parametrize("damage", DAMAGES)
@settings(max_examples=30, deadline=None)
@given(value=CONTAINERS)
def test_strictly_nothing_is_put_right(damage: str, value: Any) -> None:
    """In strict mode a damaged text is refused, or was no damage: then it comes back equal."""
    text = DAMAGES[damage](value)
    try:
        read = read_json_strictly(text)
    except Unreadable:
        return
    assert same(read, value)


def is_beginning(part: Any, whole: Any) -> bool:
    """Tells whether a value is what is left of another one whose end was cut off."""
    if isinstance(whole, dict) and isinstance(part, dict):
        part, whole = (
            [x for pair in part.items() for x in pair],
            [x for pair in whole.items() for x in pair],
        )
    if isinstance(whole, list) and isinstance(part, list):
        if len(part) > len(whole):
            return False
        before = all(same(a, b) for a, b in zip(part[:-1], whole, strict=False))
        return not part or (before and is_beginning(part[-1], whole[len(part) - 1]))
    if isinstance(whole, str) and isinstance(part, str):
        return whole.startswith(part)
    return same(part, whole)


@settings(max_examples=200, deadline=None)
@given(value=CONTAINERS, share=st.floats(0, 1), ascii_only=st.booleans())
def test_a_cut_end_leaves_a_beginning(value: Any, share: float, ascii_only: bool) -> None:
    """What is read of a cut answer is its beginning, never something else, and it is said."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    cut = text[: int(len(text) * share)]
    try:
        reading = read_json(cut)
    except Unreadable:
        return
    if not same(reading.value, value):
        assert is_beginning(reading.value, value)
        assert reading.value
        assert any("ends too early" in sentence for sentence in reading.repairs)


@settings(deadline=None)
@given(text=st.text(max_size=60) | st.text(alphabet="{}[]\",:'\\ ntu1.-/*#`\n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing that a model may write causes another error, or an empty value out of nothing."""
    try:
        value = read_json(text).value
    except Unreadable:
        return
    json.dumps(value, allow_nan=False).encode()
    if value in ({}, []):
        assert re.search(r"[{\[](?:\s|\ufeff|//[^\n]*|#[^\n]*|/\*.*?\*/)*[}\]]", text, re.DOTALL)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2', {"a": [1]}),
        ('{"a": "x", "b', {"a": "x"}),
        ('{"a": "x", "b":', {"a": "x"}),
        ('{"a": "he sai', {"a": "he sai"}),
        ('{"a": "x\\', {"a": "x"}),
        ('{"a": "x\\u00', {"a": "x"}),
        ('{"a": "x\\ud83d', {"a": "x"}),
        ('{"a": [1, 2], "b": {"c": tr', {"a": [1, 2]}),
        ('```json\n{"a": 1, "b": [\n```', {"a": 1}),
    ],
)
def test_the_end_that_is_missing(text: str, value: Any) -> None:
    """Half a text is kept; half a number, word or key is another one and is left out."""
    reading = read_json(text)
    assert reading.value == value
    assert "ends too early" in reading.repairs[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "he said "hi" to me"}', {"a": 'he said "hi" to me'}),
        ("{'a': 'it's fine', 'b': 1}", {"a": "it's fine", "b": 1}),
        ('{"a": "he said "hi", and left", "b": 2}', {"a": 'he said "hi", and left', "b": 2}),
        ('[{"b": [1}]', [{"b": [1]}]),
    ],
)
def test_what_is_not_certain_is_guessed_and_said(text: str, value: Any) -> None:
    """Quotes that were not escaped are a guess, and the result says so."""
    reading = read_json(text)
    assert reading.value == value
    assert "a guess" in reading.repairs[0]


@pytest.mark.parametrize(
    "text",
    [
        *("", "   ", "I would rather not.", "[", "{", '{"a', '{"a":', '{"a": 1', "[[[[", '{"a": ['),
        *(
            "[sighs] {name}",
            "{name: Lisa}",
            "[1, 2, ...]",
            '{"a": ...}',
            "[NaN]",
            '{"a": Infinity}',
        ),
        *(
            '{"a": 1e999}',
            '{"a": 007}',
            '{"a": undefined}',
            "[1,,2]",
            '{"a": }',
            '{"a": [1}, "b": }',
            '{"a": 5 kg}',
            "12:30 [12:30]",
        ),
        *('{"a": "x "y" [1], "b": 12', '{"a": "he "x" y", "l": {"k": 1}, "b": 12'),
        *("[" * 100_000, '{"a":' * 50_000, '```json\n{"a": nothing}\n```\n{"b": 1}'),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    """There is no empty object, and no smaller one from inside, in place of what is unreadable."""
    with pytest.raises(Unreadable):
        read_json(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{'a': 1}", '{"a": 1,}', '{"a": 1, "a": 2}', "[NaN]", "[1e999]", '["\\ud83d"]'),
        *('{"a": 1} ok', '```json\n{"a": 1}\n```', '{"a": "x\ny"}', "[" * 100_000, "[01]"),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_is_not_strict(text: str) -> None:
    """Strict is strict: doubled keys, half characters and numbers without end are refused, too."""
    with pytest.raises(Unreadable):
        read_json_strictly(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('As in [1], at [12:30]: {"a": 1}', {"a": 1}),
        ('An empty {}, then {"a": 1}', {"a": 1}),
        ("As in [1].", [1]),
        ('[sighs [deeply]] {{name}} {"a": 1}', {"a": 1}),
        ('{"a": 1} {"b": 2}', {"a": 1}),
        ('```python\nd = {"x": 1}\n```\n```json\n{"a": 1}\n```', {"a": 1}),
        ('{"a": "```json\\n{}\\n```"}', {"a": "```json\n{}\n```"}),
    ],
)
def test_which_json_counts(text: str, value: Any) -> None:
    """The first that was meant as an answer: fenced before prose, references in prose last."""
    assert read_json(text).value == value


def test_objects_are_preferred_where_one_is_wanted() -> None:
    """A list in prose is passed over for the object that is looked for."""
    text = 'Of ["a", "b"] I take {"choice": "a"}.'
    assert read_json(text).value == ["a", "b"]
    assert read_json(text, objects_only=True).value == {"choice": "a"}


def test_repairs_are_told_with_their_lines() -> None:
    """Each kind of repair is one sentence with the first line and the number of times."""
    reading = read_json("{'a': 1, # one\n'b': None,}")
    assert reading == Reading(
        {"a": 1, "b": None},
        (
            "quotes of another kind were read as double ones (line 1, 2 times in all)",
            "a comment was left out (line 1)",
            "True, False or None of Python was read as JSON's (line 2)",
            "a comma before a closing bracket was left out (line 2)",
        ),
    )


def test_a_long_answer_takes_no_long_time() -> None:
    """Reading takes time in proportion to the answer, however it is broken."""
    members = ", ".join(f"'key {number}': 'it\\'s {number}'" for number in range(20_000))
    assert len(read_json(f"{{{members}}}").value) == 20_000
    for text in ("{a " * 50_000, "[x] " * 50_000, '"' * 100_000, "```\n" * 20_000, "/*" * 50_000):
        with pytest.raises(Unreadable):
            read_json(text)
