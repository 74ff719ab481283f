"""What a template sees of the values it is given, whatever its kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Final


class Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""Stands for a value that was not given. None is a value."""

_PLAIN = (str, bytes, Number, type(None), type)
"""Their attributes are Python's own, not the user's."""


def look_up(owner: object, name: str) -> object:
    """Returns what a name stands for in a value, or `MISSING`.

    In a mapping a name is a key, in a list or tuple a position, in any other object an
    attribute. Attributes that begin with an underscore and methods are not seen.
    """
    if isinstance(owner, Mapping):
        return owner.get(name, MISSING)
    if isinstance(owner, (list, tuple)) and name.isdecimal():
        return owner[int(name)] if int(name) < len(owner) else MISSING
    if isinstance(owner, _PLAIN) or name.startswith("_"):
        return MISSING
    value = getattr(owner, name, MISSING)
    return MISSING if callable(value) else value


def list_names(owner: object) -> list[str]:
    """Returns the names that `look_up` finds in a value, positions in lists excepted."""
    if isinstance(owner, Mapping):
        return [key for key in owner if isinstance(key, str)]
    if isinstance(owner, _PLAIN):
        return []
    return [name for name in dir(owner) if look_up(owner, name) is not MISSING]


def describe_missing(variable: str, name: str, names: Iterable[str], prefix: str = "") -> str:
    """Says that a variable is missing, and which given name is nearest.

    Args:
        variable: The variable as the template spells it: `persona.nam`.
        name: The part of it that was not found: `nam`.
        names: The names that could have been used in its place.
        prefix: What stands before such a name in the template: `persona.`.
    """
    nearest = find_nearest(name, names)
    if nearest is None:
        given = f"{prefix.removesuffix('.')!r} has no names" if prefix else "no names were given"
        return f"the variable {variable!r} was not given; {given}"
    return (
        f"the variable {variable!r} was not given; "
        f"the nearest name that was given is {prefix + nearest!r}"
    )


def find_nearest(name: str, names: Iterable[str]) -> str | None:
    """Returns the known name that is most like the given one, or None when there are none.

    Upper and lower case count as alike; of names that are, the first is returned.
    """
    folded: dict[str, str] = {}
    for known in names:
        folded.setdefault(known.casefold(), known)
    # However far the nearest is, it is wanted: the reader sees at once if it is not the one.
    nearest = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.0)
    return folded[nearest[0]] if nearest else None
