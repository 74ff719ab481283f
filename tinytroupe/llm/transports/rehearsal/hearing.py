"""What a prompt offers to someone who must talk about it without understanding it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinytroupe.llm.transports.rehearsal.vocabulary import (
    DETERMINERS,
    FILLERS,
    INSTRUCTIONS,
    STOP_WORDS,
)

MOST_CHARACTERS = 40_000
"""Of each message only its beginning and end are read, together this much: a ten-megabyte
prompt must not take seconds to be answered with three sentences."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What can be picked up from a conversation. Any part may be empty."""

    name: str
    """Who the answer is spoken by."""
    role: str
    """What the speaker is, as in "As …, I think"."""
    convictions: tuple[str, ...]
    """What the speaker holds to."""
    opinions: tuple[tuple[str, str], ...]
    """What the speaker thinks, with what about."""
    topics: tuple[str, ...]
    """What is talked about: words that can follow "the"."""
    others: tuple[tuple[str, str], ...]
    """Who else spoke, and about what; the last one last."""
    words: tuple[int, int] | None
    """How many words are asked for, at least and at most; None: not said."""
    question: str
    """The last message that is not the speaker's own."""


def listen(messages: Sequence[Mapping[str, Any]]) -> Heard:
    """Picks up who speaks, about what, and with whom."""
    told = "\n".join(text_of(m) for m in messages if m.get("role") in ("system", "developer"))
    asked = [text_of(m) for m in messages if m.get("role") in ("user", "tool", "function")]
    question = asked[-1] if asked else told
    name = _find_name(told)
    others, rest = _split_speakers(question, name)
    topics = find_topics(rest) or find_topics("\n".join(asked)) or find_topics(told)
    opinions = tuple(
        (label.strip().lower(), _tidy(text)) for label, text in _OPINION.findall(told)[:50]
    )
    return Heard(
        name=name,
        role=_find_role(told),
        convictions=_find_convictions(told),
        opinions=_order_by_relevance(opinions, rest),
        topics=topics,
        others=others,
        words=_find_length(question) or _find_length(told),
        question=question,
    )


