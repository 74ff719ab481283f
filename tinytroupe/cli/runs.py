"""`tinytroupe runs`: look at recorded runs, check them, take them elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import orjson

from tinytroupe.cli import Subparsers
from tinytroupe.cli.quantities import show_size
from tinytroupe.cli.tables import clean, count, progress, say, say_json, say_table, track
from tinytroupe.cli.tape_facts import TapeFacts, list_tapes, read_tape
from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.compression import write_file
from tinytroupe.llm.store.tape import TapeReader

EXPORT_FORMAT = 1
"""Of the lines of `runs export`: raised when an older reader could not make sense of them."""

_AMISS = 1
_EXPORTED = (
    "lane",
    "branch",
    "sample",
    "order",
    "ambiguous",
    "purpose",
    "digest",
    "kind",
    "seconds",
    "origin",
    "attempts",
    "endpoint",
    "request_id",
    "request",
    "response",
    "error",
)
_DETAILS = ("mode", "started_at", "tinytroupe", "python", "platform", "key_schema")


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe runs`."""
    parser = subparsers.add_parser(
        "runs",
        help="look at recorded runs, check them, take them elsewhere",
        description="Looks at recorded runs, checks them, takes them elsewhere. A run that is "
        "being recorded may be looked at, too.",
    )
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    listing = _add_action(actions, "ls", "list the tapes in a folder, newest first")
    listing.add_argument(
        "folder", type=Path, nargs="?", default=Path(), help="default: the current folder"
    )
    for name, line in (
        ("show", "show what was recorded, lane by lane"),
        ("verify", "report every line that was changed since it was recorded"),
        ("export", "write the calls to a file, one line of JSON each"),
    ):
        action = _add_action(actions, name, line)
        action.add_argument("tape", type=Path, help="the file of the recorded run")
    action.add_argument("file", type=Path, help="a name that ends in .zst: compressed")
    action.add_argument("--force", action="store_true", help="replace the file if there is one")
    return parser


