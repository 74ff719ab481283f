"""How TinyTroupe's clients ask an endpoint, in methods that their owner may replace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import RLock
from typing import Any, cast

from tinytroupe.llm.messages import MessageLike, to_messages


class RawCalls:
    """How a client asks an endpoint, in methods that its owner may replace.

    The names and their meaning are TinyTroupe's. What is replaced is noticed,
    also on a single object, and then called in place of the usual transport.
    """

    def __init__(self) -> None:
        self._sdk: Any = None
        self._sdk_on_demand = False
        self._sdk_lock = RLock()

    @property
    def client(self) -> Any:
        """The SDK client that the methods below use; made when it is first asked for."""
        with self._sdk_lock:
            if self._sdk is None:
                self._setup_from_config()
                self._sdk_on_demand = True
            return self._sdk

    @client.setter
    def client(self, sdk: Any) -> None:
        self._sdk = sdk
        self._sdk_on_demand = False

    def _forget_sdk(self) -> None:
        """Drops an SDK client that was made on demand, since the settings have changed."""
        if self._sdk_on_demand:
            self._sdk = None

    def _setup_from_config(self) -> None:
        """Sets `self.client`. Is called once before the first live call, and after a change."""
        raise NotImplementedError

    def _raw_model_call(self, model: str, chat_api_params: dict[str, Any]) -> Any:
        """Asks the endpoint for one attempt.

        Args:
            model: Which model is asked; it is also in the parameters.
            chat_api_params: What `chat.completions.create` of OpenAI's SDK takes:
                messages, parameters that are set, `timeout` in seconds, and
                `stream`, which is false. A class given as `response_format`
                is here as its JSON schema. May be changed at will.

        Returns:
            The answer, in whatever shape `_raw_model_response_extractor` reads.

        Raises:
            NonTerminalError: Another attempt can help.
            InvalidRequestError: None can.
        """
        return self.client.chat.completions.create(**chat_api_params)

    def _raw_model_response_extractor(self, response: Any) -> Mapping[str, Any]:
        """Returns the message in an answer: a role and a content."""
        return cast("Mapping[str, Any]", response.choices[0].message.to_dict())

    def _raw_embedding_model_call(self, text: str, model: str) -> Any:
        """Asks the endpoint for the vector of a text. Raises what `_raw_model_call` raises."""
        return self.client.embeddings.create(input=[text], model=model)

    def _raw_embedding_model_response_extractor(self, response: Any) -> list[float]:
        """Returns the vector in an answer."""
        return cast("list[float]", response.data[0].embedding)

    def _count_tokens(self, messages: Iterable[MessageLike], model: str) -> int:
        """Returns how many tokens messages take, or an upper bound where that is not known."""
        from tinytroupe.llm.rules.tokens import count_messages

        return count_messages(to_messages(messages), model).tokens

    def _save_cache(self) -> None:
        """Does nothing: every answer was on disk before it was returned."""

    def _load_cache(self) -> dict[str, Any]:
        """Returns nothing: answers are looked up on disk one by one."""
        return {}