def text_of(message: Mapping[str, Any]) -> str:
    """Returns the text of a message, its parts joined, in its middle shortened if it is long."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        parts = [part for part in content if isinstance(part, Mapping)]
        content = "\n".join(str(part.get("text") or part.get("refusal") or "") for part in parts)
    if len(content) <= MOST_CHARACTERS:
        return content
    return content[: MOST_CHARACTERS // 2] + "\n" + content[-MOST_CHARACTERS // 2 :]


def find_words(text: str) -> list[str]:
    """Returns the words that carry meaning, in order, lower case."""
    lowered = (word.lower().replace("’", "'") for word in _WORD.findall(text))
    return [word for word in lowered if len(word) > 2 and word not in STOP_WORDS]


_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\s\w]|\d+|\n")
# Every repetition is bounded: on a long run of spaces or digits two open ones side by side
# would take time that grows with its square.
_PROPER = r"[A-Z][\w'’-]{0,40}(?:[ ][A-Z][\w'’-]{0,40}){0,3}"

_NAME = (
    re.compile(rf"\b[Yy]ou(?:r name is| are(?: now| playing| role-playing as)?) ({_PROPER})"),
    re.compile(rf"\b(?:[Nn]ame|NAME)\W{{1,6}}({_PROPER})"),
)
_ROLE = (
    re.compile(
        r"\b(?:work|job|occupation|profession)(?:[ _]?title)?\b[\"']?\s{0,8}:\s{0,8}[\"']?"
        r"([^\n.,;(\"]{3,80})",
        re.IGNORECASE,
    ),
    re.compile(r"\bYou are (?:[^\n.]{0,60}, )?an? ([^\n.,;(]{3,60})"),
    re.compile(r"\b[Yy]ou work as an? ([^\n.,;(]{3,60})"),
)
_CONVICTIONS = re.compile(
    r"\b(?:hold to|values?|believes? in|believe|principles|beliefs|care about)\b"
    r"[\"']?[ \t]{0,8}:?[ \t]{0,8}((?:\n[ \t]{0,8}[-*•] [^\n]+)+|\[[^\]]*\]|[^\n.]+)",
    re.IGNORECASE,
)
_OPINION = re.compile(r"^[ \t]{0,8}[-*•] {0,3}[Oo]n ([^:\n]{2,40}): ([^\n]{8,200})$", re.MULTILINE)
_SPEAKER = re.compile(
    r"^[ \t]{0,8}(\[[^\]\n]{0,40}\][ \t]{0,8})?(?:[-*•] {0,3})?"
    rf"\*{{0,2}}({_PROPER})\*{{0,2}}"
    r"((?: has)?(?: just)? (?:said|says|replied|answered|asked))?"
    r"( \(you\))? ?:\*{0,2}[ \t]{0,8}(\S.*)$",
    re.MULTILINE,
)
_FIRST_PERSON = re.compile(r"\b(?:I|I'm|I’m|me|my|we|our)\b")
_RANGE = re.compile(r"\b(\d{1,6}) ?(?:to|-|–|and) ?(\d{1,6}) words")
_MOST = re.compile(
    r"(?:at most|under|up to|no more than|fewer than|maximum of|within) (\d{1,6}) words"
)
_SENTENCES = re.compile(r"\b(one|two|three|four|five|[1-9]) (?:short |brief )?sentences?\b", re.I)
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_WORDS_IN_A_SENTENCE = 12


def _find_name(told: str) -> str:
    for pattern in _NAME:
        found = pattern.search(told)
        if found and found[1].split()[0].lower() not in STOP_WORDS:
            return found[1]
    return ""


def _find_role(told: str) -> str:
    for pattern in _ROLE:
        found = pattern.search(told)
        if found and find_words(found[1]):
            return _introduce(_tidy(found[1]))
    return ""


def _introduce(role: str) -> str:
    """Turns "plumber" into "a plumber", and "runs a shop" into "someone who runs a shop"."""
    first = role.split()[0]
    second = role.split()[1:2]
    if first.lower() in DETERMINERS:
        return role
    if re.fullmatch(r"[a-z]+[^s'’]s", first):
        return f"someone who {role}"
    if first.endswith("ed") and second and second[0] in STOP_WORDS:
        return f"someone {role}"
    return f"{'an' if first[0].lower() in 'aeiou' else 'a'} {role[0].lower()}{role[1:]}"


def _find_convictions(told: str) -> tuple[str, ...]:
    found = _CONVICTIONS.search(told)
    if not found:
        return ()
    separator = r"\n" if found[1].lstrip().startswith(("-", "*", "•")) else r"[,;\n]| and "
    items = (_tidy(item) for item in re.split(separator, found[1]))
    return tuple(item for item in items if find_words(item) and len(item) < 100)[:8]


def _order_by_relevance(
    opinions: tuple[tuple[str, str], ...], asked: str
) -> tuple[tuple[str, str], ...]:
    words = {stem(word) for word in find_words(asked)} if opinions else ()
    return tuple(
        opinion
        for opinion in opinions
        if any(stem(word) in words for word in find_words(opinion[0]))
    )


def stem(word: str) -> str:
    """Strips the commonest endings of English, so that "boxes" meets "box"."""
    for ending in ("ings", "ing", "ies", "es", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _split_speakers(text: str, name: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """Separates what others said from what is asked."""
    others: dict[str, str] = {}
    kept: list[str] = []
    end = 0
    for found in _SPEAKER.finditer(text):
        marker, speaker, verb, own, said = found.groups()
        if not marker and not verb and not _FIRST_PERSON.search(said):
            continue
        kept.append(text[end : found.start()])
        end = found.end()
        if not own and speaker != name:
            topics = find_topics(said)
            others.pop(speaker, None)
            others[speaker] = topics[0] if topics else ""
    kept.append(text[end:])
    return tuple(others.items()), "".join(kept)


def find_topics(text: str, most: int = 10) -> tuple[str, ...]:
    """Returns what the text is about: phrases after an article, the most frequent first."""
    statements = [part for part in _split_statements(text) if not _is_instruction(part)]
    phrases = _find_phrases(statements) or _find_phrases([text]) or _find_long_words(text)
    weights = Counter(find_words(text))
    first_seen = {phrase: index for index, phrase in reversed(list(enumerate(phrases)))}
    ranked = sorted(
        first_seen, key=lambda phrase: (-weights[phrase.split()[-1].lower()], first_seen[phrase])
    )
    return tuple(ranked[:most])


def _split_statements(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n", text) if part.strip()]


def _is_instruction(statement: str) -> bool:
    first = _WORD.search(statement)
    return statement.endswith("?") or first is None or first[0].lower() in INSTRUCTIONS


def _find_phrases(statements: Iterable[str]) -> list[str]:
    phrases = []
    for statement in statements:
        tokens = _TOKEN.findall(statement)
        for index, token in enumerate(tokens):
            if token.lower() in DETERMINERS:
                phrase = _take_phrase(tokens[index + 1 : index + 5])
                if phrase:
                    phrases.append(phrase)
    return phrases


def _take_phrase(tokens: Sequence[str]) -> str:
    """Returns up to two or three words that stand together before a stop word or a sign."""
    words: list[str] = []
    for token in tokens:
        if not _WORD.fullmatch(token) or token.lower() in STOP_WORDS or token.endswith("ly"):
            break
        words.append(token)
    words = words[:3] if len(words) <= 3 else words[:2]
    while len(words) > 1 and words[-1].endswith("ed"):
        words.pop()  # A verb, as in "the committee rejected".
    if not words or len(words[-1]) < 3 or any(word.lower() in FILLERS for word in words):
        return ""
    if len(words) == 1 and words[0].endswith(("ing", "ed")):
        return ""
    return " ".join(words)


def _find_long_words(text: str) -> list[str]:
    return [word for word in find_words(text) if 4 < len(word) < 16 and word not in FILLERS]


def _find_length(text: str) -> tuple[int, int] | None:
    if found := _RANGE.search(text):
        low, high = sorted((int(found[1]), int(found[2])))
        return low, high
    if found := _MOST.search(text):
        return 1, int(found[1])
    if found := _SENTENCES.search(text):
        count = _NUMBERS.get(found[1].lower()) or int(found[1])
        return (count - 1) * _WORDS_IN_A_SENTENCE + 1, count * _WORDS_IN_A_SENTENCE
    return None


def _tidy(text: str) -> str:
    return " ".join(text.split()).strip(" \"'`*•-[]{}.,;:“”")
