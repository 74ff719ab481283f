"""Answers in the shapes of OpenAI's SDK, for those who expect them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from tinytroupe.llm.response import Response

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionMessage

SDKMessage: TypeAlias = "ChatCompletionMessage"


def to_sdk_message(response: Response) -> SDKMessage:
    """Returns the first choice's message of a chat answer; what the SDK does not know, too."""
    from openai.types.chat import ChatCompletionMessage

    return ChatCompletionMessage.construct(**{"role": "assistant", **response.message})


class Shaped:
    """A JSON object with attributes, as the SDK's answers have them. Immutable.

    The SDK's own classes cost more to fill than the call that they describe.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        # Copying and pickling ask for names of their own before there are fields.
        if name.startswith("_"):
            raise AttributeError(name)
        fields = self._get_fields()
        if name in fields:
            return _shape(fields[name])
        if name in _MAY_BE_MISSING:
            return None
        raise AttributeError(f"the answer has no {name!r}; it has {', '.join(fields)}")

    def _get_fields(self) -> Mapping[str, Any]:
        return self._fields

    def __getitem__(self, name: str) -> Any:
        return _shape(self._get_fields()[name])

    def __contains__(self, name: object) -> bool:
        return name in self._get_fields()

    def __iter__(self) -> Iterator[str]:
        return iter(self._get_fields())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shaped) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self._get_fields())!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return Shaped, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """Returns the object as a dictionary."""
        return dict(self._get_fields())

    model_dump = to_dict


class ShapedResponse(Shaped):
    """A whole answer; its JSON is parsed when somebody looks into it."""

    __slots__ = ("response",)

    def __init__(self, response: Response) -> None:
        super().__init__({})
        self.response = response
        """The response of the chain: usage, origin, attempts."""

    def _get_fields(self) -> Mapping[str, Any]:
        if not self._fields:
            self._fields = self.response.raw
        return self._fields

    def __reduce__(self) -> tuple[object, ...]:
        return ShapedResponse, (self.response,)


_MAY_BE_MISSING = frozenset(
    {
        "audio",
        "annotations",
        "content",
        "created",
        "finish_reason",
        "function_call",
        "id",
        "logprobs",
        "object",
        "refusal",
        "service_tier",
        "system_fingerprint",
        "tool_calls",
        "usage",
    }
)
"""What servers leave out and the SDK then shows as None."""


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return Shaped(value)
    return [_shape(item) for item in value] if isinstance(value, list) else value


def list_models(sdk: openai.OpenAI, timeout_seconds: float) -> Shaped:
    """Returns the models that an endpoint offers, as `.data[i].id`.

    Raises:
        LLMAPIError: The endpoint answered with a failure.
        LLMConnectionError: It did not answer.
    """
    from tinytroupe.llm.transports.connections import deadline
    from tinytroupe.llm.transports.sdk import map_sdk_error

    try:
        with deadline(timeout_seconds):
            page = sdk.models.list(timeout=timeout_seconds)
    except Exception as error:
        raise map_sdk_error(error, timeout_seconds) from error
    return Shaped(page.to_dict())
