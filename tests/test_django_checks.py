"""What `manage.py check` tells of the app's settings, files and tables."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning, registry
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections, transaction
from django_fixtures import Database, MakeDatabase, use_database
from provider_calls import OUTSIDE

from tinytroupe.contrib.django.checks import (
    TAG,
    check_config_files,
    check_settings,
    check_tables,
    check_tool_modules,
)
from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate, Tool

KEY = "sk-nobody-may-see-this"

Override = Callable[..., None]


def run_all() -> list[CheckMessage]:
    """Runs the app's checks as `manage.py check --tag llm_wrapper` does."""
    found = registry.run_checks(tags=[TAG])
    assert KEY not in "".join(map(str, found)) + repr(found)
    assert all(message.hint and message.id for message in found)
    return found


def ids(messages: list[CheckMessage]) -> list[str]:
    return sorted(str(message.id).removeprefix(f"{TAG}.") for message in messages)


def check_command(**options: Any) -> str:
    """Returns what `manage.py check` writes."""
    out, err = io.StringIO(), io.StringIO()
    call_command("check", stdout=out, stderr=err, **options)
    return out.getvalue() + err.getvalue()


def write(folder: Path, name: str, text: str = "llm_config_class: RehearsalConfig") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\n{text}\n", encoding="utf-8")
    return path


def make_template(name: str, *configs: str, tool: bool = False) -> PromptTemplate:
    template = PromptTemplate.objects.create(name=name)
    for config in configs:
        template.llm_config_names.add(LLMConfigName.objects.get_or_create(name=config)[0])
    if tool:
        template.tools.add(Tool.objects.get_or_create(name="now", tool_code="shop.now")[0])
    return template


class TestSettings:
    def test_nothing_to_tell(self, configs_folder: Path) -> None:
        """Where everything fits, there is no message."""
        assert run_all() == []

    def test_all_wrong_settings(self, configs_folder: Path, site_settings: Override) -> None:
        """Each wrong setting has its own error, which names it."""
        site_settings(
            LLM_WRAPPER_ALLOW_TOOL_CODE="yes",
            LLM_WRAPPER_TOOL_SECONDS=0,
            TINYTROUPE={"modle": "gpt", "OPENAI_API_KEY": KEY},
        )
        found = run_all()
        assert ids(found) == ["E001"] * 3
        assert {message.obj for message in found} == {
            "LLM_WRAPPER_ALLOW_TOOL_CODE",
            "LLM_WRAPPER_TOOL_SECONDS",
            "TINYTROUPE",
        }

    def test_a_cache_without_a_place(self, configs_folder: Path, site_settings: Override) -> None:
        """A cache's folder that is relative to nothing is told before the first call."""
        site_settings(BASE_DIR=None, TINYTROUPE={"CACHE_FILE_NAME": "answers"})
        (message,) = run_all()
        assert (message.id, message.obj) == (f"{TAG}.E001", "TINYTROUPE")
        assert "'answers'" in message.msg

    def test_a_setting_that_nobody_reads(
        self, configs_folder: Path, site_settings: Override
    ) -> None:
        """A slip in a setting's name is a warning that names the nearest."""
        site_settings(LLM_WRAPPER_ALOW_TOOL_CODE=True)
        (message,) = run_all()
        assert isinstance(message, Warning)
        assert (message.id, message.obj) == (f"{TAG}.W001", "LLM_WRAPPER_ALOW_TOOL_CODE")
        assert "did you mean LLM_WRAPPER_ALLOW_TOOL_CODE" in message.msg


