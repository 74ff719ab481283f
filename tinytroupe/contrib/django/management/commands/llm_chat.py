"""`manage.py llm_chat PROMPT_NAME`: a chat in the terminal."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, close_old_connections

from tinytroupe.contrib.django.errors import MissingVariables
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper
from tinytroupe.llm.errors import LLMError

QUIT = "/quit"


class Command(BaseCommand):
    """Sends each line as a message, and writes the answer as it comes."""

    help = (
        "Chats after a prompt template: each line is a message, until the input ends or a line "
        f"is {QUIT}. The chat is kept in the database."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declares the arguments."""
        parser.add_argument("prompt_name", metavar="PROMPT_NAME", help="the prompt template's name")
        parser.add_argument(
            "--chat", type=int, metavar="ID", help="the chat that is taken up again"
        )
        parser.add_argument(
            "--var",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="a variable of the templates, a text; may be given several times",
        )
        parser.add_argument(
            "--seed", type=int, help="decides which of the template's configurations is asked"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Chats.

        Raises:
            CommandError: There is no such prompt template or chat, or the chat cannot begin;
                or, where nobody sits at a terminal, messages were not answered.
        """
        chat_id = options["chat"]
        try:
            wrapper = LLMCommunicationWrapper(
                prompt_name=options["prompt_name"],
                chat_history_id=chat_id,
                initializing_context_vars=_read_variables(options["var"]),
                seed=options["seed"],
            )
        except MissingVariables as error:
            given = " ".join(f"--var {name}=…" for name in error.names)
            raise CommandError(f"{error}; give them as {given}") from error
        except LLMError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"chat {wrapper.chat_history_id} with {wrapper.llm_config_name}; --chat "
            f"{wrapper.chat_history_id} takes it up again, {QUIT} ends it"
        )
        if chat_id is None:
            for message in wrapper.get_chat_history_object().chat_history:
                if message["role"] == "assistant":
                    self.stdout.write(message["content"])
        answered = [self._answer(wrapper, line) for line in self._read_lines()]
        if not all(answered) and not sys.stdin.isatty():
            count = answered.count(False)
            raise CommandError(f"{count} of {len(answered)} messages were not answered")

    def _read_lines(self) -> Iterator[str]:
        prompt = "> " if sys.stdin.isatty() else ""
        while True:
            try:
                line = input(prompt).strip()
            except UnicodeDecodeError as error:
                raise CommandError(f"the input is not a text in {error.encoding}") from error
            except (EOFError, KeyboardInterrupt):
                if prompt:
                    self.stdout.write()
                return
            if line == QUIT:
                return
            if line:
                yield line

    def _answer(self, wrapper: LLMCommunicationWrapper, message: str) -> bool:
        """Writes the answer to a message, or why there is none; returns whether there is one."""
        said = None
        try:
            with closing(wrapper.stream_user_message(message)) as pieces:
                for piece in pieces:
                    self.stdout.write(piece, ending="")
                    self.stdout.flush()
        except KeyboardInterrupt:
            said = "stopped; the message counts as not answered"
        except LLMError as error:
            said = f"{type(error).__name__}: {error}"
        except DatabaseError as error:
            said = f"the database cannot be used: {error}"
            close_old_connections()
        self.stdout.write()
        if said is not None:
            self.stderr.write(said)
        return said is None


def _read_variables(given: Iterable[str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise CommandError(f"--var {text!r} is not of the form NAME=VALUE")
        if name.strip() in variables:
            raise CommandError(f"--var gives {name.strip()} twice")
        variables[name.strip()] = value
    return variables
