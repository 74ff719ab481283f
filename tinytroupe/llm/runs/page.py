"""A comparison as one HTML page that needs nothing else: no script, no file, no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape as escape_html

from tinytroupe.llm.runs.comparison import (
    CallChange,
    ChangeKind,
    Comparison,
    LaneComparison,
    RunFacts,
)
from tinytroupe.llm.runs.divergence import Difference
from tinytroupe.llm.runs.explanation import escape
from tinytroupe.llm.runs.words import Runs

_MOST_CHANGES = 300
_MOST_CHANGES_OF_LANE = 50
_MOST_PARTS = 30
_CONTEXT_LENGTH = 300
_TEXT_LENGTH = 5000

_KINDS: dict[ChangeKind, str] = {
    "prompt": "asked differently",
    "answer": "answered differently",
    "removed": "only in the first run",
    "added": "only in the second run",
}

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #63676c; --paper: #fdfdfc;
  --line: #dcdcd8; --panel: #f4f4f1; --gone: #fbe3e1; --gone-ink: #8c1d18;
  --came: #ddf3e0; --came-ink: #14532d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e1; --soft: #a0a4a8; --paper: #17181a;
  --line: #34363a; --panel: #202225; --gone: #4a1f1d; --gone-ink: #ffc9c4;
  --came: #17402a; --came-ink: #c4f0d0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; } p { margin: .25rem 0; }
.soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right;
  vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; }
.first { border-left: 4px solid var(--came-ink); background: var(--panel); padding: .75rem 1rem; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; }
summary { cursor: pointer; padding: .4rem .75rem; background: var(--panel); }
details > div { padding: .25rem .75rem .75rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .1rem 0 .6rem; padding: .5rem .75rem;
  background: var(--panel); border-radius: 4px; font: .875rem/1.5 ui-monospace, monospace; }
del, ins { text-decoration: none; border-radius: 2px; padding: 0 .1em; }
del { background: var(--gone); color: var(--gone-ink); text-decoration: line-through; }
ins { background: var(--came); color: var(--came-ink); }
"""


