"""Conversations out of whatever people write them as: texts, messages, dictionaries, images."""

from __future__ import annotations

import base64
import mimetypes
import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from tinytroupe.llm.canonical import freeze_mapping
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.messages import Message, to_message

Content: TypeAlias = "str | Iterable[str | Mapping[str, Any]]"


class SystemMessage(Message):
    """What a model is told of its task."""

    __slots__ = ()

    def __init__(self, content: Content, **extra: Any) -> None:
        _fill(self, "system", content, extra)


class UserMessage(Message):
    """What a person says to a model."""

    __slots__ = ()

    def __init__(self, content: Content, **extra: Any) -> None:
        _fill(self, "user", content, extra)


class AssistantMessage(Message):
    """What a model said."""

    __slots__ = ()

    def __init__(self, content: Content, **extra: Any) -> None:
        _fill(self, "assistant", content, extra)


def _fill(message: Message, role: str, content: Content, extra: dict[str, Any]) -> None:
    shaped: Any = content if isinstance(content, str) else [_to_part(part) for part in content]
    Message.__init__(message, role, shaped, freeze_mapping(extra, "the message"))


def _to_part(part: object) -> object:
    return {"type": "text", "text": part} if isinstance(part, str) else part


def image_part(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns an image as a part of a message's content.

    Args:
        source: An address (`https://`, `data:`), or the path of a file, which is read.

    Raises:
        BadRequest: The file cannot be read, or its name does not say that it is an image.
    """
    url = os.fspath(source)
    if not url.lower().startswith(("http://", "https://", "data:")):
        kind = mimetypes.guess_type(url)[0] or ""
        if not kind.startswith("image/"):
            raise BadRequest(f"{url} is not called like an image")
        try:
            with open(url, "rb") as file:
                content = base64.b64encode(file.read()).decode()
        except OSError as error:
            raise BadRequest(f"the image {url} cannot be read: {error.strerror}") from error
        url = f"data:{kind};base64,{content}"
    return {"type": "image_url", "image_url": {"url": url}}


def format_messages(*given: object) -> list[Message]:
    """Puts texts, messages, dictionaries and lists of these into one conversation.

    A text is said by the user. None is passed over.

    Raises:
        BadRequest: Something is none of these.
    """
    messages: list[Message] = []
    for value in given:
        if value is None:
            continue
        if isinstance(value, Message):
            messages.append(value)
        elif isinstance(value, str):
            messages.append(Message("user", value))
        elif isinstance(value, Mapping):
            messages.append(_read_mapping(value, len(messages)))
        elif isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
            messages += format_messages(*value)
        else:
            raise BadRequest(
                f"message {len(messages)} is of type {type(value).__name__}; it must be a text, "
                "a message, or a dictionary with role and content"
            )
    return messages


def _read_mapping(value: Mapping[str, Any], index: int) -> Message:
    content = value.get("content")
    if isinstance(content, (list, tuple)):
        value = {**value, "content": [_to_part(part) for part in content]}
    return to_message(value, f"message {index}")
