"""Tool calls: which tools are called, and with what."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.hearing import Heard, find_words, stem
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.schemas import write_value

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def choose_tools(body: Mapping[str, Any], heard: Heard) -> list[Mapping[str, Any]]:
    """Returns the functions to call, none where the answer is text.

    A named one is called. With `required`, those are called whose name or
    description shares a word with the last user message, or else the first.
    With `auto`, the same, but none where nothing is shared or where the last
    message is not a user's: a result of a tool is answered, not asked again.

    Raises:
        Refusal: A tool is not a function, or `tool_choice` fits none of them.
    """
    functions = _read_functions(body)
    choice = body.get("tool_choice", "auto" if functions else "none")
    if choice == "none":
        return []
    if not functions:
        raise Refusal("tool_choice is given without tools", param="tool_choice")
    if isinstance(choice, Mapping):
        return [_find_named(functions, choice)]
    if choice not in ("auto", "required"):
        raise Refusal(
            f"tool_choice is {choice!r}; it must be none, auto, required or a named function",
            code="invalid_value",
            param="tool_choice",
        )
    fitting = [function for function in functions if _shares_word(function, heard.question)]
    if choice == "auto" and body["messages"][-1].get("role") != "user":
        return []
    if choice == "required" and not fitting:
        fitting = functions[:1]
    return fitting if body.get("parallel_tool_calls", True) else fitting[:1]


def write_calls(
    functions: Sequence[Mapping[str, Any]], heard: Heard, draws: Draws
) -> list[dict[str, Any]]:
    """Writes the calls, with arguments that are valid under each function's schema.

    Raises:
        Refusal: A schema cannot be fulfilled.
    """
    calls = []
    for function in functions:
        arguments = write_value(function.get("parameters") or _NO_PARAMETERS, heard, draws)
        calls.append(
            {
                "id": f"call_{draws.below(1 << 60):015x}",
                "type": "function",
                "function": {
                    "name": function["name"],
                    "arguments": json.dumps(arguments, ensure_ascii=False),
                },
            }
        )
    return calls


def _read_functions(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "functions" in body or "function_call" in body:
        raise Refusal(
            "functions and function_call are the old form; give tools and tool_choice",
            code="unsupported_parameter",
            param="functions",
        )
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list) or not tools:
        raise Refusal("tools must be a list that is not empty", param="tools")
    return [_read_function(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def _read_function(tool: Any, where: str) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type") != "function":
        raise Refusal(
            f'{where} must be {{"type": "function", "function": {{"name": …}}}}', param=where
        )
    name = function.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise Refusal(
            f"{where} has the name {name!r}; a function's name has 1 to 64 letters, digits, "
            "underscores and dashes",
            param=f"{where}.function.name",
        )
    return function


def _find_named(
    functions: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]
) -> Mapping[str, Any]:
    named = choice.get("function")
    name = named.get("name") if isinstance(named, Mapping) else None
    for function in functions:
        if function["name"] == name:
            return function
    raise Refusal(f"tool_choice names {name!r}, which is none of the tools", param="tool_choice")


def _shares_word(function: Mapping[str, Any], question: str) -> bool:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]", " ", str(function["name"]))
    described = find_words(f"{name} {function.get('description') or ''}")
    return bool({stem(word) for word in described} & {stem(word) for word in find_words(question)})
