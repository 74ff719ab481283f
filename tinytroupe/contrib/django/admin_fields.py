"""Fields in the admin: JSON in colour and code with its spaces, where they are edited and shown."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from django.contrib import admin
from django.db import models
from django.forms import Field
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator, capfirst

from tinytroupe.contrib.django.forms import SCRIPTS, STYLES, CodeField, CodeTextarea, JSONField
from tinytroupe.contrib.django.history import clean_text
from tinytroupe.contrib.django.json_text import format_json

Row = TypeVar("Row", bound=models.Model)

EXCERPT_CHARACTERS = 80

if TYPE_CHECKING:
    BaseAdmin = admin.ModelAdmin
else:
    # Django's class takes no type arguments while it runs.
    class BaseAdmin(admin.ModelAdmin):
        def __class_getitem__(cls, _: object) -> type:
            return cls


class FieldsAdmin(BaseAdmin[Row]):
    """An admin of rows with JSON and code in them."""

    code_fields: ClassVar[Collection[str]] = ()
    """Names of fields in which each space counts."""

    class Media:
        js = SCRIPTS
        css = {"all": (*STYLES, "llm_wrapper/conversation.css")}  # noqa: RUF012

    def formfield_for_dbfield(
        self, db_field: Any, request: HttpRequest, **kwargs: Any
    ) -> Field | None:
        """Returns the form field; JSON gets one whose faults can be found."""
        if isinstance(db_field, models.JSONField):
            kwargs |= {
                "form_class": JSONField,
                "name": db_field.name,
                "make_empty": db_field.get_default,
            }
        elif db_field.name in self.code_fields:
            kwargs["form_class"] = CodeField
            kwargs["widget"] = CodeTextarea
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Row | None = None) -> Any:
        """Returns the fields; for who may not change the row, as they are to be read."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return fieldsets
        readable = self.get_readonly_fields(request, obj)

        def read(name: Any) -> Any:
            return name if name in readable else self._make_readable(name)

        return [
            (title, {**options, "fields": [read(name) for name in options["fields"]]})
            for title, options in fieldsets
        ]

    def _make_readable(self, name: str) -> Any:
        field = self.opts.get_field(name)
        if isinstance(field, models.JSONField):
            return _show_json(name, str(field.verbose_name))
        if isinstance(field, models.Field) and name in self.code_fields:
            return _show_code(name, str(field.verbose_name))
        return name


def _show_json(name: str, label: str) -> Callable[[models.Model], SafeString]:
    @admin.display(description=capfirst(label))
    def show(row: models.Model) -> SafeString:
        return format_html('<pre class="llm-json">{}</pre>', format_json(getattr(row, name)))

    return _name(show, name)


def _show_code(name: str, label: str) -> Callable[[models.Model], SafeString | str]:
    @admin.display(description=capfirst(label))
    def show(row: models.Model) -> SafeString | str:
        text = clean_text(getattr(row, name))
        return format_html('<pre class="llm-code">{}</pre>', text) if text else "-"

    return _name(show, name)


def cut(text: str) -> str:
    """Returns how a text begins, in one line, for a list."""
    return Truncator(" ".join(text.split())).chars(EXCERPT_CHARACTERS)


Show = TypeVar("Show", bound=Callable[..., object])


def _name(show: Show, name: str) -> Show:
    # The class of the field's row on the page.
    show.__name__ = name
    return show
