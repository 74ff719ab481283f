"""Templates from text: three languages, compiled at once, strict, and never data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from string import Template as DollarTemplate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.llm.errors import TemplateError
from tinytroupe.llm.talk.sources import FORMATS, Format, compile_source

SHOWING: dict[Format, str] = {"jinja": "{{ %s }}", "mustache": "{{%s}}", "dollar": "${%s}"}
"""How each language shows a variable."""

each_format = pytest.mark.parametrize("format", FORMATS)

PIECES = (
    *("{{", "}}", "{%", "%}", "{#", "#}", "{{{", "}}}", "${", "$", "}", "#", "^", "/", ">", "&"),
    *(" if ", " for ", " in ", " set ", " endif ", " endfor ", " macro ", " include ", " raw "),
    *("x", "y", "1", "'", '"', "(", ")", "[", "]", ".", "|", "=", "=}} ", ",", " ", "\n", "\r\n"),
    *("**", "-", "~", "not ", "\0", "\ud800", "é", "__class__", "self", "loop", "upper"),
)
TEMPLATES = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=20).map("".join)
PLAIN = st.text(st.characters(exclude_characters="{}$%#", exclude_categories=["Cs"]))


def show(text: str, format: Format, **values: object) -> str:
    return compile_source(text, format, "greeting").render(values)


def fail(text: str, format: Any, **values: object) -> str:
    """Compiles and renders what cannot be, and returns the error's message."""
    with pytest.raises(TemplateError) as caught:
        show(text, format, **values)
    return str(caught.value)


def refuse(text: str, format: Any) -> str:
    """Compiles what is no template, and returns the error's message."""
    with pytest.raises(TemplateError) as caught:
        compile_source(text, format, "greeting")
    return str(caught.value)


def test_every_format_is_tested():
    """A language that is offered is one that these tests know."""
    assert set(FORMATS) == set(SHOWING)


@each_format
def test_a_variable_shows_its_value(format: Format):
    """In each language a variable is replaced by its value, as text."""
    text = f"Dear {SHOWING[format] % 'name'}, you are {SHOWING[format] % 'age'}.\n"
    assert show(text, format, name="Lisa", age=41, other=1) == "Dear Lisa, you are 41.\n"


@each_format
@given(before=PLAIN, after=PLAIN, value=st.text())
def test_text_and_values_stay_as_they_are(format: Format, before: str, after: str, value: str):
    """What is not a variable is shown unchanged, and so is whatever a variable holds."""
    text = f"{before}{SHOWING[format] % 'name'}{after}"
    # Jinja2 reads a file's line ends as its own.
    expected = before + value + after
    if format == "jinja":
        before, after = (_end_lines(part) for part in (before, after))
        expected = before + value + after
    assert show(text, format, name=value) == expected


def _end_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@each_format
@pytest.mark.parametrize("value", ["{{ secret }}", "{{{secret}}}", "$secret", "{% if %}", "<b>&'"])
def test_a_value_is_never_a_template(format: Format, value: str):
    """Template code inside a value is text, and nothing in it is escaped."""
    assert show(SHOWING[format] % "said", format, said=value, secret="s3cret") == value


@each_format
def test_a_missing_variable_names_the_nearest(format: Format):
    """A variable that was not given is an error with the name, the line, and what is near."""
    text = f"Hello,\ndear {SHOWING[format] % 'persn'}"
    said = fail(text, format, person="Lisa", place="Bath")
    assert said == (
        "greeting, line 2: the variable 'persn' was not given; "
        "the nearest name that was given is 'person'"
    )


@each_format
def test_a_missing_variable_where_none_was_given(format: Format):
    """Where there is no name at all, the error says so."""
    said = fail(SHOWING[format] % "person", format)
    assert said == "greeting, line 1: the variable 'person' was not given; no names were given"


@pytest.mark.parametrize(
    ("format", "text", "fault"),
    [
        ("jinja", "a\n{% if x %}", "line 2: Unexpected end of template"),
        ("jinja", "a\n{{ x", "line 2: unexpected end of template"),
        ("jinja", "{{ x | nofilter }}", "line 1: No filter named 'nofilter'"),
        ("jinja", "a\nb\n{% nothing %}", "line 3: Encountered unknown tag 'nothing'"),
        ("mustache", "a\n{{#x}}", "line 2: the section {{#x}} is never closed"),
        ("mustache", "a\n{{/x}}", "line 2: {{/x}} closes a section that was never opened"),
        ("mustache", "a\n{{x", "line 2: the tag that begins with '{{x' is not closed"),
        ("dollar", "a\nit costs $ 5", "line 2: a $ must be followed by a name"),
        ("dollar", "5$", "line 1: a $ must be followed by a name"),
        ("dollar", "\n\n${name", "line 3: a $ must be followed by a name"),
        ("dollar", "${}", "line 1: a $ must be followed by a name"),
    ],
)
def test_what_is_no_template_is_refused_when_compiled(format: Format, text: str, fault: str):
    """A fault in the syntax is found before anything is rendered; the error has the line."""
    assert refuse(text, format).startswith(f"greeting, {fault}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{{ f(a=1, a=2) }}", "keyword argument repeated"),
        ("{% macro m(a, a) %}{% endmacro %}", "duplicate argument"),
        ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "too deep in one another"),
        ("{{ " + "9" * 5000 + " }}", "Exceeds the limit"),
    ],
)
def test_what_only_python_finds_wrong_is_refused_too(text: str, fault: str):
    """Jinja2 translates to Python, which refuses more than Jinja2 does: that is no crash."""
    said = refuse(text, "jinja")
    assert said.startswith("greeting: ")
    assert fault in said


