"""Files of lines, plain or compressed with Zstandard: the only module that knows how to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from tinytroupe.llm.errors import ConfigError, StoreError

SUFFIX = ".zst"
MAX_LINE_BYTES = 2**28
"""A longer line is not read into memory, but passed over."""


class BrokenFile(Exception):
    """A compressed file cannot be read any further; the message says why."""


def is_compressed(path: Path) -> bool:
    """Tells by its name whether a file is, or is to be, compressed."""
    return path.suffix == SUFFIX


@contextmanager
def write_file(path: Path, *, replace: bool = False) -> Iterator[IO[bytes]]:
    """Opens a file that takes its name only when all of it is written.

    Args:
        path: With the suffix `.zst` it is compressed.
        replace: Whether a file of that name may be replaced.

    Raises:
        StoreError: It exists and is not to be replaced, or cannot be written.
        ConfigError: It is to be compressed, and the package for that is missing.
    """
    if path.exists() and not replace:
        raise StoreError(f"{path} exists already and is not replaced; choose another name")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open(part, "wb", is_compressed(path)) as file:
            yield file
        if is_compressed(path) and not part.stat().st_size:
            part.write_bytes(_import_zstd().compress(b""))  # no tool takes an empty file for one
        os.replace(part, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yields the lines of a file and their numbers, from 1, with one line in memory at a time.

    A line that is too long is None.

    Raises:
        StoreError: The file cannot be opened or read.
        BrokenFile: It is compressed, and damaged from here on.
        ConfigError: It is compressed, and the package for that is missing.
    """
    compressed = is_compressed(path)
    try:
        with _open(path, "rb", compressed) as file:
            yield from enumerate(_split(file, compressed), start=1)
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error


def _split(file: IO[bytes], compressed: bool) -> Iterator[bytes | None]:
    broken = (EOFError, _import_zstd().ZstdError) if compressed else EOFError
    try:
        while line := file.readline(MAX_LINE_BYTES):
            if line.endswith(b"\n") or len(line) < MAX_LINE_BYTES:
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield None
    except broken as error:
        raise BrokenFile(f"the compressed file is damaged or cut short: {error}") from error


def _open(path: Path, mode: str, compressed: bool) -> IO[bytes]:
    if compressed:
        return cast("IO[bytes]", _import_zstd().open(path, mode))
    return cast("IO[bytes]", path.open(mode))


def _import_zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise ConfigError(
            f"files that end in {SUFFIX} need a package that is not installed: "
            "pip install 'tinytroupe[zstd]'"
        ) from None
    return zstd
