"""The admin of the Django app in a real browser: JSON while it is typed, previews, chats."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from browser import log_in, wait_until
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django_admin_pages import ROOT, make_chat, write_config
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tinytroupe.contrib.django.json_text import FaultyJSON, parse_json
from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate, Tool

NASTY = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"

Open = Callable[[str], None]


@pytest.fixture
def open_page(
    request: pytest.FixtureRequest,
    browser: Chrome,
    boss: object,
    site_settings: Callable[..., None],
) -> Any:
    """A function that opens a page of the app's admin, under a policy without inline scripts."""
    site_settings(MIDDLEWARE=[*settings.MIDDLEWARE, "django_admin_pages.forbid_inline"])
    address = request.getfixturevalue("live_site")
    log_in(browser, address, User.objects.get(username="boss"))
    browser.get_log("browser")

    def open_it(path: str) -> None:
        browser.get(f"{address}{ROOT}/{path}")

    yield open_it
    assert browser.execute_script("return window.hacked") is None
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    assert [said for said in complaints if "favicon" not in said] == []


def find(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def write(browser: Chrome, selector: str, text: str) -> None:
    field = find(browser, selector)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text)


def wait_for_state(browser: Chrome, name: str, said: str) -> None:
    wait_until(browser, lambda b: find(b, f"#id_{name}_state").text == said)


def show_preview(browser: Chrome) -> None:
    """Asks for a preview and waits until it is there."""
    browser.execute_script("document.getElementById('llm-preview-result').replaceChildren()")
    find(browser, "#llm-preview-button").click()
    find(browser, ".llm-preview-shown, .llm-preview-result .errornote")


def list_messages(browser: Chrome) -> list[str]:
    found = browser.find_elements(By.CSS_SELECTOR, ".llm-message .llm-text")
    return [text.get_property("textContent") for text in found]


def test_an_unsaved_template_is_previewed(open_page, browser, configs_folder):
    """What is typed on the page of a new template is rendered, counted, and nowhere saved."""
    write_config(configs_folder, "mine")
    for name in ("mine", "rehearsal"):
        LLMConfigName.objects.create(name=name)
    open_page("prompttemplate/add/")
    box = find(browser, "#id_llm_config_names_from")
    box.find_element(By.CSS_SELECTOR, "option[value=mine]").click()
    find(browser, "#id_llm_config_names_add").click()
    write(browser, "#id_system_prompt_template", "You are {{ name }}.\n" + NASTY)
    show_preview(browser)
    assert list_messages(browser) == ["You are .\n" + NASTY, "Hello!"]
    assert find(browser, "#id_preview-variables").get_property("value") == '{\n  "name": ""\n}'
    wait_for_state(browser, "preview-variables", "valid JSON")
    write(browser, "#id_preview-variables", '{"name": "Lisa"}')
    write(browser, "#id_preview-message", "Tea, please.")
    show_preview(browser)
    assert list_messages(browser) == ["You are Lisa.\n" + NASTY, "Tea, please."]
    said = find(browser, ".llm-total").text
    assert re.fullmatch(r"\d+ tokens in total: exact for gpt-4o, the model of mine\.", said)
    assert not PromptTemplate.objects.exists()


def test_a_fault_leads_to_its_line(open_page, browser, make_prompt):
    """A fault names field and line, and a click on it puts the cursor there."""
    row = make_prompt(system_prompt_template="You help.")
    open_page(f"prompttemplate/{row.pk}/change/")
    write(browser, "#id_system_prompt_template", "You help.\nYou {{ }} too.\nBye.")
    show_preview(browser)
    fault = find(browser, ".llm-faults li")
    assert fault.text == (
        "System prompt: line 2: Expected an expression, got 'end of print statement'"
    )
    fault.find_element(By.TAG_NAME, "a").click()
    chosen = browser.execute_script(
        "const field = document.activeElement;"
        "return [field.id, field.value.slice(field.selectionStart, field.selectionEnd)]"
    )
    assert chosen == ["id_system_prompt_template", "You {{ }} too."]
    row.refresh_from_db()
    assert row.system_prompt_template == "You help."


