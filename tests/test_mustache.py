"""Mustache: the specification's core, errors that say where, and values that stay data."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.llm.errors import TemplateError
from tinytroupe.llm.talk import mustache


def make_load(partials: Mapping[str, str]) -> Callable[[str], mustache.Template]:
    """Returns a loader that finds partials in a mapping."""

    def load(name: str) -> mustache.Template:
        if name not in partials:
            raise FileNotFoundError(f"there is no template {name!r}")
        return mustache.parse(partials[name], name)

    return load


def show(template: str, values: object, partials: Mapping[str, str] = MappingProxyType({})) -> str:
    """Renders as prompts are rendered: strict, nothing escaped."""
    return mustache.render(mustache.parse(template, "here.mustache"), values, make_load(partials))


def show_by_specification(
    template: str, values: object, partials: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Renders as the mustache specification has it: lenient, escaped for HTML."""
    parsed = mustache.parse(template, "here.mustache")
    return mustache.render(parsed, values, make_load(partials), escape=True, strict=False)


LISA = {"name": "Lisa", "age": 41, "height": 1.70, "firm": {"name": "Globex", "town": {"zip": 8}}}
MARKUP = 'Q&A <b>"now"</b>'
ESCAPED = "Q&amp;A &lt;b&gt;&quot;now&quot;&lt;/b&gt;"

COMMENTS = {
    "inside a line": ("Li{{! her name }}sa", {}, "Lisa"),
    "over several lines": ("Li{{!\n her\n name\n}}sa\n", {}, "Lisa\n"),
    "alone on a line": ("one\n{{! gone }}\ntwo\n", {}, "one\ntwo\n"),
    "alone and indented": ("one\n\t {{! gone }}\ntwo\n", {}, "one\ntwo\n"),
    "alone before a Windows line end": ("one\r\n{{! gone }}\r\ntwo", {}, "one\r\ntwo"),
    "alone in the first line": (" {{! gone }}\ntwo", {}, "two"),
    "alone in the last line": ("one\n {{! gone }}", {}, "one\n"),
    "alone over several lines": ("one\n{{!\ngone\n}}\ntwo\n", {}, "one\ntwo\n"),
    "alone, indented, over several lines": ("one\n  {{!\n gone\n  }}\ntwo\n", {}, "one\ntwo\n"),
    "after text on an indented line": ("  one {{! gone }}\n", {}, "  one \n"),
    "between spaces": ("one {{! gone }} two", {}, "one  two"),
    "called like a variable": (
        "<{{! name }}>",
        {"name": "no", "! name": "no", "! name ": "no", "!name": "no"},
        "<>",
    ),
}

DELIMITERS = {
    "changed": ("{{=(( ))=}}[((name))]", LISA, "[Lisa]"),
    "with a meaning in regular expressions": ("[{{=( )=}}(name)]", LISA, "[Lisa]"),
    "kept outside a section": (
        "<\n{{#firm}}\n  {{name}}\n  $name$\n{{/firm}}\n\n"
        "{{= $ $ =}}\n$#firm$\n  {{name}}\n  $name$\n$/firm$\n>\n",
        LISA,
        "<\n  Globex\n  $name$\n\n  {{name}}\n  Globex\n>\n",
    ),
    "kept outside an inverted section": (
        "<\n{{^job}}\n  {{name}}\n  $name$\n{{/job}}\n\n"
        "{{= $ $ =}}\n$^job$\n  {{name}}\n  $name$\n$/job$\n>\n",
        LISA,
        "<\n  Lisa\n  $name$\n\n  {{name}}\n  Lisa\n>\n",
    ),
    "not handed down to a partial": (
        "{{>who}}\n{{= $ $ =}}\n$>who$\n",
        LISA,
        "<Lisa><Lisa>",
        {"who": "<{{name}}>"},
    ),
    "not handed back by a partial": (
        "{{>who}}, {{name}} or $name$",
        LISA,
        "Lisa and  Lisa, Lisa or $name$",
        {"who": "{{name}} and {{= $ $ =}} $name$"},
    ),
    "between spaces": ("one {{=$ $=}} two", {}, "one  two"),
    "after text in a line": (" one {{=$ $=}}\n", {}, " one \n"),
    "alone on a line": ("one\n{{=$ $=}}\ntwo\n", {}, "one\ntwo\n"),
    "alone and indented": ("one\n  {{=$ $=}}\ntwo\n", {}, "one\ntwo\n"),
    "alone before a Windows line end": ("one\r\n{{=$ $=}}\r\ntwo", {}, "one\r\ntwo"),
    "alone in the first line": ("  {{=$ $=}}\ntwo", {}, "two"),
    "alone in the last line": ("one\n  {{=$ $=}}", {}, "one\n"),
    "with spaces around them": ("<{{=   $    $   =}}>", {}, "<>"),
}

