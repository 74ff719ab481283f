"""The house has floors: a module imports only from lower ones.

`python tests/test_floors.py` prints what is larger than a reader likes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path

import pytest

import tinytroupe

PACKAGE = Path(tinytroupe.__file__).parent
CHECKOUT = PACKAGE.parent

FLOORS: dict[int, tuple[str, ...]] = {
    7: (
        "tinytroupe.openai_utils",
        "tinytroupe.utils",
        "tinytroupe.__main__",
        "tinytroupe.cli.*",
        "tinytroupe.contrib.*",
        "tinytroupe.llm",
        "tinytroupe.llm.process",
        "tinytroupe.llm.wrapper",
        "tinytroupe.llm.wrapper_session",
    ),
    6: ("tinytroupe.llm.manager", "tinytroupe.llm.talk.*"),
    5: ("tinytroupe.llm.config.*", "tinytroupe.llm.runs.*"),
    4: ("tinytroupe.llm.client", "tinytroupe.llm.chain", "tinytroupe.llm.meter"),
    3: ("tinytroupe.llm.layers.*", "tinytroupe.llm.transports.*"),
    2: ("tinytroupe.llm.runtime", "tinytroupe.llm.spawns.*", "tinytroupe.llm.store.*"),
    1: ("tinytroupe.llm.rules.*",),
    0: (
        "tinytroupe.llm.response",
        "tinytroupe.llm.request",
        "tinytroupe.llm.messages",
        "tinytroupe.llm.canonical",
        "tinytroupe.llm.errors",
        "tinytroupe",
    ),
}
"""`room.*` is a folder with all its modules; every other name is one module."""

ONE_ROOM = (
    "tinytroupe.cli.*",
    "tinytroupe.contrib.django.*",
    "tinytroupe.llm.talk.*",
    "tinytroupe.llm.config.*",
    "tinytroupe.llm.transports.rehearsal.*",
    "tinytroupe.llm.store.*",
    "tinytroupe.llm.runs.*",
    "tinytroupe.llm.spawns.*",
)
"""Folders that are one part in several files, which may use each other, though not in a circle."""

SIDEWAYS: dict[tuple[str, str], str] = {
    ("tinytroupe.llm.canonical", "tinytroupe.llm.errors"): "what cannot be written is an error",
    ("tinytroupe.llm.messages", "tinytroupe.llm.canonical"): "a message holds JSON",
    ("tinytroupe.llm.messages", "tinytroupe.llm.errors"): "a message refuses what is not one",
    ("tinytroupe.llm.request", "tinytroupe.llm.canonical"): "a request has a digest",
    ("tinytroupe.llm.request", "tinytroupe.llm.errors"): "a request refuses what is not one",
    ("tinytroupe.llm.request", "tinytroupe.llm.messages"): "a request holds messages",
    ("tinytroupe.llm.response", "tinytroupe.llm.errors"): "a response refuses what is not one",
    ("tinytroupe.llm.response", "tinytroupe.llm.request"): "a response has the request's kind",
    ("tinytroupe.llm.rules.allowance", "tinytroupe.llm.rules.tokens"): "what a request may take",
    ("tinytroupe.llm.rules.classify", "tinytroupe.llm.rules.backoff"): "an error tells the wait",
    ("tinytroupe.llm.layers.*", "tinytroupe.llm.layers.handler"): "every layer wraps a handler",
    ("tinytroupe.llm.layers.flight", "tinytroupe.llm.layers.cache"): "who leads looks once more",
    ("tinytroupe.llm.layers.batch", "tinytroupe.llm.layers.cache"): "the same, for many",
    ("tinytroupe.llm.layers.batch", "tinytroupe.llm.layers.flight"): "the same, for many",
    ("tinytroupe.llm.layers.route", "tinytroupe.llm.transports.endpoint"): "where a route leads",
    ("tinytroupe.llm.rules.classify", "tinytroupe.llm.rules.setting_names"): "what to check",
    ("tinytroupe.llm.rules.routes", "tinytroupe.llm.rules.classify"): "what rests, and how long",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.transport"): "what all promise",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.wire"): "between calls and HTTP",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.connections"): "deadlines hold",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.async_connections"): "the same",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.secrets"): "keys",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.tls"): "whom to trust",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.streaming"): "streamed answers",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.sdk"): "clients that users bring",
    ("tinytroupe.llm.transports.adapted", "tinytroupe.llm.transports.overridden"): "its errors",
    ("tinytroupe.llm.transports.azure", "tinytroupe.llm.transports.openai"): "the same API",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.turns"): "who says what",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.wanted"): "what is wanted",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.answers"): "what came of it",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.sdk_transport"): "others' SDKs",
    ("tinytroupe.llm.transports.*", "tinytroupe.llm.transports.http_clients"): "for others' SDKs",
    ("tinytroupe.llm.transports.anthropic", "tinytroupe.llm.transports.anthropic_*"): "its words",
    ("tinytroupe.llm.transports.gemini", "tinytroupe.llm.transports.gemini_*"): "its words",
    ("tinytroupe.llm.transports.presets", "tinytroupe.llm.transports.*"): "providers by name",
    ("tinytroupe.llm.transports.overridden", "tinytroupe.llm.transports.raw_calls"): "its calls",
    ("tinytroupe.llm.manager", "tinytroupe.llm.talk.*"): "it hands out models",
    ("tinytroupe.llm.chain", "tinytroupe.llm.meter"): "the meter is the outermost layer",
    ("tinytroupe.llm.client", "tinytroupe.llm.chain"): "the facades drive the chain",
    ("tinytroupe.llm.client", "tinytroupe.llm.meter"): "calls may be added up in one place",
    ("tinytroupe.llm.runs.activation", "tinytroupe.llm.config.*"): "settings may ask for a run",
    ("tinytroupe.__main__", "tinytroupe.cli"): "python -m tinytroupe is the command",
    ("tinytroupe.llm", "tinytroupe.llm.wrapper"): "public names",
    ("tinytroupe.llm.wrapper", "tinytroupe.llm.wrapper_session"): "what both colours share",
    ("tinytroupe.utils", "tinytroupe.openai_utils"): "both doors share the process's templates",
    ("tinytroupe.openai_utils", "tinytroupe.llm.process"): "the process-wide state",
}
"""Other imports on one floor that are allowed, and why."""

COLOURED = ("asyncio", "time", "sched", "selectors")
MAY_BE_COLOURED = (
    "tinytroupe.llm.runtime",
    "tinytroupe.llm.spawns.*",
    "tinytroupe.llm.client",
    "tinytroupe.llm.transports.*",
)
"""Besides floor 7: the modules that know whether they run under an event loop."""

UNSEEN_BY_LAYERS = ("random", "threading", "socket", "subprocess")
UNSEEN_BY_RULES = (*UNSEEN_BY_LAYERS, "os", "io", "pathlib", "concurrent")

THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "openai": ("tinytroupe.llm.transports.*",),
    "httpx2": ("tinytroupe.llm.transports.*",),
    "httpcore2": ("tinytroupe.llm.transports.*",),
    "aiohttp": ("tinytroupe.llm.transports.*", "tinytroupe.cli.*"),
    "orjson": ("tinytroupe.llm.*", "tinytroupe.cli.*"),
    "diskcache": ("tinytroupe.llm.store.*",),
    "django": ("tinytroupe.contrib.django.*",),
    "asgiref": ("tinytroupe.contrib.django.*",),
    "jinja2": ("tinytroupe.llm.talk.*",),
    "tiktoken": ("tinytroupe.llm.rules.*", "tinytroupe.llm.talk.*"),
    "pydantic": (
        "tinytroupe.llm.talk.*",
        "tinytroupe.llm.wrapper_session",
    ),
    "json_repair": ("tinytroupe.llm.talk.json_repairs",),
    "anthropic": ("tinytroupe.llm.transports.anthropic",),
    "azure": ("tinytroupe.llm.transports.azure",),
    "google": ("tinytroupe.llm.transports.gemini",),
    "uvloop": ("tinytroupe.llm.spawns.installed",),
    "yaml": ("tinytroupe.llm.config.yaml_files",),
    "bpe_openai": ("tinytroupe.llm.rules.*", "tinytroupe.llm.talk.*"),
    "backports": ("tinytroupe.llm.store.compression",),
    "compression": ("tinytroupe.llm.store.compression",),
    "rich": ("tinytroupe.cli.tables",),
}
"""Who may import what is not ours and not the standard library's."""

