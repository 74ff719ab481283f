"""The messages of a chat: which of them are a conversation."""

from __future__ import annotations

from itertools import count

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.contrib.django.errors import InvalidHistory
from tinytroupe.contrib.django.history import check_history
from tinytroupe.contrib.django.models import ChatHistory


def said_by(role, message_id, content="Hello.", **further):
    return {"id": message_id, "role": role, "content": content, **further}


def user(message_id="u1", **further):
    return said_by("user", message_id, **further)


def assistant(message_id="a1", **further):
    return said_by("assistant", message_id, **further)


def calling(message_id, *call_ids):
    function = {"name": "find_order", "arguments": "{}"}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in call_ids]
    return said_by("assistant", message_id, None, tool_calls=calls)


def result(message_id, call_id):
    return said_by("tool", message_id, tool_call_id=call_id)


SYSTEM = said_by("system", "s1")


@pytest.mark.parametrize(
    ("messages", "message_id", "fault"),
    [
        ({}, None, "it must be a list of messages, not a dict"),
        (None, None, "it must be a list of messages, not a NoneType"),
        ([user(), "Hello"], None, "item 1 is a str, not a message"),
        ([said_by("user", "")], None, "item 0 has no id"),
        ([said_by("user", 7)], None, "item 0 has no id"),
        ([user(), assistant("u1")], "u1", "its id stands twice"),
        ([said_by("bot", "b1")], "b1", "its role 'bot' is none of system, user, assistant, tool"),
        ([said_by(["user"], "b1")], "b1", "its role ['user'] is none of"),
        ([user(content=None)], "u1", "its content is of type NoneType, not a text"),
        ([user(content=["Hello"])], "u1", "its content is of type list, not a text"),
        ([assistant(content=None)], "a1", "its content is of type NoneType, not a text"),
        ([user(status="done")], "u1", "its status 'done' is none that there is"),
        ([user(error=3)], "u1", "its error is not a text"),
        ([user(timestamp=3)], "u1", "its timestamp is not a text"),
        ([user(context_vars=[])], "u1", "its context_vars is not an object"),
        ([assistant(config=None)], "a1", "its config is not a text"),
        ([assistant(tokens=12)], "a1", "its tokens is not an object"),
        ([assistant(extra="x")], "a1", "its extra is not an object"),
        (
            [user(tool_calls=calling("c1", "k")["tool_calls"])],
            "u1",
            "only an assistant calls tools",
        ),
        ([assistant(tool_calls=[])], "a1", "its tool_calls are not a list of calls"),
        ([assistant(tool_calls=[{"id": "k"}])], "a1", "its tool_calls are not a list of calls"),
        ([user(), said_by("tool", "t1")], "t1", "it does not say whose result it is"),
        ([user(), SYSTEM], "s1", "a system message can only stand before the first turn"),
        ([user(), result("t1", "k")], "t1", "a tool call that was not made right before"),
        ([result("t1", "k"), calling("c1", "k")], "t1", "a tool call that was not made"),
        ([user(), calling("c1", "k")], "c1", "its tool call k has no result right after it"),
        ([user(), calling("c1", "k"), assistant()], "c1", "its tool call k has no result"),
        ([user(), calling("c1", "k"), user("u2")], "c1", "its tool call k has no result"),
        ([user(), calling("c1", "k", "k")], "c1", "two of its tool calls have one id"),
        (
            [user(), calling("c1", "k", "l"), result("t1", "l"), assistant()],
            "c1",
            "its tool call k has no result",
        ),
        (
            [user(), calling("c1", "k"), result("t1", "k"), result("t2", "k"), assistant()],
            "t2",
            "a tool call that was not made right before",
        ),
        ([user(status="answered")], "u1", "it is said to be answered, but no answer follows"),
        (
            [user(status="answered"), calling("c1", "k"), result("t1", "k")],
            "u1",
            "it is said to be answered, but no answer follows",
        ),
    ],
)
def test_a_history_that_is_no_conversation(database, messages, message_id, fault):
    """A history that was edited into disorder is refused when saved, with the message's id."""
    with pytest.raises(ValidationError) as caught:
        ChatHistory(chat_history=messages).save()
    (said,) = caught.value.message_dict["chat_history"]
    assert said.startswith("chat_history: " + (f"message {message_id} (" if message_id else ""))
    assert fault in said
    with pytest.raises(InvalidHistory) as refused:
        check_history(messages)
    assert refused.value.message_id == message_id


