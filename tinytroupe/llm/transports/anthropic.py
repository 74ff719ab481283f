"""Anthropic's Messages API."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from tinytroupe.llm.errors import BadRequest, ConfigError, LLMError
from tinytroupe.llm.request import Request
from tinytroupe.llm.rules.classify import classify_failure
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames
from tinytroupe.llm.transports.anthropic_answers import MessageBuilder, translate_message
from tinytroupe.llm.transports.anthropic_wire import Question, write_question
from tinytroupe.llm.transports.sdk_transport import SDKTransport
from tinytroupe.llm.transports.wire import Reply, check_address, find_key

if TYPE_CHECKING:
    import httpx2

ANTHROPIC_URL = "https://api.anthropic.com"

_KEY_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")

_UNUSED_KEY = "no-key-needed"
"""What another server is sent where no key is set."""


class AnthropicTransport(SDKTransport):
    """Asks Anthropic's models through its SDK. See `Transport`.

    Needs the package anthropic: pip install 'tinytroupe[anthropic]'.

    Args:
        api_key: None: what `ANTHROPIC_API_KEY` or `ANTHROPIC_AUTH_TOKEN` says.
        base_url: With or without `/v1`. None: what `ANTHROPIC_BASE_URL` says, else
            Anthropic's own.
        name: The endpoint's name, for people.
        names: What these settings are called where they stand, for errors.
    """

    package = "anthropic"

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        name: str = "anthropic",
        *,
        names: SettingNames = ARGUMENTS,
    ) -> None:
        super().__init__(api_key, base_url, name, names)

    def _find_address(self) -> str:
        given = self._base_url or os.environ.get("ANTHROPIC_BASE_URL") or ANTHROPIC_URL
        return check_address(given).removesuffix("/v1")

    def _find_key(self) -> str:
        names = self._names
        if key := find_key(self._api_key, _KEY_VARIABLES, names):
            return key
        if self._base_url or os.environ.get("ANTHROPIC_BASE_URL"):
            return _UNUSED_KEY
        raise ConfigError(
            "there is no key for Anthropic: "
            f"{names.say_how_to_give(names.api_key, _KEY_VARIABLES[0])}"
        )

    @staticmethod
    def _refuse_without_package() -> ConfigError:
        return ConfigError(
            "Anthropic's models are asked through its package, which is not installed: "
            "pip install 'tinytroupe[anthropic]'"
        )

    def _make_arguments(self, client: Any) -> dict[str, Any]:
        return {
            "api_key": self._find_key(),
            "base_url": self._find_address(),
            "max_retries": 0,
            "http_client": client,
        }

    def _make_blocking(self, client: httpx2.Client) -> Any:
        return _import_sdk().Anthropic(**self._make_arguments(client))

    def _make_awaiting(self, client: httpx2.AsyncClient) -> Any:
        return _import_sdk().AsyncAnthropic(**self._make_arguments(client))

    def _write(self, request: Request) -> Question:
        return write_question(request)

    def _ask(self, sdk: Any, question: Question, timeout_seconds: float) -> Reply:
        reply = sdk.post(**_make_post(question, timeout_seconds))
        return Reply(reply.status_code, reply.headers, reply.content)

    async def _aask(self, sdk: Any, question: Question, timeout_seconds: float) -> Reply:
        reply = await sdk.post(**_make_post(question, timeout_seconds))
        return Reply(reply.status_code, reply.headers, reply.content)

    def _open(
        self, sdk: Any, question: Question, timeout_seconds: float
    ) -> Generator[Reply | str, None, None]:
        stream = _import_sdk().Stream
        reply = sdk.post(**_make_post(question, timeout_seconds, stream))
        try:
            if not _is_streamed(reply.headers):
                yield Reply(reply.status_code, reply.headers, reply.read())
                return
            yield Reply(reply.status_code, reply.headers, b"")
            for event in stream.raw_events(reply):
                if event.data:
                    yield event.data
        finally:
            reply.close()

    async def _aopen(
        self, sdk: Any, question: Question, timeout_seconds: float
    ) -> AsyncGenerator[Reply | str, None]:
        stream = _import_sdk().AsyncStream
        reply = await sdk.post(**_make_post(question, timeout_seconds, stream))
        try:
            if not _is_streamed(reply.headers):
                yield Reply(reply.status_code, reply.headers, await reply.aread())
                return
            yield Reply(reply.status_code, reply.headers, b"")
            async for event in stream.raw_events(reply):
                if event.data:
                    yield event.data
        finally:
            await reply.aclose()

    def _make_builder(self) -> MessageBuilder:
        return MessageBuilder()

    def _name_failure(self, error: Exception) -> LLMError | None:
        sdk = _import_sdk()
        if isinstance(error, sdk.APIStatusError):
            reply = error.response
            return classify_failure(
                reply.status_code, reply.headers, reply.content, time.time(), self._names
            )
        return None

    def _translate(self, request: Request, content: bytes, created: int) -> tuple[bytes, str]:
        return translate_message(content, created), ""


def _make_post(question: Question, timeout_seconds: float, stream: Any = None) -> dict[str, Any]:
    """Returns the arguments of the SDK's low-level `post`.

    It takes bytes. `messages.create` would walk the type annotations of every
    block, and knows no parameter of an older version of the API.
    """
    import httpx2

    headers = {"content-type": "application/json"}
    if question.version is not None:
        headers["anthropic-version"] = question.version
    body = _adapt_schemas(question.body)
    arguments: dict[str, Any] = {
        "path": "/v1/messages",
        "content": orjson.dumps({**body, "stream": True} if stream is not None else body),
        "cast_to": httpx2.Response,
        "options": {"headers": headers, "timeout": timeout_seconds, "max_retries": 0},
    }
    if stream is not None:
        arguments.update(stream=True, stream_cls=stream)
    return arguments


def _adapt_schemas(body: dict[str, Any]) -> dict[str, Any]:
    """Lets the SDK fit schemas that must be followed into the part of JSON Schema it takes.

    What does not fit, such as a minimum, it puts into the description.
    """
    adapted = dict(body)
    output = body.get("output_config") or {}
    wanted = output.get("format")
    if wanted:
        schema = _adapt_schema(wanted["schema"])
        adapted["output_config"] = {**output, "format": {**wanted, "schema": schema}}
    if "tools" in body:
        adapted["tools"] = [
            {**tool, "input_schema": _adapt_schema(tool["input_schema"])}
            if tool.get("strict")
            else tool
            for tool in body["tools"]
        ]
    return adapted


def _adapt_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    try:
        adapted: dict[str, Any] = _import_sdk().transform_schema(orjson.loads(orjson.dumps(schema)))
    except (ValueError, TypeError, AssertionError) as error:
        raise BadRequest(f"Anthropic cannot follow this JSON schema: {error}") from error
    return adapted


def _is_streamed(headers: Mapping[str, str]) -> bool:
    return "text/event-stream" in headers.get("content-type", "")


def _import_sdk() -> Any:
    try:
        import anthropic
    except ImportError as error:
        raise AnthropicTransport._refuse_without_package() from error
    return anthropic
