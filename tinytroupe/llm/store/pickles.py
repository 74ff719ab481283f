"""Reading the pickles in which TinyTroupe keeps its answers, with nothing run and nothing imported.

The fields of the SDK's objects, in every version that TinyTroupe ran with, were
written by pydantic: version 2 keeps `__dict__`, `__pydantic_extra__` and
`__pydantic_fields_set__`, version 1 `__dict__` and `__fields_set__`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.pickle_machine import GROWTH, Machine, StandIn, describe

MAX_DEPTH = 60
"""How deep an answer may be nested."""

_ALLOWANCE = 2**20


class Unreadable(Exception):
    """One answer of a cache cannot be turned into JSON; the message says why."""


def iter_answers(
    content: bytes, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[str, Any | Unreadable]]:
    """Yields the keys and the answers of a pickled cache, in its order.

    Answers are plain data as JSON has them, fresh each: the objects of OpenAI's
    SDK become the dictionaries that its own `to_dict` makes of them. One that
    cannot be told as JSON is an `Unreadable` in its place.

    Args:
        content: The pickle. The whole of it is read before the first answer comes.
        on_progress: Is told from time to time how many bytes were read.

    Raises:
        StoreError: It is damaged, no dictionary of answers, or holds what no cache of
            TinyTroupe holds; the message names it. Nothing of it was run.
    """
    answers = Machine(len(content)).run(content, on_progress)
    if type(answers) is not dict:
        raise StoreError(
            f"the pickle holds a {describe(answers)}, not a dictionary of answers, so it is no "
            "cache of TinyTroupe"
        )
    plainer = _Plainer(len(content))
    for key, answer in answers.items():
        try:
            yield key, plainer.convert(answer, 0)
        except Unreadable as reason:
            yield key, reason


class _Plainer:
    """Turns what the machine built into plain data, each answer by itself.

    What a pickle says once it may mean many times over, even in itself, so the
    copies are counted.
    """

    def __init__(self, size_bytes: int) -> None:
        self._left = GROWTH * size_bytes + _ALLOWANCE

    def convert(self, value: Any, depth: int) -> Any:
        """Returns a copy made of dictionaries, lists and scalars.

        Raises:
            Unreadable: It holds itself, is nested too deeply, or has no form in JSON.
            StoreError: The copies grow far beyond the pickle.
        """
        if depth > MAX_DEPTH:
            raise Unreadable(f"the answer is nested more than {MAX_DEPTH} deep, or holds itself")
        self._count(len(value) if isinstance(value, str) else 8)
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        if isinstance(value, (list, tuple)):
            return [self.convert(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return self._convert_items(value, depth)
        if isinstance(value, StandIn):
            return self._convert_items(_list_fields(value), depth)
        raise Unreadable(f"the answer holds a {describe(value)}, which has no form in JSON")

    def _convert_items(self, items: dict[str, Any], depth: int) -> dict[str, Any]:
        self._count(sum(map(len, items)))
        return {key: self.convert(item, depth + 1) for key, item in items.items()}

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise StoreError(
                "the pickle says far more than it holds, by repeating itself, which no cache of "
                "TinyTroupe does; it is refused"
            )


def _list_fields(stand_in: StandIn) -> dict[str, Any]:
    """Returns the fields that the endpoint sent; those that the SDK made up are left out."""
    state = stand_in.state or {}
    fields, extra = state.get("__dict__"), state.get("__pydantic_extra__") or {}
    if type(fields) is not dict or type(extra) is not dict:
        raise Unreadable(f"the object {stand_in.label} has no fields")
    sent = state.get("__pydantic_fields_set__", state.get("__fields_set__"))
    if type(sent) is set:
        fields = {name: value for name, value in fields.items() if name in sent}
    return {**fields, **extra}
