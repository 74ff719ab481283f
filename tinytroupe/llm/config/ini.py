"""Reads config.ini and remembers on which line each key stands."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass

from tinytroupe.llm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class IniValue:
    """What a key holds, and where."""

    text: str
    line: int
    """From 1."""


@dataclass(frozen=True, slots=True)
class IniFile:
    """A configuration file as it was written, before anything is checked."""

    path: str
    sections: Mapping[str, Mapping[str, IniValue]]
    """Values by section, as it is spelled, and by key in lower case."""
    section_lines: Mapping[str, int]


def read_ini(path: str) -> IniFile:
    """Reads a configuration file: UTF-8, `KEY=value`, keys in any case, `%` means itself.

    Raises:
        ConfigError: It cannot be read, is malformed, or names a section or a
            key twice; the message says the file and the line.
    """
    text = _read_text(path)
    parser = new_parser()
    try:
        parser.read_string(text, source=path)
    except configparser.DuplicateSectionError as error:
        raise ConfigError(f"{path}:{error.lineno}: [{error.section}] stands twice") from error
    except configparser.DuplicateOptionError as error:
        raise ConfigError(
            f"{path}:{error.lineno}: {error.option.upper()} stands twice in [{error.section}]"
        ) from error
    except configparser.MissingSectionHeaderError as error:
        raise ConfigError(
            f"{path}:{error.lineno}: this line stands before the first section; "
            "a line such as [OpenAI] is missing above it"
        ) from error
    except configparser.ParsingError as error:
        lines = ", ".join(str(line) for line, _ in error.errors)
        raise ConfigError(
            f"{path}:{lines}: not of the form KEY=value; a comment starts with # or ;"
        ) from error
    return _locate(path, text, parser)


def new_parser() -> configparser.ConfigParser:
    """Makes an empty parser with the rules of config.ini."""
    # A [DEFAULT] section would leak its keys into every other one, so it gets no meaning.
    return configparser.ConfigParser(interpolation=None, default_section="\0")


def _read_text(path: str) -> str:
    try:
        # Windows editors put a byte order mark in front.
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text in UTF-8: {error}") from error


def _locate(path: str, text: str, parser: configparser.ConfigParser) -> IniFile:
    # configparser drops the line numbers, so the lines are matched once more.
    section = ""
    section_lines: dict[str, int] = {}
    key_lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith(("#", ";")):
            continue
        if header := parser.SECTCRE.match(stripped):
            section = header["header"]
            section_lines.setdefault(section, number)
        elif option := parser.OPTCRE.match(stripped):
            key_lines.setdefault((section, parser.optionxform(option["option"].rstrip())), number)
    sections = {
        name: {
            key: IniValue(value, key_lines.get((name, key), section_lines.get(name, 1)))
            for key, value in parser.items(name)
        }
        for name in parser.sections()
    }
    return IniFile(path, sections, section_lines)