class TestFiles:
    def test_no_folder_is_set(self, site_settings: Override, tmp_path: Path) -> None:
        """Without the setting there is one error, which says what to set."""
        site_settings(BASE_DIR=tmp_path, LLM_CONFIGS_PATH=None)
        (message,) = run_all()
        assert isinstance(message, Error)
        assert (message.id, message.obj) == (f"{TAG}.E002", "LLM_CONFIGS_PATH")

    def test_a_wrong_folder_is_told_once(self, site_settings: Override, tmp_path: Path) -> None:
        """A setting that is no path is an error of the setting alone."""
        site_settings(BASE_DIR=tmp_path, LLM_CONFIGS_PATH="")
        assert ids(run_all()) == ["E001"]

    def test_the_folder_is_missing(self, configs_folder: Path, site_settings: Override) -> None:
        """A folder that is not there, or is a file, is an error that names it."""
        for path in (configs_folder / "nowhere", configs_folder / "rehearsal.yaml"):
            site_settings(LLM_CONFIGS_PATH=path)
            (message,) = run_all()
            assert message.id == f"{TAG}.E003"
            assert str(path) in message.msg

    def test_the_folder_is_empty(self, configs_folder: Path) -> None:
        """A folder without files is a warning: there may not be any model yet."""
        (configs_folder / "rehearsal.yaml").unlink()
        (message,) = run_all()
        assert isinstance(message, Warning)
        assert message.id == f"{TAG}.W002"

    def test_each_file_has_its_message(self, configs_folder: Path) -> None:
        """Each file that cannot be used has an error of its own, and none shows a key."""
        trace = configs_folder / "trace"
        (configs_folder / "differs.yaml").write_text("name: other\n", encoding="utf-8")
        write(configs_folder, "unknown", f"llm_config_class: GemniConfig\napi_key: {KEY}")
        write(configs_folder, "runs", f"model: !!python/object/apply:os.system ['touch {trace}']")
        write(configs_folder, "unset", "llm_config_class: GroqConfig\napi_key: ${NOBODY_SETS}")
        write(configs_folder, "switch", "llm_config_class: GroqConfig\ntools_enabled: maybe")
        write(configs_folder, "typo", f"llm_config_class: GroqConfig\napi_kye: {KEY}")
        write(configs_folder, "spare", "llm_config_class: GroqConfig\nfallback: rehersal")
        write(configs_folder, "twice")
        (configs_folder / "twice.yml").write_text("name: twice\n", encoding="utf-8")
        found = run_all()
        assert ids(found) == ["E004"] * 8
        for part in (
            "differs.yaml: the file is called 'differs' and its name is 'other'",
            "there is no class 'GemniConfig'; did you mean GeminiConfig?",
            "nothing of it was run",
            "the environment variable NOBODY_SETS is not set",
            "key tools_enabled",
            "did you mean api_key",
            "did you mean rehearsal",
            "twice.yaml and ",
        ):
            assert len([message for message in found if part in message.msg]) == 1, part
        assert not trace.exists()


