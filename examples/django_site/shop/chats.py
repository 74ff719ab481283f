"""Conversations with the assistant, and how a page shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User

from shop.models import Conversation, Order
from tinytroupe.contrib.django.history import (
    FAILED,
    PENDING,
    StoredMessage,
    check_history,
    find_open_turn,
)
from tinytroupe.contrib.django.models import PromptTemplate
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper


def start_conversation(user: User, template: PromptTemplate) -> Conversation:
    """Begins a chat.

    Raises:
        LLMError: The template cannot be used; the class says why.
    """
    wrapper = LLMCommunicationWrapper(
        prompt_name=template.name, initializing_context_vars=describe_customer(user)
    )
    return Conversation.objects.create(
        user=user, prompt_template=template, chat_history=wrapper.get_chat_history_object()
    )


def open_wrapper(conversation: Conversation) -> LLMCommunicationWrapper:
    """Returns what goes on with a chat.

    Raises:
        LLMError: The template or the chat cannot be used; the class says why.
    """
    return LLMCommunicationWrapper(
        prompt_name=conversation.prompt_template.name,
        chat_history_id=conversation.chat_history.pk,
        # Again each time: what the shop knows of a customer changes, and the prompt with it.
        initializing_context_vars=describe_customer(conversation.user),
    )


def describe_customer(user: User) -> dict[str, Any]:
    """Returns the variables of the templates and tools."""
    return {
        "customer_id": user.pk,
        "customer_name": user.first_name or user.get_username(),
        "bought": list(Order.objects.filter(customer=user).values_list("item", flat=True)),
    }


@dataclass(frozen=True, slots=True)
class Step:
    """A tool that was called, and what it said."""

    name: str
    arguments: str
    result: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as it stands on the page."""

    id: str
    role: str
    text: str
    status: str = ""
    """Of a user's message; see `tinytroupe.contrib.django.history`."""
    error: str = ""
    """Why it has no answer."""
    may_go_again: bool = False
    """Whether it can be sent again; only the last one can."""
    steps: tuple[Step, ...] = ()
    config: str = ""
    """Who answered."""
    tokens: int | None = None

    @property
    def lacks_answer(self) -> bool:
        """Whether nobody answered it, or nobody has yet."""
        return self.status in (PENDING, FAILED)


def list_shown(messages: list[StoredMessage]) -> list[Shown]:
    """Returns what is shown of a chat: no system messages, and results beside their calls.

    Raises:
        InvalidHistory: It is no conversation.
    """
    check_history(messages)
    opened = find_open_turn(messages)
    shown = []
    for place, message in enumerate(messages):
        if message["role"] == "user":
            shown.append(_show_user(message, may_go_again=message is opened))
        elif message["role"] == "assistant":
            shown.append(_show_assistant(message, messages[place + 1 :]))
    return shown


def ends_with(conversation: Conversation, message: str) -> bool:
    """Tells whether a message is the last one that the user has stored in a chat."""
    conversation.chat_history.refresh_from_db()
    messages: list[StoredMessage] = conversation.chat_history.chat_history
    said = [m["content"] for m in messages if m["role"] == "user"]
    return said[-1:] == [message]


def _show_user(message: StoredMessage, *, may_go_again: bool) -> Shown:
    return Shown(
        message["id"],
        "user",
        message["content"],
        status=message.get("status", ""),
        error=message.get("error", ""),
        may_go_again=may_go_again,
    )


def _show_assistant(message: StoredMessage, following: list[StoredMessage]) -> Shown:
    return Shown(
        message["id"],
        "assistant",
        (message["content"] or "").strip(),
        steps=tuple(_list_steps(message, following)),
        config=message.get("config", ""),
        tokens=(message.get("tokens") or {}).get("output"),
    )


def _list_steps(message: StoredMessage, following: list[StoredMessage]) -> Iterator[Step]:
    calls = message.get("tool_calls") or ()
    # Only right behind: an endpoint may give its calls the same ids with each answer.
    results = {result.get("tool_call_id"): result["content"] for result in following[: len(calls)]}
    for call in calls:
        function = call["function"]
        yield Step(function["name"], function["arguments"], results[call["id"]])
