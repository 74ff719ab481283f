"""The names that may stand in a pickle of answers; every other one is refused."""

from __future__ import annotations

_CHAT = "openai.types.chat."
CLASSES: dict[str, frozenset[str]] = {
    "openai.types.completion_usage": frozenset(
        {"CompletionUsage", "CompletionTokensDetails", "PromptTokensDetails"}
    ),
    _CHAT + "chat_completion": frozenset(
        {
            "ChatCompletion",
            "Choice",
            "ChoiceLogprobs",
            "Moderation",
            "ModerationInputError",
            "ModerationInputModerationResults",
            "ModerationInputModerationResultsResult",
            "ModerationOutputError",
            "ModerationOutputModerationResults",
            "ModerationOutputModerationResultsResult",
        }
    ),
    _CHAT + "chat_completion_audio": frozenset({"ChatCompletionAudio"}),
    _CHAT + "chat_completion_message": frozenset(
        {"ChatCompletionMessage", "FunctionCall", "Annotation", "AnnotationURLCitation"}
    ),
    _CHAT + "chat_completion_message_tool_call": frozenset(
        {"ChatCompletionMessageToolCall", "Function"}
    ),
    _CHAT + "chat_completion_message_function_tool_call": frozenset(
        {"ChatCompletionMessageFunctionToolCall", "Function"}
    ),
    _CHAT + "chat_completion_message_custom_tool_call": frozenset(
        {"ChatCompletionMessageCustomToolCall", "Custom"}
    ),
    _CHAT + "chat_completion_token_logprob": frozenset(
        {"ChatCompletionTokenLogprob", "TopLogprob"}
    ),
    _CHAT + "parsed_chat_completion": frozenset(
        {"ParsedChatCompletion", "ParsedChoice", "ParsedChatCompletionMessage"}
    ),
    _CHAT + "parsed_function_tool_call": frozenset({"ParsedFunctionToolCall", "ParsedFunction"}),
}
"""Module → its classes whose instances may be in an answer. Source: `openai.types.chat` of the
versions 1.10 to 3.54."""

MAKERS: dict[tuple[str, str], str] = {
    ("builtins", "set"): "set",
    ("__builtin__", "set"): "set",
    ("builtins", "object"): "object",
    ("__builtin__", "object"): "object",
    ("copyreg", "_reconstructor"): "reconstructor",
    ("copy_reg", "_reconstructor"): "reconstructor",
    ("copyreg", "__newobj__"): "newobj",
    ("copy_reg", "__newobj__"): "newobj",
}
"""Names with which older protocols write a set and begin an object; the second of each pair is
Python 2's. What they do is done here: they are never called."""
