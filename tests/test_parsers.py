"""The parsers: what each reads, puts up with, refuses and says."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import json
import pickle
from typing import Any

import pytest
from fakes import chat_content
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from tinytroupe.llm.errors import BadRequest, ContentFiltered, ParseError
from tinytroupe.llm.response import Response, parse_response
from tinytroupe.llm.talk.parsers import (
    ChoiceParser,
    CodeBlockParser,
    JsonBlockParser,
    JsonDictParser,
    MultiTagParser,
    Parser,
    TagParser,
)
from tinytroupe.llm.talk.shapes import make_shape

PARSERS: list[Any] = [
    JsonBlockParser(),
    JsonBlockParser(strict=True),
    JsonDictParser(required_keys=["a"]),
    TagParser("plan"),
    TagParser("plan", parse_json=True, strict=True),
    MultiTagParser("thought", "speak"),
    CodeBlockParser("python"),
    CodeBlockParser(strict=True),
    ChoiceParser(["yes", "no"]),
    ChoiceParser(["yes", "no"], strict=True),
]


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Person(BaseModel):
    name: str
    age: int = Field(ge=0)
    born: datetime.date | None = None
    mood: Mood = Mood.GOOD


@dataclasses.dataclass
class Place:
    city: str
    inhabitants: int


PLACE = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2},
        "inhabitants": {"type": "integer", "minimum": 1},
        "rivers": {"type": "array", "items": {"$ref": "#/$defs/river"}},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"river": {"enum": ["Mur", "Donau"]}},
}


def answer(text: str | None, finish_reason: str = "stop", **message: Any) -> Response:
    return parse_response("chat", chat_content(text, finish_reason, **message))


def refuse(parser: Parser, text: str) -> ParseError:
    """Returns the error of an answer that must not be read."""
    with pytest.raises(ParseError) as caught:
        parser.parse(answer(text))
    return caught.value


class TestEveryParser:
    """What all of them promise."""

    @pytest.mark.parametrize("parser", PARSERS, ids=repr)
    @pytest.mark.parametrize("text", ["", "  \n"])
    def test_an_empty_answer_is_an_error(self, parser: Any, text: str) -> None:
        """Nothing is made out of nothing; the error names what was wanted."""
        error = refuse(parser, text)
        assert error.message == f"wanted {parser.wanted}, but the answer is empty"
        assert error.model == "fake"

    @pytest.mark.parametrize("parser", PARSERS, ids=repr)
    @settings(max_examples=60, deadline=None)
    @given(text=st.text(max_size=40) | st.text(alphabet='<plan>/{}[]":`yesno\n ', max_size=40))
    def test_any_answer_is_read_or_refused(self, parser: Any, text: str) -> None:
        """Whatever a model writes, the result is a value or a ParseError with the whole answer."""
        with contextlib.suppress(ParseError):
            parser.parse(answer(text))
            return
        error = refuse(parser, text)
        assert error.wanted == parser.wanted
        assert error.answer == (text if text.strip() else "")

    @pytest.mark.parametrize("parser", PARSERS, ids=repr)
    def test_the_model_is_told_how(self, parser: Any) -> None:
        """Each has an instruction for the prompt."""
        assert parser.format_instruction.startswith("Answer ")

    def test_the_response_comes_along(self) -> None:
        """What the response knows is on the result, which cannot be changed and can travel."""
        response = answer('{"a": 1}')
        parsed = JsonBlockParser().parse(response)
        assert (parsed.response, parsed.text) == (response, '{"a": 1}')
        assert (parsed.usage, parsed.model) == (response.usage, "fake")
        assert (parsed.finish_reason, parsed.raw) == ("stop", response.raw)
        with pytest.raises(dataclasses.FrozenInstanceError):
            parsed.parsed = {}  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(parsed)) == parsed

    def test_the_place_is_shown(self) -> None:
        """The error tells line and column and shows what stands there."""
        error = refuse(JsonBlockParser(), 'Here:\n{"a": 1,\n "b": nothing}')
        assert (error.line, error.column) == (3, 7)
        assert error.excerpt.endswith('"b": ▸nothing}')
        assert "wanted JSON" in str(error)
        assert "see line 3, column 7" in str(error)
        assert pickle.loads(pickle.dumps(error)).line == 3

    def test_a_cut_answer_is_said_to_be_cut(self) -> None:
        """That the maximum of tokens was reached explains the error."""
        with pytest.raises(ParseError, match="cut at the maximum of tokens"):
            JsonBlockParser().parse(answer('{"a', "length"))

    def test_a_withheld_answer_is_another_error(self) -> None:
        """What the content filter took is not a wrong format."""
        with pytest.raises(ContentFiltered):
            JsonBlockParser().parse(answer(None, "content_filter"))


class TestJson:
    """`JsonBlockParser` and `JsonDictParser`; how JSON is read is tested in its own file."""

    @pytest.mark.parametrize("value", [{"a": [1]}, [1, "x"], "text", 7, None, True])
    def test_any_value_may_come(self, value: Any) -> None:
        """A block parser takes whatever JSON has."""
        assert JsonBlockParser().parse(answer(json.dumps(value))).parsed == value

    def test_what_was_repaired_is_said(self) -> None:
        """The result tells what was put right, and where."""
        parsed = JsonBlockParser().parse(answer("```json\n{'a': 1,}\n```"))
        assert parsed.parsed == {"a": 1}
        assert parsed.repairs == (
            "quotes of another kind were read as double ones (line 2)",
            "a comma before a closing bracket was left out (line 2)",
        )

    @pytest.mark.parametrize("text", ["```json\n{}\n```", "{'a': 1}", '{"a": 1} ok', '{"a": 1'])
    def test_strict_puts_nothing_right(self, text: str) -> None:
        """Neither fences nor prose nor commas are put up with."""
        parser = JsonBlockParser(strict=True)
        refuse(parser, text)
        assert "no code fence" in parser.format_instruction
        assert parser.parse(answer(' {"a": 1}\n')).parsed == {"a": 1}

    def test_hints_are_shown(self) -> None:
        """A hint is a text as it is, or a value as JSON."""
        assert "\n<anything>\n" in JsonBlockParser("<anything>").format_instruction
        assert '{"name": "Zoë"}' in JsonBlockParser({"name": "Zoë"}).format_instruction
        with pytest.raises(BadRequest, match="content_hint"):
            JsonBlockParser({"a": object()})

    @pytest.mark.parametrize("given", ["content_hint", "schema"])
    def test_a_pydantic_class_is_filled(self, given: str) -> None:
        """The value is the class's own, with its own types, and the schema is in the prompt."""
        options: dict[str, Any] = {given: Person}
        parser = JsonBlockParser(**options)
        text = '{"name": "Lisa", "age": 41, "born": "1984-05-06", "mood": "bad"}'
        born = datetime.date(1984, 5, 6)
        expected = Person(name="Lisa", age=41, born=born, mood=Mood.BAD)
        assert parser.parse(answer(text)).parsed == expected
        assert '"title": "Person"' in parser.format_instruction

    def test_other_types_are_filled_too(self) -> None:
        """Lists of classes and dataclasses are types like others."""
        people = JsonBlockParser(schema=list[Person]).parse(answer('[{"name": "A", "age": 1}]'))
        assert people.parsed == [Person(name="A", age=1)]
        place = JsonBlockParser(schema=Place).parse(answer('{"city": "Graz", "inhabitants": 3}'))
        assert place.parsed == Place("Graz", 3)

    def test_what_does_not_fit_is_named(self) -> None:
        """The error names each field that is wrong, what it should be and what it is."""
        error = refuse(JsonBlockParser(schema=Person), '{"age": -1, "mood": "so so"}')
        assert "name: Field required" in error.message
        assert "age: Input should be greater than or equal to 0, not -1" in error.message
        assert "mood: Input should be 'good' or 'bad', not \"so so\"" in error.message

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ({}, "the value lacks 'city'"),
            ([], "the value must be of type object, not []"),
            ({"city": "G"}, 'city is "G", which breaks minLength 2'),
            ({"city": "Graz", "inhabitants": 0.5}, "inhabitants must be of type integer, not 0.5"),
            ({"city": "Graz", "inhabitants": 0}, "inhabitants is 0, which breaks minimum 1"),
            ({"city": "Graz", "rivers": ["Mur", "Po"]}, 'rivers[1] must be "Mur" or "Donau"'),
            ({"city": "Graz", "x": 1}, "x must not be there"),
        ],
    )
    def test_a_json_schema_is_checked(self, value: Any, said: str) -> None:
        """A schema as a dictionary is checked as well, and the error names the place inside."""
        assert said in refuse(JsonBlockParser(schema=PLACE), json.dumps(value)).message

    def test_what_fits_a_json_schema_stays_as_it_is(self) -> None:
        """A dictionary as the schema gives plain values."""
        value = {"city": "Graz", "inhabitants": 300_000, "rivers": ["Mur"]}
        assert JsonBlockParser(schema=PLACE).parse(answer(json.dumps(value))).parsed == value

    @pytest.mark.parametrize(
        "schema",
        [
            *({"not": {}}, {"properties": {"a": {"if": {}}}}, {"type": "objekt"}, {"enum": 5}),
            *({"$ref": "#/nowhere"}, {"type": object()}, 5, "Person", object(), print),
        ],
    )
    def test_a_schema_that_cannot_be_checked_is_refused(self, schema: Any) -> None:
        """No keyword is passed over in silence; what is no schema at all is said to be none."""
        with pytest.raises(BadRequest, match="schema"):
            make_shape(schema)


