"""The tables as they were first."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="ChatHistory",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created at")),
                ("updated_at", models.DateTimeField(auto_now=True, verbose_name="updated at")),
                (
                    "chat_history",
                    models.JSONField(blank=True, default=list, verbose_name="messages"),
                ),
                (
                    "current_context_variables",
                    models.JSONField(blank=True, default=dict, verbose_name="variables"),
                ),
            ],
            options={
                "verbose_name": "chat",
                "verbose_name_plural": "chats",
                "ordering": ("-updated_at", "-pk"),
            },
        ),
        migrations.CreateModel(
            name="LLMConfigName",
            fields=[
                (
                    "name",
                    models.CharField(
                        max_length=200, primary_key=True, serialize=False, verbose_name="name"
                    ),
                ),
            ],
            options={
                "verbose_name": "LLM configuration",
                "verbose_name_plural": "LLM configurations",
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="Tool",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created at")),
                ("updated_at", models.DateTimeField(auto_now=True, verbose_name="updated at")),
                (
                    "name",
                    models.CharField(
                        help_text="What the model calls it: letters, digits, underscores and dashes.",
                        max_length=64,
                        unique=True,
                        verbose_name="name",
                    ),
                ),
                (
                    "tool_code",
                    models.TextField(
                        help_text="The dotted path of a function, such as shop.tools.find_order. Or the source text of one, which runs only where the setting LLM_WRAPPER_ALLOW_TOOL_CODE is True.",
                        verbose_name="code",
                    ),
                ),
                (
                    "tool_json_spec",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="What the model is told: name, description and parameters (JSON Schema). Left empty, it is filled from the function's signature and docstring.",
                        verbose_name="JSON spec",
                    ),
                ),
                (
                    "default_values_for_non_llm_params",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text='Parameter → value, such as {"currency": "EUR"}.',
                        verbose_name="values the model cannot set",
                    ),
                ),
                (
                    "context_params",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text='Names of parameters that are filled from the chat\'s variables and that the model cannot set, such as ["user_id"].',
                        verbose_name="parameters from the chat",
                    ),
                ),
            ],
            options={
                "verbose_name": "tool",
                "verbose_name_plural": "tools",
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="ChatLock",
            fields=[
                (
                    "chat",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="lock",
                        serialize=False,
                        to="llm_wrapper.chathistory",
                    ),
                ),
            ],
            options={
                "verbose_name": "lock of a chat",
                "verbose_name_plural": "locks of chats",
            },
        ),
        migrations.CreateModel(
            name="PromptTemplate",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=200, unique=True, verbose_name="name")),
                (
                    "template_format",
                    models.CharField(
                        choices=[
                            ("jinja", "Jinja: {{ name }}"),
                            ("mustache", "Mustache: {{name}}"),
                            ("dollar", "$name"),
                        ],
                        default="jinja",
                        help_text="The language of all templates below.",
                        max_length=16,
                        verbose_name="format",
                    ),
                ),
                (
                    "system_prompt_template",
                    models.TextField(blank=True, verbose_name="system prompt"),
                ),
                (
                    "user_prompt_template",
                    models.TextField(
                        blank=True,
                        help_text="Wraps each message of the user, which is the variable user_msg. Empty: the message is sent as it is.",
                        verbose_name="user prompt",
                    ),
                ),
                (
                    "initial_messages_templates",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text='A list such as [{"role": "assistant", "content": "Hello!"}].',
                        verbose_name="initial messages",
                    ),
                ),
                (
                    "required_kwargs",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text='Names without which nothing is asked, such as ["question"].',
                        verbose_name="required variables",
                    ),
                ),
                (
                    "logged_context_vars",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Names of variables that are stored with each message of the user.",
                        verbose_name="logged variables",
                    ),
                ),
                (
                    "llm_config_names",
                    models.ManyToManyField(
                        help_text="One of them is chosen at random for each wrapper.",
                        related_name="prompt_templates",
                        to="llm_wrapper.llmconfigname",
                        verbose_name="LLM configurations",
                    ),
                ),
                (
                    "tools",
                    models.ManyToManyField(
                        blank=True,
                        related_name="prompt_templates",
                        to="llm_wrapper.tool",
                        verbose_name="tools",
                    ),
                ),
            ],
            options={
                "verbose_name": "prompt template",
                "verbose_name_plural": "prompt templates",
                "ordering": ("name",),
            },
        ),
    ]