INTERPOLATION = {
    "a template without tags": ("Dear {Lisa},\n", {}, "Dear {Lisa},\n"),
    "a text": ("Dear {{name}},\n", LISA, "Dear Lisa,\n"),
    "a value that looks like a tag": ("{{a}} {{b}}", {"a": "{{b}}", "b": "c"}, "{{b}} c"),
    "escaped": ("<{{text}}>", {"text": MARKUP}, f"<{ESCAPED}>"),
    "three braces are raw": ("<{{{text}}}>", {"text": MARKUP}, f"<{MARKUP}>"),
    "an ampersand is raw": ("<{{&text}}>", {"text": MARKUP}, f"<{MARKUP}>"),
    "a whole number": ("{{age}} years", LISA, "41 years"),
    "a raw whole number": ("{{{age}}} years", LISA, "41 years"),
    "an ampersand and a whole number": ("{{&age}} years", LISA, "41 years"),
    "a decimal": ("{{height}} m", LISA, "1.7 m"),
    "a raw decimal": ("{{{height}}} m", LISA, "1.7 m"),
    "an ampersand and a decimal": ("{{&height}} m", LISA, "1.7 m"),
    "nothing": ("<{{job}}>", {"job": None}, "<>"),
    "raw nothing": ("<{{{job}}}>", {"job": None}, "<>"),
    "an ampersand and nothing": ("<{{&job}}>", {"job": None}, "<>"),
    "a missing name": ("<{{job}}>", {}, "<>"),
    "a raw missing name": ("<{{{job}}}>", {}, "<>"),
    "an ampersand and a missing name": ("<{{&job}}>", {}, "<>"),
    "a dotted name is short for a section": (
        "{{firm.name}} = {{#firm}}{{name}}{{/firm}}",
        LISA,
        "Globex = Globex",
    ),
    "a raw dotted name": (
        "{{{firm.name}}} = {{#firm}}{{{name}}}{{/firm}}",
        LISA,
        "Globex = Globex",
    ),
    "an ampersand and a dotted name": (
        "{{&firm.name}} = {{#firm}}{{&name}}{{/firm}}",
        LISA,
        "Globex = Globex",
    ),
    "a deep dotted name": (
        "{{p.q.r.s.t.name}}",
        {"p": {"q": {"r": {"s": {"t": {"name": "Lisa"}}}}}},
        "Lisa",
    ),
    "a dotted name that breaks": ("<{{firm.job.name}}>", {"firm": {}}, "<>"),
    "a dotted name is not taken up elsewhere": (
        "<{{firm.job.boss.name}}>",
        {"firm": {"job": {}}, "boss": {"name": "wrong"}},
        "<>",
    ),
    "a dotted name begins in the innermost section": (
        "{{#firm}}{{boss.home.town}}{{/firm}}",
        {"firm": {"boss": {"home": {"town": "Graz"}}}, "boss": {"home": {"town": "wrong"}}},
        "Graz",
    ),
    "a dotted name goes on in what its beginning found": (
        "<{{#firm}}{{boss.name}}{{/firm}}>",
        {"firm": {"boss": {}}, "boss": {"name": "wrong"}},
        "<>",
    ),
    "a key with a dot is not a dotted name": ("<{{firm.name}}>", {"firm.name": "wrong"}, "<>"),
    "a key with a dot hides nothing": (
        "{{firm.name}}",
        {"firm.name": "wrong", "firm": {"name": "Globex"}},
        "Globex",
    ),
    "the item itself": ("Dear {{.}},\n", "Lisa", "Dear Lisa,\n"),
    "the item itself, escaped": ("<{{.}}>", MARKUP, f"<{ESCAPED}>"),
    "the item itself, in three braces": ("<{{{.}}}>", MARKUP, f"<{MARKUP}>"),
    "the item itself, after an ampersand": ("<{{&.}}>", MARKUP, f"<{MARKUP}>"),
    "the item itself, a number": ("{{.}} years", 41, "41 years"),
    "spaces around it stay": ("< {{name}} >", LISA, "< Lisa >"),
    "spaces around three braces stay": ("< {{{name}}} >", LISA, "< Lisa >"),
    "spaces around an ampersand stay": ("< {{&name}} >", LISA, "< Lisa >"),
    "alone on a line it is text": ("  {{name}}\n", LISA, "  Lisa\n"),
    "three braces alone on a line are text": ("  {{{name}}}\n", LISA, "  Lisa\n"),
    "an ampersand alone on a line is text": ("  {{&name}}\n", LISA, "  Lisa\n"),
    "spaces in the tag do not count": ("<{{ name }}>", LISA, "<Lisa>"),
    "spaces in three braces do not count": ("<{{{  name  }}}>", LISA, "<Lisa>"),
    "spaces after an ampersand do not count": ("<{{&  name  }}>", LISA, "<Lisa>"),
}

