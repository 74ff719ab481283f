"""What importing costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.measure import Ratio


def measure_import() -> Iterator[Ratio]:
    """Importing the door against importing the SDK, each in fresh processes, in turn."""
    pairs = [(_time_import("tinytroupe.openai_utils"), _time_import("openai")) for _ in range(7)]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    detail = f"{ours * 1e3:.0f} ms against {theirs * 1e3:.0f} ms"
    yield Ratio("`import tinytroupe.openai_utils` / `import openai`", ratio, 0.2, detail)


def _time_import(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(ran.stdout)
