"""Parsers for answers in JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.talk.json_reading import Reading, read_json, read_json_strictly
from tinytroupe.llm.talk.parsing import KeyFilter, Keys, ParsedResponse, TextParser, require_keys
from tinytroupe.llm.talk.places import Unreadable
from tinytroupe.llm.talk.shapes import Shape, make_shape


class JsonBlockParser(TextParser):
    """Reads a JSON value of any kind; `parsed` is that value.

    JSON is taken as models really write it: in a fence or in prose, with single quotes,
    comments, Python's literals, commas too many, without its end. What was put right
    is said in `repairs`. With `strict` the answer must be JSON and nothing else.

    Args:
        content_hint: What the instruction shows as an example: a text as it is,
            another value as JSON; a pydantic class is taken as the schema.
        schema: What the value must be like: a pydantic class or another type that
            pydantic can check, whose value is then `parsed`, or a JSON Schema.
        strict: Whether nothing is put right.

    Raises:
        BadRequest: The hint or the schema cannot be used.
    """

    _kind = "JSON"

    def __init__(
        self, content_hint: object = None, *, schema: object = None, strict: bool = False
    ) -> None:
        if schema is None and hasattr(content_hint, "model_json_schema"):
            content_hint, schema = None, content_hint
        super().__init__(self._kind, strict)
        self.shape: Shape | None = None if schema is None else make_shape(schema)
        self.format_instruction = self._instruct(_write_hint(content_hint))

    def _instruct(self, hint: str | None) -> str:
        if self.strict:
            told = f"Answer with {self._kind} and nothing else: no text around it, no code fence."
            told += f" For example:\n{hint}" if hint else ""
        else:
            told = f"Answer with {self._kind} in a fenced block, like this:\n```json\n"
            told += f"{hint or '<your JSON>'}\n```"
        if self.shape is not None:
            schema = json.dumps(self.shape.schema, ensure_ascii=False)
            told += f"\nThe JSON must fit this JSON Schema:\n{schema}"
        return told

    def _read(self, text: str) -> Reading:
        reading = self._read_value(text)
        if self.shape is None:
            return reading
        return Reading(self.shape.read(reading.value), reading.repairs)

    def _read_value(self, text: str) -> Reading:
        return Reading(read_json_strictly(text)) if self.strict else read_json(text)


class JsonDictParser(JsonBlockParser):
    """Reads a JSON object; `parsed` is a dictionary, of which parts go to different places.

    See `JsonBlockParser` for how JSON is read. With a pydantic class as the
    schema the dictionary is that of the class's fields.

    Args:
        content_hint: As for `JsonBlockParser`; None: one made of the keys.
        required_keys: What must be in the object.
        keys_to_memory: What is put into `memory`: True for all, False for nothing, the name
            of a key for its value, several names for a dictionary of these.
        keys_to_content: What is put into `content`. Keys that are named must be there.
        keys_to_metadata: What is put into `metadata`.
        schema: As for `JsonBlockParser`.
        strict: As for `JsonBlockParser`.

    Raises:
        BadRequest: The hint, a list of keys or the schema cannot be used.
    """

    _kind = "a JSON object"

    def __init__(
        self,
        content_hint: object = None,
        required_keys: Sequence[str] = (),
        keys_to_memory: Keys = True,
        keys_to_content: Keys = True,
        keys_to_metadata: Keys = False,
        *,
        schema: object = None,
        strict: bool = False,
    ) -> None:
        if isinstance(required_keys, str):
            raise BadRequest(f"required_keys is a text; give a list, as in [{required_keys!r}]")
        self.required_keys = tuple(required_keys or ())
        self._filter = KeyFilter(keys_to_memory, keys_to_content, keys_to_metadata)
        super().__init__(content_hint, schema=schema, strict=strict)

    def _instruct(self, hint: str | None) -> str:
        keys = list(dict.fromkeys([*self.required_keys, *self._filter.list_named()]))
        if hint is None and keys and self.shape is None:
            hint = (
                "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: ..." for key in keys) + "}"
            )
        told = super()._instruct(hint)
        return f"{told}\nIt must have these keys: {', '.join(keys)}" if keys else told

    def to_memory(self, parsed: Mapping[str, Any]) -> Any:
        """Returns what of a parsed dictionary is for the agent's own memory."""
        return self._filter.pick(parsed, self._filter.keys_to_memory)

    def to_content(self, parsed: Mapping[str, Any]) -> Any:
        """Returns what of a parsed dictionary is for the conversation."""
        return self._filter.pick(parsed, self._filter.keys_to_content)

    def to_metadata(self, parsed: Mapping[str, Any]) -> Any:
        """Returns what of a parsed dictionary is for the program."""
        return self._filter.pick(parsed, self._filter.keys_to_metadata)

    def _read(self, text: str) -> Reading:
        reading = self._read_value(text)
        value = reading.value
        if isinstance(value, dict):
            require_keys(value, self.required_keys)
            if self.shape is not None:
                value = _to_dict(self.shape.read(value))
        if not isinstance(value, dict):
            raise Unreadable(f"what came is {_name_kind(value)}")
        require_keys(value, self._filter.list_named())
        return Reading(value, reading.repairs)

    def _read_value(self, text: str) -> Reading:
        if self.strict:
            return Reading(read_json_strictly(text))
        return read_json(text, objects_only=True)

    def _divide(self, parsed: ParsedResponse) -> ParsedResponse:
        return self._filter.divide(parsed)


def _write_hint(hint: object) -> str | None:
    if hint is None or isinstance(hint, str):
        return hint
    try:
        return json.dumps(hint, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"content_hint cannot be written as JSON: {error}") from error


def _to_dict(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(cast(Any, value))
    return value


def _name_kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else repr(value))