NESTED = (
    "{{#a}}\n{{i}}\n{{#b}}\n{{i}}{{j}}{{i}}\n{{#c}}\n{{i}}{{j}}{{k}}{{j}}{{i}}\n"
    "{{#l}}\n{{i}}{{j}}{{k}}{{l}}{{.}}{{k}}{{j}}{{i}}\n{{/l}}\n"
    "{{i}}{{j}}{{k}}{{j}}{{i}}\n{{/c}}\n{{i}}{{j}}{{i}}\n{{/b}}\n{{i}}\n{{/a}}\n"
)

SECTIONS = {
    "true": ("<{{#retired}}yes{{/retired}}>", {"retired": True}, "<yes>"),
    "false": ("<{{#retired}}yes{{/retired}}>", {"retired": False}, "<>"),
    "nothing": ("<{{#retired}}yes{{/retired}}>", {"retired": None}, "<>"),
    "a mapping": ("{{#firm}}at {{name}}{{/firm}}", LISA, "at Globex"),
    "names outside are seen": (
        "{{#firm}}{{age}}, {{name}}, {{home.town}}{{/firm}}",
        {"age": 41, "name": "wrong", "firm": {"name": "Globex"}, "home": {"town": "Graz"}},
        "41, Globex, Graz",
    ),
    "a text shows itself": ("{{#name}}{{.}}, {{name}}{{/name}}", LISA, "Lisa, Lisa"),
    "names outside nested lists are seen": (
        "{{#towns}}{{#streets}}{{mayor.short}}{{street}}:"
        "{{#doors}}{{mayor.long}}{{street}}{{door}} {{/doors}}{{/streets}}{{/towns}}",
        {
            "towns": [
                {
                    "mayor": {"long": "Lisa", "short": "l"},
                    "streets": [{"street": "1", "doors": [{"door": "a"}, {"door": "b"}]}],
                }
            ]
        },
        "l1:Lisa1a Lisa1b ",
    ),
    "names outside deep sections are seen": (
        NESTED,
        {"a": {"i": 1}, "b": {"j": 2}, "c": {"k": 3, "l": 4}},
        "1\n121\n12321\n12344321\n12321\n121\n1\n",
    ),
    "a list": ("{{#firms}}{{n}}{{/firms}}", {"firms": [{"n": 7}, {"n": 8}, {"n": 9}]}, "789"),
    "an empty list": ("<{{#firms}}any{{/firms}}>", {"firms": []}, "<>"),
    "twice": (
        "{{#retired}}\n- rests\n{{/retired}}\n- {{name}}\n{{#retired}}\n- reads\n{{/retired}}\n",
        {"retired": True, "name": "Lisa"},
        "- rests\n- Lisa\n- reads\n",
    ),
    "nested and true": (
        "< 1 {{#x}}2 {{#x}}3{{/x}} 4{{/x}} 5 >",
        {"x": True},
        "< 1 2 3 4 5 >",
    ),
    "nested and false": ("< 1 {{#x}}2 {{#x}}3{{/x}} 4{{/x}} 5 >", {"x": False}, "< 1  5 >"),
    "a missing name": ("<{{#job}}has one{{/job}}>", {}, "<>"),
    "a list of texts": ("{{#likes}}<{{.}}>{{/likes}}", {"likes": ["tea", "rain"]}, "<tea><rain>"),
    "a list of whole numbers": ("{{#n}}<{{.}}>{{/n}}", {"n": [3, 1, 2]}, "<3><1><2>"),
    "a list of decimals": ("{{#n}}<{{.}}>{{/n}}", {"n": [1.50, 0.25]}, "<1.5><0.25>"),
    "a list of lists": (
        "{{#n}}<{{#.}}{{.}}{{/.}}>{{/n}}",
        {"n": [[7, 8], ["x", "y"]]},
        "<78><xy>",
    ),
    "a list of texts, escaped": ("{{#n}}<{{.}}>{{/n}}", {"n": ["&", '"']}, "<&amp;><&quot;>"),
    "a list of texts in three braces": ("{{#n}}<{{{.}}}>{{/n}}", {"n": ["&", "<"]}, "<&><<>"),
    "a list of texts after an ampersand": ("{{#n}}<{{&.}}>{{/n}}", {"n": ["&", "<"]}, "<&><<>"),
    "a list that is all there is": ("{{#.}}<{{n}}>{{/.}}", [{"n": "x"}, {"n": "y"}], "<x><y>"),
    "a dotted name, true": (
        "<{{#firm.town.big}}yes{{/firm.town.big}}>",
        {"firm": {"town": {"big": True}}},
        "<yes>",
    ),
    "a dotted name, false": (
        "<{{#firm.town.big}}yes{{/firm.town.big}}>",
        {"firm": {"town": {"big": False}}},
        "<>",
    ),
    "a dotted name that breaks": (
        "<{{#firm.town.big}}yes{{/firm.town.big}}>",
        {"firm": {}},
        "<>",
    ),
    "spaces around it stay": (" < {{#x}}\t-\t{{/x}} > \n", {"x": True}, " < \t-\t > \n"),
    "spaces inside it stay": (
        " < {{#x}} {{! a comment }}\n {{/x}} > \n",
        {"x": True},
        " <  \n  > \n",
    ),
    "within a line it takes nothing away": (
        " {{#x}}tea{{/x}}\n {{#x}}rain{{/x}}\n",
        {"x": True},
        " tea\n rain\n",
    ),
    "lines with a tag alone vanish": (
        "- one\n{{#x}}\n-\n{{/x}}\n- two\n",
        {"x": True},
        "- one\n-\n- two\n",
    ),
    "indented lines with a tag alone vanish": (
        "- one\n\t{{#x}}\n-\n  {{/x}}\n- two\n",
        {"x": True},
        "- one\n-\n- two\n",
    ),
    "alone before a Windows line end": (
        "one\r\n{{#x}}\r\n{{/x}}\r\ntwo",
        {"x": True},
        "one\r\ntwo",
    ),
    "alone in the first line": ("  {{#x}}\none{{/x}}\ntwo", {"x": True}, "one\ntwo"),
    "alone in the last line": ("one{{#x}}\ntwo\n  {{/x}}", {"x": True}, "one\ntwo\n"),
    "spaces in the tags do not count": ("<{{# x }}-{{/  x }}>", {"x": True}, "<->"),
}

