"""Mustache: a template is parsed once into a tree, and the tree is rendered from plain data.

Follows the core of the mustache specification 1.4 (https://github.com/mustache/spec):
comments, delimiters, interpolation, sections, inverted sections and partials. Its optional
parts (lambdas, inheritance, dynamic names) are refused, because with them something other
than the template would decide what the text is.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import NoReturn

from tinytroupe.llm.errors import TemplateError
from tinytroupe.llm.talk.mustache_parser import (
    Node,
    Partial,
    Path,
    Section,
    Template,
    Variable,
    parse,
)
from tinytroupe.llm.talk.values import MISSING, describe_missing, list_names, look_up

__all__ = ["MAX_DEPTH", "Template", "parse", "render"]

MAX_DEPTH = 100
"""Sections and partials may stand inside one another this deep; more is taken for a circle."""


def render(
    template: Template,
    values: object,
    load: Callable[[str], Template],
    *,
    escape: bool = False,
    strict: bool = True,
) -> str:
    """Renders a template from plain data. Safe in many threads at once.

    Values are data: tags inside them are text, and functions among them are refused, not
    called. A name is looked up from the innermost section outwards; in a mapping it is a
    key, in a list a position, in another object a public attribute.

    Args:
        template: What `parse` returned.
        values: What names refer to; a mapping, as a rule.
        load: Returns the partial of a name, or raises FileNotFoundError, which says why.
        escape: Whether `{{name}}` is escaped for HTML.
        strict: Whether a missing variable or partial is an error. If not, it shows
            nothing, as the specification has it. A section over a missing name is
            never an error: it is how a template asks whether something was given.

    Raises:
        TemplateError: A variable or partial is missing, a value is a function or cannot
            be shown, or partials contain one another without end; the message says where.
    """
    renderer = _Renderer(template, values, load, escape, strict)
    try:
        renderer.write(template)
    except TemplateError:
        raise
    except Exception as error:
        message = f"{renderer.where}: {type(error).__name__}: {error}"
        raise TemplateError(message) from error
    return "".join(renderer.output)


class _Renderer:
    """The state of one rendering."""

    def __init__(
        self,
        template: Template,
        values: object,
        load: Callable[[str], Template],
        escape: bool,
        strict: bool,
    ) -> None:
        self.output: list[str] = []
        self._template = template
        self._line = 1
        self._contexts = [values]
        self._load = load
        self._escape = escape
        self._strict = strict
        self._depth = 0

    @property
    def where(self) -> str:
        """The place that is being rendered, or where rendering failed."""
        return f"{self._template.name}, line {self._line}"

    def write(self, template: Template) -> None:
        """Adds a template to the output."""
        outer, self._template = self._template, template
        self._write_nodes(template.nodes)
        self._template = outer

    def _write_nodes(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            if isinstance(node, str):
                self.output.append(node)
                continue
            self._line = node.line
            if isinstance(node, Variable):
                self._write_variable(node)
            else:
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    self._fail(
                        f"sections and partials stand more than {MAX_DEPTH} deep in one another; "
                        "probably a partial contains itself"
                    )
                if isinstance(node, Section):
                    self._write_section(node)
                else:
                    self._write_partial(node)
                self._depth -= 1

    def _write_variable(self, node: Variable) -> None:
        value = self._find(node.path)
        if value is MISSING:
            if self._strict:
                self._fail(self._describe_missing(node.path))
            return
        self._refuse_code(value, node.path)
        text = _format(value)
        if self._escape and not node.raw:
            text = html.escape(text)
        self.output.append(text)

    def _write_section(self, node: Section) -> None:
        value = self._find(node.path)
        self._refuse_code(value, node.path)
        shown = value is not MISSING and bool(value)
        if node.inverted:
            if not shown:
                self._write_nodes(node.children)
        elif shown:
            for item in _list_items(value):
                self._contexts.append(item)
                self._write_nodes(node.children)
                self._contexts.pop()

    def _write_partial(self, node: Partial) -> None:
        try:
            partial = self._load(node.name)
        except FileNotFoundError as error:
            if self._strict:
                self._fail(str(error))
            return
        self.write(partial.indent(node.indent))

    def _find(self, path: Path) -> object:
        if not path:
            return self._contexts[-1]
        for context in reversed(self._contexts):
            value = look_up(context, path[0])
            if value is not MISSING:
                break
        else:
            return MISSING
        for part in path[1:]:
            value = look_up(value, part)
        return value

    def _describe_missing(self, path: Path) -> str:
        for length in range(1, len(path)):
            owner = self._find(path[:length])
            if owner is not MISSING and look_up(owner, path[length]) is MISSING:
                prefix = ".".join(path[:length]) + "."
                return describe_missing(".".join(path), path[length], list_names(owner), prefix)
        names = [name for context in reversed(self._contexts) for name in list_names(context)]
        return describe_missing(".".join(path), path[0], names)

    def _refuse_code(self, value: object, path: Path) -> None:
        if callable(value):
            self._fail(
                f"the value of {'.'.join(path) or '.'!r} is a {type(value).__name__}; values are "
                "data, so call it first and give what it returns"
            )

    def _fail(self, message: str) -> NoReturn:
        raise TemplateError(f"{self.where}: {message}")


def _list_items(value: object) -> Iterable[object]:
    # A set has no order that two runs share, so it is no list.
    return value if isinstance(value, Sequence) and not isinstance(value, _TEXT) else (value,)


def _format(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        text = repr(value)
        return format(Decimal(text), "f") if "e" in text else text
    return str(value)


_TEXT = (str, bytes, bytearray, memoryview)
