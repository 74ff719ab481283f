"""Fixtures for tests of chats; every `test_django_*` file has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, ChatServer
from django_fixtures import Database

from tinytroupe.contrib.django.models import ChatHistory, LLMConfigName, PromptTemplate, Tool
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper

MakePrompt = Callable[..., PromptTemplate]


class Endpoints:
    """Endpoints on this machine, each with a configuration that the site knows."""

    def __init__(self, folder: Path, site_settings: Callable[..., None]) -> None:
        self._folder = folder
        self._site_settings = site_settings
        self.servers: dict[str, ChatServer] = {}

    def add(self, name: str, answer: Answer, **keys: Any) -> ChatServer:
        """Starts a server, and tells the site of it under a name."""
        server = self.servers[name] = ChatServer(answer)
        facts = {
            "name": name,
            "llm_config_class": "OpenAICompatibleConfig",
            "endpoint": server.base_url,
            "deployment_name": f"model-of-{name}",
            "tools_enabled": True,
            "max_retries": 0,
            **keys,
        }
        # JSON is YAML as well.
        (self._folder / f"{name}.yaml").write_text(json.dumps(facts), encoding="utf-8")
        LLMConfigName.objects.get_or_create(name=name)
        # What was read of the folder before is forgotten.
        self._site_settings(LLM_CONFIGS_PATH=self._folder)
        return server


@pytest.fixture
def endpoints(
    database: Database, configs_folder: Path, site_settings: Callable[..., None]
) -> Iterator[Endpoints]:
    """Endpoints that the test adds; they end with it."""
    made = Endpoints(configs_folder, site_settings)
    yield made
    for server in made.servers.values():
        server.close()


@pytest.fixture
def make_prompt(database: Database, configs_folder: Path) -> MakePrompt:
    """A function that makes a prompt template; without `configs`, rehearsal answers it."""

    def make(
        name: str = "support",
        *,
        configs: tuple[str, ...] = ("rehearsal",),
        tools: tuple[Tool, ...] = (),
        **fields: Any,
    ) -> PromptTemplate:
        given = {"system_prompt_template": "You help {{ customer }}.", **fields}
        template = PromptTemplate.objects.create(name=name, **given)
        for config in configs:
            template.llm_config_names.add(LLMConfigName.objects.get_or_create(name=config)[0])
        template.tools.set(tools)
        return template

    return make


class Door:
    """Uses a wrapper in one of three ways."""

    def __init__(self, way: str) -> None:
        self.way = way

    def open(self, **arguments: Any) -> LLMCommunicationWrapper:
        """Makes a wrapper, with variables that the templates of these tests ask for."""
        arguments = {
            "prompt_name": "support",
            "initializing_context_vars": {"customer": "Amina"},
            **arguments,
        }
        if self.way == "async":
            return asyncio.run(LLMCommunicationWrapper.acreate(**arguments))
        return LLMCommunicationWrapper(**arguments)

    def send(self, wrapper: LLMCommunicationWrapper, message: str, *rest: Any, **named: Any) -> Any:
        """Sends a message and returns the whole answer."""
        if self.way == "async":
            sent = wrapper.asend_user_message_and_get_response(message, *rest, **named)
            return asyncio.run(sent)
        if self.way == "stream":
            return "".join(wrapper.stream_user_message(message, *rest, **named)).strip()
        if self.way == "async stream":

            async def read() -> str:
                pieces = wrapper.astream_user_message(message, *rest, **named)
                return "".join([piece async for piece in pieces]).strip()

            return asyncio.run(read())
        return wrapper.send_user_message_and_get_response(message, *rest, **named)


@pytest.fixture(params=["sync", "async", "stream", "async stream"])
def door(request: pytest.FixtureRequest) -> Door:
    """The same test through each way of sending a message."""
    return Door(request.param)


@pytest.fixture
def plain_door() -> Door:
    """For tests of what does not depend on the way."""
    return Door("sync")


def read_chat(wrapper: LLMCommunicationWrapper) -> list[dict[str, Any]]:
    """Returns the messages that the database holds."""
    messages: list[dict[str, Any]] = ChatHistory.objects.get(
        pk=wrapper.chat_history_id
    ).chat_history
    return messages


def outline(messages: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """Returns who said what."""
    return [(message["role"], message["content"].strip()) for message in messages]
