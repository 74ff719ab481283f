"""JSON in the admin of the Django app: how it is edited, and what is refused, with its place."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django_admin_pages import ROOT, SPEC, make_prompt_form, make_tool_form, send

from tinytroupe.contrib.django.json_text import FaultyJSON, format_json, parse_json
from tinytroupe.contrib.django.models import PromptTemplate, Tool

JSON_FIELDS = [
    ("tool", "tool_json_spec"),
    ("tool", "default_values_for_non_llm_params"),
    ("tool", "context_params"),
    ("prompttemplate", "initial_messages_templates"),
    ("prompttemplate", "required_kwargs"),
    ("prompttemplate", "logged_context_vars"),
]


@pytest.mark.parametrize(("kind", "field"), JSON_FIELDS)
def test_malformed_json_is_refused_with_its_place(boss, kind, field):
    """A form says field, line, column and fault of JSON, and shows the text as it was written."""
    make = make_tool_form if kind == "tool" else make_prompt_form
    written = '{"a": 1,\r\n  "b" 2}'
    response = boss.post(f"{ROOT}/{kind}/add/", make(**{field: written}))
    assert response.context["errors"] == [
        [f"{field}: line 2, column 7: this is not JSON: Expecting ':' delimiter"]
    ]
    assert f">\n{written}</textarea>" in unescape(response.content.decode())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[NaN]", "line 1, column 2: NaN is not a number in JSON"),
        ('{"a": 1,\n "a": 2}', "line 2, column 2: the key 'a' stands twice in one object"),
        ('["x",\n"\\u0000"]', "line 2, column 1: a text holds the character NUL"),
        ('["\\ud800"]', "line 1, column 2: a text holds half a character"),
        ("[1e999]", "line 1, column 2: the number 1e999 is too large"),
        ("[" + "9" * 5000 + "]", "line 1, column 2: "),
        ("[" * 100_000, "nested too deeply"),
        ("null", "not null"),
        ("{}", "it must be a list of names, not an object"),
    ],
)
def test_json_that_cannot_be_stored_is_refused(boss, text, said):
    """What not every database holds, or not this field, is refused with a sentence."""
    status, page = send(boss, "prompttemplate/add/", make_prompt_form(required_kwargs=text))
    assert status == 200
    assert "required_kwargs: " in page
    assert said in page
    assert not PromptTemplate.objects.exists()


def test_json_is_edited_with_a_line_for_each_member(boss):
    """JSON is written out on load; what is sent back unchanged is unchanged; empty means empty."""
    spec = {**SPEC, "description": "Köln 🌍 </textarea> <&> \\u0041 1e3"}
    tool = Tool.objects.create(name="add", tool_code="django_tools.add", tool_json_spec=spec)
    page = boss.get(f"{ROOT}/tool/{tool.pk}/change/").content.decode()
    shown = re.search(r'<textarea name="tool_json_spec"[^>]*>\n(.*?)</textarea>', page, re.DOTALL)
    assert shown is not None
    text = unescape(shown[1])
    # PostgreSQL puts the keys in an order of its own.
    tool.refresh_from_db()
    assert text == json.dumps(tool.tool_json_spec, indent=2, ensure_ascii=False)
    form = make_tool_form(tool_json_spec=text.replace("\n", "\r\n"), context_params=" \r\n")
    assert send(boss, f"tool/{tool.pk}/change/", form)[0] == 302
    tool.refresh_from_db()
    assert (tool.tool_json_spec, tool.context_params) == (spec, [])
    assert LogEntry.objects.get().get_change_message() == "No fields changed."


def test_json_as_deep_as_it_is_read_is_written():
    """Whatever depth is read can be shown for editing again."""
    deepest = max(depth for depth in range(100, 3000, 100) if _is_read("[" * depth + "]" * depth))
    value = parse_json("[" * deepest + "]" * deepest)
    assert parse_json(format_json(value)) == value


def _is_read(text: str) -> bool:
    try:
        parse_json(text)
    except FaultyJSON:
        return False
    return True
