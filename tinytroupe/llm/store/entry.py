"""What a store keeps under a key, and what every store promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One paid answer and what was asked for it."""

    record: bytes
    """The response, as `Response.to_record` writes it."""
    request: bytes
    """The canonical JSON of the request, for people who look into the store."""


class Store(Protocol):
    """Keeps entries. Safe to use from many threads.

    A store never costs an answer: a `put` that fails is reported once through
    the log and counted in `failed_writes`, and does not raise.
    """

    local: bool
    """Whether a `get` takes microseconds, so that an event loop need not hand it to a thread."""

    failed_writes: int
    """Entries that could not be kept since this store was opened."""

    def get(self, key: str) -> Entry | None:
        """Returns the entry, or None where there is none or it is damaged."""
        ...

    def put(self, key: str, entry: Entry) -> bool:
        """Keeps an entry, over an older one; returns whether it is safely kept."""
        ...

    def delete(self, key: str) -> bool:
        """Forgets an entry; returns whether there was one."""
        ...

    def keys(self) -> Iterator[str]:
        """Yields the keys, oldest entry first."""
        ...

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Lets go of files; the store opens again by itself when it is next used."""
        ...
