"""Taking in the answers that TinyTroupe itself kept, in its pickle.

TinyTroupe names an answer by `str((model, parameters))`, with the parameters
that its `send_message` was about to send. Here that text is read back, and the
call is made that `tinytroupe.openai_utils` makes of the same arguments, by the
same function, so that the same simulation finds its answers again.

Where the text leaves open how the call will be made, the answer is kept under
each way: messages as they are and without indent (TinyTroupe's first versions
did not remove it, this package does), and a limit of tokens under its old and
its new name (MAX_COMPLETION_TOKENS of config.ini is sent as `max_tokens` here,
an argument `max_completion_tokens` by its own name).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from tinytroupe.cli.intake import Intake
from tinytroupe.cli.tables import clean, count, cut, progress, say, say_json
from tinytroupe.llm.config.load import load_settings
from tinytroupe.llm.config.settings import Settings
from tinytroupe.llm.config.table import SETTINGS
from tinytroupe.llm.errors import LLMError, MalformedResponse, StoreError
from tinytroupe.llm.request import Request
from tinytroupe.llm.response import parse_response
from tinytroupe.llm.rules.parameters import adapt_request
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.literals import NoLiteral, parse_literal
from tinytroupe.llm.store.pickles import Unreadable, iter_answers
from tinytroupe.llm.talk.call import SAMPLING, make_call

_AMISS = 1
_MOST_SHOWN = 5
_KEY_EXCERPT = 120

_NOT_SENT = ("model", "engine", "messages", "stream", "timeout", "drop_params", "reasoning_effort")
"""What may stand in a key and is no argument of `send_message`: the client's own business, or
taken from config.ini by TinyTroupe in some versions, after a first attempt had failed."""


class Untranslatable(Exception):
    """A key or an answer of TinyTroupe has no counterpart; the message says why."""


@dataclass(slots=True)
class Report:
    """What became of the entries of a pickle."""

    entries: int = 0
    imported: int = 0
    already_there: int = 0
    other_kept: int = 0
    untranslated: list[dict[str, Any]] = field(default_factory=list)
    asked: dict[str, Counter[Any]] = field(default_factory=dict)
    """Setting → its values in the entries, and how often."""


def import_pickle(args: argparse.Namespace, intake: Intake) -> int:
    """Takes in the answers of a pickle. Exit code 1: some could not be translated.

    Raises:
        StoreError: It cannot be read, is damaged, or holds what no cache of
            TinyTroupe holds; or the store cannot be written.
    """
    settings = load_settings()
    report = Report()
    for key, answer in _read_pickle(args.file):
        report.entries += 1
        try:
            entries = translate(key, answer, settings, report)
        except Untranslatable as reason:
            excerpt = cut(clean(key), _KEY_EXCERPT)
            report.untranslated.append(
                {"entry": report.entries, "reason": str(reason), "key": excerpt}
            )
            continue
        made_at = _find_time(answer)
        fates = {intake.take(name, entry, made_at) for name, entry in entries}
        report.imported += "new" in fates
        report.other_kept += "other" in fates
        report.already_there += fates == {"same"}
    differences = list(_compare(report, settings))
    if args.json:
        say_json(
            {
                "entries": report.entries,
                "imported": report.imported,
                "already_there": report.already_there,
                "other_answer_kept": report.other_kept,
                "not_translated": report.untranslated,
                "settings": differences,
            }
        )
    else:
        _show_report(report, differences)
    return _AMISS if report.untranslated else 0


def _read_pickle(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise StoreError(f"{path} is empty")
    done = 0
    try:
        with progress("Reading", len(content)) as advance:

            def note(place: int) -> None:
                nonlocal done
                advance(place - done)
                done = place

            yield from iter_answers(content, note)
    except StoreError as error:
        raise StoreError(f"{path}: {error.message}") from error


def _find_time(answer: Any) -> float | None:
    """Returns when an answer was made, in seconds since 1970, as far as the endpoint told."""
    created = answer.get("created") if isinstance(answer, dict) else None
    return float(created) if type(created) is int and 0 < created < time.time() else None


def translate(
    key: str, answer: Any, settings: Settings, report: Report | None = None
) -> list[tuple[str, Entry]]:
    """Returns the entries that one answer of TinyTroupe becomes, with their keys.

    Args:
        key: TinyTroupe's name for it.
        answer: What it kept, as plain data, or why that could not be read.
        settings: Those of the simulation.
        report: Is told which settings the answer was asked for with.

    Raises:
        Untranslatable: There is no counterpart.
    """
    model, parameters = parse_key(key)
    if isinstance(answer, Unreadable):
        raise Untranslatable(str(answer))
    content = write_answer(answer, model)
    try:
        response = parse_response("chat", content)
    except MalformedResponse as error:
        raise Untranslatable(f"the answer is none: {error.message}") from error
    if response.filtered:
        raise Untranslatable("the content filter withheld the answer; such ones are not kept")
    requests = make_requests(model, parameters, settings)
    if report is not None:
        _note_settings(report, model, parameters, next(iter(requests.values())))
    record = response.to_record()
    return [(digest, Entry(record, request.body)) for digest, request in requests.items()]


def parse_key(key: str) -> tuple[str, dict[str, Any]]:
    """Returns the model and the parameters that a key of TinyTroupe stands for.

    Raises:
        Untranslatable: It is not such a key, or holds more than plain data.
    """
    try:
        parsed = parse_literal(key)
    except NoLiteral as reason:
        raise Untranslatable(f"the key cannot be read: {reason}") from None
    match parsed:
        case (str(model), dict(parameters)) if isinstance(parameters.get("messages"), list):
            pass
        case _:
            raise Untranslatable("the key is not TinyTroupe's (model, parameters)")
    if parameters.get("stream"):
        raise Untranslatable("it was asked for as a stream, which has no whole answer")
    if parameters.get("model", model) != model:
        raise Untranslatable("the key names two models")
    return model, parameters


def write_answer(answer: Any, model: str) -> bytes:
    """Returns an answer of TinyTroupe in the shape of OpenAI's API.

    Raises:
        Untranslatable: It is neither a whole answer nor a message.
    """
    if isinstance(answer, dict) and "choices" not in answer and "content" in answer:
        # Some versions kept the message alone. What else the endpoint said is lost.
        message = {"role": "assistant", **answer}
        choice = {"index": 0, "message": message, "finish_reason": None}
        answer = {"object": "chat.completion", "model": model, "choices": [choice]}
    if not isinstance(answer, dict) or "choices" not in answer:
        kind = "nothing" if answer is None else f"a {type(answer).__name__}, not a message"
        raise Untranslatable(f"the answer is {kind}")
    try:
        return orjson.dumps(answer)
    except TypeError as error:
        raise Untranslatable(f"the answer has no form in JSON: {error}") from None


def make_requests(
    model: str, parameters: Mapping[str, Any], settings: Settings
) -> dict[str, Request]:
    """Returns the requests as which the question may be asked again, by their digests.

    Raises:
        Untranslatable: It cannot be asked.
    """
    arguments = {name: value for name, value in parameters.items() if name not in _NOT_SENT}
    if isinstance(options := arguments.pop("options", None), dict):
        # TinyTroupe's client for Ollama, which sends no limit of tokens.
        arguments.update({name: value for name, value in options.items() if name != "num_ctx"})
        arguments["max_tokens"] = settings.max_tokens
    spellings = [arguments]
    if "max_completion_tokens" in arguments:
        renamed = {**arguments, "max_tokens": arguments["max_completion_tokens"]}
        del renamed["max_completion_tokens"]
        spellings.append(renamed)
    # What is not in the key was not sent; the settings of today must not fill it in.
    bare = replace(
        settings,
        temperature=None,
        max_tokens=None,
        top_p=None,
        frequency_penalty=None,
        presence_penalty=None,
    )
    requests: dict[str, Request] = {}
    try:
        for spelling in spellings:
            for dedent in (True, False):
                given = {**spelling, "model": model, "dedent_messages": dedent}
                call = make_call(parameters["messages"], given, bare)
                request, _ = adapt_request(call.request)
                requests.setdefault(request.digest, request)
    except LLMError as error:
        raise Untranslatable(f"the question cannot be asked: {error.message}") from error
    return requests


def _note_settings(
    report: Report, model: str, parameters: Mapping[str, Any], request: Request
) -> None:
    sent = request.parameters
    values: dict[str, Any] = {"model": model}
    for name in SAMPLING:
        if name == "max_tokens":
            values[name] = sent.get(name, sent.get("max_completion_tokens"))
        elif name in sent or parameters.get(name) is None:
            values[name] = sent.get(name)
        # Else the model does not take the parameter, whatever the settings say.
    for name, value in values.items():
        report.asked.setdefault(name, Counter())[value] += 1


def _compare(report: Report, settings: Settings) -> Iterator[dict[str, Any]]:
    """Yields the settings with which no entry was asked for."""
    for name, values in report.asked.items():
        now = getattr(settings, name)
        if now not in values:
            ((then, number),) = values.most_common(1)
            key = SETTINGS[name].key
            yield {"setting": key, "now": now, "then": then, "entries": number}


def _show_report(report: Report, differences: list[dict[str, Any]]) -> None:
    say(
        f"{count(report.entries, 'answer')} of TinyTroupe: {report.imported:,} came in, "
        f"{report.already_there:,} were there already, {report.other_kept:,} were answered "
        f"otherwise here, {len(report.untranslated):,} could not be translated"
    )
    reasons = Counter(entry["reason"] for entry in report.untranslated)
    for reason, number in reasons.most_common(_MOST_SHOWN):
        first = next(entry for entry in report.untranslated if entry["reason"] == reason)
        say(f"  {number:,}: {clean(reason)}")
        say(f"    the first is entry {first['entry']:,}: {first['key']}")
    if len(reasons) > _MOST_SHOWN:
        say(f"  and {len(reasons) - _MOST_SHOWN:,} more reasons (--json lists all)")
    if differences:
        say("They are found again by a simulation with the settings they were asked with:")
    for one in differences:
        then = "" if one["then"] is None else one["then"]
        now = "empty" if one["now"] is None else one["now"]
        say(f"  {one['setting']}={then} in {one['entries']:,} of them; now it is {now}")
