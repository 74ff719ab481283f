"""How an entry is laid out in bytes, so that damage is noticed.

    magic    4 bytes, `TTen`
    version  1 byte
    flags    1 byte, none is in use
    lengths  of the record and of the request, 4 bytes each
    record, request
    checksum 4 bytes: CRC-32 of the key and of everything above

Numbers are little-endian. Every later version ends with the same checksum, so
that a newer entry and a damaged one can be told apart.
"""

from __future__ import annotations

import struct
from zlib import crc32

from tinytroupe.llm.store.entry import Entry

VERSION = 1

_MAGIC = b"TTen"
_HEADER = struct.Struct("<4sBBII")
_CHECKSUM = struct.Struct("<I")
# The CRC-32 of any message followed by its own CRC-32 is this number (the residue of
# polynomial 0x04C11DB7), so checking takes one pass and no copy without the last bytes.
_RESIDUE = 0x2144DF1C


class DamagedFrame(Exception):
    """The bytes are not what was once written under this key."""


class NewerFrame(Exception):
    """The bytes are whole, and in a format that this version does not know."""


def encode_entry(key: str, entry: Entry) -> bytes:
    """Writes an entry; the result is only valid under this key.

    Raises:
        ValueError: The record or the request is of 4 GB or more.
    """
    if max(len(entry.record), len(entry.request)) >= 2**32:
        raise ValueError("an answer of 4 GB or more cannot be kept")
    header = _HEADER.pack(_MAGIC, VERSION, 0, len(entry.record), len(entry.request))
    content = b"".join((header, entry.record, entry.request))
    return content + _CHECKSUM.pack(crc32(content, crc32(key.encode())))


def decode_entry(key: str, frame: bytes) -> Entry:
    """Reads what `encode_entry` wrote under the same key.

    Raises:
        DamagedFrame: A bit is flipped, the end is missing, or it belongs to another key.
        NewerFrame: A newer version of this package wrote it.
    """
    if crc32(frame, crc32(key.encode())) != _RESIDUE:
        raise DamagedFrame("its checksum does not match")
    if len(frame) < _HEADER.size + _CHECKSUM.size or not frame.startswith(_MAGIC):
        raise DamagedFrame("it is not an entry of this store")
    _, version, flags, record_length, request_length = _HEADER.unpack_from(frame)
    if version != VERSION or flags:
        raise NewerFrame(f"format {version}.{flags}")
    middle = _HEADER.size + record_length
    end = middle + request_length
    if len(frame) != end + _CHECKSUM.size:
        raise DamagedFrame("its lengths do not add up")
    return Entry(frame[_HEADER.size : middle], frame[middle:end])
