"""Everything that a simulation needs to ask models: import it from here.

Each name is loaded when it is first used, so that importing this package
loads no SDK, no event loop and no store. Only where the environment asks for a
run, importing it begins that run, before a simulation can have spawned anything.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinytroupe.llm.client import AsyncClient, Client, ClientDefaults, Outcome
    from tinytroupe.llm.errors import (
        AuthenticationFailed,
        BadRequest,
        BudgetExceeded,
        CacheMiss,
        ConfigError,
        ConnectionFailed,
        ContentFiltered,
        ContextTooLong,
        InvalidRequestError,
        LLMAPIError,
        LLMConnectionError,
        LLMError,
        MalformedResponse,
        ModelNotFound,
        NonTerminalError,
        ParseError,
        QuotaExhausted,
        RateLimited,
        ReplayMiss,
        ServerFault,
        StoreError,
        TemplateError,
        TimedOut,
        ToolRoundsExceeded,
    )
    from tinytroupe.llm.layers.route import Route
    from tinytroupe.llm.manager import (
        ModelManager,
        UnknownModel,
        call_llm,
        configure_load_balancer,
        get_embedding_model,
        get_model,
        get_model_manager,
        load_model_configs,
        register_model,
    )
    from tinytroupe.llm.messages import Message
    from tinytroupe.llm.meter import CallRecord, Meter, Totals
    from tinytroupe.llm.request import (
        Attempt,
        Call,
        CallOptions,
        Request,
        RetryPolicy,
        chat_request,
        completion_request,
        embedding_request,
    )
    from tinytroupe.llm.response import Response, ToolCall, Usage, parse_response
    from tinytroupe.llm.runs.lanes import lane
    from tinytroupe.llm.runs.run import Run
    from tinytroupe.llm.store.disk import DiskStore
    from tinytroupe.llm.store.entry import Entry, Store
    from tinytroupe.llm.store.memory import MemoryStore
    from tinytroupe.llm.talk.ask import aask, ask
    from tinytroupe.llm.talk.conversation import (
        AssistantMessage,
        SystemMessage,
        UserMessage,
        image_part,
    )
    from tinytroupe.llm.talk.model_response import ModelResponse
    from tinytroupe.llm.talk.models import EmbeddingModel, Model
    from tinytroupe.llm.talk.parsers import (
        ChoiceParser,
        CodeBlockParser,
        JsonBlockParser,
        JsonDictParser,
        MultiTagParser,
        ParsedResponse,
        Parser,
        TagParser,
    )
    from tinytroupe.llm.talk.tools import ToolResponse, ToolRun, arun_tools, make_tool, run_tools
    from tinytroupe.llm.transports.adapted import ModelAdapterBase
    from tinytroupe.llm.transports.anthropic import AnthropicTransport
    from tinytroupe.llm.transports.azure import AzureTransport
    from tinytroupe.llm.transports.endpoint import Endpoint
    from tinytroupe.llm.transports.gemini import GeminiTransport
    from tinytroupe.llm.transports.openai import OpenAITransport
    from tinytroupe.llm.transports.presets import make_transport
    from tinytroupe.llm.transports.rehearsal import Fault, Rehearsal, RehearsalTransport
    from tinytroupe.llm.transports.transport import Transport
    from tinytroupe.llm.wrapper import LLM, AsyncLLM, LLMConfig

__all__ = [  # noqa: RUF022 - ruff takes LLM for a constant and puts it first
    "AnthropicTransport",
    "AssistantMessage",
    "AsyncClient",
    "AsyncLLM",
    "Attempt",
    "AuthenticationFailed",
    "AzureTransport",
    "BadRequest",
    "BudgetExceeded",
    "CacheMiss",
    "Call",
    "CallOptions",
    "CallRecord",
    "ChoiceParser",
    "Client",
    "ClientDefaults",
    "CodeBlockParser",
    "ConfigError",
    "ConnectionFailed",
    "ContentFiltered",
    "ContextTooLong",
    "DiskStore",
    "EmbeddingModel",
    "Endpoint",
    "Entry",
    "Fault",
    "GeminiTransport",
    "InvalidRequestError",
    "JsonBlockParser",
    "JsonDictParser",
    "LLM",
    "LLMAPIError",
    "LLMConfig",
    "LLMConnectionError",
    "LLMError",
    "MalformedResponse",
    "MemoryStore",
    "Message",
    "Meter",
    "Model",
    "ModelAdapterBase",
    "ModelManager",
    "ModelNotFound",
    "ModelResponse",
    "MultiTagParser",
    "NonTerminalError",
    "OpenAITransport",
    "Outcome",
    "ParseError",
    "ParsedResponse",
    "Parser",
    "QuotaExhausted",
    "RateLimited",
    "Rehearsal",
    "RehearsalTransport",
    "ReplayMiss",
    "Request",
    "Response",
    "RetryPolicy",
    "Route",
    "Run",
    "ServerFault",
    "Store",
    "StoreError",
    "SystemMessage",
    "TagParser",
    "TemplateError",
    "TimedOut",
    "ToolCall",
    "ToolResponse",
    "ToolRoundsExceeded",
    "ToolRun",
    "Totals",
    "Transport",
    "UnknownModel",
    "Usage",
    "UserMessage",
    "aask",
    "arun_tools",
    "ask",
    "call_llm",
    "chat_request",
    "completion_request",
    "configure_load_balancer",
    "embedding_request",
    "get_embedding_model",
    "get_model",
    "get_model_manager",
    "image_part",
    "lane",
    "load_model_configs",
    "make_tool",
    "make_transport",
    "parse_response",
    "register_model",
    "run_tools",
]

_ROOMS: dict[str, tuple[str, ...]] = {
    "client": ("AsyncClient", "Client", "ClientDefaults", "Outcome"),
    "messages": ("Message",),
    "meter": ("CallRecord", "Meter", "Totals"),
    "request": (
        "Attempt",
        "Call",
        "CallOptions",
        "Request",
        "RetryPolicy",
        "chat_request",
        "completion_request",
        "embedding_request",
    ),
    "response": ("Response", "ToolCall", "Usage", "parse_response"),
    "store.disk": ("DiskStore",),
    "store.entry": ("Entry", "Store"),
    "store.memory": ("MemoryStore",),
    "runs.lanes": ("lane",),
    "runs.run": ("Run",),
    "transports.anthropic": ("AnthropicTransport",),
    "transports.azure": ("AzureTransport",),
    "transports.gemini": ("GeminiTransport",),
    "transports.openai": ("OpenAITransport",),
    "transports.presets": ("make_transport",),
    "transports.rehearsal": ("Fault", "Rehearsal", "RehearsalTransport"),
    "transports.transport": ("Transport",),
    "manager": (
        "ModelManager",
        "UnknownModel",
        "call_llm",
        "configure_load_balancer",
        "get_embedding_model",
        "get_model",
        "get_model_manager",
        "load_model_configs",
        "register_model",
    ),
    "talk.ask": ("aask", "ask"),
    "talk.conversation": ("AssistantMessage", "SystemMessage", "UserMessage", "image_part"),
    "talk.model_response": ("ModelResponse",),
    "talk.models": ("EmbeddingModel", "Model"),
    "talk.parsers": (
        "ChoiceParser",
        "CodeBlockParser",
        "JsonBlockParser",
        "JsonDictParser",
        "MultiTagParser",
        "ParsedResponse",
        "Parser",
        "TagParser",
    ),
    "talk.tools": ("ToolResponse", "ToolRun", "arun_tools", "make_tool", "run_tools"),
    "transports.adapted": ("ModelAdapterBase",),
    "transports.endpoint": ("Endpoint",),
    "layers.route": ("Route",),
    "wrapper": (
        "AsyncLLM",
        "LLM",
        "LLMConfig",
    ),
}
"""Where each name lives; what is not listed is an error, and lives in `errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "errors")
    value = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if os.environ.get("TINYTROUPE_RUN"):
    from tinytroupe.llm.runs.activation import begin_from_environment

    begin_from_environment()
