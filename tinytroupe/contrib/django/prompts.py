"""A prompt template as it is used: its texts, its tools, and who is asked."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tinytroupe.contrib.django.conf import read_site_settings
from tinytroupe.contrib.django.configs import get_config
from tinytroupe.contrib.django.errors import (
    MissingConfigs,
    MissingVariables,
    ToolsDisabled,
    UnknownPrompt,
)
from tinytroupe.contrib.django.history import StoredMessage, make_message
from tinytroupe.contrib.django.models import PromptTemplate, Tool
from tinytroupe.contrib.django.templating import (
    compile_field,
    compile_initial_messages,
    render_field,
    render_initial_messages,
    render_user_message,
)
from tinytroupe.contrib.django.validators import list_faults
from tinytroupe.llm.errors import BadRequest, TemplateError
from tinytroupe.llm.talk.values import find_nearest


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt template, read from the database. Immutable."""

    template: PromptTemplate
    tools: tuple[Tool, ...]
    configs: tuple[str, ...]
    """Who may be asked; the first one is chosen, the others follow when it is too slow."""

    def make_opening(self, values: Mapping[str, object]) -> list[StoredMessage]:
        """Returns the messages that a chat begins with.

        Raises:
            MissingVariables: They need variables that are required and not given.
            TemplateError: One of them cannot be rendered.
        """
        with _name_in_errors(self.template):
            sources = [
                compile_field(self.template, "system_prompt_template"),
                *compile_initial_messages(self.template),
            ]
            asked = {name for source in sources for name in source.names}
            self._check_variables(values, asked)
            system = self._render_system(values)
            opening = [] if system is None else [make_message("system", system, initial=True)]
            for message in render_initial_messages(self.template, values):
                opening.append(make_message(message["role"], message["content"], initial=True))
            return opening

    def render_system(self, values: Mapping[str, object]) -> str | None:
        """Returns the system message; None: the template has none.

        Raises:
            TemplateError: It cannot be rendered.
        """
        with _name_in_errors(self.template):
            return self._render_system(values)

    def wrap(self, message: str, values: Mapping[str, object]) -> str:
        """Returns what the model is sent for what a user says.

        Raises:
            MissingVariables: A variable that the template requires was not given.
            TemplateError: The user template cannot be rendered.
        """
        self._check_variables(values, set(self.template.required_kwargs))
        with _name_in_errors(self.template):
            return render_user_message(self.template, message, values)

    def _render_system(self, values: Mapping[str, object]) -> str | None:
        if not self.template.system_prompt_template:
            return None
        return render_field(self.template, "system_prompt_template", values)

    def _check_variables(self, values: Mapping[str, object], asked: set[str]) -> None:
        required = self.template.required_kwargs
        missing = tuple(name for name in required if name in asked and name not in values)
        if missing:
            raise MissingVariables(
                f"the prompt template {self.template.name!r} requires variables that were not "
                f"given: {', '.join(missing)}",
                names=missing,
            )


def read_prompt(name: str, seed: int | None, chat_id: int | str | None) -> Prompt:
    """Reads a prompt template and draws who is asked.

    Args:
        name: Of the template.
        seed: Decides the draw; None: the setting LLM_WRAPPER_SEED, or chance.
        chat_id: The chat it is for, which has its own draw under the setting.

    Raises:
        UnknownPrompt: There is no such template.
        MissingConfigs: It has no configuration.
        UnknownConfig: A configuration of it has no file.
        ToolsDisabled: It has tools, which none of its configurations allows.
        BadRequest: A field of it does not hold what it should.
        ConfigError: A setting or a file cannot be used.
    """
    template = (
        PromptTemplate.objects.prefetch_related("llm_config_names", "tools")
        .filter(name=name)
        .first()
    )
    if template is None:
        nearest = find_nearest(str(name), PromptTemplate.objects.values_list("name", flat=True))
        hint = f"; the nearest is {nearest!r}" if nearest else "; there is none at all yet"
        raise UnknownPrompt(f"there is no prompt template {name!r}{hint}")
    # Fixtures and update() write past the checks of the model.
    for field, fault in list_faults(template, template.CHECKS).items():
        raise BadRequest(f"the prompt template {name!r}: {field}: {fault}")
    tools = tuple(template.tools.all())
    configs = _list_configs(template, bool(tools))
    _draw(seed, f"{name}/{chat_id}").shuffle(configs)
    return Prompt(template, tools, tuple(configs))


@contextmanager
def _name_in_errors(template: PromptTemplate) -> Iterator[None]:
    try:
        yield
    except TemplateError as error:
        raise TemplateError(f"the prompt template {template.name!r}: {error.message}") from error


def _list_configs(template: PromptTemplate, has_tools: bool) -> list[str]:
    names = sorted(config.name for config in template.llm_config_names.all())
    if not names:
        raise MissingConfigs(
            f"the prompt template {template.name!r} has no LLM configuration to be asked with; "
            "choose one in the admin"
        )
    configs = [get_config(name) for name in names]
    usable = [config.name for config in configs if config.tools_enabled or not has_tools]
    if not usable:
        raise ToolsDisabled(
            f"the prompt template {template.name!r} has tools, but none of its configurations "
            f"({', '.join(names)}) has tools_enabled"
        )
    return usable


def _draw(seed: int | None, place: str) -> random.Random:
    if seed is not None:
        return random.Random(seed)
    seed = read_site_settings().seed
    # Each chat for itself, or all chats of a site would ask one and the same.
    return random.Random() if seed is None else random.Random(f"{seed}/{place}")
