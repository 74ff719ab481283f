"""What is asked (request), how it is asked (options), and both together (call)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, cast

from tinytroupe.llm import canonical
from tinytroupe.llm.canonical import JSON, FrozenDict, freeze_mapping
from tinytroupe.llm.errors import BadRequest, LLMError
from tinytroupe.llm.messages import Message, MessageLike, to_messages

Kind: TypeAlias = Literal["chat", "completion", "embedding"]
CacheMode: TypeAlias = Literal["on", "off", "refresh", "only"]

ChooseWait: TypeAlias = "Callable[[LLMError, int], float | None]"
"""Is told an error and the number of the attempt, from 1, that failed; returns the seconds to wait
before another one, or None to give up."""

Emit: TypeAlias = Callable[[str], Awaitable[None]]

CACHE_MODES: tuple[CacheMode, ...] = ("on", "off", "refresh", "only")


_IN_ORDER = ("tools", "functions", "response_format")
"""A model writes the members of a structure in the order in which its schema lists them, so
that a reason comes before the score that it explains, or not."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. Immutable; every field is in the digest, nothing else is.

    Make one with `chat_request`, `completion_request` or `embedding_request`,
    which check and copy what they are given.
    """

    kind: Kind
    model: str
    messages: tuple[Message, ...] = ()
    """The conversation of a `chat` request; empty for the other kinds."""
    texts: tuple[str, ...] = ()
    """The inputs of a `completion` or `embedding` request; empty for `chat`."""
    parameters: FrozenDict = field(default_factory=FrozenDict)
    """Everything else that goes into the body: sampling parameters, tools, response format."""
    namespace: str = ""
    """Keeps answers apart that must not be shared; not sent to the endpoint."""
    _body: bytes | None = field(default=None, init=False, repr=False, compare=False)
    _digest: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def body(self) -> bytes:
        """The canonical JSON of the request, which is also what OpenAI's API is sent.

        Raises:
            BadRequest: The request cannot be written as JSON.
        """
        if self._body is None:
            object.__setattr__(self, "_body", canonical.encode(self._to_wire(), _IN_ORDER))
        return cast(bytes, self._body)

    @property
    def digest(self) -> str:
        """The name of the request: 64 hexadecimal digits.

        Raises:
            BadRequest: The request cannot be written as JSON.
        """
        if self._digest is None:
            digest = canonical.digest(self.kind, self.namespace, self.body)
            object.__setattr__(self, "_digest", digest)
        return cast(str, self._digest)

    def _to_wire(self) -> dict[str, JSON]:
        body: dict[str, JSON] = {**self.parameters, "model": self.model}
        if self.kind == "chat":
            body["messages"] = [message.to_wire() for message in self.messages]
        elif self.kind == "completion":
            body["prompt"] = self.texts[0] if len(self.texts) == 1 else self.texts
        else:
            body["input"] = self.texts
        return body


def chat_request(
    model: str,
    messages: Iterable[MessageLike],
    *,
    namespace: str = "",
    **parameters: object,
) -> Request:
    """Asks a model to go on with a conversation.

    Args:
        model: The model's name.
        messages: `Message`s or mappings with role and content; copied.
        namespace: Keeps answers apart that must not be shared.
        **parameters: What else goes into the body (`temperature`, `tools` …);
            a parameter that is None is left out.

    Raises:
        BadRequest: A message or parameter cannot be sent; the message says which.
    """
    return Request(
        kind="chat",
        model=_check_model(model),
        messages=to_messages(messages),
        parameters=_freeze_parameters(parameters),
        namespace=namespace,
    )


def completion_request(
    model: str, prompts: str | Iterable[str], *, namespace: str = "", **parameters: object
) -> Request:
    """Asks a model to continue one text or several.

    Raises:
        BadRequest: A prompt or parameter cannot be sent.
    """
    return Request(
        kind="completion",
        model=_check_model(model),
        texts=_check_texts(prompts, "prompt"),
        parameters=_freeze_parameters(parameters),
        namespace=namespace,
    )


def embedding_request(
    model: str, texts: str | Iterable[str], *, namespace: str = "", **parameters: object
) -> Request:
    """Asks a model for the vectors of one text or several.

    Raises:
        BadRequest: There is no text, a text is empty, or a parameter cannot be sent.
    """
    checked = _check_texts(texts, "text to embed")
    if "" in checked:
        raise BadRequest(f"text to embed {checked.index('')} is empty")
    return Request(
        kind="embedding",
        model=_check_model(model),
        texts=checked,
        parameters=_freeze_parameters(parameters),
        namespace=namespace,
    )


_FLOAT_PARAMETERS = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_RESERVED_PARAMETERS = frozenset({"model", "messages", "prompt", "input", "stream"})


def _freeze_parameters(parameters: Mapping[str, object]) -> FrozenDict:
    given = {name: value for name, value in parameters.items() if value is not None}
    for name in _FLOAT_PARAMETERS:
        # 1 and 1.0 ask the same thing; one spelling keeps them one entry in the store.
        if type(given.get(name)) is int:
            given[name] = float(cast(int, given[name]))
    reserved = _RESERVED_PARAMETERS.intersection(given)
    if reserved:
        raise BadRequest(f"{', '.join(sorted(reserved))} cannot be given as a parameter")
    return freeze_mapping(given, "parameters")


def _check_model(model: object) -> str:
    if not isinstance(model, str) or not model.strip():
        raise BadRequest(f"a model is named by a text that is not empty, not by {model!r}")
    return model


def _check_texts(texts: str | Iterable[str], what: str) -> tuple[str, ...]:
    listed = (texts,) if isinstance(texts, str) else tuple(texts)
    if not listed:
        raise BadRequest(f"there is no {what}; at least one is needed")
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise BadRequest(f"{what} {index} is of type {type(text).__name__}, not text")
    return listed


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a call is tried.

    The wait before attempt n + 1 is drawn evenly from 0 to
    `min(cap_seconds, waiting_seconds * factor ** (n - 1))` (full jitter:
    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Raises:
        BadRequest: A value is out of its range.
    """

    max_attempts: int = 5
    """Tries on the wire at most, the first included; at least 1."""
    waiting_seconds: float = 1.0
    """The upper end of the first wait."""
    factor: float = 2.0
    """How much the upper end grows from wait to wait; at least 1."""
    cap_seconds: float = 60.0
    """No wait is longer, whatever the server asks for."""
    jitter: bool = True
    """False: each wait is its upper end, not drawn; for who needs to know it beforehand."""
    choose_wait: ChooseWait | None = field(default=None, compare=False)
    """Decides instead of the rules, on each failure; None: the rules decide."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise BadRequest(f"max_attempts is {self.max_attempts}; at least 1 is needed")
        if self.factor < 1:
            raise BadRequest(f"the backoff factor is {self.factor}; it must be at least 1")
        if self.waiting_seconds < 0 or self.cap_seconds < 0:
            raise BadRequest("a waiting time cannot be negative")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How a request is asked. Never part of the digest."""

    lane: str | None = None
    """Who is asking: `lisa/step-3/plan`."""
    purpose: str | None = None
    """What for: `plan`, `act` … A label for the meter."""
    sample: int = 0
    """The n-th time (from 0) this request is asked; each sample has its own entry."""
    cache: CacheMode | None = None
    """`on`, `off`, `refresh` or `only`; None: as the client was set."""
    timeout_seconds: float | None = None
    """For one attempt as a whole, first byte to last; None: as the client was set."""
    deadline_seconds: float | None = None
    """For the call as a whole, waits included; None: as the client was set."""
    retry: RetryPolicy | None = None
    """None: as the client was set."""
    tags: FrozenDict = field(default_factory=FrozenDict)
    """Anything the caller wants to find again in the meter's records."""
    avoid: tuple[str, ...] = ()
    """Names of endpoints that are asked only where no other one can take the call."""

    def __post_init__(self) -> None:
        if self.cache is not None and self.cache not in CACHE_MODES:
            raise BadRequest(f"cache mode {self.cache!r} is not one of {', '.join(CACHE_MODES)}")
        if self.sample < 0:
            raise BadRequest(f"sample is {self.sample}; samples are counted from 0")
        for name in ("timeout_seconds", "deadline_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadRequest(f"{name} is {value}; it must be more than 0")


class Position(NamedTuple):
    """Which call of a run this is: the same in every run that does the same."""

    branch: str
    """The path of the branch that asks."""
    lane: str
    """How people call it."""
    sample: int
    """The n-th time, from 0, that this branch asks this request."""
    order: int
    """The n-th call of this branch, from 0."""
    ambiguous: bool = False
    """Whether chance decided what the branch did, so that nothing tells whose call it is."""
    hermetic: bool = False
    """Whether it is part of a replay, so that nothing but a tape may answer it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request and how it is asked."""

    request: Request
    options: CallOptions = field(default_factory=CallOptions)
    expires_at: float | None = None
    """When the whole call is given up, by the runtime's clock; set by the client."""
    position: Position | None = None
    """Where in the active run this call is; None outside of runs."""
    draw: str = ""
    """Which of a run's independent draws this is; empty where draws are shared."""
    emit: Emit | None = field(default=None, compare=False, repr=False)
    """Is handed the pieces of a streamed answer; None: the answer is wanted as a whole."""

    @property
    def lane(self) -> str | None:
        """Who is asking: as the run says where there is one, else as the caller said."""
        return self.options.lane if self.position is None else self.position.lane

    @property
    def key(self) -> str:
        """The name of the entry in the store: the digest, and what tells draws of it apart."""
        key = self.request.digest
        if self.draw:
            key += f".{self.draw}"
        return f"{key}.{self.options.sample}" if self.options.sample else key


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a call on the wire."""

    call: Call
    number: int
    """From 1."""
    timeout_seconds: float
    """The whole attempt on the wire, connecting to last byte, may take this long."""
    failed: tuple[str, ...] = ()
    """The endpoints at which earlier attempts of the call failed, where there are several."""
