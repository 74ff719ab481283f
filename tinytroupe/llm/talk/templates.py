"""Templates: finding prompts in folders, keeping them compiled, rendering them."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tinytroupe.llm.errors import TemplateError
from tinytroupe.llm.talk import mustache
from tinytroupe.llm.talk.values import find_nearest

if TYPE_CHECKING:
    from tinytroupe.llm.talk import jinja

Kind: TypeAlias = Literal["jinja", "mustache"]

SUFFIXES: Mapping[str, Kind] = MappingProxyType(
    {".jinja": "jinja", ".j2": "jinja", ".mustache": "mustache"}
)
"""How the name of a template ends, and which language it is therefore written in."""

ESCAPES = ("none", "html")


class Templates:
    """Renders the prompts that lie in some folders. Safe in many threads at once.

    A file is compiled when it is first used, and again when it has changed on disk. A
    template is looked for in the folders in order, at each use: a file that is put into
    an earlier folder takes the place of one of the same name in a later folder.

    Nothing is read until something is rendered; folders that do not exist are skipped.

    Args:
        folders: Where templates lie, first choice first. Relative ones are meant from
            the current directory of now, not of later.
        escape: `none` renders values as they are, which is what prompts want; `html`
            escapes them for HTML, as mustache does by itself.
        strict: Whether a missing variable is an error. If not, it shows nothing.

    Raises:
        TemplateError: `escape` is neither `none` nor `html`.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        escape: Literal["none", "html"] = "none",
        strict: bool = True,
    ) -> None:
        if escape not in ESCAPES:
            raise TemplateError(f"escape is {escape!r}; it must be one of {', '.join(ESCAPES)}")
        self.folders = tuple(Path(folder).absolute() for folder in folders)
        self._escape = escape == "html"
        self._strict = strict
        self._compiled: dict[str, _Compiled] = {}
        self._compiling = threading.Lock()
        self._environment: jinja.Environment | None = None

    def __repr__(self) -> str:
        return f"Templates({', '.join(map(str, self.folders))})"

    def render(self, name: str, values: Mapping[str, object]) -> str:
        """Renders a template. Values are data: template code inside them stays text.

        Args:
            name: The file's name, or its path below a folder with `/` between the parts.
                Its suffix chooses the language: `.jinja` and `.j2`, or `.mustache`.
            values: What the template's names refer to. Never changed.

        Raises:
            TemplateError: There is no such template, its name leaves the folder, it
                cannot be read or compiled, or a variable is missing. The message names
                the template and, where there is one, the line.
        """
        kind = _find_kind(name)
        try:
            compiled = self._load(kind, name)
        except FileNotFoundError as error:
            raise TemplateError(str(error)) from error
        if kind == "jinja":
            from tinytroupe.llm.talk import jinja

            return jinja.render(compiled, values)
        load = partial(self._load, "mustache")
        return mustache.render(compiled, values, load, escape=self._escape, strict=self._strict)

    def _load(self, kind: Kind, name: str) -> Any:
        """Returns the compiled template, be it the first or one that another contains.

        Raises:
            FileNotFoundError: No folder has it; the message says what was looked for.
            TemplateError: It cannot be used.
        """
        if kind == "mustache" and PurePosixPath(name).suffix not in SUFFIXES:
            name += ".mustache"
        if _find_kind(name) != kind:
            suffixes = " or ".join(suffix for suffix, other in SUFFIXES.items() if other == kind)
            raise TemplateError(
                f"the template {name!r} is put into one that ends in {suffixes}; "
                "a template can only contain others of its own language"
            )
        file = self._find(name)
        compiled = self._compiled.get(file.path)
        if compiled is None or compiled.stamp != file.stamp:
            with self._compiling:
                compiled = self._compiled.get(file.path)
                if compiled is None or compiled.stamp != file.stamp:
                    compiled = _Compiled(file.stamp, self._compile(kind, name, file.path))
                    self._compiled[file.path] = compiled
        return compiled.template

    def _compile(self, kind: Kind, name: str, path: str) -> Any:
        source = _read(path)
        if kind == "mustache":
            return mustache.parse(source, path)
        from tinytroupe.llm.talk import jinja

        if self._environment is None:
            load = partial(self._load, "jinja")
            self._environment = jinja.Environment(load, escape=self._escape, strict=self._strict)
        return jinja.parse(self._environment, source, name, path)

    def _find(self, name: str) -> _File:
        _check_name(name)
        for folder in self.folders:
            try:
                path = os.path.realpath(folder / name, strict=True)
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise TemplateError(f"the template {folder / name} cannot be read: {error}") from (
                    error
                )
            # A link may lead to another place in the folder, but not out of it.
            if not Path(path).is_relative_to(os.path.realpath(folder)):
                raise TemplateError(f"the template {folder / name} leads out of its folder")
            if not stat.S_ISREG(status.st_mode):
                raise TemplateError(f"the template {folder / name} is not a file")
            return _File(path, (status.st_mtime_ns, status.st_size, status.st_ino))
        raise FileNotFoundError(self._describe_missing(name))

    def _describe_missing(self, name: str) -> str:
        searched = ", ".join(map(str, self.folders)) or "nowhere, since no folder was given"
        nearest = find_nearest(name, self._list_names())
        hint = "no templates are there" if nearest is None else f"the nearest is {nearest!r}"
        return f"there is no template {name!r}; looked for in {searched}; {hint}"

    def _list_names(self) -> Iterator[str]:
        for folder in self.folders:
            files = (path for path in folder.rglob("*") if path.suffix in SUFFIXES)
            # A folder may turn out to be a whole disk; a hint is not worth reading that.
            for path in islice(files, 1000):
                yield path.relative_to(folder).as_posix()


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    """Absolute, without links."""
    stamp: tuple[int, int, int]
    """Differs when the file has changed."""


