"""Talk without a model: readable sentences made of words from the prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.hearing import Heard
from tinytroupe.llm.transports.rehearsal.vocabulary import (
    BARE_OPENINGS,
    BARE_THOUGHTS,
    CLOSINGS,
    CONVICTIONS,
    OPENINGS,
    OPINIONS,
    REACTIONS,
    REASONS,
    THOUGHTS,
)

DEFAULT_WORDS = (18, 45)
MOST_WORDS = 2_000
MOST_SPOKEN_TOPICS = 6


def speak(heard: Heard, draws: Draws, turn: int = 0) -> str:
    """Writes an answer.

    Args:
        heard: What the prompt offered.
        draws: Makes the choices; give equal ones for the turns of one request.
        turn: Which answer to the same request this is, from 0. The first
            sentences of as many turns as there are openings all differ.
    """
    start = draws.below(1 << 30)
    return _answer_shortly(heard, start + turn) or _talk(heard, start, turn)


def _talk(heard: Heard, start: int, turn: int) -> str:
    draws = Draws(start, turn)
    low, high = heard.words or DEFAULT_WORDS
    low, high = min(low, MOST_WORDS), min(high, MOST_WORDS)
    aim = draws.between(low, max(low, (low + high) // 2))
    sentences = [_open(heard, start + turn)]
    closing = draws.pick(CLOSINGS)
    count, left = _count_words(sentences[0]), _count_words(closing)
    for sentence in _go_on(heard, draws, sentences[0]):
        longer = count + _count_words(sentence)
        if longer + left > high or (len(sentences) > 1 and count + left >= aim):
            break
        sentences.append(sentence)
        count = longer
    if count + left <= high:
        sentences.append(closing)
    text = " ".join(sentences).replace("?.", "?").replace("!.", "!")
    return text if count <= high else _shorten(text, high)


def write_phrase(heard: Heard, draws: Draws) -> str:
    """Writes a word or a few, for a name, a title or a key."""
    return draws.pick(heard.topics) if heard.topics else draws.pick(_PHRASES)


_PHRASES = ("a first idea", "a plain answer", "a second look", "the short list", "a fair trade")


def write_sentences(heard: Heard, draws: Draws, count: int) -> str:
    """Writes so many sentences."""
    sentences = [_open(heard, draws.below(1 << 30))]
    for sentence in _go_on(heard, draws, sentences[0]):
        if len(sentences) >= count:
            break
        sentences.append(sentence)
    return " ".join(sentences[:count])


def _answer_shortly(heard: Heard, number: int) -> str:
    """Answers with a number or with yes or no where the question asks for that alone."""
    question = heard.question[-600:]
    scale = _SCALE.search(question)
    if scale and _ALONE.search(question):
        low, high = sorted((int(scale[1]), int(scale[2])))
        return str(low + number % (high - low + 1))
    if _YES_OR_NO.search(question) and _ALONE.search(question):
        return ("Yes.", "No.")[number % 2]
    return ""


_SCALE = re.compile(r"\b(?:from|of|between) (\d{1,6}) (?:to|and) (\d{1,6})\b")
_ALONE = re.compile(
    r"\b(?:only|just|single word|one word|single number|nothing else|answer yes or no)\b", re.I
)
_YES_OR_NO = re.compile(r"\byes[\"']? or [\"']?no\b", re.IGNORECASE)


def _open(heard: Heard, number: int) -> str:
    topics = heard.topics[:MOST_SPOKEN_TOPICS]
    if not topics:
        return BARE_OPENINGS[number % len(BARE_OPENINGS)]
    # 11 openings and at most 6 topics: consecutive numbers give other sentences.
    opening = OPENINGS[number % len(OPENINGS)]
    return opening.format(topic=topics[number % len(topics)])


def _go_on(heard: Heard, draws: Draws, opening: str) -> Iterator[str]:
    """Yields further sentences, each different: first those that belong to this speaker."""
    topics = [t for t in draws.shuffle(heard.topics) if t not in opening] or list(heard.topics)
    yield from _react(heard, draws, topics)
    yield from draws.shuffle(list(_speak_as_oneself(heard, draws, topics)))
    thoughts = draws.shuffle(THOUGHTS) if topics else draws.shuffle(BARE_THOUGHTS)
    for round_number in range(MOST_WORDS):
        for index, thought in enumerate(thoughts):
            topic = topics[(index + round_number + 1) % len(topics)] if topics else ""
            yield thought.format(topic=topic)


def _react(heard: Heard, draws: Draws, topics: list[str]) -> Iterator[str]:
    if heard.others:
        other, about = draws.pick(heard.others[-4:])
        about = about or (topics[0] if topics else "whole idea")
        yield draws.pick(REACTIONS).format(other=other.split()[0], about=about)


def _speak_as_oneself(heard: Heard, draws: Draws, topics: list[str]) -> Iterator[str]:
    if heard.role and topics:
        yield draws.pick(REASONS).format(role=heard.role, topic=topics[-1])
    if heard.convictions:
        conviction = draws.pick(heard.convictions)
        yield draws.pick(CONVICTIONS).format(conviction=_uncapitalise(conviction))
    if heard.opinions:
        about, opinion = draws.pick(heard.opinions)
        yield draws.pick(OPINIONS).format(about=about, opinion=_uncapitalise(opinion))


def _uncapitalise(text: str) -> str:
    first, _, rest = text.partition(" ")
    if first in ("I", "I'm", "I've", "I'd", "I'll") or first[1:] != first[1:].lower():
        return text
    return f"{first.lower()} {rest}" if rest else text


def _count_words(text: str) -> int:
    return len(text.split())


def _shorten(text: str, words: int) -> str:
    return " ".join(text.split()[:words]).rstrip(" ,;:.") + "."
