"""`tinytroupe cache stats`, `ls` and `show`."""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tinytroupe.cli.entry_facts import UNREADABLE, Facts, make_filter, read_facts, select_rows
from tinytroupe.cli.quantities import show_age, show_size, show_time
from tinytroupe.cli.tables import clean, clean_lines, count, cut, say, say_json, say_table, track
from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.response import Response, Usage
from tinytroupe.llm.store.survey import Row, Survey

_FAILED = 2
_SHORT_KEY = 12
_EXCERPT_COLUMNS = 60
_MOST_CANDIDATES = 20
_ASKED = ("messages", "prompt", "input")


@dataclass(slots=True)
class _ModelTotal:
    entries: int = 0
    size_bytes: int = 0
    usage: Usage = field(default_factory=Usage)


def run_stats(args: argparse.Namespace, folder: Path) -> int:
    """Counts the answers, by model.

    Raises:
        StoreError: There is no cache, or it cannot be read.
    """
    survey = Survey(folder)
    total = survey.sum_up()
    models: dict[str, _ModelTotal] = {}
    unreadable = 0
    for row in track(survey.list_rows(), "Reading", total.entries):
        try:
            entry = survey.read(row)
        except UNREADABLE:
            unreadable += 1
            continue
        if entry is not None:
            _add_up(models, row, read_facts(entry))
    stats = {
        "folder": str(folder),
        "entries": total.entries,
        "size_bytes": total.size_bytes,
        "disk_bytes": survey.measure_files(),
        "oldest_seconds": total.oldest_seconds,
        "newest_seconds": total.newest_seconds,
        "unreadable": unreadable,
        "models": [
            _tell_model(name, one)
            for name, one in sorted(models.items(), key=lambda item: -item[1].entries)
        ],
    }
    if args.json:
        say_json(stats)
    else:
        _show_stats(stats)
    return 0


def _show_stats(stats: dict[str, Any]) -> None:
    say(f"{count(stats['entries'], 'answer')} in {stats['folder']}")
    say(f"{show_size(stats['size_bytes'])}, with all files {show_size(stats['disk_bytes'])}")
    if stats["entries"]:
        say(f"from {show_time(stats['oldest_seconds'])} to {show_time(stats['newest_seconds'])}")
    if stats["unreadable"]:
        damaged = count(stats["unreadable"], "entry", "entries")
        say(f"{damaged} cannot be read: see `tinytroupe cache verify`")
    if stats["models"]:
        say()
        say_table(
            ("MODEL", "ANSWERS", "SIZE", "INPUT TOKENS", "OUTPUT TOKENS"),
            [
                (
                    model["model"] or "(not known)",
                    f"{model['entries']:,}",
                    show_size(model["size_bytes"]),
                    f"{model['input_tokens']:,}",
                    f"{model['output_tokens']:,}",
                )
                for model in stats["models"]
            ],
            right=("ANSWERS", "SIZE", "INPUT TOKENS", "OUTPUT TOKENS"),
        )


def _add_up(models: dict[str, _ModelTotal], row: Row, facts: Facts) -> None:
    one = models.setdefault(facts.model, _ModelTotal())
    one.entries += 1
    one.size_bytes += row.size_bytes
    if facts.response is not None and facts.response.usage is not None:
        one.usage += facts.response.usage


def _tell_model(model: str, total: _ModelTotal) -> dict[str, Any]:
    return {
        "model": model,
        "entries": total.entries,
        "size_bytes": total.size_bytes,
        "input_tokens": total.usage.input_tokens,
        "output_tokens": total.usage.output_tokens,
    }


def run_ls(args: argparse.Namespace, folder: Path) -> int:
    """Lists the answers, newest first.

    Raises:
        StoreError: There is no cache, or it cannot be read.
    """
    survey = Survey(folder)
    wanted = make_filter(args)
    total = survey.sum_up().entries
    with closing(track(survey.list_rows(newest_first=True), "Reading", total)) as rows:
        selected = select_rows(survey, rows, wanted)
        listed = list(islice(selected, args.limit + 1 if args.limit else None))
    more = len(listed) > args.limit > 0
    del listed[args.limit or len(listed) :]
    if args.json:
        say_json([_tell_row(survey, row) for row in listed])
        return 0
    if not listed:
        say("No answer is like that." if total else f"The cache {folder} is empty.")
        return 0
    now = time.time()
    say_table(
        ("KEY", "AGE", "MODEL", "SIZE", "ANSWER"),
        [_write_row(survey, row, now) for row in listed],
        right=("AGE", "SIZE"),
    )
    if more:
        say(f"\nThe newest {args.limit} are shown; --limit 0 shows all.")
    return 0


def _write_row(survey: Survey, row: Row, now: float) -> tuple[str, ...]:
    facts = _read(survey, row)
    answer = cut(clean(facts.answer), _EXCERPT_COLUMNS) if facts else "(cannot be read)"
    return (
        shorten_key(row.key),
        show_age(now - row.stored_at_seconds),
        facts.model if facts else "",
        show_size(row.size_bytes),
        answer,
    )


