"""Looks for modules of tools without importing any: an import runs code."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from importlib.util import find_spec

from tinytroupe.llm.talk.values import find_nearest


def find_missing_module(name: str) -> str | None:
    """Says what of a module's dotted name leads nowhere, and what is near; None: nothing.

    `find_spec` would import the packages that a module lies in, so behind the first part
    only their folders are looked into.
    """
    if name in sys.modules:
        return None
    first, *parts = name.split(".")
    folders: Iterable[str] | None
    if first in sys.modules:
        folders = getattr(sys.modules[first], "__path__", None)
    else:
        spec = find_spec(first)
        if spec is None:
            return f"there is no module {first}"
        folders = spec.submodule_search_locations
    path = first
    for part in parts:
        if folders is None:
            return f"there is no module {path}.{part}: {path} is no package"
        try:
            spec = PathFinder.find_spec(f"{path}.{part}", list(folders))
        except KeyError:
            # A folder without __init__.py, whose place only its imported parent could tell.
            return None
        if spec is None:
            return f"there is no module {path}.{part}{_suggest(part, path, folders)}"
        path, folders = f"{path}.{part}", spec.submodule_search_locations
    return None


def _suggest(part: str, package: str, folders: Iterable[str]) -> str:
    near = find_nearest(part, [item.name for item in pkgutil.iter_modules(list(folders))])
    return "" if near is None else f"; the nearest is {package}.{near}"
