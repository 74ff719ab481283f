"""The shop in the admin."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from shop.models import Conversation, Order


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Orders."""

    list_display = ("number", "customer", "item", "state", "ordered_on")
    list_filter = ("state", "country")
    search_fields = ("number", "item", "customer__username")


@admin.register(Conversation)
class ConversationAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Whose chat is whose; chats begin on the site."""

    list_display = ("__str__", "user", "prompt_template", "chat_history")
    list_filter = ("prompt_template",)
    search_fields = ("title", "user__username")
    readonly_fields = ("user", "chat_history", "prompt_template")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Tells that none is added here."""
        return False
