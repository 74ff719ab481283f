"""Taking answers into a store, never over one that is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tinytroupe.cli.tables import clean, count, say
from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry

Fate: TypeAlias = Literal["new", "same", "other"]
"""What became of an entry: it was taken in; it was here already; another answer was here."""

_MOST_SHOWN = 10


@dataclass(slots=True)
class Intake:
    """Takes entries into a store, and counts; never over an answer that is there."""

    store: DiskStore
    new: int = 0
    same: int = 0
    others: list[str] = field(default_factory=list)
    """Keys under which the store has another answer, which it keeps."""

    def take(self, key: str, entry: Entry, stored_at_seconds: float | None) -> Fate:
        """Keeps an entry where there is none.

        Args:
            key: Its name.
            entry: Answer and request.
            stored_at_seconds: When it was kept where it comes from; None: now.

        Raises:
            StoreError: The store cannot be read or written.
        """
        present = self.store.get(key)
        if present is None:
            try:
                if self.store.add(key, entry, stored_at_seconds):
                    self.new += 1
                    return "new"
            except StoreError as error:
                raise StoreError(
                    f"{error.message}. Before that, {count(self.new, 'answer')} came in"
                ) from error
            present = self.store.get(key)
        if present is None or _read_answer(present) == _read_answer(entry):
            self.same += 1
            return "same"
        self.others.append(key)
        return "other"

    def tell(self) -> dict[str, Any]:
        """Returns the counts for JSON."""
        return {"imported": self.new, "already_there": self.same, "other_answer_kept": self.others}

    def show(self) -> None:
        """Prints the counts."""
        say(f"{count(self.new, 'answer')} came in, {self.same:,} were there already")
        show_some("kept as they are, since another answer was there", self.others)


def _read_answer(entry: Entry) -> bytes:
    """Returns the answer itself, without how long it took and the like."""
    return entry.record.partition(b"\n")[2]


def show_some(what: str, names: list[str]) -> None:
    """Prints how many there are of something, and the first of them."""
    if names:
        say(f"{len(names):,} {what}:")
        for name in names[:_MOST_SHOWN]:
            say(f"  {clean(name)}")
        if len(names) > _MOST_SHOWN:
            say(f"  and {len(names) - _MOST_SHOWN:,} more (--json lists them)")
