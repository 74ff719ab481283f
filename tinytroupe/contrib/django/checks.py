"""System checks: `manage.py check` tells what of the settings, files and tables does not fit.

What is wrong in settings and files is an error. What is wrong in the tables is a warning, or a
name that an administrator added would keep the next deployment from migrating; and so is what
may be there when the site is served, such as a key.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from tinytroupe.contrib.django.conf import PREFIX, ROWS, TOOL_MODULES, list_setting_faults
from tinytroupe.contrib.django.configs import (
    LLMConfig,
    find_folder,
    list_config_files,
    survey_configs,
)
from tinytroupe.contrib.django.errors import UnknownConfig
from tinytroupe.contrib.django.tool_modules import find_missing_module
from tinytroupe.llm.config.endpoints import list_model_lacks
from tinytroupe.llm.config.load import suggest
from tinytroupe.llm.errors import ConfigError

logger = logging.getLogger("tinytroupe.django")

TAG = "llm_wrapper"
"""The app's label: `manage.py check --tag llm_wrapper` runs these checks alone."""

Apps = Sequence[AppConfig] | None

_FOLDER = "LLM_CONFIGS_PATH"


@register(TAG)
def check_settings(app_configs: Apps = None, **_: object) -> list[CheckMessage]:
    """Tells of settings that hold what they must not, or that nobody reads."""
    if not _is_asked(app_configs):
        return []
    found: list[CheckMessage] = [
        Error(said, hint=_say_setting_hint(name), obj=name, id=f"{TAG}.E001")
        for name, said in list_setting_faults()
    ]
    known = [row.name for row in ROWS]
    for name in dir(settings):
        if name.startswith(PREFIX) and name not in known:
            said = f"nothing reads this setting{suggest(name, known)}"
            found.append(
                Warning(said, hint="Correct its name, or take it out.", obj=name, id=f"{TAG}.W001")
            )
    return found


@register(TAG)
def check_tool_modules(app_configs: Apps = None, **_: object) -> list[CheckMessage]:
    """Tells of modules for tools that are nowhere. None is imported."""
    if not _is_asked(app_configs) or TOOL_MODULES.name in dict(list_setting_faults()):
        return []
    faults = filter(None, map(find_missing_module, TOOL_MODULES.read_now() or ()))
    hint = "Correct its name, or take it out: no tool can lie there."
    return [Warning(said, hint=hint, obj=TOOL_MODULES.name, id=f"{TAG}.W006") for said in faults]


@register(TAG)
def check_config_files(app_configs: Apps = None, **_: object) -> list[CheckMessage]:
    """Tells of files that configure no model, or one that cannot be asked: a message for each."""
    if not _is_asked(app_configs) or _FOLDER in dict(list_setting_faults()):
        return []
    if not getattr(settings, _FOLDER, None):
        hint = (
            "Set it to a folder with a YAML file for each model, such as "
            "BASE_DIR / 'llm_configs'. A file with llm_config_class: RehearsalConfig needs "
            "neither a key nor a network."
        )
        return [Error("it is not set", hint=hint, obj=_FOLDER, id=f"{TAG}.E002")]
    try:
        survey = survey_configs(find_folder())
    except ConfigError as error:
        hint = "Make the folder, or let the setting name another one."
        return [Error(error.message, hint=hint, obj=_FOLDER, id=f"{TAG}.E003")]
    if not survey.configs and not survey.faults:
        said = f"the folder {find_folder()} holds no file *.yaml or *.yml"
        hint = "Add one for each model."
        return [Warning(said, hint=hint, obj=_FOLDER, id=f"{TAG}.W002")]
    faults = [
        Error(error.message, hint=_say_file_hint(error), obj=_FOLDER, id=f"{TAG}.E004")
        for error in survey.faults.values()
    ]
    return [*faults, *_check_lacks(survey.configs.values())]


@register(TAG, Tags.database)
def check_tables(
    app_configs: Apps = None, databases: Collection[str] | None = None, **_: object
) -> list[CheckMessage]:
    """Tells of names without a file, and of tools that no model may be given.

    It also looks where no database was named, because that is what `manage.py check` does.
    Where there is no database, or no table yet, it has nothing to tell.
    """
    if not _is_asked(app_configs):
        return []
    try:
        folder = find_folder()
        files = list_config_files(folder)
        configs = survey_configs(folder).configs
    except ConfigError:
        return []
    rows = _read_rows(databases)
    if rows is None:
        return []
    return [*_check_names(rows, files, folder), *_check_tools(rows, configs)]


