"""Models as one calls them: `model(messages)`, `await model.acall(messages)`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from tinytroupe.llm.canonical import FrozenDict, freeze_mapping
from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.messages import Message
from tinytroupe.llm.request import Call, CallOptions, Request, chat_request
from tinytroupe.llm.response import Response, Usage
from tinytroupe.llm.talk.conversation import format_messages
from tinytroupe.llm.talk.model_response import ModelResponse
from tinytroupe.llm.talk.parsing import ParsedResponse, Parser

if TYPE_CHECKING:
    from tinytroupe.llm.talk.tools import Functions, ToolReport, ToolResponse


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


def _wants_structure(parameters: Mapping[str, Any]) -> bool:
    return parameters.get("response_format") not in (None, {"type": "text"})


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

        A `response_format` (a pydantic class, a JSON Schema, or what OpenAI's API
        takes) is read into `.parsed`, as by `ask` with one attempt.

        Raises:
            LLMError: There is no answer; the class says why.
        """
        if _wants_structure(parameters):
            return self.ask(messages, attempts=1, **parameters)
        return self._wrap(self.client.send(self.make_call(messages, **parameters)))

    async def acall(self, messages: object = None, **parameters: Any) -> ModelResponse:
        """Does what calling the model does, without blocking the event loop."""
        if _wants_structure(parameters):
            return await self.aask(messages, attempts=1, **parameters)
        return self._wrap(await self.async_client.send(self.make_call(messages, **parameters)))

    def ask(
        self,
        messages: object,
        parser: Parser | None = None,
        attempts: int = 3,
        *,
        response_format: object = None,
        **parameters: Any,
    ) -> ModelResponse:
        """Asks until the answer can be read; what was read is in `.parsed`.

        After an answer that cannot be read the model is asked again, with what is
        wrong in the conversation, as a new sample.

        Args:
            messages: As for a call.
            parser: Reads the answer; None: what `response_format` asks for.
            attempts: How often is asked at most.
            response_format: A pydantic class, a JSON Schema, or what OpenAI's API takes.
            **parameters: See the class.

        Raises:
            ParseError: No answer could be read.
            LLMError: There is no answer; the class says why.
        """
        from tinytroupe.llm.talk.ask import ask

        call = self.make_call(messages, **parameters)
        return self._wrap_read(
            ask(self.client, call, parser, response_format=response_format, attempts=attempts)
        )

    async def aask(
        self,
        messages: object,
        parser: Parser | None = None,
        attempts: int = 3,
        *,
        response_format: object = None,
        **parameters: Any,
    ) -> ModelResponse:
        """Does what `ask` does without blocking the event loop."""
        from tinytroupe.llm.talk.ask import aask

        call = self.make_call(messages, **parameters)
        return self._wrap_read(
            await aask(
                self.async_client,
                call,
                parser,
                response_format=response_format,
                attempts=attempts,
            )
        )

    def run_tools(
        self,
        messages: object,
        functions: Functions,
        *,
        max_rounds: int = 8,
        in_threads: bool = False,
        on_run: ToolReport | None = None,
        **parameters: Any,
    ) -> ModelResponse:
        """Lets the model call functions until it answers; what was run is in `.runs`.

        Each response is cached as usual; the functions run again each time.

        Args:
            messages: As for a call.
            functions: What may be called; for their schemas see `make_tool`.
            max_rounds: How often functions are run, at most, before the model has to answer.
            in_threads: Whether the calls of one response run at the same time, each in a thread.
            on_run: Is told of each run as it is sent back.
            **parameters: See the class.

        Raises:
            ToolRoundsExceeded: The model went on calling tools.
            BadRequest: A function cannot be described, or two have one name.
            LLMError: There is no answer; the class says why. Its `runs` are what was run before.
        """
        from tinytroupe.llm.talk.tools import run_tools

        call = self.make_call(messages, **parameters)
        return self._wrap_run(
            run_tools(
                self.client,
                call,
                functions,
                max_rounds=max_rounds,
                in_threads=in_threads,
                on_run=on_run,
            )
        )

    async def arun_tools(
        self,
        messages: object,
        functions: Functions,
        *,
        max_rounds: int = 8,
        in_threads: bool = False,
        on_run: ToolReport | None = None,
        **parameters: Any,
    ) -> ModelResponse:
        """Does what `run_tools` does without blocking the event loop while the model is asked.

        Functions may be asynchronous and are awaited one after the other. Others run on the
        loop's thread and block it, unless `in_threads` is set.
        """
        from tinytroupe.llm.talk.tools import arun_tools

        call = self.make_call(messages, **parameters)
        return self._wrap_run(
            await arun_tools(
                self.async_client,
                call,
                functions,
                max_rounds=max_rounds,
                in_threads=in_threads,
                on_run=on_run,
            )
        )

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

    def _wrap_read(self, read: ParsedResponse) -> ModelResponse:
        response = read.response
        return ModelResponse(response, self._inform(response), response.usage, read)

    def _wrap_run(self, run: ToolResponse) -> ModelResponse:
        return ModelResponse(
            run.response,
            self._inform(run.response),
            run.usage,
            runs=run.runs,
            messages=run.messages,
        )


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