def test_a_preview_that_is_refused_says_so(open_page, browser, make_prompt):
    """Where the session has ended meanwhile, the page says that nobody is logged in any more."""
    row = make_prompt()
    open_page(f"prompttemplate/{row.pk}/change/")
    Session.objects.all().delete()
    show_preview(browser)
    failed = "The preview failed: you are not logged in any more."
    assert find(browser, ".llm-preview-result .errornote").text == failed
    assert find(browser, "#llm-preview-button").is_enabled()


def test_who_may_only_view_previews_what_is_stored(open_page, browser, make_prompt):
    """On a page without a form the stored template is previewed, with the variables typed there."""
    row = make_prompt(system_prompt_template="You help {{ name }}.", required_kwargs=["name"])
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_prompttemplate"))
    open_page("prompttemplate/")
    log_in(browser, browser.current_url, viewer)
    open_page(f"prompttemplate/{row.pk}/change/")
    assert find(browser, ".field-required_kwargs .llm-json-text").text == '"name"'
    write(browser, "#id_preview-variables", '{"name": "Ann"}')
    show_preview(browser)
    assert list_messages(browser) == ["You help Ann.", "Hello!"]


def test_json_is_coloured_and_checked_while_it_is_typed(open_page, browser):
    """Each piece has the colour of its kind, and a line says what is wrong, and where."""
    open_page("tool/add/")
    name = "default_values_for_non_llm_params"
    wait_for_state(browser, name, "valid JSON")
    write(browser, f"#id_{name}", '{"a": "b",\n 1.5, true x')
    wait_for_state(browser, name, "line 2, column 2: a key in double quotes must stand here")
    field = find(browser, f"#id_{name}")
    assert field.get_attribute("aria-invalid") == "true"
    assert f"id_{name}_state" in field.get_attribute("aria-describedby").split()
    colours = {}
    for kind in ("key", "text", "number", "word", "mark", "fault"):
        piece = find(browser, f".llm-json-layer .llm-json-{kind}")
        colours[kind] = piece.value_of_css_property("color")
    assert len(set(colours.values())) == len(colours)
    assert field.value_of_css_property("color") == "rgba(0, 0, 0, 0)"
    write(browser, f"#id_{name}", Keys.DELETE)
    wait_for_state(browser, name, "empty")
    write(browser, f"#id_{name}", '{"a": {"b": [1]}}')
    wait_for_state(browser, name, "valid JSON")
    assert field.get_attribute("aria-invalid") == "false"


TEXTS = [
    '{"a": 1,\n "b" 2}',
    '{"a": 1\n',
    '{"a":',
    "{",
    "[1 2]",
    "[1}",
    "{1: 2}",
    '["😀" 1]',
    '["abc]',
    '{"a": "x\ny"}',
    '"\\q"',
    '["\\u12"]',
    "nul",
    "1 2",
    "",
    '"\t"',
    "[NaN]",
    "[1e999]",
    '{"a": 1,\n "a": 2}',
    '["x", "\\u0000"]',
    '["\\ud800"]',
    '{"a" : [ true , null, -1.5e+3, "\\\\", "\\ud83d\\ude00" ] }\n',
    "[]",
    "[" * 50 + "]" * 50,
]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_page_finds_what_the_server_finds(open_page, browser):
    """Whether a text is JSON, and if not, in which line and column, page and server agree."""
    open_page("tool/add/")
    script = "return arguments[0].map((text) => window.llmJSON.findFault(text))"
    found = browser.execute_script(script, TEXTS)
    assert [(fault["line"], fault["column"]) if fault else None for fault in found] == [
        find_place(text) for text in TEXTS
    ]


def find_place(text: str) -> tuple[int | None, int | None] | None:
    try:
        parse_json(text)
    except FaultyJSON as error:
        return error.line, error.column
    return None


