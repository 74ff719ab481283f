"""The door for users of TinyTroupe: its names do what they know, over the one chain."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from doors import HELLO, FakeClient, ask, configure, make_state
from servers import ScriptedServer, http_reply

from tinytroupe import openai_utils
from tinytroupe.llm.errors import (
    AuthenticationFailed,
    BadRequest,
    CacheMiss,
    ConfigError,
    ConnectionFailed,
    LLMError,
    StoreError,
)
from tinytroupe.openai_utils import NonTerminalError, OpenAIClient
from tinytroupe.utils import read_config_file

pytest_plugins = ("door_fixtures",)
pytestmark = pytest.mark.usefixtures("folder")


def test_the_names_are_all_there():
    """The door offers what users of TinyTroupe import, sorted."""
    assert openai_utils.__all__ == sorted(openai_utils.__all__)
    assert all(hasattr(openai_utils, name) for name in openai_utils.__all__)
    assert issubclass(NonTerminalError, LLMError)


def test_forced_values_count_from_the_next_call_on(fake):
    """`force_default_value` beats config.ini, at once."""
    configure(TEMPERATURE="0.25")
    ask("a")
    openai_utils.force_default_value("temperature", 0.75)
    ask("b")
    openai_utils.default["model"] = "other"
    ask("c")
    assert [body["temperature"] for body in fake.bodies] == [0.25, 0.75, 0.75]
    assert [body["model"] for body in fake.bodies] == ["gpt-4o-mini", "gpt-4o-mini", "other"]


def test_an_unknown_key_is_a_value_error():
    """`force_default_value` refuses a name that is no setting, and names the nearest."""
    with pytest.raises(ValueError, match="no setting 'temprature'; did you mean temperature"):
        openai_utils.force_default_value("temprature", 1)
    with pytest.raises(ConfigError, match="TEMPERATURE is 'hot', which is not a number"):
        openai_utils.force_default_value("temperature", "hot")


def test_default_is_a_mapping_of_the_moment():
    """`default` holds TinyTroupe's lower-case names with values of their types."""
    configure(MODEL="m", CACHE_API_CALLS="False", CACHE_FILE_NAME="c.pickle")
    default = openai_utils.default
    assert default["model"] == "m"
    assert default["cache_api_calls"] is False
    assert default["cache_file_name"] == "c.pickle"
    assert default["max_content_display_length"] == 1024
    assert dict(default)["timeout"] == 60.0
    assert "azure_api_version" in default
    assert default.get("nothing", 5) == 5
    with pytest.raises(KeyError):
        default["MODEL"]
    configure(CACHE_API_CALLS="refresh")
    assert default["cache_api_calls"] == "refresh"


def test_config_is_read_like_a_config_parser():
    """`config` gives sections that know `get`, `getint` and `getboolean`."""
    configure(MODEL="m", MAX_TOKENS="5")
    config = openai_utils.config
    assert config["OpenAI"]["MODEL"] == "m"
    assert config["OpenAI"].get("NOTHING", "x") == "x"
    assert config["OpenAI"].getint("MAX_TOKENS") == 5
    assert config["OpenAI"].getboolean("CACHE_API_CALLS", False) is True
    assert config.get("OpenAI", "API_TYPE") == "openai"
    assert "Logging" in config
    assert config.has_section("Simulation")
    assert {"OpenAI", "Simulation", "Logging"} <= set(config)


def test_nothing_is_read_before_it_is_used(folder):
    """A malformed config.ini harms nobody who does not use it, nor does making clients."""
    (folder / "config.ini").write_text("nonsense")
    openai_utils._state.forget_settings()
    repr(openai_utils.default)
    repr(openai_utils.config)
    openai_utils.register_client("mine", OpenAIClient())
    openai_utils.force_api_type("mine")
    with pytest.raises(ConfigError, match=r"config\.ini:1"):
        openai_utils.client()


