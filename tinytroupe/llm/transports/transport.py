"""What every transport promises."""

from __future__ import annotations

from typing import Protocol

from tinytroupe.llm.request import Attempt
from tinytroupe.llm.response import Response


class Transport(Protocol):
    """Moves one request to one endpoint and back. Safe to use from many threads.

    The whole attempt, first byte to last, ends within
    `attempt.timeout_seconds`, with `TimedOut` where it must.
    """

    name: str
    """The endpoint's name, for people."""

    def send(self, attempt: Attempt) -> Response:
        """Asks and blocks until the answer is whole.

        Raises:
            LLMAPIError: The endpoint answered with a failure.
            LLMConnectionError: It did not answer.
            ConfigError: The endpoint is not set up, for want of a key, say.
        """
        ...

    async def asend(self, attempt: Attempt) -> Response:
        """Does the same without blocking the event loop. Raises what `send` raises."""
        ...

    def close(self) -> None:
        """Closes the connections; the next `send` opens new ones."""
        ...

    async def aclose(self) -> None:
        """Closes the connections that belong to the running event loop."""
        ...
