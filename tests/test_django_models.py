"""The tables: what each field may hold."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from tinytroupe.contrib.django.models import (
    ChatHistory,
    ChatLock,
    LLMConfigName,
    PromptTemplate,
    Tool,
)

NEEDED = {
    Tool: {"name": "find_order", "tool_code": "shop.tools.find_order"},
    PromptTemplate: {"name": "support"},
    ChatHistory: {},
}

NAMES = [(Tool, "context_params")]
NAMES += [(PromptTemplate, field) for field in ("required_kwargs", "logged_context_vars")]
MAPPINGS = [
    (Tool, "default_values_for_non_llm_params"),
    (ChatHistory, "current_context_variables"),
]
JSON_FIELDS = [
    *NAMES,
    *MAPPINGS,
    (Tool, "tool_json_spec"),
    (PromptTemplate, "initial_messages_templates"),
    (ChatHistory, "chat_history"),
]
TEMPLATE_FIELDS = ("system_prompt_template", "user_prompt_template")
BROKEN = {
    "jinja": ("Hello,\n{% if %}", "line 2: Expected an expression"),
    "mustache": ("Hello,\n{{#people}}", "line 2: the section {{#people}} is never closed"),
    "dollar": ("Hello,\nthat is 5 $", "line 2: a $ must be followed by a name"),
}
OBJECT = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}


def list_faults(model, **fields):
    """Saves a row that cannot be, and returns what was said, by field."""
    rows = model.objects.count()
    with pytest.raises(ValidationError) as caught, transaction.atomic():
        model(**{**NEEDED[model], **fields}).save()
    assert model.objects.count() == rows
    return {field: " ".join(said) for field, said in caught.value.message_dict.items()}


def find_fault(model, field, value):
    """Saves a row with one wrong field and returns what was said of it."""
    faults = list_faults(model, **{field: value})
    assert list(faults) == [field]
    assert field in faults[field]
    return faults[field]


class TestJSONFields:
    def test_all_of_them_are_tested(self):
        """Each JSON field of each table is one that these tests know."""
        found = {
            (model, field.name)
            for model in (Tool, LLMConfigName, PromptTemplate, ChatHistory, ChatLock)
            for field in model._meta.concrete_fields
            if field.get_internal_type() == "JSONField"
        }
        assert found == set(JSON_FIELDS)

    @pytest.mark.parametrize(("model", "field"), JSON_FIELDS)
    def test_their_defaults_are_empty_and_their_own(self, database, model, field):
        """A row that says nothing gets an empty value, which no other row shares."""
        first, second = model(**NEEDED[model]), model(**NEEDED[model])
        assert getattr(first, field) in ([], {})
        assert getattr(first, field) is not getattr(second, field)
        first.save()
        assert getattr(model.objects.get(), field) == getattr(first, field)

    @pytest.mark.parametrize(("model", "field"), NAMES)
    @pytest.mark.parametrize(
        ("value", "fault"),
        [
            (None, "it must be a list of names, not null"),
            ("user_id", 'it must be a list of names, not the text "user_id"'),
            ({"user_id": 1}, "it must be a list of names, not an object"),
            (3, "it must be a list of names, not the number 3"),
            (True, "it must be a list of names, not true or false"),
            (("a",), "it must be a list of names, not a value of type tuple"),
            (["a", 3], "item 1 is 3, not a name"),
            (["a", " "], 'item 1 is " ", not a name'),
            (["a", "b", "a"], "item 2: the name 'a' stands twice"),
        ],
    )
    def test_lists_of_names(self, database, model, field, value, fault):
        """What is not a list of different names is refused, with the item at fault."""
        assert find_fault(model, field, value) == f"{field}: {fault}"

    @pytest.mark.parametrize(("model", "field"), MAPPINGS)
    @pytest.mark.parametrize(
        ("value", "fault"),
        [
            (None, "it must be an object of names and values, not null"),
            ([], "it must be an object of names and values, not a list"),
            ("{}", 'it must be an object of names and values, not the text "{}"'),
            ({"": 1}, "the key '' is not a name"),
        ],
    )
    def test_names_with_values(self, database, model, field, value, fault):
        """What is not an object whose keys are names is refused, with the key at fault."""
        assert find_fault(model, field, value) == f"{field}: {fault}"

    @pytest.mark.parametrize(
        ("value", "fault"),
        [
            (None, "it must be an object, not null"),
            ([], "it must be an object, not a list"),
            ({"parameters": OBJECT}, 'it has no "name" that is a text'),
            ({"type": "function", "function": []}, 'it has no "name" that is a text'),
            (
                {"name": "f", "description": 3, "parameters": OBJECT},
                '"description" is the number 3',
            ),
            ({"name": "f"}, 'its "parameters" must be a JSON Schema with the type "object"'),
            ({"name": "f", "parameters": {"type": "array"}}, 'with the type "object"'),
            (
                {"name": "f", "parameters": {"type": "object", "properties": []}},
                'the "properties" of its parameters must be an object',
            ),
            (
                {"name": "f", "parameters": {"type": "object", "properties": {"a": 3}}},
                "its parameter 'a' is the number 3, not a JSON Schema",
            ),
            (
                {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "x"}}}},
                "the schema names the type 'x'",
            ),
        ],
    )
    def test_specs_of_tools(self, database, value, fault):
        """A spec that a model could not be told is refused, with the part at fault."""
        assert fault in find_fault(Tool, "tool_json_spec", value)

    @pytest.mark.parametrize(
        "value",
        [
            {},
            {"name": "f", "parameters": OBJECT},
            {"type": "function", "function": {"name": "f", "parameters": OBJECT}},
        ],
    )
    def test_specs_may_be_empty_bare_or_wrapped(self, database, value):
        """A spec is kept as it was written: not at all, or as either of OpenAI's APIs has it."""
        Tool(**NEEDED[Tool], tool_json_spec=value).save()
        assert Tool.objects.get().tool_json_spec == value

    @pytest.mark.parametrize(
        ("value", "fault"),
        [
            ({}, "it must be a list of messages, not an object"),
            (None, "it must be a list of messages, not null"),
            (["Hello"], 'item 0 is the text "Hello", not a message'),
            ([{}], "item 0 has no role and no content"),
            ([{"role": "user"}], "item 0 has no content"),
            ([{"role": "user", "content": "a", "name": "b"}], "item 0 has 'name'"),
            ([{"role": "tool", "content": "a"}], 'item 0: the role "tool" is none of system, user'),
            ([{"role": ["user"], "content": "a"}], 'item 0: the role ["user"] is none of'),
            ([{"role": "user", "content": None}], "item 0: its content is null"),
        ],
    )
    def test_initial_messages(self, database, value, fault):
        """What is not a list of messages with role and content is refused, with the item."""
        said = find_fault(PromptTemplate, "initial_messages_templates", value)
        assert said.startswith(f"initial_messages_templates: {fault}")

    @pytest.mark.parametrize(("model", "field"), JSON_FIELDS)
    @pytest.mark.parametrize(
        ("value", "fault"),
        [
            (float("nan"), "is nan, which JSON cannot express"),
            (Decimal(1), "is of type Decimal, which has no JSON form"),
            (2**64, "is an integer that JSON readers cannot hold"),
            ("a\0", "holds NUL or half a character, which cannot be stored"),
            ("\ud800", "holds NUL or half a character, which cannot be stored"),
        ],
    )
    def test_what_no_database_can_hold(self, database, model, field, value, fault):
        """A value that one of the databases would choke on is refused on both, with its place."""
        assert find_fault(model, field, [{"deep": [value]}]).startswith(
            f"{field}[0].deep[0] {fault}"
        )

    @pytest.mark.parametrize(("model", "field"), JSON_FIELDS)
    def test_a_value_that_contains_itself(self, database, model, field):
        """A value without end is refused like any other."""
        value = []
        value.append(value)
        assert "nested too deeply, or contains itself" in find_fault(model, field, value)


