"""What each provider's API can do, so that what it lacks is refused before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.request import Request

Support: TypeAlias = Literal["yes", "model", "no"]
"""`model`: the API takes it, and the model or the server decides whether it works."""


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that not every provider has."""

    name: str
    title: str
    """How people call it: "… has no TITLE"."""
    is_asked: Callable[[Request], bool] | None
    """Tells whether a request asks for it; None: that is not seen in the request."""
    instead: str = ""
    """What to do where it is missing."""


def _has_part(*kinds: str) -> Callable[[Request], bool]:
    def is_asked(request: Request) -> bool:
        return any(
            isinstance(part, Mapping) and part.get("type") in kinds
            for message in request.messages
            if isinstance(message.content, tuple)
            for part in message.content
        )

    return is_asked


def _has_format(kind: str) -> Callable[[Request], bool]:
    def is_asked(request: Request) -> bool:
        wanted = request.parameters.get("response_format")
        return isinstance(wanted, Mapping) and wanted.get("type") == kind

    return is_asked


def _has_parameter(*names: str, but: tuple[object, ...] = (0, False)) -> Callable[[Request], bool]:
    """Tells whether a parameter is given, with another value than those that ask for nothing."""

    def is_asked(request: Request) -> bool:
        given = request.parameters
        return any(name in given and given[name] not in but for name in names)

    return is_asked


def _names_speakers(request: Request) -> bool:
    return any(
        "name" in message.extra and message.role not in ("tool", "function")
        for message in request.messages
    )


FEATURES: tuple[Feature, ...] = (
    Feature("streaming", "streams", None),
    Feature("images", "images in messages", _has_part("image_url")),
    Feature("files", "audio and files in messages", _has_part("input_audio", "file")),
    Feature("tools", "tools", _has_parameter("tools", but=((), []))),
    Feature(
        "one_tool_at_a_time",
        "way to forbid several tool calls at once",
        lambda request: request.parameters.get("parallel_tool_calls") is False,
        "leave parallel_tool_calls out",
    ),
    Feature("json_schema", "answers by a JSON schema", _has_format("json_schema")),
    Feature(
        "json_object",
        "JSON mode without a schema",
        _has_format("json_object"),
        "give a schema, or ask for JSON in words",
    ),
    Feature(
        "reasoning_effort",
        "choice of how long to think",
        _has_parameter("reasoning_effort", but=()),
    ),
    Feature("seed", "seed", _has_parameter("seed", but=()), "leave seed out"),
    Feature(
        "penalties",
        "frequency and presence penalties",
        _has_parameter("frequency_penalty", "presence_penalty"),
        "leave them out, or set them to 0",
    ),
    Feature("logit_bias", "logit_bias", _has_parameter("logit_bias", but=({},))),
    Feature("logprobs", "log probabilities", _has_parameter("logprobs", "top_logprobs")),
    Feature(
        "several_answers",
        "several answers to one request",
        _has_parameter("n", but=(1,)),
        "send the call several times, with another sample each",
    ),
    Feature(
        "names",
        "names of speakers",
        _names_speakers,
        "put the name into the text of the message",
    ),
    Feature(
        "completions", "completions of plain text", lambda request: request.kind == "completion"
    ),
    Feature(
        "embeddings",
        "embeddings",
        lambda request: request.kind == "embedding",
        "ask another provider for them",
    ),
)

_BY_NAME: Mapping[str, Feature] = {feature.name: feature for feature in FEATURES}


def _list_support(*, model: str = "", no: str = "") -> Mapping[str, Support]:
    """Makes a provider's row: what is named under neither is supported."""
    row: dict[str, Support] = dict.fromkeys(_BY_NAME, "yes")
    row.update(dict.fromkeys(model.split(), "model"))
    row.update(dict.fromkeys(no.split(), "no"))
    assert row.keys() == _BY_NAME.keys()
    return MappingProxyType(row)


PROVIDERS: Mapping[str, Mapping[str, Support]] = MappingProxyType(
    {
        "openai": _list_support(
            model="images files reasoning_effort seed penalties logit_bias logprobs completions"
        ),
        "azure": _list_support(
            model="images files reasoning_effort seed penalties logit_bias logprobs completions"
        ),
        "groq": _list_support(
            model="images tools json_schema reasoning_effort",
            no="files penalties logit_bias logprobs several_answers names completions embeddings",
        ),
        "ollama": _list_support(
            model="images tools one_tool_at_a_time reasoning_effort logprobs embeddings",
            no="files logit_bias several_answers names",
        ),
        "vllm": _list_support(
            model="images files tools one_tool_at_a_time reasoning_effort names embeddings"
        ),
        "openai-compatible": _list_support(model=" ".join(_BY_NAME)),
        "anthropic": _list_support(
            model="json_schema reasoning_effort",
            no="files json_object seed penalties logit_bias logprobs several_answers names "
            "completions embeddings",
        ),
        "gemini": _list_support(
            model="reasoning_effort seed penalties logprobs several_answers",
            no="files one_tool_at_a_time logit_bias names completions",
        ),
    }
)
"""Provider → feature → support. Sources: the providers' API references, of Groq and Ollama their
pages on compatibility with OpenAI, of vLLM its page on the OpenAI-compatible server."""


def check_request(provider: str, request: Request) -> None:
    """Refuses a request for what the provider lacks.

    Args:
        provider: A name of `PROVIDERS`.
        request: What is to be asked.

    Raises:
        BadRequest: The provider lacks something; the message says what, and what to do instead.
    """
    row = PROVIDERS[provider]
    for feature in FEATURES:
        lacking = row[feature.name] == "no" and feature.is_asked is not None
        if lacking and feature.is_asked is not None and feature.is_asked(request):
            advice = f": {feature.instead}" if feature.instead else ""
            raise BadRequest(f"{provider} has no {feature.title}{advice}", model=request.model)


def get_support(provider: str, feature: str) -> Support:
    """Returns whether a provider has a feature.

    Raises:
        KeyError: The provider or the feature is not known.
    """
    return PROVIDERS[provider][feature]


_SHOWN: Mapping[Support, str] = {"yes": "yes", "model": "some models", "no": "–"}


def write_table() -> str:
    """Returns the table of providers and features in Markdown."""
    lines = ["| | " + " | ".join(PROVIDERS) + " |", "|---" * (len(PROVIDERS) + 1) + "|"]
    for feature in FEATURES:
        cells = [_SHOWN[row[feature.name]] for row in PROVIDERS.values()]
        lines.append(f"| {feature.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
