"""The preview of a prompt template: what it shows, what it counts, and who may have it."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django_admin_pages import ROOT, make_prompt_form, see, write_config

from tinytroupe.contrib.django.models import ChatHistory, LLMConfigName, PromptTemplate, Tool
from tinytroupe.llm.rules.tokens import count_messages

URL = f"{ROOT}/prompttemplate/preview/"
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def preview(client: Client, variables: object = None, **values: Any) -> str:
    """Returns the preview of an unsaved template, with its tags."""
    written = variables if isinstance(variables, str) else json.dumps(variables or {})
    form = make_prompt_form(**{"preview-variables": written, **values})
    response = client.post(URL, form)
    assert response.status_code == 200
    return response.content.decode()


def list_messages(page: str) -> list[tuple[str, str]]:
    """Returns role and text of each message."""
    found = re.findall(
        r'<li class="llm-message llm-role-(\w+)">.*?<div class="llm-text">(.*?)</div>',
        page,
        re.DOTALL,
    )
    return [(role, unescape(text)) for role, text in found]


def list_faults(page: str) -> list[str]:
    return [see(fault.encode()) for fault in re.findall(r"<li><a .*?</li>", page, re.DOTALL)]


def test_what_stands_in_the_form_becomes_a_conversation(boss):
    """The preview is what a chat would send first; nothing is saved for it."""
    page = preview(
        boss,
        {"name": "Lisa", "customer": "Ann"},
        system_prompt_template="You are {{ name }}.\nBe brief.",
        initial_messages_templates='[{"role": "assistant", "content": "Hello {{ customer }}!"}]',
        user_prompt_template="{{ customer }} says: {{ user_msg }}",
        **{"preview-message": "Tea, please."},
    )
    assert list_messages(page) == [
        ("system", "You are Lisa.\nBe brief."),
        ("assistant", "Hello Ann!"),
        ("user", "Ann says: Tea, please."),
    ]
    for rows in (PromptTemplate, ChatHistory, LogEntry):
        assert not rows.objects.exists()


@pytest.mark.parametrize(
    ("format", "template"), [("mustache", "You are {{name}}."), ("dollar", "You are $name.")]
)
def test_each_format_is_previewed(boss, format, template):
    """A template is rendered in the language that the form says."""
    given = {"template_format": format, "system_prompt_template": template}
    assert list_messages(preview(boss, {"name": "Lisa"}, **given)) == [("system", "You are Lisa.")]


def test_what_is_rendered_stays_text(boss):
    """Markup in templates, variables, messages and errors is shown, and is never the page's."""
    page = preview(
        boss,
        {"name": NASTY},
        system_prompt_template=NASTY + "{{ name }}",
        user_prompt_template="{{ '" + NASTY + "'.nothing }}",
        **{"preview-message": NASTY},
    )
    assert ("system", NASTY * 2) in list_messages(page)
    assert "<script" not in page
    assert "<img" not in page


def test_tokens_are_counted_for_the_model_of_the_configuration(boss, configs_folder):
    """Each message and the whole are counted as the model counts, and exactness is told."""
    write_config(configs_folder, "mine")
    write_config(configs_folder, "other", deployment_name="llama-9")
    for name in ("mine", "other"):
        LLMConfigName.objects.create(name=name)
    given = {"llm_config_names": ["mine"], "preview-message": "Tea, please."}
    texts = [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": "Tea, please."},
    ]
    total = count_messages(texts, "gpt-4o").tokens
    page = see(preview(boss, **given).encode())
    assert f"{total} tokens in total : exact for gpt-4o, the model of mine." in page
    singles = [count_messages([text], "gpt-4o").tokens - 3 for text in texts]
    assert re.findall(r"(\d+) tokens(?! in)", page) == [str(tokens) for tokens in singles]
    assert sum(singles) + 3 == total
    page = see(preview(boss, **given, **{"preview-config_name": "other"}).encode())
    assert "estimated with o200k_base for llama-9, the model of other." in page
    page = see(preview(boss, **{**given, "llm_config_names": []}).encode())
    assert "estimated with o200k_base, because no model is known." in page


