"""Answers in the shape of OpenAI's API, made from what other providers answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tinytroupe.llm.errors import MalformedResponse


def load_object(content: bytes) -> dict[str, Any]:
    """Reads a body as a JSON object.

    Raises:
        MalformedResponse: It is none.
    """
    excerpt = content[:1000].decode("utf-8", "replace")
    try:
        body = orjson.loads(content)
    except ValueError as error:
        raise MalformedResponse(
            "the body is not valid JSON; it may have been cut short, or a proxy answered",
            body=excerpt,
        ) from error
    if not isinstance(body, dict):
        raise MalformedResponse("the body is no JSON object", body=excerpt)
    return body


def make_tool_call(
    call_id: str, name: str, arguments: object, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns a tool call; its arguments become JSON text, and `extra` rides along.

    Arguments that are a text already are taken to be cut JSON and stay as they are.
    """
    written = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    function = {"name": name, "arguments": written}
    call: dict[str, Any] = {"id": call_id, "type": "function", "function": function}
    if extra:
        call["extra_content"] = extra
    return call


def make_choice(
    texts: Sequence[str],
    calls: Sequence[Mapping[str, Any]],
    finish_reason: str | None,
    extra: Mapping[str, Any],
    index: int = 0,
) -> dict[str, Any]:
    """Returns a choice.

    The content is None where there are no texts, save that an answer cut by
    its limit of tokens before its first word is an empty one.

    Args:
        texts: The pieces of the text.
        calls: From `make_tool_call`.
        finish_reason: In OpenAI's words.
        extra: What else the message carries.
        index: Which choice it is.
    """
    content = "".join(texts) if texts or finish_reason == "length" else None
    message: dict[str, Any] = {"role": "assistant", "content": content, **extra}
    if calls:
        message["tool_calls"] = list(calls)
    return {"index": index, "message": message, "finish_reason": finish_reason}


def make_usage(prompt: int, completion: int, *, cached: int, reasoning: int) -> dict[str, Any]:
    """Returns the usage; `prompt` includes what was cached, `completion` what was thought."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def write_chat(
    choices: Sequence[Mapping[str, Any]],
    usage: Mapping[str, Any] | None,
    *,
    answer_id: str,
    model: str,
    created: int,
) -> bytes:
    """Writes a chat answer.

    Args:
        choices: From `make_choice`.
        usage: From `make_usage`; None: the provider did not say.
        answer_id: The provider's name for the answer.
        model: As the provider named it.
        created: When it came, in seconds since 1970.
    """
    return orjson.dumps(
        {
            "id": answer_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": choices,
            "usage": usage,
        }
    )
