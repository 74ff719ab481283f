"""`manage.py sync_llm_configs`: gives the table of configurations a row for each file."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import router, transaction

from tinytroupe.contrib.django.configs import find_folder, survey_configs
from tinytroupe.contrib.django.models import LLMConfigName, PromptTemplate
from tinytroupe.llm.errors import ConfigError


class Command(BaseCommand):
    """Adds the names of new files, and tells which names have no file any more."""

    help = (
        "Adds a row for each file in LLM_CONFIGS_PATH to the table of LLM configurations, and "
        "tells which rows have no file. Running it again changes nothing."
    )
    # What they would complain of is what this command puts right, or tells itself.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declares the arguments."""
        parser.add_argument(
            "--prune",
            action="store_true",
            help="remove the names that have no file and that no prompt template uses",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="tell what would be done, and do nothing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Does it.

        Raises:
            CommandError: A file cannot be used, and nothing was changed; or there is no
                folder of them.
        """
        names = _read_names()
        alias = router.db_for_write(LLMConfigName)
        self._told = options["verbosity"] > 0
        self._changes = not options["dry_run"]
        with transaction.atomic(alias):
            # Locked, so that no template takes up a name that is being removed.
            rows = LLMConfigName.objects.using(alias).select_for_update()
            known = {row.name: row for row in rows}
            added = [name for name in names if name not in known]
            for name in added:
                self._add(LLMConfigName(name=name), alias)
            left = [row for name, row in known.items() if name not in names]
            removed = [row for row in left if self._settle(row, prune=options["prune"])]
        would = "" if self._changes else "would be "
        stay = len(known) - len(removed)
        self._tell(f"{would}added: {len(added)}, {would}removed: {len(removed)}, as before: {stay}")

    def _add(self, row: LLMConfigName, alias: str) -> None:
        try:
            row.clean_fields()
        except ValidationError as error:
            raise CommandError(f"{row.name}: {' '.join(error.messages)}") from error
        if self._changes:
            # Another process may add the same name at this moment.
            LLMConfigName.objects.using(alias).bulk_create([row], ignore_conflicts=True)
        self._tell(f"{row.name}: {'added' if self._changes else 'would be added'}")

    def _settle(self, row: LLMConfigName, *, prune: bool) -> bool:
        """Says what becomes of a name without a file; returns whether it goes."""
        # Deleting takes the name from the row.
        name = row.name
        used = PromptTemplate.objects.using(row._state.db).filter(llm_config_names=row)
        users = ", ".join(used.values_list("name", flat=True))
        if users:
            self._tell(f"{name}: no file has this name; it stays, because it is used by {users}")
            return False
        if not prune:
            self._tell(f"{name}: no file has this name; --prune removes it")
            return False
        if self._changes:
            row.delete()
        self._tell(f"{name}: {'removed' if self._changes else 'would be removed'}")
        return True

    def _tell(self, sentence: str) -> None:
        if self._told:
            self.stdout.write(sentence)


def _read_names() -> list[str]:
    try:
        survey = survey_configs(find_folder())
    except ConfigError as error:
        raise CommandError(error.message) from error
    if survey.faults:
        told = "\n".join(error.message for error in survey.faults.values())
        raise CommandError(f"nothing was changed, because files cannot be used:\n{told}")
    return list(survey.configs)
