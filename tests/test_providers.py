"""Providers by name, what each lacks, and that no word is lost on the way to any of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_calls import ONCE, WEATHER, image, no_keys_from_outside, text, user
from provider_servers import AnthropicServer, GeminiServer, check_contents, check_messages
from servers import Pause, ScriptedServer, chat_body, http_reply

from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import BadRequest, ConfigError, RateLimited
from tinytroupe.llm.messages import to_messages
from tinytroupe.llm.request import (
    Request,
    chat_request,
    completion_request,
    embedding_request,
)
from tinytroupe.llm.rules.capabilities import (
    FEATURES,
    PROVIDERS,
    check_request,
    get_support,
    write_table,
)
from tinytroupe.llm.transports import anthropic_wire, gemini_wire
from tinytroupe.llm.transports.anthropic_wire import TAKES_SAMPLING
from tinytroupe.llm.transports.presets import PRESETS, PROVIDER_NAMES, make_transport
from tinytroupe.llm.transports.turns import read_conversation

__all__ = ["no_keys_from_outside"]
pytestmark = pytest.mark.usefixtures("no_keys_from_outside")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "providers.md"
GOOD = http_reply(200, chat_body("Hello."), {"x-request-id": "req-7"})


def ask(*messages: Any, model: str = "m", **parameters: Any) -> Request:
    return chat_request(model, messages or [user("Hi ☃")], **parameters)


class TestByName:
    def test_each_provider_of_the_table_can_be_made(self) -> None:
        """Every provider with a row is known by name, and besides only the rehearsal."""
        assert set(PROVIDER_NAMES) == {*PROVIDERS, "rehearsal"}
        for provider in PROVIDER_NAMES:
            assert make_transport(provider).name == provider
            assert make_transport(provider, name="mine").name == "mine"

    @pytest.mark.parametrize(
        ("written", "meant"),
        [("antropic", "anthropic"), ("Gemini", "gemini"), ("grok", "groq"), ("open-ai", "openai")],
    )
    def test_unknown_provider(self, written: str, meant: str) -> None:
        """An unknown provider is an error that names the nearest."""
        with pytest.raises(ConfigError, match=f"did you mean {meant}"):
            make_transport(written)

    def test_provider_like_no_other(self) -> None:
        """Where none is near, all are named."""
        with pytest.raises(ConfigError, match=", ".join(PROVIDER_NAMES)):
            make_transport("xyz")

    def test_version_is_azure_s(self) -> None:
        """Only Azure is told a version of its API."""
        make_transport("azure", api_version="2025-01-01")
        with pytest.raises(ConfigError, match="for the provider azure, not for groq"):
            make_transport("groq", api_version="1")

    @pytest.mark.parametrize("provider", ["openai", *PRESETS])
    def test_speaking_openai_s_api(self, colour: Any, provider: str) -> None:
        """Whoever speaks OpenAI's API is asked at the address and with the key that were given."""
        with ScriptedServer([GOOD]) as server:
            transport = make_transport(provider, api_key="k", base_url=server.base_url)
            client = colour.make_client(transport, None, ONCE)
            response = client.send(ask())
            client.close()
            (received,) = server.requests
        assert received.path == "/v1/chat/completions"
        assert received.headers["authorization"] == "Bearer k"
        assert received.body == ask().body
        assert (response.text, response.endpoint) == ("Hello.", provider)

    @pytest.mark.parametrize("provider", PRESETS)
    def test_key_from_the_environment(
        self, colour: Any, monkeypatch: pytest.MonkeyPatch, provider: str
    ) -> None:
        """The key is found under the provider's usual name, and nothing else of OpenAI's goes."""
        monkeypatch.setenv(PRESETS[provider].key_variable, "from-env")
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        with ScriptedServer([GOOD]) as server:
            transport = make_transport(provider, base_url=server.base_url)
            client = colour.make_client(transport, None, ONCE)
            client.send(ask())
            client.close()
            headers = server.requests[0].headers
        assert headers["authorization"] == "Bearer from-env"
        assert "openai-organization" not in headers

    def test_openai_s_key_is_for_openai(self, colour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """OpenAI's key and address are neither sent to another provider nor taken for its own."""
        monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
        with ScriptedServer(then=GOOD) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            with pytest.raises(ConfigError, match="GROQ_API_KEY"):
                colour.make_client(make_transport("groq"), None, ONCE).send(ask())
            assert not server.requests

    def test_compatible_server_needs_an_address(self, colour: Any) -> None:
        """A server without a usual address has to be given one."""
        with pytest.raises(ConfigError, match="give base_url"):
            colour.make_client(make_transport("openai-compatible"), None, ONCE).send(ask())

    def test_stream(self) -> None:
        """Streams come through a preset as through OpenAI."""
        with ScriptedServer([GOOD]) as server:
            transport = make_transport("ollama", base_url=server.base_url)
            *pieces, response = Client(transport, None, ONCE).stream(ask())
            sent = server.requests[0].json()
            transport.close()
        assert (pieces, sent["stream"]) == (["Hello."], True)
        assert response.text == "Hello."  # type: ignore[union-attr]

    def test_client_of_the_sdk(self) -> None:
        """For what a preset does not do there is a client of OpenAI's SDK with its address."""
        with ScriptedServer([GOOD]) as server:
            transport: Any = make_transport("groq", api_key="k", base_url=server.base_url)
            with transport.make_sdk() as sdk:
                sdk.chat.completions.create(model="m", messages=[user("Hi")])
            assert server.requests[0].headers["authorization"] == "Bearer k"

    def test_no_capacity_at_groq(self, colour: Any) -> None:
        """Groq's own status for a tier without capacity is worth another attempt."""
        reply = http_reply(498, {"error": {"message": "Flex tier capacity exceeded"}})
        with ScriptedServer([reply]) as server:
            transport = make_transport("groq", api_key="k", base_url=server.base_url)
            client = colour.make_client(transport, None, ONCE)
            with pytest.raises(RateLimited) as caught:
                client.send(ask())
            client.close()
        assert caught.value.status == 498


STRICT = {
    "anthropic": (AnthropicServer, "claude-opus-5"),
    "gemini": (GeminiServer, "gemini-3.8-flash"),
}


@pytest.mark.parametrize("provider", STRICT)
def test_cancelled_call_frees_its_connection(provider: str) -> None:
    """Cancelling a call on an event loop ends its exchange and leaves the client usable."""

    async def main(url: str, silent: str) -> str:
        model = STRICT[provider][1]
        async with AsyncClient(make_transport(provider, base_url=silent), None, ONCE) as client:
            task = asyncio.create_task(client.send(ask(model=model)))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        transport = make_transport(provider, api_key="key", base_url=url)
        async with AsyncClient(transport, None, ONCE) as client:
            task = asyncio.create_task(client.send(ask(model=model)))
            await asyncio.sleep(0)
            task.cancel()
            return (await client.send(ask(model=model))).text

    with STRICT[provider][0]() as server, ScriptedServer([[Pause(5)]]) as silent:
        assert asyncio.run(main(server.url, silent.url)) == "You said: Hi ☃"


AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}

