"""What a Django site sets, and the files of its models."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.test.utils import override_settings

from tinytroupe.contrib.django import conf, configs
from tinytroupe.contrib.django.conf import (
    CORE_NAMES,
    SiteSettings,
    list_setting_faults,
    read_core_settings,
    read_site_settings,
)
from tinytroupe.contrib.django.configs import (
    CONFIG_CLASSES,
    LLMConfig,
    get_config,
    get_model,
    list_config_files,
    load_configs,
    read_config,
    survey_configs,
)
from tinytroupe.contrib.django.errors import UnknownConfig
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.transports.presets import PROVIDER_NAMES

KEY = "sk-nobody-may-see-this"

Override = Callable[..., None]


def write(folder: Path, name: str, text: str, suffix: str = ".yaml") -> Path:
    """Writes the file of a model; the text is what it holds beside its name."""
    path = folder / f"{name}{suffix}"
    path.write_text(f"name: {name}\n{text}\n", encoding="utf-8")
    return path


def read(folder: Path, text: str, name: str = "a") -> LLMConfig:
    return read_config(write(folder, name, text))


def refuse(folder: Path, text: str) -> str:
    """Returns what the error says about a file of this text."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert KEY not in str(caught.value) + repr(caught.value)
    return str(caught.value)


AZURE = f"""
llm_config_class: AzureOpenAILLMConfig
endpoint: https://shop.openai.azure.com
deployment_name: gpt-4o
api_version: 2024-10-21
api_key: {KEY}
tools_enabled: true
temperature: 0.3
timeout: 9
requests_per_minute: 60
generate_args: {{max_tokens: 50, logit_bias: {{"1": 2}}}}
"""


class TestSettings:
    def test_defaults(self, site_settings: Override, tmp_path: Path) -> None:
        """A site that sets nothing runs no code of the database, and has limits for the rest."""
        site_settings(BASE_DIR=tmp_path, LLM_CONFIGS_PATH=None, TINYTROUPE={})
        assert read_site_settings() == SiteSettings(
            None, False, None, 10.0, 8, 120.0, True, None, {}
        )
        assert list_setting_faults() == []

    def test_values(self, site_settings: Override, tmp_path: Path) -> None:
        """Each setting is read, and relative paths start from BASE_DIR."""
        site_settings(
            BASE_DIR=tmp_path,
            LLM_CONFIGS_PATH="configs",
            LLM_WRAPPER_ALLOW_TOOL_CODE=True,
            LLM_WRAPPER_TOOL_MODULES=["shop.tools", "crm"],
            LLM_WRAPPER_SHARE_ANSWERS=False,
            LLM_WRAPPER_TOOL_SECONDS=2,
            LLM_WRAPPER_MAX_TOOL_ROUNDS="3",
            LLM_WRAPPER_LOCK_SECONDS=0,
            LLM_WRAPPER_SEED=7,
            TINYTROUPE={"MAX_ATTEMPTS": 2},
        )
        assert read_site_settings() == SiteSettings(
            tmp_path / "configs",
            True,
            ("shop.tools", "crm"),
            2.0,
            3,
            0.0,
            False,
            7,
            {"max_attempts": 2},
        )
        assert list_setting_faults() == []

    def test_read_once(self, site_settings: Override) -> None:
        """The settings are one value until Django says that one of them changed."""
        site_settings(LLM_WRAPPER_SEED=1)
        first = read_site_settings()
        with override_settings(USE_TZ=False):
            assert read_site_settings() is first
        with override_settings(LLM_WRAPPER_SEED=2):
            assert read_site_settings().seed == 2
        assert read_site_settings() == first

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("LLM_CONFIGS_PATH", 3, "LLM_CONFIGS_PATH is of type int, not a path"),
            ("LLM_CONFIGS_PATH", b"/x", "LLM_CONFIGS_PATH is of type bytes"),
            ("LLM_CONFIGS_PATH", "", "LLM_CONFIGS_PATH is '', which is not a path"),
            ("LLM_CONFIGS_PATH", "x\0y", "which is not a path"),
            ("LLM_WRAPPER_ALLOW_TOOL_CODE", "yes", "is 'yes'; it must be True or False"),
            ("LLM_WRAPPER_ALLOW_TOOL_CODE", 1, "is 1; it must be True or False"),
            ("LLM_WRAPPER_ALLOW_TOOL_CODE", None, "is None; it must be True or False"),
            ("LLM_WRAPPER_TOOL_MODULES", "shop.tools", "of type str, not a list of modules"),
            ("LLM_WRAPPER_TOOL_MODULES", ["shop/tools"], "'shop/tools', which is not the name"),
            ("LLM_WRAPPER_TOOL_MODULES", [3], "the item 3"),
            ("LLM_WRAPPER_TOOL_SECONDS", 0, "LLM_WRAPPER_TOOL_SECONDS is 0, .*above 0"),
            ("LLM_WRAPPER_TOOL_SECONDS", float("nan"), "not a finite number"),
            ("LLM_WRAPPER_TOOL_SECONDS", True, "not a number"),
            ("LLM_WRAPPER_MAX_TOOL_ROUNDS", 0, "at least 1"),
            ("LLM_WRAPPER_MAX_TOOL_ROUNDS", 1.5, "not a whole number"),
            ("LLM_WRAPPER_LOCK_SECONDS", -1, "at least 0"),
            ("LLM_WRAPPER_LOCK_SECONDS", None, "LLM_WRAPPER_LOCK_SECONDS is None"),
            ("LLM_WRAPPER_SEED", "x", "LLM_WRAPPER_SEED is 'x', which is not a number"),
            ("TINYTROUPE", ["MAX_ATTEMPTS"], "TINYTROUPE is of type list, not a dictionary"),
        ],
    )
    def test_wrong_values(self, site_settings: Override, name: str, value: Any, said: str) -> None:
        """A wrong value is an error that names the setting."""
        site_settings(**{name: value})
        with pytest.raises(ConfigError, match=said) as caught:
            read_site_settings()
        assert str(caught.value).startswith(name)
        assert name in dict(list_setting_faults())

    def test_relative_to_nothing(self, site_settings: Override) -> None:
        """Without BASE_DIR a relative path is an error: the current folder decides nothing."""
        site_settings(BASE_DIR=None, LLM_CONFIGS_PATH="configs")
        with pytest.raises(ConfigError, match=r"LLM_CONFIGS_PATH is the relative path 'configs'"):
            read_site_settings()


