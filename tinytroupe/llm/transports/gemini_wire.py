"""Between requests and Gemini's API: pure functions, no SDK, no socket.

Source of the shapes: Google's API reference, `models.generateContent`, and the
guides "Function calling", "Structured output", "Thinking" and "Thought signatures".
"""

from __future__ import annotations

import difflib
import mimetypes
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.request import Request
from tinytroupe.llm.rules.capabilities import check_request
from tinytroupe.llm.transports.turns import (
    Image,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
    read_conversation,
)
from tinytroupe.llm.transports.wanted import (
    Tool,
    read_format,
    read_tool,
    read_tool_choice,
)

NEEDS_NO_SIGNATURE = "skip_thought_signature_validator"
"""What Google documents as the signature of a tool call that its API did not make. Gemini 3 and
later refuse tool calls without one; earlier models pay no heed to it."""

OPENING = Turn("user", (Text("…"),))
"""What the user is made to say where the assistant speaks first, which the API does not take."""

_MODEL = re.compile(r"(?!.*\.\.)[\w.-]+(/[\w.-]+)*")
_THINKS_BY_BUDGET = re.compile(r"^(models/)?gemini-2\.5")
_BUDGETS: Mapping[str, int] = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24576,
}
"""`reasoning_effort` → `thinkingBudget` of Gemini 2.5, as Google's OpenAI-compatible API has it."""

_LEVELS: Mapping[str, str] = {
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
}
"""`reasoning_effort` → `thinkingLevel` of Gemini 3 and later."""


@dataclass(frozen=True, slots=True)
class Question:
    """What Gemini's API is asked."""

    model: str
    body: dict[str, Any]
    """Of `generateContent`; empty for embeddings."""
    texts: tuple[str, ...] = ()
    """To embed; empty for a chat."""
    config: Mapping[str, Any] | None = None
    """How to embed: arguments of the SDK's `EmbedContentConfig`."""


def write_question(request: Request) -> Question:
    """Says a request in the words of Gemini's API.

    Raises:
        BadRequest: The request asks for what Gemini lacks.
    """
    check_request("gemini", request)
    if not _MODEL.fullmatch(request.model):
        raise BadRequest(f"{request.model!r} cannot be the name of a model of Gemini's")
    if request.kind == "embedding":
        config = dict(_read_embedding_parameters(request))
        return Question(request.model, {}, request.texts, config)
    conversation = read_conversation(request.messages)
    turns = conversation.turns
    if turns[0].side == "assistant":
        turns = (OPENING, *turns)
    body: dict[str, Any] = {"contents": [_write_turn(turn) for turn in turns]}
    if conversation.system:
        body["systemInstruction"] = {"parts": [{"text": text} for text in conversation.system]}
    settings: dict[str, Any] = {}
    for name, value in request.parameters.items():
        _write_parameter(name, value, body, settings, request.model)
    _validate_calls(request, body)
    if settings:
        body["generationConfig"] = settings
    return Question(request.model, body)


def _read_embedding_parameters(request: Request) -> Iterator[tuple[str, Any]]:
    for name, value in request.parameters.items():
        if name == "dimensions":
            yield "output_dimensionality", value
        elif name in ("task_type", "title"):
            yield name, value
        elif name != "user" and (name, value) != ("encoding_format", "float"):
            raise BadRequest(f"Gemini's embeddings take no {name} = {value!r}", model=request.model)


def _write_turn(turn: Turn) -> dict[str, Any]:
    role = "model" if turn.side == "assistant" else "user"
    return {"role": role, "parts": list(_write_parts(turn.parts))}


def _write_parts(parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    calls = 0
    for part in parts:
        if isinstance(part, ToolCall):
            yield _write_call(part, first=calls == 0)
            calls += 1
        elif isinstance(part, ToolResult):
            yield _write_result(part)
        elif not isinstance(part, Thinking):  # another provider's, which only it can read
            yield _write_part(part)


def _write_part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    if part.data:
        return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
    data = {"fileUri": part.url}
    guessed, _ = mimetypes.guess_type(urlsplit(part.url).path)
    if guessed:
        data["mimeType"] = guessed
    return {"fileData": data}


def _write_call(call: ToolCall, *, first: bool) -> dict[str, Any]:
    written: dict[str, Any] = {
        "functionCall": {"id": call.id, "name": call.name, "args": call.arguments}
    }
    google = call.extra.get("google")
    signature = google.get("thought_signature") if isinstance(google, Mapping) else None
    # Of several calls at once, the API signs the first and asks only for that one's signature.
    if signature or first:
        written["thoughtSignature"] = signature or NEEDS_NO_SIGNATURE
    return written


def _write_result(result: ToolResult) -> dict[str, Any]:
    if not result.name:
        raise BadRequest(
            f"a tool message answers the call {result.id!r}, which is not among the calls before it"
        )
    texts = []
    for part in result.parts:
        if isinstance(part, Image):
            raise BadRequest("Gemini takes no images in the results of tools")
        texts.append(part.text)
    return {
        "functionResponse": {
            "id": result.id,
            "name": result.name,
            "response": {"output": "\n".join(texts)},
        }
    }


_SETTINGS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "max_tokens": "maxOutputTokens",
    "max_completion_tokens": "maxOutputTokens",
    "n": "candidateCount",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
    "thinking_config": "thinkingConfig",
    "media_resolution": "mediaResolution",
}
"""Parameter → where it goes in `generationConfig`, as it is."""

