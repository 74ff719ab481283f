"""Answers without a model, in the shape of OpenAI's API. Pure: no clock, no socket, no chance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tinytroupe.llm import canonical
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.request import Kind
from tinytroupe.llm.rules.tokens import count_messages, count_text
from tinytroupe.llm.transports.rehearsal.calls import choose_tools, write_calls
from tinytroupe.llm.transports.rehearsal.checks import check_body, list_inputs
from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.hearing import Heard, listen
from tinytroupe.llm.transports.rehearsal.objects import write_object
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.schemas import write_value
from tinytroupe.llm.transports.rehearsal.speech import speak
from tinytroupe.llm.transports.rehearsal.vectors import (
    DEFAULT_DIMENSIONS,
    DIMENSIONS,
    embed,
    encode_base64,
)

CREATED = 1_735_689_600
"""What every answer gives as its time, 2025-01-01: the same request gets the same bytes."""
COMPLETION_TOKENS = 16
"""What OpenAI's completions write where `max_tokens` is not given."""

_NOT_ASKED = frozenset(
    {"stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "encoding_format"}
)
"""What says how an answer travels or where it ends, and so must not change its words."""


def answer(
    kind: Kind, body: Any, *, seed: int = 0, variation: int = 0, draw: str = ""
) -> dict[str, Any]:
    """Answers a request. The same arguments give the same answer.

    Args:
        kind: What is asked for.
        body: The parsed body of the request.
        seed: Another seed gives another answer to everything.
        variation: Another variation gives another answer to the same request.
        draw: So does another draw; variations are counted within it.

    Raises:
        Refusal: A real server would not answer this either, or the rehearsal cannot.
    """
    given = check_body(kind, body)
    asked = {name: value for name, value in given.items() if name not in _NOT_ASKED}
    try:
        return _ANSWERS[kind](given, canonical.encode([kind, seed, draw, asked]), variation)
    except BadRequest as error:
        raise Refusal(error.message) from error


def count_tokens(text: str, model: str) -> int:
    """Counts the tokens of a text, exactly where the model's encoding is known."""
    return count_text(text, model).tokens


def cut(text: str, most_tokens: int | None, model: str) -> tuple[str, int, bool]:
    """Returns as much of a text as so many tokens hold, their number, and whether it was cut."""
    tokens = count_tokens(text, model)
    if most_tokens is None or tokens <= most_tokens:
        return text, tokens, False
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        if count_tokens(text[:middle], model) <= most_tokens:
            low = middle
        else:
            high = middle
    return text[:low], count_tokens(text[:low], model), True


def _answer_chat(given: dict[str, Any], root: bytes, variation: int) -> dict[str, Any]:
    heard = listen(given["messages"])
    choices, output_tokens = [], 0
    count = given.get("n", 1)
    for index in range(count):
        choice, tokens = _write_choice(given, heard, root, variation * count + index)
        choices.append({"index": index, **choice})
        output_tokens += tokens
    counted = count_messages(given["messages"], given["model"], tools=given.get("tools"))
    return {
        "id": f"chatcmpl-{Draws(root, variation).below(1 << 60):015x}",
        "object": "chat.completion",
        "created": CREATED,
        "model": given["model"],
        "choices": choices,
        "usage": _describe_usage(counted.tokens, output_tokens),
        "service_tier": "default",
        "system_fingerprint": "fp_rehearsal",
    }


def _write_choice(
    given: dict[str, Any], heard: Heard, root: bytes, turn: int
) -> tuple[dict[str, Any], int]:
    draws = Draws(root, turn)
    functions = choose_tools(given, heard)
    if functions:
        calls = write_calls(functions, heard, draws)
        message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": calls}
        named = isinstance(given.get("tool_choice"), Mapping)
        reason = "stop" if named else "tool_calls"
        tokens = sum(_count_call(call, given["model"]) for call in calls)
    else:
        content = _write_content(given, heard, root, draws, turn)
        content = _stop_at(content, given.get("stop"))
        most = given.get("max_completion_tokens", given.get("max_tokens"))
        content, tokens, was_cut = cut(content, most, given["model"])
        message = {"role": "assistant", "content": content}
        reason = "length" if was_cut else "stop"
    message = {**message, "refusal": None, "annotations": []}
    return {"message": message, "logprobs": None, "finish_reason": reason}, tokens


def _write_content(
    given: dict[str, Any], heard: Heard, root: bytes, draws: Draws, turn: int
) -> str:
    asked = given.get("response_format", {"type": "text"})
    if asked["type"] == "text":
        return speak(heard, Draws(root), turn)
    if asked["type"] == "json_object":
        value = write_object(given["messages"], heard, draws)
    else:
        value = write_value(asked["json_schema"]["schema"], heard, draws)
    return json.dumps(value, ensure_ascii=False)


def _count_call(call: Mapping[str, Any], model: str) -> int:
    function = call["function"]
    return count_tokens(function["name"], model) + count_tokens(function["arguments"], model)


def _stop_at(text: str, stop: str | list[str] | None) -> str:
    """Ends a text before the first stop text that occurs in it."""
    stops = [stop] if isinstance(stop, str) else stop or []
    places = [text.find(word) for word in stops if word and word in text]
    return text[: min(places)] if places else text


def _answer_completion(given: dict[str, Any], root: bytes, variation: int) -> dict[str, Any]:
    prompt = given.get("prompt", "")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    model, count = given["model"], given.get("n", 1)
    choices: list[dict[str, Any]] = []
    output_tokens = 0
    for place, text in enumerate(prompts):
        heard = listen([{"role": "user", "content": text}])
        for index in range(count):
            said = speak(heard, Draws(root, place), variation * count + index)
            said = _stop_at(said, given.get("stop"))
            said, tokens, was_cut = cut(said, given.get("max_tokens", COMPLETION_TOKENS), model)
            output_tokens += tokens
            choices.append(
                {
                    "index": len(choices),
                    "text": text + said if given.get("echo") else said,
                    "logprobs": None,
                    "finish_reason": "length" if was_cut else "stop",
                }
            )
    return {
        "id": f"cmpl-{Draws(root, variation).below(1 << 60):015x}",
        "object": "text_completion",
        "created": CREATED,
        "model": model,
        "choices": choices,
        "usage": _describe_usage(sum(count_tokens(p, model) for p in prompts), output_tokens),
        "system_fingerprint": "fp_rehearsal",
    }


def _answer_embedding(given: dict[str, Any], root: bytes, variation: int) -> dict[str, Any]:
    model = given["model"]
    dimensions = given.get("dimensions", DIMENSIONS.get(model, DEFAULT_DIMENSIONS))
    inputs = list_inputs(given["input"])
    vectors = [embed(text, dimensions) for text in inputs]
    as_base64 = given.get("encoding_format") == "base64"
    tokens = sum(
        count_tokens(text, model) if isinstance(text, str) else len(text) for text in inputs
    )
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": encode_base64(vector) if as_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


_ANSWERS: dict[Kind, Callable[[dict[str, Any], bytes, int], dict[str, Any]]] = {
    "chat": _answer_chat,
    "completion": _answer_completion,
    "embedding": _answer_embedding,
}


def _describe_usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