class TestCoreSettings:
    def test_names_in_any_case(self, site_settings: Override, tmp_path: Path) -> None:
        """A key is an attribute of the core's settings or a key of config.ini, in any case."""
        site_settings(
            TINYTROUPE={
                "max_attempts": 2,
                "WAITING_TIME": "0.5",
                "Cache_Api_Calls": True,
                "CACHE_FILE_NAME": tmp_path / "answers",
                "deadline": None,
            }
        )
        found = read_core_settings()
        assert (found.max_attempts, found.waiting_time, found.deadline) == (2, 0.5, None)
        assert (found.cache_api_calls, found.cache_folder) == ("on", str(tmp_path / "answers"))

    def test_nothing_else_is_read(
        self, site_settings: Override, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither the current folder nor the environment changes what a site does."""
        (tmp_path / "config.ini").write_text("[OpenAI]\nTIMEOUT=1\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TINYTROUPE_TIMEOUT", "2")
        site_settings(BASE_DIR=tmp_path / "site", TINYTROUPE={})
        assert read_core_settings().timeout == 60.0
        assert read_core_settings().cache_folder == str(tmp_path / "site" / "tinytroupe_cache")

    def test_a_file_that_is_named(self, site_settings: Override, tmp_path: Path) -> None:
        """A config.ini is read where TINYTROUPE names it, and what stands beside it wins."""
        ini = "[OpenAI]\nTIMEOUT=1\nMAX_ATTEMPTS=7\nCACHE_FILE_NAME=kept\n"
        (tmp_path / "config.ini").write_text(ini, encoding="utf-8")
        site_settings(BASE_DIR=tmp_path, TINYTROUPE={"config": "config.ini", "timeout": 3})
        found = read_core_settings()
        assert (found.timeout, found.max_attempts) == (3.0, 7)
        assert found.cache_folder == str(tmp_path / "kept")

    def test_a_file_that_cannot_be_used(self, site_settings: Override, tmp_path: Path) -> None:
        """A config.ini that is missing or wrong is an error of TINYTROUPE, with its line."""
        site_settings(BASE_DIR=tmp_path, TINYTROUPE={"CONFIG": "config.ini"})
        assert dict(list_setting_faults())["TINYTROUPE"].startswith("TINYTROUPE: ")
        (tmp_path / "config.ini").write_text("[OpenAI]\nTIMEOUTS=1\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"TINYTROUPE: .*config.ini:2: .*did you mean TIME"):
            read_core_settings()

    def test_a_cache_that_is_off_needs_no_folder(self, site_settings: Override) -> None:
        """Where nothing is kept, it does not matter that there is no BASE_DIR."""
        site_settings(BASE_DIR=None, TINYTROUPE={"CACHE_API_CALLS": False})
        assert read_core_settings().cache_api_calls == "off"
        site_settings(BASE_DIR=None, TINYTROUPE={})
        ((name, said),) = list_setting_faults()
        assert name == "TINYTROUPE"
        assert "CACHE_FILE_NAME is the relative path 'tinytroupe_cache'" in said

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"max_attemps": 3}, r"max_attemps: there is no such setting; did you mean MAX_ATT"),
            ({"MAX_ATTEMPTS": 0}, "MAX_ATTEMPTS is 0, which is out of range"),
            ({"TIMEOUT": "long"}, "TIMEOUT is 'long', which is not a number"),
            ({"timeout": 1, "TIMEOUT": 2}, "TIMEOUT: this setting stands twice"),
            ({3: 1}, "the key 3 is not a text"),
            ({"model": "gpt"}, "model: .*in its file in LLM_CONFIGS_PATH, as deployment_name"),
            ({"API_TYPE": "azure"}, "API_TYPE: .*in its file.* as llm_config_class"),
            ({"BASE_URL": "http://h"}, "as endpoint"),
            ({"AZURE_API_VERSION": "x"}, "as api_version"),
            ({"MAX_COMPLETION_TOKENS": 5}, "as max_tokens"),
            ({"FREQ_PENALTY": 1}, "as frequency_penalty"),
            ({"RUN": "record:x"}, "the environment variable TINYTROUPE_RUN sets it"),
            ({"LOGLEVEL": "DEBUG"}, "Django's LOGGING sets this"),
            ({"ON_FAILURE": "none"}, "for simulations and means nothing to a site"),
            ({"EMBEDDING_MODEL": "x"}, "means nothing to a site"),
            ({"OPENAI_API_KEY": KEY}, r"OPENAI_API_KEY: keys of endpoints stand in the models'"),
            ({"CACHE_FILE_NAME": 3}, "CACHE_FILE_NAME is 3, which is of type int"),
        ],
    )
    def test_wrong_keys(self, site_settings: Override, given: Any, said: str) -> None:
        """A key that does not belong here says where it does; an unknown one, what is near."""
        site_settings(TINYTROUPE=given)
        with pytest.raises(ConfigError, match=said) as caught:
            read_site_settings()
        assert str(caught.value).startswith("TINYTROUPE: ")
        assert KEY not in str(caught.value)

    def test_all_faults_at_once(self, site_settings: Override) -> None:
        """One look tells everything that is wrong."""
        site_settings(TINYTROUPE={"modle": 1, "TIMEOUT": -1})
        ((name, said),) = list_setting_faults()
        assert name == "TINYTROUPE"
        assert "modle" in said
        assert "TIMEOUT" in said

    def test_the_names_are_of_the_table(self) -> None:
        """What a site may set is what the core's table has."""
        assert set(CORE_NAMES) < set(SETTINGS)
        assert set(conf._IN_FILES) < set(SETTINGS)
        assert set(conf._OF_RUNS) < set(SETTINGS)


class TestFiles:
    def test_azure(self, tmp_path: Path) -> None:
        """A file says what is asked, where, as whom, and how."""
        config = read(tmp_path, AZURE)
        model = config.model
        assert (config.name, config.config_class) == ("a", "AzureOpenAILLMConfig")
        assert (config.tools_enabled, config.path) == (True, tmp_path / "a.yaml")
        assert (model.provider, model.kind, model.model) == ("azure", "llm", "gpt-4o")
        assert (model.base_url, model.api_key) == ("https://shop.openai.azure.com", KEY)
        assert (model.timeout_seconds, model.requests_per_minute) == (9.0, 60)
        assert model.parameters == {"temperature": 0.3, "max_tokens": 50, "logit_bias": {"1": 2}}
        assert str(model.client_args["api_version"]) == "2024-10-21"

    @pytest.mark.parametrize(("config_class", "provider"), CONFIG_CLASSES.items())
    def test_classes(self, tmp_path: Path, config_class: str, provider: str) -> None:
        """Each class asks one provider of the core, and tools are disabled unless enabled."""
        config = read(tmp_path, f"llm_config_class: {config_class}")
        assert config.model.provider == provider
        assert provider in PROVIDER_NAMES
        assert config.tools_enabled is False
        assert config.model.model == "a"

    @pytest.mark.parametrize("key", ["deployment_name", "model_name", "model"])
    def test_names_of_the_model(self, tmp_path: Path, key: str) -> None:
        """The model may be called as OpenAI, Azure or the core call it."""
        assert read(tmp_path, f"llm_config_class: GroqConfig\n{key}: x").model.model == "x"

    def test_variables(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`${VAR}` is a variable of the environment, and its text is not looked into again."""
        monkeypatch.setenv("SHOP_KEY", "${HOME}" + KEY)
        monkeypatch.setenv("SHOP_TOOLS", "true")
        config = read(
            tmp_path,
            "llm_config_class: OpenAILLMConfig\napi_key: ${SHOP_KEY}\ntools_enabled: ${SHOP_TOOLS}",
        )
        assert config.model.api_key == "${HOME}" + KEY
        assert config.tools_enabled is True

    def test_keys_are_never_shown(self, tmp_path: Path) -> None:
        """No repr shows a key."""
        config = read(tmp_path, AZURE)
        assert KEY not in repr(config) + repr(config.model) + repr(survey_configs(tmp_path))

    @pytest.mark.parametrize("suffix", [".yaml", ".yml", ".YAML", ".Yml"])
    def test_both_endings(self, tmp_path: Path, suffix: str) -> None:
        """A file may end with .yaml or .yml, also in capitals; what ends otherwise is nobody's."""
        write(tmp_path, "a", "llm_config_class: RehearsalConfig", suffix)
        write(tmp_path, "b", "nonsense: 1", ".txt")
        (tmp_path / "folder.yaml").mkdir()
        assert list(survey_configs(tmp_path).configs) == ["a"]
        assert list_config_files(tmp_path) == [tmp_path / f"a{suffix}"]

    @pytest.mark.parametrize(
        ("address", "base", "model"),
        [
            ("https://h/v1/models/NAME:generateContent", "https://h/v1", "NAME"),
            ("https://h/v1beta/models/NAME:streamGenerateContent", "https://h/v1beta", "NAME"),
            ("https://h/models/gemini-2.5-pro", "https://h", "gemini-2.5-pro"),
            ("https://h/proxy/v1/models/NAME:generateContent", "https://h/proxy/v1", "NAME"),
            ("https://h/v1", "https://h/v1", "a"),
        ],
    )
    def test_geminis_address(self, tmp_path: Path, address: str, base: str, model: str) -> None:
        """Of the address of Gemini's method the endpoint and the model are taken."""
        found = read(tmp_path, f"llm_config_class: GeminiConfig\nendpoint: {address}").model
        assert (found.base_url, found.model) == (base, model)
        said = f"llm_config_class: GeminiConfig\nendpoint: {address}\nmodel: {model}"
        assert read(tmp_path, said).model.model == model

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "has no llm_config_class: one of AzureOpenAILLMConfig"),
            ("llm_config_class: GemniConfig", "key llm_config_class: .*did you mean GeminiConfig"),
            ("llm_config_class: [a]", "key llm_config_class: there is no class"),
            ("llm_config_class: OpenAILLMConfig\nprovider: azure", "key provider: llm_config_cla"),
            ("llm_config_class: OpenAILLMConfig\nmodel_type: llm", "key model_type: llm_config_c"),
            (f"llm_config_class: GroqConfig\napi_kye: {KEY}", "key api_kye: .*did you mean api_"),
            ("llm_config_class: GroqConfig\nendpont: x", "key endpont: .*did you mean endpoint"),
            ("llm_config_class: GroqConfig\ntool_enabled: true", "did you mean tools_enabled"),
            ("llm_config_class: GroqConfig\ntools_enabled: maybe", "key tools_enabled: .*neither"),
            ("llm_config_class: GroqConfig\ntools_enabled: 2", "key tools_enabled"),
            ("llm_config_class: GroqConfig\ntools_enabled: [yes]", "key tools_enabled"),
            (f"llm_config_class: GroqConfig\napi_key: [{KEY}]", "key api_key: it is not a key"),
            ("llm_config_class: GroqConfig\nendpoint: h/v1", "key endpoint: .*no such address"),
            (
                f"llm_config_class: GroqConfig\nendpoint: ftp://u:{KEY}@h",
                "key endpoint: .*no such address",
            ),
            (
                "llm_config_class: GroqConfig\nendpoint: http://h\nbase_url: http://h",
                "only one of base_url and endpoint",
            ),
            ("llm_config_class: GroqConfig\nmodel: a\ndeployment_name: b", "only one of model and"),
            ("llm_config_class: GroqConfig\ntemperature: 3", "key temperature: .*from 0 to 2"),
            ("llm_config_class: GroqConfig\napi_version: 1", "key api_version: only Azure"),
            (
                "llm_config_class: GroqConfig\nclient_args: {api_version: 1}",
                "key api_version: only Azure",
            ),
            (
                f"llm_config_class: GeminiConfig\nendpoint: https://h/v1/models/m:x?key={KEY}",
                "key endpoint: an address ends before .*api_key",
            ),
            (
                "llm_config_class: GeminiConfig\nmodel: b\n"
                "endpoint: https://h/v1/models/c:generateContent",
                "key endpoint: it asks the model 'c', but model says another one",
            ),
            (
                "llm_config_class: GeminiConfig\nendpoint: https://h/v1/projects/p/locations/l/"
                "publishers/google/models/c:generateContent",
                "key endpoint: this is an address of Vertex AI",
            ),
            (
                "llm_config_class: GeminiConfig\nendpoint: https://h/v1/models/c:countTokens",
                "key endpoint: the address of an endpoint ends before /models/c:countTokens",
            ),
            (
                "llm_config_class: AzureOpenAILLMConfig\n"
                "endpoint: https://h/openai/deployments/d/chat/completions",
                "key endpoint: .*ends before /openai/deployments/d/chat",
            ),
            (
                "llm_config_class: OpenAICompatibleConfig\nendpoint: http://h/v1/chat/completions/",
                "key endpoint: .*ends before /chat/completions",
            ),
            (
                "llm_config_class: AnthropicConfig\nendpoint: https://api.anthropic.com/v1/messages",
                "key endpoint: .*ends before /messages",
            ),
            ("llm_config_class: GroqConfig\nclient_args: 3", "key client_args"),
            ("a: [", "not YAML"),
            ("a: 1\na: 2", "a stands twice"),
            ("3: x", "the key 3, which is not a text"),
            ("config_name: a", "only one of config_name and name"),
            (
                "llm_config_class: GroqConfig\napi_key: ${NOBODY_SETS_THIS}",
                "key api_key: the environment variable NOBODY_SETS_THIS is not set",
            ),
            (
                "llm_config_class: GroqConfig\napi_key: $NOBODY_SETS_THIS",
                r"key api_key: .*write \$\{NAME\}, in braces",
            ),
        ],
    )
    def test_wrong_files(self, tmp_path: Path, text: str, said: str) -> None:
        """An error names the file and the key, what is near, and never the key of an account."""
        with pytest.raises(ConfigError, match=said):
            read(tmp_path, text)
        assert str(tmp_path / "a.yaml") in refuse(tmp_path, text)

    def test_file_and_name_differ(self, tmp_path: Path) -> None:
        """A file is called as its name."""
        path = tmp_path / "a.yaml"
        path.write_text("name: b\nllm_config_class: RehearsalConfig\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"is called 'a' and its name is 'b'"):
            read_config(path)

    @pytest.mark.parametrize("text", ["", "just a text", "[1]", "llm_config_class: GroqConfig"])
    def test_no_name(self, tmp_path: Path, text: str) -> None:
        """A file without a name, or of another shape, is an error that names it."""
        path = tmp_path / "a.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"a\.yaml"):
            read_config(path)

    @pytest.mark.parametrize(
        "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!own"]
    )
    def test_yaml_makes_no_objects(self, tmp_path: Path, tag: str) -> None:
        """A file that asks for an object is refused, and nothing of it runs."""
        trace = tmp_path / "trace"
        said = refuse(tmp_path, f"llm_config_class: {tag} ['touch {trace}']")
        assert "a.yaml, line 2" in said
        assert "nothing of it was run" in said
        assert not trace.exists()

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        """A broken link and bytes that are no text are errors that name the file."""
        (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
        (tmp_path / "raw.yaml").write_bytes(b"\xff\xfe\xfa")
        faults = survey_configs(tmp_path).faults
        assert "gone.yaml cannot be read" in str(faults["gone"])
        assert "raw.yaml is not a text in UTF-8" in str(faults["raw"])


class TestFolder:
    def test_all(self, configs_folder: Path) -> None:
        """All files of the folder, by name."""
        write(configs_folder, "azure", AZURE, ".yml")
        assert {name: each.tools_enabled for name, each in load_configs().items()} == {
            "azure": True,
            "rehearsal": True,
        }

    def test_each_fault(self, configs_folder: Path) -> None:
        """One wrong file does not hide another, nor those that are right."""
        write(configs_folder, "b", "llm_config_class: x")
        write(configs_folder, "c", "llm_config_class: GroqConfig\ntemperature: hot")
        survey = survey_configs(configs_folder)
        assert list(survey.configs) == ["rehearsal"]
        assert list(survey.faults) == ["b", "c"]
        with pytest.raises(ConfigError, match=r"(?s)b\.yaml.*c\.yaml"):
            load_configs()
        assert get_config("rehearsal").name == "rehearsal"

    def test_two_files_of_one_name(self, configs_folder: Path) -> None:
        """A name that two files have is an error that names both."""
        write(configs_folder, "rehearsal", "llm_config_class: RehearsalConfig", ".yml")
        for act in (lambda: get_config("rehearsal"), load_configs):
            with pytest.raises(ConfigError, match=r"rehearsal\.yaml and .*rehearsal\.yml"):
                act()

    def test_no_setting(self, site_settings: Override) -> None:
        """Without the setting, what needs the folder says which one it is."""
        site_settings(LLM_CONFIGS_PATH=None)
        for act in (load_configs, lambda: get_config("a"), lambda: get_model("a")):
            with pytest.raises(ConfigError, match="LLM_CONFIGS_PATH is not set"):
                act()

    def test_no_folder(self, site_settings: Override, tmp_path: Path) -> None:
        """A folder that is missing, or is a file, is an error that names it."""
        (tmp_path / "file").touch()
        for name in ("nowhere", "file"):
            site_settings(LLM_CONFIGS_PATH=tmp_path / name)
            for act in (load_configs, lambda: get_config("a")):
                with pytest.raises(ConfigError, match=f"the folder {tmp_path / name} cannot"):
                    act()

    def test_unknown(self, configs_folder: Path, site_settings: Override, tmp_path: Path) -> None:
        """An unknown name says what is near, and cannot lead out of the folder."""
        with pytest.raises(UnknownConfig, match="'rehersal'; did you mean rehearsal"):
            get_config("rehersal")
        write(tmp_path, "outside", "llm_config_class: RehearsalConfig")
        with pytest.raises(UnknownConfig, match=r"no configuration '\.\./outside'"):
            get_model("../outside")
        empty = tmp_path / "empty"
        empty.mkdir()
        site_settings(LLM_CONFIGS_PATH=empty)
        assert load_configs() == {}
        with pytest.raises(UnknownConfig, match="it holds no file"):
            get_config("rehearsal")

    def test_fallbacks(self, configs_folder: Path) -> None:
        """A fallback has to be there, and may not be given tools that it must not have."""
        write(configs_folder, "a", "llm_config_class: RehearsalConfig\nfallback: [rehersal]")
        with pytest.raises(UnknownConfig, match=r"key fallback: .*did you mean rehearsal"):
            raise survey_configs(configs_folder).faults["a"]
        with pytest.raises(UnknownConfig, match=r"a\.yaml.*key fallback: .*did you mean rehearsal"):
            get_model("a")
        write(
            configs_folder,
            "c",
            "llm_config_class: RehearsalConfig\ntools_enabled: true\nfallback: [b]",
        )
        write(configs_folder, "b", "llm_config_class: RehearsalConfig")
        for act in (load_configs, lambda: get_model("c")):
            with pytest.raises(ConfigError, match=r"c\.yaml.*key fallback: 'b' has tools disabled"):
                act()


class TestModels:
    def test_answers(self, configs_folder: Path, tmp_path: Path) -> None:
        """A model answers, as its file and TINYTROUPE say, and its answers are kept."""
        model = get_model("rehearsal")
        first = model("Good morning!")
        assert first.model_info["config_name"] == "rehearsal"
        assert model("Good morning!").origin == "cache"
        assert first.text == model("Good morning!").text
        assert (tmp_path / "answers").is_dir()

    def test_one_of_each(self, configs_folder: Path) -> None:
        """There is one model for a name, and all share the store, the meter and the settings."""
        write(configs_folder, "b", "llm_config_class: RehearsalConfig\nmax_retries: 0")
        with ThreadPoolExecutor(8) as pool:
            models = list(pool.map(get_model, ["rehearsal", "b"] * 20))
        assert len({id(model) for model in models}) == 2
        one, other = models[:2]
        assert one.client.meter is other.client.meter
        assert one.client.store is other.client.store
        assert one.client.defaults.retry.max_attempts == read_core_settings().max_attempts
        assert other.client.defaults.retry.max_attempts == 1

    def test_forgotten(self, configs_folder: Path, site_settings: Override) -> None:
        """What was made is forgotten when a setting of the app changes, and only then."""
        before = get_model("rehearsal")
        site_settings(USE_TZ=False)
        assert get_model("rehearsal") is before
        write(configs_folder, "rehearsal", "llm_config_class: RehearsalConfig\nmodel: other")
        assert get_config("rehearsal").model.model == "rehearsal"
        site_settings(LLM_CONFIGS_PATH=configs_folder)
        assert get_config("rehearsal").model.model == "other"
        assert get_model("rehearsal").model_name == "other"
        assert before("Still there?").text

    def test_a_fallback_answers(self, configs_folder: Path) -> None:
        """A fallback is asked where the model itself cannot be reached."""
        write(
            configs_folder,
            "a",
            "llm_config_class: OpenAICompatibleConfig\nendpoint: http://127.0.0.1:9/v1\n"
            "max_retries: 0\nfallback: rehearsal",
        )
        assert get_model("a")("Who is there?").model_info["config_name"] == "rehearsal"

    def test_a_key_with_a_dollar(
        self, configs_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A variable's text is taken as it is all the way to the model."""
        monkeypatch.setenv("SHOP_KEY", "${NOBODY_SETS_THIS}")
        write(configs_folder, "a", "llm_config_class: GroqConfig\napi_key: ${SHOP_KEY}")
        assert get_model("a").config_name == "a"

    def test_nothing_is_made_early(self, configs_folder: Path, tmp_path: Path) -> None:
        """Reading all files makes no model, no store and no connection."""
        load_configs()
        assert configs._held.manager is None
        get_model("rehearsal")
        assert not (tmp_path / "answers").exists()


def test_the_current_folder_does_not_matter(
    configs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config.ini where a site happens to be started neither adds models nor is an error."""
    monkeypatch.chdir(tmp_path)
    Path("config.ini").write_text("[Nonsense]\n", encoding="utf-8")
    assert get_model("rehearsal")("Hello!").text
    assert os.listdir(tmp_path).count("tinytroupe_cache") == 0
