"""What the admin shows of the models' files: no key, and of an address only the host."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from django.contrib import admin
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from tinytroupe.contrib.django.configs import LLMConfig, find_folder, survey_configs
from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate
from tinytroupe.llm.config.models import REHEARSAL
from tinytroupe.llm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ConfigState:
    """What is known of a configuration."""

    config: LLMConfig | None
    """None: no file of its name can be used."""
    fault: str
    """Why; empty: nothing is wrong."""


@dataclass(frozen=True, slots=True)
class SiteSurvey:
    """The files of the site, as they are at the moment."""

    states: Mapping[str, ConfigState]
    """By name."""
    fault: str = ""
    """Why no file can be read; empty: they can."""

    def find(self, name: str) -> ConfigState:
        """Returns what is known of a name."""
        missing = self.fault or str(_("there is no file of this name"))
        return self.states.get(name) or ConfigState(None, missing)


def survey_site() -> SiteSurvey:
    """Reads all files of the site's folder; what is wrong is part of what is returned."""
    try:
        folder = find_folder()
        survey = survey_configs(folder)
    except ConfigError as error:
        return SiteSurvey({}, error.message)
    states = {name: ConfigState(config, "") for name, config in survey.configs.items()}
    for name, fault in survey.faults.items():
        # The folder is the same for all of them, and long in a table.
        states[name] = ConfigState(None, fault.message.replace(f"{folder}{os.sep}", ""))
    return SiteSurvey(states)


def find_config_faults(template: PromptTemplate, survey: SiteSurvey) -> list[str]:
    """Returns what keeps the configurations of a template from answering, a sentence each."""
    has_tools = template.tools.exists()
    faults = []
    for name in template.llm_config_names.values_list("name", flat=True):
        state = survey.find(name)
        if state.config is None:
            faults.append(describe_fault(name, state.fault))
        elif has_tools and not state.config.tools_enabled:
            said = "it does not have tools_enabled, so it is not asked where there are tools"
            faults.append(describe_fault(name, said))
    return faults


def describe_fault(name: str, fault: str) -> str:
    """Returns a sentence. The admin begins each with a capital, which a name must not get."""
    return f"{_('LLM configuration')} {name}: {fault}."


Column: TypeAlias = Callable[[LLMConfigName], object]


def make_config_columns(survey: SiteSurvey) -> list[Column]:
    """Returns what shows a configuration in the admin, for `list_display` and `fields`."""

    @admin.display(description=_("class"))
    def config_class(row: LLMConfigName) -> str:
        return _read(row, lambda config: config.config_class)

    @admin.display(description=_("model"))
    def model(row: LLMConfigName) -> str:
        return _read(row, lambda config: config.model.model)

    @admin.display(description=_("host"))
    def host(row: LLMConfigName) -> str:
        return _read(row, find_host)

    @admin.display(description=_("tools enabled"), boolean=True)
    def tools_enabled(row: LLMConfigName) -> bool | None:
        config = survey.find(row.name).config
        return config.tools_enabled if config else None

    @admin.display(description=_("file"))
    def file(row: LLMConfigName) -> str:
        state = survey.find(row.name)
        kind, said = ("faulty", state.fault) if state.config is None else ("fine", _("usable"))
        return format_html('<span class="llm-state llm-state-{}">{}</span>', kind, said)

    def _read(row: LLMConfigName, read: Callable[[LLMConfig], str]) -> str:
        config = survey.find(row.name).config
        return read(config) if config else ""

    return [config_class, model, host, tools_enabled, file]


def find_host(config: LLMConfig) -> str:
    """Returns the host where a model is asked, with its port, and nothing else of the address."""
    if config.model.provider == REHEARSAL:
        return str(_("none"))
    try:
        address = urlsplit((config.model.base_url or "").strip())
        port = f":{address.port}" if address.port else ""
    except ValueError:
        return str(_("an address that cannot be read"))
    return f"{address.hostname}{port}" if address.hostname else str(_("the provider's own"))