INVERTED = {
    "false": ("<{{^retired}}works{{/retired}}>", {"retired": False}, "<works>"),
    "true": ("<{{^retired}}works{{/retired}}>", {"retired": True}, "<>"),
    "nothing": ("<{{^retired}}works{{/retired}}>", {"retired": None}, "<works>"),
    "a mapping": ("<{{^firm}}{{name}}{{/firm}}>", LISA, "<>"),
    "a list": ("<{{^firms}}{{n}}{{/firms}}>", {"firms": [{"n": 1}, {"n": 2}]}, "<>"),
    "an empty list": ("<{{^firms}}none{{/firms}}>", {"firms": []}, "<none>"),
    "twice": (
        "{{^x}}\n- rests\n{{/x}}\n- {{name}}\n{{^x}}\n- reads\n{{/x}}\n",
        {"x": False, "name": "Lisa"},
        "- rests\n- Lisa\n- reads\n",
    ),
    "nested and false": (
        "< 1 {{^x}}2 {{^x}}3{{/x}} 4{{/x}} 5 >",
        {"x": False},
        "< 1 2 3 4 5 >",
    ),
    "nested and true": ("< 1 {{^x}}2 {{^x}}3{{/x}} 4{{/x}} 5 >", {"x": True}, "< 1  5 >"),
    "a missing name": ("<{{^job}}has none{{/job}}>", {}, "<has none>"),
    "a dotted name, true": (
        "<{{^firm.town.big}}small{{/firm.town.big}}>",
        {"firm": {"town": {"big": True}}},
        "<>",
    ),
    "a dotted name, false": (
        "<{{^firm.town.big}}small{{/firm.town.big}}>",
        {"firm": {"town": {"big": False}}},
        "<small>",
    ),
    "a dotted name that breaks": (
        "<{{^firm.town.big}}small{{/firm.town.big}}>",
        {"firm": {}},
        "<small>",
    ),
    "spaces around it stay": (" < {{^x}}\t-\t{{/x}} > \n", {"x": False}, " < \t-\t > \n"),
    "spaces inside it stay": (
        " < {{^x}} {{! a comment }}\n {{/x}} > \n",
        {"x": False},
        " <  \n  > \n",
    ),
    "within a line it takes nothing away": (
        " {{^x}}tea{{/x}}\n {{^x}}rain{{/x}}\n",
        {"x": False},
        " tea\n rain\n",
    ),
    "lines with a tag alone vanish": (
        "- one\n{{^x}}\n-\n{{/x}}\n- two\n",
        {"x": False},
        "- one\n-\n- two\n",
    ),
    "indented lines with a tag alone vanish": (
        "- one\n  {{^x}}\n-\n\t{{/x}}\n- two\n",
        {"x": False},
        "- one\n-\n- two\n",
    ),
    "alone before a Windows line end": (
        "one\r\n{{^x}}\r\n{{/x}}\r\ntwo",
        {"x": False},
        "one\r\ntwo",
    ),
    "alone in the first line": ("  {{^x}}\none{{/x}}\ntwo", {"x": False}, "one\ntwo"),
    "alone in the last line": ("one{{^x}}\ntwo\n  {{/x}}", {"x": False}, "one\ntwo\n"),
    "spaces in the tags do not count": ("<{{^ x }}-{{/  x }}>", {"x": False}, "<->"),
}