def test_config_is_read_once_and_again_on_demand():
    """`read_config_file(use_cache=False)` reads anew, and what is forced stays forced."""
    assert read_config_file()["OpenAI"]["MODEL"] == "gpt-4o-mini"
    openai_utils.force_default_value("timeout", 5)
    Path("config.ini").write_text("[OpenAI]\nMODEL=new\nTIMEOUT=9\n")
    assert read_config_file()["OpenAI"]["MODEL"] == "gpt-4o-mini"
    parser = read_config_file(use_cache=False)
    assert (parser["OpenAI"]["MODEL"], parser["OpenAI"].getfloat("TIMEOUT")) == ("new", 5.0)
    assert read_config_file() is parser


def test_a_level_that_was_chosen_is_set():
    """LOGLEVEL sets the logger's level when it stands somewhere, and never by default."""
    logger = logging.getLogger("tinytroupe")
    logger.setLevel(logging.CRITICAL)
    openai_utils.default["model"]
    assert logger.level == logging.CRITICAL
    Path("config.ini").write_text("[Logging]\nLOGLEVEL=info\n")
    openai_utils._state.forget_settings()
    openai_utils.default["model"]
    assert logger.level == logging.INFO
    openai_utils.force_default_value("loglevel", "NONE")
    assert logger.level == logging.INFO
    logger.setLevel(logging.ERROR)
    openai_utils.force_default_value("model", "x")
    assert logger.level == logging.ERROR


def test_one_client_serves_all_threads():
    """`client()` is one object per API type, whoever asks first."""
    configure(API_TYPE="rehearsal")
    gate = threading.Barrier(8)

    def get() -> Any:
        gate.wait()
        return openai_utils.client()

    with ThreadPoolExecutor(8) as pool:
        clients = [future.result() for future in [pool.submit(get) for _ in range(8)]]
    assert len(set(map(id, clients))) == 1


def test_the_api_type_chooses_the_client():
    """openai, azure, rehearsal and registered names; forcing beats config.ini."""
    configure(API_TYPE="azure")
    assert type(openai_utils.client()) is openai_utils.AzureClient
    openai_utils.force_api_type("openai")
    assert type(openai_utils.client()) is OpenAIClient
    openai_utils.force_api_type("rehearsal")
    assert isinstance(openai_utils.client().send_message(HELLO)["content"], str)


def test_an_unknown_api_type_names_config_ini():
    """An unknown API type is a ValueError and a ConfigError that names file and nearest."""
    configure(API_TYPE="opneai")
    for cls in (ValueError, ConfigError):
        with pytest.raises(cls, match=r"did you mean openai\?; check API_TYPE in config\.ini"):
            openai_utils.client()
    with pytest.raises(ValueError, match=r"config\.ini"):
        openai_utils._get_client_for_api_type("nothing")


def test_anything_that_sends_messages_can_be_registered():
    """A foreign client needs only `send_message`, and may take a built-in name."""

    class Foreign:
        def send_message(self, messages: Any, **arguments: Any) -> dict[str, Any]:
            return {"role": "assistant", "content": f"{len(messages)} {arguments}"}

    openai_utils.register_client("openai", Foreign())
    assert openai_utils.client().send_message(HELLO, n=1)["content"] == "1 {'n': 1}"
    with pytest.raises(ConfigError, match="no method send_message"):
        openai_utils.register_client("x", object())


@pytest.mark.parametrize(
    ("api_type", "variable"),
    [("openai", "OPENAI_API_KEY"), ("azure", "AZURE_OPENAI_ENDPOINT")],
)
def test_a_missing_key_names_its_variable(api_type, variable):
    """Without a key the error says which environment variable to set, and nothing is tried."""
    configure(API_TYPE=api_type)
    with pytest.raises(ConfigError, match=variable) as caught:
        ask()
    if api_type == "openai":
        assert "BASE_URL in config.ini for a server that needs none" in str(caught.value)
        assert "API_TYPE = rehearsal to run without a model" in str(caught.value)


