"""The code of a tool: the dotted path of a function that was deployed, or source text."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeGuard

from django.apps import AppConfig, apps

from tinytroupe.contrib.django.conf import read_site_settings
from tinytroupe.contrib.django.errors import ToolCodeRefused
from tinytroupe.contrib.django.models import Tool
from tinytroupe.contrib.django.tool_process import SourceCall, check_system
from tinytroupe.contrib.django.tool_source import read_source
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.talk.values import find_nearest

INSTALLED = ("site-packages", "dist-packages")
"""Folders of what others wrote. A task queue among it has functions that call any other one."""


@dataclass(frozen=True, slots=True)
class ToolCode:
    """What a tool runs."""

    function: Callable[..., Any]
    """Runs it; has the signature and the docstring of what was written."""
    in_child: bool
    """Whether it runs in a process of its own, and touches nothing of this one."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Parameter → annotation out of which no JSON Schema can be made."""


def is_path(code: str) -> bool:
    """Whether the code of a tool is a dotted path and not source text."""
    return all(part.isidentifier() for part in code.strip().split("."))


def _refuse_colon(tool: Tool) -> None:
    """Refuses what other systems take for the path of a function.

    Raises:
        BadRequest: The last dot of the path is a colon.
    """
    module_name, colon, name = tool.tool_code.strip().partition(":")
    if colon and name.isidentifier() and is_path(module_name):
        raise BadRequest(
            f"the code of the tool {tool.name} is {tool.tool_code.strip()!r}; a path has a dot in "
            f"place of the colon: {module_name}.{name}"
        )


def read_code(tool: Tool) -> ToolCode:
    """Imports a function, or reads source text, of which nothing runs yet.

    Raises:
        ToolCodeRefused: A path leads out of the modules that the site allows.
        BadRequest: There is no such function, or the source text is no code.
    """
    code = tool.tool_code.strip()
    if is_path(code):
        return ToolCode(_find_function(code, tool.name), in_child=False)
    _refuse_colon(tool)
    source = read_source(tool.tool_code, tool.name)

    def run(*positional: Any, **named: Any) -> Any:
        call = SourceCall(tool.tool_code, source.name, positional, named)
        return call.run(read_site_settings().tool_seconds)

    return ToolCode(source.make_function(run), in_child=True, unread=source.unread)


def check_permission(tool: Tool) -> None:
    """Refuses source text where the site does not run any.

    Raises:
        ToolCodeRefused: LLM_WRAPPER_ALLOW_TOOL_CODE is not True, or the system cannot do it.
        BadRequest: It is a path with a colon.
        ConfigError: There is no interpreter to run it.
    """
    if is_path(tool.tool_code):
        return
    _refuse_colon(tool)
    if not read_site_settings().allow_tool_code:
        raise ToolCodeRefused(
            f"the code of the tool {tool.name} is source text, which runs only where the setting "
            "LLM_WRAPPER_ALLOW_TOOL_CODE is True; give the dotted path of a function instead, such "
            "as shop.tools.find_order"
        )
    check_system()


def _find_function(path: str, tool_name: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise BadRequest(
            f"the code of the tool {tool_name} is {path!r}: neither source text nor a dotted path "
            "such as shop.tools.find_order"
        )
    _check_place(module_name, name, tool_name)
    module = _import_module(module_name, tool_name)
    function: object = getattr(module, name, None)
    if _is_own_function(function, module):
        return function
    if function is None:
        raise BadRequest(
            f"the tool {tool_name}: the module {module_name} has no function {name}; "
            f"{_tell_nearest(name, _list_functions(module), 'it has no public function')}"
        )
    raise ToolCodeRefused(
        f"the tool {tool_name}: {path} is not a function that the module {module_name} defines "
        "itself, and nothing else can be a tool; LLM_WRAPPER_TOOL_MODULES says which modules may; "
        f"{_tell_nearest(name, _list_functions(module), 'this one defines no public function')}"
    )


def _check_place(module_name: str, name: str, tool_name: str) -> None:
    """Refuses a path before anything is imported: an import runs code."""
    allowed = _list_allowed_modules()
    homes = [home for home in allowed if f"{module_name}.".startswith(f"{home}.")]
    if not homes:
        raise ToolCodeRefused(
            f"the tool {tool_name}: {module_name} is not among the modules whose functions may be "
            f"tools: {', '.join(allowed) or 'there are none'}; the setting "
            "LLM_WRAPPER_TOOL_MODULES names them, and without it they are the site's own apps, "
            "not those that were installed as packages"
        )
    below = module_name[len(min(homes, key=len)) :].split(".")
    if any(part.startswith("_") for part in (*below, name)):
        raise ToolCodeRefused(
            f"the tool {tool_name}: {module_name}.{name} is private; only public functions of "
            "public modules in LLM_WRAPPER_TOOL_MODULES may be tools"
        )


def _list_allowed_modules() -> tuple[str, ...]:
    allowed = read_site_settings().tool_modules
    if allowed is not None:
        return allowed
    return tuple(app.name for app in apps.get_app_configs() if _is_of_the_site(app))


def _is_of_the_site(app: AppConfig) -> bool:
    foreign = app.name.split(".")[0] in ("django", "tinytroupe")
    return not foreign and not any(folder in Path(app.path).parts for folder in INSTALLED)


def _import_module(module_name: str, tool_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module_name}.".startswith(f"{missing}."):
            raise _cannot_import(module_name, tool_name, error) from error
        parent = missing.rpartition(".")[0]
        near = _tell_nearest(missing, _list_modules(parent), "no other lies where it should")
        raise BadRequest(f"the tool {tool_name}: there is no module {missing}; {near}") from error
    except Exception as error:
        raise _cannot_import(module_name, tool_name, error) from error


def _cannot_import(module_name: str, tool_name: str, error: Exception) -> BadRequest:
    return BadRequest(
        f"the tool {tool_name}: the module {module_name} cannot be imported: "
        f"{type(error).__name__}: {error}"
    )


def _list_modules(package_name: str) -> list[str]:
    # It was imported on the way to what is missing in it.
    package = importlib.import_module(package_name) if package_name else None
    found = pkgutil.iter_modules(getattr(package, "__path__", ()))
    return [f"{package_name}.{item.name}" for item in found if not item.name.startswith("_")]


def _is_own_function(found: object, module: ModuleType) -> TypeGuard[FunctionType]:
    return inspect.isfunction(found) and found.__module__ == module.__name__


def _list_functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and _is_own_function(value, module)
    ]


def _tell_nearest(name: str, names: list[str], nothing: str) -> str:
    nearest = find_nearest(name, names)
    return nothing if nearest is None else f"the nearest is {nearest}"
