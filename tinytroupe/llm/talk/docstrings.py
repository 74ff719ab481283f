"""What a docstring says of a function and of its parameters: Google, NumPy and Sphinx style."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence


def read_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Returns the description, and for each parameter that is described its description.

    The description is all that stands before the first section or field. What is
    not written in one of the three styles is part of it.
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    first = next(
        (place for place in range(len(lines)) if _begins_section(lines, place)), len(lines)
    )
    described: dict[str, str] = {}
    for read in (_read_google, _read_numpy, _read_sphinx):
        described.update(read(lines))
    return "\n".join(lines[:first]).strip(), described


_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Params|Keyword Args|Keyword Arguments|Other Parameters|Returns?|"
    r"Yields?|Raises|Attributes|Examples?|Notes?|Warnings?|Warns|See Also|References|Todo)\s*:?\s*"
)
_UNDERLINE = re.compile(r"-{3,}\s*|={3,}\s*")
_FIELD = re.compile(r":(?P<kind>\w+)(?:\s+(?P<what>[^:]*))?:\s*(?P<text>.*)")
_GOOGLE_ENTRY = re.compile(r"(?P<name>\*{0,2}\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)")
_NUMPY_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_PARAMETERS = ("Args", "Arguments", "Parameters", "Params", "Keyword Args", "Keyword Arguments")


def _begins_section(lines: Sequence[str], place: int) -> bool:
    line = lines[place]
    if _FIELD.match(line):
        return True
    if not _SECTION.fullmatch(line):
        return False
    underlined = place + 1 < len(lines) and bool(_UNDERLINE.fullmatch(lines[place + 1]))
    return underlined or line.rstrip().endswith(":")


def _read_google(lines: Sequence[str]) -> dict[str, str]:
    """Reads the entries below `Args:`; they are indented, what goes on is indented further."""
    entries = _Entries()
    inside = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if indent == 0 and line:
            inside = line.rstrip().removesuffix(":") in _PARAMETERS and line.rstrip().endswith(":")
            entries.end()
        elif inside:
            entries.take(line.strip(), indent, _begin_google_entry)
    return entries.described


def _begin_google_entry(text: str) -> tuple[list[str], str] | None:
    entry = _GOOGLE_ENTRY.fullmatch(text)
    return ([entry["name"].lstrip("*")], entry["text"]) if entry else None


def _read_numpy(lines: Sequence[str]) -> dict[str, str]:
    """Reads the entries below an underlined `Parameters`; what describes them is indented."""
    entries = _Entries()
    inside = False
    for place, line in enumerate(lines):
        if place + 1 < len(lines) and line and _UNDERLINE.fullmatch(lines[place + 1]):
            inside = line.strip() in (*_PARAMETERS, "Other Parameters")
            entries.end()
        elif inside and not _UNDERLINE.fullmatch(line):
            indent = len(line) - len(line.lstrip())
            entries.take(line.strip(), indent, _begin_numpy_entry)
    return entries.described


def _begin_numpy_entry(text: str) -> tuple[list[str], str] | None:
    entry = _NUMPY_ENTRY.fullmatch(text)
    if entry is None:
        return None
    return [name.strip().lstrip("*") for name in entry["names"].split(",")], ""


def _read_sphinx(lines: Sequence[str]) -> dict[str, str]:
    """Reads fields such as `:param str name: its text`; what goes on is indented."""
    entries = _Entries()
    for line in lines:
        field = _FIELD.match(line)
        if field is not None:
            entries.end()
            if field["kind"] in ("param", "parameter", "arg", "argument", "key", "keyword"):
                entries.begin([(field["what"] or "").split(" ")[-1].lstrip("*")], field["text"], 0)
        elif line.startswith(" "):
            entries.go_on(line.strip())
        else:
            entries.end()
    return entries.described


class _Entries:
    """Puts together the lines of one entry after the other."""

    def __init__(self) -> None:
        self.described: dict[str, str] = {}
        self._names: list[str] = []
        self._indent: int | None = None

    def take(
        self, text: str, indent: int, read: Callable[[str], tuple[list[str], str] | None]
    ) -> None:
        """Begins an entry where the line is indented as the first one, else goes on with it."""
        if not text:
            return
        if self._indent is None or indent <= self._indent:
            entry = read(text)
            if entry is not None:
                self.begin(*entry, indent)
                return
        self.go_on(text)

    def begin(self, names: list[str], text: str, indent: int) -> None:
        self._names, self._indent = names, indent
        for name in filter(None, names):
            self.described[name] = text

    def go_on(self, text: str) -> None:
        for name in self._names:
            self.described[name] = f"{self.described[name]} {text}".strip()

    def end(self) -> None:
        self._names, self._indent = [], None
