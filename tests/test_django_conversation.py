"""A chat in the admin of the Django app: shown as a conversation, whatever its history holds."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django_admin_pages import ROOT, see
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.contrib.django.conversation import (
    find_last_status,
    find_last_text,
    read_conversation,
    sum_tokens,
)
from tinytroupe.contrib.django.json_text import parse_json
from tinytroupe.contrib.django.models import ChatHistory, ChatLock

NASTY = "<script>alert(1)</script>"
WHOLE: list[dict[str, Any]] = [
    {
        "id": "m1",
        "timestamp": "2026-03-01T10:00:00+00:00",
        "role": "system",
        "content": "You help.\n\nBe brief.",
        "initial": True,
    },
    {
        "id": "m2",
        "timestamp": "2026-03-01T10:00:01+00:00",
        "role": "user",
        "content": NASTY,
        "prompt": f"Ann says: {NASTY}",
        "status": "answered",
        "context_vars": {"customer": "Ann"},
        "config": "mine",
    },
    {
        "id": "m3",
        "timestamp": "2026-03-01T10:00:02+00:00",
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":[1]}'}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{broken"}},
        ],
        "config": "mine",
        "model": "gpt-4o-2024",
        "tokens": {"input": 1200, "output": 7},
    },
    {"id": "m4", "role": "tool", "tool_call_id": "c1", "content": '{"b":null}'},
    {"id": "m5", "role": "tool", "tool_call_id": "c2", "content": "no tool g"},
    {
        "id": "m6",
        "role": "assistant",
        "content": "Sent.",
        "config": "mine",
        "tokens": {"input": None, "output": None},
    },
    {"id": "m7", "role": "user", "content": "And?", "status": "failed", "error": "no answer"},
]


def show(client: Client, history: object, **columns: Any) -> str:
    """Returns the page of a chat with this history, past all checks."""
    chat = ChatHistory.objects.create()
    ChatHistory.objects.filter(pk=chat.pk).update(chat_history=history, **columns)
    response = client.get(f"{ROOT}/chathistory/{chat.pk}/change/")
    assert response.status_code == 200
    return response.content.decode()


def list_json(page: str) -> list[str]:
    found = re.findall(r'<pre class="llm-json">(.*?)</pre>', page, re.DOTALL)
    return [unescape(text) for text in found]


def test_a_chat_is_shown_as_a_conversation(boss, site_settings):
    """Roles, times, texts, tools, variables, tokens and errors of a chat are on its page."""
    site_settings(TIME_ZONE="UTC")
    page = show(boss, WHOLE, current_context_variables={"customer": "Ann"})
    roles = re.findall(r'<li class="llm-message llm-role-(\w+)"', page)
    assert roles == [message["role"] for message in WHOLE]
    assert "errornote" not in page
    seen = see(page.encode())
    assert "system initial 2026-03-01 10:00:00 # You help. Be brief." in seen
    assert '<div class="llm-text">You help.\n\nBe brief.</div>' in page
    assert f"user answered mine 2026-03-01 10:00:01 # {NASTY}" in seen
    assert f"What the model was sent Ann says: {NASTY} Logged variables" in seen
    assert "tokens: 1,200 in, 7 out mine (gpt-4o-2024) 2026-03-01 10:00:02" in seen
    assert "calls f c1" in seen
    assert "calls g c2 {broken" in seen
    assert "tool result of c2 # no tool g" in seen
    assert "user failed # And? no answer" in seen
    assert "Tokens: 1,200 in, 7 out, 1 unknown" in seen
    variables, shown_call = '{\n  "customer": "Ann"\n}', '{\n  "a": [\n    1\n  ]\n}'
    assert list_json(page)[:3] == [variables, shown_call, '{\n  "b": null\n}']
    assert list_json(page)[3] == variables


def test_what_a_chat_holds_stays_text(boss):
    """Markup in any part of a chat is shown, and is never the page's."""
    page = show(boss, _spoil(WHOLE), current_context_variables={NASTY: NASTY})
    assert page.count("<script") == show(boss, []).count("<script")
    assert NASTY not in page
    assert unescape(page).count(NASTY) > len(WHOLE)


