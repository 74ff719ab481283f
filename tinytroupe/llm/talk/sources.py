"""Templates that are not files: their text lies in a database, say, or in the program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from string import Template as DollarTemplate
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol, TypeAlias

from tinytroupe.llm.errors import TemplateError
from tinytroupe.llm.talk import mustache
from tinytroupe.llm.talk.mustache_parser import Node, Partial, Section
from tinytroupe.llm.talk.values import describe_missing, list_names

if TYPE_CHECKING:
    import jinja2

    from tinytroupe.llm.talk import jinja

Format: TypeAlias = Literal["jinja", "mustache", "dollar"]

FORMATS: Mapping[Format, str] = MappingProxyType(
    {"jinja": "Jinja: {{ name }}", "mustache": "Mustache: {{name}}", "dollar": "$name"}
)
"""The languages of templates, and how they look; `dollar` is that of `string.Template`."""


class Source(Protocol):
    """A compiled template. Immutable; may be rendered by many threads at once."""

    names: frozenset[str]
    """The variables that it may ask for."""

    def render(self, values: Mapping[str, object]) -> str:
        """Returns the text. Values are data: template code inside them stays text.

        Raises:
            TemplateError: A variable is missing, or an expression fails; the
                message names the template and the line.
        """
        ...


# A site renders the same few prompts for each message.
@lru_cache(maxsize=512)
def compile_source(text: str, format: Format, name: str) -> Source:
    """Compiles a template. It can contain no other one.

    Args:
        text: The template itself.
        format: One of `FORMATS`.
        name: What errors call it.

    Raises:
        TemplateError: It is not what its format asks for, or there is no such
            format; the message names the template and the line.
    """
    make = _MAKERS.get(format)
    if make is None:
        raise TemplateError(f"{name}: there is no format {format!r}; one of {', '.join(FORMATS)}")
    return make(text, name)


def _refuse_others(name: str) -> NoReturn:
    raise FileNotFoundError(f"it asks for the template {name!r}, but it cannot contain another one")


def _refuse_at_once(name: str, line: int) -> NoReturn:
    raise TemplateError(
        f"{name}, line {line}: it asks for another template, but cannot contain one"
    )


class _JinjaSource:
    def __init__(self, text: str, name: str) -> None:
        from jinja2 import meta, nodes

        from tinytroupe.llm.talk import jinja

        environment = _make_environment()
        self._template: jinja2.Template = jinja.parse(environment, text, name, name)
        tree = environment.parse(text)
        self.names = frozenset(meta.find_undeclared_variables(tree))
        asking = (nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include)
        for node in tree.find_all(asking):
            _refuse_at_once(name, node.lineno)

    def render(self, values: Mapping[str, object]) -> str:
        from tinytroupe.llm.talk import jinja

        return jinja.render(self._template, values)


@lru_cache(maxsize=1)
def _make_environment() -> jinja.Environment:
    from tinytroupe.llm.talk import jinja

    return jinja.Environment(_refuse_others, escape=False, strict=True)


class _MustacheSource:
    def __init__(self, text: str, name: str) -> None:
        self._template = mustache.parse(text, name)
        names: list[str] = []
        for node, inside in _walk(self._template.nodes):
            if isinstance(node, Partial):
                _refuse_at_once(name, node.line)
            # Inside a section a name may be one of its items'; who asks for names wants others.
            if not isinstance(node, str) and not inside:
                names += node.path[:1]
        self.names = frozenset(names)

    def render(self, values: Mapping[str, object]) -> str:
        return mustache.render(self._template, values, _refuse_others)


def _walk(nodes: tuple[Node, ...]) -> Iterator[tuple[Node, bool]]:
    """Yields all nodes, and whether each stands in a section over a value or its items."""
    left = [(node, False) for node in reversed(nodes)]
    while left:
        node, inside = left.pop()
        yield node, inside
        if isinstance(node, Section):
            inside = inside or not node.inverted
            left += [(child, inside) for child in reversed(node.children)]


class _DollarSource:
    def __init__(self, text: str, name: str) -> None:
        self._template = DollarTemplate(text)
        self._name = name
        self._lines: dict[str, int] = {}
        for found in DollarTemplate.pattern.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            if found["invalid"] is not None:
                raise TemplateError(
                    f"{name}, line {line}: a $ must be followed by a name, as in $name or "
                    "${name}, or by another $, which stands for a single one"
                )
            if variable := found["named"] or found["braced"]:
                self._lines.setdefault(variable, line)
        self.names = frozenset(self._lines)

    def render(self, values: Mapping[str, object]) -> str:
        for variable, line in self._lines.items():
            if variable not in values:
                said = describe_missing(variable, variable, list_names(values))
                raise TemplateError(f"{self._name}, line {line}: {said}")
        return self._template.substitute(values)


_MAKERS: Mapping[str, Callable[[str, str], Source]] = {
    "jinja": _JinjaSource,
    "mustache": _MustacheSource,
    "dollar": _DollarSource,
}
