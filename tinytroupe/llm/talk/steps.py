"""One text for both clients: what is to be asked next, and the two ways to ask it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import LLMError
from tinytroupe.llm.request import Call
from tinytroupe.llm.response import Response

T = TypeVar("T")

Steps: TypeAlias = "Generator[Call, Response, T]"
"""Yields calls, is given their responses or their errors, and returns what came of it all."""


def drive(client: Client, steps: Steps[T]) -> T:
    """Makes the calls of some steps, one after the other, and returns what they return."""
    try:
        call = next(steps)
        while True:
            try:
                response = client.send(call)
            except LLMError as error:
                call = steps.throw(error)
            else:
                call = steps.send(response)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def adrive(client: AsyncClient, steps: Steps[T]) -> T:
    """Does what `drive` does without blocking the event loop."""
    try:
        call = next(steps)
        while True:
            try:
                response = await client.send(call)
            except LLMError as error:
                call = steps.throw(error)
            else:
                call = steps.send(response)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
