"""Setting aside what is damaged. Nothing that was paid for is deleted."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

DAMAGED_FOLDER = "damaged"

MODE_RAW = 1
"""What diskcache writes beside a value that is kept as it is; 4 would be a pickle."""


def save_frame(folder: Path, key: str, frame: object) -> Path:
    """Writes the bytes of a damaged entry to a file of their own, and returns it.

    The same bytes always go to the same file.

    Raises:
        OSError: The file cannot be written.
    """
    content = frame if isinstance(frame, bytes) else repr(frame).encode()
    name = "".join(char if char.isalnum() or char in "-_" else "_" for char in key[:80])
    path = folder / DAMAGED_FOLDER / f"{name}-{crc32(content, crc32(key.encode())):08x}.entry"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def move_database(path: Path) -> Path:
    """Renames a database and its log, and returns the new name.

    Raises:
        OSError: It cannot be renamed.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    # The log first: beside a new database SQLite would delete it, or play it into that one.
    for suffix in ("-wal", "-shm", ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target.with_name(target.name + suffix))
    return target