class TestTemplates:
    @pytest.mark.parametrize("format", BROKEN)
    @pytest.mark.parametrize("field", TEMPLATE_FIELDS)
    def test_prompts_are_compiled_when_saved(self, database, format, field):
        """A prompt that is no template of its format is refused, with the field and the line."""
        text, fault = BROKEN[format]
        faults = list_faults(PromptTemplate, template_format=format, **{field: text})
        assert list(faults) == [field]
        assert faults[field].startswith(f"{field}, {fault}")

    @pytest.mark.parametrize("format", BROKEN)
    def test_initial_messages_are_compiled_when_saved(self, database, format):
        """An initial message that is no template is refused, with its place and the line."""
        text, fault = BROKEN[format]
        messages = [{"role": "assistant", "content": each} for each in ("Hello.", text)]
        faults = list_faults(
            PromptTemplate, template_format=format, initial_messages_templates=messages
        )
        assert list(faults) == ["initial_messages_templates"]
        assert faults["initial_messages_templates"].startswith(
            f"initial_messages_templates[1], {fault}"
        )

    @pytest.mark.parametrize(
        ("format", "other"),
        [
            ("jinja", "dollar"),
            ("mustache", "jinja"),
            ("mustache", "dollar"),
            ("dollar", "jinja"),
            ("dollar", "mustache"),
        ],
    )
    def test_what_is_no_template_elsewhere_may_be_one_here(self, database, format, other):
        """Only the format that was chosen decides what a template is."""
        text, _ = BROKEN[other]
        PromptTemplate(name="a", template_format=format, system_prompt_template=text).save()
        assert PromptTemplate.objects.get().system_prompt_template == text

    def test_all_faults_are_said_at_once(self, database):
        """Each template that is wrong is named, not only the first."""
        broken, _ = BROKEN["jinja"]
        fields = dict.fromkeys(TEMPLATE_FIELDS, broken)
        assert set(list_faults(PromptTemplate, **fields)) == set(TEMPLATE_FIELDS)

    @pytest.mark.parametrize("format", ["twig", "", "JINJA", None])
    def test_there_are_three_formats(self, database, format):
        """Another format is refused, with the three that there are."""
        said = find_fault(PromptTemplate, "template_format", format)
        assert said == f"template_format: {format!r} is none of jinja, mustache, dollar"

    @pytest.mark.parametrize("field", TEMPLATE_FIELDS)
    @pytest.mark.parametrize("text", ["a\0b", "a\ud800b", None, 3])
    def test_texts_that_are_none(self, database, field, text):
        """What is not a text, or one that cannot be stored, is refused."""
        find_fault(PromptTemplate, field, text)


