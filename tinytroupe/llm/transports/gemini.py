"""Google's Gemini API."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing
from threading import local
from typing import TYPE_CHECKING, Any

import orjson

from tinytroupe.llm.errors import ConfigError, LLMError, MalformedResponse
from tinytroupe.llm.request import Request
from tinytroupe.llm.rules.classify import classify_failure
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames
from tinytroupe.llm.transports.gemini_answers import (
    AnswerBuilder,
    translate_answer,
    translate_embeddings,
)
from tinytroupe.llm.transports.gemini_wire import Question, write_question
from tinytroupe.llm.transports.sdk_transport import SDKTransport
from tinytroupe.llm.transports.wire import Reply, check_address, find_key

if TYPE_CHECKING:
    import httpx2

GEMINI_URL = "https://generativelanguage.googleapis.com"


class GeminiTransport(SDKTransport):
    """Asks Google's models through its SDK. See `Transport`.

    Needs the package google-genai: pip install 'tinytroupe[gemini]'.

    Args:
        api_key: None: what `GOOGLE_API_KEY` or `GEMINI_API_KEY` says; Google's own
            tools ask them in this order.
        base_url: With or without a version such as `/v1beta`. None: what
            `GOOGLE_GEMINI_BASE_URL` says, else Google's own.
        name: The endpoint's name, for people.
        names: What these settings are called where they stand, for errors.
    """

    package = "google.genai"

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        name: str = "gemini",
        *,
        names: SettingNames = ARGUMENTS,
    ) -> None:
        super().__init__(api_key, base_url, name, names)
        self._opened = local()

    def _find_address(self) -> str:
        return self._split_address()[0]

    def _split_address(self) -> tuple[str, str | None]:
        """Returns the address, and the version of the API if it ends with one."""
        given = self._base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL") or GEMINI_URL
        address = check_address(given)
        versioned = _VERSIONED.fullmatch(address)
        return (versioned[1], versioned[2]) if versioned else (address, None)

    def _find_key(self) -> str:
        names = self._names
        if key := find_key(self._api_key, ("GOOGLE_API_KEY", "GEMINI_API_KEY"), names):
            return key
        if self._base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL"):
            return "no-key-needed"
        raise ConfigError(
            f"there is no key for Gemini: {names.say_how_to_give(names.api_key, 'GEMINI_API_KEY')}"
        )

    @staticmethod
    def _refuse_without_package() -> ConfigError:
        return ConfigError(
            "Gemini is asked through Google's package, which is not installed: "
            "pip install 'tinytroupe[gemini]'"
        )

    def _make_blocking(self, client: httpx2.Client) -> Any:
        from tinytroupe.llm.transports.http_clients import AioClient, AioConnections

        client.event_hooks = {"response": [self._remember]}
        return self._make_client(client, AioClient(AioConnections()))

    def _remember(self, response: httpx2.Response) -> None:
        self._opened.response = response

    def _make_awaiting(self, client: httpx2.AsyncClient) -> Any:
        from tinytroupe.llm.transports.sdk import DeadlineClient

        return self._make_client(DeadlineClient(), client).aio

    def _make_client(self, blocking: httpx2.Client, awaiting: httpx2.AsyncClient) -> Any:
        # The SDK's client speaks in both ways, and would make what it is not given.
        genai, types = _import_sdk()
        address, version = self._split_address()
        return genai.Client(
            vertexai=False,
            api_key=self._find_key(),
            http_options=types.HttpOptions(
                base_url=address,
                api_version=version,
                retry_options=types.HttpRetryOptions(attempts=1),
                httpx_client=blocking,
                httpx_async_client=awaiting,
            ),
        )

    def _write(self, request: Request) -> Question:
        return write_question(request)

    def _ask(self, sdk: Any, question: Question, timeout_seconds: float) -> Reply:
        if question.texts:
            return _read_vectors(
                sdk.models.embed_content(**_make_embed_arguments(question, timeout_seconds))
            )
        return _read_answer(
            sdk.models.generate_content(**_make_arguments(question, timeout_seconds, raw=True))
        )

    async def _aask(self, sdk: Any, question: Question, timeout_seconds: float) -> Reply:
        if question.texts:
            return _read_vectors(
                await sdk.models.embed_content(**_make_embed_arguments(question, timeout_seconds))
            )
        return _read_answer(
            await sdk.models.generate_content(
                **_make_arguments(question, timeout_seconds, raw=True)
            )
        )

    def _open(
        self, sdk: Any, question: Question, timeout_seconds: float
    ) -> Generator[Reply | dict[str, Any], None, None]:
        if question.texts:
            yield self._ask(sdk, question, timeout_seconds)
            return
        chunks = sdk.models.generate_content_stream(
            **_make_arguments(question, timeout_seconds, raw=False)
        )
        chunk = next(chunks, None)
        response: httpx2.Response = self._opened.response
        try:
            while chunk is not None:
                yield from _read_chunk(chunk)
                chunk = next(chunks, None)
        finally:
            # The SDK leaves a stream open that is not read to its end.
            response.close()

    async def _aopen(
        self, sdk: Any, question: Question, timeout_seconds: float
    ) -> AsyncGenerator[Reply | dict[str, Any], None]:
        if question.texts:
            yield await self._aask(sdk, question, timeout_seconds)
            return
        chunks = await sdk.models.generate_content_stream(
            **_make_arguments(question, timeout_seconds, raw=False)
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                for part in _read_chunk(chunk):
                    yield part

    def _make_builder(self) -> AnswerBuilder:
        return AnswerBuilder()

    def _name_failure(self, error: Exception) -> LLMError | None:
        from google.genai import errors

        if isinstance(error, errors.APIError):
            reply = error.response
            headers = _to_mapping(getattr(reply, "headers", None) or {})
            content = getattr(reply, "content", None)
            if not isinstance(content, bytes):  # told in the middle of a stream
                content = orjson.dumps(error.details)
            return classify_failure(error.code or None, headers, content, time.time(), self._names)
        if isinstance(error, ValueError):
            # What is asked is checked before; so it is what came that the SDK cannot read.
            return MalformedResponse(f"the answer cannot be read: {type(error).__name__}")
        return None

    def _translate(self, request: Request, content: bytes, created: int) -> tuple[bytes, str]:
        if request.kind == "embedding":
            return translate_embeddings(content, request.model), ""
        return translate_answer(content, created)


_VERSIONED = re.compile(r"(.+)/(v\d+(?:alpha|beta)?\d*)")


def _make_arguments(question: Question, timeout_seconds: float, *, raw: bool) -> dict[str, Any]:
    """Returns the arguments of `generate_content` and its like.

    The body goes in as `extra_body`, which the SDK sends as it is; what it
    demands as contents is replaced by those in the body.
    """
    _, types = _import_sdk()
    options: dict[str, Any] = {
        "http_options": _make_http_options(timeout_seconds, extra_body=question.body),
        "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
    }
    if raw:
        options["should_return_http_response"] = True
    if "automatic_continuation" in types.GenerateContentConfig.model_fields:
        options["automatic_continuation"] = False
    return {
        "model": question.model,
        "contents": "…",
        "config": types.GenerateContentConfig(**options),
    }


def _make_embed_arguments(question: Question, timeout_seconds: float) -> dict[str, Any]:
    _, types = _import_sdk()
    return {
        "model": question.model,
        # One content for each text: the SDK takes a list of texts for parts of one content
        # where a model can also embed images.
        "contents": [types.Content(parts=[types.Part(text=text)]) for text in question.texts],
        "config": types.EmbedContentConfig(
            http_options=_make_http_options(timeout_seconds), **(question.config or {})
        ),
    }


def _make_http_options(timeout_seconds: float, **options: Any) -> Any:
    _, types = _import_sdk()
    milliseconds = max(int(timeout_seconds * 1000), 1)
    return types.HttpOptions(timeout=milliseconds, **options)


def _read_answer(response: Any) -> Reply:
    told = response.sdk_http_response
    return Reply(200, _to_mapping(told.headers), (told.body or "").encode())


def _read_vectors(response: Any) -> Reply:
    rows = [{"values": row.values} for row in response.embeddings or ()]
    usage = getattr(response, "usage_metadata", None)
    told = response.sdk_http_response
    body = {
        "embeddings": rows,
        "usageMetadata": usage.model_dump(mode="json", by_alias=True) if usage else None,
    }
    return Reply(200, _to_mapping(told.headers if told else {}), orjson.dumps(body))


def _read_chunk(chunk: Any) -> Generator[Reply | dict[str, Any], None, None]:
    told = chunk.sdk_http_response
    yield Reply(200, _to_mapping(told.headers if told else {}), b"")
    body = chunk.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"sdk_http_response", "parsed"}
    )
    for candidate in body.get("candidates") or ():
        for part in (candidate.get("content") or {}).get("parts") or ():
            if "thoughtSignature" in part:
                # As it came: pydantic writes bytes in the other alphabet of base64.
                part["thoughtSignature"] = part["thoughtSignature"].translate(_TO_STANDARD)
    yield body


_TO_STANDARD = str.maketrans("-_", "+/")


def _to_mapping(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


def _import_sdk() -> tuple[Any, Any]:
    try:
        from google import genai
        from google.genai import types
    except ImportError as error:
        raise GeminiTransport._refuse_without_package() from error
    return genai, types