def write_page(comparison: Comparison) -> str:
    """Returns the page. What prompts and answers hold is text in it, and never markup."""
    one, two = comparison.one, comparison.two
    title = f"{_name(one)} and {_name(two)}"
    body = "\n".join(_list_body(comparison))
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_quote(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _list_body(comparison: Comparison) -> Iterator[str]:
    yield "<h1>Two runs compared</h1>"
    yield f"<p>{_sum_up(comparison)}</p>"
    yield from _list_runs(comparison.one, comparison.two)
    if comparison.setup:
        yield "<h2>Set up differently</h2>"
        yield from _list_differences(comparison.setup)
    if comparison.first is not None:
        yield "<h2>The first divergence</h2>"
        yield '<div class="first">'
        yield from _list_change(comparison.first)
        yield "</div>"
    yield "<h2>Lanes</h2>"
    yield from _list_lanes(comparison.lanes)
    changed = [lane for lane in comparison.lanes if lane.changes]
    if changed:
        yield "<h2>What changed</h2>"
        yield '<p class="soft">Struck out: only in the first run. The other colour: only in the '
        yield "second.</p>"
    shown = 0
    for lane in changed:
        if shown >= _MOST_CHANGES:
            yield f"<p>… and {len(changed) - changed.index(lane):,} more lanes that changed</p>"
            break
        most = min(_MOST_CHANGES_OF_LANE, _MOST_CHANGES - shown)
        shown += min(most, len(lane.changes))
        yield from _list_changes(lane, most)


def _sum_up(comparison: Comparison) -> str:
    if comparison.same:
        return "Both runs ask the same and are answered the same."
    changed = sum(bool(lane.changes) for lane in comparison.lanes)
    calls = sum(len(lane.changes) for lane in comparison.lanes)
    return (
        f"{calls:,} calls of {changed:,} of {len(comparison.lanes):,} lanes differ. All that "
        "follows from the first divergence is among them."
    )


def _list_runs(one: RunFacts, two: RunFacts) -> Iterator[str]:
    yield '<div class="scroll"><table>'
    yield f"<tr><th></th><th>{_quote(_name(one))}</th><th>{_quote(_name(two))}</th></tr>"
    rows: list[tuple[str, ...]] = [
        ("tape", one.path, two.path),
        ("began", one.started_at or "", two.started_at or ""),
        ("came to its end", *("yes" if run.ended else "no" for run in (one, two))),
        ("forked from", *(str((run.forked_from or {}).get("path", "")) for run in (one, two))),
        ("models", ", ".join(one.models), ", ".join(two.models)),
        ("calls", f"{one.sums.calls:,}", f"{two.sums.calls:,}"),
        ("errors", f"{one.sums.errors:,}", f"{two.sums.errors:,}"),
        ("input tokens", f"{one.sums.input_tokens:,}", f"{two.sums.input_tokens:,}"),
        ("output tokens", f"{one.sums.output_tokens:,}", f"{two.sums.output_tokens:,}"),
        ("seconds, one call after the other", *_pair_seconds(one.sums.seconds, two.sums.seconds)),
    ]
    for row in rows:
        if any(row[1:]):
            yield "<tr>" + "".join(f"<td>{_quote(cell)}</td>" for cell in row) + "</tr>"
    yield "</table></div>"


def _list_lanes(lanes: Iterable[LaneComparison]) -> Iterator[str]:
    yield '<div class="scroll"><table><tr><th>lane</th><th colspan="2">calls</th>'
    yield "<th>asked differently</th><th>answered differently</th>"
    yield '<th colspan="2">tokens</th><th colspan="2">seconds</th><th>first</th></tr>'
    for lane in lanes:
        cells = (
            lane.lane,
            f"{lane.sums.calls:,}",
            f"{lane.other_sums.calls:,}",
            f"{lane.count('prompt', 'removed', 'added'):,}",
            f"{lane.changed_answers:,}",
            f"{lane.sums.tokens:,}",
            f"{lane.other_sums.tokens:,}",
            *_pair_seconds(lane.sums.seconds, lane.other_sums.seconds),
            lane.first.name if lane.first is not None else "",
        )
        yield "<tr>" + "".join(f"<td>{_quote(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table></div>"


def _pair_seconds(one: float, two: float) -> tuple[str, str]:
    return f"{one:,.1f}", f"{two:,.1f}"


def _list_changes(lane: LaneComparison, most: int) -> Iterator[str]:
    yield f"<h3>{_quote(lane.lane)}</h3>"
    for change in lane.changes[:most]:
        heading = f"{_quote(change.name)} <span class=soft>{_KINDS[change.kind]}</span>"
        yield f"<details><summary>{heading}</summary><div>"
        yield from _list_parts(change)
        yield "</div></details>"
    if len(lane.changes) > most:
        yield f"<p>… and {len(lane.changes) - most:,} more calls of this lane</p>"


def _list_change(change: CallChange) -> Iterator[str]:
    yield f"<p><strong>{_quote(change.name)}</strong> <span class=soft>{_KINDS[change.kind]}"
    yield f"; line {change.line or '–'} of the first tape, {change.other_line or '–'} of the "
    yield "second</span></p>"
    yield from _list_parts(change)


def _list_parts(change: CallChange) -> Iterator[str]:
    if change.prompt:
        yield "<h3>Asked</h3>"
        yield from _list_differences(change.prompt)
    if change.answer:
        yield "<h3>Answered</h3>"
        yield from _list_differences(change.answer)


def _list_differences(differences: tuple[Difference, ...]) -> Iterator[str]:
    for difference in differences[:_MOST_PARTS]:
        yield f'<p class="soft">{_quote(difference.part)}</p>'
        if difference.recorded is None:
            runs: Runs = [("added", difference.asked or "")]
        elif difference.asked is None:
            runs = [("removed", difference.recorded)]
        else:
            runs = difference.words()
        yield f"<pre>{_mark(runs)}</pre>"
    if len(differences) > _MOST_PARTS:
        yield f"<p>… and {len(differences) - _MOST_PARTS:,} more parts</p>"


def _mark(runs: Runs) -> str:
    marked, length = [], 0
    for index, (change, text) in enumerate(runs):
        if length > _TEXT_LENGTH:
            marked.append(" … and more")
            break
        if change == "same":
            text = _shorten_same(text, index == 0, index == len(runs) - 1)
            marked.append(_quote(text))
        else:
            text = text if len(text) <= _TEXT_LENGTH else text[:_TEXT_LENGTH] + "…"
            tag = "del" if change == "removed" else "ins"
            marked.append(f"<{tag}>{_quote(text)}</{tag}>")
        length += len(text)
    return "".join(marked)


def _shorten_same(text: str, first: bool, last: bool) -> str:
    head = "" if first else text[:_CONTEXT_LENGTH]
    tail = "" if last else text[-_CONTEXT_LENGTH:]
    return text if len(text) <= len(head) + len(tail) else f"{head} … {tail}"


def _quote(text: str) -> str:
    """Returns a text as HTML; its lines are kept, what would steer the page is not."""
    return escape_html("\n".join(map(escape, text.split("\n"))))


def _name(run: RunFacts) -> str:
    return run.path.replace("\\", "/").rsplit("/", 1)[-1]