def test_nothing_at_an_address_names_its_setting():
    """An address out of config.ini at which there is nothing is said to be wrong by its key."""
    with ScriptedServer([http_reply(404, b"not here")]) as server:
        configure(BASE_URL=server.base_url, MAX_ATTEMPTS="1")
        with pytest.raises(BadRequest, match=r"check BASE_URL in config\.ini \(not here\)"):
            ask()


def test_a_key_never_shows(monkeypatch, caplog):
    """Neither client, settings nor log hold a key."""
    key = "sk-" + "quiet" * 6
    monkeypatch.setenv("OPENAI_API_KEY", key)
    configure(BASE_URL="http://127.0.0.1:9/v1", MAX_ATTEMPTS="1")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConnectionFailed) as caught:
        ask()
    client = openai_utils.client()
    shown = [repr(client), repr(client._pairs.get()), str(caught.value), caplog.text]
    assert not any(key in text for text in shown)


def test_a_second_process_buys_nothing(monkeypatch, fake, folder):
    """Answers are in the folder that CACHE_FILE_NAME names, for every later run."""
    configure(CACHE_FILE_NAME="answers")
    ask()
    assert (folder / "answers").is_dir()
    monkeypatch.setattr(openai_utils, "_state", make_state())
    second = FakeClient()
    assert second.send(HELLO).origin == "cache"
    assert second.bodies == []


def test_force_api_cache_moves_every_client(fake, folder):
    """From the next call on all clients use the folder and mode that were forced."""
    heard: list[Any] = []

    class Foreign:
        def send_message(self, messages: Any) -> None: ...

        def set_api_cache(self, *arguments: Any) -> None:
            heard.append(arguments)

    own = FakeClient(cache_api_calls=False, cache_file_name="mine")
    openai_utils.register_client("own", own)
    openai_utils.register_client("foreign", Foreign())
    ask()
    openai_utils.force_api_cache(True, cache_file_name="second")
    ask()
    own.send_message(HELLO)
    assert (folder / "tinytroupe_cache").is_dir()
    assert (folder / "second").is_dir()
    assert not (folder / "mine").exists()
    assert len(fake.bodies) == 2
    assert own.bodies == []
    assert heard == [(True, "second")]
    openai_utils.force_api_cache(False)
    ask()
    ask()
    assert len(fake.bodies) == 4
    with pytest.raises(ConfigError, match="one of on, off, refresh, only"):
        openai_utils.force_api_cache("maybe")


def test_a_client_may_have_a_cache_of_its_own(folder):
    """Arguments of the client beat the settings, for this client."""
    client = FakeClient(cache_api_calls="only", cache_file_name="mine")
    with pytest.raises(CacheMiss):
        client.send_message(HELLO)
    client.set_api_cache(True, cache_file_name="other")
    client.send_message(HELLO)
    client.set_api_cache("only", cache_file_name="other")
    client.send_message(HELLO)
    assert len(client.bodies) == 1
    assert (folder / "other").is_dir()
    with pytest.raises(ConfigError, match="CACHE_API_CALLS is 'maybe'"):
        client.set_api_cache("maybe")


@pytest.mark.parametrize(("mode", "asked"), [("on", 1), ("off", 2), ("refresh", 2)])
def test_the_modes_are_those_of_config_ini(fake, mode, asked):
    """CACHE_API_CALLS chooses the mode, and `off` makes no folder."""
    configure(CACHE_API_CALLS=mode)
    ask()
    ask()
    assert len(fake.bodies) == asked
    assert Path("tinytroupe_cache").exists() == (mode != "off")


