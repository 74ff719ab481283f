"""The errors that only this app has. All others are those of `tinytroupe.llm.errors`."""

from __future__ import annotations

from tinytroupe.llm.errors import ConfigError, LLMError


class UnknownPrompt(LLMError):
    """There is no prompt template of this name."""


class UnknownChat(LLMError):
    """There is no chat with this id."""


class UnknownConfig(ConfigError):
    """No file in `LLM_CONFIGS_PATH` has this name."""


class MissingConfigs(ConfigError):
    """A prompt template has no configuration to be asked with."""


class ToolsDisabled(ConfigError):
    """A prompt template has tools, and its configuration does not allow any."""


class MissingVariables(LLMError):
    """Variables that a prompt template requires were not given.

    Attributes:
        names: Which.
    """

    def __init__(self, message: str, *, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


class InvalidHistory(LLMError):
    """The messages of a chat are not a conversation.

    Attributes:
        message_id: Which message is wrong; None: it has no id, or it is the list as a whole.
    """

    def __init__(self, message: str, *, message_id: str | None = None) -> None:
        super().__init__(message)
        self.message_id = message_id


class ChatConflict(LLMError):
    """Another request is being answered in the same chat. Nothing was stored; send it again.

    Or it took up this message, after the database had lost the lock of who raises; its text says
    which.
    """


class ToolCodeRefused(LLMError):
    """The code of a tool may not be run here; the message says which setting decides."""
