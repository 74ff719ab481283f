"""The admin's forms: JSON with a fault that can be found, tools that can be used, prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.forms.fields import InvalidJSONInput
from django.utils.translation import gettext_lazy as _

from tinytroupe.contrib.django.conf import read_site_settings
from tinytroupe.contrib.django.json_text import FaultyJSON, format_json, parse_json
from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate, Tool
from tinytroupe.contrib.django.tools import check_tool, fill_tool_spec
from tinytroupe.llm.errors import ConfigError, LLMError

if TYPE_CHECKING:
    ToolModelForm = forms.ModelForm[Tool]
    PromptModelForm = forms.ModelForm[PromptTemplate]
else:
    ToolModelForm = PromptModelForm = forms.ModelForm

SCRIPTS = ("llm_wrapper/json_text.js", "llm_wrapper/json_fields.js")
STYLES = ("llm_wrapper/json.css",)
"""What colours JSON on a page."""


class JSONTextarea(forms.Textarea):
    """A text area for JSON; a plain one where there is no JavaScript."""

    class Media:
        js = SCRIPTS
        css = {"all": STYLES}  # noqa: RUF012

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        marks = {"class": "llm-json-input vLargeTextField", "spellcheck": "false", "rows": 8}
        super().__init__({**marks, **(attrs or {})})


class CodeTextarea(forms.Textarea):
    """A text area in which each space can be seen to be one."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        marks = {"class": "llm-code-input vLargeTextField", "rows": 10}
        super().__init__({**marks, **(attrs or {})})


class CodeField(forms.CharField):
    """A text in which each space counts. Its lines end as they do everywhere but in forms."""

    widget = CodeTextarea

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "strip": False})

    def to_python(self, value: Any) -> str | None:
        """Returns what was written."""
        text = super().to_python(value)
        return text.replace("\r\n", "\n") if text else text


class JSONField(forms.JSONField):
    """JSON, written with a line for each member; its faults name the field, line and column.

    Args:
        name: What faults call the field.
        make_empty: Makes the value of an empty text.
    """

    widget = JSONTextarea

    def __init__(self, *, name: str, make_empty: Callable[[], object], **options: Any) -> None:
        # Django sends the first value along where a default is a function; ours never differ.
        super().__init__(**{**options, "show_hidden_initial": False})
        self.name = name
        self.make_empty = make_empty

    def to_python(self, value: Any) -> Any:
        """Reads what was written.

        Raises:
            ValidationError: It is not JSON, or cannot be stored by every database.
        """
        if not isinstance(value, str) or self.disabled:
            return super().to_python(value)
        if not value.strip():
            return self.make_empty()
        try:
            parse_json(value)
        except FaultyJSON as error:
            raise forms.ValidationError(f"{self.name}: {error}", code="invalid") from error
        return super().to_python(value)

    def bound_data(self, data: Any, initial: Any) -> Any:
        """Returns the value to show again; a faulty text stays as it was written."""
        if self.disabled:
            return initial
        if data is None:
            return None
        try:
            return parse_json(data)
        except FaultyJSON:
            return InvalidJSONInput(data)

    def prepare_value(self, value: Any) -> Any:
        """Returns the text to edit."""
        return value if isinstance(value, InvalidJSONInput) else format_json(value)


class ToolForm(ToolModelForm):
    """A tool, whose code is looked at before it is saved."""

    class Meta:
        model = Tool
        fields: ClassVar[Any] = "__all__"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "tool_code" in self.fields:
            self.fields["tool_code"].help_text = describe_code_setting()

    def clean(self) -> dict[str, Any]:
        """Checks the code and fills an empty spec."""
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        tool = Tool(**{name: cleaned[name] for name in self.fields})
        try:
            tool.clean_fields()
            tool.clean()
        except forms.ValidationError:
            # The form finds the same by itself, and says it at the right field.
            return cleaned
        try:
            check_tool(tool)
            fill_tool_spec(tool)
        except LLMError as error:
            self.add_error("tool_code", error.message)
            return cleaned
        cleaned["tool_json_spec"] = tool.tool_json_spec
        return cleaned


def describe_code_setting() -> str:
    """Returns what may stand as the code of a tool, as the settings are."""
    path = _("The dotted path of a function, such as shop.tools.find_order.")
    try:
        allowed = read_site_settings().allow_tool_code
    except ConfigError as error:
        return f"{path} {error.message}."
    if allowed:
        source = _(
            "Or the source text of one, which runs in a process of its own: the setting "
            "LLM_WRAPPER_ALLOW_TOOL_CODE is True."
        )
    else:
        source = _(
            "Source text is refused here: the setting LLM_WRAPPER_ALLOW_TOOL_CODE is not True."
        )
    return f"{path} {source}"


class PromptTemplateForm(PromptModelForm):
    """A prompt template, which somebody must be able to answer."""

    class Meta:
        model = PromptTemplate
        fields: ClassVar[Any] = "__all__"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "llm_config_names" in self.fields:
            self.fields["llm_config_names"].error_messages["required"] = _(
                "Choose at least one: without an LLM configuration nobody answers. Those that "
                "have a file are added by manage.py sync_llm_configs."
            )


class PreviewForm(forms.Form):
    """What the preview of a prompt template needs beside the template."""

    variables = forms.CharField(
        label=_("sample variables"), required=False, strip=False, widget=JSONTextarea
    )
    message = CodeField(
        label=_("sample message"),
        required=False,
        widget=forms.Textarea({"rows": 2, "class": "vLargeTextField"}),
        help_text=_("What a user says."),
    )
    config_name = forms.ModelChoiceField(
        LLMConfigName.objects.all(),
        label=_("count tokens for"),
        required=False,
        empty_label=_("the first configuration that is chosen above"),
    )
    offered = forms.CharField(required=False, widget=forms.HiddenInput)
    stored = forms.CharField(required=False, widget=forms.HiddenInput)
