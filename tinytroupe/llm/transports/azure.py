"""Azure OpenAI: the same API at other addresses, with a key or with Entra ID."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.request import Attempt
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames
from tinytroupe.llm.transports.openai import (
    AsyncSDK,
    OpenAITransport,
    SyncSDK,
)
from tinytroupe.llm.transports.secrets import AZURE_KEY_VARIABLES
from tinytroupe.llm.transports.wire import check_address, find_key, is_installed, list_faults

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
        names: What these settings are called where they stand, for errors.
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
        names: SettingNames = ARGUMENTS,
    ) -> None:
        super().__init__(api_key, endpoint, name, sdk=sdk, async_sdk=async_sdk, names=names)
        self._api_version = api_version
        self._credential = credential
        self._provide_token: Callable[[], str] | None = None

    def make_sdk(self) -> SyncSDK:
        import openai

        from tinytroupe.llm.transports.sdk import DeadlineClient

        key = self._find_key()
        credentials: dict[str, Any] = (
            {"api_key": key} if key else {"azure_ad_token_provider": self._get_token_provider()}
        )
        return openai.AzureOpenAI(
            azure_endpoint=self._find_endpoint(),
            api_version=self._find_version(),
            max_retries=0,
            http_client=DeadlineClient(),
            **credentials,
        )

    def list_lacks(self) -> list[str]:
        return list_faults(self._find_endpoint, self._check_credentials)

    def _check_credentials(self) -> None:
        if not self._find_key() and not is_installed("azure.identity"):
            raise self._refuse_keyless()

    def _find_endpoint(self) -> str:
        endpoint = self._base_url or os.environ.get("AZURE_OPENAI_ENDPOINT")
        if not endpoint:
            names = self._names
            raise ConfigError(
                "there is no address for Azure OpenAI: "
                f"{names.say_how_to_give(names.base_url, 'AZURE_OPENAI_ENDPOINT')}, as in "
                "https://NAME.openai.azure.com"
            )
        return check_address(endpoint)

    def _find_version(self) -> str:
        return self._api_version or os.environ.get("AZURE_API_VERSION") or DEFAULT_API_VERSION

    def _find_address(self) -> str:
        return f"{self._find_endpoint()}/openai"

    def _find_path(self, attempt: Attempt) -> str:
        path = super()._find_path(attempt)
        if self._given_sdk is not None or self._given_async_sdk is not None:
            version = ""  # the SDK adds its own
        else:
            version = f"?api-version={quote(self._find_version(), safe='')}"
        return f"/deployments/{quote(attempt.call.request.model, safe='')}{path}{version}"

    def _make_credentials(self) -> dict[str, str]:
        key = self._find_key()
        if key:
            return {"api-key": key}
        return {"authorization": f"Bearer {self._get_token_provider()()}"}

    async def _amake_credentials(self) -> dict[str, str]:
        if self._find_key():
            return self._make_credentials()
        # A fresh token is fetched over the network: not on the event loop's thread.
        return await asyncio.to_thread(self._make_credentials)

    def _get_token_provider(self) -> Callable[[], str]:
        with self._lock:
            if self._provide_token is None:
                try:
                    self._provide_token = _make_token_provider(self._credential)
                except ImportError as error:
                    raise self._refuse_keyless() from error
            return self._provide_token

    def _find_key(self) -> str:
        return find_key(self._api_key, AZURE_KEY_VARIABLES, self._names)

    def _refuse_keyless(self) -> ConfigError:
        names = self._names
        return ConfigError(
            "there is no key for Azure OpenAI: "
            f"{names.say_how_to_give(names.api_key, AZURE_KEY_VARIABLES[0])}, or sign in with "
            "Entra ID, which needs one more package: pip install 'tinytroupe[azure]'"
        )


def _make_token_provider(credential: TokenCredential | None) -> Callable[[], str]:
    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    return get_bearer_token_provider(credential or DefaultAzureCredential(), _SCOPE)
