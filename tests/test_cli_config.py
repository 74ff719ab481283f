"""The command line: `tinytroupe config`, and what every subcommand can rely on."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinytroupe import __version__, cli
from tinytroupe.llm.config.describe import write_markdown, write_template
from tinytroupe.llm.config.table import SETTINGS

KEY = "sk-" + "quiet" * 5 + "wxyz"

INI = """[OpenAI]
MODEL=gpt-5-mini
BASE_URL=https://me:hunter2@host/v1
REASONING_MODEL=o3-mini
CACHE_FILE_NAME=openai_api_cache.pickle

[Simulation]
CITY=Recife
WEATHER_API_KEY=hunter2

[Cognition]
MIN_EPISODE_LENGTH=10
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def show(capsys, *words: str) -> str:
    """Runs the command and returns what it printed."""
    assert cli.main(["config", *words]) == 0
    return capsys.readouterr().out


def find_row(table: str, key: str) -> list[str]:
    return next(line for line in table.splitlines() if line.split()[:1] == [key]).split(None, 2)


def test_every_setting_is_shown_with_its_origin(folder, capsys, monkeypatch):
    """The table has a line for each key: its value in effect, and where that came from."""
    (folder / "config.ini").write_text(INI)
    monkeypatch.setenv("TINYTROUPE_TIMEOUT", "7")
    table = show(capsys)
    assert find_row(table, "MODEL") == ["MODEL", "gpt-5-mini", f"{folder}/config.ini:2"]
    assert find_row(table, "TIMEOUT") == ["TIMEOUT", "7.0", "environment TINYTROUPE_TIMEOUT"]
    assert find_row(table, "MAX_ATTEMPTS") == ["MAX_ATTEMPTS", "5", "default"]
    assert find_row(table, "TOP_P") == ["TOP_P", "(empty)", "default"]
    assert find_row(table, "CITY") == ["CITY", "Recife", f"{folder}/config.ini"]
    for row in SETTINGS.values():
        assert find_row(table, row.key)
    assert f"Answers are kept in {folder}/openai_api_cache\n" in table
    assert "openai_api_cache.pickle is the name of TinyTroupe's pickle" in table
    assert "config.ini:4: REASONING_MODEL is one of TinyTroupe's keys and has no effect" in table


def test_columns_are_aligned(folder, capsys):
    """Values, and origins, each begin in one column."""
    lines = [line for line in show(capsys).splitlines() if line.endswith("default")]
    assert len(lines) == len(SETTINGS)
    assert len({line.rindex("default") for line in lines}) == 1


@pytest.mark.parametrize("form", ["table", "json"])
def test_secrets_are_masked(folder, capsys, monkeypatch, form):
    """Of a key only its end is shown, of a password nothing, and where they came from."""
    (folder / "config.ini").write_text(INI)
    (folder / "azure-key").write_text(KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AZURE_OPENAI_KEY_FILE", str(folder / "azure-key"))
    shown = show(capsys, *(["--json"] if form == "json" else []))
    assert "quiet" not in shown
    assert "hunter2" not in shown
    assert "set (…wxyz)" in shown
    assert "https://***@host/v1" in shown
    assert f"environment AZURE_OPENAI_KEY_FILE {folder}/azure-key" in shown


def test_json_holds_what_the_table_shows(folder, capsys):
    """With --json the same rows are data."""
    (folder / "config.ini").write_text(INI)
    data = json.loads(show(capsys, "--json"))
    rows = {(row["section"], row["key"]): row for row in data["settings"]}
    assert rows["OpenAI", "MODEL"]["value"] == "gpt-5-mini"
    assert rows["OpenAI", "MODEL"]["origin"] == f"{folder}/config.ini:2"
    assert rows["Cognition", "MIN_EPISODE_LENGTH"]["value"] == "10"
    assert rows["environment", "OPENAI_API_KEY"] == {
        "section": "environment",
        "key": "OPENAI_API_KEY",
        "value": "",
        "origin": "",
    }
    assert data["path"] == f"{folder}/config.ini"
    assert data["cache_folder"] == f"{folder}/openai_api_cache"
    assert set(data["without_effect"]) == {"REASONING_MODEL"}


def test_a_folder_without_a_file_says_so(folder, capsys):
    """Where there is no config.ini the table says that defaults count."""
    assert show(capsys).startswith(f"There is no config.ini in {folder}: ")


def test_the_template_and_the_table_of_the_docs_are_written(folder, capsys):
    """--template writes config.ini, --markdown the table; both need no valid settings."""
    (folder / "config.ini").write_text("nonsense")
    assert show(capsys, "--template") == write_template()
    assert show(capsys, "--markdown") == write_markdown()


def test_showing_changes_nothing(folder, capsys):
    """No cache folder is made, and nothing else."""
    show(capsys)
    assert list(folder.iterdir()) == []


def test_a_failure_is_one_line_and_code_2(folder, capsys):
    """A wrong setting gives one line on stderr, no traceback, and exit code 2."""
    (folder / "config.ini").write_text("[OpenAI]\nTIMEOUT=soon\n")
    assert cli.main(["config"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"tinytroupe: {folder}/config.ini:2: TIMEOUT is 'soon'")


def test_an_interruption_is_code_130(monkeypatch, folder):
    """Ctrl-C ends without a traceback, with the shell's code for it."""

    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinytroupe.cli.config.run", interrupt)
    assert cli.main(["config"]) == 130


@pytest.mark.parametrize("words", [[], ["nonsense"], ["config", "--nonsense"]])
def test_words_that_are_no_command_are_code_2(words, capsys):
    """argparse's own complaint and exit code are kept."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "usage: tinytroupe" in capsys.readouterr().err


def test_help_names_every_subcommand(capsys):
    """`tinytroupe --help` lists the subcommands without importing them."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


def test_the_version_is_told(capsys):
    """`tinytroupe --version` prints it."""
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"tinytroupe {__version__}\n"


def run_module(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *code.split(" ", 1), *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.smoke
def test_the_module_runs_as_the_command(folder):
    """`python -m tinytroupe config` does what `tinytroupe config` does."""
    run = run_module(folder, "-m tinytroupe", "config")
    assert run.returncode == 0, run.stderr
    assert "API_TYPE" in run.stdout


def test_config_imports_no_server_and_no_sdk(folder):
    """The subcommand loads neither the other subcommands nor a heavy package."""
    code = (
        "-c import sys; from tinytroupe.cli import main; main(['config']); "
        "print(sorted({'openai', 'aiohttp', 'pydantic', 'jinja2', 'diskcache', 'asyncio', "
        "'tinytroupe.cli.rehearse_server'} & set(sys.modules)))"
    )
    run = run_module(folder, code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_causes_no_traceback(folder):
    """`tinytroupe config | head -1` is quiet."""
    code = "from tinytroupe.cli import main; import sys; sys.exit(main(['config']))"
    script = f'"{sys.executable}" -c "{code}" | true'
    run = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stderr == ""