def _add_action(actions: Subparsers, name: str, line: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Does what was asked for. Exit code 1: it was done, and a tape is damaged.

    Raises:
        StoreError: There is no such tape or folder, or it cannot be read.
        ConfigError: A file is to be compressed, and the package for that is missing.
    """
    if args.action == "ls":
        return _list(args)
    if args.action == "export":
        return _export(args)
    tape = TapeReader(args.tape)
    facts = read_tape(tape)
    if args.action == "show":
        return _show(args, facts)
    return _verify(args, facts)


def _list(args: argparse.Namespace) -> int:
    paths = list_tapes(args.folder)
    tapes: list[tuple[Path, TapeFacts | None, str]] = []
    for path in track(paths, "Reading", len(paths)):
        try:
            tapes.append((path, read_tape(TapeReader(path)), ""))
        except StoreError as error:
            tapes.append((path, None, error.message))
    tapes.sort(key=lambda tape: tape[1].started_at if tape[1] else "", reverse=True)
    if args.json:
        say_json([_tell_listed(path, facts, problem) for path, facts, problem in tapes])
        return 0
    if not tapes:
        say(f"There is no tape in {args.folder.absolute()}.")
        return 0
    say_table(
        ("TAPE", "STARTED", "MODE", "CALLS", "LANES", "SIZE", "END", "TINYTROUPE"),
        [
            (
                path.name,
                facts.started_at,
                facts.mode,
                f"{facts.calls:,}",
                f"{len(facts.lanes):,}",
                show_size(facts.size_bytes),
                facts.end,
                facts.header.get("tinytroupe", ""),
            )
            if facts
            else (path.name, "", "", "", "", show_size(path.stat().st_size), problem, "")
            for path, facts, problem in tapes
        ],
        right=("CALLS", "LANES", "SIZE"),
    )
    return 0


def _tell_listed(path: Path, facts: TapeFacts | None, problem: str) -> dict[str, Any]:
    if facts is None:
        return {"tape": str(path), "problem": problem}
    return {
        "tape": str(path),
        "started_at": facts.started_at,
        "mode": facts.mode,
        "calls": facts.calls,
        "lanes": len(facts.lanes),
        "size_bytes": facts.size_bytes,
        "end": facts.end,
        "tinytroupe": facts.header.get("tinytroupe"),
    }


def _show(args: argparse.Namespace, facts: TapeFacts) -> int:
    if args.json:
        say_json(facts.tell())
        return _AMISS if facts.changed_lines else 0
    _show_header(args.tape, facts)
    say()
    say_table(
        ("LANE", "CALLS", "LIVE", "INPUT TOKENS", "OUTPUT TOKENS", "SECONDS", "ERRORS"),
        [
            (
                ("? " if lane.ambiguous else "") + (name or "(no name)"),
                f"{lane.calls:,}",
                f"{lane.live:,}",
                f"{lane.input_tokens:,}",
                f"{lane.output_tokens:,}",
                f"{lane.seconds:.1f}",
                f"{lane.errors:,}",
            )
            for name, lane in facts.lanes.items()
        ],
        right=("CALLS", "LIVE", "INPUT TOKENS", "OUTPUT TOKENS", "SECONDS", "ERRORS"),
    )
    if facts.ambiguous_lanes:
        say(
            "\n? The calls of these lanes cannot be told apart, because their threads took work "
            "from a shared queue: a replay answers them only where there is no doubt. Name who "
            "asks with `with lane(name):`"
        )
    if facts.changed_lines:
        say("\nThe tape was changed since it was recorded: see `tinytroupe runs verify`")
    return _AMISS if facts.changed_lines else 0


def _show_header(path: Path, facts: TapeFacts) -> None:
    header = facts.header
    lines = [("tape", f"{path} ({show_size(facts.size_bytes)}, {facts.end})")]
    lines += [(name.replace("_", " "), str(header.get(name) or "")) for name in _DETAILS]
    packages = header.get("packages") or {}
    lines.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    lines.append(("command", " ".join(map(str, header.get("command") or []))))
    if git := header.get("git"):
        changed = ", with changes that are not committed" if git.get("changed") else ""
        lines.append(("commit", f"{git.get('commit')}{changed}"))
    if origin := header.get("forked_from"):
        at = f" at {origin['at']}" if origin.get("at") is not None else ""
        lines.append(("forked from", f"{origin.get('path')}{at}"))
    if facts.resumed:
        lines.append(("resumed", count(facts.resumed, "time")))
    lines.append(("models", ", ".join(facts.models)))
    for name, value in (header.get("settings") or {}).items():
        lines.append((str(name), str(value)))
    for name, value in lines:
        if value:
            say(f"{clean(name) + ':':<20} {clean(value)}")


def _verify(args: argparse.Namespace, facts: TapeFacts) -> int:
    if args.json:
        say_json(
            {
                "tape": str(args.tape),
                "lines": facts.lines,
                "changed_lines": facts.changed_lines,
                "cut": facts.cut,
                "ended": facts.ended,
            }
        )
    else:
        for number in facts.changed_lines:
            say(f"{args.tape}:{number}: this line, or the one before it, is not as it was recorded")
        if facts.cut:
            say(
                f"{args.tape}:{facts.lines + 1}: the last event is not whole; it was lost when "
                "the recording was killed"
            )
        if not facts.changed_lines:
            whole = count(facts.lines, "line")
            say(f"{args.tape}: {whole} as recorded, {facts.end}")
    return _AMISS if facts.changed_lines or facts.cut else 0


def _export(args: argparse.Namespace) -> int:
    tape = TapeReader(args.tape)
    written, left_out = 0, []
    with (
        progress("Exporting", len(tape.content)) as advance,
        write_file(args.file, replace=args.force) as file,
    ):
        for line in tape.lines():
            advance(line.length)
            if not line.intact:
                left_out.append(line.number)
            elif line.event.get("event") == "call":
                file.write(_write_call(args.tape.name, line.number, line.event))
                written += 1
    size_bytes = args.file.stat().st_size
    if args.json:
        say_json({"exported": written, "size_bytes": size_bytes, "changed_lines": left_out})
    else:
        say(f"{count(written, 'call')} written to {args.file} ({show_size(size_bytes)})")
        if left_out:
            numbers = ", ".join(map(str, left_out[:10])) + (", …" if len(left_out) > 10 else "")
            say(f"Left out, since they were changed since they were recorded: lines {numbers}")
    return _AMISS if left_out else 0


def _write_call(tape: str, number: int, event: dict[str, Any]) -> bytes:
    line = {"tinytroupe": "call", "format": EXPORT_FORMAT, "tape": tape, "line": number}
    return orjson.dumps({**line, **{name: event.get(name) for name in _EXPORTED}}) + b"\n"
