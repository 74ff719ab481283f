"""A transport over a client whose owner replaced the calls to the endpoint."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock, RLock
from typing import Any, cast

import orjson

from tinytroupe.llm.errors import (
    ConnectionFailed,
    LLMAPIError,
    LLMError,
    MalformedResponse,
    TimedOut,
)
from tinytroupe.llm.request import Attempt, Kind, Request
from tinytroupe.llm.response import Response, parse_response
from tinytroupe.llm.rules.classify import classify_failure
from tinytroupe.llm.rules.setting_names import ARGUMENTS, CONFIG_INI, SettingNames
from tinytroupe.llm.transports.raw_calls import RawCalls
from tinytroupe.llm.transports.transport import Transport

MAX_THREADS = 64
"""Calls under way at a time for event loops; the gate of the client usually allows fewer."""

_FACTS = ("id", "created", "model", "usage", "system_fingerprint")


class OverriddenTransport:
    """Asks through an owner's own methods; what they leave alone goes its usual way.

    A blocking call runs on the caller's thread and cannot be broken off, so a
    method that uses connections of its own must keep to
    `chat_api_params["timeout"]` itself. On an event loop it runs on a thread,
    and is given up when the time is over. See `Transport`.

    Args:
        calls: Whose methods are called.
        inner: Where requests of the other kinds go.
        kinds: Which kinds of request the owner's methods answer.
        setup: Whether the owner connects in a way of its own.
    """

    def __init__(
        self, calls: RawCalls, inner: Transport, kinds: frozenset[Kind], setup: bool
    ) -> None:
        self.name = type(calls).__name__
        self._calls = calls
        self._inner = inner
        self._kinds = kinds
        self._to_set_up = setup
        self._setup_lock = RLock()
        self._threads_lock = Lock()
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    def send(self, attempt: Attempt) -> Response:
        if attempt.call.request.kind not in self._kinds:
            return self._inner.send(attempt)
        started = time.monotonic()
        from tinytroupe.llm.transports.connections import deadline

        try:
            # It holds only for connections that this package made, as `client` is by default.
            with deadline(attempt.timeout_seconds):
                self._set_up()
                content = self._ask(attempt)
        except Exception as error:
            raise map_error(error, self.name, attempt.timeout_seconds, CONFIG_INI) from error
        return parse_response(
            attempt.call.request.kind,
            content,
            endpoint=self.name,
            attempts=attempt.number,
            seconds=time.monotonic() - started,
        )

    async def asend(self, attempt: Attempt) -> Response:
        if attempt.call.request.kind not in self._kinds:
            return await self._inner.asend(attempt)
        work: Callable[[], Response] = partial(contextvars.copy_context().run, self.send, attempt)
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(
                loop.run_in_executor(self._get_threads(), work), attempt.timeout_seconds
            )
        except asyncio.TimeoutError as error:
            raise TimedOut(
                f"{self.name} did not answer within {attempt.timeout_seconds:g} s"
            ) from error

    def close(self) -> None:
        with self._threads_lock:
            held, self._threads = self._threads, None
        if held is not None:
            held[1].shutdown(wait=False)
        self._inner.close()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _get_threads(self) -> ThreadPoolExecutor:
        # After a fork the threads are gone, and a pool that counts on them would wait for ever.
        with self._threads_lock:
            if self._threads is None or self._threads[0] != os.getpid():
                pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=self.name)
                self._threads = os.getpid(), pool
            return self._threads[1]

    def _set_up(self) -> None:
        with self._setup_lock:
            if self._to_set_up:
                self._calls._setup_from_config()
                self._to_set_up = False

    def _ask(self, attempt: Attempt) -> bytes:
        request = attempt.call.request
        if request.kind == "embedding":
            rows = [
                {"object": "embedding", "index": index, "embedding": self._embed(text, request)}
                for index, text in enumerate(request.texts)
            ]
            return _encode({"object": "list", "model": request.model, "data": rows}, self.name)
        parameters = make_chat_api_params(request, attempt.timeout_seconds)
        raw = self._calls._raw_model_call(request.model, parameters)
        message = self._calls._raw_model_response_extractor(raw)
        return _encode(_make_body(raw, message, request), self.name)

    def _embed(self, text: str, request: Request) -> list[float]:
        raw = self._calls._raw_embedding_model_call(text, request.model)
        return list(self._calls._raw_embedding_model_response_extractor(raw))


_POINTS: Mapping[Kind, tuple[str, ...]] = {
    "chat": ("_raw_model_call", "_raw_model_response_extractor"),
    "embedding": ("_raw_embedding_model_call", "_raw_embedding_model_response_extractor"),
}


def wrap_transport(calls: RawCalls, transport: Transport, setup: object) -> Transport:
    """Returns the transport, behind the owner's own methods where there are any.

    Args:
        calls: Whose methods may have been replaced, in a class or on the object.
        transport: The usual one.
        setup: What `_setup_from_config` is when nobody replaced it.
    """
    own_setup = _find_function(calls, "_setup_from_config") is not setup
    kinds = frozenset(
        kind for kind, names in _POINTS.items() if own_setup or _are_replaced(calls, names)
    )
    return OverriddenTransport(calls, transport, kinds, own_setup) if kinds else transport


def _are_replaced(calls: RawCalls, names: tuple[str, ...]) -> bool:
    return any(_find_function(calls, name) is not getattr(RawCalls, name) for name in names)


def _find_function(calls: RawCalls, name: str) -> object:
    method = getattr(calls, name)
    return getattr(method, "__func__", method)


def make_chat_api_params(request: Request, timeout_seconds: float) -> dict[str, Any]:
    """Returns the arguments of `chat.completions.create`, which an owner may change at will."""
    parameters = cast("dict[str, Any]", orjson.loads(request.body))
    return {**parameters, "timeout": timeout_seconds, "stream": False}


def map_error(
    error: Exception,
    name: str,
    timeout_seconds: float | None = None,
    names: SettingNames = ARGUMENTS,
) -> LLMError:
    """Returns our error for whatever an owner's method raised.

    Errors of the openai SDK and of HTTP libraries keep their meaning. Any
    other is not tried again, since it may well be a mistake in the method.
    """
    if isinstance(error, LLMError):
        return error
    if "openai" in sys.modules:
        from tinytroupe.llm.transports.sdk import map_sdk_error

        try:
            return map_sdk_error(error, timeout_seconds, names)
        except Exception as unknown:
            if unknown is not error:
                raise
    reply: Any = getattr(error, "response", None)
    if isinstance(status := getattr(reply, "status_code", None), int):
        headers = {str(key).lower(): str(value) for key, value in dict(reply.headers).items()}
        return classify_failure(status, headers, bytes(reply.content), time.time(), names)
    if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
        return TimedOut(f"{name} did not answer in time: {error}")
    if isinstance(error, OSError):
        return ConnectionFailed(f"{name} could not reach its endpoint: {error!r}")
    return LLMAPIError(f"{name} failed: {error!r}")


def _make_body(raw: Any, message: Any, request: Request) -> dict[str, Any]:
    """Puts an extracted message into the shape of OpenAI's API, with what else is known."""
    facts = _to_dict(raw)
    choices = facts.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(first, dict):
        first = {}
    known = {key: facts[key] for key in _FACTS if facts.get(key) is not None}
    reason = first.get("finish_reason")
    choice = {
        "index": 0,
        "message": {"role": "assistant", **_to_message(message)},
        "finish_reason": reason if isinstance(reason, str) else None,
    }
    others = choices[1:] if isinstance(choices, list) else []
    body = {"object": "chat.completion", "model": request.model, **known}
    return {**body, "choices": [choice, *others]}


def _to_message(message: Any) -> dict[str, Any]:
    if isinstance(message, str):
        return {"content": message}
    fields = _to_dict(message)
    if not fields:
        raise MalformedResponse(f"the extracted message is {message!r}, not a role and a content")
    # `.parse` of the SDK adds the parsed object, which is no part of the answer.
    fields.pop("parsed", None)
    return fields


def _to_dict(value: Any) -> dict[str, Any]:
    """Reads a dictionary out of a mapping or an SDK's object; empty where it has none."""
    if isinstance(value, Mapping):
        return dict(value)
    for name in ("model_dump", "to_dict", "dict"):
        method = getattr(value, name, None)
        if callable(method):
            found = method()
            return dict(found) if isinstance(found, Mapping) else {}
    return {}


def _encode(body: dict[str, Any], name: str) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise LLMAPIError(f"what {name} returned cannot be kept as JSON: {error}") from error