def _spoil(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: value[key] if key == "role" else _spoil(value[key]) for key in value}
    if isinstance(value, list):
        return [_spoil(item) for item in value]
    return NASTY if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ({"a": 1}, "it must be a list of messages, not a dict"),
        ("text", "it must be a list of messages, not a str"),
        ([WHOLE[0], "oops"], "item 1 is a str, not a message"),
        ([{"id": "x", "role": "robot", "content": "beep"}], "its role 'robot' is none of"),
        ([WHOLE[0], WHOLE[3]], "message m4 (tool): it is the result of a tool call that was not"),
        (WHOLE[:3], "message m3 (assistant): its tool call c1 has no result"),
        ([WHOLE[6], WHOLE[6]], "message m7 (user): its id stands twice"),
        ([{**WHOLE[0], "content": [1]}], "message m1 (system): its content is of type list"),
    ],
)
def test_a_spoilt_history_is_shown_with_its_fault(boss, history, said):
    """A history that is no conversation is shown with all that it has, and the fault at the top."""
    page = show(boss, history)
    top = re.search(r'<p class="errornote">(.*?)</p>', page, re.DOTALL)
    assert top is not None
    assert said in unescape(top[1])
    if isinstance(history, list):
        marks = re.findall(r'<li class="llm-message ([^"]*)"', page)
        assert len(marks) == len(history)
        assert any("faulty" in mark for mark in marks)
    assert parse_json(list_json(page)[-1]) == history


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(sorted({key for message in WHOLE for key in message}))
ITEMS = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "tool", "x"])}
).flatmap(lambda base: st.dictionaries(KEYS, JUNK).map(lambda junk: {**junk, **base}))


@given(st.lists(ITEMS | JUNK, max_size=4) | JUNK)
def test_any_history_can_be_read(history):
    """Whatever JSON somebody puts into a history, it has a form that can be shown."""
    chat = ChatHistory(chat_history=history)
    shown = read_conversation(chat)
    assert len(shown.messages) == (len(history) if isinstance(history, list) else 0)
    for text in (find_last_text(chat), find_last_status(chat), str(sum_tokens(chat))):
        text.encode()
    repr(shown).encode()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_half_characters_and_nul_do_not_spoil_the_page(boss):
    """What only SQLite stores, half a character and NUL, is shown by its escape or by U+FFFD."""
    page = show(boss, [{**WHOLE[0], "content": "a\ud800b\0c"}])
    assert "a\ufffdb\ufffdc" in page
    assert r'"content": "a\ud800b\u0000c"' in list_json(page)[-1]
    assert boss.get(f"{ROOT}/chathistory/").status_code == 200


def test_chats_are_only_read_and_deleted(boss, log_in_with):
    """Nobody adds or changes a chat; with the permission it is deleted, and its lock with it."""
    chat = ChatHistory.objects.create(chat_history=WHOLE)
    ChatLock.objects.create(chat=chat)
    change = f"{ROOT}/chathistory/{chat.pk}/change/"
    assert boss.get(f"{ROOT}/chathistory/add/").status_code == 403
    assert boss.post(change, {"chat_history": "[]"}).status_code == 403
    viewer = log_in_with("view_chathistory", "change_chathistory")
    page = viewer.get(change).content.decode()
    assert "<textarea" not in page
    assert 'name="_save"' not in page
    delete = f"{ROOT}/chathistory/{chat.pk}/delete/"
    assert viewer.post(delete, {"post": "yes"}).status_code == 403
    chat.refresh_from_db()
    assert chat.chat_history == WHOLE
    cleaner = log_in_with("view_chathistory", "delete_chathistory")
    assert cleaner.post(delete, {"post": "yes"}).status_code == 302
    assert not ChatHistory.objects.exists()
    assert not ChatLock.objects.exists()