def test_tools_are_counted_where_they_would_be_sent(boss, configs_folder, site_settings):
    """What the model is told of the tools counts, unless the configuration disables them."""
    write_config(configs_folder, "mute")
    LLMConfigName.objects.create(name="mute")
    tool = Tool.objects.create(name="add", tool_code="django_tools.add")
    given = {"tools": [str(tool.pk)]}
    assert re.search(r"\d+ of them for the tools", preview(boss, **given))
    page = preview(boss, **given, llm_config_names=["mute"])
    assert "for the tools" not in page
    assert "mute does not have tools_enabled" in page
    site_settings(LLM_WRAPPER_TOOL_MODULES=[])
    assert "The tools are left out of the count: the tool add" in preview(boss, **given)


def test_a_configuration_without_a_file_is_told(boss):
    """Without a model the count is an estimate, and the preview says what is missing."""
    LLMConfigName.objects.create(name="rehersal")
    page = see(preview(boss, llm_config_names=["rehersal"]).encode())
    assert "has no configuration 'rehersal'; did you mean rehearsal?" in page
    assert "because no model is known" in page


@pytest.mark.parametrize(
    ("values", "label", "said", "line"),
    [
        (
            {"system_prompt_template": "You\n{{ }}"},
            "System prompt",
            "line 2: Expected an expression, got 'end of print statement'",
            2,
        ),
        (
            {"user_prompt_template": "\r\n\r\n{{ user_msg.no_such }}"},
            "User prompt",
            "line 3: the variable 'user_msg.no_such' was not given",
            3,
        ),
        (
            {"initial_messages_templates": '[{"role": "user",\n "content": "{% if %}"}]'},
            "Initial messages",
            "initial_messages_templates[0], line 1: Expected an expression",
            None,
        ),
        (
            {"initial_messages_templates": '[\n{"role": "user" "content": ""}]'},
            "Initial messages",
            "line 2, column 17: this is not JSON: Expecting ',' delimiter",
            2,
        ),
        ({"required_kwargs": "{}"}, "Required variables", "it must be a list of names", None),
        ({"template_format": "latex"}, "Format", "latex is not one of the available", None),
    ],
)
def test_faults_are_shown_by_field_and_line(boss, values, label, said, line):
    """What is wrong is said with its field and line, and leads there; the rest is rendered."""
    page = preview(boss, **{"preview-message": "Hi", **values})
    faults = list_faults(page)
    assert len(faults) == 1
    assert faults[0].startswith(f"{label} : ")
    assert said in faults[0]
    assert re.findall(r'data-line="(\d+)"', page) == ([] if line is None else [str(line)])
    assert re.search(rf'href="#id_{next(iter(values))}"', page)
    assert ("template_format" in values) == (not list_messages(page))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ('{\n"a" 1}', "line 2, column 5: this is not JSON: Expecting ':' delimiter"),
        ("[1]", "the variables must be an object of names and values"),
    ],
)
def test_faulty_variables_are_shown_with_their_place(boss, variables, said):
    """Sample variables that are no JSON object are said to be none, and nothing is rendered."""
    page = preview(boss, variables)
    assert list_faults(page) == [f"Sample variables : {said}"]
    assert not list_messages(page)


def test_variables_are_proposed_once(boss):
    """A variable that the templates ask for is proposed empty, but not again to who removed it."""
    given = {"system_prompt_template": "You are {{ name }} from {{ city }}."}
    page = preview(boss, {"city": "Oslo"}, **given)
    assert list_messages(page) == [("system", "You are  from Oslo.")]
    proposed = re.search(r'data-variables="(.*?)"', page, re.DOTALL)
    assert proposed is not None
    assert json.loads(unescape(proposed[1])) == {"city": "Oslo", "name": ""}
    offered = re.search(r'data-offered="(.*?)"', page)
    assert offered is not None
    assert json.loads(unescape(offered[1])) == ["city", "name"]
    page = preview(boss, {"city": "Oslo"}, **given, **{"preview-offered": unescape(offered[1])})
    (fault,) = list_faults(page)
    assert fault.startswith("System prompt : line 1: the variable 'name' was not given")
    assert 'data-variables=""' in page
    page = preview(boss, {}, required_kwargs='["tea"]', **{"preview-offered": '["tea"]'})
    assert "Required, and not among the sample variables: tea." in page


