"""Takes every ratio, prints the table, and with `--write` puts it into docs/performance.md.

Exits with 1 when a ratio is outside its bound.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from benchmarks.calls import measure_hits, measure_live, measure_many
from benchmarks.doors import measure_doors
from benchmarks.imports import measure_import
from benchmarks.measure import Ratio
from benchmarks.runs import measure_recording, measure_replay
from benchmarks.stores import measure_growth

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
MEASUREMENTS = (
    measure_import,
    measure_hits,
    measure_live,
    measure_many,
    measure_doors,
    measure_growth,
    measure_recording,
    measure_replay,
)


def format_row(ratio: Ratio) -> str:
    """Returns one row of the table, in Markdown."""
    sign = "at least" if ratio.at_least else "at most"
    verdict = "holds" if ratio.holds else "**does not hold**"
    bound = f"{sign} {ratio.bound:g}"
    return f"| {ratio.name} | {ratio.value:.2f} | {bound} | {verdict} | {ratio.detail} |"


def main() -> int:
    rows = ["| what | measured | bound | | medians |", "|---|---|---|---|---|"]
    print("\n".join(rows), flush=True)
    missed = 0
    for measure in MEASUREMENTS:
        for ratio in measure():
            rows.append(format_row(ratio))
            print(rows[-1], flush=True)
            missed += not ratio.holds
    if "--write" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}.\n"
        table = "\n".join(rows) + "\n\n" + machine
        PAGE.write_text(before + BEGIN + table + END + after, encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
