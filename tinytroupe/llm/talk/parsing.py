"""What every parser promises, and what comes out of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from tinytroupe.llm.errors import ParseError
from tinytroupe.llm.response import Response, Usage
from tinytroupe.llm.talk.call import read_message
from tinytroupe.llm.talk.json_reading import Reading
from tinytroupe.llm.talk.places import Unreadable, make_parse_error

Keys: TypeAlias = "str | bool | Sequence[str] | None"
"""Which part of a parsed dictionary: True all of it, False or None nothing, a text the value of
that key, several texts a dictionary of those keys."""


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """A response and what it says. Immutable."""

    response: Response
    parsed: Any
    """What the parser read."""
    content: Any
    """The part of it that is meant for the conversation."""
    metadata: Any = None
    """The part of it that is meant for the program only; None: nothing."""
    memory: Any = None
    """The part of it that is meant for the agent's own memory."""
    repairs: tuple[str, ...] = ()
    """What had to be put right to read it, a sentence each; empty: nothing."""
    rejected: tuple[str, ...] = ()
    """Where a model was asked again: what was wrong with each answer before this one."""

    @property
    def text(self) -> str:
        """The answer as the model wrote it."""
        return self.response.text

    @property
    def usage(self) -> Usage | None:
        """Tokens of this answer, those before it not included; None: not told."""
        return self.response.usage

    @property
    def model(self) -> str:
        """The model as the endpoint named it."""
        return self.response.model

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped."""
        return self.response.finish_reason

    @property
    def raw(self) -> dict[str, Any]:
        """The whole answer, parsed anew at each access."""
        return self.response.raw


class Parser(Protocol):
    """Reads what was asked for out of an answer. Safe to use from many threads."""

    @property
    def format_instruction(self) -> str:
        """Tells a model how to answer; for the end of a prompt."""
        ...

    def parse(self, response: Response) -> ParsedResponse:
        """Reads a response.

        Raises:
            ParseError: It does not say what was asked for; the message names that,
                and the place.
        """
        ...


class TextParser:
    """What the parsers of this package share: errors, empty answers, the parts of a response.

    A subclass has `wanted`, `format_instruction` and `_read`.

    Args:
        wanted: What should be in an answer, for errors: `a JSON object`.
        strict: Whether an answer is taken only if it is exactly as it was asked for.
    """

    format_instruction: str

    def __init__(self, wanted: str, strict: bool) -> None:
        self.wanted = wanted
        self.strict = strict

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.wanted!r})"

    def parse(self, response: Response) -> ParsedResponse:
        """Reads a response.

        Raises:
            ParseError: It does not say what was asked for, or is empty. The message names what
                was wanted and shows the place.
            ContentFiltered: The provider's content filter withheld it.
        """
        try:
            if not response.text.strip():
                raise make_parse_error("", self.wanted, _explain_emptiness(response))
            reading = self.read(response.text)
        except ParseError as error:
            error.model = response.model or None
            error.attempts = response.attempts
            if response.truncated:
                error.message += " (the answer was cut at the maximum of tokens)"
            raise
        parsed = ParsedResponse(response, reading.value, reading.value, None, reading.value)
        return self._divide(replace(parsed, repairs=reading.repairs))

    def read(self, text: str) -> Reading:
        """Reads a text that is no response.

        Raises:
            ParseError: It does not say what was asked for, or is empty.
        """
        try:
            if not text.strip():
                raise Unreadable("the answer is empty")
            return self._read(text)
        except Unreadable as unreadable:
            raise make_parse_error(text, self.wanted, unreadable) from unreadable.__cause__

    def _read(self, text: str) -> Reading:
        """Reads a text that is not empty, or raises Unreadable."""
        raise NotImplementedError

    def _divide(self, parsed: ParsedResponse) -> ParsedResponse:
        """Returns the parsed response with what is for whom."""
        return parsed


def _explain_emptiness(response: Response) -> Unreadable:
    if response.kind != "chat":
        return Unreadable("the answer is empty")
    message = read_message(response)
    if message.get("refusal"):
        return Unreadable(f"the model refused: {message['refusal']}")
    if response.tool_calls:
        names = ", ".join(call.name for call in response.tool_calls)
        return Unreadable(f"the model called tools instead ({names}); run_tools runs them")
    return Unreadable("the answer is empty")


class KeyFilter:
    """Which parts of a parsed dictionary are for the conversation, the program, the memory.

    Args:
        keys_to_memory: For the agent's own memory.
        keys_to_content: For the conversation, which others hear.
        keys_to_metadata: For the program.
        may_lack: Keys that may be missing.
    """

    def __init__(
        self,
        keys_to_memory: Keys = True,
        keys_to_content: Keys = True,
        keys_to_metadata: Keys = False,
        may_lack: Sequence[str] = (),
    ) -> None:
        self.keys_to_memory = keys_to_memory
        self.keys_to_content = keys_to_content
        self.keys_to_metadata = keys_to_metadata
        self.may_lack = frozenset(may_lack)

    def list_named(self) -> list[str]:
        """Returns the keys that are named, and so must be there, each once."""
        named: list[str] = []
        for keys in (self.keys_to_memory, self.keys_to_content, self.keys_to_metadata):
            if isinstance(keys, str):
                named.append(keys)
            elif keys and not isinstance(keys, bool):
                named += keys
        return [name for name in dict.fromkeys(named) if name not in self.may_lack]

    def pick(self, parsed: Mapping[str, Any], keys: Keys) -> Any:
        """Returns a part of a dictionary; see `Keys`."""
        if not keys:
            return None
        if keys is True:
            return parsed
        if isinstance(keys, str):
            return parsed.get(keys)
        return {name: parsed[name] for name in keys if name in parsed}

    def divide(self, parsed: ParsedResponse) -> ParsedResponse:
        """Returns the response with its three parts."""
        return replace(
            parsed,
            content=self.pick(parsed.parsed, self.keys_to_content),
            metadata=self.pick(parsed.parsed, self.keys_to_metadata),
            memory=self.pick(parsed.parsed, self.keys_to_memory),
        )


def require_keys(value: Mapping[str, Any], required: Sequence[str]) -> None:
    """Refuses a dictionary that lacks a key.

    Raises:
        Unreadable: It does; the reason names all that are missing, and what is there.
    """
    missing = [name for name in required if name not in value]
    if missing:
        there = ", ".join(map(repr, value)) or "none"
        raise Unreadable(
            f"it lacks the key{'s' if len(missing) > 1 else ''} "
            f"{', '.join(map(repr, missing))}; its keys are: {there}"
        )
