"""The settings table: every key of config.ini, in the order of the file.

config.ini at the root, the table in docs/configuration.md, the environment
variables and `tinytroupe config` all follow from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tinytroupe.llm.config.setting import Setting

_ROWS = (
    Setting(
        "api_type",
        "OpenAI",
        "API_TYPE",
        "name",
        "openai",
        "Which endpoint answers: openai (OpenAI, or with BASE_URL any server that speaks its "
        "API), azure, rehearsal (no model and no network: for tests and dry runs), or a name "
        "given to register_client.",
    ),
    Setting(
        "base_url",
        "OpenAI",
        "BASE_URL",
        "address",
        None,
        "The address of an OpenAI-compatible server, such as http://localhost:11434/v1. "
        "Empty: OpenAI's own.",
        optional=True,
        other_variables=("OPENAI_BASE_URL",),
    ),
    Setting(
        "azure_api_version",
        "OpenAI",
        "AZURE_API_VERSION",
        "name",
        "2024-10-21",
        "The version of Azure's API, only for API_TYPE=azure. The endpoint and the key come "
        "from the environment: AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_KEY.",
        other_variables=("AZURE_API_VERSION", "OPENAI_API_VERSION"),
    ),
    Setting(
        "model",
        "OpenAI",
        "MODEL",
        "name",
        "gpt-4o-mini",
        "The model that writes the answers; for Azure the name of the deployment.",
    ),
    Setting(
        "embedding_model",
        "OpenAI",
        "EMBEDDING_MODEL",
        "name",
        "text-embedding-3-small",
        "The model that turns texts into vectors.",
    ),
    Setting(
        "max_tokens",
        "OpenAI",
        "MAX_TOKENS",
        "whole number",
        4000,
        "The most tokens an answer may take; reasoning models spend their hidden reasoning "
        "out of it. Empty: not sent, the endpoint decides.",
        minimum=1,
        optional=True,
        other_keys=("MAX_COMPLETION_TOKENS",),
    ),
    Setting(
        "temperature",
        "OpenAI",
        "TEMPERATURE",
        "number",
        1.0,
        "How freely the model draws its words: 0 is nearly always the likeliest one, higher "
        "is more varied. Empty: not sent.",
        minimum=0,
        maximum=2,
        optional=True,
    ),
    Setting(
        "top_p",
        "OpenAI",
        "TOP_P",
        "number",
        None,
        "Draw only from the likeliest words that together have this probability. Empty: not sent.",
        minimum=0,
        maximum=1,
        optional=True,
    ),
    Setting(
        "frequency_penalty",
        "OpenAI",
        "FREQ_PENALTY",
        "number",
        None,
        "Makes a word less likely with every time it was used. Empty: not sent.",
        minimum=-2,
        maximum=2,
        optional=True,
    ),
    Setting(
        "presence_penalty",
        "OpenAI",
        "PRESENCE_PENALTY",
        "number",
        None,
        "Makes a word less likely once it was used. Empty: not sent.",
        minimum=-2,
        maximum=2,
        optional=True,
    ),
    Setting(
        "timeout",
        "OpenAI",
        "TIMEOUT",
        "number",
        60.0,
        "Seconds that one attempt may take, from the first byte sent to the last received.",
        above=0,
    ),
    Setting(
        "deadline",
        "OpenAI",
        "DEADLINE",
        "number",
        None,
        "Seconds that a call may take as a whole, all attempts and waits included. "
        "Empty: as long as its attempts take.",
        above=0,
        optional=True,
    ),
    Setting(
        "max_attempts",
        "OpenAI",
        "MAX_ATTEMPTS",
        "whole number",
        5,
        "How often a call is tried when the endpoint is overloaded, broken or out of reach. "
        "What cannot succeed, such as a wrong key, is never tried again.",
        minimum=1,
    ),
    Setting(
        "waiting_time",
        "OpenAI",
        "WAITING_TIME",
        "number",
        1.0,
        "Seconds up to which the first wait before another attempt is drawn. "
        "There is no wait before a first attempt.",
        minimum=0,
    ),
    Setting(
        "exponential_backoff_factor",
        "OpenAI",
        "EXPONENTIAL_BACKOFF_FACTOR",
        "number",
        2.0,
        "By how much the longest possible wait grows from attempt to attempt.",
        minimum=1,
    ),
    Setting(
        "max_waiting_time",
        "OpenAI",
        "MAX_WAITING_TIME",
        "number",
        60.0,
        "Seconds that one wait may take at most, whatever the endpoint asks for.",
        minimum=0,
    ),
    Setting(
        "max_concurrent_model_calls",
        "OpenAI",
        "MAX_CONCURRENT_MODEL_CALLS",
        "whole number",
        16,
        "How many calls may be at the endpoint at the same time; others wait their turn. "
        "Empty or 0: no limit.",
        minimum=1,
        optional=True,
        zero_is_none=True,
    ),
    Setting(
        "cache_api_calls",
        "OpenAI",
        "CACHE_API_CALLS",
        "choice",
        "on",
        "Whether answers are kept on disk and found again. True or on: a question that was "
        "answered before costs nothing. False or off: always ask, keep nothing. refresh: "
        "always ask, and keep the new answer. only: never ask; a question without a kept "
        "answer is an error.",
        choices=("on", "off", "refresh", "only"),
        switch_words=MappingProxyType({True: "on", False: "off"}),
    ),
    Setting(
        "cache_file_name",
        "OpenAI",
        "CACHE_FILE_NAME",
        "text",
        "tinytroupe_cache",
        "The folder that keeps the answers. TinyTroupe's name for its pickle file, "
        "openai_api_cache.pickle, is understood: the folder is then openai_api_cache, and the "
        "pickle is neither read nor touched.",
    ),
    Setting(
        "max_content_display_length",
        "OpenAI",
        "MAX_CONTENT_DISPLAY_LENGTH",
        "whole number",
        1024,
        "Characters of a message that a simulation shows to people before it cuts. "
        "Read by the simulation.",
        minimum=0,
    ),
    Setting(
        "on_failure",
        "OpenAI",
        "ON_FAILURE",
        "choice",
        "raise",
        "What a failed call of tinytroupe.openai_utils does. raise: it raises the error. "
        "none: it logs the error and returns None, as TinyTroupe did.",
        choices=("raise", "none"),
    ),
    Setting(
        "run",
        "Run",
        "RUN",
        "text",
        None,
        "What every model call of the simulation takes part in: record:PATH (record onto a new "
        "tape), resume:PATH (go on with a tape that was cut off), replay:PATH (answer every call "
        "from a tape, without a network), or fork:PATH:to=NEW, with :at=lisa:3 to say where the "
        "fork goes live. The run begins when the settings are first read; with the environment "
        "variable, and with the commands of the same names, when tinytroupe is imported, which "
        "is before any thread. Empty: no run.",
        optional=True,
    ),
    Setting(
        "cache_samples",
        "Run",
        "CACHE_SAMPLES",
        "choice",
        "lane",
        "What agents get that ask the same in a run. lane: each draws an answer of its own, and "
        "asking again is a new draw. shared: one answer for all, as outside of runs.",
        choices=("lane", "shared"),
    ),
    Setting(
        "resolver",
        "Run",
        "RESOLVER",
        "name",
        None,
        "The dotted path of a function that is given a call and returns the name of the agent "
        "that makes it, or None; for simulations whose threads take work from a queue. Empty: "
        "agents are told apart by their threads and tasks, and by the names that lane() gives.",
        optional=True,
    ),
    Setting(
        "rai_harmful_content_prevention",
        "Simulation",
        "RAI_HARMFUL_CONTENT_PREVENTION",
        "switch",
        True,
        "Whether agents are told to avoid harmful content. Read by the simulation.",
    ),
    Setting(
        "rai_copyright_infringement_prevention",
        "Simulation",
        "RAI_COPYRIGHT_INFRINGEMENT_PREVENTION",
        "switch",
        True,
        "Whether agents are told not to infringe copyright. Read by the simulation.",
    ),
    Setting(
        "loglevel",
        "Logging",
        "LOGLEVEL",
        "choice",
        "WARNING",
        "From which level on messages of the logger tinytroupe are let through. "
        "NONE: the level is left as the program set it.",
        choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "NONE"),
    ),
)

SETTINGS: Mapping[str, Setting] = MappingProxyType({row.name: row for row in _ROWS})
"""The rows by name."""
