"""Chats in Django's admin: a list, and each as a conversation."""

from __future__ import annotations

import json
import re
from typing import Any

from django.contrib import admin
from django.db import connections, models
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from tinytroupe.contrib.django.admin_fields import FieldsAdmin, cut
from tinytroupe.contrib.django.conversation import (
    find_last_status,
    find_last_text,
    list_messages,
    read_conversation,
    sum_tokens,
)
from tinytroupe.contrib.django.history import ANSWERED, FAILED, PENDING
from tinytroupe.contrib.django.models import ChatHistory

CHATS_PER_PAGE = 50
"""Fewer than Django's 100: each row is a whole chat."""


class StatusFilter(admin.SimpleListFilter):
    """Chats in which the user's messages have a status."""

    title = _("messages of the user")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        """Returns the choices."""
        return [
            (FAILED, _("one has failed")),
            (PENDING, _("one is waiting")),
            (ANSWERED, _("one was answered")),
        ]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[ChatHistory]
    ) -> models.QuerySet[ChatHistory]:
        """Returns the chats that have such a message."""
        status = self.value()
        if status is None:
            return queryset
        if connections[queryset.db].features.supports_json_field_contains:
            wanted = models.Q(chat_history__contains=[{"status": status}])
        else:
            # How Django writes it; inside a text its quotes would have backslashes.
            wanted = models.Q(chat_history__icontains=f'"status": "{status}"')
        found: models.QuerySet[ChatHistory] = queryset.filter(wanted)
        return found


@admin.register(ChatHistory)
class ChatHistoryAdmin(FieldsAdmin[ChatHistory]):
    """Chats. To be read, and to be deleted by who may; an edit could break a conversation."""

    change_form_template = "admin/llm_wrapper/chathistory/change_form.html"
    list_display = (
        "__str__",
        "messages_count",
        "last_message",
        "status",
        "tokens",
        "created_at",
        "updated_at",
    )
    list_filter = (StatusFilter, "created_at", "updated_at")
    list_per_page = CHATS_PER_PAGE
    search_fields = ("=id", "chat_history", "current_context_variables")
    readonly_fields = ("created_at", "updated_at", "messages_count", "tokens")
    fieldsets = (
        (None, {"fields": [*readonly_fields]}),
        (_("Variables"), {"fields": ["current_context_variables"], "classes": ["collapse"]}),
        (_("As it is stored"), {"fields": ["chat_history"], "classes": ["collapse"]}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds chats here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: ChatHistory | None = None) -> bool:
        """Nobody changes chats here."""
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[ChatHistory], search_term: str
    ) -> tuple[models.QuerySet[ChatHistory], bool]:
        """Finds chats by their id and by what stands in them."""
        found, doubled = super().get_search_results(request, queryset, search_term)
        # SQLite keeps JSON as it was written, and Django writes it in ASCII.
        escaped = re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], search_term)
        if escaped == search_term:
            return found, doubled
        others, also_doubled = super().get_search_results(request, queryset, escaped)
        return found | others, doubled or also_doubled

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: ChatHistory | None = None,
    ) -> HttpResponse:
        """Renders the page of a chat, with its conversation."""
        if obj is not None:
            context["conversation"] = read_conversation(obj)
        return super().render_change_form(request, context, add, change, form_url, obj)

    @admin.display(description=_("messages"))
    def messages_count(self, chat: ChatHistory) -> int:
        """Returns how many messages there are."""
        return len(list_messages(chat))

    @admin.display(description=_("last message"))
    def last_message(self, chat: ChatHistory) -> str:
        """Returns how the last message begins."""
        return cut(find_last_text(chat))

    @admin.display(description=_("last status"))
    def status(self, chat: ChatHistory) -> str:
        """Returns what became of the user's last message."""
        status = find_last_status(chat)
        return format_html('<span class="llm-status llm-status-{0}">{0}</span>', status or "none")

    @admin.display(description=_("tokens"))
    def tokens(self, chat: ChatHistory) -> str:
        """Returns what the answers took."""
        return str(sum_tokens(chat)) or "-"
