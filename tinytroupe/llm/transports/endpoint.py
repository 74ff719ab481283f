"""Where a model is asked, and how hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.rules.buckets import Bucket
from tinytroupe.llm.transports.transport import Transport


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A transport with a name, limits of its own and a share of the calls.

    May serve several clients, of both colours; its limits per minute hold for all together.

    Raises:
        ConfigError: A limit or the weight is not positive.
    """

    name: str
    transport: Transport
    weight: float = 1.0
    """Its share under the strategy `weighted`."""
    tier: int = 0
    """0: among the main ones; from 1: the order in which fallbacks are asked."""
    model: str = ""
    """The model's name here; empty: as the request says."""
    parameters: FrozenDict = field(default_factory=FrozenDict)
    """What requests get here where they do not say."""
    timeout_seconds: float | None = None
    """For an attempt here as a whole; None: as the call says."""
    max_concurrent: int | None = None
    """Attempts at a time, for each client; None: as the client was set."""
    requests: Bucket | None = None
    """Limits the requests that begin within a minute."""
    tokens: Bucket | None = None
    """Limits the tokens, of questions and answers, within a minute."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"the weight of {self.name} is {self.weight}; it must be above 0")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ConfigError(f"max_concurrent of {self.name} must be at least 1")
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise ConfigError(f"timeout_seconds of {self.name} must be above 0")


def check_endpoints(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Returns the endpoints of one route.

    Raises:
        ConfigError: There is none, none is a main one, or a name stands twice.
    """
    if not endpoints:
        raise ConfigError("there is no endpoint to balance between; at least one is needed")
    names = [endpoint.name for endpoint in endpoints]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"the endpoint {twice[0]!r} stands twice")
    return tuple(endpoints)