def _tell_row(survey: Survey, row: Row) -> dict[str, Any]:
    facts = _read(survey, row)
    return {
        "key": row.key,
        "stored_at_seconds": row.stored_at_seconds,
        "size_bytes": row.size_bytes,
        "model": facts.model if facts else None,
        "answer": facts.answer if facts else None,
    }


def _read(survey: Survey, row: Row) -> Facts | None:
    try:
        entry = survey.read(row)
    except UNREADABLE:
        return None
    return read_facts(entry) if entry is not None else None


def shorten_key(key: str) -> str:
    """Returns a key that `show` takes and that fits into a table."""
    digest, dot, draw = key.partition(".")
    return digest[:_SHORT_KEY] + dot + draw


def run_show(args: argparse.Namespace, folder: Path) -> int:
    """Shows one question and its answer.

    Raises:
        StoreError: No key begins like that, or the entry is damaged.
    """
    survey = Survey(folder)
    found = find_rows(survey, args.key)
    if not found:
        raise StoreError(f"no key in {folder} begins with {args.key}")
    if len(found) > 1:
        _show_candidates(args, found)
        return _FAILED
    (row,) = found
    try:
        entry = survey.read(row)
    except UNREADABLE as damage:
        raise StoreError(f"the answer {row.key} cannot be read: {damage}") from damage
    if entry is None:
        raise StoreError(f"the answer {row.key} was deleted a moment ago")
    facts = read_facts(entry)
    if args.json:
        say_json({**_tell_row(survey, row), "request": facts.request, **_tell_answer(facts)})
    else:
        _show_entry(row, facts)
    return 0


def find_rows(survey: Survey, given: str) -> list[Row]:
    """Returns the entries whose keys begin as given; only one where it is a whole key.

    What follows the first dot, which tells draws of one request apart, may be
    given after the beginning of the digest: `a1b2.3`.
    """
    head, dot, tail = given.partition(".")
    found = []
    for row in survey.list_rows():
        digest, _, draw = row.key.partition(".")
        if not digest.startswith(head) or not draw.startswith(tail):
            continue
        if row.key == given:
            return [row]
        found.append(row)
    exact = [row for row in found if dot and row.key.partition(".")[2] == tail]
    return exact or found


def _show_candidates(args: argparse.Namespace, found: list[Row]) -> None:
    if args.json:
        say_json({"candidates": [row.key for row in found]})
        return
    say(f"{args.key} is the beginning of {count(len(found), 'key')}; give more of it:")
    for row in found[:_MOST_CANDIDATES]:
        say(f"  {clean(row.key)}")
    if len(found) > _MOST_CANDIDATES:
        say(f"  and {len(found) - _MOST_CANDIDATES:,} more")


def _tell_answer(facts: Facts) -> dict[str, Any]:
    response = facts.response
    if response is None:
        return {"response": None}
    return {
        "kind": response.kind,
        "endpoint": response.endpoint,
        "seconds": response.seconds,
        "request_id": response.request_id,
        "response": response.raw,
    }


def _show_entry(row: Row, facts: Facts) -> None:
    response = facts.response
    age = show_age(time.time() - row.stored_at_seconds)
    lines = [
        ("key", row.key),
        ("kept", f"{show_time(row.stored_at_seconds)}, {age} ago"),
        ("size", show_size(row.size_bytes)),
        ("model", facts.model),
        *(_list_facts(response) if response is not None else ()),
    ]
    for name, value in facts.request.items():
        if name not in ("model", *_ASKED):
            lines.append((name, str(value)))
    for name, value in lines:
        if value:
            say(f"{clean(name) + ':':<20} {clean(value)}")
    for role, text in _list_turns(facts):
        say(f"\n--- {clean(role)}")
        say(clean_lines(text))
    say("\n--- answer")
    say(clean_lines(facts.answer) if response is not None else "(cannot be read)")


def _list_facts(response: Response) -> list[tuple[str, str]]:
    usage = response.usage
    return [
        ("answered by", " ".join(filter(None, (response.model, response.endpoint)))),
        ("finished", response.finish_reason or ""),
        ("seconds", f"{response.seconds:.3f}" if response.seconds else ""),
        ("request id", response.request_id or ""),
        ("tokens", f"{usage.input_tokens:,} in, {usage.output_tokens:,} out" if usage else ""),
    ]


def _list_turns(facts: Facts) -> list[tuple[str, str]]:
    turns = []
    for message in facts.request.get("messages") or []:
        content = message.get("content")
        rest = {key: value for key, value in message.items() if key not in ("role", "content")}
        text = content if isinstance(content, str) else "" if content is None else str(content)
        turns.append((str(message.get("role")), "\n".join(filter(None, (text, _list_rest(rest))))))
    for name in ("prompt", "input"):
        texts = facts.request.get(name)
        turns += [(name, text) for text in ([texts] if isinstance(texts, str) else texts or [])]
    return turns


def _list_rest(rest: dict[str, Any]) -> str:
    return "\n".join(f"({name}: {value})" for name, value in rest.items())