TREE = {"name": "Lisa", "children": [{"name": "Max", "children": []}]}

PARTIALS = {
    "put in": ("<{{>who}}>", {}, "<someone>", {"who": "someone"}),
    "missing": ("<{{>who}}>", {}, "<>"),
    "sees the same values": ("<{{>who}}>", LISA, "<*Lisa*>", {"who": "*{{name}}*"}),
    "within itself": (
        "{{>tree}}",
        TREE,
        "Lisa(Max())",
        {"tree": "{{name}}({{#children}}{{>tree}}{{/children}})"},
    ),
    "within another": (
        "{{>outer}}",
        LISA,
        "-Lisa 41!-",
        {"outer": "-{{name}} {{>inner}}-", "inner": "{{age}}!"},
    ),
    "spaces around it stay": ("< {{>who}} >", {}, "< \t-\t >", {"who": "\t-\t"}),
    "after a text it is not indented": (
        "  {{name}}  {{> who}}\n",
        LISA,
        "  Lisa  -\n-\n",
        {"who": "-\n-"},
    ),
    "alone before a Windows line end": ("one\r\n{{>who}}\r\ntwo", {}, "one\r\n-two", {"who": "-"}),
    "alone in the first line": ("  {{>who}}\ntwo", {}, "  -\n  -two", {"who": "-\n-"}),
    "alone in the last line": ("one\n  {{>who}}", {}, "one\n  -\n  -", {"who": "-\n-"}),
    "its lines are indented, what its values bring is not": (
        "[\n  {{>who}}\n]\n",
        {"speech": "tea\nrain"},
        "[\n  -\n  tea\nrain\n  -\n]\n",
        {"who": "-\n{{{speech}}}\n-\n"},
    ),
    "spaces in the tag do not count": ("<{{>  who  }}>", {}, "<->", {"who": "-"}),
}

CASES = {
    "comments": COMMENTS,
    "delimiters": DELIMITERS,
    "interpolation": INTERPOLATION,
    "sections": SECTIONS,
    "inverted": INVERTED,
    "partials": PARTIALS,
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{module}: {name}")
        for module, cases in CASES.items()
        for name, case in cases.items()
    ],
)
def test_the_core_of_the_specification_holds(case: tuple[Any, ...]):
    """Each demand of the specification's core is met, one case for each of its own."""
    template, values, expected, *partials = case
    assert show_by_specification(template, values, *partials) == expected


def test_no_case_of_the_specification_is_left_out():
    """There is a case for each one in version 1.4 of the specification's core files."""
    assert {module: len(cases) for module, cases in CASES.items()} == {
        "comments": 12,
        "delimiters": 14,
        "interpolation": 42,
        "sections": 34,
        "inverted": 22,
        "partials": 12,
    }


