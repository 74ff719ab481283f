"""Between requests and Anthropic's Messages API: pure functions, no SDK, no socket.

Source of the shapes: Anthropic's API reference, "Create a Message" and
"Streaming messages", version 2026-10-21.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.request import Request
from tinytroupe.llm.rules.capabilities import check_request
from tinytroupe.llm.transports.turns import (
    Image,
    Part,
    Text,
    Thinking,
    ToolCall,
    read_conversation,
)
from tinytroupe.llm.transports.wanted import (
    Tool,
    read_format,
    read_tool,
    read_tool_choice,
)

DEFAULT_MAX_TOKENS = 16_384
"""Sent where a request sets no limit, because the API demands one. Hidden thought counts too."""

SAMPLING_VERSION = "2023-06-01"
"""The last version of the API that takes `temperature`, `top_p` and `top_k`."""

TAKES_SAMPLING = re.compile(
    r"^claude-(instant|[123]\b|(opus|sonnet)-4(-[0-6])?(-\d{8}|-latest|$)"
    r"|haiku-4(-[0-5])?(-\d{8}|-latest|$))"
)
"""Models that can be told how freely to draw: Opus and Sonnet up to 4.6, Haiku up to 4.5."""

IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


@dataclass(frozen=True, slots=True)
class Question:
    """What the Messages API is asked."""

    body: dict[str, Any]
    version: str | None
    """The version of the API to ask for; None: the newest that the SDK knows."""


def write_question(request: Request) -> Question:
    """Says a chat request in the words of the Messages API.

    Raises:
        BadRequest: The request asks for what Anthropic lacks.
    """
    check_request("anthropic", request)
    conversation = read_conversation(request.messages)
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [
            {"role": turn.side, "content": _write_parts(turn.parts)} for turn in conversation.turns
        ],
    }
    system = [{"type": "text", "text": text} for text in conversation.system if text.strip()]
    if system:
        body["system"] = system
    _write_parameters(request, body)
    sampled = not _SAMPLING.isdisjoint(body)
    return Question(body, SAMPLING_VERSION if sampled else None)


def _write_parts(parts: Sequence[Part]) -> list[Any]:
    # The API refuses blocks of nothing but space, and turns without a block.
    written = [_write_part(part) for part in parts if not _is_blank(part)]
    if not written:
        raise BadRequest("a message has nothing but space in it, which Anthropic refuses")
    return written


def _is_blank(part: Part) -> bool:
    return isinstance(part, Text) and not part.text.strip()


def _write_part(part: Part) -> Any:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "image", "source": _write_image(part)}
    if isinstance(part, ToolCall):
        return {
            "type": "tool_use",
            "id": part.id,
            "name": part.name,
            "input": dict(part.arguments),
        }
    if isinstance(part, Thinking):
        return part.block
    content = [_write_part(inner) for inner in part.parts if not _is_blank(inner)]
    return {"type": "tool_result", "tool_use_id": part.id, "content": content}


def _write_image(image: Image) -> dict[str, str]:
    if image.url:
        return {"type": "url", "url": image.url}
    if image.media_type not in IMAGE_TYPES:
        raise BadRequest(
            f"Anthropic reads no images of type {image.media_type}, only {', '.join(IMAGE_TYPES)}"
        )
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


_SAMPLING = frozenset({"temperature", "top_p", "top_k"})

_NATIVE = frozenset(
    {
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "thinking",
    }
)
"""Parameters of Anthropic's own, sent as they are."""

_WITHOUT_EFFECT = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "safety_identifier",
        "store",
        "top_logprobs",
    }
)
"""Parameters whose harmless values are left out; `check_request` has refused the others."""


def _write_parameters(request: Request, body: dict[str, Any]) -> None:
    given = request.parameters
    output = {**cast("Mapping[str, Any]", given.get("output_config") or {})}
    for name, value in given.items():
        if name in _SAMPLING:
            _write_sampling(name, value, body)
        elif name in _WRITERS:
            _WRITERS[name](value, body)
        elif name == "reasoning_effort":
            _write_effort(value, output, body)
        elif name == "response_format":
            _write_format(value, output)
        elif name in _NATIVE:
            body[name] = value
        elif name not in _WITHOUT_EFFECT:
            raise BadRequest(_say_unknown(name), model=request.model)
    if output:
        body["output_config"] = output
    if given.get("parallel_tool_calls") is False and "tools" in body:
        choice = body.setdefault("tool_choice", {"type": "auto"})
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True


def _write_sampling(name: str, value: Any, body: dict[str, Any]) -> None:
    if name != "top_k" and value == 1:
        return  # What the API does by itself.
    model = body["model"]
    if model.startswith("claude-") and not TAKES_SAMPLING.match(model):
        raise BadRequest(
            f"{model} takes no {name}: Claude models since Opus 4.7 draw as they do; leave {name} "
            "out" + (" or set it to 1" if name != "top_k" else "")
        )
    if name == "temperature" and value > 1:
        raise BadRequest(f"temperature is {value}; Anthropic takes 0 to 1")
    body[name] = value


def _write_limit(value: Any, body: dict[str, Any]) -> None:
    body["max_tokens"] = value


def _write_stop(value: Any, body: dict[str, Any]) -> None:
    body["stop_sequences"] = [value] if isinstance(value, str) else list(value)


def _write_user(value: Any, body: dict[str, Any]) -> None:
    _write_metadata({"user_id": value}, body)


def _write_metadata(value: Any, body: dict[str, Any]) -> None:
    body["metadata"] = {**value, **body.get("metadata", {})}


def _write_tools(value: Any, body: dict[str, Any]) -> None:
    if value:
        body["tools"] = [_write_tool(read_tool(tool)) for tool in value]


def _write_tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "input_schema": tool.parameters}
    if tool.description:
        written["description"] = tool.description
    if tool.strict:
        written["strict"] = True
    return written


def _write_tool_choice(value: Any, body: dict[str, Any]) -> None:
    choice = read_tool_choice(value)
    body["tool_choice"] = (
        {"type": _CHOICES[choice.mode]}
        if choice.name is None
        else {"type": "tool", "name": choice.name}
    )


_CHOICES: Mapping[str, str] = {"auto": "auto", "required": "any", "none": "none"}


def _write_effort(value: Any, output: dict[str, Any], body: dict[str, Any]) -> None:
    if value == "none":
        body["thinking"] = {"type": "disabled"}
    else:
        output["effort"] = "low" if value == "minimal" else value


def _write_format(value: Any, output: dict[str, Any]) -> None:
    wanted = read_format(value)
    if wanted.schema is not None:
        output["format"] = {"type": "json_schema", "schema": wanted.schema}


_WRITERS: Mapping[str, Callable[[Any, dict[str, Any]], None]] = {
    "max_tokens": _write_limit,
    "max_completion_tokens": _write_limit,
    "stop": _write_stop,
    "user": _write_user,
    "metadata": _write_metadata,
    "tools": _write_tools,
    "tool_choice": _write_tool_choice,
}


def _say_unknown(name: str) -> str:
    known = (*_SAMPLING, *_WRITERS, *_NATIVE, "reasoning_effort", "response_format")
    near = difflib.get_close_matches(name, known, n=1)
    return f"Anthropic takes no parameter {name!r}" + (f"; did you mean {near[0]}?" if near else "")
