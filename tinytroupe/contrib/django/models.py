"""The tables: tools, configuration names, prompt templates and chats."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from tinytroupe.contrib.django.history import check_history
from tinytroupe.contrib.django.templating import FORMATS, compile_field, compile_initial_messages
from tinytroupe.contrib.django.validators import (
    Check,
    check_fields,
    check_format,
    check_initial_messages,
    check_mapping,
    check_names,
    check_text,
    check_tool_name,
    check_tool_spec,
)


class Checked(models.Model):
    """A row that is checked whenever it is saved, not only in forms.

    Raises:
        ValidationError: While saving: a field does not hold what it should; by field.
    """

    CHECKS: ClassVar[Mapping[str, Check]] = {}
    """Field → what refuses values that it must not hold."""

    class Meta:
        abstract = True

    def clean(self) -> None:
        """Checks the fields.

        Raises:
            ValidationError: A field does not hold what it should; by field.
        """
        super().clean()
        check_fields(self, self.CHECKS)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the row if each of its fields holds what it should."""
        # Ours first: they say what is wrong, where Django only says that it is not JSON.
        self.clean()
        self.clean_fields()
        super().save(*args, **kwargs)


class Tool(Checked):
    """A function that a model may call."""

    CHECKS: ClassVar[Mapping[str, Check]] = {
        "name": check_tool_name,
        "tool_code": check_text,
        "tool_json_spec": check_tool_spec,
        "default_values_for_non_llm_params": check_mapping,
        "context_params": check_names,
    }

    created_at: models.DateTimeField[datetime, datetime] = models.DateTimeField(
        _("created at"), auto_now_add=True
    )
    updated_at: models.DateTimeField[datetime, datetime] = models.DateTimeField(
        _("updated at"), auto_now=True
    )
    name: models.CharField[str, str] = models.CharField(
        _("name"),
        max_length=64,
        unique=True,
        help_text=_("What the model calls it: letters, digits, underscores and dashes."),
    )
    tool_code: models.TextField[str, str] = models.TextField(
        _("code"),
        help_text=_(
            "The dotted path of a function, such as shop.tools.find_order. Or the source text of "
            "one, which runs only where the setting LLM_WRAPPER_ALLOW_TOOL_CODE is True."
        ),
    )
    tool_json_spec = models.JSONField(
        _("JSON spec"),
        default=dict,
        blank=True,
        help_text=_(
            "What the model is told: name, description and parameters (JSON Schema). Left empty, "
            "it is filled from the function's signature and docstring."
        ),
    )
    default_values_for_non_llm_params = models.JSONField(
        _("values the model cannot set"),
        default=dict,
        blank=True,
        help_text=_('Parameter → value, such as {"currency": "EUR"}.'),
    )
    context_params = models.JSONField(
        _("parameters from the chat"),
        default=list,
        blank=True,
        help_text=_(
            "Names of parameters that are filled from the chat's variables and that the model "
            'cannot set, such as ["user_id"].'
        ),
    )

    class Meta:
        ordering = ("name",)
        verbose_name = _("tool")
        verbose_name_plural = _("tools")

    def __str__(self) -> str:
        return self.name


class LLMConfigName(models.Model):
    """A configuration that prompt templates may use; the rest of it is in a file of that name."""

    name: models.CharField[str, str] = models.CharField(_("name"), max_length=200, primary_key=True)

    class Meta:
        ordering = ("name",)
        verbose_name = _("LLM configuration")
        verbose_name_plural = _("LLM configurations")

    def __str__(self) -> str:
        return self.name


class PromptTemplate(Checked):
    """How chats of one kind begin and go on, and which models answer them."""

    CHECKS: ClassVar[Mapping[str, Check]] = {
        "name": check_text,
        "template_format": check_format,
        "required_kwargs": check_names,
        "initial_messages_templates": check_initial_messages,
        "logged_context_vars": check_names,
    }

    name: models.CharField[str, str] = models.CharField(_("name"), max_length=200, unique=True)
    llm_config_names = models.ManyToManyField(
        LLMConfigName,
        verbose_name=_("LLM configurations"),
        related_name="prompt_templates",
        help_text=_("One of them is chosen at random for each wrapper."),
    )
    template_format: models.CharField[str, str] = models.CharField(
        _("format"),
        max_length=16,
        choices=[(name, label) for name, label in FORMATS.items()],
        default="jinja",
        help_text=_("The language of all templates below."),
    )
    system_prompt_template: models.TextField[str, str] = models.TextField(
        _("system prompt"), blank=True
    )
    user_prompt_template: models.TextField[str, str] = models.TextField(
        _("user prompt"),
        blank=True,
        help_text=_(
            "Wraps each message of the user, which is the variable user_msg. "
            "Empty: the message is sent as it is."
        ),
    )
    initial_messages_templates = models.JSONField(
        _("initial messages"),
        default=list,
        blank=True,
        help_text=_('A list such as [{"role": "assistant", "content": "Hello!"}].'),
    )
    required_kwargs = models.JSONField(
        _("required variables"),
        default=list,
        blank=True,
        help_text=_('Names without which nothing is asked, such as ["question"].'),
    )
    logged_context_vars = models.JSONField(
        _("logged variables"),
        default=list,
        blank=True,
        help_text=_("Names of variables that are stored with each message of the user."),
    )
    tools = models.ManyToManyField(
        Tool, verbose_name=_("tools"), related_name="prompt_templates", blank=True
    )

    class Meta:
        ordering = ("name",)
        verbose_name = _("prompt template")
        verbose_name_plural = _("prompt templates")

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Checks the fields and compiles the templates.

        Raises:
            ValidationError: A field does not hold what it should; by field.
        """
        super().clean()
        check_fields(
            self,
            {
                "system_prompt_template": lambda _: compile_field(self, "system_prompt_template"),
                "user_prompt_template": lambda _: compile_field(self, "user_prompt_template"),
                "initial_messages_templates": lambda _: compile_initial_messages(self),
            },
        )


class ChatHistory(Checked):
    """A chat. Written by `repositories` only, which keeps it a conversation."""

    CHECKS: ClassVar[Mapping[str, Check]] = {
        "chat_history": check_history,
        "current_context_variables": check_mapping,
    }

    created_at: models.DateTimeField[datetime, datetime] = models.DateTimeField(
        _("created at"), auto_now_add=True
    )
    updated_at: models.DateTimeField[datetime, datetime] = models.DateTimeField(
        _("updated at"), auto_now=True
    )
    chat_history = models.JSONField(_("messages"), default=list, blank=True)
    current_context_variables = models.JSONField(_("variables"), default=dict, blank=True)

    class Meta:
        ordering = ("-updated_at", "-pk")
        verbose_name = _("chat")
        verbose_name_plural = _("chats")

    def __str__(self) -> str:
        return f"chat {self.pk}"


class ChatLock(models.Model):
    """The row that is locked while a message of a chat is being answered.

    It is not the chat's own row, into which what happens is written meanwhile.
    """

    chat: models.OneToOneField[ChatHistory, ChatHistory] = models.OneToOneField(
        ChatHistory, on_delete=models.CASCADE, primary_key=True, related_name="lock"
    )

    class Meta:
        verbose_name = _("lock of a chat")
        verbose_name_plural = _("locks of chats")

    def __str__(self) -> str:
        return f"lock of chat {self.pk}"
