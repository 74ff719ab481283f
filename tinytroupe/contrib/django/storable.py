"""What every database can hold: of users, of variables, and of models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from tinytroupe.contrib.django.history import clean_text, is_unstorable
from tinytroupe.llm.errors import BadRequest


def check_said(message: object) -> None:
    """Refuses what is no message of a user.

    Raises:
        BadRequest: It is no text, an empty one, or one that cannot be stored.
    """
    if not isinstance(message, str) or not message.strip():
        raise BadRequest(f"a message must be a text that is not empty, not {message!r}"[:200])
    place = next((place for place, letter in enumerate(message) if is_unstorable(letter)), None)
    if place is not None:
        raise BadRequest(
            f"character {place} of the message, {message[place]!r}, cannot be stored by every "
            "database"
        )


def to_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables as JSON holds them: dates, decimals and UUIDs become texts.

    Raises:
        BadRequest: A variable has no JSON form, and the message names it; or they are no
            dictionary.
    """
    if not isinstance(values, Mapping):
        raise BadRequest(
            f"variables are given as a dictionary of names and values, not as {values!r}"[:200]
        )
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise BadRequest(f"the name of a variable is a text, not {name!r}")
        try:
            written = json.dumps(value, cls=DjangoJSONEncoder, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadRequest(f"the variable {name!r} cannot be stored: {error}") from error
        if "\\u0000" in written or "\\ud" in written:
            _check_letters(name, json.loads(written))
        plain[name] = json.loads(written)
    return plain


def _check_letters(name: str, value: Any) -> None:
    if isinstance(value, str) and any(map(is_unstorable, value)):
        raise BadRequest(f"the variable {name!r} holds a character that cannot be stored")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_letters(name, key)
            _check_letters(name, item)
    if isinstance(value, list):
        for item in value:
            _check_letters(name, item)


def clean_json(value: Any) -> Any:
    """Returns JSON with texts that every database can hold, in plain lists and dictionaries."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(key): clean_json(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [clean_json(item) for item in value]
    return value
