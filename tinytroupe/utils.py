"""The names that users of TinyTroupe import from `tinytroupe.utils`, as thin fronts."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tinytroupe import openai_utils
from tinytroupe.llm.talk.extract import extract_code_block, extract_json
from tinytroupe.llm.talk.templates import compose_messages

__all__ = [
    "compose_initial_LLM_messages_with_templates",
    "extract_code_block",
    "extract_json",
    "read_config_file",
]


def read_config_file(use_cache: bool = True, verbose: bool = False) -> configparser.ConfigParser:
    """Returns the settings in effect as a `ConfigParser`.

    Args:
        use_cache: Whether settings that were read before are good enough; if not,
            config.ini and the environment are read again, for everybody.
        verbose: Whether the file that was read is printed.

    Raises:
        ConfigError: The settings cannot be used; the message says where and why.
    """
    state = openai_utils._state
    if not use_cache:
        state.forget_settings()
    parser = state.get_parser()
    if verbose:
        print(f"Read {state.get_settings().path or 'no config.ini'}")  # noqa: T201
    return parser


def compose_initial_LLM_messages_with_templates(
    system_template_name: str,
    user_template_name: str | None = None,
    rendering_configs: Mapping[str, Any] = MappingProxyType({}),
) -> list[dict[str, str]]:
    """Renders the first messages of a conversation: system, then user if there is one.

    Templates are looked for in `prompts/` of the current folder, then in the package's.

    Raises:
        TemplateError: A template cannot be found or rendered.
    """
    templates = openai_utils._state.get_templates()
    return compose_messages(templates, system_template_name, user_template_name, rendering_configs)
