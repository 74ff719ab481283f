"""Models as one calls them: `model(messages)`, `await model.acall(messages)`."""

from __future__ import annotations

import base64
import mimetypes
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from tinytroupe.llm.canonical import FrozenDict, freeze_mapping
from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.messages import Message, to_message
from tinytroupe.llm.request import Call, CallOptions, Request, chat_request
from tinytroupe.llm.response import Response, ToolCall, Usage

Content: TypeAlias = "str | Iterable[str | Mapping[str, Any]]"


class SystemMessage(Message):
    """What a model is told of its task."""

    __slots__ = ()

    def __init__(self, content: Content, **extra: Any) -> None:
        _fill(self, "system", content, extra)


class UserMessage(Message):
    """What a person says to a model."""

    __slots__ = ()

    def __init__(self, content: Content, **extra: Any) -> None:
        _fill(self, "user", content, extra)


class AssistantMessage(Message):
    """What a model said."""

    __slots__ = ()

    def __init__(self, content: Content, **extra: Any) -> None:
        _fill(self, "assistant", content, extra)


def _fill(message: Message, role: str, content: Content, extra: dict[str, Any]) -> None:
    shaped: Any = content if isinstance(content, str) else [_to_part(part) for part in content]
    Message.__init__(message, role, shaped, freeze_mapping(extra, "the message"))


def _to_part(part: object) -> object:
    return {"type": "text", "text": part} if isinstance(part, str) else part


