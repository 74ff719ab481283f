"""The templates of a prompt: compiled when they are saved, rendered when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from tinytroupe.llm.errors import TemplateError
from tinytroupe.llm.talk.sources import FORMATS, Format, Source, compile_source

__all__ = ["FORMATS", "compile_field", "list_variables", "render_field", "render_initial_messages"]

MESSAGE_NAMES = ("user_msg", "message")
"""What the user template calls the message that it wraps; the second is for those who like it."""

TEXT_FIELDS = ("system_prompt_template", "user_prompt_template")


class Prompt(Protocol):
    """What is read of a `models.PromptTemplate`."""

    @property
    def template_format(self) -> str: ...

    @property
    def user_prompt_template(self) -> str: ...

    @property
    def initial_messages_templates(self) -> Any: ...

    @property
    def required_kwargs(self) -> Any: ...


def compile_field(template: Prompt, field: str) -> Source:
    """Compiles one of `TEXT_FIELDS`.

    Raises:
        TemplateError: It is not what its format asks for.
    """
    return _compile(template, getattr(template, field), field)


def compile_initial_messages(template: Prompt) -> list[Source]:
    """Compiles the texts of the initial messages, in order.

    Raises:
        TemplateError: One of them is not what its format asks for.
    """
    return [
        _compile(template, message["content"], f"initial_messages_templates[{place}]")
        for place, message in enumerate(template.initial_messages_templates)
    ]


def render_field(template: Prompt, field: str, values: Mapping[str, object]) -> str:
    """Renders one of `TEXT_FIELDS`.

    Raises:
        TemplateError: It cannot be compiled, or a variable is missing.
    """
    return compile_field(template, field).render(values)


def render_user_message(template: Prompt, message: str, values: Mapping[str, object]) -> str:
    """Wraps what a user says; where there is no user template, it stays as it is.

    Raises:
        TemplateError: The template cannot be compiled, or a variable is missing.
    """
    if not template.user_prompt_template:
        return message
    said = dict.fromkeys(MESSAGE_NAMES, message)
    return render_field(template, "user_prompt_template", {**values, **said})


def render_initial_messages(template: Prompt, values: Mapping[str, object]) -> list[dict[str, str]]:
    """Renders the initial messages, each with `role` and `content`.

    Raises:
        TemplateError: One cannot be compiled, or a variable is missing.
    """
    sources = compile_initial_messages(template)
    return [
        {"role": message["role"], "content": source.render(values)}
        for message, source in zip(template.initial_messages_templates, sources, strict=True)
    ]


def list_variables(template: Prompt) -> list[str]:
    """Returns the variables that the templates may ask for, and those that are required, by name.

    Raises:
        TemplateError: A template cannot be compiled.
    """
    sources = [compile_field(template, field) for field in TEXT_FIELDS]
    names = {name for source in sources for name in source.names} - set(MESSAGE_NAMES)
    for source in compile_initial_messages(template):
        names |= source.names
    return sorted(names | set(template.required_kwargs))


def _compile(template: Prompt, text: Any, place: str) -> Source:
    if not isinstance(text, str):
        raise TemplateError(f"{place} is of type {type(text).__name__}, not a text")
    # Errors call a template by its field: which prompt it is, whoever sees them knows.
    return compile_source(text, cast(Format, template.template_format), place)
