"""Jinja2: sandboxed, strict about missing variables, with errors that name the line.

The one module that imports jinja2; it is imported when the first such template is met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from types import TracebackType
from typing import Any, cast

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from tinytroupe.llm.errors import TemplateError
from tinytroupe.llm.talk.values import describe_missing, list_names

SUFFIXES = (".jinja", ".j2")
"""How the names of these templates end."""


class Environment(ImmutableSandboxedEnvironment):
    """Compiles and renders Jinja2 templates. Safe in many threads at once.

    Templates can neither reach Python's internals nor change the values they are given.

    Args:
        load: Returns the compiled template of a name, or raises FileNotFoundError,
            which says why. Asked for each include, import and parent template; whether
            it is compiled anew is its decision.
        escape: Whether `{{ name }}` is escaped for HTML.
        strict: Whether using a missing variable is an error. If not, it shows nothing.
    """

    def __init__(
        self, load: Callable[[str], jinja2.Template], *, escape: bool, strict: bool
    ) -> None:
        super().__init__(
            loader=_Loader(load),
            autoescape=escape,
            undefined=_Undefined if strict else jinja2.ChainableUndefined,
            finalize=_refuse_code,
            keep_trailing_newline=True,
            cache_size=0,
        )

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Reads `obj.attribute`. In a mapping a key goes before a method of the same
        name, so that `persona.values` is what the persona holds dear."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def parse(environment: Environment, source: str, name: str, path: str) -> jinja2.Template:
    """Compiles a template.

    Args:
        environment: Where it will be rendered.
        source: The text of the template.
        name: What other templates call it.
        path: What errors call it.

    Raises:
        TemplateError: The template is not valid Jinja2; the message says where, if
            that is known.
    """
    try:
        code = environment.compile(source, name, path)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{path}, line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise TemplateError(f"{path}: its expressions stand too deep in one another") from error
    except (SyntaxError, ValueError) as error:
        # Jinja2 lets it through, but not Python, to which it is translated: its line is no help.
        fault = error.msg if isinstance(error, SyntaxError) else error
        raise TemplateError(f"{path}: {fault}") from error
    return jinja2.Template.from_code(environment, code, environment.make_globals(None))


def render(template: jinja2.Template, values: Mapping[str, object]) -> str:
    """Renders a template. Safe in many threads at once.

    Raises:
        TemplateError: A variable or an included template is missing, the template does
            what the sandbox forbids, templates include one another without end, or an
            expression fails; the message names the innermost template and its line.
    """
    try:
        return template.render(values)
    except TemplateError:
        raise
    except Exception as error:
        where = _find_place(error.__traceback__) or template.filename
        raise TemplateError(f"{where}: {_describe(error, values)}") from error


class _Loader(jinja2.BaseLoader):
    def __init__(self, load: Callable[[str], jinja2.Template]) -> None:
        self._load = load

    def load(
        self,
        environment: jinja2.Environment,
        name: str,
        globals: MutableMapping[str, Any] | None = None,
    ) -> jinja2.Template:
        try:
            return self._load(name)
        except FileNotFoundError as error:
            # Jinja2's own error, which `{% include … ignore missing %}` waits for.
            raise jinja2.TemplateNotFound(name, str(error)) from error


class _MissingVariable(jinja2.UndefinedError):
    def __init__(self, message: str | None = None, *, owner: object, name: object) -> None:
        super().__init__(message)
        self.owner = owner
        self.name = name


class _Undefined(jinja2.StrictUndefined):
    """Raises an error that remembers which name was looked for, and where."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[jinja2.TemplateRuntimeError] = jinja2.UndefinedError,
    ) -> None:
        if hint is None and name is not None and exc is jinja2.UndefinedError:
            exc = cast(
                type[jinja2.TemplateRuntimeError], partial(_MissingVariable, owner=obj, name=name)
            )
        super().__init__(hint, obj, name, exc)


def _refuse_code(value: object) -> object:
    if callable(value) and not isinstance(value, jinja2.Undefined):
        name = getattr(value, "__name__", type(value).__name__)
        raise TypeError(f"{name!r} is a function and cannot be shown; is it lacking its '()'?")
    return value


_MARK = "__jinja_exception__"
"""Jinja2 puts this into the globals of the frames that it makes for templates."""


def _find_place(traceback: TracebackType | None) -> str | None:
    """Returns the innermost template and line. Jinja2 puts a frame for each template
    into the traceback, with what errors call the template as its file name."""
    place = None
    while traceback is not None:
        frame = traceback.tb_frame
        if _MARK in frame.f_globals:
            place = f"{frame.f_code.co_filename}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _describe(error: Exception, values: Mapping[str, object]) -> str:
    if isinstance(error, _MissingVariable):
        if error.owner is missing:
            return describe_missing(str(error.name), str(error.name), list_names(values))
        prefix = (_find_name(error.owner, values) or type(error.owner).__name__) + "."
        variable = f"{prefix}{error.name}"
        return describe_missing(variable, str(error.name), list_names(error.owner), prefix)
    if isinstance(error, RecursionError):
        return "templates stand too deep in one another; probably one includes itself"
    if isinstance(error, SecurityError):
        return f"a template may not do this: {error}"
    if isinstance(error, jinja2.TemplateError):
        return error.message or str(error)
    return f"{type(error).__name__}: {error}"


def _find_name(owner: object, values: Mapping[str, object], depth: int = 4) -> str | None:
    """Returns the dotted name by which a template reaches a value, as far as that can be
    told: Jinja2 only says in which value a name was missing, not how it came there."""
    if owner is None or depth == 0:
        return None
    for key, value in values.items():
        if value is owner:
            return str(key)
        if isinstance(value, Mapping) and (below := _find_name(owner, value, depth - 1)):
            return f"{key}.{below}"
    return None