def test_prompts_are_not_escaped():
    """Unless asked to, nothing is escaped: a model is to read what the persona says."""
    assert show("{{text}} {{{text}}}", {"text": MARKUP}) == f"{MARKUP} {MARKUP}"


@given(st.text())
def test_a_value_is_shown_as_it_is(text: str):
    """Whatever a value contains, tags included, comes out unchanged."""
    assert show("<{{a}}|{{#b}}{{.}}{{/b}}>", {"a": text, "b": [text]}) == f"<{text}|{text}>"


@given(st.text(alphabet="ab {}#^/>!=&.\n\r\t"))
def test_any_text_is_a_template_or_a_template_error(text: str):
    """Parsing and rendering end in a text or in a TemplateError, never in anything else."""
    with contextlib.suppress(TemplateError):
        assert isinstance(show(text, {"a": [{"b": 1}], "b": "x"}, {"a": "b", "b": "{{a}}"}), str)


@pytest.mark.parametrize(
    ("template", "values", "variable", "line", "nearest"),
    [
        ("{{nmae}}", LISA, "nmae", 1, "name"),
        ("one\r\ntwo\r\n {{Height}}", LISA, "Height", 3, "height"),
        ("\n{{! a\ncomment }}\n{{{firm.nam}}}", LISA, "firm.nam", 4, "firm.name"),
        ("{{firm.town.zap}}", LISA, "firm.town.zap", 1, "firm.town.zip"),
        ("{{frim.town.zip}}", LISA, "frim.town.zip", 1, "firm"),
        ("{{#firm}}\n{{aeg}}\n{{/firm}}", LISA, "aeg", 2, "age"),
        ("{{#firm.town}}\n{{zap}}\n{{/firm.town}}", LISA, "zap", 2, "zip"),
        ("{{#likes}}\n{{thing}}\n{{/likes}}", {"likes": [{"thng": 1}]}, "thing", 2, "thng"),
    ],
)
def test_a_missing_variable_is_named(template, values, variable, line, nearest):
    """The error names the variable, the template, the line and the nearest name given."""
    with pytest.raises(TemplateError) as caught:
        show(template, values)
    assert f"here.mustache, line {line}:" in str(caught.value)
    assert f"variable {variable!r} was not given" in str(caught.value)
    assert str(caught.value).endswith(f"is {nearest!r}")


def test_a_missing_variable_among_no_names_is_named():
    """Where nothing was given, the error says that instead of naming the nearest."""
    with pytest.raises(TemplateError, match="no names were given"):
        show("{{name}}", {})
    with pytest.raises(TemplateError, match="'name' has no names"):
        show("{{name.first}}", {"name": "Lisa"})


def test_a_missing_variable_in_a_partial_is_found_there():
    """The error names the partial and the line in it, not the template around it."""
    partials = {"outer": "\n{{>inner}}", "inner": "\n\n  {{nmae}}"}
    with pytest.raises(TemplateError, match=r"^inner, line 3: .*'nmae'.*'name'$"):
        show("{{>outer}}", LISA, partials)


def test_the_line_after_a_partial_is_that_of_the_template_around_it():
    """After a partial, errors name the template around it again."""
    with pytest.raises(TemplateError, match=r"^here\.mustache, line 2: .*'nmae'"):
        show("{{>inner}}\n{{nmae}}", LISA, {"inner": "\n\n\n{{name}}"})


def test_a_section_asks_whether_something_was_given():
    """A section over a missing name is left out and an inverted one shown, also when strict."""
    template = "{{#mood}}I feel {{.}}.{{/mood}}{{^mood}}No mood.{{/mood}}"
    assert show(template, {"mood": "fine"}) == "I feel fine."
    assert show(template, {}) == "No mood."
    assert show("{{#a.b.c}}yes{{/a.b.c}}{{^a.b.c}}no{{/a.b.c}}", {"a": None}) == "no"


@pytest.mark.parametrize("empty", [None, False, "", 0, 0.0, [], (), {}])
def test_what_python_calls_false_is_shown_by_an_inverted_section(empty: object):
    """Zero, an empty text and an empty mapping count as nothing, as in Python."""
    assert show("{{#x}}some{{/x}}{{^x}}none{{/x}}", {"x": empty}) == "none"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e22, "10000000000000000000000"),
        (1.5e-7, "0.00000015"),
        (-2.5e16, "-25000000000000000"),
        (3.0, "3.0"),
        (float("inf"), "inf"),
        (True, "True"),
        (10**30, "1" + "0" * 30),
        ("", ""),
        ([1, "a"], "[1, 'a']"),
    ],
)
def test_values_are_shown_plainly(value: object, shown: str):
    """Numbers are written out in digits, other values as Python writes them."""
    assert show("{{x}}", {"x": value}) == shown


