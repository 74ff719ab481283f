"""What the page about Django shows works as written, whichever database the site has."""

from __future__ import annotations

import random
import re
import threading
from pathlib import Path
from typing import Any

from django.test import RequestFactory
from django_chats import Endpoints, MakePrompt
from django_fixtures import Database

from tinytroupe.contrib.django import checks
from tinytroupe.contrib.django.conf import ROWS
from tinytroupe.contrib.django.configs import CONFIG_CLASSES
from tinytroupe.contrib.django.models import ChatHistory
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper

PAGE = Path(__file__).parent.parent / "docs" / "django.md"


def read_block(opening: str) -> str:
    """Returns the first fenced block that begins so."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^```{re.escape(opening)}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None, opening
    return found[1]


def test_the_example(
    database: Database, endpoints: Endpoints, site_settings: Any, start_site_process: Any
) -> None:
    """A new chat, the same chat later, and another model in place of one that is too slow."""
    wait = threading.Event()

    def hang(body: dict[str, Any]) -> str:
        if body["messages"][-1]["content"] == "And now?":
            wait.wait(30)
        return "Yes."

    endpoints.add("first", hang, timeout=1)
    endpoints.add("second", lambda body: "It is right.")
    # One by which the second wrapper, of the first chat, draws the slow one.
    site_settings(LLM_WRAPPER_SEED=find_seed("tutor/1", "first"))
    process = start_site_process(read_block("python"))
    _, errors = process.communicate(timeout=60)
    wait.set()
    assert process.returncode == 0, errors
    chat = ChatHistory.objects.get()
    assert [message.get("status") for message in chat.chat_history[2::2]] == ["answered"] * 2
    assert (chat.pk, chat.chat_history[-1]["config"]) == (1, "second")
    assert len([b for b in endpoints.servers["first"].bodies if len(b["messages"]) > 3]) == 1
    assert chat.current_context_variables == {"question": "Find the sum of digits of a number"}


def test_the_view(database: Database, endpoints: Endpoints, make_prompt: MakePrompt) -> None:
    """It streams an answer; what fails before the first piece has a status of its own."""
    endpoints.add("main", lambda body: 400 if "fail" in body["messages"][-1]["content"] else "A b")
    make_prompt("tutor", configs=("main",), system_prompt_template="You help.")
    view: dict[str, Any] = {}
    exec(read_block("python views.py"), view)
    chat_id = LLMCommunicationWrapper(prompt_name="tutor").chat_history_id

    def post(message: str) -> Any:
        return view["answer"](RequestFactory().post("/", {"message": message}), str(chat_id))

    streamed = post("Hello")
    assert list(streamed.streaming_content) == [b"A ", b"b "]
    assert post("Please fail").status_code == 502
    first = LLMCommunicationWrapper(prompt_name="tutor", chat_history_id=chat_id)
    under_way = first.stream_user_message("Wait")
    next(under_way)
    if database.kind == "sqlite":
        assert post("Meanwhile").status_code == 409
    assert list(under_way) == ["b "]
    statuses = [m["status"] for m in ChatHistory.objects.get().chat_history if m["role"] == "user"]
    assert statuses == ["answered", "failed", "answered"]


def test_the_test_of_a_site(start_site_process: Any, configs_folder: Path, tmp_path: Path) -> None:
    """Django's own runner runs it, with a model that rehearses."""
    (tmp_path / "tests.py").write_text(read_block("python tests.py"), encoding="utf-8")
    first = read_block("yaml llm_configs/first.yaml")
    (configs_folder / "first.yaml").write_text(first, encoding="utf-8")
    process = start_site_process(f"""
    import sys
    from django.test.runner import DiscoverRunner
    sys.path.insert(0, {str(tmp_path)!r})
    runner = DiscoverRunner(verbosity=1)
    sys.exit(runner.run_tests(["tests.TutorTest"]))
    """)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Ran 1 test" in said


def test_every_check_is_described() -> None:
    """The page has a row for each check, and the code has each check of the page."""
    ids = r"(?:llm_wrapper|\{TAG\})\.([EW]\d{3})\b"
    code = Path(checks.__file__).read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{ids}` \| \S", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(set(re.findall(ids, code)))
    assert len(rows) > 9


def find_seed(place: str, wanted: str) -> int:
    """Returns a seed of the site by which a chat draws the wanted one of the two."""
    for seed in range(100):
        names = ["first", "second"]
        random.Random(f"{seed}/{place}").shuffle(names)
        if names[0] == wanted:
            return seed
    raise AssertionError("no seed draws it")


def test_every_setting_and_class_is_described() -> None:
    """The tables of the page name every setting of the app, with its default, and every class."""
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]*?)`? \|", page, re.MULTILINE)
    defaults = {row.name: str(row.default).removesuffix(".0") for row in ROWS}
    assert dict(rows) == defaults
    assert set(re.findall(r"^\| `(\w+Config)` \|", page, re.MULTILINE)) == set(CONFIG_CLASSES)
