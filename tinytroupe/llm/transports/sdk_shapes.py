"""Answers in the types of OpenAI's SDK, for those who expect them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tinytroupe.llm.response import Response

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessage


SDKMessage: TypeAlias = "ChatCompletionMessage"


def to_sdk_message(response: Response) -> SDKMessage:
    """Returns the first choice's message of a chat answer; what the SDK does not know, too."""
    from openai.types.chat import ChatCompletionMessage

    return ChatCompletionMessage.construct(**{"role": "assistant", **response.message})
