"""The documented example works as written, whichever database the site has."""

from __future__ import annotations

import random
import re
import threading
from pathlib import Path
from typing import Any

from django_chats import Endpoints
from django_fixtures import Database

from tinytroupe.contrib.django.conf import ROWS
from tinytroupe.contrib.django.configs import CONFIG_CLASSES
from tinytroupe.contrib.django.models import ChatHistory

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
