"""The tables of the app: made, taken away, made again, and the same as the models."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django_fixtures import KINDS, use_database

from tinytroupe.contrib.django.models import (
    ChatHistory,
    ChatLock,
    LLMConfigName,
    PromptTemplate,
    Tool,
)

APP = "llm_wrapper"
MODELS = (
    Tool,
    LLMConfigName,
    PromptTemplate,
    PromptTemplate.llm_config_names.through,
    PromptTemplate.tools.through,
    ChatHistory,
    ChatLock,
)
TABLES = {model._meta.db_table for model in MODELS}


@pytest.fixture(params=KINDS)
def empty_database(request, make_database):
    """A database without any table."""
    made = make_database(request.param)
    with use_database(made):
        yield made


def migrate(*target):
    call_command("migrate", *target, verbosity=0, interactive=False)


def list_columns():
    """Returns the tables of the app that are there, with their columns."""
    with connection.cursor() as cursor:
        return {
            table: [
                (column.name, column.type_code, column.null_ok)
                for column in connection.introspection.get_table_description(cursor, table)
            ]
            for table in connection.introspection.table_names(cursor)
            if table.startswith(APP)
        }


def fill_tables():
    tool = Tool.objects.create(name="find_order", tool_code="shop.tools.find_order")
    template = PromptTemplate.objects.create(name="support")
    template.tools.add(tool)
    template.llm_config_names.add(LLMConfigName.objects.create(name="gpt"))
    ChatLock.objects.create(chat=ChatHistory.objects.create())


@pytest.mark.smoke
def test_forward_back_and_forward_again(empty_database):
    """Migrations make all tables from nothing, take all away with what is in them, and repeat."""
    migrate()
    made = list_columns()
    assert set(made) == TABLES
    fill_tables()
    migrate(APP, "zero")
    assert list_columns() == {}
    migrate(APP)
    assert list_columns() == made
    fill_tables()
    assert [model.objects.count() for model in MODELS] == [1] * len(MODELS)


def test_the_app_needs_no_other(empty_database):
    """The app's own migrations run without those of any other app."""
    migrate(APP)
    assert set(list_columns()) == TABLES
    assert set(connection.introspection.table_names()) == {*TABLES, "django_migrations"}


def test_each_column_is_one_of_its_model(empty_database):
    """A table that migrations made has the columns that its model has, and no other."""
    migrate(APP)
    columns = {table: {name for name, *_ in found} for table, found in list_columns().items()}
    for model in MODELS:
        expected = {field.column for field in model._meta.concrete_fields}
        assert columns[model._meta.db_table] == expected


def test_models_and_migrations_say_the_same(database, capsys):
    """`makemigrations --check` finds nothing that a migration would have to change."""
    call_command("makemigrations", check_changes=True, dry_run=True)
    assert "No changes detected" in capsys.readouterr().out


def test_nothing_is_left_to_migrate(database):
    """A site that has migrated has nothing left to do."""
    executor = MigrationExecutor(connection)
    assert executor.migration_plan(executor.loader.graph.leaf_nodes()) == []


def test_every_migration_can_be_taken_back(database):
    """Each operation of each migration knows its way back."""
    migrations = MigrationExecutor(connection).loader.disk_migrations
    own = [migration for (app, _), migration in migrations.items() if app == APP]
    assert own
    assert all(operation.reversible for migration in own for operation in migration.operations)
