"""What a model answered, as its callers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinytroupe.llm.messages import Message
from tinytroupe.llm.response import Response, ToolCall, Usage
from tinytroupe.llm.talk.parsing import ParsedResponse

if TYPE_CHECKING:
    from tinytroupe.llm.talk.tool_runs import ToolRun


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """What a model answered, and who that was. Immutable.

    Whatever else a `Response` has is here, too: `model`, `finish_reason`, `origin` …
    """

    response: Response
    """The whole response of the chain."""
    model_info: Mapping[str, Any]
    """`model_name`, `config_name`, `endpoint`, `origin`, and `model` as the endpoint names it."""
    usage: Usage | None
    """Tokens that were used, of `run_tools` by all responses; None: the endpoint did not say."""
    reading: ParsedResponse | None = None
    """What a parser made of it, and what it had to put right; None where none was asked."""
    embeddings: list[list[float]] | None = None
    """One vector per text, in order; only of embedding models."""
    runs: tuple[ToolRun, ...] = ()
    """Every tool call, in the model's order; only of `run_tools`."""
    messages: tuple[Message, ...] = ()
    """The whole conversation, the answer included; only of `run_tools`."""

    def __getattr__(self, name: str) -> Any:
        # Copying and pickling ask for names of their own before there is a response.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.response, name)

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.response.text

    @property
    def parsed(self) -> Any:
        """What a parser read; None where none was asked."""
        return self.reading.parsed if self.reading is not None else None

    @property
    def content(self) -> Any:
        """The answer's text, or what a parser set apart for the conversation."""
        return self.reading.content if self.reading is not None else self.response.text

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
