"""`manage.py load_demo --customer NAME`: tools, prompt templates and orders to try it."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import date
from typing import Any

from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from shop.models import Order
from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate, Tool
from tinytroupe.contrib.django.tools import fill_tool_spec

TOOLS: dict[str, dict[str, Any]] = {
    "find_order": {"tool_code": "shop.tools.find_order", "context_params": ["customer_id"]},
    "delivery_days": {"tool_code": "shop.tools.delivery_days", "context_params": []},
}

PROMPT_TEMPLATES: dict[str, dict[str, Any]] = {
    "Orders and delivery": {
        "template_format": "jinja",
        "system_prompt_template": (
            "You help the customers of Leaf & Kettle, a small tea shop.\n"
            "You are talking with {{ customer_name }}"
            "{% if bought %}, who has bought: {{ bought | join(', ') }}{% endif %}.\n"
            "Look up orders and delivery times with your tools; never guess them.\n"
            "Answer in 10 to 20 words."
        ),
        "initial_messages_templates": [
            {
                "role": "assistant",
                "content": "Hello {{ customer_name }}! Which order may I look up for you?",
            }
        ],
    },
    "Choosing a tea": {
        "template_format": "mustache",
        "system_prompt_template": (
            "You advise customers of Leaf & Kettle, a small tea shop, on what to drink.\n"
            "You are talking with {{customer_name}}.\n"
            "{{#bought}}Already bought: {{.}}.\n{{/bought}}"
        ),
        "user_prompt_template": (
            "{{{user_msg}}}\n\nName one tea that is new to me. Answer in 10 to 20 words."
        ),
        "initial_messages_templates": [
            {"role": "assistant", "content": "What do you like: flowery, smoky, or plain?"}
        ],
    },
    "Something went wrong": {
        "template_format": "dollar",
        "system_prompt_template": (
            "You answer complaints for Leaf & Kettle, a small tea shop: kindly, without excuses.\n"
            "You may promise a refund of up to $$20. Answer in 10 to 20 words."
        ),
        "user_prompt_template": "$customer_name complains:\n$user_msg",
    },
}

ORDERS = (
    ("T-1041", "Assam, 250 g", "Austria", Order.State.DELIVERED, date(2026, 4, 2)),
    ("T-1042", "Jasmine tea, 100 g", "Italy", Order.State.SENT, date(2026, 5, 18)),
)


class Command(BaseCommand):
    """Makes what a demonstration needs; run again, it puts the same back in place."""

    help = "Loads tools and prompt templates, and with --customer orders of that user."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declares the arguments."""
        parser.add_argument("--customer", help="the name of the user who ordered something")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        """Does it.

        Raises:
            CommandError: There is no such user, or no model is configured.
        """
        call_command("sync_llm_configs", verbosity=0)
        configs = list(LLMConfigName.objects.all())
        if not configs:
            raise CommandError("LLM_CONFIGS_PATH holds no file, so nobody could answer")
        tools = [load_tool(name, fields) for name, fields in TOOLS.items()]
        for name, fields in PROMPT_TEMPLATES.items():
            template = load_template(name, fields)
            template.llm_config_names.set(configs)
            template.tools.set(tools if name == "Orders and delivery" else [])
        if options["customer"]:
            load_orders(options["customer"])
        self.stdout.write(f"{len(PROMPT_TEMPLATES)} prompt templates, {len(tools)} tools: loaded")


def load_tool(name: str, fields: dict[str, Any]) -> Tool:
    """Makes a tool, or makes it again as it was; the model is told what the function says."""
    tool = Tool.objects.filter(name=name).first() or Tool(name=name)
    for field, value in {**fields, "tool_json_spec": {}}.items():
        setattr(tool, field, value)
    fill_tool_spec(tool)
    tool.save()
    return tool


def load_template(name: str, fields: dict[str, Any]) -> PromptTemplate:
    """Makes a prompt template, or makes it again as it was."""
    always = {"required_kwargs": ["customer_name"], "logged_context_vars": ["customer_id"]}
    template, _ = PromptTemplate.objects.update_or_create(name=name, defaults={**always, **fields})
    return template


def load_orders(username: str) -> None:
    """Gives a user the orders."""
    customer = User.objects.filter(username=username).first()
    if customer is None:
        raise CommandError(f"there is no user {username!r}; manage.py createsuperuser makes one")
    for number, item, country, state, ordered_on in ORDERS:
        facts = {"item": item, "country": country, "state": state, "ordered_on": ordered_on}
        Order.objects.update_or_create(number=number, defaults={"customer": customer, **facts})