@pytest.mark.parametrize("offered", ["{", "1", '[1, "name"]', "[" * 100_000])
def test_a_spoilt_form_is_no_fault_of_the_site(boss, offered):
    """What the page itself sends along may be anything without the preview failing."""
    assert "You help." in preview(boss, **{"preview-offered": offered})


def test_the_page_proposes_the_variables_of_the_saved_template(boss, make_prompt):
    """On the page of a template its variables stand ready, each with an empty text."""
    row = make_prompt(system_prompt_template="{{ a }} {{ b }}", required_kwargs=["c"])
    form = boss.get(f"{ROOT}/prompttemplate/{row.pk}/change/").context["preview_form"]
    assert json.loads(form["variables"].value()) == {"a": "", "b": "", "c": ""}
    form = boss.get(f"{ROOT}/prompttemplate/add/").context["preview_form"]
    assert json.loads(form["variables"].value()) == {}


def test_a_template_that_was_broken_elsewhere_is_shown(boss, log_in_with, make_prompt):
    """A row that no form would save opens, and its preview says what is wrong."""
    row = make_prompt(system_prompt_template="You help.")
    PromptTemplate.objects.filter(pk=row.pk).update(
        initial_messages_templates=[1], required_kwargs=7
    )
    assert boss.get(f"{ROOT}/prompttemplate/{row.pk}/change/").status_code == 200
    viewer = log_in_with("view_prompttemplate")
    page = viewer.post(URL, {"preview-stored": str(row.pk)}).content.decode()
    assert any("required_kwargs" in f or "Required" in f for f in list_faults(page))
    assert ("system", "You help.") in list_messages(page)


def test_who_may_view_gets_the_stored_template_and_no_other(log_in_with, make_prompt):
    """With the permission to view, what is stored is rendered, and nothing that was written."""
    row = make_prompt(system_prompt_template="You help {{ name }}.")
    viewer = log_in_with("view_prompttemplate")
    page = viewer.get(f"{ROOT}/prompttemplate/{row.pk}/change/")
    assert page.context["preview_form"]["stored"].value() == row.pk
    given = {
        **make_prompt_form(system_prompt_template="Mine"),
        "preview-variables": '{"name": "Ann"}',
    }
    assert viewer.post(URL, given).status_code == 403
    shown = viewer.post(URL, {**given, "preview-stored": str(row.pk)}).content.decode()
    assert list_messages(shown) == [("system", "You help Ann.")]
    for unknown in (str(row.pk + 1), "x"):
        assert viewer.post(URL, {"preview-stored": unknown}).status_code == 404


@pytest.mark.parametrize("permission", ["add_prompttemplate", "change_prompttemplate"])
def test_who_may_write_gets_what_was_written(log_in_with, configs_folder, permission):
    """With the permission to add or change, the form is rendered as it stands."""
    page = preview(log_in_with(permission), system_prompt_template="Mine")
    assert list_messages(page) == [("system", "Mine")]


def test_nobody_else_gets_a_preview(database, log_in_with, make_prompt):
    """Staff without permission is refused; who is not staff is sent to log in; GET and forgeries
    are refused."""
    row = make_prompt()
    stranger = log_in_with("view_tool", "change_llmconfigname")
    assert stranger.post(URL, make_prompt_form()).status_code == 403
    assert stranger.post(URL, {"preview-stored": str(row.pk)}).status_code == 403
    assert stranger.post(URL, {"preview-stored": "0"}).status_code == 403
    assert log_in_with("add_prompttemplate").get(URL).status_code == 405
    visitor = Client()
    visitor.force_login(User.objects.create_user("visitor"))
    for client in (visitor, Client()):
        response = client.post(URL, make_prompt_form())
        assert response.status_code == 302
        assert "/login/" in response.headers["Location"]
    forger = Client(enforce_csrf_checks=True)
    forger.force_login(User.objects.create_superuser("boss"))
    assert forger.post(URL, make_prompt_form()).status_code == 403
