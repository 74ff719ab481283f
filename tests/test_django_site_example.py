"""The example site: its chat page in a browser and without one, and the demonstration of it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from html.parser import HTMLParser

import pytest
from browser import wait_until
from chat_server import call_tools
from example_site import FOLDER, PASSWORD, load_demo, refuse, run_example, stream
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from servers import Reset, Wait, chat_body, get_json, http_reply

from tinytroupe.contrib.django.configs import read_config

FIND = call_tools(("find_order", {"order_number": "T-1042"}))


@pytest.fixture(scope="module")
def site_of_all(tmp_path_factory):
    """The site for the tests of this file; each begins chats of its own."""
    with run_example(tmp_path_factory.mktemp("example"), "bert") as running:
        yield running


@pytest.fixture
def site(site_of_all):
    """The site, whose endpoint answers nothing that a test did not say."""
    site_of_all.endpoint.play()
    before = site_of_all.endpoint.surplus
    yield site_of_all
    assert site_of_all.endpoint.surplus == before


@pytest.fixture
def hold():
    """An event for which answers wait; it is set when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def begin_chat(visitor, about="Orders and delivery"):
    """Begins a chat and returns its path."""
    visitor.open("/")
    visitor.send("/", prompt_template=visitor.find(rf'value="(\d+)"[^>]*>{about}<'))
    assert re.fullmatch(r"/chats/\d+/", visitor.path)
    return visitor.path


def list_texts(visitor):
    return re.findall(r'class="text">([^<]+)<', visitor.page)


# Without a browser


def test_the_project_is_as_django_wants_it(site):
    """The system checks find nothing, and the migrations are those of the models."""
    assert "no issues" in site.manage("check", "--fail-level", "WARNING")
    assert "No changes" in site.manage("makemigrations", "--check", "--dry-run")


def test_loading_the_demonstration_again_changes_nothing(site):
    """What `load_demo` made is put back in place, not doubled."""
    before = site.manage("dumpdata", "llm_wrapper.prompttemplate", "llm_wrapper.tool", "shop.order")
    site.manage("load_demo", "--customer", "admin")
    after = site.manage("dumpdata", "llm_wrapper.prompttemplate", "llm_wrapper.tool", "shop.order")
    assert re.sub(r'"updated_at": "[^"]+"', "", after) == re.sub(
        r'"updated_at": "[^"]+"', "", before
    )
    assert after.count('"model": "llm_wrapper.prompttemplate"') == 3


def test_loading_it_for_nobody_is_refused(site):
    """A customer who is not there is named."""
    with pytest.raises(SystemExit, match="there is no user 'nobody'"):
        site.manage("load_demo", "--customer", "nobody")


def test_no_key_stands_in_the_files(monkeypatch):
    """The example for OpenAI takes its key from the environment, and is a file that can be used."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    config = read_config(FOLDER / "llm_configs_examples" / "openai.yml")
    assert config.tools_enabled
    assert config.model.api_key == "sk-of-a-test"


def test_without_debug_and_a_key_the_site_does_not_start(site):
    """A key that everybody knows is for developers only."""
    environment = {**site.environment, "DJANGO_DEBUG": "0"}
    del environment["DJANGO_SECRET_KEY"]
    with pytest.raises(SystemExit, match="Set DJANGO_SECRET_KEY, or DJANGO_DEBUG=1"):
        site.demo.manage(environment, "check")


def test_chats_are_seen_by_those_whose_they_are(site):
    """Others are told that there is no such page; who did not sign in is led to do so."""
    admin, bert, stranger = site.visit("admin"), site.visit("bert"), site.visit()
    path = begin_chat(admin)
    bert.open(path)
    assert bert.status == 404
    bert.open("/")
    assert path not in bert.page
    bert.send(path, message="Whose is this?")
    assert bert.status == 404
    stranger.open(path)
    assert stranger.path == f"/login/?next={path}"


def test_a_form_of_another_site_is_refused(site):
    """Who does not send back the page's token sends nothing."""
    admin = site.visit("admin")
    path = begin_chat(admin)
    admin.page = '<input name="csrfmiddlewaretoken" value="forged">'
    admin.send(path, message="Let me in.")
    assert admin.status == 403


