"""Vectors of many texts: each text has its own entry, those that are missing are asked together."""

from __future__ import annotations

import copy
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeAlias, cast

import orjson

from tinytroupe.llm.errors import BadRequest, ContentFiltered, ContextTooLong, LLMError
from tinytroupe.llm.layers.cache import Cache
from tinytroupe.llm.layers.flight import Flight
from tinytroupe.llm.layers.handler import Handler
from tinytroupe.llm.request import Call
from tinytroupe.llm.response import Response, parse_response
from tinytroupe.llm.runtime import Runtime

Outcome: TypeAlias = "Response | LLMError"

MAX_TEXTS = 256
MAX_BYTES = 250_000
"""OpenAI takes 2,048 texts and 300,000 tokens in a request; a token is at least a byte."""


class Batch:
    """Answers embedding calls of one text each, with as few requests as will do.

    What holds for single calls holds here: one live request per key, whoever
    asks; an answer is stored before it is returned; a follower waits for its
    leader, and only after its own texts are answered, so that two batches never
    wait for each other.

    Args:
        handler: Buys an answer, retries included.
        one: Answers a single call, cache and flight included.
        flight: The calls that are under way.
        cache: Where answers are kept.
    """

    def __init__(self, handler: Handler, one: Handler, flight: Flight, cache: Cache) -> None:
        self._handler = handler
        self._one = one
        self._flight = flight
        self._cache = cache

    async def answer(self, calls: Sequence[Call], runtime: Runtime) -> list[Outcome]:
        """Returns what became of each call, in order.

        Args:
            calls: Of kind `embedding`, with one text each and the same model,
                parameters and options; their keys differ.
            runtime: Of the client.
        """
        if not calls:
            return []
        mode = self._cache.choose_mode(calls[0])
        if mode == "only":
            return [await _settle(self._one(call)) for call in calls]
        if mode != "on":
            return [
                outcome
                for chunk in _cut(calls)
                for outcome in await self._buy(chunk, keep=mode == "refresh")
            ]
        outcomes: dict[str, Outcome] = {}
        led: dict[str, Future[Response | None]] = {}
        followed: list[tuple[Call, Future[Response | None]]] = []
        try:
            await self._look(calls, outcomes, led, followed)
            missing = [call for call in calls if call.key in led]
            for chunk in _cut(missing):
                for call, outcome in zip(chunk, await self._buy(chunk, keep=True), strict=True):
                    outcomes[call.key] = outcome
                    self._flight.land(call.key, led.pop(call.key), outcome)
        finally:
            # Whoever waits for what could not be asked asks for itself.
            for key, future in led.items():
                self._flight.land(key, future, None)
        for call, future in followed:
            outcomes[call.key] = await self._follow(call, future, runtime)
        return [outcomes[call.key] for call in calls]

    async def _look(
        self,
        calls: Sequence[Call],
        outcomes: dict[str, Outcome],
        led: dict[str, Future[Response | None]],
        followed: list[tuple[Call, Future[Response | None]]],
    ) -> None:
        for call in calls:
            response = await self._cache.look(call)
            if response is None:
                future, leads = self._flight.join(call.key)
                if not leads:
                    followed.append((call, future))
                    continue
                led[call.key] = future
                # Another leader may have stored it between the look and the join.
                response = await self._cache.look(call)
                if response is None:
                    continue
                self._flight.land(call.key, led.pop(call.key), response)
            outcomes[call.key] = response

    async def _follow(
        self, call: Call, future: Future[Response | None], runtime: Runtime
    ) -> Outcome:
        remaining = None if call.expires_at is None else call.expires_at - runtime.now()
        try:
            response = await runtime.wait(future, remaining)
        except LLMError as error:
            return copy.copy(error)
        except TimeoutError:
            response = None
        if response is None:
            return await _settle(self._one(call))
        return replace(response, origin="flight", attempts=0)

    async def _buy(self, calls: Sequence[Call], *, keep: bool) -> list[Outcome]:
        """Asks for texts together; where the request is refused, for each half."""
        try:
            if len(calls) == 1:
                whole = await self._handler(calls[0])
            else:
                whole = await self._handler(join_calls(calls))
        except LLMError as error:
            if len(calls) > 1 and isinstance(error, _FAULTS_OF_A_TEXT):
                middle = len(calls) // 2
                return [
                    *await self._buy(calls[:middle], keep=keep),
                    *await self._buy(calls[middle:], keep=keep),
                ]
            return [error if index == 0 else copy.copy(error) for index in range(len(calls))]
        responses = split_response(whole, calls)
        if keep:
            for call, response in zip(calls, responses, strict=True):
                await self._cache.keep(call, response)
        return list(responses)


_FAULTS_OF_A_TEXT = (BadRequest, ContextTooLong, ContentFiltered)


async def _settle(answer: Coroutine[Any, Any, Response]) -> Outcome:
    try:
        return await answer
    except LLMError as error:
        return error


def _cut(calls: Sequence[Call]) -> Iterator[Sequence[Call]]:
    """Yields the calls in portions that one request may carry."""
    begin, size = 0, 0
    for index, call in enumerate(calls):
        bytes_ = len(call.request.body)
        if index > begin and (index - begin >= MAX_TEXTS or size + bytes_ > MAX_BYTES):
            yield calls[begin:index]
            begin, size = index, 0
        size += bytes_
    if begin < len(calls):
        yield calls[begin:]


def join_calls(calls: Sequence[Call]) -> Call:
    """Returns one call for the texts of several."""
    first = calls[0]
    texts = tuple([text for call in calls for text in call.request.texts])
    return replace(first, request=replace(first.request, texts=texts))


def split_response(whole: Response, calls: Sequence[Call]) -> list[Response]:
    """Returns one response per call; each is what its text alone would have got.

    The endpoint tells the tokens of all texts together. Each response gets its
    share by length, so that the sum is right. The tries on the wire are counted
    for the first one only.
    """
    if len(calls) == 1:
        return [whole]
    raw = whole.raw
    rows = sorted(raw.pop("data"), key=lambda row: cast(int, row["index"]))
    lengths = [len(call.request.body) for call in calls]
    shares = _share(whole.usage.input_tokens, lengths) if whole.usage is not None else None
    responses = []
    for index, row in enumerate(rows):
        usage = (
            {"usage": {"prompt_tokens": shares[index], "total_tokens": shares[index]}}
            if shares
            else {}
        )
        content = orjson.dumps({**raw, "data": [{**row, "index": 0}], **usage})
        responses.append(
            parse_response(
                "embedding",
                content,
                endpoint=whole.endpoint,
                attempts=whole.attempts if index == 0 else 0,
                seconds=whole.seconds,
                request_id=whole.request_id,
            )
        )
    return responses


def _share(total: int, weights: Sequence[int]) -> list[int]:
    """Divides a whole number by weights; the sum of the parts is the number."""
    whole, given, passed = sum(weights), 0, 0
    parts = []
    for weight in weights:
        passed += weight
        until = total * passed // whole
        parts.append(until - given)
        given = until
    return parts
