"""What a prompt template becomes with sample variables: messages, and what they weigh."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinytroupe.contrib.django.configs import LLMConfig, get_config
from tinytroupe.contrib.django.history import clean_text
from tinytroupe.contrib.django.json_text import FaultyJSON, format_json, parse_json
from tinytroupe.contrib.django.models import PromptTemplate, Tool
from tinytroupe.contrib.django.templating import (
    list_variables,
    render_field,
    render_initial_messages,
    render_user_message,
)
from tinytroupe.contrib.django.tools import Toolbox
from tinytroupe.llm.errors import LLMError, TemplateError
from tinytroupe.llm.rules.tokens import FALLBACK_ENCODING, TokenCount, count_messages

VARIABLES_FIELD = "preview_variables"

TEMPLATE_FIELDS = (
    "template_format",
    "system_prompt_template",
    "initial_messages_templates",
    "required_kwargs",
    "user_prompt_template",
)
"""What a preview is made of."""

Faults = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt template as it stands in a form, saved or not."""

    template: PromptTemplate
    tools: Sequence[Tool]
    config_name: str
    """Whose model counts; empty: nobody was chosen."""
    faults: Faults
    """What is wrong with its fields, by field."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the templates are rendered with."""

    variables: str
    """JSON, as it was written."""
    message: str
    """What a user says."""
    offered: frozenset[str] = frozenset()
    """The variables that the form has proposed before; who removed one does not want it."""


@dataclass(frozen=True, slots=True)
class PreviewMessage:
    """A message as it would be sent, and how many tokens it takes."""

    role: str
    text: str
    tokens: int
    is_initial: bool = False


@dataclass(frozen=True, slots=True)
class PreviewFault:
    """What is wrong with a field."""

    field: str
    line: int | None
    """Of the field, or of the text inside it; None: the fault is no single line's."""
    reason: str


@dataclass(slots=True)
class Preview:
    """What a draft becomes."""

    messages: list[PreviewMessage] = field(default_factory=list)
    faults: list[PreviewFault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """The variables that the form has proposed by now."""
    variables: str = ""
    """The sample variables with those that were lacking; empty: none was."""
    total: TokenCount | None = None
    tool_tokens: int = 0
    model: str = ""
    """Whose tokens were counted; empty: no model is known."""
    config_name: str = ""


def make_preview(draft: Draft, sample: Sample) -> Preview:
    """Renders a draft. Asks nobody and saves nothing; what is wrong is part of the preview."""
    preview = Preview(config_name=draft.config_name, names=sorted(sample.offered))
    for name, reasons in draft.faults.items():
        if name in TEMPLATE_FIELDS:
            preview.faults += [make_fault(name, reason) for reason in reasons]
    try:
        values = read_variables(sample.variables)
    except FaultyJSON as error:
        preview.faults.append(PreviewFault(VARIABLES_FIELD, error.line, str(error)))
        return preview
    _add_variables(preview, draft, sample, values)
    if "template_format" in draft.faults:
        return preview
    rendered = [
        message
        for name, render in _list_parts(draft.template, sample.message, values)
        if name not in draft.faults
        for message in _render(preview, name, render)
    ]
    _count(preview, draft, rendered, values)
    return preview


def read_variables(text: str) -> dict[str, Any]:
    """Reads sample variables.

    Raises:
        FaultyJSON: They are not a JSON object.
    """
    values = parse_json(text) if text.strip() else {}
    if not isinstance(values, dict):
        raise FaultyJSON("the variables must be an object of names and values", None)
    return values


def propose_variables(template: PromptTemplate) -> dict[str, str]:
    """Returns an empty text for each variable that the templates ask for."""
    try:
        return dict.fromkeys(list_variables(template), "")
    except (TemplateError, TypeError, KeyError):
        # A template that somebody broke outside the forms; the preview says how.
        return {}


def make_fault(name: str, reason: str) -> PreviewFault:
    """Makes the fault of a field out of the sentence that tells of it."""
    line = _LINE.match(reason)
    return PreviewFault(name, int(line[1]) if line else None, reason)


_LINE = re.compile(r"\w+(?:, |: )line (\d+)[,:]")

_Parts = Iterator[tuple[str, Callable[[], list[dict[str, str]]]]]


def _add_variables(preview: Preview, draft: Draft, sample: Sample, values: dict[str, Any]) -> None:
    if draft.faults.keys() & set(TEMPLATE_FIELDS):
        return
    names = propose_variables(draft.template)
    lacking = {name: "" for name in names if name not in values and name not in sample.offered}
    preview.names = sorted({*sample.offered, *names})
    if lacking:
        values.update(lacking)
        preview.variables = format_json(values)
        preview.notes.append(f"Added to the sample variables: {', '.join(lacking)}.")
    missing = [name for name in draft.template.required_kwargs if name not in values]
    if missing:
        preview.notes.append(
            f"Required, and not among the sample variables: {', '.join(missing)}. "
            "Without them nothing would be asked."
        )


def _list_parts(template: PromptTemplate, message: str, values: Mapping[str, object]) -> _Parts:
    """Yields each field that becomes messages, in the order of the chat, and what renders it."""
    if template.system_prompt_template:
        name = "system_prompt_template"
        yield name, lambda: [{"role": "system", "content": render_field(template, name, values)}]
    yield "initial_messages_templates", lambda: render_initial_messages(template, values)
    if template.user_prompt_template or message:
        yield (
            "user_prompt_template",
            lambda: [{"role": "user", "content": render_user_message(template, message, values)}],
        )


def _render(
    preview: Preview, name: str, render: Callable[[], list[dict[str, str]]]
) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        messages = render()
    except TemplateError as error:
        preview.faults.append(make_fault(name, error.message))
        return
    for message in messages:
        yield name, {"role": message["role"], "content": clean_text(message["content"])}


def _count(
    preview: Preview,
    draft: Draft,
    rendered: Sequence[tuple[str, dict[str, str]]],
    values: Mapping[str, Any],
) -> None:
    config = _find_config(preview, draft.config_name)
    preview.model = config.model.model if config else ""
    model = preview.model or FALLBACK_ENCODING
    nothing = count_messages([], model).tokens
    for name, message in rendered:
        tokens = count_messages([message], model).tokens - nothing
        initial = name == "initial_messages_templates"
        preview.messages.append(
            PreviewMessage(message["role"], message["content"], tokens, initial)
        )
    tools = _list_tools(preview, draft, config, values)
    conversation = [message for _, message in rendered]
    preview.total = count_messages(conversation, model, tools)
    preview.tool_tokens = preview.total.tokens - count_messages(conversation, model).tokens


def _find_config(preview: Preview, name: str) -> LLMConfig | None:
    if not name:
        return None
    try:
        return get_config(name)
    except LLMError as error:
        preview.notes.append(f"Counted without a model: {error.message}.")
        return None


def _list_tools(
    preview: Preview, draft: Draft, config: LLMConfig | None, values: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if not draft.tools:
        return []
    if config is not None and not config.tools_enabled:
        preview.notes.append(
            f"The tools are left out of the count: {config.name} does not have tools_enabled."
        )
        return []
    try:
        return list(Toolbox(draft.tools, values).wire)
    except LLMError as error:
        preview.notes.append(f"The tools are left out of the count: {error.message}.")
        return []
