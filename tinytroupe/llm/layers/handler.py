"""What layers wrap."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from tinytroupe.llm.request import Attempt, Call
from tinytroupe.llm.response import Response

Handler: TypeAlias = Callable[[Call], Coroutine[Any, Any, Response]]
"""Answers a call, or raises an `LLMError`."""

AttemptHandler: TypeAlias = Callable[[Attempt], Coroutine[Any, Any, Response]]
"""Makes one attempt of a call, or raises an `LLMError`."""
