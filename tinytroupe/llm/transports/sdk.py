"""Clients of OpenAI's SDK, for those who bring their own or want one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpcore2
import httpx2
import openai

from tinytroupe.llm.errors import ConfigError, ConnectionFailed, LLMError, TimedOut
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.rules.classify import classify_failure
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames
from tinytroupe.llm.transports.connections import CheckedConnection, DeadlineBackend
from tinytroupe.llm.transports.tls import load_trust
from tinytroupe.llm.transports.wire import Reply


class DeadlineTransport(httpx2.HTTPTransport):
    """An HTTP transport over such connections, with or without a proxy."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Replaced from outside: the constructor chooses the kind of pool (direct, HTTP
        # proxy, SOCKS) and has no argument for either.
        pool: Any = self._pool
        pool._network_backend = DeadlineBackend(pool._network_backend)
        create_connection = pool.create_connection
        pool.create_connection = lambda origin: CheckedConnection(create_connection(origin))


class DeadlineClient(httpx2.Client):
    """An HTTP client over `DeadlineTransport`, without a limit on connections.

    How many attempts are on the wire is the gate's business; a second limit
    here would only turn the wait into a time-out.
    """

    def __init__(self) -> None:
        super().__init__(
            verify=load_trust(),
            follow_redirects=True,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
        )

    def _init_transport(self, **options: Any) -> httpx2.BaseTransport:  # type: ignore[override]
        options.pop("transport", None)
        return DeadlineTransport(**options)

    def _init_proxy_transport(  # type: ignore[override]
        self, proxy: httpx2.Proxy, **options: Any
    ) -> httpx2.BaseTransport:
        return DeadlineTransport(proxy=proxy, **options)


def make_post_arguments(attempt: Attempt) -> dict[str, Any]:
    """Returns the arguments with which the SDK's low-level `post` makes an attempt."""
    return {
        "content": attempt.call.request.body,
        "cast_to": httpx2.Response,
        "options": {
            "headers": {"content-type": "application/json"},
            "timeout": attempt.timeout_seconds,
            "max_retries": 0,
        },
    }


def to_reply(response: httpx2.Response) -> Reply:
    """Returns the SDK's raw response as a reply."""
    return Reply(response.status_code, response.headers, response.content)


# Before Python 3.11 the second is not the first.
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)


def map_sdk_error(
    error: Exception, timeout_seconds: float | None = None, names: SettingNames = ARGUMENTS
) -> LLMError:
    """Returns our error for one of the SDK's, or of the HTTP client below it.

    Args:
        error: What was raised; an `LLMError` is returned as it is.
        timeout_seconds: What the attempt was allowed, for the message.
        names: What the endpoint's settings are called, for the message.

    Raises:
        Exception: The error itself, when it is none of the SDK's: a bug must not
            look like a network fault.
    """
    if isinstance(error, LLMError):
        return error
    if isinstance(error, openai.APIStatusError):
        reply = error.response
        return classify_failure(reply.status_code, reply.headers, reply.content, time.time(), names)
    if isinstance(error, (*_TIMEOUTS, openai.APIConnectionError, httpx2.HTTPError)):
        reason = _find_reason(error)
        if isinstance(reason, (*_TIMEOUTS, httpcore2.TimeoutException)):
            allowed = f" within {timeout_seconds:g} s" if timeout_seconds else " in time"
            return TimedOut(f"the endpoint{_name_address(error)} did not answer{allowed}")
        return ConnectionFailed(
            f"the connection to the endpoint{_name_address(error)} failed: "
            f"{str(reason) or type(reason).__name__}"
        )
    if isinstance(error, openai.OpenAIError):
        return ConfigError(f"the endpoint is not set up: {error}")
    raise error


def _name_address(error: BaseException) -> str:
    url = getattr(getattr(error, "_request", None) or getattr(error, "request", None), "url", None)
    return f" at {url.scheme}://{url.netloc.decode()}" if url is not None else ""


def _find_reason(error: BaseException) -> BaseException:
    """Returns the innermost cause.

    The SDK's own message is only "Connection error.", and its aiohttp backend
    calls a connection that was reset a time-out.
    """
    while error.__cause__ is not None and not isinstance(error, _TIMEOUTS):
        error = error.__cause__
    return error
