"""Embeddings without a model: hashed words, so that similar texts lie nearer."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from math import sqrt

from tinytroupe.llm.transports.rehearsal.hearing import find_words, stem

PLACES_A_FEATURE = 16
MOST_DIMENSIONS = 8192
DIMENSIONS = {"text-embedding-3-large": 3072}
DEFAULT_DIMENSIONS = 1536


def embed(text: str | Sequence[int], dimensions: int) -> tuple[float, ...]:
    """Returns a vector of length 1, in single precision as a server sends it.

    Each word adds a sparse pseudo-random direction of its own (feature
    hashing: Weinberger et al., "Feature Hashing for Large Scale Multitask
    Learning", ICML 2009), so the cosine of two texts grows with the words they
    share.

    Args:
        text: A text, or tokens in its place.
        dimensions: The length of the list, at least 1.
    """
    vector = [0.0] * dimensions
    for feature, weight in _find_features(text):
        for position, sign in _find_direction(feature):
            vector[position % dimensions] += sign * weight
    length = sqrt(sum(number * number for number in vector))
    if not length:
        vector[0] = length = 1.0
    packed = struct.pack(f"<{dimensions}f", *(number / length for number in vector))
    return struct.unpack(f"<{dimensions}f", packed)


def encode_base64(vector: Sequence[float]) -> str:
    """Writes a vector as OpenAI's `encoding_format: base64` does: little-endian singles."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _find_features(text: str | Sequence[int]) -> Iterator[tuple[str, float]]:
    if not isinstance(text, str):
        yield from ((f"token {token}", 1.0) for token in text)
        return
    # A little of the whole text keeps different texts apart that share all their words.
    yield f"text {text}", 0.25
    words = find_words(text)
    for word in words:
        yield word, 0.5
        yield f"stem {stem(word)}", 1.0
    for pair in pairwise(words):
        yield " ".join(pair), 0.5


@lru_cache(maxsize=4096)
def _find_direction(feature: str) -> tuple[tuple[int, float], ...]:
    digest = hashlib.shake_256(feature.encode("utf-8", "replace")).digest(5 * PLACES_A_FEATURE)
    return tuple(
        (int.from_bytes(digest[at : at + 4], "big"), 1.0 if digest[at + 4] & 1 else -1.0)
        for at in range(0, len(digest), 5)
    )
