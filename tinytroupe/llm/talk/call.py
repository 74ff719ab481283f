"""From what a simulation says to one call of the client, and from its answer to a message."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from tinytroupe.llm.canonical import JSON, FrozenDict
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.errors import (
    BadRequest,
    ConfigError,
    ContentFiltered,
    LLMError,
    MalformedResponse,
)
from tinytroupe.llm.messages import Message, MessageLike, to_messages
from tinytroupe.llm.request import (
    CacheMode,
    Call,
    CallOptions,
    RetryPolicy,
    chat_request,
    embedding_request,
)
from tinytroupe.llm.response import Response
from tinytroupe.llm.talk.schema import make_response_format

if TYPE_CHECKING:
    from tinytroupe.llm.talk.templates import Templates

SAMPLING = ("temperature", "max_tokens", "top_p", "frequency_penalty", "presence_penalty")
"""Arguments of a call that go into the request, and are settings where they are not given."""


def make_call(
    messages: Iterable[MessageLike],
    arguments: Mapping[str, object],
    settings: Settings,
    namespace: str = "",
) -> Call:
    """Makes the call that TinyTroupe's `send_message` means.

    Args:
        messages: The conversation; never changed.
        arguments: What `send_message` was given beside it; None is as if it
            were not given. Names that mean nothing here go into the request.
        settings: Counts where nothing is given.
        namespace: Keeps answers apart that must not be shared.

    Raises:
        BadRequest: The messages or an argument cannot be sent.
        ConfigError: A limit or a cache mode is not allowed.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    conversation = to_messages(messages)
    if given.pop("dedent_messages", True):
        conversation = tuple(map(dedent_message, conversation))
    given.pop("echo", None)
    options = take_options(given, settings)
    model = cast(str, given.pop("model", settings.model))
    parameters = {name: getattr(settings, name) for name in SAMPLING}
    if "max_completion_tokens" in given:
        parameters["max_tokens"] = None
    # Both are the API's own defaults; unsent, they share an answer with calls that omit them.
    if given.get("n") == 1:
        del given["n"]
    if not given.get("stop", True):
        del given["stop"]
    if "response_format" in given:
        given["response_format"] = make_response_format(given["response_format"])
    _refuse_names(given, "messages", "namespace")
    parameters.update(given)
    return Call(chat_request(model, conversation, namespace=namespace, **parameters), options)


def make_embedding_call(
    text: str, arguments: Mapping[str, object], settings: Settings, namespace: str = ""
) -> Call:
    """Makes the call that TinyTroupe's `get_embedding` means. Raises what `make_call` raises."""
    given = {name: value for name, value in arguments.items() if value is not None}
    options = take_options(given, settings)
    model = cast(str, given.pop("model", settings.embedding_model))
    _refuse_names(given, "input", "texts", "namespace")
    return Call(embedding_request(model, text, namespace=namespace, **given), options)


def _refuse_names(given: Mapping[str, object], *names: str) -> None:
    for name in names:
        if name in given:
            raise BadRequest(f"{name} is not an argument that can be sent")


def take_options(given: dict[str, object], settings: Settings) -> CallOptions:
    """Takes out of the arguments how a call is made.

    Raises:
        BadRequest: An option is of a wrong type or out of its range.
        ConfigError: A limit or a cache mode is not allowed.
    """

    def take(argument: str, name: str) -> Any:
        if argument not in given:
            return getattr(settings, name)
        try:
            return SETTINGS[name].parse(given.pop(argument))
        except ConfigError as error:
            raise ConfigError(f"argument {argument}: {error.message}") from None

    sample = given.pop("sample", 0)
    if not isinstance(sample, int):
        raise BadRequest(f"sample is {sample!r}; it must be a whole number from 0 on")
    return CallOptions(
        lane=_take_label(given, "lane"),
        purpose=_take_label(given, "purpose"),
        sample=sample,
        cache=cast(CacheMode, take("cache", "cache_api_calls")),
        timeout_seconds=take("timeout", "timeout"),
        deadline_seconds=take("deadline", "deadline"),
        retry=RetryPolicy(
            max_attempts=take("max_attempts", "max_attempts"),
            waiting_seconds=take("waiting_time", "waiting_time"),
            factor=take("exponential_backoff_factor", "exponential_backoff_factor"),
            cap_seconds=take("max_waiting_time", "max_waiting_time"),
        ),
    )


def _take_label(given: dict[str, object], name: str) -> str | None:
    label = given.pop(name, None)
    if label is not None and not isinstance(label, str):
        raise BadRequest(f"{name} is of type {type(label).__name__}; it must be text")
    return label


def dedent_message(message: Message) -> Message:
    """Removes the indent that all lines of each text share, and space around it, as TinyTroupe."""
    content: str | tuple[JSON, ...] | None
    if isinstance(message.content, str):
        content = dedent_text(message.content)
    elif message.content is not None:
        content = tuple(map(_dedent_part, message.content))
    else:
        return message
    return message if content == message.content else replace(message, content=content)