class TestLacks:
    @pytest.fixture(autouse=True)
    def _nothing_from_outside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in OUTSIDE:
            monkeypatch.delenv(name, raising=False)
        for package in ("anthropic", "google.genai", "azure.identity"):
            monkeypatch.setitem(sys.modules, package, None)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("OpenAICompatibleConfig", ["give endpoint, or set the environment variable OPENAI_B"]),
            ("OpenAILLMConfig", ["give api_key, or set the environment variable OPENAI_API_KEY"]),
            ("GroqConfig", ["give api_key, or set the environment variable GROQ_API_KEY"]),
            ("AzureOpenAILLMConfig", ["give endpoint, or set", "give api_key, or set", "Entra ID"]),
            ("AnthropicConfig", ["tinytroupe[anthropic]", "give api_key, or set"]),
            ("GeminiConfig", ["tinytroupe[gemini]", "give api_key, or set"]),
            (f"AnthropicConfig\napi_key: {KEY}", ["tinytroupe[anthropic]"]),
            (f"GroqConfig\napi_key: {KEY} {KEY}", ["(api_key) has spaces"]),
        ],
    )
    def test_a_model_that_cannot_be_asked(
        self, configs_folder: Path, text: str, said: list[str]
    ) -> None:
        """What a first call would fail at is one warning, with the file and what to give."""
        path = write(configs_folder, "shop", f"llm_config_class: {text}")
        (message,) = run_all()
        assert isinstance(message, Warning)
        assert (message.id, message.obj) == (f"{TAG}.W005", "LLM_CONFIGS_PATH")
        assert message.msg.startswith(f"{path} ('shop'): ")
        assert [part for part in said if part not in message.msg] == []

    def test_each_file_has_its_warning(
        self, configs_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Files lack one by one; a key may be in the file, a variable, or a variable's file."""
        write(configs_folder, "a", f"llm_config_class: GroqConfig\napi_key: {KEY}")
        write(configs_folder, "b", "llm_config_class: GroqConfig")
        write(configs_folder, "c", "llm_config_class: OpenAILLMConfig")
        write(configs_folder, "d", "llm_config_class: OpenAICompatibleConfig")
        write(
            configs_folder, "e", "llm_config_class: OpenAICompatibleConfig\nendpoint: http://h/v1"
        )
        assert ids(run_all()) == ["W005"] * 3
        monkeypatch.setenv("GROQ_API_KEY", KEY)
        assert ids(run_all()) == ["W005"] * 2
        (tmp_path / "key").write_text(KEY)
        monkeypatch.setenv("OPENAI_API_KEY_FILE", str(tmp_path / "key"))
        (message,) = run_all()
        assert "d.yaml ('d'): there is no address" in message.msg


class TestToolModules:
    @pytest.fixture
    def deployed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Packages that leave a trace where one of them is imported."""
        folder = tmp_path / "deployed"
        for name in ("corner_shop/tools", "corner_shop/deep/inner", "no_init/shop/tools"):
            path = folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        for package in ("corner_shop", "corner_shop/deep", "no_init/shop"):
            text = f"open({str(tmp_path / 'trace')!r}, 'w')"
            (folder / package / "__init__.py").write_text(text)
        (folder / "corner_shop" / "bare").mkdir()
        (folder / "corner_module.py").write_text("")
        monkeypatch.syspath_prepend(folder)
        return folder

    @pytest.mark.parametrize(
        ("module", "said"),
        [
            ("corner_shop", ""),
            ("corner_shop.tools", ""),
            ("corner_shop.deep.inner", ""),
            ("corner_shop.bare", ""),
            ("corner_module", ""),
            ("no_init.shop.tools", ""),
            ("os.path", ""),
            ("tinytroupe.contrib.django.checks", ""),
            ("corner_shopp.tools", "there is no module corner_shopp"),
            (
                "corner_shop.tolls",
                "there is no module corner_shop.tolls; the nearest is corner_shop.tools",
            ),
            ("corner_shop.dep.inner", "no module corner_shop.dep; the nearest is corner_shop.deep"),
            ("corner_shop.deep.inner.x", "no module corner_shop.deep.inner.x: corner_shop.deep.in"),
            ("corner_module.tools", "corner_module is no package"),
        ],
    )
    def test_a_module_that_is_nowhere(
        self,
        configs_folder: Path,
        site_settings: Override,
        deployed: Path,
        module: str,
        said: str,
    ) -> None:
        """A module for tools that cannot be found is a warning, and none is imported to look."""
        site_settings(LLM_WRAPPER_TOOL_MODULES=[module])
        before = set(sys.modules)
        found = run_all()
        assert {name for name in set(sys.modules) - before if "corner" in name} == set()
        assert not (deployed.parent / "trace").exists()
        assert ids(found) == (["W006"] if said else [])
        for message in found:
            assert said in message.msg
            assert message.obj == "LLM_WRAPPER_TOOL_MODULES"

    def test_a_wrong_setting_is_told_once(
        self, configs_folder: Path, site_settings: Override
    ) -> None:
        """A setting that is no list of modules is an error of the setting alone."""
        site_settings(LLM_WRAPPER_TOOL_MODULES="shop")
        assert ids(run_all()) == ["E001"]


class TestTables:
    def test_a_name_without_a_file(self, database: Database, configs_folder: Path) -> None:
        """A name in the table that no file has is a warning that says who uses it."""
        make_template("support", "rehersal")
        LLMConfigName.objects.create(name="left")
        found = {str(message.msg): message for message in run_all()}
        assert ids(list(found.values())) == ["W003", "W003"]
        used, left = sorted(found, key=lambda text: "'left'" in text)
        assert "used by support; did you mean rehearsal?" in used
        assert "no prompt template uses it" in left
        assert "sync_llm_configs --prune" in str(found[left].hint)
        assert "--prune" not in str(found[used].hint)

    def test_a_broken_file_is_a_file(self, database: Database, configs_folder: Path) -> None:
        """A name whose file cannot be used is told of once, as the file."""
        make_template("support", "broken", tool=True)
        write(configs_folder, "broken", "llm_config_class: x")
        assert ids(run_all()) == ["E004"]

    def test_disabled_tools(self, database: Database, configs_folder: Path) -> None:
        """A template with tools is told of if a configuration of it has them disabled."""
        write(configs_folder, "b")
        write(configs_folder, "c")
        make_template("all", "b", "c", tool=True)
        make_template("some", "b", "rehearsal", tool=True)
        make_template("fine", "rehearsal", tool=True)
        make_template("without", "b")
        make_template("alone", tool=True)
        found = sorted(run_all(), key=lambda message: message.msg)
        assert ids(found) == ["W004", "W004"]
        assert "'all' has tools, which are disabled in b, c; it cannot be" in found[0].msg
        assert "'some' has tools, which are disabled in b; those are not" in found[1].msg

    def test_the_command(self, database: Database, configs_folder: Path) -> None:
        """`manage.py check` tells of the tables, with --database and without."""
        make_template("support", "gone")
        for options in ({}, {"databases": ["default"]}, {"tags": ["database"]}):
            assert "llm_wrapper.W003" in check_command(**options)
        with pytest.raises(CommandError, match=r"llm_wrapper\.W003"):
            check_command(fail_level="WARNING")

    def test_other_databases(self, database: Database, configs_folder: Path) -> None:
        """Who names databases gets no look into another one."""
        make_template("support", "gone")
        assert check_tables(databases=[]) == []
        assert check_tables(databases=["replica"]) == []
        assert ids(check_tables(databases=["default"])) == ["W003"]

    def test_other_apps(self, database: Database, configs_folder: Path) -> None:
        """`manage.py check auth` tells nothing of this app."""
        make_template("support", "gone")
        write(configs_folder, "broken", "llm_config_class: x")
        others, own = [apps.get_app_config("auth")], [apps.get_app_config(TAG)]
        for check in (check_settings, check_tool_modules, check_config_files, check_tables):
            assert check(app_configs=others) == []
        assert ids(check_tables(app_configs=own)) == ["W003"]

    def test_silenced(
        self, database: Database, configs_folder: Path, site_settings: Override
    ) -> None:
        """A message can be silenced by its id, as all of Django's."""
        make_template("support", "gone")
        site_settings(SILENCED_SYSTEM_CHECKS=["llm_wrapper.W003"])
        assert "llm_wrapper" not in check_command()

    def test_within_a_transaction(
        self, database: Database, configs_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look that fails leaves the transaction around it usable."""
        monkeypatch.setattr(PromptTemplate._meta.get_field("name"), "column", "nowhere")
        with transaction.atomic():
            LLMConfigName.objects.create(name="left")
            assert check_tables() == []
            assert LLMConfigName.objects.count() == 1

    def test_the_connection_is_given_back(self, database: Database, configs_folder: Path) -> None:
        """A connection that was opened for the check alone is closed after it."""
        connection.close()
        assert check_tables() == []
        if database.kind == "postgresql":
            assert connection.connection is None
        LLMConfigName.objects.count()
        held = connection.connection
        assert check_tables() == []
        assert connection.connection is held


class TestNoTables:
    @pytest.fixture(params=["sqlite", "postgresql"])
    def empty_database(
        self, request: pytest.FixtureRequest, make_database: MakeDatabase
    ) -> Iterator[Database]:
        made = make_database(request.param)
        with use_database(made):
            yield made

    def test_before_migrating(self, empty_database: Database, configs_folder: Path) -> None:
        """Without tables there is nothing to tell, and `migrate` runs its checks and migrates."""
        assert run_all() == []
        call_command("migrate", verbosity=0, skip_checks=False)
        LLMConfigName.objects.create(name="left")
        assert ids(run_all()) == ["W003"]
        call_command("migrate", verbosity=0, skip_checks=False)

    def test_no_database(self, configs_folder: Path) -> None:
        """A site without a database is told nothing about one."""
        assert run_all() == []
        assert "no issues" in check_command()

    def test_a_server_that_is_away(self, configs_folder: Path) -> None:
        """Where the server is away, the check tells nothing and does not fail."""
        away = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "x",
            "HOST": "127.0.0.1",
            "PORT": "9",
        }
        with use_database(Database("postgresql", away)):
            assert run_all() == []
            assert "no issues" in check_command(databases=None)

    def test_sqlites_file_is_not_made(self, configs_folder: Path, tmp_path: Path) -> None:
        """A check does not leave an empty database behind."""
        path = tmp_path / "new.sqlite3"
        entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": path}
        with use_database(Database("sqlite", entry)):
            assert run_all() == []
            assert not path.exists()
            call_command("migrate", verbosity=0)
            LLMConfigName.objects.create(name="left")
            assert ids(run_all()) == ["W003"]

    @pytest.mark.parametrize("name", [":memory:", "file:site?mode=memory&cache=shared"])
    def test_sqlite_in_memory(self, configs_folder: Path, name: str) -> None:
        """A database in memory is looked into where it has tables."""
        entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
        with use_database(Database("sqlite", entry)):
            assert run_all() == []
            call_command("migrate", verbosity=0)
            LLMConfigName.objects.create(name="left")
            assert ids(run_all()) == ["W003"]
            connections["default"].inc_thread_sharing()