ASKING: Mapping[str, Request] = {
    "images": ask(user(text("See"), image("https://a.b/c.png"))),
    "files": ask(user(AUDIO)),
    "tools": ask(tools=[WEATHER]),
    "one_tool_at_a_time": ask(tools=[WEATHER], parallel_tool_calls=False),
    "json_schema": ask(response_format=SCHEMA),
    "json_object": ask(response_format={"type": "json_object"}),
    "reasoning_effort": ask(reasoning_effort="low"),
    "seed": ask(seed=0),
    "penalties": ask(presence_penalty=0.1),
    "logit_bias": ask(logit_bias={"1": 1}),
    "logprobs": ask(logprobs=True),
    "several_answers": ask(n=2),
    "names": ask({**user("Hi"), "name": "lisa"}),
    "completions": completion_request("m", "Once"),
    "embeddings": embedding_request("m", "x"),
}

NOT_ASKING = [
    ask(),
    ask(tools=[], n=1, logit_bias={}, logprobs=False, presence_penalty=0, frequency_penalty=0.0),
    ask(parallel_tool_calls=True, response_format={"type": "text"}),
    ask(user("Hi"), {"role": "tool", "tool_call_id": "1", "name": "f", "content": "x"}),
]


class TestCapabilities:
    def test_each_feature_has_an_example(self) -> None:
        """Every feature that a request can ask for is asked for here."""
        seen = {feature.name for feature in FEATURES if feature.is_asked is not None}
        assert seen == set(ASKING)

    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize("feature", ASKING)
    def test_what_is_lacking_is_refused(self, provider: str, feature: str) -> None:
        """A request for what a provider lacks is refused by name, and for nothing else."""
        if get_support(provider, feature) == "no":
            with pytest.raises(BadRequest, match=f"{provider} has no") as caught:
                check_request(provider, ASKING[feature])
            assert caught.value.model == "m"
        else:
            check_request(provider, ASKING[feature])

    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize("request_", NOT_ASKING)
    def test_harmless_requests(self, provider: str, request_: Request) -> None:
        """What asks for nothing special is refused nowhere."""
        check_request(provider, request_)

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_before_the_call(self, colour: Any, provider: str) -> None:
        """The transports refuse what the table says is lacking, and nothing reaches a server."""
        lacking = [name for name in ASKING if get_support(provider, name) == "no"]
        with ScriptedServer() as server:
            transport = make_transport(provider, api_key="k", base_url=server.base_url)
            client = colour.make_client(transport, None, ONCE)
            for name in lacking:
                with pytest.raises(BadRequest, match="has no"):
                    client.send(ASKING[name])
            client.close()
            assert not server.requests

    @pytest.mark.parametrize("provider", STRICT)
    def test_what_is_there_works(self, colour: Any, provider: str) -> None:
        """What the table says is there is taken by a server as strict as the provider's own."""
        server_of, model = STRICT[provider]
        with server_of() as server:
            transport = make_transport(provider, api_key="key", base_url=server.url)
            client = colour.make_client(transport, None, ONCE)
            for name, request in ASKING.items():
                if get_support(provider, name) != "no":
                    again = Request(
                        request.kind, model, request.messages, request.texts, request.parameters
                    )
                    assert client.send(again).kind == request.kind, name
            client.close()

    def test_the_table_in_the_documentation(self) -> None:
        """The table in docs/providers.md is the one that the code writes."""
        assert write_table() in PAGE.read_text(encoding="utf-8")

    def test_older_models_are_those_documented(self) -> None:
        """The page says which Claude models take a temperature, as the rule does."""
        page = PAGE.read_text(encoding="utf-8")
        assert "Opus and Sonnet up to 4.6, Haiku up to 4.5" in " ".join(page.split())
        assert TAKES_SAMPLING.match("claude-opus-4-6")
        assert not TAKES_SAMPLING.match("claude-haiku-4-6")


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
contents = st.one_of(words, st.lists(words.map(text), min_size=1, max_size=3))
arguments = st.dictionaries(words, st.one_of(words, st.integers(-9, 9)), max_size=2)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draws a conversation as OpenAI takes it: calls have results, and the user asks last."""
    messages: list[dict[str, Any]] = []
    made = 0
    for kind in draw(st.lists(st.sampled_from("suuatt"), max_size=8)):
        if kind == "t":
            count = draw(st.integers(1, 3))
            ids = [f"id-{made + number}" for number in range(count)]
            made += count
            calls = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": "f", "arguments": json.dumps(draw(arguments))},
                }
                for call_id in ids
            ]
            said = draw(st.one_of(st.none(), contents))
            messages.append({"role": "user", "content": draw(contents)})
            messages.append({"role": "assistant", "content": said, "tool_calls": calls})
            messages += [
                {"role": "tool", "tool_call_id": call_id, "content": draw(contents)}
                for call_id in draw(st.permutations(ids))
            ]
        else:
            role = {"s": "system", "u": "user", "a": "assistant"}[kind]
            messages.append({"role": role, "content": draw(contents)})
    return [*messages, {"role": "user", "content": draw(contents)}]


def list_texts(messages: list[dict[str, Any]], *roles: str) -> list[str]:
    """Returns the texts of some roles, in order."""
    texts: list[str] = []
    for message in messages:
        if message["role"] in roles and message["content"] is not None:
            content = message["content"]
            texts += [content] if isinstance(content, str) else [part["text"] for part in content]
    return texts


def list_calls(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [
        (call["id"], json.loads(call["function"]["arguments"]))
        for message in messages
        for call in message.get("tool_calls", ())
    ]


def walk(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yields every mapping in a body, in order."""
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from walk(inner)


