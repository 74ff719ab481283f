"""The tables: orders, and whose chat is whose."""

from __future__ import annotations

from datetime import date

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.urls import reverse

from tinytroupe.contrib.django.models import ChatHistory, PromptTemplate

TITLE_LENGTH = 60


class Order(models.Model):
    """What a customer bought."""

    class State(models.TextChoices):
        """Where the parcel is."""

        PACKED = "packed", "being packed"
        SENT = "sent", "on its way"
        DELIVERED = "delivered", "delivered"

    number: models.CharField[str, str] = models.CharField(max_length=20, unique=True)
    customer: models.ForeignKey[User, User] = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="orders"
    )
    item: models.CharField[str, str] = models.CharField(max_length=200)
    country: models.CharField[str, str] = models.CharField(max_length=50)
    state: models.CharField[str, str] = models.CharField(
        max_length=20, choices=State.choices, default=State.PACKED
    )
    ordered_on: models.DateField[date, date] = models.DateField()

    class Meta:
        ordering = ("-ordered_on", "number")

    def __str__(self) -> str:
        return f"{self.number}: {self.item}"


class Conversation(models.Model):
    """A chat of one customer, after one prompt template."""

    user: models.ForeignKey[User, User] = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="conversations"
    )
    chat_history: models.OneToOneField[ChatHistory, ChatHistory] = models.OneToOneField(
        ChatHistory, on_delete=models.CASCADE
    )
    # Its name could be changed in the admin, so it is not by name.
    prompt_template: models.ForeignKey[PromptTemplate, PromptTemplate] = models.ForeignKey(
        PromptTemplate, on_delete=models.PROTECT
    )
    title: models.CharField[str, str] = models.CharField(max_length=TITLE_LENGTH, blank=True)

    class Meta:
        ordering = ("-chat_history__updated_at", "-pk")

    def __str__(self) -> str:
        return self.title or self.prompt_template.name

    def get_absolute_url(self) -> str:
        """Returns the address of the chat's page."""
        return reverse("shop:chat", args=[self.pk])

    def name_after(self, message: str) -> None:
        """Gives the chat a title, made of its first message, where it has none yet."""
        if not self.title:
            line = " ".join(message.split())
            fits = len(line) <= TITLE_LENGTH
            self.title = line if fits else f"{line[: TITLE_LENGTH - 1]}…"
            self.save(update_fields=["title"])
