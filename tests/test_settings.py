"""Settings: four sources, one table, and errors that say where and what is near."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinytroupe.llm.config.describe import write_markdown, write_parser, write_template
from tinytroupe.llm.config.ini import read_ini
from tinytroupe.llm.config.load import load_settings, make_settings
from tinytroupe.llm.config.settings import Settings, mask_url
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.request import RetryPolicy
from tinytroupe.llm.transports.secrets import OPENAI_KEY_VARIABLES, find_secret

ROOT = Path(__file__).resolve().parent.parent


def load(folder: Path, ini: str | None = None, environ=None, arguments=None) -> Settings:
    """Reads settings from a folder with this config.ini and from nothing else."""
    if ini is not None:
        (folder / "config.ini").write_text(ini, encoding="utf-8")
    return load_settings(folder, environ or {}, arguments or {})


def refuse(folder: Path, ini: str, environ=None) -> str:
    """Returns what the error says about this config.ini."""
    with pytest.raises(ConfigError) as caught:
        load(folder, ini, environ)
    return str(caught.value)


def test_defaults_hold_where_nothing_is_said(tmp_path):
    """Without a file, a variable or an argument every value is the table's default."""
    settings = load(tmp_path)
    assert {name: getattr(settings, name) for name in SETTINGS} == {
        name: row.default for name, row in SETTINGS.items()
    }
    assert {str(settings.origin(name)) for name in SETTINGS} == {"default"}
    assert settings.path is None


def test_later_sources_win_and_are_remembered(tmp_path):
    """An argument beats the environment, which beats config.ini, which beats the default."""
    ini = "[OpenAI]\nMODEL=a\nTIMEOUT=1\nMAX_ATTEMPTS=1\n"
    environ = {"TINYTROUPE_TIMEOUT": "2", "TINYTROUPE_MAX_ATTEMPTS": "2"}
    settings = load(tmp_path, ini, environ, {"max_attempts": 3})
    assert (settings.model, settings.timeout, settings.max_attempts) == ("a", 2.0, 3)
    assert str(settings.origin("model")) == f"{tmp_path}/config.ini:2"
    assert str(settings.origin("timeout")) == "environment TINYTROUPE_TIMEOUT"
    assert str(settings.origin("max_attempts")) == "argument max_attempts"
    assert str(settings.origin("temperature")) == "default"


def test_settings_cannot_be_changed(tmp_path):
    """Settings are frozen, and an overlay is a new value that leaves the old one alone."""
    settings = load(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.model = "x"  # type: ignore[misc]
    changed = settings.overlay({"model": "x"})
    assert (settings.model, changed.model) == ("gpt-4o-mini", "x")
    assert str(settings.origin("model")) == "default"


def test_the_fields_are_the_table():
    """Each row of the table is a field of `Settings`, in the same order."""
    fields = [field.name for field in dataclasses.fields(Settings)]
    assert fields[: len(SETTINGS)] == list(SETTINGS)
    assert {row.name: name for name, row in SETTINGS.items()} == {name: name for name in SETTINGS}


def test_every_default_is_allowed():
    """Each default, written as config.ini would hold it, is read as itself."""
    for row in SETTINGS.values():
        assert row.parse(row.to_text(row.default)) == row.default


def test_keys_are_found_in_any_case_and_percent_is_itself(tmp_path):
    """Keys in lower case count, and nothing is substituted in values."""
    settings = load(tmp_path, "[OpenAI]\nmodel : m%(x)s%\n")
    assert settings.model == "m%(x)s%"


def test_comments_blank_lines_and_a_byte_order_mark_are_no_trouble(tmp_path):
    """What Windows editors and careful people write is read."""
    (tmp_path / "config.ini").write_bytes(
        b"\xef\xbb\xbf# note\r\n\r\n[OpenAI]\r\n; note\r\n  MODEL = gpt \r\n"
    )
    settings = load(tmp_path)
    assert settings.model == "gpt"
    assert str(settings.origin("model")).endswith("config.ini:5")


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("True", "on"),
        ("yes", "on"),
        ("on", "on"),
        ("False", "off"),
        ("0", "off"),
        ("OFF", "off"),
        ("Refresh", "refresh"),
        ("only", "only"),
    ],
)
def test_the_cache_is_a_switch_and_four_modes(tmp_path, text, mode):
    """CACHE_API_CALLS takes TinyTroupe's True and False and the names of the modes."""
    assert load(tmp_path, f"[OpenAI]\nCACHE_API_CALLS={text}\n").cache_api_calls == mode


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("BASE_URL", "", None),
        ("TOP_P", "none", None),
        ("MAX_TOKENS", "", None),
        ("MAX_COMPLETION_TOKENS", "32000", 32000),
        ("MAX_CONCURRENT_MODEL_CALLS", "0", None),
        ("MAX_CONCURRENT_MODEL_CALLS", "NONE", None),
        ("MAX_ATTEMPTS", "5.0", 5),
        ("ON_FAILURE", "None", "none"),
    ],
)
def test_empty_and_none_mean_nothing_where_that_is_allowed(tmp_path, key, text, value):
    """An optional key may be empty, and TinyTroupe's spellings are understood."""
    settings = load(tmp_path, f"[OpenAI]\n{key}={text}\n")
    name = next(n for n, row in SETTINGS.items() if key in (row.key, *row.other_keys))
    assert getattr(settings, name) == value


