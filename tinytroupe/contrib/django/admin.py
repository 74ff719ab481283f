"""The app in Django's admin: tools, configurations and prompt templates, and chats beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.db import models
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from tinytroupe.contrib.django.admin_fields import FieldsAdmin, cut
from tinytroupe.contrib.django.chat_admin import ChatHistoryAdmin as ChatHistoryAdmin
from tinytroupe.contrib.django.config_states import (
    Column,
    SiteSurvey,
    describe_fault,
    find_config_faults,
    make_config_columns,
    survey_site,
)
from tinytroupe.contrib.django.forms import PromptTemplateForm, ToolForm
from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate, Tool
from tinytroupe.contrib.django.preview_page import URL_NAME, add_preview_form, show_preview
from tinytroupe.contrib.django.tool_code import is_path

T = TypeVar("T")


@admin.register(Tool)
class ToolAdmin(FieldsAdmin[Tool]):
    """Tools."""

    form = ToolForm
    list_display = ("name", "code_kind", "code_excerpt", "used_by", "updated_at")
    list_filter = ("updated_at", "prompt_templates")
    search_fields = ("name", "tool_code")
    readonly_fields = ("created_at", "updated_at")
    code_fields = ("tool_code",)
    fieldsets = (
        (None, {"fields": ["name", "tool_code"]}),
        (
            _("What the model is told, and what it cannot set"),
            {
                "fields": [
                    "tool_json_spec",
                    "default_values_for_non_llm_params",
                    "context_params",
                ]
            },
        ),
        (_("Times"), {"fields": ["created_at", "updated_at"]}),
    )

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Tool]:
        """Returns the tools, each with the number of templates that use it."""
        counted = models.Count("prompt_templates", distinct=True)
        rows: models.QuerySet[Tool] = (
            super().get_queryset(request).annotate(templates_count=counted)
        )
        return rows

    @admin.display(description=_("kind of code"))
    def code_kind(self, tool: Tool) -> str:
        """Tells whether the code is a path or source text."""
        return str(_("path") if is_path(tool.tool_code) else _("source"))

    @admin.display(description=_("code"))
    def code_excerpt(self, tool: Tool) -> str:
        """Returns the path, or how the source text begins."""
        return format_html("<code>{}</code>", cut(tool.tool_code))

    @admin.display(description=_("used by templates"), ordering="templates_count")
    def used_by(self, tool: Tool) -> int:
        """Returns how many templates use the tool."""
        return int(vars(tool)["templates_count"])


@admin.register(LLMConfigName)
class LLMConfigNameAdmin(FieldsAdmin[LLMConfigName]):
    """Configurations. What their files say is shown here, and changed only there."""

    list_filter = ("prompt_templates",)
    search_fields = ("name",)

    def has_change_permission(self, request: HttpRequest, obj: LLMConfigName | None = None) -> bool:
        """Nobody changes one here: another name would be another row."""
        return False

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[LLMConfigName]:
        """Returns the names, each with the number of templates that use it."""
        counted = models.Count("prompt_templates", distinct=True)
        rows: models.QuerySet[LLMConfigName] = (
            super().get_queryset(request).annotate(templates_count=counted)
        )
        return rows

    def get_list_display(self, request: HttpRequest) -> Any:
        """Returns the name, and what the files say at the moment."""
        return ["name", *_find_columns(request), "used_by"]

    def get_fields(self, request: HttpRequest, obj: LLMConfigName | None = None) -> Any:
        """Returns the name of a new one; of others, what their file says, too."""
        return ["name"] if obj is None else self.get_readonly_fields(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: LLMConfigName | None = None) -> Any:
        """Returns everything but a new name."""
        return [] if obj is None else self.get_list_display(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Shows the list; above it, why no file can be read, or which have no row yet."""
        survey = _find_survey(request)
        if survey.fault:
            messages.warning(request, f"{survey.fault}.")
        else:
            known = LLMConfigName.objects.values_list("name", flat=True)
            lacking = ", ".join(sorted(survey.states.keys() - set(known)))
            if lacking and request.method == "GET":
                messages.info(
                    request,
                    _(
                        "Files that are not in the table: %s. They are added by manage.py "
                        "sync_llm_configs."
                    )
                    % lacking,
                )
        return super().changelist_view(request, extra_context)

    def save_model(self, request: HttpRequest, obj: LLMConfigName, form: Any, change: bool) -> None:
        """Saves the name, and warns where no file can be used."""
        super().save_model(request, obj, form, change)
        fault = _find_survey(request).find(obj.name).fault
        if fault:
            messages.warning(request, describe_fault(obj.name, fault))

    @admin.display(description=_("used by templates"), ordering="templates_count")
    def used_by(self, name: LLMConfigName) -> int:
        """Returns how many templates use the configuration."""
        return int(vars(name)["templates_count"])