def test_a_tool_knows_the_customer_and_no_model_can_say_otherwise(site):
    """The orders that are found are those of who is signed in."""
    bert = site.visit("bert")
    path = begin_chat(bert)
    site.endpoint.play(stream(FIND), stream("There is none of yours."))
    list(bert.stream(path, message="Where is the order of somebody else?"))
    result = site.endpoint.read_messages()[-1]
    assert result["role"] == "tool"
    assert "Jasmine" not in result["content"]
    assert '"found": false' in result["content"]
    tools = [tool["function"] for tool in site.endpoint.requests[-1].json()["tools"]]
    shown = {tool["name"]: list(tool["parameters"]["properties"]) for tool in tools}
    assert shown == {"delivery_days": ["country"], "find_order": ["order_number"]}


def test_templates_of_all_formats_reach_the_model(site):
    """What customers are and what they say stands in the prompts, as each template has it."""
    admin = site.visit("admin")
    told = {}
    for about in ("Orders and delivery", "Choosing a tea", "Something went wrong"):
        path = begin_chat(admin, about)
        site.endpoint.play(stream("Gladly."))
        assert list(admin.stream(path, message="It is <new>."))[-1] == {"done": True}
        told[about] = [message["content"] for message in site.endpoint.read_messages()]
    assert "talking with admin, who has bought: Jasmine" in told["Orders and delivery"][0]
    assert "Already bought: Assam, 250 g." in told["Choosing a tea"][0]
    assert told["Choosing a tea"][-1].startswith("It is <new>.\n\nName one tea")
    assert "up to $20." in told["Something went wrong"][0]
    assert told["Something went wrong"][-1] == "admin complains:\nIt is <new>."


def test_statuses_say_what_went_wrong(site, hold):
    """Nothing to say is 400, a busy chat 409, an endpoint that fails 502; each with a line."""
    admin, again = site.visit("admin"), site.visit("admin")
    path = begin_chat(admin)
    again.open(path)
    (line,) = admin.stream(path, message="  ")
    assert (admin.status, line["stored"]) == (400, False)
    assert line["error"] == "There is no message yet."
    site.endpoint.play(refuse("The account is empty."))
    (line,) = admin.stream(path, message="Are you there?")
    assert (admin.status, line["stored"]) == (502, True)
    assert "The account is empty." in line["error"]
    site.endpoint.play(stream("One moment please.", Wait(hold)))
    lines = admin.stream(path, message="Are you there?")
    next(lines)
    (line,) = again.stream(path, message="And I?")
    assert (again.status, line["stored"]) == (409, False)
    assert "Another message of this chat is being answered" in line["error"]
    hold.set()
    assert list(lines)[-1] == {"done": True}


def test_who_leaves_early_finds_the_message_marked(site, hold):
    """An answer that nobody reads any more is not stored; its message can be sent again."""
    admin = site.visit("admin")
    path = begin_chat(admin)
    site.endpoint.play(stream("One two three four five six.", Wait(hold)), stream("All of it."))
    lines = admin.stream(path, message="Count, please.")
    next(lines)
    lines.close()
    hold.set()
    for _ in range(100):
        admin.open(path)
        if "nobody waited for the answer any more" in admin.page:
            break
    assert list_texts(admin)[-1] == "Count, please."
    assert list(admin.stream(path, message="Count, please."))[-1] == {"done": True}
    admin.open(path)
    assert [text.strip() for text in list_texts(admin)[-2:]] == ["Count, please.", "All of it."]


