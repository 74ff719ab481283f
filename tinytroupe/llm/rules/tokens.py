"""Tokens: how much of a model's context a text or a conversation takes.

How a conversation becomes tokens is documented in OpenAI's cookbook, "How to count tokens
with tiktoken" (https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken),
sections 6 (messages) and 7 (tools). A count is called exact where the cookbook has the case,
and not exact anywhere else: models of other makers, reasoning models, images, tool calls in
messages, and tools with more than the cookbook's parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from types import FunctionType
from typing import Any, NoReturn

from tinytroupe.llm.messages import MessageLike, to_message

FALLBACK_ENCODING = "o200k_base"
"""Counts for models whose own encoding is not known."""

BYTES = "bytes"
"""Stands for the encoding where only an upper bound could be given. These encodings put
together bytes, so no text has more tokens than it has bytes in UTF-8."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many tokens something takes, and how far that can be relied on."""

    tokens: int
    exact: bool
    """Whether the model counts the same. If not, it is an estimate, or an upper bound
    where `encoding` is `bytes`."""
    encoding: str
    """The encoding that was counted with: `o200k_base`, `cl100k_base` …, or `bytes`."""


def count_text(text: str, model: str) -> TokenCount:
    """Counts the tokens of a text. Never makes a network request.

    Names of special tokens in the text, such as `<|endoftext|>`, count as ordinary text.
    An unpaired surrogate counts as U+FFFD, and makes the count not exact. The first count
    with an encoding loads it, which takes up to a second; later ones take a few tenths of
    a second for ten megabytes, repetitive ones included. Where only tiktoken is there, ten
    megabytes take a few seconds, and half a million characters without a space after a
    Latin letter get an upper bound. Safe in many threads at once.

    Args:
        text: Any text, of any length.
        model: The model that would read it. If it is not known, the count is that of
            `FALLBACK_ENCODING` and not exact.
    """
    tally = _Tally(model)
    tally.add_text(text)
    return tally.finish()


def count_messages(
    messages: Iterable[MessageLike],
    model: str,
    tools: Iterable[Mapping[str, Any]] | None = (),
    functions: Iterable[Mapping[str, Any]] | None = (),
) -> TokenCount:
    """Counts the tokens of a conversation as it is sent: texts, framing and tools.

    Never makes a network request. See `count_text` for what holds of the texts in it.
    An image counts as the largest that `gpt-4o` takes, or as a small one where its
    `detail` is `low`; sound and files are not counted. Both are not exact.

    Args:
        messages: The conversation; may be empty.
        model: The model that would read it. Fine-tuned ones (`ft:…`) count as what they
            were made from, Azure's `gpt-35-turbo` as `gpt-3.5-turbo`.
        tools: The tools that the model may call, in the shape of OpenAI's API.
        functions: The same in the older shape, which the cookbook does not have.

    Raises:
        BadRequest: A message is not one.
    """
    tally = _Tally(model)
    for index, message in enumerate(messages):
        tally.add_message(to_message(message, f"message {index}").to_wire())
    listed = list(tools or ())
    older = [{"type": "function", "function": function} for function in functions or ()]
    tally.add_tools([*listed, *older], documented=not older)
    tally.tokens += _REPLY
    return tally.finish()


def find_encoding(model: str) -> str | None:
    """Returns the name of a model's encoding, or None for a model that is not known."""
    return _find_encoding(_find_base(model))


_REPLY = 3
"""Each reply is begun with `<|start|>assistant<|message|>`."""
_IMAGE, _SMALL_IMAGE = 85 + 8 * 170, 85
"""Source: OpenAI, "Images and vision" guide: 85 tokens and 170 for each of at most eight tiles."""

_DOCUMENTED_ROLES = frozenset({"system", "user", "assistant"})
_CHAT = re.compile(r"gpt-3\.5(-turbo|$)|gpt-35-turbo|gpt-4|chatgpt-4o-")
"""The models whose framing is documented. Reasoning models are not among them: their API
reports one token less for a request than the cookbook's formula gives."""
_WITH_TOOLS = re.compile(r"gpt-3\.5(-turbo|$)|gpt-35-turbo|gpt-4(o|$|-)")
"""The models for which the cookbook counts tools."""


