"""Parsers for answers between tags, such as `<thought>…</thought>`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.talk.json_reading import Reading, read_json, read_json_strictly
from tinytroupe.llm.talk.parsing import KeyFilter, Keys, ParsedResponse, TextParser
from tinytroupe.llm.talk.places import Repairs, Unreadable


class TagParser(TextParser):
    """Reads what stands between two tags; `parsed` is that text without space around it.

    Put up with are tags in other letters (`<Plan>`), a tag that is named in prose before it
    is used, and a missing end; each is said in `repairs`. With `strict` the
    tags must stand there exactly, and once.

    Args:
        name: What is between the tags.
        tag_begin: The opening tag; None: the name in angle brackets.
        content_hint: What the instruction shows between the tags.
        tag_end: The closing tag; None: the opening one with a slash.
        parse_json: Whether what is between them is JSON; `parsed` is then its value.
        strict: Whether nothing is put right.

    Raises:
        BadRequest: A tag is empty, or the closing one cannot be told from the opening one.
    """

    def __init__(
        self,
        name: str,
        tag_begin: str | None = None,
        content_hint: str | None = None,
        tag_end: str | None = None,
        parse_json: bool = False,
        *,
        strict: bool = False,
    ) -> None:
        self.name = name
        self.tag_begin = f"<{name}>" if tag_begin is None else tag_begin
        self.tag_end = _close(self.tag_begin) if tag_end is None else tag_end
        if not (name and self.tag_begin.strip() and self.tag_end.strip()):
            raise BadRequest("a tag needs a name, a beginning and an end that are not empty")
        self.parse_json = parse_json
        super().__init__(f"{self.tag_begin}…{self.tag_end}", strict)
        self.content_hint = content_hint or f"your {name}"
        self.format_instruction = f"Answer between these tags:\n{self.show()}" + (
            "\nBetween them there must be JSON." if parse_json else ""
        )

    def show(self) -> str:
        """Returns the tags with the hint between them."""
        return f"{self.tag_begin}{self.content_hint}{self.tag_end}"

    def _read(self, text: str) -> Reading:
        reading = self.look(text)
        if reading is None:
            raise Unreadable(f"{self.tag_begin} does not occur in it")
        return reading

    def look(self, text: str, others: Sequence[TagParser] = ()) -> Reading | None:
        """Reads what is between the tags; None where the opening one does not occur.

        Args:
            text: The answer.
            others: Tags whose beginning ends this one, where its own end is missing.

        Raises:
            Unreadable: The tags are wrong, or what is between them is not the JSON it should be.
        """
        repairs = Repairs(text)
        part = self._find_strictly(text) if self.strict else self._find(text, others, repairs)
        if part is None:
            return None
        start, end = part
        if not self.parse_json:
            return Reading(text[start:end].strip(), repairs.tell())
        # With blanks in place of what is before it, the places in the JSON are those in the answer.
        before = _NO_LINE_END.sub(" ", text[:start])
        if self.strict:
            return Reading(read_json_strictly(before + text[start:end]), repairs.tell())
        reading = read_json(before + text[start:end])
        return Reading(reading.value, (*repairs.tell(), *reading.repairs))

    def _find_strictly(self, text: str) -> tuple[int, int] | None:
        start = text.find(self.tag_begin)
        if start < 0:
            return None
        start += len(self.tag_begin)
        end = text.find(self.tag_end, start)
        if end < 0:
            raise Unreadable(f"{self.tag_begin} is not closed by {self.tag_end}", start)
        again = text.find(self.tag_begin, start)
        if again >= 0 and self.tag_begin != self.tag_end:
            raise Unreadable(f"{self.tag_begin} occurs more than once", again)
        return start, end

    def _find(
        self, text: str, others: Sequence[TagParser], repairs: Repairs
    ) -> tuple[int, int] | None:
        opening = _search(self.tag_begin, text, 0)
        if opening is None:
            return None
        closing = _search(self.tag_end, text, opening.end())
        if closing is None:
            repairs.note(f"{self.tag_begin} was not closed", opening.start())
            nexts = (_search(other.tag_begin, text, opening.end()) for other in others)
            end = min((found.start() for found in nexts if found), default=len(text))
            return opening.end(), end
        # A tag may be named before it is used: "I shall write <plan> first. <plan>…</plan>".
        while (
            later := _search(self.tag_begin, text, opening.end())
        ) and later.end() <= closing.start():
            repairs.note(f"{self.tag_begin} occurred twice; the inner one counts", opening.start())
            opening = later
        if (opening.group(), closing.group()) != (self.tag_begin, self.tag_end):
            repairs.note(f"{self.tag_begin} was written in other letters", opening.start())
        return opening.end(), closing.start()


_NO_LINE_END = re.compile(r"[^\n]")
_BRACKETED = re.compile(r"([<\[{(]+)(.*)", re.DOTALL)


def _close(tag_begin: str) -> str:
    bracketed = _BRACKETED.fullmatch(tag_begin)
    if bracketed is None:
        raise BadRequest(f"tag_begin is {tag_begin!r}; give tag_end, too")
    return f"{bracketed[1]}/{bracketed[2]}"


def _search(tag: str, text: str, start: int) -> re.Match[str] | None:
    return re.compile(re.escape(tag), re.IGNORECASE).search(text, start)


class MultiTagParser(TextParser):
    """Reads what stands between several pairs of tags; `parsed` is a dictionary by name.

    Args:
        *tags: The tags, or names of tags in angle brackets.
        keys_to_memory: As for `JsonDictParser`.
        keys_to_content: As for `JsonDictParser`.
        keys_to_metadata: As for `JsonDictParser`.
        keys_allow_missing: Names whose tags need not be there; the dictionary then lacks them.
        strict: Whether nothing is put right, whatever the single tags say.

    Raises:
        BadRequest: There is no tag, two have one name, or a key is no tag's.
    """

    def __init__(
        self,
        *tags: TagParser | str,
        keys_to_memory: Keys = True,
        keys_to_content: Keys = True,
        keys_to_metadata: Keys = False,
        keys_allow_missing: Sequence[str] | None = None,
        strict: bool = False,
    ) -> None:
        self.tags = tuple(
            TagParser(tag, strict=strict) if isinstance(tag, str) else tag for tag in tags
        )
        may_lack = tuple(keys_allow_missing or ())
        self._filter = KeyFilter(keys_to_memory, keys_to_content, keys_to_metadata, may_lack)
        names = [tag.name for tag in self.tags]
        if not names or len(set(names)) < len(names):
            raise BadRequest(
                f"tags need names, each its own; these are: {', '.join(names) or 'none'}"
            )
        unknown = [key for key in (*self._filter.list_named(), *may_lack) if key not in names]
        if unknown:
            raise BadRequest(f"there is no tag {', '.join(unknown)}; there are {', '.join(names)}")
        super().__init__(" and ".join(tag.wanted for tag in self.tags), strict)
        lines = "\n".join(tag.show() for tag in self.tags)
        self.format_instruction = f"Answer between these tags:\n{lines}"
        held = [tag.tag_begin for tag in self.tags if tag.parse_json]
        if held:
            self.format_instruction += f"\nIn {' and '.join(held)} there must be JSON."

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
        value: dict[str, Any] = {}
        repairs: list[str] = []
        for tag in self.tags:
            reading = tag.look(text, [other for other in self.tags if other is not tag])
            if reading is not None:
                value[tag.name] = reading.value
                repairs += reading.repairs
        may_lack = self._filter.may_lack
        missing = [tag for tag in self.tags if tag.name not in value and tag.name not in may_lack]
        if missing:
            raise Unreadable(f"it lacks {' and '.join(tag.tag_begin for tag in missing)}")
        return Reading(value, tuple(repairs))

    def _divide(self, parsed: ParsedResponse) -> ParsedResponse:
        return self._filter.divide(parsed)