def test_a_history_that_is_broken_is_said_to_be(site):
    """A page tells which message of an edited history is wrong, and shows no other."""
    admin = site.visit("admin")
    path = begin_chat(admin)
    pk = path.split("/")[2]
    site.manage(
        "shell",
        "-v0",
        "-c",
        "from tinytroupe.contrib.django.models import ChatHistory; from shop.models import *; "
        f"history = Conversation.objects.get(pk={pk}).chat_history; "
        "messages = history.chat_history + [{'id': 'm-7', 'role': 'tool', 'content': 'x', "
        "'tool_call_id': 'c-1'}]; "
        "ChatHistory.objects.filter(pk=history.pk).update(chat_history=messages)",
    )
    admin.open(path)
    assert admin.status == 200
    assert "This chat cannot be shown: message m-7 (tool)" in admin.page
    assert list_texts(admin) == []


def test_a_template_that_wants_more_is_refused_on_the_page(site):
    """A new chat that lacks variables begins nothing and says which."""
    site.manage(
        "shell",
        "-v0",
        "-c",
        "from tinytroupe.contrib.django.models import *; "
        "made = PromptTemplate.objects.create(name='Riddle', required_kwargs=['riddle'], "
        "system_prompt_template='{{ riddle }}'); made.llm_config_names.set(['rehearsal'])",
    )
    admin = site.visit("admin")
    admin.send("/", prompt_template=admin.find(r'value="(\d+)"[^>]*>Riddle<'))
    assert admin.status == 400
    assert "requires variables that were not given: riddle" in admin.page


def test_the_admin_has_the_shop(site):
    """Orders are found, and chats are shown with whose they are."""
    admin = site.visit("admin")
    pk = begin_chat(admin).split("/")[2]
    admin.open("/admin/shop/order/?q=jasmine")
    assert "T-1042" in admin.page
    assert "T-1041" not in admin.page
    admin.open(f"/admin/shop/conversation/{pk}/change/")
    assert admin.status == 200
    assert "Orders and delivery" in admin.page
    admin.open("/admin/shop/conversation/?q=admin")
    assert admin.status == 200