@dataclass(frozen=True, slots=True)
class _Compiled:
    stamp: tuple[int, int, int]
    template: Any
    """What `mustache.parse` or `jinja.parse` returned."""


def package_prompts_folder() -> Path:
    """Returns the folder of the prompts that came with the package; it may not exist.

    Installed, that is the package's own `prompts`; in a checkout, the one at its root.
    """
    package = Path(__file__).resolve().parents[2]
    checkout = package.parent
    if not (package / "prompts").is_dir() and (checkout / "setup.cfg").is_file():
        return checkout / "prompts"
    return package / "prompts"


def compose_messages(
    templates: Templates,
    system_template_name: str,
    user_template_name: str | None = None,
    rendering_configs: Mapping[str, object] = MappingProxyType({}),
) -> list[dict[str, str]]:
    """Renders the first messages of a conversation: system, then user if there is one.

    Args:
        templates: Where the templates lie.
        system_template_name: The template of the system message.
        user_template_name: The template of the user message; None: there is none.
        rendering_configs: What the names in both templates refer to.

    Raises:
        TemplateError: A template cannot be found or rendered.
    """
    names = {"system": system_template_name, "user": user_template_name}
    return [
        {"role": role, "content": templates.render(name, rendering_configs)}
        for role, name in names.items()
        if name is not None
    ]


def _find_kind(name: str) -> Kind:
    if not isinstance(name, str):
        raise TemplateError(f"a template is named by text, not by a {type(name).__name__}")
    kind = SUFFIXES.get(PurePosixPath(name).suffix)
    if kind is None:
        raise TemplateError(
            f"{name!r} is not the name of a template; such names end in {', '.join(SUFFIXES)}"
        )
    return kind


def _check_name(name: str) -> None:
    parts = PurePosixPath(name)
    if "\0" in name or "\\" in name or any("\ud800" <= char <= "\udfff" for char in name):
        raise TemplateError(
            f"the template name {name!r} holds a character that it may not; "
            "folders in it are divided by '/'"
        )
    if parts.is_absolute() or PureWindowsPath(name).drive or ".." in parts.parts:
        raise TemplateError(
            f"the template name {name!r} leads out of its folder; "
            "a name is relative to the folder and has no '..' in it"
        )


def _read(path: str) -> str:
    try:
        # Editors on Windows begin files with a byte order mark; it is no part of a prompt.
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TemplateError(
            f"the template {path} is not text in UTF-8 (byte {error.start}); "
            "save it with that encoding"
        ) from error
    except OSError as error:
        raise TemplateError(f"the template {path} cannot be read: {error}") from error