class TestOtherFields:
    @pytest.mark.parametrize("name", ["", "find order", "x" * 65, "größe", "a\n", "a\0", None])
    def test_names_of_tools(self, database, name):
        """A tool has a name that a model can call it by."""
        find_fault(Tool, "name", name)

    @pytest.mark.parametrize("code", ["", None, 3, "a\0"])
    def test_code_of_tools(self, database, code):
        """A tool has code, which is a text that can be stored."""
        assert list(list_faults(Tool, tool_code=code)) == ["tool_code"]

    @pytest.mark.parametrize("name", ["", None, 3, "x" * 201, "a\0"])
    def test_names_of_prompt_templates(self, database, name):
        """A prompt template has a name that is a text of up to 200 characters."""
        assert list(list_faults(PromptTemplate, name=name)) == ["name"]

    @pytest.mark.parametrize("model", [Tool, PromptTemplate])
    def test_names_are_unique(self, database, model):
        """No two rows have one name: a form says so, and the database holds to it."""
        model(**NEEDED[model]).save()
        with pytest.raises(ValidationError) as caught:
            model(**NEEDED[model]).full_clean()
        assert list(caught.value.message_dict) == ["name"]
        with pytest.raises(IntegrityError), transaction.atomic():
            model(**NEEDED[model]).save()
        assert model.objects.count() == 1

    def test_a_configuration_is_its_name(self, database):
        """Saving a configuration's name twice leaves one row."""
        LLMConfigName(name="gpt").save()
        LLMConfigName(name="gpt").save()
        assert LLMConfigName.objects.get().pk == "gpt"

    @pytest.mark.parametrize("model", [Tool, ChatHistory])
    def test_times_are_kept(self, database, model):
        """A row knows when it was made and when it was last saved, in UTC."""
        before = timezone.now()
        row = model(**NEEDED[model])
        row.save()
        made = row.created_at
        row.save()
        row.refresh_from_db()
        assert before <= made == row.created_at < row.updated_at <= timezone.now()
        assert row.updated_at.utcoffset().total_seconds() == 0

    def test_a_prompt_template_finds_its_own(self, database):
        """Tools and configurations know the templates that use them, and outlive them."""
        template = PromptTemplate.objects.create(name="support")
        tool = Tool.objects.create(**NEEDED[Tool])
        template.tools.add(tool)
        template.llm_config_names.add(LLMConfigName.objects.create(name="gpt"))
        assert list(tool.prompt_templates.all()) == [template]
        assert list(LLMConfigName.objects.get().prompt_templates.all()) == [template]
        template.delete()
        assert (Tool.objects.count(), LLMConfigName.objects.count()) == (1, 1)

    def test_rows_are_called_by_name(self, database):
        """What the admin shows of a row is its name, or the number of the chat."""
        chat = ChatHistory.objects.create()
        lock = ChatLock.objects.create(chat=chat)
        rows = (Tool(name="a"), LLMConfigName(name="b"), PromptTemplate(name="c"), chat, lock)
        shown = ["a", "b", "c", f"chat {chat.pk}", f"lock of chat {chat.pk}"]
        assert [str(row) for row in rows] == shown
        chat.delete()
        assert ChatLock.objects.count() == 0