class Outside(HTMLParser):
    """Finds what a page has from elsewhere, or in itself where only files of the site belong."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "style" or (tag == "script" and "src" not in given):
            self.found.append(tag)
        for name, value in attributes:
            address = name in ("src", "href", "action") and not value.startswith(("/", "#"))
            if name == "style" or name.startswith("on") or address:
                self.found.append(f"{tag} {name}={value}")


def test_pages_have_no_inline_code_and_nothing_from_elsewhere(site):
    """A strict content security policy would change nothing, and no other site is asked."""
    admin, stranger = site.visit("admin"), site.visit()
    admin.open(begin_chat(admin))
    stranger.open("/login/")
    pages = [admin.page, stranger.page]
    admin.open("/")
    for page in (*pages, admin.page):
        reader = Outside()
        reader.feed(page)
        assert reader.found == []
    for name in ("shop.css", "chat.js"):
        text = (FOLDER / "shop" / "static" / "shop" / name).read_text(encoding="utf-8")
        assert "//" not in re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)


# In a browser


def sign_in(browser, site):
    browser.get(site.url)
    browser.find_element(By.NAME, "username").send_keys("admin")
    browser.find_element(By.NAME, "password").send_keys(PASSWORD, Keys.ENTER)
    wait_until(browser, lambda page: page.find_element(By.CSS_SELECTOR, "main.welcome"))


def open_chat(browser, site, about="Orders and delivery"):
    """Signs in and begins a chat, by hand; returns its address."""
    sign_in(browser, site)
    choose = f"//select/option[normalize-space()='{about}']"
    browser.find_element(By.XPATH, choose).click()
    browser.find_element(By.CSS_SELECTOR, ".new-chat button").click()
    wait_until(browser, lambda page: page.find_element(By.CSS_SELECTOR, "main.chat"))
    return browser.current_url


def find_field(browser):
    return browser.find_element(By.CSS_SELECTOR, ".composer textarea")


def write(browser, *keys):
    find_field(browser).send_keys(*keys)


def read_texts(browser):
    found = browser.find_elements(By.CSS_SELECTOR, "#messages .text")
    return [item.text.strip() for item in found]


def count(browser, selector):
    """Returns how many there are at once; Selenium would wait for the first."""
    return browser.execute_script("return document.querySelectorAll(arguments[0]).length", selector)


def wait_for_texts(browser, *texts):
    wait_until(browser, lambda page: read_texts(page)[-len(texts) :] == list(texts))


def wait_for_rest(browser):
    """Waits until nothing is being answered."""
    wait_until(browser, lambda page: page.execute_script("return !document.body.ariaBusy"))


def test_answers_arrive_in_pieces_and_stay(browser, site, hold):
    """The first words are there while the last are not yet said; a reload shows the same."""
    open_chat(browser, site)
    site.endpoint.play(stream("It left on Monday, dear admin.", Wait(hold), after=3))
    write(browser, "When did it leave?", Keys.ENTER)
    wait_for_texts(browser, "When did it leave?", "It left on")
    assert find_field(browser).get_property("value") == ""
    hold.set()
    wait_for_texts(browser, "When did it leave?", "It left on Monday, dear admin.")
    wait_for_rest(browser)
    said = browser.find_element(By.ID, "progress").get_property("textContent")
    assert said.strip() == "Answer: It left on Monday, dear admin."
    shown = read_texts(browser)
    assert browser.find_element(By.CSS_SELECTOR, "#chats a[aria-current]").text.startswith(
        "When did it leave?"
    )
    browser.refresh()
    assert read_texts(browser) == shown
    assert len(shown) == 3


def test_tool_calls_are_shown_beside_the_answer(browser, site):
    """A page tells which tool was used, with what, and what it found."""
    open_chat(browser, site)
    site.endpoint.play(stream(FIND), stream("It is on its way."))
    write(browser, "Where is T-1042?", Keys.ENTER)
    wait_for_texts(browser, "Where is T-1042?", "It is on its way.")
    wait_for_rest(browser)
    browser.find_element(By.CSS_SELECTOR, ".step summary").click()
    step = browser.find_element(By.CSS_SELECTOR, ".step").text
    assert "find_order" in step
    assert "Jasmine tea, 100 g" in step


def test_results_stand_beside_their_calls(site):
    """An endpoint may give calls of different answers one id; each shows its own result."""
    admin = site.visit("admin")
    path = begin_chat(admin)
    days = call_tools(("delivery_days", {"country": "Slovenia"}))
    site.endpoint.play(stream(FIND), stream(days), stream("In two to four days."))
    assert list(admin.stream(path, message="How long, to Slovenia?"))[-1] == {"done": True}
    admin.open(path)
    results = re.findall(r"<dt>Found</dt><dd><code>([^<]*)</code>", admin.page)
    assert ["Jasmine" in result for result in results] == [True, False]
    assert results[1] == "2 to 4 working days"


def test_a_failure_is_shown_and_the_message_sent_again(browser, site):
    """The message is marked with the error; sent again it is answered, and stands there once."""
    open_chat(browser, site)
    site.endpoint.play(refuse("The account is empty."), stream("Here it is."))
    write(browser, "One pot\nof Assam", Keys.SHIFT, Keys.ENTER, Keys.NULL, "please.", Keys.ENTER)
    failure = wait_until(browser, lambda page: page.find_element(By.CSS_SELECTOR, ".failure"))
    assert "The account is empty." in failure.text
    wait_for_rest(browser)
    failure = browser.find_element(By.CSS_SELECTOR, ".failure")
    failure.find_element(By.TAG_NAME, "button").click()
    wait_for_texts(browser, "Here it is.")
    wait_for_rest(browser)
    browser.refresh()
    assert len(read_texts(browser)) == 3
    assert count(browser, ".unanswered, .failure") == 0
    roles = [message["role"] for message in site.endpoint.read_messages()]
    assert roles == ["system", "assistant", "user"]


def test_an_answer_that_breaks_off_is_no_answer(browser, site, hold):
    """Its words were seen, but what stays is the message, marked, and the way to send it again."""
    open_chat(browser, site)
    site.endpoint.play(
        [*stream("It left on Monday.", Wait(hold))[:4], Reset()], stream("On Monday.")
    )
    write(browser, "Which day was it?", Keys.ENTER)
    wait_for_texts(browser, "Which day was it?", "It left")
    hold.set()
    wait_until(browser, lambda page: page.find_element(By.CSS_SELECTOR, ".failure button"))
    wait_for_rest(browser)
    assert read_texts(browser)[1:] == ["Which day was it?"]
    browser.find_element(By.CSS_SELECTOR, ".failure button").click()
    wait_for_texts(browser, "Which day was it?", "On Monday.")


def test_two_windows_of_a_chat_take_turns(browser, site, hold):
    """The second is told to wait and keeps what was written; then it sees both messages."""
    address = open_chat(browser, site)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    try:
        browser.get(address)
        browser.switch_to.window(first)
        site.endpoint.play(stream("First come, first served.", Wait(hold)), stream("Now you."))
        write(browser, "I was first.", Keys.ENTER)
        wait_for_texts(browser, "I was first.", "First come,")
        browser.switch_to.window(second)
        write(browser, "And I?", Keys.ENTER)
        fault = wait_until(browser, lambda page: page.find_element(By.CSS_SELECTOR, ".fault"))
        assert "Another message of this chat is being answered" in fault.text
        wait_for_rest(browser)
        assert find_field(browser).get_property("value") == "And I?"
        assert read_texts(browser)[-1] == "I was first."
        hold.set()
        browser.switch_to.window(first)
        wait_for_texts(browser, "I was first.", "First come, first served.")
        browser.switch_to.window(second)
        browser.find_element(By.CSS_SELECTOR, ".composer button").click()
        wait_for_texts(browser, "I was first.", "First come, first served.", "And I?", "Now you.")
    finally:
        browser.switch_to.window(second)
        browser.close()
        browser.switch_to.window(first)


def test_markup_and_lines_are_shown_as_they_were_written(browser, site):
    """Neither a message nor an answer becomes part of the page, while it comes and after."""
    open_chat(browser, site)
    markup = "<b>bold</b><script>document.title='taken'</script>"
    site.endpoint.play(stream(f"{markup}\nsecond"))
    write(browser, markup, Keys.SHIFT, Keys.ENTER, Keys.NULL, "line", Keys.ENTER)
    for _ in range(2):
        wait_for_texts(browser, f"{markup}\nline", f"{markup}\nsecond")
        wait_for_rest(browser)
        assert browser.title != "taken"
        assert count(browser, "#messages b, #messages script") == 0
        browser.refresh()


def test_the_page_works_without_javascript(browser, site, hold):
    """The same forms send, fail, send again without doubling, and tell of a busy chat."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        address = open_chat(browser, site)
        site.endpoint.play(refuse("Not today."), http_reply(body=chat_body("Here you are.")))
        write(browser, "Green tea,", Keys.ENTER, "please.")
        browser.find_element(By.CSS_SELECTOR, ".composer button").click()
        wait_until(browser, lambda page: page.find_element(By.CSS_SELECTOR, ".failure"))
        assert "Not today." in browser.find_element(By.CSS_SELECTOR, ".fault").text
        browser.find_element(By.CSS_SELECTOR, ".failure button").click()
        wait_for_texts(browser, "Green tea,\nplease.", "Here you are.")
        assert len(read_texts(browser)) == 3
        other = site.visit("admin")
        other.open(address.removeprefix(site.url))
        site.endpoint.play(stream("One moment.", Wait(hold), after=1))
        lines = other.stream(other.path, message="Meanwhile?")
        next(lines)
        write(browser, "Black tea.")
        browser.find_element(By.CSS_SELECTOR, ".composer button").click()
        fault = wait_until(browser, lambda page: page.find_element(By.CSS_SELECTOR, ".errorlist"))
        assert "Another message of this chat is being answered" in fault.text
        assert find_field(browser).get_property("value") == "Black tea."
        hold.set()
        list(lines)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_page_fits_a_telephone(browser, site):
    """At 360 pixels nothing has to be scrolled sideways, and the form is in sight."""
    open_chat(browser, site)
    site.endpoint.play(stream("A" * 300))
    write(browser, "w" * 200, Keys.ENTER)
    wait_for_texts(browser, "A" * 300)
    narrow = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        wide = "return document.documentElement.scrollWidth"
        assert browser.execute_script(wide) <= 360
        button = browser.find_element(By.CSS_SELECTOR, ".composer button").rect
        seen = browser.execute_script("return [scrollY, scrollY + innerHeight]")
        assert seen[0] <= button["y"] <= seen[1] - button["height"]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_that_can_be_used_has_a_name(browser, site):
    """Each control of the pages is announced by a name, and waiting is announced too."""
    open_chat(browser, site)
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = ("button", "textbox", "combobox", "link", "navigation", "complementary", "list")
    named = {
        (node["role"]["value"], node["name"]["value"])
        for node in tree
        if node.get("role", {}).get("value") in controls and "name" in node
    }
    assert {("button", "Send"), ("textbox", "Your message:"), ("list", "Messages")} <= named
    assert ("combobox", "What is it about?") in named
    assert not [role for role, name in named if not name and role != "list"]
    roles = {node["role"]["value"] for node in tree if "role" in node}
    assert {"main", "alert", "status"} <= roles