def _check_lacks(configs: Iterable[LLMConfig]) -> Iterator[CheckMessage]:
    hint = (
        "The first call would fail at this. Where the site that is served has what these checks "
        "do not see, such as a key, put the id into SILENCED_SYSTEM_CHECKS."
    )
    for config in configs:
        if lacks := list_model_lacks(config.model):
            said = f"{config.model.where}: {'; '.join(lacks)}"
            yield Warning(said, hint=hint, obj=_FOLDER, id=f"{TAG}.W005")


@dataclass(frozen=True, slots=True)
class _Rows:
    names: Sequence[str]
    """Of all configurations."""
    templates: Mapping[str, Sequence[str]]
    """Prompt template → its configurations."""
    with_tools: Sequence[str]
    """The prompt templates that have tools."""


def _check_names(rows: _Rows, files: Sequence[Path], folder: Path) -> Iterator[CheckMessage]:
    from tinytroupe.contrib.django.models import LLMConfigName

    stems = dict.fromkeys(file.stem for file in files)
    for name in rows.names:
        if name in stems:
            continue
        near = suggest(name, stems) if stems else ""
        users = [template for template, names in rows.templates.items() if name in names]
        said, hint = "no prompt template uses it", "or run manage.py sync_llm_configs --prune"
        if users:
            said = f"it is used by {', '.join(users)}"
            hint = "or choose another one in these prompt templates"
        yield Warning(
            f"the configuration {name!r} has no file in {folder}, and {said}{near}",
            hint=f"Add {name}.yaml, {hint}.",
            obj=LLMConfigName,
            id=f"{TAG}.W003",
        )


def _check_tools(rows: _Rows, configs: Mapping[str, LLMConfig]) -> Iterator[CheckMessage]:
    from tinytroupe.contrib.django.models import PromptTemplate

    for template in rows.with_tools:
        names = rows.templates.get(template, ())
        without = [name for name in names if name in configs and not configs[name].tools_enabled]
        if not without:
            continue
        told = "it cannot be asked" if len(without) == len(names) else "those are not asked"
        yield Warning(
            f"the prompt template {template!r} has tools, which are disabled in "
            f"{', '.join(without)}; {told}",
            hint="Write tools_enabled: true into the files, or take the tools or the "
            "configurations from the template.",
            obj=PromptTemplate,
            id=f"{TAG}.W004",
        )


def _read_rows(databases: Collection[str] | None) -> _Rows | None:
    """Returns what the tables hold; None: they cannot be read, or are not to be."""
    from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate

    alias = router.db_for_read(LLMConfigName)
    if databases is not None and alias not in databases:
        return None
    templates = PromptTemplate.objects.using(alias)
    through = (PromptTemplate.llm_config_names.through, PromptTemplate.tools.through)
    needed = {model._meta.db_table for model in (LLMConfigName, PromptTemplate, *through)}
    connection = connections[alias]
    # Opened for the check alone, it must not be left to processes that are forked later.
    was_open = connection.connection is not None
    try:
        if _is_missing(connection) or not needed <= set(connection.introspection.table_names()):
            return None
        with transaction.atomic(alias):
            used: dict[str, list[str]] = {}
            pairs = templates.order_by("name", "llm_config_names__name")
            for template, name in pairs.values_list("name", "llm_config_names__name"):
                used.setdefault(template, []).extend([name] if name else [])
            with_tools = templates.filter(tools__isnull=False).distinct()
            return _Rows(
                list(LLMConfigName.objects.using(alias).values_list("name", flat=True)),
                used,
                list(with_tools.values_list("name", flat=True)),
            )
    # Whatever keeps a database from being read, a check is not the one to fail for it: the
    # command that needs the database says so itself, and most need none.
    except Exception as error:
        logger.debug("the tables cannot be checked: %s", error)
        return None
    finally:
        if not was_open:
            connection.close()


def _is_missing(connection: BaseDatabaseWrapper) -> bool:
    """Tells whether connecting would make a new, empty file of SQLite."""
    name = connection.settings_dict["NAME"]
    if connection.vendor != "sqlite" or str(name).startswith(("file:", ":memory:")):
        return False
    return not Path(name).exists()


def _is_asked(app_configs: Apps) -> bool:
    return app_configs is None or any(each.label == TAG for each in app_configs)


def _say_setting_hint(name: str) -> str:
    if name == _FOLDER:
        return "Set it to the path of a folder."
    return f"Correct {name} in the settings, or take it out: there are defaults."


def _say_file_hint(error: ConfigError) -> str:
    if isinstance(error, UnknownConfig):
        return "Add the file that is missing, or take its name from the key."
    return "Correct the file, or set the variable that it asks for, or take it out of the folder."
