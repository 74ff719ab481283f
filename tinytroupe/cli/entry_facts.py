"""What a stored entry tells people, and which entries they ask for."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import orjson

from tinytroupe.llm.errors import MalformedResponse
from tinytroupe.llm.response import Response, from_record
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.frame import DamagedFrame, NewerFrame
from tinytroupe.llm.store.survey import Row, Survey

UNREADABLE = (DamagedFrame, NewerFrame)


@dataclass(frozen=True, slots=True)
class Facts:
    """An entry, read."""

    request: dict[str, Any]
    """The body that was sent; empty where it cannot be read."""
    response: Response | None
    """None where it cannot be read."""

    @property
    def model(self) -> str:
        """The model that was asked; empty where that is not known."""
        model = self.request.get("model")
        return model if isinstance(model, str) else ""

    @property
    def answer(self) -> str:
        """The answer in text: the calls of tools where it has nothing else."""
        if self.response is None:
            return ""
        if self.response.kind == "embedding":
            return f"({len(self.response.embeddings)} vectors)"
        if self.response.text or self.response.kind != "chat":
            return self.response.text
        message = self.response.message
        calls = message.get("tool_calls") or message.get("function_call")
        return orjson.dumps(calls).decode() if calls else str(message.get("refusal") or "")

    def contains(self, text: str) -> bool:
        """Tells whether some words are in the question or the answer, in any case."""
        wanted = text.casefold()
        asked = (self.request.get(name) for name in ("messages", "prompt", "input"))
        return any(wanted in said.casefold() for said in (self.answer, *_find_texts(list(asked))))


def read_facts(entry: Entry) -> Facts:
    """Reads an entry; what cannot be read is left out."""
    try:
        request = orjson.loads(entry.request)
    except ValueError:
        request = {}
    try:
        response = from_record(entry.record, "cache")
    except MalformedResponse:
        response = None
    return Facts(request if isinstance(request, dict) else {}, response)


def _find_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _find_texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _find_texts(item)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are asked for."""

    model: str | None = None
    """A name in which * stands for any letters; None: all."""
    before_seconds: float | None = None
    """Only what was stored before, in seconds since 1970."""
    after_seconds: float | None = None
    """Only what was stored after."""
    text: str | None = None

    def admits_row(self, row: Row) -> bool:
        """Tells whether an entry is of the age that is asked for."""
        if self.before_seconds is not None and row.stored_at_seconds >= self.before_seconds:
            return False
        return self.after_seconds is None or row.stored_at_seconds > self.after_seconds

    @property
    def reads(self) -> bool:
        """Whether entries must be read to tell."""
        return self.model is not None or self.text is not None

    def admits(self, facts: Facts) -> bool:
        """Tells whether an entry is of the model, and has the words, that are asked for."""
        if self.model is not None and not fnmatchcase(facts.model, self.model):
            return False
        return self.text is None or facts.contains(self.text)


def make_filter(args: argparse.Namespace) -> Filter:
    """Makes the filter that the command line asks for."""
    now = time.time()
    older, newer = args.older_than, getattr(args, "newer_than", None)
    return Filter(
        args.model,
        None if older is None else now - older,
        None if newer is None else now - newer,
        getattr(args, "text", None),
    )


def select_rows(survey: Survey, rows: Iterator[Row], wanted: Filter) -> Iterator[Row]:
    """Yields the rows that are asked for; a damaged entry only where no entry must be read.

    Raises:
        StoreError: The store cannot be read.
    """
    for row in rows:
        if not wanted.admits_row(row):
            continue
        if wanted.reads:
            try:
                entry = survey.read(row)
            except UNREADABLE:
                continue
            if entry is None or not wanted.admits(read_facts(entry)):
                continue
        yield row
