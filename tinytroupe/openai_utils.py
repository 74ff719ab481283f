"""The door for users of TinyTroupe: the names they import, over the one chain of this package.

Importing it reads nothing and opens nothing: config.ini is read and clients
are made when they are first used. All state that the process shares is in
`_state`, behind one lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.errors import (
    ConfigError,
    InvalidRequestError,
    LLMError,
    NonTerminalError,
)
from tinytroupe.llm.messages import MessageLike
from tinytroupe.llm.process import Defaults, LazyConfig, ProcessState
from tinytroupe.llm.response import Response
from tinytroupe.llm.rules.setting_names import CONFIG_INI, CONFIG_INI_AZURE
from tinytroupe.llm.talk.call import (
    Exchange,
    TemplatedCall,
    is_own,
    make_call,
    make_embedding_call,
    read_foreign,
    read_message,
)
from tinytroupe.llm.transports.raw_calls import RawCalls
from tinytroupe.llm.transports.secrets import AZURE_KEY_VARIABLES, OPENAI_KEY_VARIABLES, find_secret

if TYPE_CHECKING:
    from tinytroupe.llm.meter import Meter
    from tinytroupe.llm.talk.templates import Templates
    from tinytroupe.llm.transports.transport import Transport

__all__ = [
    "AzureClient",
    "InvalidRequestError",
    "LLMCall",
    "NonTerminalError",
    "OpenAIClient",
    "client",
    "config",
    "default",
    "force_api_cache",
    "force_api_type",
    "force_default_value",
    "register_client",
]

logger = logging.getLogger("tinytroupe")


class OpenAIClient(RawCalls):
    """Sends messages to OpenAI, or to the compatible server at BASE_URL. Safe for many threads.

    Every answer is kept on disk as soon as it arrives, and a question that was
    answered before is answered from there.

    To reach an endpoint of your own, subclass it, override `_raw_model_call`
    and `_raw_model_response_extractor` (or only `_setup_from_config`, which
    gives `self.client` another SDK client), and register an instance. What you
    override goes through the same chain: cache, shared calls, retries, meter.

    Args:
        cache_api_calls: True, False, or a mode (`on`, `off`, `refresh`,
            `only`); None: as the settings say at each call.
        cache_file_name: The folder of the cache; None: as the settings say.
    """

    _namespace = ""

    def __init__(
        self, cache_api_calls: bool | str | None = None, cache_file_name: str | None = None
    ) -> None:
        from tinytroupe.llm.config.clients import ClientPairs

        super().__init__()
        self._pairs = ClientPairs(
            lambda: _state.get_settings(),
            self._make_own_transport,
            lambda settings: _state.open_store(settings),
        )
        self.set_api_cache(cache_api_calls, cache_file_name)

    def set_api_cache(
        self, cache_api_calls: bool | str | None, cache_file_name: str | None = None
    ) -> None:
        """Sets how this client uses the cache from its next call on; None: as the settings say.

        Raises:
            ConfigError: There is no such mode.
        """
        given = {"cache_api_calls": cache_api_calls, "cache_file_name": cache_file_name}
        self._pairs.overlay({name: value for name, value in given.items() if value is not None})
        self.cache_api_calls = cache_api_calls
        self.cache_file_name = cache_file_name

    def send_message(
        self,
        current_messages: Iterable[MessageLike],
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        top_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        stop: str | list[str] | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
        waiting_time: float | None = None,
        exponential_backoff_factor: float | None = None,
        n: int = 1,
        echo: bool = False,
        response_format: object = None,
        dedent_messages: bool = True,
        **further: object,
    ) -> dict[str, Any] | None:
        """Sends a conversation and returns the model's message, with at least role and content.

        What is not given is as the settings say at this moment. The caller's
        messages are never changed. Blocks until the answer is there.

        Args:
            current_messages: Messages with role and content.
            model: Which model answers. This and the next five are settings of the same name.
            temperature: How freely words are drawn.
            max_tokens: The longest answer.
            top_p: The share of likely words to draw from.
            frequency_penalty: Against words that come often.
            presence_penalty: Against words that came at all.
            stop: Where the model stops writing.
            timeout: Seconds for one attempt. This and the next three are settings, too.
            max_attempts: Tries at most.
            waiting_time: Seconds up to which the first wait is drawn.
            exponential_backoff_factor: By how much the longest wait grows.
            n: How many answers are asked for; the first one is returned.
            echo: Accepted because TinyTroupe has it; it has no effect.
            response_format: What the API takes, or a pydantic class whose schema is to be kept.
            dedent_messages: Whether the indent of texts, and space around them, is removed.
            **further: How the call is made (`lane`, `purpose`, `sample`, `cache`,
                `deadline`); any other name goes into the request (`seed`, `tools` …).

        Returns:
            The message as a new dictionary; None only where ON_FAILURE is `none`
            and the call failed.

        Raises:
            LLMError: There is no answer; the class says why.
        """
        arguments = {
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "top_p": top_p,
            "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty,
            "stop": stop,
            "timeout": timeout,
            "max_attempts": max_attempts,
            "waiting_time": waiting_time,
            "exponential_backoff_factor": exponential_backoff_factor,
            "n": n,
            "response_format": response_format,
            "dedent_messages": dedent_messages,
            **further,
        }
        try:
            return read_message(self.send(current_messages, **arguments))
        except LLMError as error:
            _fail(error)
            return None

    async def asend_message(
        self, current_messages: Iterable[MessageLike], **arguments: object
    ) -> dict[str, Any] | None:
        """Does what `send_message` does, without blocking the event loop."""
        try:
            return read_message(await self.asend(current_messages, **arguments))
        except LLMError as error:
            _fail(error)
            return None

    def send(self, current_messages: Iterable[MessageLike], **arguments: object) -> Response:
        """Sends a conversation and returns the whole response: usage, origin, attempts.

        Takes the arguments of `send_message`. ON_FAILURE has no effect here.

        Raises:
            LLMError: There is no answer; the class says why.
        """
        pair = self._pairs.get()
        call = make_call(current_messages, arguments, pair.settings, self._namespace)
        return pair.blocking.send(call)

    async def asend(self, current_messages: Iterable[MessageLike], **arguments: object) -> Response:
        """Does what `send` does, without blocking the event loop."""
        pair = self._pairs.get()
        call = make_call(current_messages, arguments, pair.settings, self._namespace)
        return await pair.awaiting.send(call)

    def get_embedding(
        self, text: str, model: str | None = None, **further: object
    ) -> list[float] | None:
        """Returns the vector of a text, cached as messages are.

        Args:
            text: What to embed.
            model: None: EMBEDDING_MODEL of the settings.
            **further: As for `send_message`.

        Returns:
            The vector; None only where ON_FAILURE is `none` and the call failed.

        Raises:
            LLMError: There is no vector; the class says why.
        """
        arguments = {"model": model, **further}
        try:
            pair = self._pairs.get()
            call = make_embedding_call(text, arguments, pair.settings, self._namespace)
            return pair.blocking.send(call).embeddings[0]
        except LLMError as error:
            _fail(error)
            return None

    @property
    def meter(self) -> Meter:
        """What the calls of this client cost."""
        return self._pairs.meter

    def close(self) -> None:
        """Closes the connections; the next call opens them again."""
        self._pairs.close()

    def _setup_from_config(self) -> None:
        from tinytroupe.llm.transports.openai import OpenAITransport

        transport = self._make_transport(self._pairs.get().settings)
        if not isinstance(transport, OpenAITransport):
            raise ConfigError(f"{type(self).__name__} has no SDK client")
        self.client = transport.make_sdk()

    def _make_transport(self, settings: Settings) -> Transport:
        from tinytroupe.llm.transports.openai import OpenAITransport

        key = find_secret(OPENAI_KEY_VARIABLES)
        return OpenAITransport(key.reveal() if key else None, settings.base_url, names=CONFIG_INI)

    def _make_own_transport(self, settings: Settings) -> Transport:
        from tinytroupe.llm.transports.overridden import wrap_transport

        self._forget_sdk()
        usual = self._make_transport(settings)
        return wrap_transport(self, usual, OpenAIClient._setup_from_config)


class AzureClient(OpenAIClient):
    """Sends messages to Azure OpenAI, at AZURE_OPENAI_ENDPOINT. See `OpenAIClient`."""

    def _make_transport(self, settings: Settings) -> Transport:
        from tinytroupe.llm.transports.azure import AzureTransport

        key = find_secret(AZURE_KEY_VARIABLES)
        return AzureTransport(
            None,
            key.reveal() if key else None,
            settings.azure_api_version,
            names=CONFIG_INI_AZURE,
        )


class _RehearsalClient(OpenAIClient):
    """Answers without a model, and never shares an answer with the others."""

    _namespace = "rehearsal"

    def _make_transport(self, settings: Settings) -> Transport:
        from tinytroupe.llm.transports.rehearsal import RehearsalTransport

        return RehearsalTransport()


class LLMCall(TemplatedCall):
    """A call whose messages are templates, made by the client of the moment.

    Templates are looked for in `prompts/` of the current folder, then in the
    package's. See `TemplatedCall`.
    """

    def _find_templates(self) -> Templates:
        return _state.get_templates()

    def _send(self, messages: list[dict[str, str]], arguments: dict[str, Any]) -> Exchange:
        sender = client()
        if not is_own(OpenAIClient, sender, "send_message"):
            return read_foreign(messages, sender.send_message(messages, **arguments))
        response = sender.send(messages, **arguments)
        return Exchange(messages, read_message(response), response)

    async def _asend(self, messages: list[dict[str, str]], arguments: dict[str, Any]) -> Exchange:
        sender = client()
        if is_own(OpenAIClient, sender, "asend_message") and is_own(
            OpenAIClient, sender, "send_message"
        ):
            response = await sender.asend(messages, **arguments)
            return Exchange(messages, read_message(response), response)
        if hasattr(sender, "asend_message") and not is_own(OpenAIClient, sender, "asend_message"):
            return read_foreign(messages, await sender.asend_message(messages, **arguments))
        import asyncio

        message = await asyncio.to_thread(sender.send_message, messages, **arguments)
        return read_foreign(messages, message)

    def _fail(self, error: LLMError) -> None:
        _fail(error)


def client() -> Any:
    """Returns the client for API_TYPE; one and the same for all threads.

    Raises:
        ConfigError: The settings cannot be used, or there is no such API type;
            the latter is also a ValueError.
    """
    return _get_client_for_api_type(_state.get_settings().api_type)


def register_client(api_type: str, client: Any) -> None:
    """Makes a client known by a name that API_TYPE may have, over an older one.

    Raises:
        ConfigError: It has no method `send_message`.
    """
    _state.register_client(api_type, client)


def force_api_type(api_type: str) -> None:
    """Sets API_TYPE over every other source, from the next call on."""
    _state.force("api_type", api_type)


def force_api_cache(cache_api_calls: bool | str, cache_file_name: str | None = None) -> None:
    """Sets the cache over every other source, for all clients, from the next call on.

    Args:
        cache_api_calls: True, False, or a mode: `on`, `off`, `refresh`, `only`.
        cache_file_name: The folder; None: as it is.

    Raises:
        ConfigError: There is no such mode.
    """
    _state.force("cache_api_calls", cache_api_calls)
    if cache_file_name is not None:
        _state.force("cache_file_name", cache_file_name)
    for each in _state.list_clients():
        if isinstance(each, OpenAIClient):
            OpenAIClient.set_api_cache(each, None)
        elif callable(getattr(each, "set_api_cache", None)):
            each.set_api_cache(cache_api_calls, default["cache_file_name"])


def force_default_value(key: str, value: object) -> None:
    """Sets a value, by its name in `default`, over every other source from the next call on.

    Raises:
        ValueError: There is no such key.
        ConfigError: The value is not allowed.
    """
    _state.force(key, value)


def _get_client_for_api_type(api_type: str) -> Any:
    return _state.get_client(api_type)


def _fail(error: LLMError) -> None:
    """Raises the error, or logs it where ON_FAILURE is `none`."""
    if _state.get_settings().on_failure == "raise":
        raise error
    logger.error("%s: %s", type(error).__name__, error)


_state = ProcessState({"openai": OpenAIClient, "azure": AzureClient, "rehearsal": _RehearsalClient})

default = Defaults(lambda: _state)
"""The lower-case settings, as they are now; setting an item is `force_default_value`."""

config = LazyConfig(lambda: _state)
"""The settings as they are now, as TinyTroupe reads them: `config["OpenAI"]["MODEL"]`."""