def image_part(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns an image as a part of a message's content.

    Args:
        source: An address (`https://`, `data:`), or the path of a file, which is read.

    Raises:
        BadRequest: The file cannot be read, or its name does not say that it is an image.
    """
    url = os.fspath(source)
    if not url.lower().startswith(("http://", "https://", "data:")):
        kind = mimetypes.guess_type(url)[0] or ""
        if not kind.startswith("image/"):
            raise BadRequest(f"{url} is not called like an image")
        try:
            with open(url, "rb") as file:
                content = base64.b64encode(file.read()).decode()
        except OSError as error:
            raise BadRequest(f"the image {url} cannot be read: {error.strerror}") from error
        url = f"data:{kind};base64,{content}"
    return {"type": "image_url", "image_url": {"url": url}}


def format_messages(*given: object) -> list[Message]:
    """Puts texts, messages, dictionaries and lists of these into one conversation.

    A text is said by the user. None is passed over.

    Raises:
        BadRequest: Something is none of these.
    """
    messages: list[Message] = []
    for value in given:
        if value is None:
            continue
        if isinstance(value, Message):
            messages.append(value)
        elif isinstance(value, str):
            messages.append(Message("user", value))
        elif isinstance(value, Mapping):
            messages.append(_read_mapping(value, len(messages)))
        elif isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
            messages += format_messages(*value)
        else:
            raise BadRequest(
                f"message {len(messages)} is of type {type(value).__name__}; it must be a text, "
                "a message, or a dictionary with role and content"
            )
    return messages


def _read_mapping(value: Mapping[str, Any], index: int) -> Message:
    content = value.get("content")
    if isinstance(content, (list, tuple)):
        value = {**value, "content": [_to_part(part) for part in content]}
    return to_message(value, f"message {index}")


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """What a model answered, and who that was. Immutable."""

    response: Response
    """The whole response of the chain."""
    model_info: Mapping[str, Any]
    """`model_name`, `config_name`, `endpoint`, `origin`, and `model` as the endpoint names it."""
    usage: Usage | None
    """Tokens that were used; None: the endpoint did not say."""
    parsed: Any = None
    """What a parser made of it; None where none was asked."""
    embeddings: list[list[float]] | None = None
    """One vector per text, in order; only of embedding models."""

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.response.text

    @property
    def content(self) -> str:
        """The answer's text."""
        return self.response.text

    @property
    def raw(self) -> dict[str, Any]:
        """The whole answer in the shape of OpenAI's API, as a new dictionary."""
        return self.response.raw

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model wants called."""
        return self.response.tool_calls

    @property
    def embedding(self) -> list[float] | None:
        """The vector of the first text; only of embedding models."""
        return self.embeddings[0] if self.embeddings else None


@dataclass(frozen=True, slots=True)
class ModelSetup:
    """What a model is made of."""

    config_name: str
    model: str
    """As the requests name it."""
    models: Mapping[str, str]
    """Endpoint → the model that is asked there."""
    client: Client
    async_client: AsyncClient
    parameters: FrozenDict
    """What requests get where the caller does not say."""
    namespace: str = ""


class NamedModel:
    """What every model has."""

    def __init__(self, setup: ModelSetup) -> None:
        self.config_name = setup.config_name
        self.model_name = setup.model
        self.client = setup.client
        self.async_client = setup.async_client
        self._setup = setup

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config_name!r}, {self.model_name!r})"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The names of the configurations that may answer."""
        return tuple(endpoint.name for endpoint in self.client.route.endpoints)

    def _inform(self, response: Response) -> dict[str, Any]:
        setup, name = self._setup, response.endpoint
        # An answer that another program bought may name an endpoint that is not known here.
        known = name in setup.models
        return {
            "config_name": name if known else setup.config_name,
            "model_name": setup.models[name] if known else setup.model,
            "model": response.model,
            "endpoint": name,
            "origin": response.origin,
        }


class Model(NamedModel):
    """A chat model, or a balancer over several. Safe to use from many threads.

    Arguments beyond the messages are parameters of the request, such as
    `temperature` or `tools`, or say how it is asked: `lane`, `purpose`,
    `sample`, `cache`, `timeout`, `deadline`, `retry`, `tags`.
    """

    def __call__(self, messages: object = None, **parameters: Any) -> ModelResponse:
        """Asks and returns the answer.

        Args:
            messages: A text, messages, dictionaries, or a list of these.
            **parameters: See the class.

        Raises:
            LLMError: There is no answer; the class says why.
        """
        return self._wrap(self.client.send(self.make_call(messages, **parameters)))

    async def acall(self, messages: object = None, **parameters: Any) -> ModelResponse:
        """Does what calling the model does, without blocking the event loop."""
        return self._wrap(await self.async_client.send(self.make_call(messages, **parameters)))

    def stream(self, messages: object = None, **parameters: Any) -> Iterator[str | ModelResponse]:
        """Yields the answer's text as it comes, then the whole response."""
        for piece in self.client.stream(self.make_call(messages, **parameters)):
            yield piece if isinstance(piece, str) else self._wrap(piece)

    async def astream(
        self, messages: object = None, **parameters: Any
    ) -> AsyncIterator[str | ModelResponse]:
        """Does what `stream` does without blocking the event loop."""
        async for piece in self.async_client.stream(self.make_call(messages, **parameters)):
            yield piece if isinstance(piece, str) else self._wrap(piece)

    def format(self, *messages: object) -> list[Message]:
        """Puts messages, dictionaries, texts and lists of these into one conversation."""
        return format_messages(*messages)

    def make_call(self, messages: object = None, **parameters: Any) -> Call:
        """Returns the call that these arguments mean.

        Raises:
            BadRequest: There is no message, or something cannot be sent.
        """
        conversation = format_messages(messages)
        if not conversation:
            raise BadRequest("there is no message: give a text, or a list of messages")
        options, rest = take_options(parameters)
        return Call(self._make_request(conversation, rest), options)

    def _make_request(self, messages: list[Message], parameters: dict[str, Any]) -> Request:
        given = {**self._setup.parameters, **parameters}
        return chat_request(self.model_name, messages, namespace=self._setup.namespace, **given)

    def _wrap(self, response: Response) -> ModelResponse:
        return ModelResponse(response, self._inform(response), response.usage)


class EmbeddingModel(NamedModel):
    """A model that turns texts into vectors, or a balancer over several. See `Model`."""

    def __call__(self, texts: object = None, **parameters: Any) -> ModelResponse:
        """Returns the vectors of texts, in order; each text is cached for itself.

        Args:
            texts: One text, or a list of texts.
            **parameters: Such as `dimensions`, or how it is asked: see `Model`.

        Raises:
            LLMError: A text has no vector; the class says why.
        """
        listed, options, rest = self._read(texts, parameters)
        return self._gather(self.client.embed_each(self.model_name, listed, options, **rest))

    async def acall(self, texts: object = None, **parameters: Any) -> ModelResponse:
        """Does what calling the model does, without blocking the event loop."""
        listed, options, rest = self._read(texts, parameters)
        return self._gather(
            await self.async_client.embed_each(self.model_name, listed, options, **rest)
        )

    def _read(
        self, texts: object, parameters: dict[str, Any]
    ) -> tuple[list[str], CallOptions, dict[str, Any]]:
        listed = [texts] if isinstance(texts, str) else texts
        if listed is None or not isinstance(listed, Iterable):
            raise BadRequest("there is no text to embed: give texts=[…]")
        options, rest = take_options(parameters)
        given = {**self._setup.parameters, **rest, "namespace": self._setup.namespace}
        return list(cast("Iterable[str]", listed)), options, given

    def _gather(self, responses: list[Response]) -> ModelResponse:
        known = [response.usage for response in responses if response.usage is not None]
        usage = sum(known, Usage()) if known else None
        vectors = [response.embeddings[0] for response in responses]
        first = responses[0]
        return ModelResponse(first, self._inform(first), usage, embeddings=vectors)


_OPTIONS = {
    "lane": "lane",
    "purpose": "purpose",
    "sample": "sample",
    "cache": "cache",
    "timeout": "timeout_seconds",
    "deadline": "deadline_seconds",
    "retry": "retry",
    "tags": "tags",
}
_PLAIN = CallOptions()


def take_options(given: dict[str, Any]) -> tuple[CallOptions, dict[str, Any]]:
    """Separates how a call is made from what is asked.

    Raises:
        BadRequest: An option is out of its range.
    """
    found = _OPTIONS.keys() & given.keys()
    if not found:
        return _PLAIN, given
    options = {_OPTIONS[name]: given[name] for name in found if given[name] is not None}
    if "tags" in options:
        options["tags"] = freeze_mapping(options["tags"], "tags")
    rest = {name: value for name, value in given.items() if name not in found}
    return replace(_PLAIN, **options), rest