@dataclass
class Persona:
    """An object with attributes, a method and a secret."""

    name: str
    _secret: str = "hidden"

    def greet(self) -> str:
        raise AssertionError("a template called a method")


def test_attributes_are_seen_but_methods_and_secrets_are_not():
    """An object's public attributes are values; its methods and private names are not."""
    assert show("{{p.name}}{{#p}}{{name}}{{/p}}", {"p": Persona("Lisa")}) == "LisaLisa"
    for name in ("greet", "_secret", "__class__", "__dict__"):
        with pytest.raises(TemplateError, match=r"nearest name that was given is 'p\.name'"):
            show("{{p." + name + "}}", {"p": Persona("Lisa")})


@pytest.mark.parametrize("value", ["Lisa", 41, 1.5, True, b"x", None, int])
@pytest.mark.parametrize("name", ["title", "real", "count", "__len__", "mro"])
def test_plain_values_have_no_names(value: object, name: str):
    """What Python can do with a text or a number never shadows a name outside."""
    assert show("{{#x}}{{" + name + "}}{{/x}}", {"x": [value], name: "mine"}) == "mine"


def test_lists_have_positions():
    """A number after a dot is a position in a list; beyond its end nothing is found."""
    values = {"likes": ["tea", {"what": "rain"}]}
    assert show("{{likes.0}} and {{likes.1.what}}", values) == "tea and rain"
    with pytest.raises(TemplateError, match=r"'likes\.2'"):
        show("{{likes.2}}", values)


def test_looking_up_changes_no_value():
    """A mapping that invents values when read is not made to, and stays as it was."""
    values: dict[str, Any] = defaultdict(lambda: "invented", name="Lisa")
    assert show("{{name}}{{#job}}{{.}}{{/job}}", values) == "Lisa"
    assert dict(values) == {"name": "Lisa"}


@pytest.mark.parametrize("template", ["\n{{f}}", "\n{{{f}}}", "\n{{#f}}x{{/f}}", "\n{{^f}}x{{/f}}"])
@pytest.mark.parametrize("code", [lambda *_: 1 / 0, len, dict, Persona("Lisa").greet])
def test_functions_are_refused_and_not_called(template: str, code: object):
    """A function among the values is an error wherever it is used, and is never called."""
    with pytest.raises(TemplateError, match=r"here\.mustache, line 2: .*'f'.*values are data"):
        show(template, {"f": code})


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no words for it")


def test_a_value_that_cannot_be_shown_is_located():
    """When a value fails to become text, the error says where and keeps the cause."""
    with pytest.raises(TemplateError, match=r"line 3: RuntimeError: no words") as caught:
        show("\n\n{{x}}", {"x": Unshowable()})
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("template", "line", "message"),
    [
        ("a\n{{name", 2, "'{{name' is not closed by '}}'"),
        ("a\n{{{name}} b", 2, "is not closed by '}}}'"),
        ("{{! never\n\nclosed", 1, "is not closed"),
        ("{{=<% %>}}", 1, "is not closed by '=}}'"),
        ("\n\n{{ }}", 3, "is empty"),
        ("{{#}}{{/}}", 1, "is empty"),
        ("{{> }}", 1, "is empty"),
        ("{{= =}}", 1, "is empty"),
        ("{{=<%=}}", 1, "must name two delimiters"),
        ("{{=a b c=}}", 1, "must name two delimiters"),
        ("{{=a= b=}}", 1, "must name two delimiters"),
        ("\n{{#firm}}\n", 2, "{{#firm}} is never closed"),
        ("{{#a}}\n{{^b}}\n{{/b}}\n", 1, "{{#a}} is never closed"),
        ("x\n{{/firm}}", 2, "{{/firm}} closes a section that was never opened"),
        ("{{#a}}\n{{#b}}\n{{/a}}{{/b}}", 3, "{{/a}} closes {{#b}}, which was opened in line 2"),
        ("{{a..b}}", 1, "empty part"),
        ("{{.a}}", 1, "empty part"),
        ("{{#a.}}{{/a.}}", 1, "empty part"),
        ("{{a\nb}}", 1, "goes over the end of its line"),
        ("{{<layout}}{{/layout}}", 1, "not supported"),
        ("{{$block}}{{/block}}", 1, "not supported"),
        ("{{>*chosen}}", 1, "cannot be named by a variable"),
    ],
)
def test_a_template_that_is_none_is_located(template: str, line: int, message: str):
    """A fault in a template is a TemplateError with the template's name and the line."""
    with pytest.raises(TemplateError) as caught:
        mustache.parse(template, "here.mustache")
    assert str(caught.value).startswith(f"here.mustache, line {line}: ")
    assert message in str(caught.value)


