"""The preview on the pages of a prompt template: what stands in the form, as a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.text import capfirst

from tinytroupe.contrib.django.forms import PreviewForm
from tinytroupe.contrib.django.json_text import format_json
from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate
from tinytroupe.contrib.django.preview import (
    VARIABLES_FIELD,
    Draft,
    PreviewFault,
    Sample,
    make_preview,
    propose_variables,
)

if TYPE_CHECKING:
    PromptAdmin = admin.ModelAdmin[PromptTemplate]
else:
    PromptAdmin = admin.ModelAdmin

PREFIX = "preview"
URL_NAME = "llm_wrapper_prompttemplate_preview"
FIRST_MESSAGE = "Hello!"


def add_preview_form(
    context: dict[str, Any],
    site: admin.AdminSite,
    request: HttpRequest,
    row: PromptTemplate | None,
    stored: bool,
) -> None:
    """Puts what the panel of the preview shows into the context of a form's page.

    Args:
        context: Of the page.
        site: Whose page it is.
        request: Who wants it.
        row: The template; None: a new one.
        stored: Whether the row is previewed as it is stored, because there is no form.
    """
    proposed = propose_variables(row) if row is not None else {}
    initial = {
        "variables": format_json(proposed),
        "message": FIRST_MESSAGE,
        "offered": json.dumps(list(proposed)),
        "stored": row.pk if row is not None and stored else "",
    }
    posted = request.POST if request.method == "POST" else None
    context["preview_form"] = PreviewForm(posted, initial=initial, prefix=PREFIX)
    context["preview_url"] = reverse(f"{site.name}:{URL_NAME}")


def show_preview(prompt_admin: PromptAdmin, request: HttpRequest) -> HttpResponse:
    """Answers with the preview of what was posted, a piece of a page. Saves nothing.

    Who may only view prompt templates gets the stored one: what others write is not theirs to
    have rendered.
    """
    given = PreviewForm(request.POST, prefix=PREFIX)
    given.full_clean()
    read = _read_stored if given.cleaned_data.get("stored") else _read_draft
    draft = read(prompt_admin, request, given.cleaned_data)
    sample = Sample(
        given.cleaned_data.get("variables", ""),
        given.cleaned_data.get("message", ""),
        _read_offered(given.cleaned_data.get("offered", "")),
    )
    preview = make_preview(draft, sample)
    shown = {
        "preview": preview,
        "faults": [_show_fault(fault) for fault in preview.faults],
        "offered": json.dumps(preview.names),
    }
    page = render_to_string("admin/llm_wrapper/prompttemplate/preview.html", shown, request)
    return HttpResponse(page)


def _read_stored(
    prompt_admin: PromptAdmin, request: HttpRequest, given: Mapping[str, Any]
) -> Draft:
    row = prompt_admin.get_object(request, given["stored"])
    if not prompt_admin.has_view_permission(request, row):
        raise PermissionDenied
    if row is None:
        raise Http404
    faults: dict[str, list[str]] = {}
    try:
        row.clean()
    except ValidationError as error:
        faults = error.message_dict
    return Draft(
        row, list(row.tools.all()), _choose(given, list(row.llm_config_names.all())), faults
    )


def _read_draft(prompt_admin: PromptAdmin, request: HttpRequest, given: Mapping[str, Any]) -> Draft:
    may_change = prompt_admin.has_change_permission(request)
    if not (may_change or prompt_admin.has_add_permission(request)):
        raise PermissionDenied
    form = prompt_admin.get_form(request, None, change=False)(request.POST)
    faults = {name: [str(reason) for reason in reasons] for name, reasons in form.errors.items()}
    chosen = list(form.cleaned_data.get("llm_config_names", ()))
    tools = list(form.cleaned_data.get("tools", ()))
    return Draft(form.instance, tools, _choose(given, chosen), faults)


def _choose(given: Mapping[str, Any], chosen: list[LLMConfigName]) -> str:
    wanted = given.get("config_name") or next(iter(chosen), None)
    return wanted.name if wanted else ""


def _read_offered(text: str) -> frozenset[str]:
    try:
        names = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return frozenset()
    listed = names if isinstance(names, list) else []
    return frozenset(name for name in listed if isinstance(name, str))


def _show_fault(fault: PreviewFault) -> dict[str, Any]:
    if fault.field == VARIABLES_FIELD:
        label, element = PreviewForm.base_fields["variables"].label, f"id_{PREFIX}-variables"
    else:
        field = PromptTemplate._meta.get_field(fault.field)
        label, element = getattr(field, "verbose_name", fault.field), f"id_{fault.field}"
    reason = fault.reason.removeprefix(f"{fault.field}: ").removeprefix(f"{fault.field}, ")
    return {
        "label": capfirst(str(label)),
        "element": element,
        "line": fault.line,
        "reason": reason,
    }
