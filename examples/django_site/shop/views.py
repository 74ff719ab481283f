"""The pages. They work without JavaScript; with it, `chat.js` shows answers as they come.

The views are synchronous and stream under WSGI: Django's own server and gunicorn's threads do that
without further packages. Each answer that is being streamed keeps one thread of the server busy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from shop.chats import ends_with, list_shown, open_wrapper, start_conversation
from shop.forms import MessageForm, NewChatForm
from shop.models import Conversation
from tinytroupe.contrib.django.errors import ChatConflict, InvalidHistory
from tinytroupe.llm.errors import BadRequest, LLMError

LINES = "application/x-ndjson"
"""A JSON object on each line."""

BUSY = (
    "Another message of this chat is being answered at this moment, perhaps in another window. "
    "Yours was not sent; try again when that answer is there."
)

MOST_CHATS = 50


class SignedInRequest(HttpRequest):
    """A request behind `login_required`."""

    user: User


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def home(request: SignedInRequest) -> HttpResponse:
    """Lists the user's chats, and begins a new one."""
    form = NewChatForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            return redirect(start_conversation(request.user, form.cleaned_data["prompt_template"]))
        except LLMError as error:
            form.add_error("prompt_template", error.message)
    return render_page(request, "shop/home.html", {"new_chat": form}, 400 if form.errors else 200)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def chat(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Shows a chat of the user, and answers a message."""
    rows = Conversation.objects.select_related("user", "prompt_template", "chat_history")
    conversation = get_object_or_404(rows, pk=pk, user=request.user)
    if request.method == "GET":
        return show_chat(request, conversation, MessageForm())
    form = MessageForm(request.POST)
    if request.get_preferred_type(["text/html", LINES]) == LINES:
        return stream_answer(conversation, form)
    return answer_whole(request, conversation, form)


def stream_answer(conversation: Conversation, form: MessageForm) -> HttpResponseBase:
    """Answers a message in pieces, a line of JSON for each.

    The lines are `{"piece": "…"}` and at last `{"done": true}`, or `{"error": "…", "stored": …}`,
    which says whether the message is in the chat. What fails before the first piece has
    a status of its own: 400, 409 or 502.
    """
    if not form.is_valid():
        return write_error(400, " ".join(map(str, form.errors["message"])), stored=False)
    message = form.cleaned_data["message"]
    try:
        pieces = open_wrapper(conversation).stream_user_message(
            message, retry_on_openai_time_limit=True
        )
        lines = write_lines(pieces)
        next(lines)
    except LLMError as error:
        stored = ends_with(conversation, message)
        if stored:
            conversation.name_after(message)
        return write_error(*explain(error), stored=stored)
    conversation.name_after(message)
    # Or nginx would collect the lines.
    headers = {"X-Accel-Buffering": "no"}
    return StreamingHttpResponse(lines, content_type=LINES, headers=headers)


def write_lines(pieces: Iterator[str]) -> Iterator[bytes]:
    """Yields nothing as soon as there is a first piece, and then the lines.

    Raises:
        LLMError: There was no piece. Later an error is a line like others.
    """
    piece = next(pieces, None)
    yield b""
    try:
        while piece is not None:
            yield write_line({"piece": piece})
            piece = next(pieces, None)
    except LLMError as error:
        yield write_line({"error": explain(error)[1], "stored": True})
    else:
        yield write_line({"done": True})


def write_line(value: dict[str, Any]) -> bytes:
    """Returns a line of JSON."""
    return json.dumps(value).encode() + b"\n"


def write_error(status: int, sentence: str, *, stored: bool) -> HttpResponse:
    """Returns the only line where there is no answer."""
    line = write_line({"error": sentence, "stored": stored})
    return HttpResponse(line, status=status, content_type=LINES)


def explain(error: LLMError) -> tuple[int, str]:
    """Returns the HTTP status for an error, and what the user is told."""
    if isinstance(error, ChatConflict):
        return 409, BUSY
    if isinstance(error, BadRequest):
        return 400, error.message
    return 502, f"There is no answer: {error.message}"


def answer_whole(
    request: SignedInRequest, conversation: Conversation, form: MessageForm
) -> HttpResponse:
    """Answers a message and shows the page anew, for browsers without JavaScript."""
    if not form.is_valid():
        return show_chat(request, conversation, form, 400)
    message = form.cleaned_data["message"]
    try:
        open_wrapper(conversation).send_user_message_and_get_response(
            message, retry_on_openai_time_limit=True
        )
    except LLMError as error:
        status, sentence = explain(error)
        if not ends_with(conversation, message):
            form.add_error("message", sentence)
            return show_chat(request, conversation, form, status)
        messages.error(request, sentence)
    conversation.name_after(message)
    return redirect(conversation)


def show_chat(
    request: SignedInRequest, conversation: Conversation, form: MessageForm, status: int = 200
) -> HttpResponse:
    """Shows a chat."""
    try:
        shown = list_shown(conversation.chat_history.chat_history)
    except InvalidHistory as error:
        shown = []
        messages.error(request, f"This chat cannot be shown: {error.message}")
    values = {"conversation": conversation, "shown": shown, "form": form}
    return render_page(request, "shop/chat.html", values, status)


def render_page(
    request: SignedInRequest, name: str, values: dict[str, Any], status: int
) -> HttpResponse:
    """Renders a page with the list of the user's chats and the form for a new one."""
    mine = Conversation.objects.filter(user=request.user).select_related(
        "prompt_template", "chat_history"
    )
    # Their messages may be long, and are not on the list.
    listed = mine.defer("chat_history__chat_history")[:MOST_CHATS]
    always = {"conversations": listed, "new_chat": NewChatForm()}
    return render(request, name, {**always, **values}, status=status)
