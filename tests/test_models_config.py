"""Named models in mappings, lists, JSON, YAML, folders and config.ini."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tinytroupe.llm.config.load import load_settings
from tinytroupe.llm.config.model_entries import find_entries, read_entry
from tinytroupe.llm.config.models import ModelConfig, read_model
from tinytroupe.llm.errors import ConfigError


def read(source: Any, environ: Any = None) -> dict[str, ModelConfig]:
    return {entry.name: read_model(entry) for entry in find_entries(source, environ or {})}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


FAST = {"provider": "groq", "model": "llama", "temperature": 0.3, "max_retries": 2, "timeout": 9}


class TestSources:
    def test_every_source_says_the_same(self, tmp_path: Path) -> None:
        """One model is the same wherever it is written."""
        listed = [{"config_name": "fast", **FAST}]
        yaml = "\n".join(f"{key}: {value}" for key, value in FAST.items())
        folder = tmp_path / "folder"
        folder.mkdir()
        write(folder / "fast.yaml", f"name: fast\n{yaml}\n")
        ini = "\n".join(f"{key.upper()} = {value}" for key, value in FAST.items())
        sources: list[Any] = [
            {"models": {"fast": FAST}},
            {"models": listed},
            listed,
            listed[0],
            {"chat": listed},
            {"llm": listed, "embedding": []},
            write(tmp_path / "list.json", json.dumps(listed)),
            str(write(tmp_path / "kinds.json", json.dumps({"chat": listed}))),
            write(tmp_path / "list.yaml", json.dumps(listed)),
            write(tmp_path / "models.yml", json.dumps({"models": {"fast": FAST}})),
            folder,
            folder / "fast.yaml",
            write(tmp_path / "config.ini", f"[OpenAI]\nMODEL=x\n[Model fast]\n{ini}\n"),
        ]
        for source in sources:
            config = read(source)["fast"]
            assert (config.provider, config.model, config.kind) == ("groq", "llama", "llm")
            assert config.parameters == {"temperature": 0.3}
            assert (config.max_retries, config.timeout_seconds) == (2, 9.0)

    def test_groups(self) -> None:
        """client_args and generate_args mean the same as their keys beside them."""
        config = read(
            [
                {
                    "config_name": "a",
                    "model_type": "openai_chat",
                    "model_name": "gpt",
                    "client_args": {"base_url": "http://h/v1", "timeout": 3, "max_retries": 0},
                    "generate_args": {"temperature": 1, "stop": ["x"], "logit_bias": {"1": 2}},
                }
            ]
        )["a"]
        assert (config.base_url, config.timeout_seconds, config.max_retries) == (
            "http://h/v1",
            3.0,
            0,
        )
        assert config.parameters["logit_bias"] == {"1": 2}
        assert config.parameters["stop"] == ("x",)

    @pytest.mark.parametrize(
        ("given", "provider", "kind"),
        [
            ({}, "openai", "llm"),
            ({"base_url": "http://h"}, "openai-compatible", "llm"),
            ({"model_type": "embedding"}, "openai", "embedding"),
            ({"model_type": "azure_embedding"}, "azure", "embedding"),
            ({"model_type": "gemini_chat"}, "gemini", "llm"),
            ({"model_type": "anthropic"}, "anthropic", "llm"),
            ({"model_type": "embedding", "provider": "ollama"}, "ollama", "embedding"),
        ],
    )
    def test_types(self, given: dict[str, Any], provider: str, kind: str) -> None:
        """A model type is a kind, a provider, or both."""
        config = read({"models": {"a": given}})["a"]
        assert (config.provider, config.kind, config.model) == (provider, kind, "a")

    def test_variables(self) -> None:
        """`${VAR}` reads the environment, at every depth."""
        source = [
            {
                "config_name": "a",
                "api_key": "${KEY}",
                "client_args": {"base_url": "https://${HOST}/v1"},
                "generate_args": {"stop": ["${KEY}"]},
            }
        ]
        config = read(source, {"KEY": "sk-1", "HOST": "h"})["a"]
        assert (config.api_key, config.base_url) == ("sk-1", "https://h/v1")
        assert config.parameters["stop"] == ("sk-1",)

    def test_words_of_azure(self) -> None:
        """`endpoint` and `deployment_name` mean what `base_url` and `model` mean."""
        given = {"provider": "azure", "endpoint": "https://h", "deployment_name": "d"}
        config = read({"models": {"a": given}})["a"]
        assert (config.base_url, config.model) == ("https://h", "d")

    def test_an_entry_stays_as_it_was_read(self, tmp_path: Path) -> None:
        """What was read once is a source, too, and its variables are put in only once."""
        path = write(tmp_path / "a.yaml", "name: a\nprovider: groq\napi_key: ${KEY}\n")
        entry = read_entry(path, {"KEY": "${KEY}"})
        config = read([entry])["a"]
        assert (config.api_key, config.where) == ("${KEY}", f"{path} ('a')")
        with pytest.raises(ConfigError, match="stands twice"):
            read([entry, entry])

    def test_settings_ignore_named_models(self, tmp_path: Path) -> None:
        """Sections of models in config.ini are no error for the settings."""
        write(tmp_path / "config.ini", "[OpenAI]\nMODEL=x\n[Model fast]\nPROVIDER=groq\n")
        assert load_settings(tmp_path, {}).model == "x"

    def test_keys_are_never_shown(self) -> None:
        """Neither entries nor configurations show a key."""
        entry = find_entries([{"config_name": "a", "api_key": "sk-secret"}])[0]
        assert "sk-secret" not in repr(entry) + repr(read_model(entry))


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "complaint"),
        [
            ({"temprature": 1}, r"entry 'a', key temprature: .*did you mean temperature"),
            ({"temperature": 2.5}, "entry 'a', key temperature: .*from 0 to 2"),
            ({"temperature": "warm"}, "key temperature: .*not a number"),
            ({"max_tokens": -1}, "key max_tokens"),
            ({"requests_per_minute": -5}, "key requests_per_minute"),
            ({"tokens_per_minute": 0}, "key tokens_per_minute"),
            ({"max_concurrent": -1}, "key max_concurrent"),
            ({"weight": 0}, "key weight"),
            ({"timeout": 0}, "key timeout"),
            ({"base_url": "localhost:80"}, "key base_url"),
            ({"provider": "opnai"}, "key provider: .*did you mean openai"),
            ({"model_type": "openai_chatt"}, "key model_type: .*did you mean openai_chat"),
            ({"provider": "groq", "model_type": "azure_chat"}, "key provider"),
            ({"generate_args": [1]}, "key generate_args"),
            ({"generate_args": {"temperature": 9}}, "key generate_args.temperature"),
            ({"generate_args": {"stop": {1}}}, "key generate_args"),
            ({"generate_args": {"model": "x"}}, "key model"),
            ({"temperature": 1, "generate_args": {"temperature": 1}}, "key temperature"),
            ({"client_args": {"timeout": 1}, "timeout": 2}, "key client_args.timeout"),
            ({"model": "x", "model_name": "y"}, "only one of"),
            ({"fallback": 3}, "key fallback"),
            ({"api_key": "${NOT_SET}"}, "key api_key: .*NOT_SET is not set"),
            ({"api_key": "$NOT_SET"}, r"key api_key: .*write \$\{NAME\}, in braces"),
        ],
    )
    def test_wrong_keys(self, given: dict[str, Any], complaint: str) -> None:
        """An error names source, entry and key, and what is near."""
        with pytest.raises(ConfigError, match=complaint):
            read({"models": {"a": given}})

    def test_wrong_key_of_an_account_is_not_quoted(self) -> None:
        """What stands where a key should is not shown."""
        with pytest.raises(ConfigError) as caught:
            read({"models": {"a": {"api_key": ["sk-secret"]}}})
        assert "sk-secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("source", "complaint"),
        [
            ("a text.txt", "does not exist"),
            (3, "type int"),
            ([3], "entry 1 is of type int"),
            ([{"model": "x"}], "entry 1 has no config_name"),
            ([{"config_name": ""}], "not a name"),
            ([{"config_name": "a", "name": "b"}], "only one of"),
            ({"modles": {}}, "keys modles"),
            ({"models": {"a": 3}}, "entry 'a' is of type int"),
            ({"chat": 3}, "chat is of type int"),
            ({"chat": [{"config_name": "a", "model_type": "openai_embedding"}]}, "stands under"),
        ],
    )
    def test_wrong_shapes(self, source: Any, complaint: str) -> None:
        """A source of the wrong shape is an error that says where."""
        with pytest.raises(ConfigError, match=complaint):
            read(source)

    def test_duplicates(self, tmp_path: Path) -> None:
        """A name that stands twice is an error that tells both places."""
        twice = [{"config_name": "a"}, {"config_name": "b"}, {"config_name": "a"}]
        with pytest.raises(ConfigError, match=r"entry 3.*stands twice.*entry 1"):
            read(twice)
        with pytest.raises(ConfigError, match="stands twice"):
            read({"chat": [{"config_name": "a"}], "embedding": [{"config_name": "a"}]})
        text = '{"models": {"a": {}, "a": {}}}'
        for name in ("x.json", "x.yaml"):
            with pytest.raises(ConfigError, match="a stands twice"):
                read(write(tmp_path / name, text))
        with pytest.raises(ConfigError, match=r"config.ini:2.*stands twice"):
            read(write(tmp_path / "config.ini", "[Model a]\n[Model a]\n"))

    def test_a_file_without_a_name(self, tmp_path: Path) -> None:
        """A YAML file of one model that does not say its name is told how to."""
        write(tmp_path / "slow.yaml", "model: x\n")
        with pytest.raises(ConfigError, match=r"slow\.yaml has no name; .*: name: slow"):
            read(tmp_path)

    def test_a_key_may_begin_with_a_dollar(self) -> None:
        """Only what a shell would take for a variable is refused as a key."""
        for key in ("$2b$12$x", "$ecret", "sk-$KEY"):
            assert read({"models": {"a": {"api_key": key}}})["a"].api_key == key

    @pytest.mark.parametrize("suffix", [".YAML", ".Yml", ".JSON", ".INI"])
    def test_endings_in_capitals(self, tmp_path: Path, suffix: str) -> None:
        """The ending of a file's name may be in capitals, in a folder as well."""
        text = {".JSON": '{"models": {"slow": {}}}', ".INI": "[Model slow]\n"}
        path = write(tmp_path / f"slow{suffix}", text.get(suffix, "name: slow\n"))
        sources = [path] if suffix in text else [path, tmp_path]
        assert [list(read(source)) for source in sources] == [["slow"]] * len(sources)

    def test_a_file_is_called_as_its_model(self, tmp_path: Path) -> None:
        """A YAML file of one model has its name, in a folder and alone."""
        path = write(tmp_path / "slow.yaml", "name: fast\n")
        for source in (tmp_path, path):
            with pytest.raises(ConfigError, match=r"'slow' and its name is 'fast'"):
                read(source)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        """A folder without YAML is an error."""
        with pytest.raises(ConfigError, match="no YAML"):
            read(tmp_path)

    @pytest.mark.parametrize(
        "tag",
        [
            "!!python/object/apply:os.system",
            "!!python/object/new:subprocess.Popen",
            "!!python/name:os.system",
            "!own",
        ],
    )
    def test_yaml_makes_no_objects(self, tmp_path: Path, tag: str) -> None:
        """YAML that asks for an object is refused, and nothing of it runs."""
        trace = tmp_path / "trace"
        path = write(tmp_path / "a.yaml", f"name: a\nmodel: {tag} ['touch {trace}']\n")
        with pytest.raises(ConfigError, match=r"a.yaml, line 2.*nothing of it was run"):
            read(path)
        assert not trace.exists()

    @pytest.mark.parametrize(
        ("name", "text", "complaint"),
        [
            ("a.yaml", "name: a\n  model: [", r"a.yaml, line 2.*not YAML"),
            ("a.json", '[{"config_name": "a",]', r"a.json, line 1.*not JSON"),
            ("a.yaml", "name: a\nstop: &x [*x]\n", "nested too deeply"),
            ("a.ini", "[Model a]\nnonsense\n", "a.ini:2"),
            ("a.yaml", "[" * 5000, "a.yaml"),
        ],
    )
    def test_broken_files(self, tmp_path: Path, name: str, text: str, complaint: str) -> None:
        """A broken file is an error that names file and line."""
        with pytest.raises(ConfigError, match=complaint):
            read(write(tmp_path / name, text))

    def test_without_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without PyYAML the error has the line that installs it."""
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(ConfigError, match=r"pip install 'tinytroupe\[yaml\]'"):
            read(write(tmp_path / "a.yaml", "name: a\n"))
