"""Models that users bring: a class of theirs stands where an endpoint would."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tinytroupe.llm.errors import LLMAPIError, MalformedResponse, TimedOut
from tinytroupe.llm.request import Attempt, Request
from tinytroupe.llm.response import Response, parse_response
from tinytroupe.llm.transports.overridden import map_error
from tinytroupe.llm.transports.wire import check_vectors


class ModelAdapterBase:
    """The base of models that users bring. Subclass it and register it under a `model_type`.

    `__call__` answers; where there is an `acall`, it answers on event loops,
    else `__call__` does so on a thread. Both may be called many times at once.
    A model for chats takes `messages`, a list of dictionaries, and returns a text,
    a message, or a whole answer in the shape of OpenAI's API; a model for
    embeddings takes `texts` and returns a list of vectors. Further arguments
    are the parameters of the request. Cache, retries and balancing are the
    chain's business: raise what went wrong.

    Args:
        config_name: The name in the configuration.
        model_name: The model that it names.
        **settings: The other keys of the configuration.
    """

    def __init__(self, config_name: str, model_name: str = "", **settings: Any) -> None:
        self.config_name = config_name
        self.model_name = model_name
        self.settings = settings

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no __call__")


class AdaptedTransport:
    """Asks a user's own model. See `Transport`.

    A blocking call runs on the caller's thread and cannot be broken off; on an
    event loop it is given up when the time is over.
    """

    def __init__(self, adapter: ModelAdapterBase, name: str) -> None:
        self.name = name
        self._adapter = adapter

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._adapter).__name__}, name={self.name!r})"

    def send(self, attempt: Attempt) -> Response:
        started = time.monotonic()
        try:
            answer = self._adapter(**_make_arguments(attempt.call.request))
        except Exception as error:
            raise map_error(error, self.name, attempt.timeout_seconds) from error
        return self._read(attempt, answer, started)

    async def asend(self, attempt: Attempt) -> Response:
        started = time.monotonic()
        arguments = _make_arguments(attempt.call.request)
        acall = getattr(self._adapter, "acall", None)
        try:
            if acall is None:
                work = asyncio.to_thread(self._adapter, **arguments)
            else:
                work = acall(**arguments)
            answer = await asyncio.wait_for(work, attempt.timeout_seconds)
        except asyncio.TimeoutError as error:
            raise TimedOut(
                f"{self.name} did not answer within {attempt.timeout_seconds:g} s"
            ) from error
        except Exception as error:
            raise map_error(error, self.name, attempt.timeout_seconds) from error
        return self._read(attempt, answer, started)

    def close(self) -> None:
        close = getattr(self._adapter, "close", None)
        if callable(close):
            close()

    async def aclose(self) -> None:
        aclose = getattr(self._adapter, "aclose", None)
        if inspect.iscoroutinefunction(aclose):
            await aclose()
        else:
            self.close()

    def _read(self, attempt: Attempt, answer: object, started: float) -> Response:
        request = attempt.call.request
        response = parse_response(
            request.kind,
            _encode(_make_body(answer, request, self.name), self.name),
            endpoint=self.name,
            attempts=attempt.number,
            seconds=time.monotonic() - started,
        )
        if request.kind == "embedding":
            check_vectors(request, response)
        return response


def _make_arguments(request: Request) -> dict[str, Any]:
    # Parsed anew, so that whatever the model does with it, the request stays as it is.
    body: dict[str, Any] = orjson.loads(request.body)
    del body["model"]
    if request.kind == "embedding":
        body["texts"] = list(request.texts)
        del body["input"]
    return body


def _make_body(answer: object, request: Request, name: str) -> Mapping[str, Any]:
    answer = getattr(answer, "raw", answer)
    if hasattr(answer, "model_dump"):
        answer = answer.model_dump()
    if request.kind == "embedding" and isinstance(answer, Sequence):
        if answer and isinstance(answer[0], (int, float)):
            answer = [answer]
        rows = [
            {"object": "embedding", "index": index, "embedding": list(vector)}
            for index, vector in enumerate(answer)
        ]
        return {"object": "list", "model": request.model, "data": rows}
    if isinstance(answer, Mapping) and ("choices" in answer or "data" in answer):
        return {"model": request.model, **answer}
    if request.kind == "completion" and isinstance(answer, str):
        choice = {"index": 0, "text": answer, "finish_reason": "stop"}
        return {"object": "text_completion", "model": request.model, "choices": [choice]}
    message = {"content": answer} if isinstance(answer, str) else answer
    if request.kind != "chat" or not isinstance(message, Mapping):
        raise MalformedResponse(
            f"{name} returned a {type(answer).__name__}, which is no answer to a {request.kind}"
        )
    choice = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
    }
    return {"object": "chat.completion", "model": request.model, "choices": [choice]}


def _encode(body: Mapping[str, Any], name: str) -> bytes:
    try:
        return orjson.dumps(dict(body))
    except TypeError as error:
        raise LLMAPIError(f"what {name} returned cannot be kept as JSON: {error}") from error
