"""Reading mustache: a template's text becomes a tree, once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias

from tinytroupe.llm.errors import TemplateError

Path: TypeAlias = "tuple[str, ...]"
"""The parts of a dotted name; empty for `.`, the item itself."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A place that shows a value."""

    path: Path
    raw: bool
    """Never escaped, as in `{{{name}}}` and `{{&name}}`."""
    line: int


@dataclass(frozen=True, slots=True)
class Section:
    """A part that is shown for each item of a value, or, inverted, when there is none."""

    path: Path
    inverted: bool
    children: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Partial:
    """A place where another template is put in."""

    name: str
    indent: str
    """What stood before the tag on a line of its own, and goes before each line put in."""
    line: int


Node: TypeAlias = "str | Variable | Section | Partial"


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. Immutable; may be rendered by many threads at once."""

    name: str
    """What errors call it."""
    source: str
    nodes: tuple[Node, ...]
    _indented: dict[str, Template] = field(default_factory=dict, repr=False, compare=False)

    def indent(self, indent: str) -> Template:
        """Returns the same template with each of its lines, blank ones excepted, moved in."""
        if not indent:
            return self
        if indent not in self._indented:
            source = _LINE_START.sub(lambda _: indent, self.source)
            self._indented[indent] = parse(source, self.name)
        return self._indented[indent]


def parse(source: str, name: str) -> Template:
    """Reads a template. Pure, so it may run in many threads at once.

    Args:
        source: The text of the template.
        name: What errors call it; usually the path of its file.

    Raises:
        TemplateError: A tag is empty, unknown or not closed; the message says where.
    """
    return Template(name, source, _Parser(source, name).parse())


_SIGILS: Final = "#^/>!={&<$"
_STANDALONE: Final = "#^/>!="
_SPACE = re.compile(r"\s*")
_LINE_END = re.compile(r"[ \t]*(?:\r?\n|\Z)")
_LINE_START = re.compile(r"^(?=[^\r\n])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Tag:
    sigil: str
    content: str
    start: int
    end: int
    line: int


@dataclass(slots=True)
class _Open:
    """A section whose end has not been read yet."""

    tag: _Tag
    nodes: list[Node] = field(default_factory=list)


class _Parser:
    def __init__(self, source: str, name: str) -> None:
        self._source = source
        self._name = name
        self._opening, self._closing = "{{", "}}"
        self._stack = [_Open(_Tag("", "", 0, 0, 1))]

    def parse(self) -> tuple[Node, ...]:
        position = 0
        for tag in self._read_tags():
            text_end, resume, indent = self._find_bounds(tag, position)
            self._add(self._source[position:text_end])
            self._take(tag, indent)
            position = resume
        self._add(self._source[position:])
        unclosed = self._stack[-1].tag
        if unclosed.sigil:
            self._fail(unclosed.line, f"the section {_show(unclosed)} is never closed")
        return tuple(self._stack[0].nodes)

    def _read_tags(self) -> Iterator[_Tag]:
        """Yields the tags in order. Each is taken before the next is looked for, since
        it may change the delimiters."""
        position, line = 0, 1
        while (start := self._source.find(self._opening, position)) >= 0:
            line += self._source.count("\n", position, start)
            tag = self._read_tag(start, line)
            line += self._source.count("\n", start, tag.end)
            position = tag.end
            yield tag

    def _read_tag(self, start: int, line: int) -> _Tag:
        content = start + len(self._opening)
        found = _SPACE.match(self._source, content)
        sigil = self._source[found.end() : found.end() + 1] if found else ""
        if found and sigil and sigil in _SIGILS:
            content = found.end() + 1
        else:
            sigil = ""
        closing = {"{": "}", "=": "="}.get(sigil, "") + self._closing
        end = self._source.find(closing, content)
        if end < 0:
            excerpt = self._source[start : start + 30].splitlines()[0]
            self._fail(line, f"the tag that begins with {excerpt!r} is not closed by {closing!r}")
        return _Tag(sigil, self._source[content:end].strip(), start, end + len(closing), line)

    def _find_bounds(self, tag: _Tag, position: int) -> tuple[int, int, str]:
        """Returns where the text before a tag ends, where the text after it goes on, and
        the indent. A tag that is alone on its line takes the whole line with it."""
        source = self._source
        line_start = max(source.rfind("\n", position, tag.start) + 1, position)
        indent = source[line_start : tag.start]
        line_end = _LINE_END.match(source, tag.end)
        alone = (
            tag.sigil in _STANDALONE
            and tag.sigil != ""
            and (line_start == 0 or source[line_start - 1] == "\n")
            and not indent.strip(" \t")
            and line_end is not None
        )
        if alone and line_end is not None:
            return line_start, line_end.end(), indent
        return tag.start, tag.end, ""

    def _take(self, tag: _Tag, indent: str) -> None:
        if tag.sigil == "!":
            return
        if not tag.content:
            self._fail(tag.line, f"the tag {_show(tag)} is empty")
        if tag.sigil == "=":
            self._set_delimiters(tag)
        elif tag.sigil in ("<", "$"):
            self._fail(tag.line, f"{_show(tag)}: blocks and parent templates are not supported")
        elif tag.sigil == ">":
            self._add(self._make_partial(tag, indent))
        elif tag.sigil == "/":
            self._close(tag)
        elif tag.sigil in ("#", "^"):
            self._read_path(tag)
            self._stack.append(_Open(tag))
        else:
            self._add(Variable(self._read_path(tag), tag.sigil != "", tag.line))

    def _set_delimiters(self, tag: _Tag) -> None:
        parts = tag.content.split()
        if len(parts) != 2 or "=" in tag.content:
            self._fail(tag.line, f"{_show(tag)} must name two delimiters, as in {{{{=<% %>=}}}}")
        self._opening, self._closing = parts

    def _make_partial(self, tag: _Tag, indent: str) -> Partial:
        if tag.content.startswith("*"):
            self._fail(tag.line, f"{_show(tag)}: a partial cannot be named by a variable")
        return Partial(tag.content, indent, tag.line)

    def _close(self, tag: _Tag) -> None:
        opened = self._stack[-1].tag
        if not opened.sigil:
            self._fail(tag.line, f"{_show(tag)} closes a section that was never opened")
        if opened.content != tag.content:
            message = f"{_show(tag)} closes {_show(opened)}, which was opened in line {opened.line}"
            self._fail(tag.line, message)
        children = tuple(self._stack.pop().nodes)
        self._add(Section(self._read_path(opened), opened.sigil == "^", children, opened.line))

    def _read_path(self, tag: _Tag) -> Path:
        if tag.content == ".":
            return ()
        if "\n" in tag.content:
            self._fail(tag.line, f"the tag {_show(tag)} goes over the end of its line")
        parts = tuple(part.strip() for part in tag.content.split("."))
        if "" in parts:
            self._fail(tag.line, f"the name in {_show(tag)} has an empty part between its dots")
        return parts

    def _add(self, node: Node) -> None:
        if node != "":
            self._stack[-1].nodes.append(node)

    def _fail(self, line: int, message: str) -> NoReturn:
        raise TemplateError(f"{self._name}, line {line}: {message}")


def _show(tag: _Tag) -> str:
    content = tag.content if len(tag.content) <= 30 else tag.content[:30] + "…"
    return "{{" + tag.sigil + content.replace("\n", " ") + "}}"
