"""One row of the settings table: a key of config.ini and what it may hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tinytroupe.llm.errors import ConfigError

Value: TypeAlias = "str | int | float | bool | None"
Kind: TypeAlias = Literal["text", "name", "address", "whole number", "number", "switch", "choice"]

ENVIRONMENT_PREFIX = "TINYTROUPE_"

_SWITCH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_NOTHING = frozenset({"", "none"})
_QUOTES = "\"'"


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of config.ini: its place, what it may hold, and what it is for."""

    name: str
    """The attribute of `Settings`; also TinyTroupe's lower-case name."""
    section: str
    """The section of config.ini, without brackets."""
    key: str
    """The key in config.ini, in capitals."""
    kind: Kind
    default: Value
    doc: str
    """One paragraph for people."""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    """The value must be greater than this."""
    choices: tuple[str, ...] = ()
    """What a `choice` may be."""
    switch_words: Mapping[bool, str] = field(default_factory=dict)
    """The choices that words such as True and off stand for."""
    optional: bool = False
    """Whether it may be empty (or `none`), which means None."""
    zero_is_none: bool = False
    """Whether 0 means None."""
    other_keys: tuple[str, ...] = ()
    """Other keys of config.ini that mean the same."""
    other_variables: tuple[str, ...] = ()
    """Environment variables that are read when `TINYTROUPE_<KEY>` is not set."""

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that set it; the first one that is not empty counts."""
        return (ENVIRONMENT_PREFIX + self.key, *self.other_variables)

    def parse(self, value: object) -> Value:
        """Reads a value from config.ini, the environment or an argument.

        Raises:
            ConfigError: It is not what this key may hold. The message says the
                key, the value and what is allowed, but not where the value stands.
        """
        if isinstance(value, str):
            value = value.strip()
        if self.optional and (value is None or str(value).lower() in _NOTHING):
            return None
        if value is None or value == "":
            raise self._refuse(value, "is empty")
        if self.kind in ("number", "whole number"):
            return self._parse_number(value)
        if self.kind == "switch":
            switch = _SWITCH.get(str(value).lower())
            if switch is None:
                raise self._refuse(value, "is neither true nor false")
            return switch
        return self._parse_choice(value) if self.kind == "choice" else self._parse_text(value)

    def to_text(self, value: Value) -> str:
        """Writes a value as config.ini would hold it; None is empty."""
        return "" if value is None else str(value)

    @property
    def allowed(self) -> str:
        """What the key may hold, in words."""
        words = {
            "text": "a text",
            "name": "a text without spaces and quotes",
            "address": "an address that begins with http:// or https://",
            "switch": "True or False",
            "choice": "one of " + ", ".join((*self.choices, *map(str, self.switch_words))),
        }
        allowed = words.get(self.kind, f"a {self.kind}{self._say_range()}")
        return f"{allowed}, or empty" if self.optional else allowed

    def _say_range(self) -> str:
        if self.maximum is not None:
            return f" from {self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f", at least {self.minimum:g}"
        return "" if self.above is None else f" above {self.above:g}"

    def _parse_number(self, value: object) -> int | float | None:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self._refuse(value, "is not a number")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise self._refuse(value, "is not a number") from None
        if not math.isfinite(number):
            raise self._refuse(value, "is not a finite number")
        if self.zero_is_none and number == 0:
            return None
        if (
            (self.minimum is not None and number < self.minimum)
            or (self.maximum is not None and number > self.maximum)
            or (self.above is not None and number <= self.above)
        ):
            raise self._refuse(value, "is out of range")
        if self.kind == "number":
            return number
        if not number.is_integer():
            raise self._refuse(value, "is not a whole number")
        return int(number)

    def _parse_choice(self, value: object) -> str:
        word = str(value).lower()
        for choice in self.choices:
            if word == choice.lower():
                return choice
        if self.switch_words and word in _SWITCH:
            return self.switch_words[_SWITCH[word]]
        raise self._refuse(value, "is not known")

    def _parse_text(self, value: object) -> str:
        if not isinstance(value, str):
            raise self._refuse(value, f"is of type {type(value).__name__}")
        if "\0" in value:
            raise self._refuse(value, "holds a NUL character")
        if value[0] in _QUOTES and value[-1] in _QUOTES:
            raise self._refuse(value, "stands in quotes")
        if self.kind != "text" and any(letter.isspace() or letter in _QUOTES for letter in value):
            raise self._refuse(value, "holds a space or a quote")
        if self.kind == "address" and not value.lower().startswith(("http://", "https://")):
            raise self._refuse(value, "is no such address")
        return value

    def _refuse(self, value: Any, reason: str) -> ConfigError:
        is_address = self.kind == "address" and isinstance(value, str)
        shown = repr(mask_url(value) if is_address else value)
        shown = shown if len(shown) <= 80 else shown[:79] + "…"
        hint = ""
        if isinstance(value, str) and (" #" in value or " ;" in value):
            hint = "; a comment in config.ini needs a line of its own"
        return ConfigError(
            f"{self.key} is {shown}, which {reason}; it must be {self.allowed}{hint}"
        )


def mask_url(url: str) -> str:
    """Hides a user name, a password and a query in an address."""
    # Not taken apart by a parser: a password with a stray `/` or `#` would come through.
    scheme = _SCHEME.match(url)
    begin = scheme.group() if scheme else ""
    credentials, _, place = url[len(begin) :].rpartition("@")
    shown = place.partition("#")[0]
    shown, question, _ = shown.partition("?")
    return f"{begin}{'***@' if credentials else ''}{shown}{'?***' if question else ''}"


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")
