"""Faults on demand: what goes wrong, and when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Literal, TypeAlias, cast, get_args

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.transports.rehearsal.draws import Draws

FaultKind: TypeAlias = Literal[
    "rate_limited",
    "quota_exhausted",
    "server_fault",
    "cut",
    "drip",
    "malformed",
    "timeout",
    "content_filter",
]
RetryAfter: TypeAlias = Literal["ms", "seconds", "date"]
Malformation: TypeAlias = Literal[
    "html",
    "empty",
    "null",
    "list",
    "no_choices",
    "null_content",
    "error_object",
    "truncated_json",
]

KINDS: tuple[str, ...] = get_args(FaultKind)
RETRY_AFTER: tuple[str, ...] = get_args(RetryAfter)
MALFORMATIONS: tuple[str, ...] = get_args(Malformation)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, and how often. Immutable.

    With none of `times`, `every` and `rate`, each request that reaches the
    fault is struck; with several of them, all must agree.

    Raises:
        ConfigError: A value is not one of those that are known, or out of its range.
    """

    kind: FaultKind
    """`rate_limited` (429), `quota_exhausted` (429 that no waiting cures), `server_fault` (5xx),
    `cut` (the connection breaks in the middle of the body), `drip` (the body comes byte by byte),
    `malformed` (an answer that is none), `timeout` (no answer), `content_filter`."""
    retry_after: RetryAfter | None = field(default=None, kw_only=True)
    """`rate_limited` and `server_fault`: in which form the server says how long to wait:
    `retry-after-ms`, or `retry-after` in seconds or as a date; None: it does not say."""
    wait_seconds: float = field(default=1.0, kw_only=True)
    """How long that is."""
    status: int = field(default=500, kw_only=True)
    """`server_fault`: the HTTP status, from 500 to 599, or 408 or 409."""
    body: Malformation = field(default="html", kw_only=True)
    """`malformed`: what comes instead of an answer."""
    interval_seconds: float = field(default=0.1, kw_only=True)
    """`drip`: the time from byte to byte."""
    refuse_prompt: bool = field(default=False, kw_only=True)
    """`content_filter`: whether the prompt is refused (400), or the answer is withheld."""
    times: int | None = field(default=None, kw_only=True)
    """Strikes at most so often."""
    every: int | None = field(default=None, kw_only=True)
    """Strikes each n-th request."""
    rate: float | None = field(default=None, kw_only=True)
    """Strikes with this probability, from 0 to 1; which requests follows from the seed."""

    def __post_init__(self) -> None:
        _check_choice("fault", self.kind, KINDS)
        _check_choice("malformed body", self.body, MALFORMATIONS)
        if self.retry_after is not None:
            _check_choice("retry-after form", self.retry_after, RETRY_AFTER)
        if not (500 <= self.status <= 599 or self.status in (408, 409)):
            raise ConfigError(f"the status {self.status} is not that of a server fault")
        if self.wait_seconds < 0 or self.interval_seconds < 0:
            raise ConfigError("a fault's wait or interval cannot be negative")
        if any(number is not None and number < 1 for number in (self.times, self.every)):
            raise ConfigError("a fault's times and every must be at least 1")
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise ConfigError(f"a fault's rate is {self.rate}; it must be from 0 to 1")


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {what} {value!r}; it must be one of {', '.join(known)}")


def parse_fault(text: str) -> Fault:
    """Reads a fault as the command line and the header spell it: `KIND[:ARG][@every=N …]`.

    `rate_limited:ms=250`, `rate_limited:date`, `server_fault:503,seconds=1@every=10`,
    `drip:0.05`, `malformed:html@times=2`, `content_filter:prompt`, `cut@rate=0.1`.

    Raises:
        ConfigError: It is not spelled so.
    """
    what, *conditions = text.strip().split("@")
    kind, _, argument = what.partition(":")
    _check_choice("fault", kind, KINDS)
    try:
        fault = Fault(cast(FaultKind, kind), **_read_argument(kind, argument))
        for condition in conditions:
            name, _, number = condition.partition("=")
            _check_choice("condition of a fault", name, tuple(_CONDITIONS))
            fault = replace(fault, **{name: _CONDITIONS[name](number)})
    except ValueError as error:
        raise ConfigError(f"the fault {text!r} cannot be read: {error}") from error
    return fault


_CONDITIONS: dict[str, type] = {"times": int, "every": int, "rate": float}


def _read_argument(kind: str, argument: str) -> dict[str, Any]:
    if not argument:
        return {}
    if kind in ("rate_limited", "server_fault"):
        return _read_failure(kind, argument)
    if kind == "malformed":
        return {"body": argument}
    if kind == "drip":
        return {"interval_seconds": float(argument)}
    if kind == "content_filter" and argument in ("prompt", "answer"):
        return {"refuse_prompt": argument == "prompt"}
    raise ConfigError(f"the fault {kind} takes no argument {argument!r}")


def _read_failure(kind: str, argument: str) -> dict[str, Any]:
    """Reads `503`, `ms=250` or `503,ms=250`."""
    fields: dict[str, Any] = {}
    for part in argument.split(","):
        form, _, amount = part.partition("=")
        if kind == "server_fault" and part.isdigit():
            fields["status"] = int(part)
        else:
            _check_choice("retry-after form", form, RETRY_AFTER)
            fields["retry_after"] = form
            if amount:
                fields["wait_seconds"] = float(amount) / (1000 if form == "ms" else 1)
    return fields


class FaultPlan:
    """Says for each request in turn which fault strikes it. Safe to use from many threads.

    The faults are asked in order; the first that strikes wins, and those
    after it do not count that request.
    """

    def __init__(self, faults: Iterable[Fault], seed: int = 0) -> None:
        self._faults = tuple(faults)
        self._reached = [0] * len(self._faults)
        self._struck = [0] * len(self._faults)
        self._seed = seed
        self._lock = Lock()

    def next(self) -> Fault | None:
        """Returns the fault for the next request; None: it is answered."""
        if not self._faults:
            return None
        with self._lock:
            for index, fault in enumerate(self._faults):
                self._reached[index] += 1
                if self._strikes(index, fault):
                    self._struck[index] += 1
                    return fault
        return None

    def _strikes(self, index: int, fault: Fault) -> bool:
        number = self._reached[index]
        return (
            (fault.times is None or self._struck[index] < fault.times)
            and (fault.every is None or number % fault.every == 0)
            and (
                fault.rate is None
                or Draws("fault", self._seed, index, number).fraction() < fault.rate
            )
        )
