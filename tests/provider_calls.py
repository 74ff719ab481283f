"""Requests in OpenAI's shape for the tests of other providers, and how to read their streams."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tinytroupe.llm.client import ClientDefaults
from tinytroupe.llm.request import Request, RetryPolicy
from tinytroupe.llm.response import Response

ONCE = ClientDefaults(retry=RetryPolicy(max_attempts=1), timeout_seconds=10)
TWICE = ClientDefaults(retry=RetryPolicy(max_attempts=2, waiting_seconds=0), timeout_seconds=10)

OUTSIDE = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_CUSTOM_HEADERS",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GOOGLE_GEMINI_BASE_URL",
    "GOOGLE_GENAI_API_VERSION",
    "GOOGLE_GENAI_HTTP_CLIENT",
    "GOOGLE_GENAI_USE_ENTERPRISE",
    "GOOGLE_GENAI_USE_VERTEXAI",
    "GROQ_API_KEY",
    "OLLAMA_API_KEY",
    "VLLM_API_KEY",
)
"""Keys and addresses of the machine, which are none of the tests' business."""

PNG = "iVBORw0KGgo="
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASSISTANT: dict[str, Any] = {"role": "assistant", "content": "Hello."}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 18}},
    "required": ["name", "age"],
}


@pytest.fixture
def no_keys_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps keys and addresses of the machine away from a test."""
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)


def user(*parts: Any) -> dict[str, Any]:
    content = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else list(parts)
    return {"role": "user", "content": content}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def call(number: int, arguments: str = '{"city": "Oslo"}', name: str = "weather") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def result(number: int, words: str = "4 °C") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": words}


def drain(client: Any, call: Any) -> tuple[list[str], Response]:
    """Reads a stream to its end; returns its pieces and its response."""

    async def collect() -> list[Any]:
        return [piece async for piece in client.inner.stream(call)]

    awaited = hasattr(client.inner, "aclose")
    *pieces, response = client._finish(collect()) if awaited else list(client.inner.stream(call))
    return pieces, response


def stamp(client: Any, request: Request, arrivals: list[float]) -> None:
    """Notes when each piece comes."""

    async def read() -> None:
        async for _ in client.inner.stream(request):
            arrivals.append(time.monotonic())

    if hasattr(client.inner, "aclose"):
        client._finish(read())
    else:
        for _ in client.inner.stream(request):
            arrivals.append(time.monotonic())


def take_first(client: Any, request: Request) -> Any:
    """Reads the first piece of a stream and leaves."""

    async def read() -> Any:
        stream = client.inner.stream(request)
        piece = await anext(stream)
        await stream.aclose()
        return piece

    if hasattr(client.inner, "aclose"):
        return client._finish(read())
    stream = client.inner.stream(request)
    piece = next(stream)
    stream.close()
    return piece
