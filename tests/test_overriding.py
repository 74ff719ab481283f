"""People reach endpoints of their own by overriding TinyTroupe's methods."""

from __future__ import annotations

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from doors import HELLO, FakeClient, configure

from tinytroupe import openai_utils
from tinytroupe.llm.errors import (
    AuthenticationFailed,
    CacheMiss,
    ConnectionFailed,
    LLMAPIError,
    MalformedResponse,
    ServerFault,
    TimedOut,
)
from tinytroupe.openai_utils import LLMCall, NonTerminalError, OpenAIClient

pytest_plugins = ("door_fixtures",)
pytestmark = pytest.mark.usefixtures("folder")


def test_an_overridden_call_goes_through_the_chain():
    """Cache, retry and meter hold for an owner's own method."""
    heard: list[tuple[str, dict[str, Any]]] = []

    class Internal(OpenAIClient):
        def _raw_model_call(self, model: str, chat_api_params: dict[str, Any]) -> Any:
            heard.append((model, copy.deepcopy(chat_api_params)))
            chat_api_params.clear()  # an owner may do with them what he likes
            if len(heard) == 1:
                raise NonTerminalError("try again")
            return {"said": "hi", "usage": {"prompt_tokens": 3, "completion_tokens": 1}}

        def _raw_model_response_extractor(self, response: Any) -> Any:
            return {"role": "assistant", "content": response["said"]}

    client = Internal()
    assert client.send_message(HELLO, model="m", timeout=9, seed=1)["content"] == "hi"
    response = client.send(HELLO, model="m", timeout=9, seed=1)
    assert (response.origin, response.endpoint, response.model) == ("cache", "Internal", "m")
    assert response.usage.total_tokens == 4
    assert len(heard) == 2
    assert (
        heard[0]
        == heard[1]
        == (
            "m",
            {
                "model": "m",
                "messages": HELLO,
                "temperature": 1.0,
                "max_tokens": 4000,
                "seed": 1,
                "timeout": 9.0,
                "stream": False,
            },
        )
    )
    totals = client.meter.summarize()[""]
    assert (totals.calls, totals.hits, totals.attempts) == (2, 1, 2)


def test_simultaneous_callers_share_one_call():
    """Eight threads that ask the same at once make one call of the owner's method."""
    calls: list[str] = []
    go = threading.Event()

    class Internal(OpenAIClient):
        def _raw_model_call(self, model: str, chat_api_params: Any) -> str:
            calls.append(model)
            go.wait(10)
            return "hi"

        def _raw_model_response_extractor(self, response: str) -> dict[str, str]:
            return {"role": "assistant", "content": response}

    client = Internal()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(client.send_message, HELLO) for _ in range(8)]
        go.set()
        assert {future.result()["content"] for future in futures} == {"hi"}
    assert len(calls) == 1


def test_a_method_replaced_on_one_object_counts():
    """What is replaced on an object after it was made is noticed by its first call."""
    client = OpenAIClient()
    client._raw_model_call = lambda model, chat_api_params: "hi"  # type: ignore[method-assign]
    client._raw_model_response_extractor = lambda raw: raw  # type: ignore[method-assign]
    assert client.send_message(HELLO) == {"role": "assistant", "content": "hi"}


def test_an_overridden_embedding_goes_through_the_chain():
    """The vector of an owner's method is cached; messages go their usual way."""
    asked: list[str] = []

    class Internal(FakeClient):
        def _raw_embedding_model_call(self, text: str, model: str) -> Any:
            asked.append(text)
            return [len(text), 0.5]

        def _raw_embedding_model_response_extractor(self, response: Any) -> list[float]:
            return response

    client = Internal()
    assert client.get_embedding("abc") == [3, 0.5]
    assert client.get_embedding("abc") == [3, 0.5]
    assert asked == ["abc"]
    assert client.send_message(HELLO)["content"] == "You said: Hello"
    assert len(client.bodies) == 1


def test_an_own_sdk_client_is_set_up_once_and_used():
    """`_setup_from_config` may give `self.client` anything that has the SDK's methods."""
    made: list[int] = []

    class Message:
        content = "from my sdk"

        def to_dict(self) -> dict[str, Any]:
            return {"role": "assistant", "content": self.content}

    class SDK:
        """Both `sdk.chat.completions.create` and its answer."""

        message = Message()

        def __getattr__(self, name: str) -> Any:
            return self

        def create(self, **parameters: Any) -> Any:
            self.choices = [self]
            self.data = [self]
            self.embedding = [1.0]
            return self

    class Internal(OpenAIClient):
        def _setup_from_config(self) -> None:
            made.append(1)
            self.client = SDK()

    client = Internal()
    assert made == []
    assert client.send_message(HELLO)["content"] == "from my sdk"
    assert client.send_message(HELLO, cache="off")["content"] == "from my sdk"
    assert client.get_embedding("x") == [1.0]
    assert made == [1]