OPTIONAL = ("anthropic", "azure", "backports", "bpe_openai", "google", "rich", "uvloop", "yaml")
"""Packages of an extra; each has one module that knows how to do without it."""

VAGUE_NAMES = {"utils", "util", "helper", "helpers", "common", "misc", "base"}
VAGUE_NAMES_OF_THE_DOORS = {"tinytroupe.utils"}

MAX_FUNCTION_LINES, MAX_FILE_LINES, MAX_PARAMETERS = 60, 400, 8
LIKED_FUNCTION_LINES, LIKED_FILE_LINES, LIKED_PARAMETERS = 40, 350, 6
LONG_SIGNATURES = {
    "tinytroupe.openai_utils:OpenAIClient.send_message": "TinyTroupe's own signature",
    "tinytroupe.llm.errors:LLMAPIError.__init__": "carries everything that a server said",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One name that one module takes from another."""

    importer: str
    imported: str
    """The module where that can be told, else the dotted name."""
    line: int
    name: str = ""
    """What `from … import name` takes; empty for a plain `import`."""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def find_modules(folder: Path) -> dict[str, Path]:
    """Returns the dotted names of all modules under a package's folder, and their files."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def read_imports(module: str, source: str, modules: Mapping[str, object]) -> Iterator[Import]:
    """Yields every import of a module, those in functions and under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                target = whole if whole in modules else node.module
                yield Import(module, target, node.lineno, alias.name)


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    """Tells whether a module is named; `room.*` also names the room's own `__init__`."""
    return any(
        fnmatchcase(module, pattern) or module == pattern.removesuffix(".*") for pattern in patterns
    )


def find_floor(module: str) -> int | None:
    """Returns the floor, or None for a module that the table does not know."""
    exact = [floor for floor, rooms in FLOORS.items() if module in rooms]
    rooms = [floor for floor, rooms in FLOORS.items() if matches(module, rooms)]
    return next(iter(exact or rooms), None)


def find_wrong_imports(imports: list[Import]) -> list[str]:
    """Returns a sentence for each import that goes up, or sideways without a reason."""
    wrong = []
    for item in dict.fromkeys(imports):
        own, other = find_floor(item.importer), find_floor(item.imported)
        if own is None or other is None or other < own or item.imported == item.importer:
            continue
        if other > own:
            wrong.append(f"{item}, which is {other - own} floor(s) up")
        elif not is_allowed_sideways(item):
            wrong.append(f"{item}, which is sideways and not in SIDEWAYS")
    return wrong


def is_allowed_sideways(item: Import) -> bool:
    return any(
        matches(item.importer, (room,)) and matches(item.imported, (room,)) for room in ONE_ROOM
    ) or any(
        matches(item.importer, (importer,)) and matches(item.imported, (imported,))
        for importer, imported in SIDEWAYS
    )


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Returns the modules of one import cycle in order, or an empty list."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            if cycle := visit(other, [*path, module]):
                return cycle
        done.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in sorted(graph))), [])


