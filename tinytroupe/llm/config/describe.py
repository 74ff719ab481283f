"""The settings for people: config.ini with comments, the table of the docs, values and origins."""

from __future__ import annotations

import configparser
import textwrap
from collections.abc import Iterator

from tinytroupe.llm.config.ini import new_parser
from tinytroupe.llm.config.setting import Setting
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.config.table import SETTINGS

_WIDTH = 88

_SECTION_DOCS = {
    "OpenAI": "How models are asked. The name is TinyTroupe's; it holds for every endpoint.",
    "Run": "Recording a simulation, and replaying it.",
    "Simulation": "The simulation's own: any key may stand here and is kept as it is.",
    "Logging": "What the program tells while it runs.",
}


def write_template() -> str:
    """Returns a config.ini with every key, its default and a comment."""
    lines = [
        "# The settings of a simulation, all at their defaults. Put this file beside the",
        "# simulation and keep the lines that you change. `tinytroupe config` shows what is in",
        "# effect and why. Keys of endpoints never belong here: set the environment variable",
        "# OPENAI_API_KEY or AZURE_OPENAI_KEY instead.",
    ]
    for section, settings in iter_sections():
        lines += ["", f"[{section}]", *_comment(_SECTION_DOCS[section])]
        for setting in settings:
            allowed = setting.allowed[0].upper() + setting.allowed[1:]
            is_text = setting.kind in ("text", "name", "address")
            doc = setting.doc if is_text else f"{setting.doc} {allowed}."
            lines += ["", *_comment(doc)]
            lines.append(f"{setting.key}={setting.to_text(setting.default)}")
    return "\n".join(lines) + "\n"


def write_markdown() -> str:
    """Returns the table of the settings for docs/configuration.md."""
    lines = ["| Key | Default | Values | Meaning |", "| --- | --- | --- | --- |"]
    for section, settings in iter_sections():
        lines.append(f"| **[{section}]** | | | {_SECTION_DOCS[section]} |")
        for setting in settings:
            default = setting.to_text(setting.default)
            shown = f"`{default}`" if default else "empty"
            lines.append(f"| `{setting.key}` | {shown} | {setting.allowed} | {setting.doc} |")
    return "\n".join(lines) + "\n"


def write_parser(settings: Settings) -> configparser.ConfigParser:
    """Returns what is in effect as a `ConfigParser`, in which keys are found in any case.

    None is an empty text, and the cache modes `on` and `off` are spelled True
    and False, as TinyTroupe reads them.
    """
    parser = new_parser()
    for section, rows in iter_sections():
        parser[section] = {row.key: row.to_text(getattr(settings, row.name)) for row in rows}
    for section, values in settings.own.items():
        parser.read_dict({section: values})
    mode = parser["OpenAI"]["CACHE_API_CALLS"]
    parser["OpenAI"]["CACHE_API_CALLS"] = {"on": "True", "off": "False"}.get(mode, mode)
    return parser


def iter_sections() -> Iterator[tuple[str, list[Setting]]]:
    """Yields each section with its settings, in the order of config.ini."""
    for section in dict.fromkeys(setting.section for setting in SETTINGS.values()):
        yield section, [row for row in SETTINGS.values() if row.section == section]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)]
