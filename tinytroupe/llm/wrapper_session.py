"""What both colours of the small client share: configuration, counting, limits, logging."""

from __future__ import annotations

import logging
import os
import random
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from tinytroupe.llm.client import ClientDefaults
from tinytroupe.llm.config.setting import mask_url
from tinytroupe.llm.errors import BadRequest, LLMError
from tinytroupe.llm.layers.retry import retried
from tinytroupe.llm.request import (
    Attempt,
    Call,
    ChooseWait,
    Request,
    RetryPolicy,
    chat_request,
    completion_request,
)
from tinytroupe.llm.response import Response, Usage
from tinytroupe.llm.rules.allowance import Allowance, Reserved
from tinytroupe.llm.rules.buckets import Bucket
from tinytroupe.llm.runtime import Runtime
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Store
from tinytroupe.llm.talk.conversation import format_messages
from tinytroupe.llm.talk.models import take_options
from tinytroupe.llm.talk.schema import make_response_format
from tinytroupe.llm.transports.endpoint import Endpoint
from tinytroupe.llm.transports.openai import OpenAITransport
from tinytroupe.llm.transports.sdk_shapes import Shaped, ShapedResponse, list_models
from tinytroupe.llm.transports.transport import Transport

logger = logging.getLogger("tinytroupe.llm")

CACHE_FOLDER = "tinytroupe_cache"
NO_KEY = "no-key-needed"
"""What a server is sent where no key is set; local servers do not look at it."""


class LLMConfig(BaseModel):
    """Where the server is and how it is asked. Checked when it is made; immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = Field("http://127.0.0.1:8000", pattern=r"^\s*https?://[^\s/]")
    """With or without `/v1`."""
    api_key: str | None = Field(None, repr=False)
    """None: none is sent, save to OpenAI itself, which gets what `OPENAI_API_KEY` says."""
    model: str = Field("gpt-4", min_length=1)
    temperature: float | None = Field(0.7, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1)
    timeout: float = Field(30, gt=0, allow_inf_nan=False)
    """Seconds for one attempt as a whole."""
    max_retries: int = Field(3, ge=0)
    """Tries after the first."""
    retry_delay: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Seconds before the first retry; each further wait is twice as long."""
    max_total_tokens: int | None = Field(None, ge=1)
    """What all calls together may take, questions and answers; None: no limit."""
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)


@dataclass(slots=True)
class Exchange:
    """One call of a session."""

    session: Session
    call: Call
    reserved: Reserved | None
    used_tokens: int = 0

    def finish(self, response: Response) -> ShapedResponse:
        """Notes the answer, and returns it in the SDK's shape."""
        shaped = ShapedResponse(response)
        self.used_tokens = self.session.note(shaped)
        return shaped


