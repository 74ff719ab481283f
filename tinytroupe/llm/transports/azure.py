"""Azure OpenAI: the same API at other addresses, with a key or with Entra ID."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.transports.openai import (
    AsyncSDK,
    OpenAITransport,
    SyncSDK,
)

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

DEFAULT_API_VERSION = "2024-10-21"
"""The newest version of the data plane that Azure calls generally available by date."""

_SCOPE = "https://cognitiveservices.azure.com/.default"


class AzureTransport(OpenAITransport):
    """Asks a deployment on Azure OpenAI; the model's name is the deployment's. See `Transport`.

    Args:
        endpoint: None: what `AZURE_OPENAI_ENDPOINT` says.
        api_key: None: what `AZURE_OPENAI_KEY` or `AZURE_OPENAI_API_KEY` says; where
            neither does, Entra ID is used, which needs the package azure-identity.
        api_version: None: what `AZURE_API_VERSION` says, else `DEFAULT_API_VERSION`.
        name: The endpoint's name, for people.
        credential: For Entra ID; None: Azure's default credential.
        sdk: A ready SDK client to use for blocking calls.
        async_sdk: The same for calls on an event loop.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        api_key: str | None = None,
        api_version: str | None = None,
        name: str = "azure",
        *,
        credential: TokenCredential | None = None,
        sdk: SyncSDK | None = None,
        async_sdk: AsyncSDK | None = None,
    ) -> None:
        super().__init__(api_key, endpoint, name, sdk=sdk, async_sdk=async_sdk)
        self._api_version = api_version
        self._credential = credential

    def _find_path(self, attempt: Attempt) -> str:
        # The SDK would put the deployment in only when it is given the body as a dictionary.
        deployment = quote(attempt.call.request.model, safe="")
        return f"/deployments/{deployment}{super()._find_path(attempt)}"

    def _connect(self) -> SyncSDK:
        import openai

        from tinytroupe.llm.transports.connections import DeadlineClient

        settings = self._make_settings()
        if "api_key" not in settings:
            settings["azure_ad_token_provider"] = _make_token_provider(self._credential)
        return openai.AzureOpenAI(**settings, http_client=DeadlineClient())

    def _connect_async(self) -> AsyncSDK:
        import openai

        from tinytroupe.llm.transports.async_connections import make_async_http_client

        settings = self._make_settings()
        if "api_key" not in settings:
            provide = _make_token_provider(self._credential)
            # A fresh token is fetched over the network: not on the event loop's thread.
            settings["azure_ad_token_provider"] = lambda: asyncio.to_thread(provide)
        return openai.AsyncAzureOpenAI(**settings, http_client=make_async_http_client())

    def _make_settings(self) -> dict[str, Any]:
        endpoint = self._base_url or os.environ.get("AZURE_OPENAI_ENDPOINT")
        if not endpoint:
            raise ConfigError(
                "there is no address for Azure OpenAI: set the environment variable "
                "AZURE_OPENAI_ENDPOINT, as in https://NAME.openai.azure.com"
            )
        settings: dict[str, Any] = {
            "azure_endpoint": endpoint,
            "api_version": self._api_version
            or os.environ.get("AZURE_API_VERSION")
            or DEFAULT_API_VERSION,
            "max_retries": 0,
        }
        key = self._find_key()
        return {**settings, "api_key": key} if key else settings

    def _find_key(self) -> str:
        return (
            self._api_key
            or os.environ.get("AZURE_OPENAI_KEY")
            or os.environ.get("AZURE_OPENAI_API_KEY")
            or ""
        )


def _make_token_provider(credential: TokenCredential | None) -> Callable[[], str]:
    try:
        from azure.identity import DefaultAzureCredential, get_bearer_token_provider
    except ImportError as error:
        raise ConfigError(
            "there is no key for Azure OpenAI: set AZURE_OPENAI_KEY, or sign in with Entra ID, "
            "which needs one more package: pip install 'tinytroupe[azure]'"
        ) from error
    return get_bearer_token_provider(credential or DefaultAzureCredential(), _SCOPE)