def test_the_pickles_name_is_explained_once(fake, folder, caplog):
    """TinyTroupe's pickle is left alone, the folder beside it is used, and one line says so."""
    (folder / "openai_api_cache.pickle").write_bytes(b"\x80\x04N.")
    configure(CACHE_FILE_NAME="openai_api_cache.pickle")
    caplog.set_level(logging.INFO, "tinytroupe")
    ask("a")
    ask("b")
    assert (folder / "openai_api_cache").is_dir()
    assert (folder / "openai_api_cache.pickle").read_bytes() == b"\x80\x04N."
    said = [record for record in caplog.records if "TinyTroupe's" in record.message]
    assert len(said) == 1
    assert said[0].levelno == logging.INFO


def test_a_file_in_the_folders_place_is_an_error(fake, folder):
    """A cache that is a file is named in the error, and nothing is bought."""
    (folder / "taken").write_text("")
    configure(CACHE_FILE_NAME="taken")
    with pytest.raises(StoreError, match="taken is a file"):
        ask()
    assert fake.bodies == []


def test_rehearsed_answers_are_never_taken_for_real_ones(fake):
    """A dry run leaves nothing that a real run could find."""
    openai_utils.force_api_type("rehearsal")
    rehearsed = ask()
    vector = openai_utils.client().get_embedding("four")
    openai_utils.force_api_type("fake")
    assert ask() == "You said: Hello" != rehearsed
    assert openai_utils.client().get_embedding("four") == [4.0, 1.0] != vector


def test_openai_by_base_url(endpoint, monkeypatch):
    """BASE_URL and a key from a file lead to an OpenAI-compatible server."""
    Path("key").write_text("sk-from-file\n")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "key")
    configure(BASE_URL=f"{endpoint.address}/v1")
    assert ask() == "You said: Hello"
    assert asyncio.run(openai_utils.client().asend_message(HELLO, sample=1))["content"]
    path, headers, body = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer sk-from-file"
    assert body["model"] == "gpt-4o-mini"
    assert len(endpoint.requests) == 2


def test_azure_by_its_variables(endpoint, monkeypatch):
    """AZURE_OPENAI_ENDPOINT, the key and AZURE_API_VERSION lead to a deployment."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", endpoint.address)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key")
    configure(API_TYPE="azure", AZURE_API_VERSION="2024-06-01", MODEL="my-deployment")
    assert ask() == "You said: Hello"
    path, headers, _ = endpoint.requests[0]
    assert path == ("/openai/deployments/my-deployment/chat/completions?api-version=2024-06-01")
    assert headers["api-key"] == "azure-key"


def test_a_change_of_address_counts_from_the_next_call_on(endpoint):
    """Forcing BASE_URL moves the client to another server."""
    configure(BASE_URL="http://127.0.0.1:9/v1", MAX_ATTEMPTS="1")
    with pytest.raises(ConnectionFailed):
        ask()
    openai_utils.force_default_value("base_url", f"{endpoint.address}/v1")
    assert ask() == "You said: Hello"


def test_an_own_extractor_over_the_usual_sdk(endpoint):
    """Overriding only the extractor keeps TinyTroupe's call through `self.client`."""

    class Shouting(OpenAIClient):
        def _raw_model_response_extractor(self, response: Any) -> Any:
            message = super()._raw_model_response_extractor(response)
            return {**message, "content": message["content"].upper()}

    configure(BASE_URL=f"{endpoint.address}/v1")
    response = Shouting().send(HELLO)
    assert (response.text, response.finish_reason) == ("YOU SAID: HELLO", "stop")
    assert response.usage.total_tokens == 10


def test_sdk_errors_of_an_overridden_call_keep_their_meaning(endpoint):
    """What the SDK raises in an owner's method is classified like the transport's own."""

    class Internal(OpenAIClient):
        def _setup_from_config(self) -> None:
            import openai

            self.client = openai.OpenAI(
                api_key="k", base_url=f"{endpoint.address}/v1", max_retries=0
            )

    endpoint.statuses = [401]
    with pytest.raises(AuthenticationFailed) as caught:
        Internal().send_message(HELLO)
    assert (caught.value.status, caught.value.attempts) == (401, 1)
    assert Internal().send_message(HELLO)["content"] == "You said: Hello"
