"""What the documentation says is true: its Python runs, its links lead somewhere.

The rules for a page:

- Each block of Python is a program of its own, run in an empty folder, without
  a network, where `API_TYPE` is `rehearsal` and `REHEARSAL_URL` is the address of
  a rehearsal server.
- A block whose opening fence names a file, as in "```ini config.ini", is put
  into that file first, for all programs of its page.
- A block under a comment `<!-- not run: reason -->` is not run. Such blocks are
  counted in `NOT_RUN`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import RehearseServer

from tinytroupe.llm.config.table import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if path.is_file()
]

NOT_RUN: dict[str, int] = {"django.md": 4}
"""Page → how many of its blocks of Python are not run, files among them."""

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>```+)(?P<language>[\w+-]*)[ \t]*(?P<file>\S*)$")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run: .+ -->")

GUARD = """
import socket, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the documentation reached for {host}")
    elif event == "socket.getaddrinfo":
        if arguments[0] not in ("127.0.0.1", "::1", "localhost", None):
            raise OSError(f"the documentation looked for {arguments[0]}")

sys.addaudithook(refuse)
exec(compile(open(sys.argv[1], encoding="utf-8").read(), sys.argv[1], "exec"))
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    file: str
    """What the opening fence names; empty: nothing."""
    line: int
    text: str
    marked: bool
    """Whether a comment above says that it is not run."""


def read_blocks(page: str) -> Iterator[Block]:
    """Yields the fenced blocks of a page in order."""
    lines = page.splitlines()
    number, marked = 0, False
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if opening is None:
            if lines[number].strip():
                marked = MARK.fullmatch(lines[number].strip()) is not None
            number += 1
            continue
        start = number + 1
        closing = opening["indent"] + opening["marks"]
        number = lines.index(closing, start)
        indent = len(opening["indent"])
        text = "".join(line[indent:] + "\n" for line in lines[start:number])
        yield Block(opening["language"], opening["file"], start, text, marked)
        number, marked = number + 1, False


PROGRAMS = [
    pytest.param(page, block, id=f"{page.name}:{block.line}")
    for page in PAGES
    for block in read_blocks(page.read_text(encoding="utf-8"))
    if block.language == "python" and not block.file and not block.marked
]


@pytest.fixture(scope="module")
def rehearsal_url() -> Iterator[str]:
    """The address of a rehearsal server for the programs of the documentation."""
    with RehearseServer() as server:
        yield server.url


def write_files(page: Path, folder: Path) -> None:
    (folder / "config.ini").write_text("[OpenAI]\nAPI_TYPE=rehearsal\n", encoding="utf-8")
    for block in read_blocks(page.read_text(encoding="utf-8")):
        if block.file:
            target = folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize(("page", "block"), PROGRAMS)
def test_documented_programs_run(
    page: Path, block: Block, tmp_path: Path, rehearsal_url: str
) -> None:
    """A block of Python in the documentation runs as it stands."""
    program = tmp_path / "program.py"
    # Blank lines in front, so that a traceback names the line of the page.
    program.write_text("\n" * block.line + block.text, encoding="utf-8")
    folder = tmp_path / "simulation"
    folder.mkdir()
    write_files(page, folder)
    environment = {
        **os.environ,
        "TINYTROUPE_API_TYPE": "rehearsal",
        "REHEARSAL_URL": rehearsal_url,
    }
    run = subprocess.run(
        [sys.executable, "-c", GUARD, str(program)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, f"{page.name}, line {block.line}:\n{run.stderr}"


def test_blocks_that_are_not_run_are_counted() -> None:
    """No block of Python is exempt unless it is counted here."""
    found = {
        page.name: count
        for page in PAGES
        if (
            count := sum(
                block.language == "python" and (block.marked or bool(block.file))
                for block in read_blocks(page.read_text(encoding="utf-8"))
            )
        )
    }
    assert found == NOT_RUN


def test_the_settings_in_the_readme_are_the_package_s() -> None:
    """Each key of the README's table exists, with that default."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]*?)`? \|", page, re.MULTILINE)
    known = {setting.key: setting.to_text(setting.default) for setting in SETTINGS.values()}
    assert len(rows) >= 10
    assert dict(rows) == {key: known.get(key) for key, _ in rows}


def make_anchor(heading: str) -> str:
    """Returns the fragment by which GitHub names a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the project, or to a heading in it, finds it."""
    prose = CODE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(prose):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(make_anchor, headings), f"{page.name} links to {target}"


def test_a_page_is_read_as_its_rules_say() -> None:
    """Fences, file names, indents and marks are understood."""
    page = (
        "text\n```python\na\n```\n- item\n\n  ```ini config.ini\n  [X]\n  ```\n"
        "<!-- not run: needs a key -->\n\n```python\nb\n```\n"
    )
    assert list(read_blocks(page)) == [
        Block("python", "", 2, "a\n", False),
        Block("ini", "config.ini", 7, "[X]\n", False),
        Block("python", "", 12, "b\n", True),
    ]


def test_the_guard_lets_nothing_out(tmp_path: Path) -> None:
    """A program in the documentation cannot reach beyond this machine."""
    program = tmp_path / "program.py"
    program.write_text("import socket\nsocket.create_connection(('192.0.2.1', 80), 0.1)\n")
    command = [sys.executable, "-c", GUARD, str(program)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode != 0
    assert "the documentation" in run.stderr
