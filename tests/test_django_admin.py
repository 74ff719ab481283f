"""The admin of the Django app: what its lists and forms show, take and refuse."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_admin_pages import (
    KINDS,
    ROOT,
    SETTING,
    SOURCE,
    SPEC,
    make_chat,
    make_prompt_form,
    make_tool_form,
    read,
    see,
    send,
    write_config,
)

from tinytroupe.contrib.django.models import ChatHistory, LLMConfigName, PromptTemplate, Tool

SECRET = "sesame"


def test_tools_are_listed_with_their_code_and_use(boss, make_prompt):
    """The list of tools tells a path from source text, and how many templates use each."""
    path = Tool.objects.create(name="add", tool_code="django_tools.add")
    Tool.objects.create(name="source_add", tool_code=SOURCE)
    make_prompt("one", tools=(path,))
    make_prompt("two", tools=(path,))
    page = read(boss, "tool/")
    assert re.search(r"add path django_tools\.add 2 ", page)
    assert re.search(r"source_add source def add\(a: int, b: int\) -> int: .* 0 ", page)
    assert "1 tool " in read(boss, "tool/", q="source_add")
    assert "1 tool " in read(boss, "tool/", prompt_templates__isnull="True")


def test_prompt_templates_are_listed_with_what_they_use(boss, make_prompt):
    """The list of templates shows format, configurations, tools and the last change; all filter."""
    tool = Tool.objects.create(name="add", tool_code="django_tools.add")
    make_prompt("first", tools=(tool,))
    other = make_prompt("second", configs=(), template_format="mustache")
    form = make_prompt_form(name="second", template_format="mustache")
    assert send(boss, f"prompttemplate/{other.pk}/change/", form)[0] == 302
    page = read(boss, "prompttemplate/")
    assert re.search(r"first Jinja: {{ name }} rehearsal add - ", page)
    assert re.search(r"second Mustache: {{name}} rehearsal \S* ?\w{3,4}\. \d+, \d{4}", page)
    assert "1 prompt template " in read(boss, "prompttemplate/", tools__id__exact=str(tool.pk))
    assert "1 prompt template " in read(boss, "prompttemplate/", template_format__exact="jinja")
    assert "1 prompt template " in read(boss, "prompttemplate/", q="secon")


def test_configurations_are_listed_as_their_files_are(boss, configs_folder):
    """The list shows class, model, host and tools of each file, and which cannot be used."""
    write_config(configs_folder, "mine", endpoint="https://example.org:8443/v1")
    write_config(configs_folder, "faulty", llm_config_class="NoSuchConfig")
    write_config(configs_folder, "later")
    for name in ("mine", "faulty", "rehearsal", "lost"):
        LLMConfigName.objects.create(name=name)
    response = boss.get(f"{ROOT}/llmconfigname/")
    page = see(response.content)
    assert "mine OpenAICompatibleConfig gpt-4o example.org:8443 usable 0" in page
    assert "rehearsal RehearsalConfig rehearsal none usable 0" in page
    assert re.search(r"faulty - - - faulty.yaml .* there is no class 'NoSuchConfig'", page)
    assert "lost - - - there is no file of this name 0" in page
    assert "Files that are not in the table: later." in page
    shown = read(boss, "llmconfigname/mine/change/")
    assert "Host: example.org:8443" in shown
    assert "Save" not in shown


@pytest.mark.parametrize(
    "endpoint",
    [
        f"https://lisa:{SECRET}@example.org/v1",
        f"https://example.org/v1?key={SECRET}",
        f"lisa:{SECRET}@example.org",
        f"https://example.org/v1#{SECRET}",
        f"https://lisa:{SECRET}@example.org:port/v1",
    ],
)
def test_no_page_shows_a_key(boss, configs_folder, endpoint):
    """Neither a key of an account nor credentials in an address are on any page, faulty or not."""
    write_config(configs_folder, "mine", endpoint=endpoint, api_key=SECRET)
    LLMConfigName.objects.create(name="mine")
    for path in ("llmconfigname/", "llmconfigname/mine/change/", "prompttemplate/add/"):
        response = boss.get(f"{ROOT}/{path}")
        assert response.status_code == 200
        assert SECRET not in response.content.decode()


def test_a_missing_folder_is_told_above_the_list(boss, site_settings):
    """Where no file can be read, the list says why, and shows the names all the same."""
    LLMConfigName.objects.create(name="rehearsal")
    site_settings(LLM_CONFIGS_PATH=None)
    page = read(boss, "llmconfigname/")
    assert "LLM_CONFIGS_PATH is not set" in page
    assert page.endswith("1 LLM configuration")


def test_a_new_name_without_a_file_is_warned_of(boss):
    """A name whose file does not exist is saved, and said to have none; a name is not changed."""
    status, page = send(boss, "llmconfigname/add/", {"name": "rehersal"})
    assert status == 302
    assert "LLM configuration rehersal: there is no file of this name." in page
    assert boss.post(f"{ROOT}/llmconfigname/rehersal/change/", {"name": "x"}).status_code == 403


def test_chats_are_listed_with_what_was_last_said(boss):
    """The list of chats shows the number of messages, the last one, its status and the tokens."""
    chat = make_chat("Hello", "Is anybody there?" + "?" * 100, status="failed", error="nobody")
    make_chat("Grüße 🌍", status="answered")
    ChatHistory.objects.filter(pk=chat.pk).update(
        chat_history=[
            *chat.chat_history,
            {"role": "assistant", "config": "mine", "tokens": {"input": 1200, "output": 5}},
            {"role": "assistant", "config": "mine", "tokens": {"input": None, "output": None}},
            "rubbish",
        ]
    )
    page = read(boss, "chathistory/")
    assert f'chat {chat.pk} 5 "rubbish" failed 1,200 in, 5 out, 1 unknown' in page
    assert "1 Grüße 🌍 answered -" in page
    assert f"{ROOT}/chathistory/add/" not in boss.get(f"{ROOT}/").content.decode()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "grüße"}, 1),
        ({"q": "🌍 hello"}, 1),
        ({"q": "anybody"}, 1),
        ({"q": "nobody"}, 0),
        ({"q": "Oslo"}, 1),
        ({"status": "failed"}, 1),
        ({"status": "pending"}, 0),
        ({"status": "answered"}, 1),
    ],
)
def test_chats_are_found(boss, query, found):
    """Chats are found by what was said in them, in any script, and by the state of a message."""
    make_chat('Is anybody there? "status": "pending"', status="failed")
    chat = make_chat("grüße 🌍", "Hello", status="answered")
    ChatHistory.objects.filter(pk=chat.pk).update(current_context_variables={"city": "Oslo"})
    response = boss.get(f"{ROOT}/chathistory/", query)
    assert response.context["cl"].result_count == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_list_takes_no_more_queries(boss, make_prompt, kind):
    """The number of queries for a list does not depend on the number of its rows."""

    def add_rows(start: int, end: int) -> int:
        for number in range(start, end):
            tool = Tool.objects.create(name=f"t{number}", tool_code="django_tools.add")
            make_prompt(f"p{number}", configs=("rehearsal", f"c{number}"), tools=(tool,))
            make_chat("Hello")
        with CaptureQueriesContext(connection) as queries:
            read(boss, f"{kind}/")
        return len(queries)

    assert add_rows(0, 2) == add_rows(2, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_staff_without_permission_sees_nothing(log_in_with, boss, kind):
    """Who has no permission gets no page of the app, and no link to one."""
    stranger = log_in_with()
    for path in (f"{kind}/", f"{kind}/add/", f"{kind}/1/change/", f"{kind}/1/delete/"):
        assert stranger.get(f"{ROOT}/{path}").status_code in (403, 302)
    assert stranger.get(f"{ROOT}/{kind}/").status_code == 403
    assert ROOT not in stranger.get("/admin/").content.decode()
    assert ROOT in boss.get("/admin/").content.decode()


@pytest.mark.parametrize("field", ["tool_json_spec", "context_params"])
def test_who_may_only_view_sees_json_and_cannot_write(log_in_with, boss, field):
    """JSON is shown with a line for each member, escaped, to who may not change it."""
    value = {"<b>": ["<script>"]} if field == "tool_json_spec" else ["<b>", "<script>"]
    tool = Tool.objects.create(name="add", tool_code="django_tools.add\n  indented")
    Tool.objects.filter(pk=tool.pk).update(**{field: value})
    viewer = log_in_with("view_tool")
    page = viewer.get(f"{ROOT}/tool/{tool.pk}/change/").content.decode()
    shown = re.findall(r'<pre class="llm-json">(.*?)</pre>', page, re.DOTALL)
    assert json.dumps(value, indent=2) in map(unescape, shown)
    assert "<script>" not in "".join(shown)
    assert '<pre class="llm-code">django_tools.add\n  indented</pre>' in page
    assert 'name="tool_code"' not in page
    assert viewer.post(f"{ROOT}/tool/{tool.pk}/change/", make_tool_form()).status_code == 403


def test_a_tool_gets_its_spec_from_its_function(boss):
    """A tool without a spec is saved with the one that its signature and docstring make."""
    assert send(boss, "tool/add/", make_tool_form())[0] == 302
    spec = Tool.objects.get().tool_json_spec
    assert spec["name"] == "add"
    assert set(spec["parameters"]["properties"]) == {"a", "b"}
    given = make_tool_form(name="other", tool_json_spec=json.dumps({**SPEC, "name": "other"}))
    assert send(boss, "tool/add/", given)[0] == 302
    assert Tool.objects.get(name="other").tool_json_spec["description"] == "Adds."


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("django_tools.ad", "the module django_tools has no function ad; the nearest is add"),
        ("os.system", "LLM_WRAPPER_TOOL_MODULES"),
        (SOURCE, f"{SETTING} is True"),
        ("def add(:", SETTING),
    ],
)
def test_code_that_cannot_be_used_is_refused(boss, code, said):
    """The code of a tool is looked at before it is saved; what is wrong is said at its field."""
    response = boss.post(f"{ROOT}/tool/add/", make_tool_form(tool_code=code))
    errors = response.context["adminform"].form.errors
    assert list(errors) == ["tool_code"]
    assert said in errors["tool_code"][0]
    assert not Tool.objects.exists()


def test_source_text_is_taken_where_the_site_allows_it(boss, site_settings):
    """With the setting source text is saved, with a spec; the form tells beforehand."""
    assert f"Source text is refused here: the setting {SETTING} is not True." in read(
        boss, "tool/add/"
    )
    site_settings(**{SETTING: True})
    assert f"runs in a process of its own: the setting {SETTING} is True." in read(
        boss, "tool/add/"
    )
    assert send(boss, "tool/add/", make_tool_form(tool_code=SOURCE))[0] == 302
    assert Tool.objects.get().tool_json_spec["description"] == "Adds two numbers."
    status, page = send(boss, "tool/add/", make_tool_form(name="two", tool_code="def add(:"))
    assert status == 200
    assert "the code of the tool two is not Python: line 1" in page


def test_a_faulty_setting_does_not_take_the_form_away(boss, site_settings):
    """Where the setting itself is wrong, the form says so and saves no source text."""
    site_settings(**{SETTING: "yes"})
    assert f"{SETTING} is 'yes'; it must be True or False" in read(boss, "tool/add/")
    assert send(boss, "tool/add/", make_tool_form(tool_code=SOURCE))[0] == 200
    assert not Tool.objects.exists()


def test_a_template_needs_a_configuration(boss):
    """A template that nobody could answer is refused, with what to do."""
    status, page = send(boss, "prompttemplate/add/", make_prompt_form(llm_config_names=[]))
    assert status == 200
    assert "Choose at least one: without an LLM configuration nobody answers." in page
    assert not PromptTemplate.objects.exists()


def test_a_template_whose_tools_are_disabled_is_warned_of(boss, configs_folder):
    """A template is saved though a configuration does not enable its tools, and that is said."""
    write_config(configs_folder, "mute")
    for name in ("mute", "lost"):
        LLMConfigName.objects.create(name=name)
    tool = Tool.objects.create(name="add", tool_code="django_tools.add")
    form = make_prompt_form(llm_config_names=["mute", "lost", "rehearsal"], tools=[str(tool.pk)])
    status, page = send(boss, "prompttemplate/add/", form)
    assert status == 302
    assert "LLM configuration mute: it does not have tools_enabled" in page
    assert "LLM configuration lost: there is no file of this name." in page
    assert "configuration rehearsal:" not in page
    assert PromptTemplate.objects.get().llm_config_names.count() == 3


def test_a_faulty_template_is_refused_with_its_line(boss):
    """A form says in which line of which field a template cannot be compiled."""
    form = make_prompt_form(system_prompt_template="You help.\n{% if %}")
    status, page = send(boss, "prompttemplate/add/", form)
    assert status == 200
    assert "system_prompt_template, line 2: Expected an expression" in page


def test_each_space_of_a_template_is_kept(boss):
    """Templates and code are stored as they stand in the form, with plain line ends."""
    text = "\r\n  You help. \r\n\r\n"
    form = make_prompt_form(system_prompt_template=text, template_format="mustache")
    assert send(boss, "prompttemplate/add/", form)[0] == 302
    row = PromptTemplate.objects.get()
    assert row.system_prompt_template == "\n  You help. \n\n"
    assert send(boss, f"prompttemplate/{row.pk}/change/", form)[0] == 302
    entry = LogEntry.objects.latest("pk")
    assert entry.get_change_message() == "No fields changed."
