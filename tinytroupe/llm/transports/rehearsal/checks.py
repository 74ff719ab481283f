"""What a server demands of a request before it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tinytroupe.llm.messages import ROLES
from tinytroupe.llm.request import Kind
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.vectors import MOST_DIMENSIONS

MOST_CHOICES = 128
MOST_STOPS = 4
MOST_INPUTS = 2048


def check_body(kind: Kind, body: Any) -> dict[str, Any]:
    """Returns the body without its nulls, when it can be answered.

    Raises:
        Refusal: A part is missing, of a wrong type or out of its range.
    """
    if not isinstance(body, Mapping):
        raise Refusal("the body must be a JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal("a model must be named", param="model", code="missing_required_parameter")
    for name, (low, high) in _RANGES.items():
        _check_number(given, name, low, high)
    for name, least in _COUNTS.items():
        _check_count(given, name, least)
    _check_stop(given.get("stop"))
    if given.get("logprobs"):
        raise Refusal(
            "logprobs: the rehearsal has no log probabilities",
            code="unsupported_parameter",
            param="logprobs",
        )
    if "stream_options" in given and not given.get("stream"):
        raise Refusal("stream_options are given without stream", param="stream_options")
    _CHECKS[kind](given)
    return given


_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
_COUNTS = {"n": 1, "max_tokens": 0, "max_completion_tokens": 1, "dimensions": 1}


def _check_number(given: Mapping[str, Any], name: str, low: float, high: float) -> None:
    value = given.get(name, low)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refusal(f"{name} must be a number", code="invalid_type", param=name)
    if not low <= value <= high:
        raise Refusal(
            f"{name} is {value}; it must be from {low} to {high}",
            code="decimal_above_max_value" if value > high else "decimal_below_min_value",
            param=name,
        )


def _check_count(given: Mapping[str, Any], name: str, least: int) -> None:
    value = given.get(name, least)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refusal(f"{name} must be a whole number", code="invalid_type", param=name)
    most = {"n": MOST_CHOICES, "dimensions": MOST_DIMENSIONS}.get(name)
    if value < least or (most is not None and value > most):
        limit = f"from {least} to {most}" if most else f"at least {least}"
        raise Refusal(
            f"{name} is {value}; it must be {limit}",
            code="integer_below_min_value" if value < least else "integer_above_max_value",
            param=name,
        )


def _check_stop(stop: Any) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    if stops is None:
        return
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise Refusal("stop must be a text or a list of texts", code="invalid_type", param="stop")
    if len(stops) > MOST_STOPS:
        raise Refusal(f"stop has more than {MOST_STOPS} texts", param="stop")


def _check_chat(given: Mapping[str, Any]) -> None:
    messages = given.get("messages")
    if messages is None:
        raise Refusal("messages are missing", code="missing_required_parameter", param="messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(
            "messages must be a list that is not empty",
            code="empty_array" if messages == [] else "invalid_type",
            param="messages",
        )
    called: list[str] = []
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", called)
    _check_response_format(given)


def _check_message(message: Any, where: str, called: list[str]) -> None:
    if not isinstance(message, Mapping):
        raise Refusal(f"{where} must be an object", code="invalid_type", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise Refusal(
            f"{where} has the role {role!r}; it must be one of {', '.join(sorted(ROLES))}",
            code="invalid_value",
            param=f"{where}.role",
        )
    calls = _read_call_ids(message.get("tool_calls") or [], f"{where}.tool_calls")
    _check_content(message, bool(calls), where)
    if role == "tool" and message.get("tool_call_id") not in called:
        raise Refusal(
            f"{where} is a tool's result, but answers no tool call of an earlier message",
            param=f"{where}.role",
        )
    called += calls


def _check_content(message: Mapping[str, Any], calls_tools: bool, where: str) -> None:
    content = message.get("content")
    if content is None:
        if message["role"] == "assistant" and (calls_tools or message.get("function_call")):
            return
        raise Refusal(f"{where} has no content", code="invalid_type", param=f"{where}.content")
    parts = content if isinstance(content, list) else []
    if not isinstance(content, (str, list)) or not all(isinstance(p, Mapping) for p in parts):
        raise Refusal(
            f"{where} must have text or a list of parts as its content",
            code="invalid_type",
            param=f"{where}.content",
        )


def _read_call_ids(calls: Any, where: str) -> list[str]:
    listed = calls if isinstance(calls, list) else [calls]
    named = [call.get("id") for call in listed if isinstance(call, Mapping)]
    ids = [name for name in named if isinstance(name, str)]
    if len(ids) < len(listed):
        raise Refusal(f"{where} must be a list of calls, each with an id", param=where)
    return ids


def _check_response_format(given: Mapping[str, Any]) -> None:
    asked = given.get("response_format", {"type": "text"})
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise Refusal(
            "response_format must have the type text, json_object or json_schema",
            code="invalid_value",
            param="response_format.type",
        )
    if kind == "json_object" and "json" not in str(given["messages"]).lower():
        # OpenAI's and Azure's servers refuse this too; better found in the rehearsal.
        raise Refusal(
            "with response_format json_object a message must contain the word 'json'",
            param="messages",
        )
    if kind == "json_schema":
        described = asked.get("json_schema")
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if not isinstance(schema, Mapping) or not described.get("name"):
            raise Refusal(
                "response_format json_schema must have a name and a schema",
                code="missing_required_parameter",
                param="response_format.json_schema",
            )


def _check_completion(given: Mapping[str, Any]) -> None:
    prompt = given.get("prompt", "")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts:
        raise Refusal("prompt must be a text or a list of texts", param="prompt")
    if not all(isinstance(text, str) for text in prompts):
        raise Refusal("the rehearsal reads prompts as text, not as tokens", param="prompt")


def _check_embedding(given: Mapping[str, Any]) -> None:
    inputs = list_inputs(given.get("input"))
    if not inputs or len(inputs) > MOST_INPUTS or not all(inputs):
        raise Refusal(
            f"input must be a text that is not empty, or a list of 1 to {MOST_INPUTS} of them",
            param="input",
        )
    if not all(isinstance(text, str) or _are_tokens(text) for text in inputs):
        raise Refusal("input must be text, or lists of tokens", code="invalid_type", param="input")
    if given.get("encoding_format", "float") not in ("float", "base64"):
        raise Refusal("encoding_format must be float or base64", param="encoding_format")


def list_inputs(given: Any) -> list[Any]:
    """Returns the inputs to embed, each a text or a list of tokens."""
    if isinstance(given, list) and not _are_tokens(given):
        return given
    return [given]


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


_CHECKS: dict[Kind, Callable[[Mapping[str, Any]], None]] = {
    "chat": _check_chat,
    "completion": _check_completion,
    "embedding": _check_embedding,
}