MODULES = find_modules(PACKAGE)
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
IMPORTS = [item for name, source in SOURCES.items() for item in read_imports(name, source, MODULES)]
OURS = [item for item in IMPORTS if item.imported.split(".")[0] == "tinytroupe"]
FOREIGN = [item for item in IMPORTS if item.imported.split(".")[0] != "tinytroupe"]


def test_every_module_has_a_floor():
    """A module that the table of floors does not know is not part of the house."""
    assert not [module for module in MODULES if find_floor(module) is None]


def test_no_import_goes_up_or_sideways():
    """Every import goes down, or sideways with a written reason."""
    assert not find_wrong_imports(OURS)


def test_every_sideways_reason_is_needed():
    """The list of sideways imports holds none that nobody uses any more."""
    for importer, imported in SIDEWAYS:
        assert any(
            matches(item.importer, (importer,)) and matches(item.imported, (imported,))
            for item in OURS
        ), f"{importer} no longer imports {imported}"


def test_no_modules_import_each_other_in_a_circle():
    """No module can, by way of others, import itself."""
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for item in OURS:
        if item.importer != item.imported:
            graph[item.importer].add(item.imported)
    assert find_cycle(graph) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("tinytroupe.llm.rules.planted", "import tinytroupe.llm.client", "3 floor(s) up"),
        ("tinytroupe.llm.errors", "from tinytroupe.llm import client", "4 floor(s) up"),
        (
            "tinytroupe.llm.layers.planted",
            "def answer():\n    from tinytroupe.llm.talk.call import LLMCall",
            "3 floor(s) up",
        ),
        (
            "tinytroupe.llm.store.planted",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from tinytroupe.llm.layers.cache import Cache",
            "1 floor(s) up",
        ),
        ("tinytroupe.llm.layers.planted", "import tinytroupe.llm.transports.openai", "sideways"),
    ],
)
def test_a_planted_wrong_import_is_caught(module, source, complaint):
    """The check sees an import that breaks the floors, wherever in the module it hides."""
    wrong = find_wrong_imports(list(read_imports(module, source, MODULES)))
    assert len(wrong) == 1
    assert complaint in wrong[0]


