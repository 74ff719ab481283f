"""The pages of the Django app's admin, for tests; every `test_django_*` file has the fixtures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django_fixtures import Database

from tinytroupe.contrib.django.models import ChatHistory, LLMConfigName

ROOT = "/admin/llm_wrapper"
KINDS = ("tool", "llmconfigname", "prompttemplate", "chathistory")
SETTING = "LLM_WRAPPER_ALLOW_TOOL_CODE"
SPEC = {
    "name": "add",
    "description": "Adds.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
SOURCE = 'def add(a: int, b: int) -> int:\n    """Adds two numbers."""\n    return a + b\n'


@pytest.fixture
def boss(database: Database, configs_folder: Path, site_settings: Callable[..., None]) -> Client:
    """A client who may do everything, on a site with a folder of configurations and tools."""
    site_settings(LLM_WRAPPER_TOOL_MODULES=["django_tools"])
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


@pytest.fixture
def log_in_with(database: Database) -> Callable[..., Client]:
    """A function that logs a member of the staff in who has just these permissions."""

    def log_in(*names: str) -> Client:
        user = User.objects.create_user(f"staff{User.objects.count()}", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client = Client()
        client.force_login(user)
        return client

    return log_in


def forbid_inline(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Django middleware: pages may load scripts and styles, and hold none themselves."""

    def answer(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers["Content-Security-Policy"] = "default-src 'self'; img-src 'self' data:"
        return response

    return answer


def read(client: Client, path: str, status: int = 200, **query: str) -> str:
    """Returns a page as it is seen, without its tags."""
    response = client.get(f"{ROOT}/{path}", query)
    assert response.status_code == status
    return see(response.content)


def see(page: bytes) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.decode())).split())


def send(client: Client, path: str, values: dict[str, Any]) -> tuple[int, str]:
    """Sends a form and returns the status and the page that it leads to, as it is seen."""
    response = client.post(f"{ROOT}/{path}", values)
    page = client.get(response.headers["Location"]) if response.status_code == 302 else response
    return response.status_code, see(page.content)


def make_tool_form(**values: str) -> dict[str, Any]:
    return {
        "name": "add",
        "tool_code": "django_tools.add",
        "tool_json_spec": "",
        "default_values_for_non_llm_params": "",
        "context_params": "",
        **values,
    }


def make_prompt_form(**values: Any) -> dict[str, Any]:
    LLMConfigName.objects.get_or_create(name="rehearsal")
    return {
        "name": "support",
        "llm_config_names": ["rehearsal"],
        "template_format": "jinja",
        "system_prompt_template": "You help.",
        "user_prompt_template": "",
        "initial_messages_templates": "",
        "required_kwargs": "",
        "logged_context_vars": "",
        **values,
    }


def make_chat(*texts: str, **facts: Any) -> ChatHistory:
    said = [
        {"id": f"m{place}", "role": "user", "content": text, **facts}
        for place, text in enumerate(texts)
    ]
    chat = ChatHistory.objects.create()
    # Past the check of conversations, which these need not be.
    ChatHistory.objects.filter(pk=chat.pk).update(chat_history=said)
    chat.refresh_from_db()
    return chat


def write_config(folder: Path, name: str, **keys: str) -> None:
    facts = {
        "name": name,
        "llm_config_class": "OpenAICompatibleConfig",
        "deployment_name": "gpt-4o",
        "endpoint": "https://example.org/v1",
        **keys,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(facts), encoding="utf-8")
