"""Providers by name: where they are, which key they take, and what asks them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.rules.capabilities import check_request
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames
from tinytroupe.llm.transports.openai import OpenAITransport, SyncSDK
from tinytroupe.llm.transports.transport import Transport
from tinytroupe.llm.transports.wire import check_address, find_key


@dataclass(frozen=True, slots=True)
class Preset:
    """An endpoint that speaks OpenAI's API."""

    provider: str
    """Its row in `rules.capabilities`."""
    base_url: str
    """Where it is unless told otherwise; empty: that has to be told."""
    url_variable: str
    """The environment variable that tells it; empty: none does."""
    key_variable: str
    """The environment variable of its key."""
    needs_key: bool


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.provider: preset
        for preset in (
            Preset("groq", "https://api.groq.com/openai/v1", "", "GROQ_API_KEY", True),
            Preset("ollama", "http://localhost:11434/v1", "", "OLLAMA_API_KEY", False),
            Preset("vllm", "http://localhost:8000/v1", "", "VLLM_API_KEY", False),
            Preset("openai-compatible", "", "OPENAI_BASE_URL", "OPENAI_API_KEY", False),
        )
    }
)
"""Sources: the pages of Groq and Ollama on compatibility with OpenAI; vLLM's on its server."""

_UNUSED_KEY = "no-key-needed"
"""What a server is sent where no key is set; local ones do not look at it."""


class PresetTransport(OpenAITransport):
    """Asks a provider that speaks OpenAI's API, and refuses what that one lacks. See `Transport`.

    Args:
        preset: Which provider.
        api_key: None: what the preset's variable says.
        base_url: None: what the preset's variable says, else the preset's.
        name: The endpoint's name, for people; None: the provider's.
        names: What these settings are called where they stand, for errors.
    """

    def __init__(
        self,
        preset: Preset,
        api_key: str | None = None,
        base_url: str | None = None,
        name: str | None = None,
        *,
        names: SettingNames = ARGUMENTS,
    ) -> None:
        super().__init__(api_key, base_url, name or preset.provider, names=names)
        self._preset = preset

    def make_sdk(self) -> SyncSDK:
        import openai

        from tinytroupe.llm.transports.sdk import DeadlineClient

        return openai.OpenAI(
            api_key=self._find_key(),
            base_url=self._find_address(),
            max_retries=0,
            http_client=DeadlineClient(),
        )

    def _find_path(self, attempt: Attempt) -> str:
        check_request(self._preset.provider, attempt.call.request)
        return super()._find_path(attempt)

    def _find_address(self) -> str:
        preset = self._preset
        address = self._base_url or os.environ.get(preset.url_variable or "-") or preset.base_url
        if not address:
            names = self._names
            raise ConfigError(
                f"there is no address for the provider {preset.provider}: "
                f"{names.say_how_to_give(names.base_url, preset.url_variable)}, such as "
                "http://127.0.0.1:8000/v1"
            )
        return check_address(address)

    def _make_credentials(self) -> dict[str, str]:
        # OpenAI's organisation and project are nobody else's business.
        return {"authorization": f"Bearer {self._find_key()}"}

    def _find_key(self) -> str:
        preset, names = self._preset, self._names
        if key := find_key(self._api_key, (preset.key_variable,), names):
            return key
        if preset.needs_key and not self._base_url:
            raise ConfigError(
                f"there is no key for {preset.provider}: "
                f"{names.say_how_to_give(names.api_key, preset.key_variable)}"
            )
        return _UNUSED_KEY


def _make_openai(**options: Any) -> Transport:
    return OpenAITransport(**options)


def _make_azure(base_url: str | None = None, **options: Any) -> Transport:
    from tinytroupe.llm.transports.azure import AzureTransport

    return AzureTransport(base_url, **options)


def _make_anthropic(**options: Any) -> Transport:
    from tinytroupe.llm.transports.anthropic import AnthropicTransport

    return AnthropicTransport(**options)


def _make_gemini(**options: Any) -> Transport:
    from tinytroupe.llm.transports.gemini import GeminiTransport

    return GeminiTransport(**options)


def _make_rehearsal(**options: Any) -> Transport:
    from tinytroupe.llm.transports.rehearsal import RehearsalTransport

    return RehearsalTransport(name=options.get("name", "rehearsal"))


def _make_preset(provider: str) -> Callable[..., Transport]:
    return lambda **options: PresetTransport(PRESETS[provider], **options)


_MAKERS: Mapping[str, Callable[..., Transport]] = {
    "openai": _make_openai,
    "azure": _make_azure,
    "anthropic": _make_anthropic,
    "gemini": _make_gemini,
    "rehearsal": _make_rehearsal,
    **{provider: _make_preset(provider) for provider in PRESETS},
}

PROVIDER_NAMES: tuple[str, ...] = tuple(_MAKERS)
"""What `make_transport` knows."""


def make_transport(
    provider: str,
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    name: str | None = None,
    api_version: str | None = None,
    names: SettingNames | None = None,
) -> Transport:
    """Returns what asks a provider. Connects to nothing, and reads no key before the first call.

    Args:
        provider: One of `PROVIDER_NAMES`.
        api_key: None: what the provider's environment variable says.
        base_url: None: the provider's own address; for `azure` the endpoint.
        name: The endpoint's name, for people; None: the provider's.
        api_version: Only for `azure`.
        names: What these settings are called where they stand, for errors; None: as here.

    Raises:
        ConfigError: There is no such provider; the message names the nearest.
    """
    maker = _MAKERS.get(provider)
    if maker is None:
        near = difflib.get_close_matches(str(provider).lower(), _MAKERS, n=1)
        raise ConfigError(
            f"there is no provider {provider!r}"
            + (f"; did you mean {near[0]}?" if near else f"; known are {', '.join(_MAKERS)}")
        )
    if api_version is not None and provider != "azure":
        raise ConfigError(f"api_version is for the provider azure, not for {provider}")
    given = {
        "api_key": api_key,
        "base_url": base_url,
        "name": name,
        "api_version": api_version,
        "names": names,
    }
    return maker(**{key: value for key, value in given.items() if value is not None})


def list_lacks(transport: Transport) -> list[str]:
    """Returns what keeps an endpoint from being asked, as its first call would say.

    That is an address, a key or a package. Nothing is sent, and no package is imported;
    a transport that does not tell is taken to lack nothing.
    """
    tell = getattr(transport, "list_lacks", None)
    return list(tell()) if tell is not None else []