@pytest.mark.parametrize("level", ["none", "NONE", "debug", "Error"])
def test_a_log_level_is_known_in_any_case(tmp_path, level):
    """LOGLEVEL is spelled in capitals whatever the file says."""
    assert load(tmp_path, f"[Logging]\nLOGLEVEL={level}\n").loglevel == level.upper()


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("TEMPERATURE", "hot", "not a number"),
        ("TEMPERATURE", "nan", "not a finite number"),
        ("TEMPERATURE", "2.5", "out of range; it must be a number from 0 to 2"),
        ("TEMPERATURE", "1.0 # warm", "a comment in config.ini needs a line of its own"),
        ("TOP_P", "-0.1", "from 0 to 1"),
        ("TIMEOUT", "0", "above 0"),
        ("TIMEOUT", "", "is empty"),
        ("MAX_ATTEMPTS", "0", "at least 1"),
        ("MAX_ATTEMPTS", "2.5", "not a whole number"),
        ("MAX_TOKENS", "1e999", "not a finite number"),
        ("CACHE_API_CALLS", "maybe", "one of on, off, refresh, only, True, False"),
        ("ON_FAILURE", "shout", "one of raise, none"),
        ("MODEL", "", "is empty"),
        ("MODEL", '"gpt-4o"', "stands in quotes"),
        ("MODEL", "gpt 4o", "holds a space"),
        ("CACHE_FILE_NAME", "a\0b", "NUL"),
        ("BASE_URL", "localhost:11434/v1", "an address that begins with http:// or https://"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(tmp_path, key, text, said):
    """The error names the file, the line, the key, the value and what is allowed."""
    message = refuse(tmp_path, f"[OpenAI]\n\n{key}={text}\n")
    assert message.startswith(f"{tmp_path}/config.ini:3: {key} is ")
    assert said in message
    assert repr(text)[1:-1] in message


def test_a_wrong_address_is_shown_without_its_password(tmp_path):
    """An address is masked in the error, too."""
    message = refuse(tmp_path, "[OpenAI]\nBASE_URL=htp://me:hunter2@host/v1\n")
    assert "'htp://***@host/v1', which is no such address" in message


def test_a_wrong_value_in_the_environment_names_the_variable(tmp_path):
    """The error says which environment variable holds the value."""
    message = refuse(tmp_path, "", {"TINYTROUPE_TIMEOUT": "soon"})
    assert message.startswith("environment variable TINYTROUPE_TIMEOUT: TIMEOUT is 'soon'")


def test_a_wrong_argument_names_the_key(tmp_path):
    """An argument is checked as config.ini is."""
    with pytest.raises(ConfigError, match="TEMPERATURE is True, which is not a number"):
        load(tmp_path, arguments={"temperature": True})
    with pytest.raises(ConfigError, match="no setting 'modle'; did you mean model"):
        load(tmp_path, arguments={"modle": "x"})


@pytest.mark.parametrize(
    ("ini", "said"),
    [
        ("[OpenAI]\nMODLE=x\n", ":2: [OpenAI] has no key MODLE; did you mean MODEL?"),
        ("[OpenAI]\nXYZZY=x\n", ":2: [OpenAI] has no key XYZZY; known are API_TYPE, BASE_URL"),
        ("[OpenAI]\nLOGLEVEL=INFO\n", ":2: LOGLEVEL belongs into the section [Logging]"),
        ("[Openai]\nMODEL=x\n", ":1: there is no section [Openai]; did you mean OpenAI?"),
        ("\n[DEFAULT]\nMODEL=x\n", ":2: there is no section [DEFAULT]"),
        ("[OpenAI]\nMODEL=x\nmodel=y\n", ":3: MODEL stands twice in [OpenAI]"),
        ("[OpenAI]\n[Logging]\n[OpenAI]\n", ":3: [OpenAI] stands twice"),
        ("MODEL=x\n", ":1: this line stands before the first section"),
        ("[OpenAI]\nMODEL=x\nnonsense\n", ":3: not of the form KEY=value"),
        ("[OpenAI]\nMODEL\n", ":2: not of the form KEY=value"),
        ("[OpenAI]\nMODEL=x\n  TIMEOUT=3\n", ":2: MODEL goes over several lines"),
        (
            "[OpenAI]\nMAX_TOKENS=1\nMAX_COMPLETION_TOKENS=2\n",
            ":3: only one of MAX_TOKENS and MAX_COMPLETION_TOKENS may be given",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, ini, said):
    """The error names the file and the line, and what was probably meant."""
    assert f"{tmp_path}/config.ini{said}" in refuse(tmp_path, ini)


def test_a_key_in_the_file_is_refused_and_not_shown(tmp_path):
    """A secret in config.ini is an error that does not repeat it."""
    message = refuse(tmp_path, "[OpenAI]\nOPENAI_API_KEY=sk-very-secret\n")
    assert "set the environment variable OPENAI_API_KEY instead" in message
    assert "sk-very-secret" not in message


@pytest.mark.parametrize("content", [b"[OpenAI]\nMODEL=\xff\xfe\n", None])
def test_an_unreadable_file_is_refused(tmp_path, content):
    """A file in another encoding, or a folder in its place, is named in the error."""
    path = tmp_path / "config.ini"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.ini"):
        load(tmp_path)


def test_another_file_may_be_named(tmp_path):
    """TINYTROUPE_CONFIG is read instead of the folder's config.ini, and must exist."""
    other = tmp_path / "other.ini"
    other.write_text("[OpenAI]\nMODEL=other\n")
    ini = "[OpenAI]\nMODEL=mine\nTIMEOUT=1\n"
    settings = load(tmp_path, ini, {"TINYTROUPE_CONFIG": "other.ini"})
    assert (settings.model, settings.timeout) == ("other", 60.0)
    assert settings.path == str(other)
    with pytest.raises(ConfigError, match=r"nowhere\.ini, which TINYTROUPE_CONFIG names"):
        load(tmp_path, None, {"TINYTROUPE_CONFIG": "nowhere.ini"})


def test_the_simulation_keeps_what_it_likes(tmp_path):
    """Unknown keys of the simulation's sections are kept as they are, with their spelling."""
    ini = "[Simulation]\nMY_KEY=a b\nRAI_HARMFUL_CONTENT_PREVENTION=False\n[Cognition]\nX=1\n"
    settings = load(tmp_path, ini)
    assert settings.own == {"Simulation": {"my_key": "a b"}, "Cognition": {"x": "1"}}
    assert settings.rai_harmful_content_prevention is False


def test_files_of_tinytroupe_are_read(tmp_path, caplog):
    """A config.ini as TinyTroupe ships it is accepted; what has no effect here is noted."""
    caplog.set_level(logging.DEBUG, "tinytroupe.config")
    settings = load(
        tmp_path,
        "[OpenAI]\nAPI_TYPE=openai\nMODEL=gpt-5-mini\nREASONING_MODEL=o3-mini\n"
        "EMBEDDING_MODEL=text-embedding-3-small \nREASONING_EFFORT=high\n"
        "AZURE_EMBEDDING_MODEL_API_VERSION=2023-05-15\nMAX_COMPLETION_TOKENS=32000\n"
        "CACHE_API_CALLS=False\nCACHE_FILE_NAME=openai_api_cache.pickle\n"
        "[Simulation]\nPARALLEL_AGENT_ACTIONS=True\n[ActionGenerator]\nQUALITY_THRESHOLD = 5\n"
        "[Logging]\nLOGLEVEL=ERROR\nLOGLEVEL_CONSOLE=INFO\nLOG_INCLUDE_THREAD_ID=False\n",
    )
    assert settings.max_tokens == 32000
    assert set(settings.unused) == {
        "REASONING_MODEL",
        "REASONING_EFFORT",
        "AZURE_EMBEDDING_MODEL_API_VERSION",
        "LOGLEVEL_CONSOLE",
        "LOG_INCLUDE_THREAD_ID",
    }
    assert "config.ini:4: REASONING_MODEL is accepted and has no effect" in caplog.text


def test_the_pickles_name_gives_a_folder(tmp_path):
    """The name of TinyTroupe's pickle stands for a folder beside it, which is another path."""
    settings = load(tmp_path, "[OpenAI]\nCACHE_FILE_NAME=openai_api_cache.pickle\n")
    assert settings.names_pickle
    assert settings.cache_folder == f"{tmp_path}/openai_api_cache"
    plain = load(tmp_path, "[OpenAI]\nCACHE_FILE_NAME=/data/my cache\n")
    assert (plain.names_pickle, plain.cache_folder) == (False, "/data/my cache")
    odd = load(tmp_path, "[OpenAI]\nCACHE_FILE_NAME=.pickle\n")
    assert (odd.names_pickle, odd.cache_folder) == (False, f"{tmp_path}/.pickle")


def test_relative_folders_do_not_follow_the_program_about(tmp_path, monkeypatch):
    """The cache folder stays where it was when the settings were read."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    monkeypatch.chdir("/")
    assert settings.cache_folder == f"{tmp_path}/tinytroupe_cache"


def test_settings_can_be_made_of_what_is_given_alone(tmp_path, monkeypatch):
    """`make_settings` sees neither the environment nor a config.ini that nobody named."""
    (tmp_path / "config.ini").write_text("[OpenAI]\nTIMEOUT=1\nMAX_ATTEMPTS=1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYTROUPE_TIMEOUT", "2")
    monkeypatch.setenv("TINYTROUPE_CONFIG", "config.ini")
    alone = make_settings("/data", {"max_attempts": 3})
    assert (alone.timeout, alone.max_attempts) == (60.0, 3)
    assert (alone.path, alone.cache_folder) == (None, "/data/tinytroupe_cache")
    named = make_settings(tmp_path, {"max_attempts": 3}, "config.ini")
    assert (named.timeout, named.max_attempts) == (1.0, 3)
    assert named.path == f"{tmp_path}/config.ini"
    with pytest.raises(ConfigError, match=r"other\.ini cannot be read"):
        make_settings(tmp_path, {}, "other.ini")


def test_settings_make_a_retry_policy(tmp_path):
    """The four numbers about patience are one policy."""
    ini = (
        "[OpenAI]\nMAX_ATTEMPTS=2\nWAITING_TIME=3\nEXPONENTIAL_BACKOFF_FACTOR=4\n"
        "MAX_WAITING_TIME=5\n"
    )
    assert load(tmp_path, ini).retry == RetryPolicy(2, 3.0, 4.0, 5.0)


def test_an_empty_variable_says_nothing(tmp_path):
    """An environment variable that is empty is as if it were not set."""
    settings = load(tmp_path, "[OpenAI]\nMODEL=mine\n", {"TINYTROUPE_MODEL": ""})
    assert settings.model == "mine"


def test_the_sdks_variables_count_after_our_own(tmp_path):
    """OPENAI_BASE_URL sets BASE_URL unless TINYTROUPE_BASE_URL does."""
    environ = {"OPENAI_BASE_URL": "http://a/v1"}
    assert load(tmp_path, None, environ).base_url == "http://a/v1"
    environ["TINYTROUPE_BASE_URL"] = "http://b/v1"
    assert load(tmp_path, None, environ).base_url == "http://b/v1"


def test_a_slip_in_a_variable_is_told(tmp_path, caplog):
    """A variable that is nearly one of ours is worth a warning; another program's is not."""
    load(tmp_path, None, {"TINYTROUPE_MODLE": "x", "TINYTROUPE_STARTED_BY": "x"})
    assert "TINYTROUPE_MODLE has no effect; did you mean TINYTROUPE_MODEL?" in caplog.text
    assert "STARTED_BY" not in caplog.text


def test_the_file_at_the_root_is_the_table(tmp_path):
    """config.ini at the root is what the table writes, and reading it changes nothing."""
    text = (ROOT / "config.ini").read_text(encoding="utf-8")
    assert text == write_template()
    settings = load(tmp_path, text)
    assert {name: getattr(settings, name) for name in SETTINGS} == {
        name: row.default for name, row in SETTINGS.items()
    }
    assert set(settings.origins) == set(SETTINGS)


def test_the_documentation_has_the_table():
    """docs/configuration.md holds the table as it is."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert write_markdown() in page


def test_a_parser_shows_what_is_in_effect(tmp_path):
    """The ConfigParser for users of TinyTroupe holds every value, also their own."""
    ini = "[OpenAI]\nMODEL=m%\nCACHE_API_CALLS=off\n[Simulation]\nMINE=1\n[Cognition]\nX=2\n"
    parser = write_parser(load(tmp_path, ini, {"TINYTROUPE_TIMEOUT": "3"}))
    assert parser["OpenAI"]["MODEL"] == "m%"
    assert parser["OpenAI"].getfloat("TIMEOUT") == 3.0
    assert parser["OpenAI"].getboolean("CACHE_API_CALLS") is False
    assert parser["OpenAI"].get("NOT_THERE", "x") == "x"
    assert parser["Simulation"].getint("mine") == 1
    assert parser["Simulation"].getboolean("RAI_HARMFUL_CONTENT_PREVENTION") is True
    assert parser["Cognition"]["X"] == "2"


def test_a_repr_shows_what_was_changed_and_no_password(tmp_path):
    """The repr names what is not a default, and masks credentials in an address."""
    ini = "[OpenAI]\nBASE_URL=https://me:pass@host/v1?key=abc\n"
    shown = repr(load(tmp_path, ini))
    assert shown == "<Settings base_url=https://***@host/v1?***>"
    assert mask_url("http://localhost:11434/v1") == "http://localhost:11434/v1"
    assert mask_url("lisa:secret@host//v1") == "***@host//v1"


@given(st.text(max_size=40))
def test_a_url_with_a_password_never_shows_it(password):
    """Whatever stands in front of the host is masked, also where it should have been escaped."""
    secret = f"pa{password}ss"
    assert mask_url(f"https://me:{secret}@example.org/v1") == "https://***@example.org/v1"


@given(st.lists(st.sampled_from(["", "# MODEL=c", "; MODEL=d", "TIMEOUT=1"]), unique=True))
def test_a_line_number_is_where_the_key_stands(lines):
    """The line that is remembered for a key holds that key, whatever stands around it."""
    content = ["[Simulation]", "MODEL=b", "[OpenAI]", *lines, "MODEL=z", "[Cognition]", "a=MODEL=1"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.ini"
        path.write_text("\n".join(content), encoding="utf-8")
        line = read_ini(str(path)).sections["OpenAI"]["model"].line
    assert content[line - 1] == "MODEL=z"


def test_a_secret_shows_itself_to_nobody():
    """Neither repr, str, format nor pickle gives a key away; a mask shows four characters."""
    key = "sk-" + "a" * 20 + "wxyz"
    secret = find_secret(OPENAI_KEY_VARIABLES, {"OPENAI_API_KEY": f" {key}\n"})
    assert secret is not None
    assert secret.reveal() == key
    for shown in (repr(secret), str(secret), f"{secret}", repr([secret])):
        assert key not in shown
        assert "wxyz" not in shown
    assert secret.mask() == "set (…wxyz)"
    assert find_secret(("K",), {"K": "short"}).mask() == "set"  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_a_secret_may_stand_in_a_file(tmp_path):
    """`<variable>_FILE` names a file; the variable itself comes first."""
    path = tmp_path / "key"
    path.write_text("from-file\n")
    environ = {"OPENAI_API_KEY_FILE": str(path)}
    found = find_secret(OPENAI_KEY_VARIABLES, environ)
    assert found is not None
    assert (found.reveal(), found.origin) == ("from-file", f"OPENAI_API_KEY_FILE {path}")
    environ["OPENAI_API_KEY"] = "direct"
    assert find_secret(OPENAI_KEY_VARIABLES, environ).reveal() == "direct"  # type: ignore[union-attr]
    assert find_secret(OPENAI_KEY_VARIABLES, {}) is None


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", None])
def test_a_file_without_one_key_is_refused_and_not_shown(tmp_path, content):
    """The error names the variable and the path, not what the file holds."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="which OPENAI_API_KEY_FILE names") as caught:
        find_secret(OPENAI_KEY_VARIABLES, {"OPENAI_API_KEY_FILE": str(path)})
    assert "two words" not in str(caught.value)


@pytest.fixture
def as_nobody():
    """Takes root's powers over files away for the time of a test."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_a_file_that_may_not_be_read_is_refused(as_nobody):
    """A config.ini without permission is named in the error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.ini"
        path.write_text("[OpenAI]\n")
        path.chmod(0)
        with pytest.raises(ConfigError, match="Permission denied"):
            load(Path(folder))