@admin.register(PromptTemplate)
class PromptTemplateAdmin(FieldsAdmin[PromptTemplate]):
    """Prompt templates, with a preview."""

    form = PromptTemplateForm
    change_form_template = "admin/llm_wrapper/prompttemplate/change_form.html"
    list_display = ("name", "template_format", "config_names", "tool_names", "last_changed")
    list_filter = ("template_format", "llm_config_names", "tools")
    search_fields = (
        "name",
        "system_prompt_template",
        "user_prompt_template",
        "initial_messages_templates",
    )
    filter_horizontal = ("llm_config_names", "tools")
    code_fields = ("system_prompt_template", "user_prompt_template")
    fieldsets = (
        (None, {"fields": ["name", "llm_config_names", "tools"]}),
        (
            _("Templates"),
            {
                "fields": [
                    "template_format",
                    "system_prompt_template",
                    "initial_messages_templates",
                    "user_prompt_template",
                ]
            },
        ),
        (_("Variables"), {"fields": ["required_kwargs", "logged_context_vars"]}),
    )

    class Media:
        js = ("llm_wrapper/preview.js",)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[PromptTemplate]:
        """Returns the templates with what the list shows of each."""
        changes = LogEntry.objects.filter(
            content_type__app_label=self.opts.app_label,
            content_type__model=self.opts.model_name,
            object_id=Cast(models.OuterRef("pk"), models.TextField()),
        ).order_by("-action_time")
        rows: models.QuerySet[PromptTemplate] = (
            super()
            .get_queryset(request)
            .prefetch_related("llm_config_names", "tools")
            .annotate(changed_at=models.Subquery(changes.values("action_time")[:1]))
        )
        return rows

    def get_urls(self) -> list[URLPattern]:
        """Returns the addresses, with that of the preview."""
        preview = require_POST(partial(show_preview, self))
        return [
            path("preview/", self.admin_site.admin_view(preview), name=URL_NAME),
            *super().get_urls(),
        ]

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: PromptTemplate | None = None,
    ) -> HttpResponse:
        """Renders a form's page, with the panel of the preview."""
        stored = obj is not None and not self.has_change_permission(request, obj)
        add_preview_form(context, self.admin_site, request, obj, stored)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Saves configurations and tools, and warns where they do not go together."""
        super().save_related(request, form, formsets, change)
        for warning in find_config_faults(form.instance, _find_survey(request)):
            messages.warning(request, warning)

    @admin.display(description=_("LLM configurations"))
    def config_names(self, template: PromptTemplate) -> str:
        """Returns who may be asked."""
        return ", ".join(config.name for config in template.llm_config_names.all())

    @admin.display(description=_("tools"))
    def tool_names(self, template: PromptTemplate) -> str:
        """Returns what may be called."""
        return ", ".join(tool.name for tool in template.tools.all())

    @admin.display(description=_("last changed in the admin"), ordering="changed_at")
    def last_changed(self, template: PromptTemplate) -> Any:
        """Returns when the template was last changed here; None: it never was."""
        return vars(template)["changed_at"]


def _find_survey(request: HttpRequest) -> SiteSurvey:
    """Returns what the files say; read once for a request."""
    return _keep(request, "llm_wrapper_survey", survey_site)


def _find_columns(request: HttpRequest) -> list[Column]:
    """Returns the columns of the configurations, the same ones for all of a request."""
    make = partial(make_config_columns, _find_survey(request))
    return _keep(request, "llm_wrapper_columns", make)


def _keep(request: HttpRequest, name: str, make: Callable[[], T]) -> T:
    kept: dict[str, T] = vars(request)
    if name not in kept:
        kept[name] = make()
    return kept[name]
