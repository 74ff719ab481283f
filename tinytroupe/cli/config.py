"""`tinytroupe config`: the settings in effect, each with where it came from."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from tinytroupe.cli import Subparsers
from tinytroupe.llm.config.describe import iter_sections, write_markdown, write_template
from tinytroupe.llm.config.load import load_settings
from tinytroupe.llm.config.settings import Settings, mask_url
from tinytroupe.llm.transports.secrets import (
    AZURE_KEY_VARIABLES,
    OPENAI_KEY_VARIABLES,
    find_secret,
)

AZURE_ENDPOINT_VARIABLE = "AZURE_OPENAI_ENDPOINT"

_NOT_SHOWN = ("KEY", "TOKEN", "SECRET", "PASSWORD")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    section: str
    key: str
    value: str
    origin: str


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe config`."""
    parser = subparsers.add_parser(
        "config",
        help="show the settings and where each came from",
        description="Shows the settings that a simulation in this folder has, and where each "
        "came from. Keys of endpoints are masked.",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="write JSON")
    kind.add_argument(
        "--template", action="store_true", help="write a config.ini with every key and its default"
    )
    kind.add_argument(
        "--markdown", action="store_true", help="write the table of the documentation"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints what was asked for.

    Raises:
        ConfigError: The settings cannot be used; the message says where and why.
    """
    if args.template:
        print(write_template(), end="")
    elif args.markdown:
        print(write_markdown(), end="")
    else:
        settings = load_settings()
        rows = [*_list_settings(settings), *_list_secrets()]
        print(_write_json(settings, rows) if args.json else _write_table(settings, rows))
    return 0


def _list_settings(settings: Settings) -> Iterator[Row]:
    own = dict(settings.own)
    for section, table in iter_sections():
        for row in table:
            yield Row(section, row.key, settings.show(row.name), str(settings.origin(row.name)))
        yield from _list_own(section, own.pop(section, {}), settings)
    for section, values in own.items():
        yield from _list_own(section, values, settings)


def _list_own(section: str, values: Mapping[str, str], settings: Settings) -> Iterator[Row]:
    for key, value in values.items():
        hidden = any(word in key.upper() for word in _NOT_SHOWN)
        yield Row(section, key.upper(), "***" if hidden else value, settings.path or "")


def _list_secrets() -> Iterator[Row]:
    for variables in (OPENAI_KEY_VARIABLES, AZURE_KEY_VARIABLES):
        secret = find_secret(variables)
        value, origin = (secret.mask(), f"environment {secret.origin}") if secret else ("", "")
        yield Row("environment", variables[0], value, origin)
    endpoint = os.environ.get(AZURE_ENDPOINT_VARIABLE, "")
    origin = f"environment {AZURE_ENDPOINT_VARIABLE}" if endpoint else ""
    yield Row("environment", AZURE_ENDPOINT_VARIABLE, mask_url(endpoint), origin)


def _write_table(settings: Settings, rows: list[Row]) -> str:
    key_width = max(len(row.key) for row in rows)
    value_width = min(max(len(_show(row)) for row in rows), 40)
    lines = []
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines += ["", f"[{section}]"] if section != "environment" else ["", "Environment"]
        lines.append(f"{row.key:<{key_width}}  {_show(row):<{value_width}}  {row.origin}".rstrip())
    return "\n".join([_say_file(settings), *lines, "", *_list_notes(settings)])


def _show(row: Row) -> str:
    empty = "(not set)" if row.section == "environment" else "(empty)"
    return " ".join(row.value.split()) or empty


def _say_file(settings: Settings) -> str:
    if settings.path is None:
        return f"There is no config.ini in {settings.folder}: defaults and environment count."
    return f"Read from {settings.path}"


def _list_notes(settings: Settings) -> Iterator[str]:
    yield f"Answers are kept in {settings.cache_folder}"
    if settings.names_pickle:
        yield (
            f"({settings.cache_file_name} is the name of TinyTroupe's pickle; answers are kept in "
            "a folder of that name instead, and the pickle is neither read nor touched.)"
        )
    for key, origin in settings.unused.items():
        yield f"{origin}: {key} is one of TinyTroupe's keys and has no effect in this layer"


def _write_json(settings: Settings, rows: list[Row]) -> str:
    return json.dumps(
        {
            "path": settings.path,
            "cache_folder": settings.cache_folder,
            "settings": [asdict(row) for row in rows],
            "without_effect": {key: str(origin) for key, origin in settings.unused.items()},
        },
        indent=2,
        ensure_ascii=False,
    )
