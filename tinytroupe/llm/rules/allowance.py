"""A number of tokens that must not be passed, however many calls are under way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.errors import BudgetExceeded, ConfigError
from tinytroupe.llm.request import Request
from tinytroupe.llm.rules.tokens import count_messages, count_text

_LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a call may take."""

    request: Request
    """As it may be sent."""
    tokens: int


class Allowance:
    """Reserves what a call may take at most before it, and settles what it took. For many threads.

    Args:
        limit_tokens: How many tokens all calls together may take.

    Raises:
        ConfigError: The limit is not positive.
    """

    def __init__(self, limit_tokens: int) -> None:
        if limit_tokens < 1:
            raise ConfigError(f"max_total_tokens is {limit_tokens}; it must be at least 1")
        self.limit_tokens = limit_tokens
        self._lock = Lock()
        self._used = 0
        self._reserved = 0

    def reserve(self, request: Request) -> Reserved:
        """Reserves the question and the longest answer.

        A request that does not limit its answer is given what is left as its
        limit, so that it cannot pass it either; while it is under way there is
        nothing left for others.

        Raises:
            BudgetExceeded: There is not enough left. Nothing was sent.
        """
        asked = _count(request)
        answers = max(len(request.texts), 1) * max(_read_number(request, "n"), 1)
        most = max(_read_number(request, name) for name in _LIMITS)
        with self._lock:
            left = self.limit_tokens - self._used - self._reserved
            if not most and request.kind != "embedding":
                most = (left - asked) // answers
                if most >= 1:
                    limited = FrozenDict({**request.parameters, "max_tokens": most})
                    request = replace(request, parameters=limited)
            tokens = asked + most * answers
            if most < 0 or tokens > left or (not most and request.kind != "embedding"):
                raise BudgetExceeded(self._say(asked, max(most, 0) * answers, left))
            self._reserved += tokens
        return Reserved(request, tokens)

    def settle(self, reserved: Reserved, used_tokens: int) -> None:
        """Puts what was used in the place of what was reserved; 0 when nothing was bought."""
        with self._lock:
            self._reserved -= reserved.tokens
            self._used += used_tokens

    def reset(self) -> None:
        """Starts again; what is reserved stays reserved."""
        with self._lock:
            self._used = 0

    def _say(self, asked: int, answered: int, left: int) -> str:
        held = f", {self._reserved} are held by calls under way" if self._reserved else ""
        answer = f" and its answer up to {answered}" if answered else ", before any answer"
        return (
            f"max_total_tokens is {self.limit_tokens}, of which {self._used} are used{held}: "
            f"{max(left, 0)} are left, but this request takes {asked} tokens{answer}; nothing "
            "was sent. A smaller max_tokens or a larger max_total_tokens lets it through"
        )


def _count(request: Request) -> int:
    if request.kind == "chat":
        tools = request.parameters.get("tools")
        listed = tools if isinstance(tools, (list, tuple)) else ()
        return count_messages(request.messages, request.model, listed).tokens
    return sum(count_text(text, request.model).tokens for text in request.texts)


def _read_number(request: Request, name: str) -> int:
    value = request.parameters.get(name)
    return value if isinstance(value, int) else 0