def test_spaces_before_the_kind_of_a_tag_do_not_count():
    """`{{ #x }}` is a section, as in other implementations."""
    assert show("{{ #x }}{{ & . }}{{ /x }}{{ ! gone }}{{ > p }}", {"x": 1}, {"p": "."}) == "1."


def test_names_may_have_spaces():
    """A key with spaces, as personas have them, can be shown."""
    assert show("{{favourite food}}", {"favourite food": "soup"}) == "soup"


def test_braces_outside_tags_are_text():
    """JSON in a prompt is not taken for tags as long as no two braces open together."""
    template = '{"person": {"name": "{{name}}"}}'
    assert show(template, LISA) == '{"person": {"name": "Lisa"}}'


def test_nothing_is_added_to_blank_lines():
    """The indent of a partial is not put before its blank lines."""
    assert show("  {{>p}}\n", {}, {"p": "a\n\nb\n\r\nc\n"}) == "  a\n\n  b\n\r\n  c\n"


def test_indents_add_up():
    """A partial in an indented partial is indented by both."""
    partials = {"outer": "a\n\t{{>inner}}\nd\n", "inner": "b\nc\n"}
    assert show("  {{>outer}}\n", {}, partials) == "  a\n  \tb\n  \tc\n  d\n"


def test_a_missing_partial_is_an_error():
    """When strict, a partial that is not there is an error at the place of its tag."""
    with pytest.raises(TemplateError, match=r"^here\.mustache, line 2: there is no template 'who'"):
        show("\n{{>who}}", {})


@pytest.mark.parametrize(
    "partials",
    [
        {"a": "x{{>a}}"},
        {"a": "\n  {{>a}}\n"},
        {"a": "{{>a}}{{>a}}"},
        {"a": "{{>b}}", "b": "{{#x}}{{>a}}{{/x}}"},
    ],
)
def test_partials_without_end_are_noticed(partials: dict[str, str]):
    """A partial that contains itself without end is a TemplateError, soon."""
    with pytest.raises(TemplateError, match=r"^[ab], line \d: .*a partial contains itself"):
        show("{{>a}}", {"x": True}, partials)


def test_deep_data_is_rendered():
    """A tree as deep as any family is rendered by a partial that contains itself."""
    tree: dict[str, Any] = {"children": []}
    for _ in range(40):
        tree = {"children": [tree]}
    partials = {"node": "({{#children}}{{>node}}{{/children}})"}
    assert show("{{>node}}", tree, partials) == "(" * 41 + ")" * 41


def test_deep_templates_are_parsed_and_refused():
    """Sections that are nested too deeply are an error of the template, not of Python."""
    template = mustache.parse("{{#x}}" * 5000 + "{{/x}}" * 5000, "here.mustache")
    with pytest.raises(TemplateError, match="100 deep"):
        mustache.render(template, {"x": True}, make_load({}))


def test_large_templates_are_parsed_in_linear_time():
    """Half a million tags without a line break are a matter of seconds, not of hours."""
    template = mustache.parse("{{x}} {{! }}" * 250_000, "here.mustache")
    assert mustache.render(template, {"x": "-"}, make_load({})) == "- " * 250_000


def test_many_threads_render_one_template():
    """A parsed template is shared by threads, each with its own values."""
    inner = mustache.parse("{{#likes}}\n{{.}} {{name}}\n{{/likes}}\n", "inner")
    template = mustache.parse("  {{>inner}}\n{{name}}", "here.mustache")
    wrong: list[str] = []

    def work(number: int) -> None:
        values = {"name": f"n{number}", "likes": [str(number)] * 5}
        for _ in range(200):
            shown = mustache.render(template, values, lambda _: inner)
            if shown != f"  {number} n{number}\n" * 5 + f"n{number}":
                wrong.append(shown)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_errors_cross_process_pools():
    """An error of a template survives pickling."""
    with pytest.raises(TemplateError) as caught:
        show("{{nmae}}", LISA)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