class Session:
    """What both colours share: making calls, counting, limits, logging."""

    def __init__(
        self,
        config: LLMConfig,
        retry: RetryPolicy | ChooseWait | None,
        transport: Transport | None,
    ) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._transport = transport or _make_transport(config)
        requests, tokens = config.requests_per_minute, config.tokens_per_minute
        self.endpoint = Endpoint(
            self._transport.name,
            self._transport,
            requests=Bucket(requests) if requests else None,
            tokens=Bucket(tokens) if tokens else None,
        )
        self.defaults = ClientDefaults(
            retry=_make_policy(config, retry), timeout_seconds=config.timeout
        )
        limit = config.max_total_tokens
        self._allowance = Allowance(limit) if limit else None
        self.count = 0
        self.usage = Usage()
        self._last: ShapedResponse | None = None
        self._own = threading.local()
        logger.info(
            "LLM client for %s at %s started", config.model, mask_url(config.base_url.strip())
        )

    def make_chat(
        self,
        messages: object,
        temperature: float | None,
        max_tokens: int | None,
        further: dict[str, Any],
    ) -> Call:
        conversation = format_messages(messages)
        if not conversation:
            raise BadRequest("there is no message: give a text, or a list of messages")

        def make(model: str, **parameters: Any) -> Request:
            return chat_request(model, conversation, **parameters)

        return self._make(make, temperature, max_tokens, further)

    def make_completion(
        self,
        prompt: str | list[str],
        temperature: float | None,
        max_tokens: int | None,
        further: dict[str, Any],
    ) -> Call:
        def make(model: str, **parameters: Any) -> Request:
            return completion_request(model, prompt, **parameters)

        return self._make(make, temperature, max_tokens, further)

    def _make(
        self,
        make: Callable[..., Request],
        temperature: float | None,
        max_tokens: int | None,
        further: dict[str, Any],
    ) -> Call:
        config = self.config
        if further.pop("stream", None):
            raise BadRequest("stream is not an argument here: use the method stream()")
        options, parameters = take_options(further)
        if isinstance(parameters.get("response_format"), type):
            schema = make_response_format(parameters["response_format"])
            parameters = {**parameters, "response_format": schema}
        chosen = config.temperature if temperature is None else temperature
        most = config.max_tokens if max_tokens is None else max_tokens
        if chosen is not None and not 0 <= chosen <= 2:
            raise BadRequest(f"temperature is {chosen}; it must be from 0 to 2")
        if most is not None and most < 1:
            raise BadRequest(f"max_tokens is {most}; it must be at least 1")
        model = parameters.pop("model", None) or config.model
        return Call(make(model, temperature=chosen, max_tokens=most, **parameters), options)

    @contextmanager
    def follow(self, call: Call) -> Iterator[Exchange]:
        """Counts, reserves and logs around a call."""
        request = call.request
        with self._lock:
            self.count += 1
        logger.info(
            "Request to %s: %d message(s), temperature %s",
            request.model,
            len(request.messages) or len(request.texts),
            request.parameters.get("temperature"),
        )
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Request body: %s", self._redact(request.body.decode()))
        exchange: Exchange | None = None
        try:
            reserved = self._allowance.reserve(request) if self._allowance else None
            if reserved is not None:
                call = replace(call, request=reserved.request)
            exchange = Exchange(self, call, reserved)
            yield exchange
        except LLMError as error:
            logger.error("%s: %s", type(error).__name__, self._redact(str(error)))
            raise
        except Exception:
            raise
        except BaseException:
            # A stream that is left, a task that is cancelled: nobody says what it cost.
            if exchange is not None and exchange.reserved is not None:
                exchange.used_tokens = exchange.reserved.tokens
            raise
        finally:
            if exchange is not None and exchange.reserved is not None and self._allowance:
                self._allowance.settle(exchange.reserved, exchange.used_tokens)

    def note(self, shaped: ShapedResponse) -> int:
        """Keeps an answer as the last one; returns the tokens that it cost."""
        response = shaped.response
        bought = response.usage if response.origin == "live" else None
        self._own.last = shaped
        with self._lock:
            self._last = shaped
            if bought is not None:
                self.usage = self.usage + bought
        if logger.isEnabledFor(logging.INFO):
            tokens = response.usage.total_tokens if response.usage else "unknown"
            logger.info("Response %s: %s tokens, from %s", shaped.id, tokens, response.origin)
            logger.debug("Response text: %s", response.text)
        return bought.total_tokens if bought is not None else 0

    def get_last(self) -> ShapedResponse | None:
        last: ShapedResponse | None = getattr(self._own, "last", None) or self._last
        return last

    async def list_models(self, runtime: Runtime) -> Shaped:
        transport = self._transport
        if not isinstance(transport, OpenAITransport):
            raise BadRequest(f"{transport.name} does not list models")
        logger.info("Request for the list of models")
        sdk = transport.make_sdk()

        async def ask(attempt: Attempt) -> Any:
            seconds = attempt.timeout_seconds
            return await runtime.blocking(lambda: list_models(sdk, seconds))

        policy, timeout = self.defaults.retry, self.defaults.timeout_seconds
        # The request is never sent: the layer only needs to know whose attempts it makes.
        call = Call(chat_request(self.config.model, [{"role": "user", "content": "models"}]))
        handler: Callable[[Call], Coroutine[Any, Any, Any]] = retried(
            ask, policy, timeout, random.random, runtime
        )
        try:
            found: Shaped = await handler(call)
        except LLMError as error:
            logger.error("%s: %s", type(error).__name__, self._redact(str(error)))
            raise
        finally:
            sdk.close()
        logger.info("Response: %d models", len(found.data))
        return found

    def reset(self) -> None:
        with self._lock:
            self.count, self.usage, self._last = 0, Usage(), None
            self._own = threading.local()
            if self._allowance:
                self._allowance.reset()
        logger.info("Session reset")

    def close(self) -> None:
        logger.info("LLM client for %s closed", self.config.model)

    def _redact(self, text: str) -> str:
        key = self.config.api_key
        return text.replace(key, "***") if key else text


def overlay(config: LLMConfig | None, settings: dict[str, Any]) -> LLMConfig:
    if config is not None and not settings:
        return config
    given = config.model_dump(exclude_unset=True) if config is not None else {}
    return LLMConfig(**{**given, **settings})


def find_store(cache: Store | str | os.PathLike[str] | bool | None) -> Store | None:
    if cache is None or cache is False:
        return None
    if cache is True:
        return DiskStore(CACHE_FOLDER)
    return DiskStore(cache) if isinstance(cache, (str, os.PathLike)) else cache


def _make_policy(config: LLMConfig, retry: RetryPolicy | ChooseWait | None) -> RetryPolicy:
    if isinstance(retry, RetryPolicy):
        return retry
    longest = config.retry_delay * 2.0**config.max_retries
    return RetryPolicy(
        max_attempts=config.max_retries + 1,
        waiting_seconds=config.retry_delay,
        factor=2.0,
        # No wait of the row is cut; a server may ask for a minute in any case.
        cap_seconds=max(longest, 60.0),
        jitter=False,
        choose_wait=retry,
    )


def _make_transport(config: LLMConfig) -> Transport:
    url = complete_url(config.base_url)
    own = urlsplit(url).hostname == "api.openai.com"
    # The key in the environment is OpenAI's: no other server must get to see it.
    return OpenAITransport(config.api_key or (None if own else NO_KEY), url)


_VERSION = re.compile(r"/v\d+[a-z]*\d*(/|$)")


def complete_url(base_url: str) -> str:
    """Returns a server's address with the version of its API: `/v1` where it names none."""
    url = base_url.strip().rstrip("/")
    return url if _VERSION.search(urlsplit(url).path) else f"{url}/v1"