class TestNothingIsLost:
    @given(conversations())
    @settings(max_examples=150, deadline=None)
    def test_on_the_way_to_anthropic(self, messages: list[dict[str, Any]]) -> None:
        """Each text and each call is in the body once, in order, and the body is well formed."""
        body = anthropic_wire.write_question(ask(*messages)).body
        written = json.loads(json.dumps(body["messages"]))
        check_messages(written)
        assert [block["text"] for block in body.get("system", ())] == list_texts(messages, "system")
        assert [block["text"] for block in walk(written) if block.get("type") == "text"] == (
            list_texts(messages, "user", "assistant", "tool")
        )
        assert [
            (block["id"], block["input"]) for block in walk(written) if "input" in block
        ] == list_calls(messages)

    @given(conversations())
    @settings(max_examples=150, deadline=None)
    def test_on_the_way_to_gemini(self, messages: list[dict[str, Any]]) -> None:
        """The same; of a result with several texts they become lines of one."""
        body = gemini_wire.write_question(ask(*messages)).body
        written = json.loads(json.dumps(body))
        check_contents(written, strict=True)
        system = written.get("systemInstruction", {"parts": []})["parts"]
        assert [part["text"] for part in system] == list_texts(messages, "system")
        turns = written["contents"]
        if next(message["role"] for message in messages if message["role"] != "system") != "user":
            assert turns.pop(0) == {"role": "user", "parts": [{"text": "…"}]}
        parts = [part for turn in turns for part in turn["parts"]]
        assert [part["text"] for part in parts if "text" in part] == (
            list_texts(messages, "user", "assistant")
        )
        assert [
            (part["functionCall"]["id"], part["functionCall"]["args"])
            for part in parts
            if "functionCall" in part
        ] == list_calls(messages)
        results = [message for message in messages if message["role"] == "tool"]
        assert [
            part["functionResponse"]["response"]["output"]
            for part in parts
            if "functionResponse" in part
        ] == ["\n".join(list_texts([result], "tool")) for result in results]

    @given(conversations())
    @settings(max_examples=100, deadline=None)
    def test_turns_alternate(self, messages: list[dict[str, Any]]) -> None:
        """Neighbouring turns are of different sides, and the user's is the last."""
        turns = read_conversation(to_messages(messages)).turns
        sides = [turn.side for turn in turns]
        assert all(one != other for one, other in pairwise(sides))
        assert sides[-1] == "user"