class TestDictionaries:
    """Where the parts of a dictionary go, as users of AgentScope know it."""

    TEXT = '{"thought": "Hm.", "speak": "Hello.", "mood": 3}'

    def test_parts_go_where_they_belong(self) -> None:
        """A key gives its value, several give a dictionary, True all and False nothing."""
        parser = JsonDictParser(
            required_keys=["thought"],
            keys_to_memory=["thought", "speak"],
            keys_to_content="speak",
            keys_to_metadata=["mood"],
        )
        parsed = parser.parse(answer(self.TEXT))
        assert parsed.parsed == {"thought": "Hm.", "speak": "Hello.", "mood": 3}
        assert parsed.content == "Hello."
        assert parsed.metadata == {"mood": 3}
        assert parsed.memory == {"thought": "Hm.", "speak": "Hello."}
        assert parser.to_content(parsed.parsed) == parsed.content
        assert parser.to_metadata(parsed.parsed) == parsed.metadata
        assert parser.to_memory(parsed.parsed) == parsed.memory

    def test_by_itself_all_is_content(self) -> None:
        """Unless told, everything is for conversation and memory, and nothing for the program."""
        parsed = JsonDictParser().parse(answer(self.TEXT))
        assert parsed.content == parsed.memory == parsed.parsed
        assert parsed.metadata is None
        silent = JsonDictParser(keys_to_content=False).parse(answer(self.TEXT))
        assert silent.content is None

    @pytest.mark.parametrize(
        "options",
        [
            {"required_keys": ["thought", "plan", "goal"]},
            {"keys_to_content": ["plan", "goal"]},
            {"keys_to_metadata": ["thought", "plan", "goal"]},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_missing_keys_are_named(self, options: dict[str, Any]) -> None:
        """A key that is required, or goes somewhere, must be there."""
        error = refuse(JsonDictParser(**options), self.TEXT)
        assert "lacks the keys 'plan', 'goal'; its keys are: 'thought', 'speak', 'mood'" in str(
            error
        )

    def test_the_keys_are_in_the_instruction(self) -> None:
        """The model is shown an object with the keys, and told that they must be there."""
        told = JsonDictParser(required_keys=["a"], keys_to_content="b").format_instruction
        assert '{"a": ..., "b": ...}' in told
        assert told.endswith("It must have these keys: a, b")

    @pytest.mark.parametrize("text", ['["a"]', "7", '"text"', "null", '[{"thought": "x"}]'])
    def test_what_is_no_object_is_refused(self, text: str) -> None:
        """A list is not an object, not even one that holds the object."""
        assert "wanted a JSON object, but what came is" in refuse(JsonDictParser(), text).message

    def test_a_pydantic_class_gives_its_fields(self) -> None:
        """The dictionary is that of the class, with its types and defaults."""
        parsed = JsonDictParser(Person, keys_to_content="name").parse(
            answer('{"name": "Lisa", "age": 41}')
        )
        assert parsed.parsed == {"name": "Lisa", "age": 41, "born": None, "mood": Mood.GOOD}
        assert parsed.content == "Lisa"

    def test_one_text_is_no_list_of_keys(self) -> None:
        """A text in place of a list of keys is a mistake that is named."""
        with pytest.raises(BadRequest, match="required_keys is a text"):
            JsonDictParser(required_keys="thought")


class TestTags:
    """`TagParser` and `MultiTagParser`."""

    @pytest.mark.parametrize(
        ("text", "inside", "repaired"),
        [
            ("<plan> walk </plan>", "walk", False),
            ("Well.\n<plan>\nwalk\n</plan>\nDone.", "walk", False),
            ("<plan></plan>", "", False),
            ("I write <plan> first. <plan>walk</plan>", "walk", True),
            ("<Plan>walk</PLAN>", "walk", True),
            ("<plan>walk", "walk", True),
            ("<plan>walk</plan> <plan>run</plan>", "walk", False),
        ],
    )
    def test_what_is_between_the_tags(self, text: str, inside: str, repaired: bool) -> None:
        """The first pair counts; a tag in prose, other letters and a missing end are said."""
        parsed = TagParser("plan").parse(answer(text))
        assert parsed.parsed == parsed.content == inside
        assert bool(parsed.repairs) == repaired

    @pytest.mark.parametrize(
        "text", ["<Plan>x</Plan>", "<plan>x", "<plan> <plan>x</plan>", "x</plan>", "plan"]
    )
    def test_strict_tags(self, text: str) -> None:
        """Strictly, the tags stand there as they are, and once."""
        refuse(TagParser("plan", strict=True), text)

    def test_other_tags(self) -> None:
        """Tags may look as one likes; the end of a bracketed one is made of its beginning."""
        parser = TagParser("thought", "[THOUGHT]", "what you think")
        assert parser.show() == "[THOUGHT]what you think[/THOUGHT]"
        assert parser.parse(answer("[THOUGHT]Hm.[/THOUGHT]")).parsed == "Hm."
        assert TagParser("x", "###", tag_end="###").parse(answer("### a ### b")).parsed == "a"
        for wrong in ({"tag_begin": "###"}, {"tag_begin": ""}, {"name": ""}):
            with pytest.raises(BadRequest):
                TagParser(**{"name": "x", **wrong})

    def test_json_between_tags(self) -> None:
        """JSON between tags is read as elsewhere, and errors show its place in the answer."""
        parser = TagParser("plan", parse_json=True)
        parsed = parser.parse(answer("Well:\n<plan>{'a': 1}</plan>"))
        assert parsed.parsed == {"a": 1}
        assert parsed.repairs == ("quotes of another kind were read as double ones (line 2)",)
        error = refuse(parser, 'Well:\n<plan>{"a": NaN}</plan>')
        assert (error.line, error.column) == (2, 13)
        refuse(TagParser("plan", parse_json=True, strict=True), "<plan>{'a': 1}</plan>")

    def test_several_tags(self) -> None:
        """Each name has its text; parts go where they belong."""
        parser = MultiTagParser(
            "thought",
            TagParser("speak", "[SPEAK]", "what you say"),
            TagParser("scores", parse_json=True),
            keys_to_content="speak",
            keys_to_metadata=["scores"],
        )
        text = "<thought>Hm.</thought>[SPEAK]Hi![/SPEAK]<scores>[1, 2]</scores>"
        parsed = parser.parse(answer(text))
        assert parsed.parsed == {"thought": "Hm.", "speak": "Hi!", "scores": [1, 2]}
        assert (parsed.content, parsed.metadata) == ("Hi!", {"scores": [1, 2]})
        assert (parser.to_content(parsed.parsed), parser.to_memory(parsed.parsed)) == (
            "Hi!",
            parsed.parsed,
        )
        assert parser.to_metadata(parsed.parsed) == {"scores": [1, 2]}
        assert "[SPEAK]what you say[/SPEAK]" in parser.format_instruction
        assert "In <scores> there must be JSON" in parser.format_instruction

    def test_a_tag_ends_where_the_next_begins(self) -> None:
        """A missing end does not swallow the other tags."""
        parsed = MultiTagParser("thought", "speak").parse(
            answer("<thought>Hm.\n<speak>Hi!</speak>")
        )
        assert parsed.parsed == {"thought": "Hm.", "speak": "Hi!"}
        assert parsed.repairs == ("<thought> was not closed (line 1)",)

    def test_tags_that_may_be_missing(self) -> None:
        """Only the tags that are said to may be missing."""
        parser = MultiTagParser("thought", "speak", keys_allow_missing=["thought"])
        assert parser.parse(answer("<speak>Hi!</speak>")).parsed == {"speak": "Hi!"}
        assert "it lacks <speak>" in refuse(parser, "<thought>Hm.</thought>").message

    @pytest.mark.parametrize(
        ("tags", "options"),
        [
            ((), {}),
            (("a", "a"), {}),
            (("a",), {"keys_to_content": "b"}),
            (("a",), {"keys_allow_missing": ["b"]}),
        ],
    )
    def test_tags_that_make_no_sense(self, tags: Any, options: Any) -> None:
        """No tag, a name twice and a key without a tag are refused at once."""
        with pytest.raises(BadRequest):
            MultiTagParser(*tags, **options)

    @given(
        texts=st.dictionaries(
            st.sampled_from(["thought", "speak", "plan"]),
            st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<>")).map(str.strip),
            min_size=1,
        ),
        prose=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<>")),
        strict=st.booleans(),
    )
    def test_what_was_written_comes_back(
        self, texts: dict[str, str], prose: str, strict: bool
    ) -> None:
        """Whatever stands between the tags, in any order and with any prose, comes back."""
        written = prose.join(f"<{name}>{text}</{name}>" for name, text in texts.items())
        parser = MultiTagParser(*sorted(texts), strict=strict)
        parsed = parser.parse(answer(prose + written + prose))
        assert (parsed.parsed, parsed.repairs) == (texts, ())


class TestCode:
    """`CodeBlockParser`."""

    @pytest.mark.parametrize(
        ("text", "code", "repaired"),
        [
            ("```python\nprint(1)\n```", "print(1)", False),
            ("So:\n\n```Python\nx = 1\n\ny = 2\n```\nDone.", "x = 1\n\ny = 2", False),
            ("```bash\nls\n```\n```python\nx\n```", "x", False),
            ("````python\n```\nx\n```\n````", "```\nx\n```", False),
            ("~~~python\nx\n~~~", "x", False),
            ("```\nx\n```", "x", True),
            ("```py\nx\n```", "x", True),
            ("```python3\nx\n```", "x", True),
            ("```python\nx = 1\n", "x = 1", True),
            ("```python\nx```", "x", True),
            ("<think>\n```python\nno\n```\n</think>\n```python\nx\n```", "x", False),
        ],
    )
    def test_the_code_inside_the_fences(self, text: str, code: str, repaired: bool) -> None:
        """A block of the language goes before others; what was put up with is said."""
        parsed = CodeBlockParser("python").parse(answer(text))
        assert (parsed.parsed, bool(parsed.repairs)) == (code, repaired)

    @pytest.mark.parametrize("text", ["print(1)", "```bash\nls\n```", "`x`", "```python x```"])
    def test_what_is_not_such_code(self, text: str) -> None:
        """Prose is no code, and a block of another language is another language."""
        refuse(CodeBlockParser("python"), text)

    @pytest.mark.parametrize(
        "text", ["```\nx\n```", "```python\nx", "So: ```python\nx\n```", "```python\nx\n```\nDone."]
    )
    def test_strict_code(self, text: str) -> None:
        """Strictly, the answer is one block of that language."""
        refuse(CodeBlockParser("python", strict=True), text)
        assert CodeBlockParser(strict=True).parse(answer("```\nx\n```")).parsed == "x"

    def test_code_is_never_run(self) -> None:
        """What is read is text."""
        code = "raise SystemExit('run')"
        parsed = CodeBlockParser("python").parse(answer(f"```python\n{code}\n```"))
        assert parsed.parsed == code

    def test_the_instruction_shows_the_fence(self) -> None:
        """The language and the hint are in the instruction."""
        assert "```sql\nSELECT …\n```" in CodeBlockParser("sql", "SELECT …").format_instruction


class TestChoices:
    """`ChoiceParser`."""

    PARSER = ChoiceParser(["yes", "no", "don't know"])

    @pytest.mark.parametrize(
        ("text", "choice"),
        [
            ("yes", "yes"),
            (" no \n", "no"),
            ("Yes.", "yes"),
            ("**No**", "no"),
            ('"don\'t know"', "don't know"),
            ("- no", "no"),
            ("My answer is: yes!", "yes"),
            ("**Answer:** No", "no"),
            ("Yes, because I like it.", "yes"),
            ("No\n\nIt is too dear.", "no"),
            ("I thought about it.\n\nFinal answer: Yes", "yes"),
            ("<think>yes or no?</think>\nno", "no"),
        ],
    )
    def test_the_choice_that_is_made(self, text: str, choice: str) -> None:
        """The choice comes back as it was given; whatever differs from it is said."""
        parsed = self.PARSER.parse(answer(text))
        assert parsed.parsed == choice
        assert bool(parsed.repairs) == (text.strip() != choice)

    @pytest.mark.parametrize(
        "text",
        [
            "I would not say yes",
            "yes\nno",
            "Yes, or rather no.",
            "maybe",
            "yesterday",
            "Options:\n- yes\n- no",
            "nothing",
        ],
    )
    def test_a_choice_that_is_only_mentioned_is_none(self, text: str) -> None:
        """An answer that names a choice without making it, or makes two, is refused."""
        error = refuse(self.PARSER, text)
        assert error.wanted == "one of: yes, no, don't know"

    @pytest.mark.parametrize("text", ["Yes", "yes.", "yes, of course"])
    def test_strict_choices(self, text: str) -> None:
        """Strictly, the answer is the choice and nothing else."""
        refuse(ChoiceParser(["yes", "no"], strict=True), text)

    def test_a_longer_choice_goes_before_a_shorter(self) -> None:
        """`strongly agree` is not `agree`, and -2 is not 2."""
        scale = ChoiceParser(["agree", "strongly agree", "disagree"])
        assert scale.parse(answer("Strongly agree, of course.")).parsed == "strongly agree"
        assert scale.parse(answer("Agree. I like it.")).parsed == "agree"
        numbers = ChoiceParser(["-2", "-1", "0", "1", "2"])
        assert numbers.parse(answer("**-2**")).parsed == "-2"
        refuse(numbers, "1.5")
        refuse(numbers, "12")

    def test_an_enumeration_gives_its_members(self) -> None:
        """The choices of an enumeration are its values, and what is parsed is the member."""
        assert ChoiceParser(Mood).parse(answer("Good!")).parsed is Mood.GOOD

    @pytest.mark.parametrize("choices", [[], [""], ["yes", "Yes"], "yes", [1, 2]], ids=repr)
    def test_choices_that_are_none(self, choices: Any) -> None:
        """Choices must be texts that can be told apart."""
        with pytest.raises(BadRequest):
            ChoiceParser(choices)

    @given(
        choices=st.lists(
            st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1),
            min_size=1,
            unique_by=str.casefold,
        ),
        data=st.data(),
    )
    def test_each_choice_is_read_as_itself(self, choices: list[str], data: Any) -> None:
        """Whatever the choices are, one that is written plainly is that one."""
        choice = data.draw(st.sampled_from(choices))
        assert ChoiceParser(choices).parse(answer(choice)).parsed == choice
        assert ChoiceParser(choices, strict=True).parse(answer(choice)).parsed == choice