@dataclass(frozen=True, slots=True)
class _Framing:
    """What stands around texts, in tokens."""

    message: int = 3
    """`<|start|>{role}<|message|>{content}<|end|>`, the texts not counted."""
    name: int = 1
    function: int = 7
    """Before each tool."""
    properties: int = 3
    """Before the parameters of a tool that has any."""
    property: int = 3
    enum: int = -3
    """Less for a parameter with a list of values."""
    value: int = 3
    """For each of these values."""
    tools_end: int = 12


_FRAMING = _Framing()
_OLDER_FRAMING = _Framing(function=10)
"""Of models with `cl100k_base`."""
_OLDEST_FRAMING = _Framing(message=4, name=-1, function=10)
"""Of `gpt-3.5-turbo-0301`: a name takes the place of the role."""


class _Tally:
    """Adds up what one conversation takes."""

    def __init__(self, model: str) -> None:
        base = _find_base(model)
        encoding = _find_encoding(base)
        self._count = _load_counter(encoding or FALLBACK_ENCODING)
        self._encoding = (encoding or FALLBACK_ENCODING) if self._count else BYTES
        self._framing = _find_framing(base, encoding)
        self._documented = _CHAT.match(base) is not None
        self._tools_documented = _WITH_TOOLS.match(base) is not None
        self.tokens = 0
        self.exact = encoding is not None and self._count is not None

    def finish(self) -> TokenCount:
        return TokenCount(self.tokens, self.exact, self._encoding)

    def add_text(self, text: str) -> None:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            # As tiktoken has it: a pair of surrogates is a character, a single one is lost.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            size = len(text.encode())
            self.exact = False
        try:
            self.tokens += self._count(text) if self._count else size
        except OverflowError:
            self.tokens += size
            self.exact, self._encoding = False, BYTES

    def add_message(self, message: Mapping[str, Any]) -> None:
        self.tokens += self._framing.message
        self.exact &= self._documented and message["role"] in _DOCUMENTED_ROLES
        for key, value in message.items():
            if isinstance(value, str):
                self.add_text(value)
                self.tokens += self._framing.name if key == "name" else 0
                self.exact &= key in ("role", "content", "name")
            elif key == "content":
                self._add_parts(value)
            elif value is not None:
                self._add_json(value)

    def _add_parts(self, parts: Sequence[Any] | None) -> None:
        self.exact = False
        for part in parts or ():
            given = part if isinstance(part, Mapping) else {}
            text = given.get("text") or given.get("refusal")
            if isinstance(text, str):
                self.add_text(text)
            elif isinstance(image := given.get("image_url"), Mapping):
                self.tokens += _SMALL_IMAGE if image.get("detail") == "low" else _IMAGE

    def _add_json(self, value: Any) -> None:
        self.exact = False
        self.add_text(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))

    def add_tools(self, tools: Sequence[Mapping[str, Any]], *, documented: bool) -> None:
        if not tools:
            return
        self.exact &= documented and self._tools_documented
        for tool in tools:
            self.tokens += self._framing.function
            if _is_documented(tool):
                self._add_function(tool["function"])
            else:
                self._add_json(tool)
        self.tokens += self._framing.tools_end

    def _add_function(self, function: Mapping[str, Any]) -> None:
        self.add_text(f"{function['name']}:{function['description'].removesuffix('.')}")
        properties = function["parameters"]["properties"]
        if properties:
            self.tokens += self._framing.properties
        for name, given in properties.items():
            self.tokens += self._framing.property
            if "enum" in given:
                self.tokens += self._framing.enum
                for value in given["enum"]:
                    self.tokens += self._framing.value
                    self.add_text(value)
            self.add_text(f"{name}:{given['type']}:{given['description'].removesuffix('.')}")


