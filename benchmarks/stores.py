"""What the store costs as it grows."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Iterator

from benchmarks.calls import make_request
from benchmarks.measure import Ratio
from benchmarks.server import BODY
from tinytroupe.llm.response import parse_response
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry

ENTRIES = 100_000
WINDOW = 100


def measure_growth() -> Iterator[Ratio]:
    """The 100,000th write against the 100th, and opening what they made."""
    entry = Entry(parse_response("chat", BODY).to_record(), make_request().body)
    with tempfile.TemporaryDirectory() as folder:
        store = DiskStore(folder)
        seconds = []
        for number in range(ENTRIES + WINDOW // 2):
            key = hashlib.sha256(str(number).encode()).hexdigest()
            started = time.perf_counter()
            kept = store.put(key, entry)
            seconds.append(time.perf_counter() - started)
            assert kept
        store.close()
        early = statistics.median(seconds[WINDOW // 2 : WINDOW * 3 // 2])
        late = statistics.median(seconds[-WINDOW:])
        detail = f"{late * 1e6:.0f} µs against {early * 1e6:.0f} µs"
        yield Ratio("100,000th write / 100th write", late / early, 1.3, detail)

        opening = []
        for _ in range(5):
            started = time.perf_counter()
            again = DiskStore(folder)
            assert again.get(key) is not None
            opening.append(time.perf_counter() - started)
            again.close()
        milliseconds = statistics.median(opening) * 1e3
        yield Ratio("opening a store of 100,000 entries and one hit, in ms", milliseconds, 50.0)