def test_only_what_is_needed_is_set_up():
    """An owner's method that needs no SDK client needs no key either."""

    class Internal(OpenAIClient):
        def _raw_model_call(self, model: str, chat_api_params: Any) -> str:
            return "hi"

        def _raw_model_response_extractor(self, response: str) -> dict[str, str]:
            return {"content": response}

    assert Internal().send_message(HELLO)["content"] == "hi"


@pytest.mark.parametrize(
    ("error", "cls", "attempts"),
    [
        (KeyError("slip"), LLMAPIError, 1),
        (ConnectionResetError("gone"), ConnectionFailed, 2),
        (TimeoutError("slow"), TimedOut, 2),
        (ServerFault("busy", status=503), ServerFault, 2),
        (openai_utils.InvalidRequestError("no"), openai_utils.InvalidRequestError, 1),
    ],
)
def test_foreign_errors_become_ours(error, cls, attempts):
    """Faults of the connection are tried again; a slip in the owner's method is not."""
    configure(MAX_ATTEMPTS="2", WAITING_TIME="0")

    class Internal(OpenAIClient):
        def _raw_model_call(self, model: str, chat_api_params: Any) -> Any:
            raise error

    with pytest.raises(cls) as caught:
        Internal().send_message(HELLO)
    assert caught.value.attempts == attempts
    assert caught.value is error or caught.value.__cause__ is error


def test_a_foreign_http_error_keeps_its_status():
    """An error with a response, as HTTP libraries raise, is read like the endpoint's own."""

    class Reply:
        status_code = 401
        headers = (("X-Request-Id", "r1"),)
        content = b'{"error": {"message": "bad key"}}'

    class HTTPError(Exception):
        response = Reply()

    class Internal(OpenAIClient):
        def _raw_model_call(self, model: str, chat_api_params: Any) -> Any:
            raise HTTPError

    with pytest.raises(AuthenticationFailed, match="bad key") as caught:
        Internal().send_message(HELLO)
    assert (caught.value.status, caught.value.request_id) == (401, "r1")


@pytest.mark.parametrize(
    ("extracted", "cls"),
    [
        (None, MalformedResponse),
        ({"role": "assistant", "content": None}, MalformedResponse),
        ({"role": "assistant", "content": 3}, MalformedResponse),
        ({"content": {1}}, LLMAPIError),
    ],
)
def test_what_is_no_message_is_no_answer(extracted, cls):
    """An extractor that finds no message is a typed error, and nothing is kept."""
    configure(MAX_ATTEMPTS="1")

    class Internal(OpenAIClient):
        def _raw_model_call(self, model: str, chat_api_params: Any) -> Any:
            return {}

        def _raw_model_response_extractor(self, response: Any) -> Any:
            return extracted

    client = Internal()
    with pytest.raises(cls):
        client.send_message(HELLO)
    with pytest.raises(CacheMiss):
        client.send_message(HELLO, cache="only")


def test_on_an_event_loop_it_does_not_block_and_is_given_up():
    """An overridden call runs on a thread; one that takes too long is a TimedOut."""
    go = threading.Event()
    threads: set[str] = set()

    class Internal(OpenAIClient):
        def _raw_model_call(self, model: str, chat_api_params: Any) -> str:
            threads.add(threading.current_thread().name)
            if model == "slow":
                go.wait(10)
            return "hi"

        def _raw_model_response_extractor(self, response: str) -> dict[str, str]:
            return {"content": response}

    client = Internal()

    async def ask_both() -> list[Any]:
        return await asyncio.gather(
            client.asend_message(HELLO, model="slow", timeout=0.05, max_attempts=1),
            client.asend_message(HELLO, model="quick"),
            return_exceptions=True,
        )

    slow, quick = asyncio.run(ask_both())
    go.set()
    assert isinstance(slow, TimedOut)
    assert quick["content"] == "hi"
    assert threading.current_thread().name not in threads
    client.close()


def test_an_overridden_send_message_is_what_a_templated_call_uses():
    """`LLMCall` goes through an owner's `send_message`, in both colours."""

    class Loud(FakeClient):
        def send_message(self, *arguments: Any, **options: Any) -> dict[str, Any]:
            message = super().send_message(*arguments, **options)
            assert message is not None
            return {**message, "content": message["content"].upper()}

    Path("prompts").mkdir()
    Path("prompts/s.j2").write_text("hi")
    openai_utils.register_client("loud", Loud())
    openai_utils.force_api_type("loud")
    call = LLMCall("s.j2")
    assert call.call() == "YOU SAID: HI"
    assert asyncio.run(call.acall()) == "YOU SAID: HI"
    assert call.response is None
