"""A store that forgets everything at the end of the process."""

from __future__ import annotations

from collections.abc import Iterator

from tinytroupe.llm.store.entry import Entry


class MemoryStore:
    """Keeps entries in a dictionary. See `Store`."""

    local = True

    def __init__(self) -> None:
        self.failed_writes = 0
        self._entries: dict[str, Entry] = {}

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def put(self, key: str, entry: Entry) -> bool:
        self._entries[key] = entry
        return True

    def delete(self, key: str) -> bool:
        return self._entries.pop(key, None) is not None

    def keys(self) -> Iterator[str]:
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        pass
