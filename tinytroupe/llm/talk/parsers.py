"""The parsers: what each reads, and how to tell a model to write it.

Each has `format_instruction`, for the end of a prompt, and `parse`, from a response to
a `ParsedResponse`.
"""

from __future__ import annotations

from tinytroupe.llm.talk.json_parsers import JsonBlockParser, JsonDictParser
from tinytroupe.llm.talk.json_reading import Reading
from tinytroupe.llm.talk.parsing import Keys, ParsedResponse, Parser, TextParser
from tinytroupe.llm.talk.tag_parsers import MultiTagParser, TagParser
from tinytroupe.llm.talk.text_parsers import ChoiceParser, CodeBlockParser

__all__ = [
    "ChoiceParser",
    "CodeBlockParser",
    "JsonBlockParser",
    "JsonDictParser",
    "Keys",
    "MultiTagParser",
    "ParsedResponse",
    "Parser",
    "Reading",
    "TagParser",
    "TextParser",
]