@each_format
@given(TEMPLATES)
def test_any_text_is_a_template_or_an_error_of_ours(format: Format, text: str):
    """Whatever is written into a form, it compiles or is refused with its name."""
    fault = ""
    try:
        compile_source(text, format, "greeting")
    except TemplateError as error:
        fault = str(error)
    assert not fault or fault.startswith("greeting")


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("jinja", "\n{% include 'x' %}"),
        ("jinja", "\n{% include ['x', 'y'] ignore missing %}"),
        ("jinja", "\n{% import 'x' as x %}"),
        ("jinja", "\n{% from 'x' import y %}"),
        ("jinja", "\n{% extends parent %}"),
        ("jinja", "{% if no %}\n{% include 'x' %}{% endif %}"),
        ("mustache", "\n{{> x}}"),
        ("mustache", "{{#no}}\n{{> x}}{{/no}}"),
        ("mustache", "{{^no}}{{#yes}}\n{{> x}}{{/yes}}{{/no}}"),
    ],
)
def test_others_cannot_be_asked_for(format: Format, text: str):
    """A template from text has no others beside it: asking for one is refused when compiled."""
    said = refuse(text, format)
    assert said == "greeting, line 2: it asks for another template, but cannot contain one"


@pytest.mark.parametrize(
    ("format", "text", "names"),
    [
        ("jinja", "{{ a }}{{ b.c }}{{ d['e'] }}{% if f %}{{ g }}{% endif %}", "abdfg"),
        ("jinja", "{% for x in xs %}{{ x }}{{ loop.index }}{% endfor %}", ["xs"]),
        ("jinja", "{% set a = b %}{{ a }}{# {{ c }} #}{% raw %}{{ d }}{% endraw %}", "b"),
        ("mustache", "{{a}}{{{b}}}{{&c}}{{d.e}}{{! f }}", "abcd"),
        ("mustache", "{{#xs}}{{name}}{{/xs}}{{^none}}{{else}}{{/none}}", ["xs", "none", "else"]),
        ("mustache", "{{.}}", []),
        ("dollar", "$a ${b} $$c $d.e $a", "abd"),
        ("dollar", "nothing", []),
    ],
)
def test_the_names_are_those_of_the_variables(format: Format, text: str, names: Any):
    """A template tells which variables it may ask for; those that it makes itself are not."""
    assert compile_source(text, format, "greeting").names == frozenset(names)


def test_jinja_cannot_reach_python():
    """A template is not a program: what leads from a value into Python is refused."""
    text = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    assert "a template may not do this" in fail(text, "jinja")
    assert "a template may not do this" in fail("{{ xs.append(1) }}", "jinja", xs=[])


def test_mustache_has_its_sections():
    """Sections repeat for each item, and are left out for nothing."""
    text = "{{#people}}{{name}} of {{town}}; {{/people}}{{^people}}nobody{{/people}}"
    people = [{"name": "Lisa"}, {"name": "Oscar"}]
    assert show(text, "mustache", people=people, town="Bath") == "Lisa of Bath; Oscar of Bath; "
    assert show(text, "mustache", people=[], town="Bath") == "nobody"


@given(st.dictionaries(st.sampled_from(["a", "b", "ab"]), st.text(max_size=5), min_size=3))
def test_dollar_is_the_standard_library_s(values: dict[str, str]):
    """What `$name` means is what `string.Template` says."""
    text = "$a ${b}$ab $$a ${a}b $b."
    assert show(text, "dollar", **values) == DollarTemplate(text).substitute(values)


@pytest.mark.parametrize("format", ["twig", "", "JINJA", None])
def test_an_unknown_format_is_refused(format: Any):
    """There are three languages, and the error lists them."""
    said = refuse("text", format)
    assert said == f"greeting: there is no format {format!r}; one of jinja, mustache, dollar"


@each_format
def test_many_threads_share_a_template(format: Format):
    """One compiled template, rendered by many threads at once, mixes nothing up."""
    text = " ".join([SHOWING[format] % "number"] * 20)
    source = compile_source(text, format, "greeting")

    def render(number: int) -> bool:
        return source.render({"number": number}) == " ".join([str(number)] * 20)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(render, range(400)))


@each_format
def test_the_same_text_is_compiled_once(format: Format):
    """A text that was compiled is not compiled again; under another name it is another one."""
    first = compile_source("same", format, "greeting")
    assert compile_source("same", format, "greeting") is first
    assert compile_source("same", format, "farewell") is not first