def _is_documented(tool: object) -> bool:
    """Tells whether a tool has just what the cookbook's formula counts."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    parameters = function.get("parameters") if isinstance(function, Mapping) else None
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return (
        _has_only(tool, texts=("type",), others=("function",))
        and _has_only(function, texts=("name", "description"), others=("parameters",))
        and _has_only(parameters, texts=("type",), others=("properties", "required"))
        and isinstance(properties, Mapping)
        and all(
            _has_only(given, texts=("type", "description"), others=("enum",))
            and all(isinstance(value, str) for value in given.get("enum", ()))
            for given in properties.values()
        )
    )


def _has_only(value: object, *, texts: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(value.get(key), str) for key in texts)
        and value.keys() <= {*texts, *others}
    )


def _find_framing(base: str, encoding: str | None) -> _Framing:
    if base == "gpt-3.5-turbo-0301":
        return _OLDEST_FRAMING
    return _OLDER_FRAMING if encoding == "cl100k_base" else _FRAMING


def _find_base(model: str) -> str:
    """Returns the model that a fine-tuned one was made from: `ft:gpt-4.1:us::x` → `gpt-4.1`.

    tiktoken takes every `ft:gpt-4…` but `ft:gpt-4o` for an old one.
    """
    name = model.lower()
    return name.split(":")[1] if name.startswith("ft:") else name


@lru_cache(maxsize=256)
def _find_encoding(base: str) -> str | None:
    from tiktoken.model import encoding_name_for_model

    try:
        return encoding_name_for_model(base)
    except KeyError:
        return None


_COUNTERS: dict[str, Callable[[str], int]] = {}
_LOADING = Lock()


def _load_counter(encoding: str) -> Callable[[str], int] | None:
    """Returns what counts with an encoding, or None where nothing can without a network.

    A failure is not remembered: the user may put the rank file in place meanwhile.
    """
    counter = _COUNTERS.get(encoding)
    if counter is None:
        with _LOADING:
            counter = _COUNTERS.get(encoding) or _open_bpe(encoding) or _open_tiktoken(encoding)
            if counter is not None:
                _COUNTERS[encoding] = counter
    return counter


def _open_bpe(encoding: str) -> Callable[[str], int] | None:
    try:
        # Not the package's `Encoding`, which refuses texts of a million characters or of
        # 200,000 tokens and makes a list of all tokens only to have its length taken.
        from bpe_openai import _bindings  # type: ignore[import-untyped]

        # The ranks are those of o200k_base; only the names of special tokens differ.
        name = "o200k_base" if encoding == "o200k_harmony" else encoding
        counter: Callable[[str], int] = _bindings.tokenizer_for_encoding(name).count
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    return counter


def _open_tiktoken(encoding: str) -> Callable[[str], int] | None:
    from tiktoken import Encoding, list_encoding_names, load, registry

    list_encoding_names()  # Fills the registry.
    name = "o200k_base" if encoding == "o200k_harmony" else encoding
    try:
        # tiktoken's own way to its rank file, except that it cannot download one.
        read_cached = _rebind(load.read_file_cached, read_file=_refuse_download)
        load_ranks = _rebind(load.load_tiktoken_bpe, read_file_cached=read_cached)
        constructors = registry.ENCODING_CONSTRUCTORS or {}
        make = _rebind(constructors[name], load_tiktoken_bpe=load_ranks)
        ordinary = Encoding(**make()).encode_ordinary
    except (AttributeError, LookupError, OSError, ValueError):
        return None
    return lambda text: sum(len(ordinary(piece)) for piece in _split(text))


_MOST_CHARACTERS = 500_000
_WORD_END = re.compile(r"[A-Za-z] ")


def _split(text: str) -> Iterator[str]:
    """Cuts a very long text into pieces whose tokens add up to those of the whole.

    tiktoken panics on a million spaces in a row. Its encodings never put the end of a
    word and the space that follows into one token, so a text can be cut there.

    Raises:
        OverflowError: There is no such place for half a million characters.
    """
    start = 0
    while len(text) - start > _MOST_CHARACTERS:
        end = start + _MOST_CHARACTERS
        word_end = _WORD_END.search(text, end - _MOST_CHARACTERS // 2, end)
        if word_end is None:
            raise OverflowError("a text without words is too long for tiktoken")
        yield text[start : word_end.start() + 1]
        start = word_end.start() + 1
    yield text[start:]


def _rebind(function: Callable[..., Any], **names: object) -> FunctionType:
    """Returns a copy of a function that sees other globals; the original stays as it is.

    Raises:
        LookupError: The function does not use one of the names.
    """
    if not isinstance(function, FunctionType) or names.keys() - set(function.__code__.co_names):
        raise LookupError(f"{function} does not use {', '.join(names)}")
    seen = {**function.__globals__, **names}
    return FunctionType(function.__code__, seen, function.__name__, function.__defaults__)


def _refuse_download(path: str) -> NoReturn:
    raise LookupError(f"{path} is not in tiktoken's cache")