_OF_THE_BODY: Mapping[str, str] = {
    "safety_settings": "safetySettings",
    "cached_content": "cachedContent",
}
"""Parameters of Google's own, sent as they are, and where they go in the body."""

_NOTHING_ASKED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
}
"""Values that ask for what happens anyway; models that lack the parameter refuse even these."""

_WITHOUT_EFFECT = frozenset(
    {"logit_bias", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "store", "user"}
)
"""Left out: they do not bear on the answer, or `check_request` has refused what would."""


def _write_parameter(
    name: str, value: Any, body: dict[str, Any], settings: dict[str, Any], model: str
) -> None:
    if name in _SETTINGS:
        if value not in _NOTHING_ASKED.get(name, ()):
            settings[_SETTINGS[name]] = value
    elif name == "reasoning_effort":
        settings["thinkingConfig"] = _write_effort(value, model)
    elif name in _WRITERS:
        _WRITERS[name](value, body, settings)
    elif name in _OF_THE_BODY:
        body[_OF_THE_BODY[name]] = value
    elif name not in _WITHOUT_EFFECT:
        known = (*_SETTINGS, *_WRITERS, *_OF_THE_BODY, "reasoning_effort")
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        raise BadRequest(f"Gemini takes no parameter {name!r}{advice}", model=model)


def _write_effort(value: Any, model: str) -> dict[str, Any]:
    by_budget = _THINKS_BY_BUDGET.match(model) is not None
    known: Mapping[str, int | str] = _BUDGETS if by_budget else _LEVELS
    if value not in known:
        raise BadRequest(
            f"{model} takes no reasoning_effort {value!r}; it takes {', '.join(known)}", model=model
        )
    return {"thinkingBudget" if by_budget else "thinkingLevel": known[value]}


def _write_stop(value: Any, body: dict[str, Any], settings: dict[str, Any]) -> None:
    settings["stopSequences"] = [value] if isinstance(value, str) else list(value)


def _write_format(value: Any, body: dict[str, Any], settings: dict[str, Any]) -> None:
    wanted = read_format(value)
    if wanted.json:
        settings["responseMimeType"] = "application/json"
    if wanted.schema is not None:
        settings["responseJsonSchema"] = wanted.schema


def _write_tools(value: Any, body: dict[str, Any], settings: dict[str, Any]) -> None:
    if value:
        body["tools"] = [{"functionDeclarations": [_write_tool(read_tool(tool)) for tool in value]}]


def _write_tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "parametersJsonSchema": tool.parameters}
    if tool.description:
        written["description"] = tool.description
    return written


def _write_tool_choice(value: Any, body: dict[str, Any], settings: dict[str, Any]) -> None:
    choice = read_tool_choice(value)
    config: dict[str, Any] = {"mode": _MODES[choice.mode]}
    if choice.name is not None:
        config["allowedFunctionNames"] = [choice.name]
    body["toolConfig"] = {"functionCallingConfig": config}


_MODES: Mapping[str, str] = {"auto": "AUTO", "required": "ANY", "none": "NONE"}

_WRITERS: Mapping[str, Callable[[Any, dict[str, Any], dict[str, Any]], None]] = {
    "stop": _write_stop,
    "response_format": _write_format,
    "tools": _write_tools,
    "tool_choice": _write_tool_choice,
}


def _validate_calls(request: Request, body: dict[str, Any]) -> None:
    """Asks for calls that follow their schema, where OpenAI's `strict` does and Gemini may not."""
    tools: Any = request.parameters.get("tools") or ()
    config = body.get("toolConfig", {"functionCallingConfig": {"mode": "AUTO"}})
    if config["functionCallingConfig"]["mode"] == "AUTO" and any(
        read_tool(tool).strict for tool in tools
    ):
        body["toolConfig"] = {"functionCallingConfig": {"mode": "VALIDATED"}}