def test_a_history_is_kept_as_it_was_saved(database):
    """What is a conversation comes back from the database unchanged."""
    messages = [
        SYSTEM,
        user("u0", initial=True),
        assistant("a0", initial=True),
        user("u1", status="answered", context_vars={"town": "Bath"}, prompt="Hello from Bath. 🦜"),
        calling("c1", "k", "l"),
        result("t1", "l"),
        result("t2", "k"),
        assistant("a1", tokens={"input": 3, "output": None}, config="gpt"),
        user("u2", status="answered"),
        assistant("a2", tokens=None, config="gpt"),
        user("u3", status="failed", error="TimedOut: …"),
        user("u4", status="pending"),
    ]
    chat = ChatHistory(chat_history=messages)
    chat.save()
    chat.refresh_from_db()
    assert chat.chat_history == messages


@st.composite
def histories(draw):
    """Builds a history as the app does, turn by turn."""
    ids = (f"m{number}" for number in count())
    call_ids = (f"call_{number}" for number in count())
    messages = [said_by("system", next(ids))] * draw(st.integers(0, 1))
    for role in draw(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=3)):
        messages.append(said_by(role, next(ids), initial=True))
    for status in draw(st.lists(st.sampled_from(["answered", "failed", "pending"]), max_size=4)):
        messages.append(user(next(ids), status=status))
        for calls in draw(st.lists(st.integers(1, 3), max_size=3)):
            made = [next(call_ids) for _ in range(calls)]
            messages.append(calling(next(ids), *made))
            messages += [result(next(ids), call) for call in draw(st.permutations(made))]
        if status == "answered":
            messages.append(assistant(next(ids)))
    return messages


def find_caller(messages, place):
    """Returns the place of the message whose tool call a result answers."""
    return next(at for at in range(place, -1, -1) if messages[at]["role"] == "assistant")


def list_results(messages):
    return [place for place, message in enumerate(messages) if message["role"] == "tool"]


@given(histories())
def test_whatever_is_built_turn_by_turn_is_a_conversation(messages):
    """A history that grew as the app lets it grow is accepted, at each step but within a round."""
    check_history(messages)
    for place, message in enumerate(messages):
        if message["role"] == "user":
            check_history(messages[:place])


@given(histories().filter(list_results), st.data())
def test_a_tool_call_without_its_result_is_refused(messages, data):
    """Whichever result is taken out, the message that called the tool is named."""
    place = data.draw(st.sampled_from(list_results(messages)))
    caller = messages[find_caller(messages, place)]
    with pytest.raises(InvalidHistory, match=messages[place]["tool_call_id"]) as caught:
        check_history([*messages[:place], *messages[place + 1 :]])
    assert caught.value.message_id == caller["id"]


@given(histories().filter(list_results), st.data())
def test_a_result_without_its_tool_call_is_refused(messages, data):
    """Whichever calling message is taken out, the first of its results is named."""
    place = find_caller(messages, data.draw(st.sampled_from(list_results(messages))))
    with pytest.raises(InvalidHistory) as caught:
        check_history([*messages[:place], *messages[place + 1 :]])
    assert caught.value.message_id == messages[place + 1]["id"]


@given(histories().filter(list_results), st.data())
def test_a_result_that_stands_elsewhere_is_refused(messages, data):
    """Whichever result changes places with what is not of its round, one of the round is named."""
    place = data.draw(st.sampled_from(list_results(messages)))
    caller = find_caller(messages, place)
    end = caller + 1 + len(messages[caller]["tool_calls"])
    others = [at for at in range(len(messages)) if not caller < at < end]
    other = data.draw(st.sampled_from(others))
    swapped = list(messages)
    swapped[place], swapped[other] = swapped[other], swapped[place]
    with pytest.raises(InvalidHistory) as caught:
        check_history(swapped)
    touched = {messages[at]["id"] for at in (caller, place, other)}
    assert caught.value.message_id in touched
    assert f"message {caught.value.message_id} (" in str(caught.value)