def test_a_planted_circle_is_caught():
    """The check for circles sees one."""
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_only_few_modules_know_the_event_loop_and_the_clock():
    """Outside the runtime, the transports, the client's facades and the doors, nothing waits."""
    assert not [
        str(item)
        for item in FOREIGN
        if item.imported.split(".")[0] in COLOURED
        and find_floor(item.importer) != 7
        and not matches(item.importer, MAY_BE_COLOURED)
    ]


def test_layers_and_rules_only_decide():
    """Layers take at most a lock from threading; rules see neither files nor environment."""
    rooms = {"tinytroupe.llm.layers.*": UNSEEN_BY_LAYERS, "tinytroupe.llm.rules.*": UNSEEN_BY_RULES}
    assert not [
        str(item)
        for item in FOREIGN
        for room, unseen in rooms.items()
        if matches(item.importer, (room,))
        and item.imported.split(".")[0] in unseen
        and (item.imported, item.name) != ("threading", "Lock")
    ]


def test_layers_and_rules_read_no_clock_by_another_name():
    """`datetime.now()` is a clock too."""
    rooms = ("tinytroupe.llm.layers.*", "tinytroupe.llm.rules.*")
    clocks = {f"{owner}.{verb}" for owner in ("datetime", "date") for verb in _READS_THE_CLOCK}
    assert not [
        f"{module}:{node.lineno}"
        for module, source in SOURCES.items()
        if matches(module, rooms)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in clocks
    ]


_READS_THE_CLOCK = ("now", "utcnow", "today")


def test_foreign_packages_are_imported_where_they_belong():
    """Each foreign package is known to its own room only, and there is none unlisted."""
    assert not [
        str(item)
        for item in FOREIGN
        if (top := item.imported.split(".")[0]) not in sys.stdlib_module_names
        and not matches(item.importer, THIRD_PARTY.get(top, ()))
    ]


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_is_known_to_one_module(package):
    """What may be absent is imported in exactly one module."""
    importers = {item.importer for item in FOREIGN if item.imported.split(".")[0] == package}
    assert len(importers) == 1


