"""What endpoints lack is known before they are asked, in the words of the first call."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from provider_calls import ONCE, no_keys_from_outside, user
from servers import ScriptedServer, chat_body, http_reply

from tinytroupe.llm.client import Client
from tinytroupe.llm.config.endpoints import list_model_lacks, make_endpoint
from tinytroupe.llm.config.model_entries import find_entries
from tinytroupe.llm.config.models import ModelConfig, read_model
from tinytroupe.llm.errors import BadRequest, ConfigError, ModelNotFound
from tinytroupe.llm.request import chat_request
from tinytroupe.llm.rules.setting_names import SettingNames
from tinytroupe.llm.transports.presets import PRESETS, PROVIDER_NAMES, list_lacks, make_transport
from tinytroupe.llm.transports.rehearsal import RehearsalTransport

__all__ = ["no_keys_from_outside"]
pytestmark = pytest.mark.usefixtures("no_keys_from_outside")

ASK = chat_request("m", [user("Hi")])
KEY = "sk-nobody-may-see-this"
PACKAGES = {"anthropic": "anthropic", "gemini": "google.genai", "azure": "azure.identity"}
KEY_VARIABLES = {
    "openai": ["OPENAI_API_KEY"],
    "azure": ["AZURE_OPENAI_KEY", "AZURE_OPENAI_API_KEY"],
    "anthropic": ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"],
    "gemini": ["GEMINI_API_KEY", "GOOGLE_API_KEY"],
    **{name: [preset.key_variable] for name, preset in PRESETS.items()},
}
ADDRESS_VARIABLES = {
    "openai": "OPENAI_BASE_URL",
    "openai-compatible": "OPENAI_BASE_URL",
    "azure": "AZURE_OPENAI_ENDPOINT",
    "anthropic": "ANTHROPIC_BASE_URL",
    "gemini": "GOOGLE_GEMINI_BASE_URL",
}
LACKING = {
    "openai": 1,
    "azure": 2,
    "groq": 1,
    "ollama": 0,
    "vllm": 0,
    "openai-compatible": 1,
    "anthropic": 2,
    "gemini": 2,
    "rehearsal": 0,
}
"""How much each lacks that is told nothing at all, and whose package is missing."""


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PACKAGES.values():
        monkeypatch.setitem(sys.modules, package, None)


def fail(colour: Any, transport: Any) -> str:
    """Returns what the error of the first call says."""
    with pytest.raises(ConfigError) as caught:
        colour.make_client(transport, None, ONCE).send(ASK)
    return caught.value.message


def read_one(source: Any) -> ModelConfig:
    (entry,) = find_entries(source)
    return read_model(entry)


class TestLacks:
    @pytest.mark.parametrize("provider", PROVIDER_NAMES)
    def test_the_first_call_says_the_same(
        self, colour: Any, no_packages: None, provider: str
    ) -> None:
        """Of each provider is told what its first call would fail at."""
        transport = make_transport(provider, names=SettingNames("shop.json", "key", "url"))
        lacks = list_lacks(transport)
        assert len(lacks) == LACKING[provider]
        if lacks:
            assert fail(colour, transport) == lacks[0]

    @pytest.mark.parametrize("provider", sorted(PACKAGES))
    def test_a_package(self, colour: Any, monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
        """A package that is not installed is lacking; Azure's only where there is no key."""
        given: dict[str, Any] = {
            "base_url": "http://127.0.0.1:9",
            "api_key": None if provider == "azure" else KEY,
        }
        assert list_lacks(make_transport(provider, **given)) == []
        monkeypatch.setitem(sys.modules, PACKAGES[provider], None)
        transport = make_transport(provider, **given)
        (lack,) = list_lacks(transport)
        assert "pip install 'tinytroupe[" in lack
        assert fail(colour, transport) == lack
        if provider == "azure":
            assert list_lacks(make_transport(provider, **given | {"api_key": KEY})) == []

    def test_nothing_heavy_is_imported(self) -> None:
        """To tell what is lacking, no package of a provider is imported."""
        code = """
        import sys
        from tinytroupe.llm.transports.presets import PROVIDER_NAMES, list_lacks, make_transport
        for provider in PROVIDER_NAMES:
            list_lacks(make_transport(provider))
        heavy = {"openai", "anthropic", "google.genai", "azure.identity", "httpx2", "aiohttp"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)

    @pytest.mark.parametrize(
        ("provider", "variable"),
        [(provider, name) for provider, names in KEY_VARIABLES.items() for name in names],
    )
    def test_a_key_and_where_it_may_be(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: str, variable: str
    ) -> None:
        """A key given, in a variable, or in the file of a variable is as good; a broken one not."""
        monkeypatch.setitem(sys.modules, "azure.identity", None)
        if provider in ("azure", "openai-compatible"):
            monkeypatch.setenv(ADDRESS_VARIABLES[provider], "http://127.0.0.1:9/v1")
        assert list_lacks(make_transport(provider, api_key=KEY)) == []
        monkeypatch.setenv(variable, KEY)
        assert list_lacks(make_transport(provider)) == []
        monkeypatch.setenv(variable, f"{KEY} and more")
        (lack,) = list_lacks(make_transport(provider))
        assert f"({variable}) has spaces" in lack
        assert KEY not in lack
        monkeypatch.delenv(variable)
        path = tmp_path / "key"
        path.write_text(f"{KEY}\n")
        monkeypatch.setenv(f"{variable}_FILE", str(path))
        assert list_lacks(make_transport(provider)) == []
        path.unlink()
        (lack,) = list_lacks(make_transport(provider))
        assert f"which {variable}_FILE names, cannot be read" in lack

    @pytest.mark.parametrize("provider", ADDRESS_VARIABLES)
    def test_an_address_in_a_variable(self, monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
        """What a variable says is looked at as what is given is."""
        monkeypatch.setenv(ADDRESS_VARIABLES[provider], "http://127.0.0.1:9/v1")
        assert list_lacks(make_transport(provider, api_key=KEY)) == []
        monkeypatch.setenv(ADDRESS_VARIABLES[provider], "nowhere")
        (lack,) = list_lacks(make_transport(provider, api_key=KEY))
        assert "'nowhere' is not an address" in lack

    def test_the_key_of_a_file_is_sent(self, colour: Any, tmp_path: Path, monkeypatch: Any) -> None:
        """The key that the file of a variable holds goes to the endpoint."""
        (tmp_path / "key").write_text(f"{KEY}\n")
        monkeypatch.setenv("GROQ_API_KEY_FILE", str(tmp_path / "key"))
        with ScriptedServer([http_reply(200, chat_body("Yes."))]) as server:
            client = colour.make_client(
                make_transport("groq", base_url=server.base_url), None, ONCE
            )
            assert client.send(ASK).text == "Yes."
            client.close()
            assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"

    def test_other_transports_lack_nothing(self) -> None:
        """A transport that does not tell is taken as it is."""
        assert list_lacks(RehearsalTransport()) == []


class TestNames:
    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ({"provider": "openai-compatible"}, "give base_url in SHOP, or set the environment"),
            ({"provider": "openai-compatible", "endpoint": None}, "give base_url in SHOP"),
            ({"provider": "openai"}, "give api_key in SHOP, or set the environment variable OPE"),
            ({"provider": "openai"}, "or set base_url for a server that needs none"),
            ({"provider": "groq"}, "give api_key in SHOP, or set the environment variable GROQ_A"),
            ({"provider": "anthropic"}, "give api_key in SHOP, or set the environment variable A"),
            ({"provider": "gemini"}, "give api_key in SHOP, or set the environment variable GEM"),
            ({"provider": "azure"}, "give base_url in SHOP, or set the environment variable AZURE"),
            ({"provider": "groq", "api_key": "a b"}, "(api_key in SHOP) has spaces"),
        ],
    )
    def test_what_is_missing(self, colour: Any, entry: dict[str, Any], said: str) -> None:
        """The error of a named model names its entry and its keys, and no setting of config.ini."""
        config = read_one([{"config_name": "shop", **entry}])
        transport = make_endpoint(config, {}).transport
        message = fail(colour, transport)
        assert said.replace("SHOP", config.where) in message
        assert "BASE_URL in" not in message
        assert "API_TYPE" not in message
        told = "; ".join(list_model_lacks(config))
        assert message.replace(f" in {config.where}", "") in told

    @pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "gemini", "azure"])
    @pytest.mark.parametrize("key", ["endpoint", "api_base"])
    def test_what_is_wrong(self, colour: Any, provider: str, key: str) -> None:
        """What an endpoint refuses is said with the keys as they are written."""
        nothing = http_reply(404, b'{"error": {"message": "not here"}}')
        unknown = http_reply(404, b'{"error": {"message": "no such model"}}')
        with ScriptedServer([nothing, unknown]) as server:
            entry = {"provider": provider, key: server.base_url, "deployment_name": "m"}
            config = read_one([{"config_name": "shop", "api_key": KEY, **entry}])
            client = colour.make_client(make_endpoint(config, {}).transport, None, ONCE)
            with pytest.raises(BadRequest) as caught:
                client.send(ASK)
            assert f"check {key} in {config.where} (not here)" in caught.value.message
            with pytest.raises(ModelNotFound) as other:
                client.send(chat_request("m", [user("Hello")]))
            assert f"check deployment_name in {config.where}, and" in other.value.message
            client.close()

    def test_a_type_of_ones_own(self) -> None:
        """What a registered type needs is its own business, and it is not made for the look."""
        (entry,) = find_entries([{"config_name": "own", "model_type": "mine"}])
        assert list_model_lacks(read_model(entry, ["mine"])) == []

    def test_without_a_client(self) -> None:
        """Where settings are arguments, they are called as those."""
        with pytest.raises(ConfigError, match="give api_key, or set the environment variable GROQ"):
            Client(make_transport("groq"), None, ONCE).send(ASK)
