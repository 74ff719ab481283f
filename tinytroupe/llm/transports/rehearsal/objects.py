"""JSON objects where a prompt asks for JSON and no schema says of what shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.hearing import Heard, text_of
from tinytroupe.llm.transports.rehearsal.schemas import write_value

MOST_EXAMPLES = 50
BEFORE_AN_EXAMPLE = 200
"""How many characters before a JSON object are searched for a word that makes it an example."""

_EXAMPLE_WORDS = re.compile(r"json|format|shape|example|schema|return|respond|keys|fields", re.I)
_KEY = re.compile(r"[\"“]([A-Za-z_][\w -]{0,40})[\"”]\s*:\s*(\S?)")
_TICKED = re.compile(r"`([A-Za-z_]\w{0,40})`")


def write_object(messages: Sequence[Mapping[str, Any]], heard: Heard, draws: Draws) -> Any:
    """Writes an object with the keys that the prompt shows or names, else answer and reason."""
    schema = _find_shape(messages, heard) or {
        "type": "object",
        "properties": {"answer": {"type": "string"}, "reason": {"type": "string"}},
    }
    return write_value(schema, heard, draws)


def _find_shape(messages: Sequence[Mapping[str, Any]], heard: Heard) -> dict[str, Any] | None:
    for message in reversed(messages):
        for example in _find_examples(text_of(message)):
            return _describe(example)
    keys = dict(_KEY.findall(heard.question)) or dict.fromkeys(_TICKED.findall(heard.question), "")
    keys.pop("json", None)
    if not keys:
        return None
    return {
        "type": "object",
        "properties": {key: _describe_by_first(first) for key, first in keys.items()},
    }


def _find_examples(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    for count, found in enumerate(re.finditer(r"\{", text)):
        if count >= MOST_EXAMPLES:
            return
        before = text[max(0, found.start() - BEFORE_AN_EXAMPLE) : found.start()]
        if not _EXAMPLE_WORDS.search(before):
            continue
        try:
            value, _ = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and value:
            yield value


def _describe(example: Any) -> dict[str, Any]:
    """Returns a schema that the example, and values like it, fulfil."""
    if isinstance(example, dict):
        properties = {key: _describe(value) for key, value in example.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    if isinstance(example, list):
        return {"type": "array", "items": _describe(example[0]) if example else {}, "minItems": 1}
    if isinstance(example, bool):
        return {"type": "boolean"}
    if isinstance(example, int):
        return {"type": "integer"}
    return {"type": "number" if isinstance(example, float) else "string"}


def _describe_by_first(first: str) -> dict[str, Any]:
    if first == "[":
        return {"type": "array", "items": {"type": "string"}, "minItems": 1}
    if first.isdigit():
        return {"type": "integer"}
    if first in ("t", "f"):
        return {"type": "boolean"}
    return {"type": "string"}
