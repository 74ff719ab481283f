"""What Django is told of the app."""

from __future__ import annotations

from django.apps import AppConfig


class LLMWrapperConfig(AppConfig):
    """The app `tinytroupe.contrib.django`, with the label `llm_wrapper`."""

    name = "tinytroupe.contrib.django"
    label = "llm_wrapper"
    verbose_name = "LLM prompts and chats"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Registers the system checks."""
        from tinytroupe.contrib.django import checks  # noqa: F401
