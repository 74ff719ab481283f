"""Parsers for a block of code, and for one choice of several."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import EnumMeta
from typing import Any

from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.talk.json_reading import Reading
from tinytroupe.llm.talk.parsing import TextParser
from tinytroupe.llm.talk.places import Repairs, Unreadable, blank_thoughts


class CodeBlockParser(TextParser):
    """Reads the first block of code; `parsed` is what is inside its fences, never executed.

    A block of the language goes before others. Put up with are a language that is not named
    or abbreviated, and a missing end; both are said in `repairs`. With `strict`
    the answer must be one block of that language and nothing else.

    Args:
        language_name: The language, as it stands behind the fence; None: any.
        content_hint: What the instruction shows as the code.
        strict: Whether nothing is put right.
    """

    def __init__(
        self,
        language_name: str | None = None,
        content_hint: str | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.language_name = language_name
        named = f"{language_name} " if language_name else ""
        super().__init__(f"a fenced block of {named}code", strict)
        hint = content_hint or f"<your {named}code>"
        self.format_instruction = (
            f"Answer with {named}code in a fenced block, like this:\n"
            f"```{language_name or ''}\n{hint}\n```"
        )

    def _read(self, text: str) -> Reading:
        if self.strict:
            block = _FENCED.fullmatch(text.strip())
            if block is None or not block["end"] or not self._is_asked_for(block):
                raise Unreadable("it is not one such block and nothing else", 0)
            return Reading(block["code"].removesuffix("\n"))
        repairs = Repairs(text)
        blocks = list(_FENCED.finditer(blank_thoughts(text)))
        if not blocks:
            raise Unreadable("there is no fenced block in it")
        block = next(filter(self._is_asked_for, blocks), None)
        if block is None:
            block = self._choose(blocks, repairs)
        code = block["code"]
        if not block["end"]:
            repairs.note("the block was not closed on a line of its own", block.start())
            code = code.rstrip().removesuffix(block["marks"])
        return Reading(code.removesuffix("\n"), repairs.tell())

    def _choose(self, blocks: list[re.Match[str]], repairs: Repairs) -> re.Match[str]:
        """Returns the first block that may be of the language: `py` may be, `bash` may not."""
        wanted = _name_language(self.language_name)
        for block in blocks:
            marked = _name_language(block["language"])
            if wanted.startswith(marked) or marked.startswith(wanted):
                repairs.note(f"the block was marked as {marked or 'no language'}", block.start())
                return block
        marked = _name_language(blocks[0]["language"])
        raise Unreadable(f"the block in it is marked as {marked}", blocks[0].start())

    def _is_asked_for(self, block: re.Match[str]) -> bool:
        if self.language_name is None:
            return True
        return _name_language(block["language"]) == _name_language(self.language_name)


def _name_language(named: str | None) -> str:
    return (named or "").strip().casefold()


_FENCED = re.compile(
    r"^[ \t]*(?P<marks>```+|~~~+)(?P<language>[^\n`]*)\n(?P<code>.*?)"
    r"(?P<end>^[ \t]*(?P=marks)[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)


class ChoiceParser(TextParser):
    """Reads which of several choices an answer makes; `parsed` is the choice as it was given.

    Put up with are other letters, marks around it, and a reason before or after
    it, and said in `repairs`. An answer that only mentions a choice, as "I would not say yes"
    does, makes none. With `strict` the answer must be the choice and nothing else.

    Args:
        choices: Texts; or an enumeration, whose member is then `parsed`.
        strict: Whether nothing is put right.

    Raises:
        BadRequest: There are none, one is not text, or two differ in upper and lower case only.
    """

    def __init__(self, choices: Iterable[str] | EnumMeta, *, strict: bool = False) -> None:
        if isinstance(choices, str):
            raise BadRequest(f"choices is a text; give a list, as in [{choices!r}]")
        self.choices: dict[str, Any] = (
            {member.value: member for member in choices}  # type: ignore[var-annotated]
            if isinstance(choices, EnumMeta)
            else {choice: choice for choice in choices}
        )
        if not self.choices or not all(isinstance(c, str) and c.strip() for c in self.choices):
            raise BadRequest("choices are texts that are not empty; at least one is needed")
        self._folded = {_fold(choice): choice for choice in self.choices}
        if len(self._folded) < len(self.choices):
            raise BadRequest("two choices differ in upper and lower case or in marks only")
        super().__init__(f"one of: {', '.join(self.choices)}", strict)
        lines = "\n".join(f"- {choice}" for choice in self.choices)
        self.format_instruction = f"Answer with exactly one of these and nothing else:\n{lines}"

    def _read(self, text: str) -> Reading:
        if text.strip() in self.choices:
            return Reading(self.choices[text.strip()])
        if self.strict:
            raise Unreadable("it is none of them", 0)
        repairs = Repairs(text)
        said = blank_thoughts(text).strip()
        whole = self._folded.get(_fold(_LABEL.sub("", said)))
        if whole is not None:
            repairs.note(f"{said[:60]!r} was read as {whole!r}", 0)
            return Reading(self.choices[whole], repairs.tell())
        found = self._find(said)
        repairs.note(f"{found!r} was taken out of a longer answer", 0)
        return Reading(self.choices[found], repairs.tell())

    def _find(self, said: str) -> str:
        """Returns the one choice that a line of its own, a label or the beginning names."""
        made = {
            choice
            for line in said.splitlines()
            if (choice := self._folded.get(_fold(_LABEL.sub("", line)))) is not None
        }
        if not made:
            made = self._find_at_beginning(said)
        if len(made) > 1:
            raise Unreadable(f"it makes more than one choice: {', '.join(sorted(made))}")
        if not made:
            raise Unreadable(f"it makes none of these choices; it begins with {said[:80]!r}")
        return made.pop()

    def _find_at_beginning(self, said: str) -> set[str]:
        """Returns the choice that an answer begins with, unless it mentions another one later."""
        beginning = said.lstrip("\"'*_`([{# ")
        for choice in sorted(self.choices, key=len, reverse=True):
            begins = re.match(
                rf"{re.escape(choice)}[\"'*_`)\]}}]*(?:[,.;:!](?=\s)|\s+[-–—]\s)", beginning, re.I
            )
            if begins is None:
                continue
            rest = beginning[begins.end() :]
            others = (other for other in self.choices if other != choice)
            if any(re.search(rf"(?<!\w){re.escape(other)}(?!\w)", rest, re.I) for other in others):
                return set()
            return {choice}
        return set()


_LABEL = re.compile(
    r"^\W*(?:(?:my|the|final)\s+)*(?:answer|choice|decision)(?:\s+is)?\s*[:=]?\s*[*_]*\s*(?=\S)",
    re.I,
)


_BULLET = re.compile(r"^\s*(?:[-*•]|#+)\s+")


def _fold(text: str) -> str:
    """Returns a text without what may stand around a choice, and with case folded."""
    bare = _BULLET.sub("", text).strip(" \t\r\n\"'“”‘’`*_()[]{}<>.,;:!")
    return " ".join(bare.casefold().split())