# The demonstration


def test_the_demonstration_checks_itself(tmp_path):
    """It starts everything, sends a message, finds it streamed and stored, and ends well."""
    ended = subprocess.run(
        [sys.executable, str(FOLDER / "run_demo.py"), "--check", "--port", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(" yes\n") == 5
    assert (tmp_path / ".demo" / "django" / "db.sqlite3").exists()


def test_the_check_finds_what_is_wrong(site, capsys):
    """An endpoint that fails, and one that says all at once, are not called well."""
    site.endpoint.play(refuse("Not today."))
    assert site.demo.check_site(site.url, PASSWORD) == 1
    assert "Whole, as its last line says:                NO" in capsys.readouterr().out
    site.endpoint.play(stream(FIND), stream("All at once"))
    assert site.demo.check_site(site.url, PASSWORD) == 1
    assert re.search(r"Streamed, \d pieces in 0.0 seconds: +NO\n", capsys.readouterr().out)


def test_a_port_that_somebody_has_is_left_alone(monkeypatch):
    """The usual port is taken where it is free; else the system chooses one."""
    demo = load_demo()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(demo, "USUAL_PORT", taken.getsockname()[1])
        assert demo.choose_port() == 0
    assert demo.choose_port() == demo.USUAL_PORT


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_demonstration_ends_what_it_started(tmp_path, how):
    """Ctrl-C and SIGTERM stop both servers; the login that was printed is gone with them."""
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "run_demo.py"), "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        printed = ""
        while "Ctrl-C ends it." not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        site, rehearsal = re.findall(r"(http://127\.0\.0\.1:\d+)(?:/$|:)", printed, re.MULTILINE)
        password = re.search(r"Password: +(\S+)", printed)[1]
        visitor = load_demo().Visitor(site)
        visitor.open("/login/")
        visitor.send("/login/", username="admin", password=password)
        assert visitor.path == "/"
        assert get_json(f"{rehearsal}/stats")["requests"] == {}
        process.send_signal(how)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
    for address in (site, rehearsal):
        with pytest.raises(ConnectionRefusedError):
            get_json(f"{address}/stats")