def test_no_module_has_a_name_that_says_nothing():
    """Nothing is called utils or helpers, except what users of TinyTroupe already call so."""
    assert not [
        module
        for module in MODULES
        if module.split(".")[-1] in VAGUE_NAMES and module not in VAGUE_NAMES_OF_THE_DOORS
    ]


def test_nothing_inside_uses_the_front_for_users():
    """`tinytroupe.utils` and `tinytroupe.openai_utils` serve users, not the package."""
    assert not [str(item) for item in OURS if item.imported == "tinytroupe.utils"]


def read_setup() -> ConfigParser:
    setup = CHECKOUT / "setup.cfg"
    if not setup.is_file():
        pytest.skip("an installed package has no setup.cfg")
    config = ConfigParser()
    config.read(setup, encoding="utf-8")
    return config


def test_every_package_is_in_the_wheel():
    """The list of packages in setup.cfg names every folder of the package, and the prompts."""
    listed = set(read_setup()["options"]["packages"].split())
    found = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert listed == found | {"tinytroupe.prompts"}


def test_every_file_that_is_not_code_is_in_the_wheel():
    """Patterns in setup.cfg take in each page, style sheet and script of the package."""
    taken = {
        Path(path)
        for package, patterns in read_setup()["options.package_data"].items()
        for pattern in patterns.split()
        for path in glob(str(CHECKOUT.joinpath(*package.split("."), pattern)), recursive=True)
    }
    beside = {path for path in PACKAGE.rglob("*") if path.is_file()}
    code = {path for path in beside if path.suffix in (".py", ".pyc")}
    assert len(beside - code) > 1
    assert beside - code - taken == set()


def test_only_the_app_knows_the_app():
    """What is not the Django app does without it."""
    assert not [
        str(item)
        for item in OURS
        if matches(item.imported, ("tinytroupe.contrib.*",))
        and not matches(item.importer, ("tinytroupe.contrib.*",))
    ]


def measure(modules: Mapping[str, str], lines: int, parameters: int, file: int) -> list[str]:
    """Returns a sentence for each function, signature and file that is larger than given."""
    found = []
    for module, source in modules.items():
        if (count := len(source.splitlines())) > file:
            found.append(f"{module} has {count} lines")
        for name, function in walk_functions(ast.parse(source), ""):
            if (count := count_lines(function)) > lines:
                found.append(f"{module}:{name} has {count} lines")
            count = count_parameters(function)
            if count > parameters and f"{module}:{name}" not in LONG_SIGNATURES:
                found.append(f"{module}:{name} has {count} parameters")
    return found


def walk_functions(
    node: ast.AST, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + child.name, child
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        yield from walk_functions(child, f"{prefix}{child.name}." if named else prefix)


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Counts a function's lines; its docstring is for readers and does not count."""
    total = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        total -= (first.end_lineno or 0) - first.lineno + 1
    return total


def count_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_nothing_is_too_large_to_read():
    """Functions, signatures and files stay within what a reader can hold."""
    assert not measure(SOURCES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_FILE_LINES)


def test_a_planted_large_function_is_caught():
    """The measure sees a long function, a long signature and a long file."""
    body = "\n".join(["    x = 1"] * 70)
    source = f"def planted(a, b, c, d, e, f, g, h, i):\n{body}\n"
    assert measure({"m": source}, 60, 8, 400) == [
        "m:planted has 71 lines",
        "m:planted has 9 parameters",
    ]
    assert measure({"m": "x = 1\n" * 401}, 60, 8, 400) == ["m has 401 lines"]


if __name__ == "__main__":
    for sentence in measure(SOURCES, LIKED_FUNCTION_LINES, LIKED_PARAMETERS, LIKED_FILE_LINES):
        print(sentence)
