"""What the OpenAI and Azure transports make of real bytes on real connections, in both colours."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import time
import traceback
from typing import Any

import pytest
from servers import (
    Close,
    Pause,
    Reset,
    ScriptedServer,
    chat_body,
    chunked_reply,
    drip,
    embedding_body,
    find_dead_url,
    http_reply,
)

from tinytroupe.llm.client import ClientDefaults
from tinytroupe.llm.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    ContentFiltered,
    LLMError,
    MalformedResponse,
    ModelNotFound,
    NonTerminalError,
    QuotaExhausted,
    RateLimited,
    ServerFault,
    TimedOut,
)
from tinytroupe.llm.request import (
    RetryPolicy,
    chat_request,
    completion_request,
    embedding_request,
)
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.transports.azure import AzureTransport
from tinytroupe.llm.transports.openai import OpenAITransport

ONCE = ClientDefaults(retry=RetryPolicy(max_attempts=1), timeout_seconds=5)
THRICE = ClientDefaults(retry=RetryPolicy(max_attempts=3, waiting_seconds=0), timeout_seconds=5)
ASK = chat_request("gpt-4o-mini", [{"role": "user", "content": "Hi ☃"}], temperature=1)
GOOD = http_reply(200, chat_body("Hello."), {"x-request-id": "req-7"})


@pytest.fixture
def connect(colour: Any) -> Any:
    """Makes a client for a server, and closes it in the end."""
    clients = []

    def make(url: str, defaults: ClientDefaults = ONCE, store: Any = None) -> Any:
        clients.append(colour.make_client(OpenAITransport("key", url), store, defaults))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


class TestExchange:
    def test_what_is_sent_and_what_comes_back(self, connect: Any) -> None:
        """The canonical bytes go out with the key; the answer comes back with its request id."""
        with ScriptedServer([GOOD]) as server:
            response = connect(server.base_url).send(ASK)
            (received,) = server.requests
        assert (received.method, received.path) == ("POST", "/v1/chat/completions")
        assert received.body == ASK.body
        assert received.headers["authorization"] == "Bearer key"
        assert received.headers["content-type"] == "application/json"
        assert (response.text, response.request_id, response.attempts) == ("Hello.", "req-7", 1)
        assert response.seconds > 0

    @pytest.mark.parametrize(
        ("request_", "path", "body"),
        [
            (completion_request("m", "Once"), "/v1/completions", b'{"choices":[{"text":"more"}]}'),
            (embedding_request("m", ["a", "b"]), "/v1/embeddings", embedding_body([1], [2])),
        ],
    )
    def test_other_kinds(self, connect: Any, request_: Any, path: str, body: bytes) -> None:
        """Completions and embeddings go to their own addresses."""
        with ScriptedServer([http_reply(200, body)]) as server:
            response = connect(server.base_url).send(request_)
            assert server.requests[0].path == path
        assert response.text == "more" or response.embeddings == [[1], [2]]

    def test_connections_are_kept(self, connect: Any) -> None:
        """Calls one after another share a connection."""
        with ScriptedServer(then=GOOD) as server:
            client = connect(server.base_url)
            for _ in range(5):
                client.send(ASK)
            assert server.connections == 1

    def test_chunked_answer(self, connect: Any) -> None:
        """An answer in chunks is put together."""
        body = chat_body("In pieces.")
        with ScriptedServer([chunked_reply([body[:10], body[10:]])]) as server:
            assert connect(server.base_url).send(ASK).text == "In pieces."

    def test_compressed_answer(self, connect: Any) -> None:
        """A compressed answer is unpacked."""
        packed = gzip.compress(chat_body("Packed."))
        with ScriptedServer([http_reply(200, packed, {"content-encoding": "gzip"})]) as server:
            assert connect(server.base_url).send(ASK).text == "Packed."

    def test_account(self, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Organisation and project travel under the SDK's usual variables."""
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
        with ScriptedServer([GOOD]) as server:
            connect(server.base_url).send(ASK)
            headers = server.requests[0].headers
        assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")

    def test_proxy(self, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy that the environment names is used, except where it says not to."""
        with ScriptedServer(then=GOOD) as proxy, ScriptedServer(then=GOOD) as server:
            monkeypatch.setenv("http_proxy", proxy.url)
            connect("http://far.example/v1").send(ASK)
            assert proxy.requests[0].path == "http://far.example/v1/chat/completions"
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            connect(server.base_url).send(ASK)
            assert len(server.requests) == 1
            assert len(proxy.requests) == 1


class TestMeaningless:
    @pytest.mark.parametrize(
        "reply",
        [
            pytest.param(http_reply(200, b""), id="empty"),
            pytest.param(http_reply(200, b"{broken"), id="invalid JSON"),
            pytest.param(
                http_reply(200, b"<html>hi</html>", {"content-type": "text/html"}), id="html"
            ),
            pytest.param(http_reply(200, b"null"), id="null"),
            pytest.param(http_reply(200, b"[]"), id="list"),
            pytest.param(http_reply(200, b'{"choices": []}'), id="no choices"),
            pytest.param(http_reply(200, chat_body(None)), id="null content"),
            pytest.param(http_reply(200, {"error": {"message": "busy"}}), id="error object"),
            pytest.param([GOOD[:-20], Close()], id="cut short"),
            pytest.param([GOOD[:40], Reset()], id="reset in the head"),
            pytest.param([Close()], id="closed without a word"),
            pytest.param(
                [chunked_reply([chat_body()], terminated=False), Close()], id="no last chunk"
            ),
            pytest.param(http_reply(500, b"<html>"), id="500"),
            pytest.param(http_reply(429, {"error": {}}, {"retry-after-ms": "1"}), id="429"),
        ],
    )
    def test_typed_retried_and_never_stored(self, connect: Any, reply: Any) -> None:
        """What is not an answer is a typed error, is tried again, and is never stored."""
        store = MemoryStore()
        with ScriptedServer([reply, GOOD, reply, reply, reply]) as server:
            client = connect(server.base_url, THRICE, store)
            assert client.send(ASK).attempts == 2
            assert len(store) == 1
            other = chat_request("gpt-4o-mini", [{"role": "user", "content": "other"}])
            with pytest.raises(LLMError) as caught:
                client.send(other)
            assert caught.value.attempts == 3
            assert isinstance(caught.value, (NonTerminalError, ConnectionFailed))
            assert list(store.keys()) == [ASK.digest]

    def test_too_few_vectors(self, connect: Any) -> None:
        """Fewer vectors than texts is not an answer."""
        with (
            ScriptedServer([http_reply(200, embedding_body([1]))]) as server,
            pytest.raises(MalformedResponse, match="2 texts"),
        ):
            connect(server.base_url).send(embedding_request("m", ["a", "b"]))

    def test_surplus_response_reaches_nobody(self, connect: Any) -> None:
        """A second response to one request is not read as the answer to the next."""
        foreign = http_reply(200, chat_body("Meant for another."))
        with ScriptedServer([GOOD + foreign, GOOD]) as server:
            client = connect(server.base_url)
            assert client.send(ASK).text == "Hello."
            assert client.send(ASK).text == "Hello."
            assert server.connections == 2

    def test_late_surplus_reaches_nobody(self, connect: Any) -> None:
        """Nor when it arrives while the connection is idle."""
        foreign = http_reply(200, chat_body("Meant for another."))
        with ScriptedServer([[GOOD, Pause(0.05), foreign], GOOD]) as server:
            client = connect(server.base_url)
            assert client.send(ASK).text == "Hello."
            time.sleep(0.15)
            assert client.send(ASK).text == "Hello."
            assert server.connections == 2

    def test_connection_that_was_closed_while_idle(self, connect: Any) -> None:
        """A connection that the server closed in the meantime is not used again."""
        with ScriptedServer([[GOOD, Close()], GOOD]) as server:
            client = connect(server.base_url)
            client.send(ASK)
            time.sleep(0.1)
            assert client.send(ASK).text == "Hello."


class TestFailures:
    @pytest.mark.parametrize(
        ("reply", "cls"),
        [
            (http_reply(401, {"error": {"code": "invalid_api_key"}}), AuthenticationFailed),
            (http_reply(404, {"error": {"code": "model_not_found"}}), ModelNotFound),
            (http_reply(400, {"error": {"code": "content_filter"}}), ContentFiltered),
            (http_reply(429, {"error": {"code": "insufficient_quota"}}), QuotaExhausted),
            (http_reply(503, b"", {"x-should-retry": "false"}), ServerFault),
        ],
    )
    def test_final_ones_are_asked_once(self, connect: Any, reply: bytes, cls: type) -> None:
        """A wrong key, an unknown model and their like are not tried again."""
        with ScriptedServer([reply]) as server:
            with pytest.raises(cls) as caught:
                connect(server.base_url, THRICE).send(ASK)
            assert len(server.requests) == 1
        assert caught.value.attempts == 1

    def test_what_the_server_said(self, connect: Any) -> None:
        """The error carries status, request id, wait and the server's words, and no key."""
        reply = http_reply(
            429, {"error": {"message": "Slow down."}}, {"retry-after": "7", "x-request-id": "r1"}
        )
        with ScriptedServer([reply]) as server, pytest.raises(RateLimited) as caught:
            connect(server.base_url).send(ASK)
        error = caught.value
        assert (error.status, error.request_id, error.retry_after_seconds) == (429, "r1", 7)
        assert "Slow down." in str(error)
        assert "Bearer" not in repr(vars(error))

    def test_nobody_listens(self, connect: Any) -> None:
        """A dead address is a connection failure that names the address and the reason."""
        url = find_dead_url()
        with pytest.raises(ConnectionFailed) as caught:
            connect(url + "/v1").send(ASK)
        assert url in str(caught.value)
        assert caught.value.__cause__ is not None

    def test_server_that_never_answers(self, connect: Any) -> None:
        """A silent server is given up after the attempt's time."""
        started = time.monotonic()
        with ScriptedServer([[Pause(5)]]) as server, pytest.raises(TimedOut):
            connect(server.base_url, ClientDefaults(RetryPolicy(1), 0.3)).send(ASK)
        assert time.monotonic() - started < 3

    @pytest.mark.parametrize("part", ["head", "body"])
    def test_server_that_drips(self, connect: Any, part: str) -> None:
        """A server that drips bytes is given up after the attempt's time, not per byte."""
        at = 0 if part == "head" else GOOD.index(b"\r\n\r\n") + 4
        started = time.monotonic()
        with ScriptedServer([[GOOD[:at], *drip(GOOD[at:], 0.05)]]) as server:
            client = connect(server.base_url, ClientDefaults(RetryPolicy(1), 0.4))
            with pytest.raises(TimedOut):
                client.send(ASK)
        assert time.monotonic() - started < 3

    def test_redirect_and_missing_page(self, connect: Any) -> None:
        """An address at which there is nothing says to check that."""
        with (
            ScriptedServer([http_reply(404, b"not here")]) as server,
            pytest.raises(LLMError, match="check base_url"),
        ):
            connect(server.base_url).send(ASK)


class TestKeys:
    def test_missing_key_names_the_variable(self, colour: Any) -> None:
        """Without a key and an address the error says which variable to set."""
        with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
            colour.make_client(OpenAITransport(), None, THRICE).send(ASK)

    def test_local_server_needs_no_key(self, colour: Any) -> None:
        """With an address of one's own no key is needed."""
        with ScriptedServer([GOOD]) as server:
            client = colour.make_client(OpenAITransport(base_url=server.base_url), None, ONCE)
            assert client.send(ASK).text == "Hello."
            client.close()

    def test_environment(self, colour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Key and address are found in the SDK's usual variables."""
        with ScriptedServer([GOOD]) as server:
            monkeypatch.setenv("OPENAI_API_KEY", "from-env")
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            client = colour.make_client(OpenAITransport(), None, ONCE)
            client.send(ASK)
            client.close()
            assert server.requests[0].headers["authorization"] == "Bearer from-env"

    def test_key_that_cannot_be_sent(self, colour: Any) -> None:
        """A key with a line end inside is refused, and is shown nowhere."""
        transport = OpenAITransport("sk-secret\nmore", "http://127.0.0.1:9/v1")
        with pytest.raises(LLMError) as caught:
            colour.make_client(transport, None, ONCE).send(ASK)
        shown = "".join(traceback.format_exception(caught.value))
        assert isinstance(caught.value, (ConfigError, ConnectionFailed))
        assert "sk-secret" not in shown

    @pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://127.0.0.1/v1", "http:///v1", "x"])
    def test_address_that_is_none(self, colour: Any, url: str) -> None:
        """An address without a scheme that can be spoken is a mistake in the settings."""
        with pytest.raises(ConfigError, match="http://"):
            colour.make_client(OpenAITransport("key", url), None, THRICE).send(ASK)

    def test_key_is_not_shown(self) -> None:
        """A transport's repr tells the address and not the key."""
        assert "sk-1" not in repr(OpenAITransport("sk-1", "http://localhost/v1"))


class TestAzure:
    def send(self, colour: Any, transport: AzureTransport) -> None:
        client = colour.make_client(transport, None, ONCE)
        client.send(chat_request("my deployment", [{"role": "user", "content": "Hi"}]))
        client.close()

    def test_with_a_key(self, colour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Endpoint, key and version from the environment make Azure's address."""
        with ScriptedServer([GOOD]) as server:
            monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url)
            monkeypatch.setenv("AZURE_OPENAI_KEY", "secret")
            monkeypatch.setenv("AZURE_API_VERSION", "2025-01-01-preview")
            self.send(colour, AzureTransport())
            (received,) = server.requests
        assert received.path == (
            "/openai/deployments/my%20deployment/chat/completions?api-version=2025-01-01-preview"
        )
        assert received.headers["api-key"] == "secret"

    def test_other_name_of_the_key(self, colour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """`AZURE_OPENAI_API_KEY` is as good."""
        with ScriptedServer([GOOD]) as server:
            monkeypatch.setenv("AZURE_OPENAI_API_KEY", "other")
            self.send(colour, AzureTransport(server.url))
            assert server.requests[0].headers["api-key"] == "other"

    def test_entra_id(self, colour: Any) -> None:
        """Without a key a token is fetched and sent as a bearer's."""
        from azure.core.credentials import AccessToken

        class Credential:
            scopes: tuple[str, ...] = ()

            def get_token(self, *scopes: str, **options: Any) -> AccessToken:
                Credential.scopes = scopes
                return AccessToken("entra-token", int(time.time()) + 3600)

        with ScriptedServer([GOOD]) as server:
            self.send(colour, AzureTransport(server.url, credential=Credential()))
            assert server.requests[0].headers["authorization"] == "Bearer entra-token"
        assert Credential.scopes == ("https://cognitiveservices.azure.com/.default",)

    def test_missing_endpoint_names_the_variable(self, colour: Any) -> None:
        """Without an address the error says which variable to set."""
        with pytest.raises(ConfigError, match="AZURE_OPENAI_ENDPOINT"):
            self.send(colour, AzureTransport())


def test_given_sdk_client_is_used() -> None:
    """A ready SDK client serves as it is, with its own retries off for our calls."""
    import openai

    from tinytroupe.llm.client import Client

    with ScriptedServer([http_reply(500), GOOD]) as server:
        sdk = openai.OpenAI(api_key="mine", base_url=server.base_url, max_retries=5)
        with pytest.raises(ServerFault):
            Client(OpenAITransport(sdk=sdk), None, ONCE).send(ASK)
        assert len(server.requests) == 1
        assert server.requests[0].headers["authorization"] == "Bearer mine"
        sdk.close()


def test_program_that_never_closes_ends_quietly() -> None:
    """A program that forgets to close its asynchronous client prints nothing at its end."""
    with ScriptedServer(then=GOOD) as server:
        program = f"""
import asyncio
from tinytroupe.llm import AsyncClient, OpenAITransport, chat_request
client = AsyncClient(OpenAITransport("key", {server.base_url!r}))
ask = chat_request("m", [{{"role": "user", "content": "Hi"}}])
async def main():
    await client.send(ask)
asyncio.run(main())
asyncio.run(main())
"""
        ran = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert len(server.requests) == 2


def test_cancelled_call_frees_its_connection() -> None:
    """Cancelling a call on an event loop ends its exchange and leaves the client usable."""
    from tinytroupe.llm.client import AsyncClient

    async def main(url: str) -> str:
        async with AsyncClient(OpenAITransport("key", url), None, ONCE) as client:
            task = asyncio.create_task(client.send(ASK))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await client.send(ASK)).text

    with ScriptedServer([[Pause(1), GOOD], GOOD]) as server:
        assert asyncio.run(main(server.base_url)) == "Hello."