def test_both_layers_keep_one_size(open_page, browser):
    """The coloured copy lies exactly under what is typed, however long its lines are."""
    open_page("tool/add/")
    for text in ('["' + "word " * 60 + '"]', '["' + "x" * 300 + '"]', "[" + "\n" * 60 + "]", "\n"):
        browser.execute_script(
            "const area = document.getElementById('id_tool_json_spec'); area.value = arguments[0];"
            "area.dispatchEvent(new Event('input'))",
            text,
        )
        sizes = browser.execute_script(
            "const area = document.getElementById('id_tool_json_spec');"
            "const layer = area.previousElementSibling;"
            "const measure = (e) => [e.offsetLeft, e.offsetTop, e.offsetWidth, e.offsetHeight];"
            "return [measure(area), measure(layer), area.scrollHeight - area.clientHeight,"
            " area.value + '\\n' === layer.textContent]"
        )
        assert sizes[0] == sizes[1]
        assert sizes[2:] == [0, True]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_colours_can_be_read(open_page, browser, theme):
    """Each colour has the contrast to its ground that WCAG 2.1 asks of text, in both themes."""
    said = [
        {"id": "1", "role": "system", "content": "Hi"},
        {"id": "2", "role": "user", "content": "Hi", "status": "failed", "error": "no"},
        {"id": "3", "role": "user", "content": "Hi", "status": "pending", "context_vars": {"a": 1}},
        {"id": "4", "role": "user", "content": "Hi", "status": "answered"},
        {"id": "5", "role": "assistant", "content": "Hi"},
        {"id": "6", "role": "tool", "tool_call_id": "9", "content": '{"a": [1, null, "b"]}'},
    ]
    chat = make_chat()
    type(chat).objects.filter(pk=chat.pk).update(chat_history=said)
    open_page(f"chathistory/{chat.pk}/change/")
    browser.execute_script("localStorage.setItem('theme', arguments[0])", theme)
    open_page(f"chathistory/{chat.pk}/change/")
    for summary in browser.find_elements(By.CSS_SELECTOR, "summary"):
        summary.click()
    measured = browser.execute_script(
        """
        const ground = (element) => {
            const colour = getComputedStyle(element).backgroundColor;
            return colour === 'rgba(0, 0, 0, 0)' ? ground(element.parentElement) : colour;
        };
        const wanted = '.llm-message *, pre.llm-json *';
        return [...document.querySelectorAll(wanted)]
            .filter((element) => element.textContent.trim())
            .map((element) => [element.className, getComputedStyle(element).color, ground(element)])
        """
    )
    kinds = {kind for names, _, _ in measured for kind in names.split()}
    assert {"llm-json-key", "llm-json-word", "llm-status-failed", "llm-error"} <= kinds
    weak = [row for row in measured if compute_contrast(row[1], row[2]) < 4.5]
    assert weak == []


def compute_contrast(*colours: str) -> float:
    """Returns the ratio of two colours' luminances (WCAG 2.1, 1.4.3)."""
    luminances = []
    for colour in colours:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        luminances.append(sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    dark, light = sorted(luminances)
    return (light + 0.05) / (dark + 0.05)


def test_a_chat_is_shown(open_page, browser):
    """A chat is a conversation with coloured JSON; what is folded is coloured when it opens."""
    chat = make_chat(NASTY, status="failed", error=NASTY, context_vars={"a": NASTY})
    open_page(f"chathistory/{chat.pk}/change/")
    assert list_messages(browser) == [NASTY]
    assert find(browser, ".llm-status-failed").text == "failed"
    raw = ".field-chat_history pre.llm-json"
    painted = f"return document.querySelectorAll('{raw} .llm-json-key').length"
    assert browser.execute_script(painted) == 0
    before = browser.execute_script(f"return document.querySelector('{raw}').textContent")
    for summary in browser.find_elements(By.CSS_SELECTOR, "summary"):
        summary.click()
    wait_until(browser, lambda b: b.execute_script(painted) > 4)
    assert browser.execute_script(f"return document.querySelector('{raw}').textContent") == before


def test_without_scripts_the_form_is_a_plain_one(open_page, browser):
    """Without JavaScript JSON is typed into plain text areas, and saved; nothing is in the way."""
    tool = Tool.objects.create(name="add", tool_code="django_tools.add", context_params=["a"])
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_page(f"tool/{tool.pk}/change/")
        field = find(browser, "#id_context_params")
        assert field.value_of_css_property("color") != "rgba(0, 0, 0, 0)"
        write(browser, "#id_context_params", '["b"]')
        find(browser, "[name=_save]").click()
        wait_until(browser, lambda b: find(b, ".messagelist .success"))
        open_page("prompttemplate/add/")
        assert not find(browser, "#llm-preview").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    tool.refresh_from_db()
    assert tool.context_params == ["b"]