def dedent_text(text: str) -> str:
    """Removes the indent that all lines share, and white space at both ends."""
    return textwrap.dedent(text).strip() if "\n" in text else text.strip()


def _dedent_part(part: JSON) -> JSON:
    text = part.get("text") if isinstance(part, FrozenDict) else None
    if not isinstance(text, str):
        return part
    return FrozenDict({**cast(FrozenDict, part), "text": dedent_text(text)})


def read_message(response: Response) -> dict[str, Any]:
    """Returns the message of an answer as a new dictionary with at least role and content.

    Content is None only beside tool calls, or where the model gave a refusal
    instead of the structure that was asked for.

    Raises:
        ContentFiltered: The provider's content filter withheld the whole answer.
    """
    message = response.message
    message.setdefault("role", "assistant")
    message.setdefault("content", None)
    if response.filtered and not (message["content"] or message.get("tool_calls")):
        raise ContentFiltered(
            "the provider's content filter withheld the answer; other words in the prompt may "
            "help, asking again will not",
            model=response.model or None,
            request_id=response.request_id,
            attempts=response.attempts,
        )
    return message


def is_own(owner: type, sender: object, *names: str) -> bool:
    """Tells whether methods of a sender are its owner's, so that nobody replaced them."""
    methods = (getattr(getattr(sender, name, None), "__func__", None) for name in names)
    return all(method is getattr(owner, name) for name, method in zip(names, methods, strict=True))


def read_foreign(messages: list[dict[str, str]], message: object) -> Exchange:
    """Checks what a client returned that somebody else wrote.

    Raises:
        MalformedResponse: It is not a message with a content.
    """
    if not isinstance(message, Mapping) or "content" not in message:
        raise MalformedResponse(f"the client returned {message!r} in place of a message")
    return Exchange(messages, dict(message))


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was sent and what came back."""

    messages: list[dict[str, str]] = field(default_factory=list)
    message: dict[str, Any] | None = None
    """The model's message; None: there is none."""
    response: Response | None = None
    """None: there is none, or it is not known."""


class TemplatedCall:
    """A call whose messages are templates; usable many times and from many threads.

    `messages`, `model_output` and `response` are those of the call that
    finished last; each call returns its own answer, whatever others do meanwhile.

    Args:
        system_template_name: The template of the system message.
        user_template_name: The template of the user message; None: there is none.
        **model_params: Arguments of `send_message`.
    """

    def __init__(
        self,
        system_template_name: str,
        user_template_name: str | None = None,
        **model_params: object,
    ) -> None:
        self.system_template_name = system_template_name
        self.user_template_name = user_template_name
        self.model_params = model_params
        # One value that is replaced as a whole: three would mix the calls of two threads.
        self._latest = Exchange()

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was sent; empty before the first call."""
        return self._latest.messages

    @property
    def model_output(self) -> dict[str, Any] | None:
        """The model's message; None before the first call, or where it failed."""
        return self._latest.message

    @property
    def response(self) -> Response | None:
        """The whole response; None where there is none, or a foreign client made the call."""
        return self._latest.response

    def call(self, **rendering_configs: object) -> str | None:
        """Renders the templates, sends them, and returns the content of the answer.

        Args:
            **rendering_configs: What the names in the templates refer to.

        Returns:
            The text; empty where the answer has only tool calls. None only where
            ON_FAILURE is `none` and the call failed.

        Raises:
            LLMError: There is no answer; the class says why. A template that
                cannot be rendered is an error whatever ON_FAILURE is.
        """
        messages = self._compose(rendering_configs)
        try:
            return self._finish(self._send(messages, dict(self.model_params)))
        except LLMError as error:
            self._fail(error)
            return self._finish(Exchange(messages))

    async def acall(self, **rendering_configs: object) -> str | None:
        """Does what `call` does, without blocking the event loop."""
        messages = self._compose(rendering_configs)
        try:
            return self._finish(await self._asend(messages, dict(self.model_params)))
        except LLMError as error:
            self._fail(error)
            return self._finish(Exchange(messages))

    def __repr__(self) -> str:
        names = filter(None, (self.system_template_name, self.user_template_name))
        return f"{type(self).__name__}({', '.join(map(repr, names))})"

    def _compose(self, rendering_configs: Mapping[str, object]) -> list[dict[str, str]]:
        from tinytroupe.llm.talk.templates import compose_messages

        names = self.system_template_name, self.user_template_name
        return compose_messages(self._find_templates(), *names, rendering_configs)

    def _finish(self, exchange: Exchange) -> str | None:
        self._latest = exchange
        if exchange.message is None:
            return None
        # A model that refuses to fill a schema says so in place of the content.
        message = exchange.message
        return cast(str, message.get("content") or message.get("refusal") or "")

    def _find_templates(self) -> Templates:
        raise NotImplementedError

    def _send(self, messages: list[dict[str, str]], arguments: dict[str, Any]) -> Exchange:
        raise NotImplementedError

    async def _asend(self, messages: list[dict[str, str]], arguments: dict[str, Any]) -> Exchange:
        raise NotImplementedError

    def _fail(self, error: LLMError) -> None:
        raise NotImplementedError
