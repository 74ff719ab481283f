"""The commands `sync_llm_configs` and `llm_chat`."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command, execute_from_command_line
from django.core.management.base import CommandError
from django.db import OperationalError, transaction
from django.db.models.signals import pre_delete
from django_chats import Endpoints, MakePrompt, outline
from django_fixtures import IN_CHILD, Database

from tinytroupe.contrib.django.models import ChatHistory, LLMConfigName, PromptTemplate, Tool
from tinytroupe.contrib.django.repositories import LLMCommunicationWrapper

pytest_plugins = ("django_fixtures", "django_chats")

END_OF_INPUT = "\x04"
KEY = "sk-nobody-may-see-this"
CLASS = "llm_config_class: RehearsalConfig"

Override = Callable[..., None]
Chat = Callable[..., str]

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def write(folder: Path, name: str, text: str = CLASS) -> None:
    (folder / f"{name}.yaml").write_text(f"name: {name}\n{text}\n", encoding="utf-8")


def sync(**options: Any) -> str:
    out = io.StringIO()
    call_command("sync_llm_configs", stdout=out, **options)
    return out.getvalue()


def list_names() -> list[str]:
    return sorted(LLMConfigName.objects.values_list("name", flat=True))


def make_template(name: str, *configs: str) -> PromptTemplate:
    template = PromptTemplate.objects.create(name=name)
    for config in configs:
        template.llm_config_names.add(LLMConfigName.objects.get_or_create(name=config)[0])
    return template


class TestSync:
    def test_names_are_added(self, database: Database, configs_folder: Path) -> None:
        """Each file gets a row, and a second run changes nothing."""
        write(configs_folder, "b")
        LLMConfigName.objects.create(name="b")
        first = sync()
        assert "rehearsal: added" in first
        assert "added: 1, removed: 0, as before: 1" in first
        assert list_names() == ["b", "rehearsal"]
        assert sync() == "added: 0, removed: 0, as before: 2\n"
        assert list_names() == ["b", "rehearsal"]

    def test_names_without_a_file(self, database: Database, configs_folder: Path) -> None:
        """A name without a file is told of with who uses it, and stays."""
        make_template("support", "used")
        make_template("sales", "used", "rehearsal")
        LLMConfigName.objects.create(name="left")
        told = sync()
        assert "left: no file has this name; --prune removes it" in told
        assert "used: no file has this name; it stays, because it is used by sales, supp" in told
        assert list_names() == ["left", "rehearsal", "used"]

    def test_pruning(self, database: Database, configs_folder: Path) -> None:
        """Pruning removes what no template uses, and nothing else."""
        template = make_template("support", "used")
        LLMConfigName.objects.create(name="left")
        told = sync(prune=True)
        assert "left: removed" in told
        assert "it is used by support" in told
        assert "added: 1, removed: 1, as before: 1" in told
        assert list_names() == ["rehearsal", "used"]
        assert template.llm_config_names.get().name == "used"

    def test_dry_run(self, database: Database, configs_folder: Path) -> None:
        """A dry run tells the same and changes nothing."""
        LLMConfigName.objects.create(name="left")
        told = sync(prune=True, dry_run=True)
        assert "rehearsal: would be added" in told
        assert "left: would be removed" in told
        assert "would be added: 1, would be removed: 1, as before: 0" in told
        assert list_names() == ["left"]

    def test_silent(self, database: Database, configs_folder: Path) -> None:
        """With verbosity 0 it says nothing."""
        assert sync(verbosity=0) == ""
        assert list_names() == ["rehearsal"]

    def test_broken_files(self, database: Database, configs_folder: Path) -> None:
        """Where files are broken, each is named, nothing is changed, and no key is shown."""
        write(configs_folder, "a", f"llm_config_class: x\napi_key: {KEY}")
        write(configs_folder, "b", f"{CLASS}\napi_kye: {KEY}")
        LLMConfigName.objects.create(name="a")
        with pytest.raises(CommandError, match=r"(?s)nothing was changed.*a\.yaml.*b\.yaml") as no:
            sync(prune=True)
        assert KEY not in str(no.value)
        assert list_names() == ["a"]

    def test_no_folder(
        self, database: Database, site_settings: Override, configs_folder: Path
    ) -> None:
        """Without a setting or a folder it fails and says which is missing."""
        for path, said in ((None, "LLM_CONFIGS_PATH is not set"), ("/nowhere", "/nowhere cannot")):
            site_settings(LLM_CONFIGS_PATH=path)
            with pytest.raises(CommandError, match=said):
                sync()

    def test_an_empty_folder(self, database: Database, configs_folder: Path) -> None:
        """Of an empty folder nothing is added."""
        (configs_folder / "rehearsal.yaml").unlink()
        assert sync() == "added: 0, removed: 0, as before: 0\n"

    def test_a_name_that_does_not_fit(self, database: Database, configs_folder: Path) -> None:
        """A name that is longer than the table's is an error, and nothing is changed."""
        write(configs_folder, "x" * 201)
        with pytest.raises(CommandError, match=r"x: .*200"):
            sync()
        assert list_names() == []

    @on_sqlite
    def test_it_runs_where_checks_fail(
        self,
        database: Database,
        configs_folder: Path,
        site_settings: Override,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """What puts the table right is not kept back by checks."""
        site_settings(LLM_WRAPPER_TOOL_SECONDS=0)
        execute_from_command_line(["manage.py", "sync_llm_configs"])
        assert "rehearsal: added" in capsys.readouterr().out

    @pytest.mark.parametrize("database", ["postgresql"], indirect=True)
    def test_a_template_takes_up_a_name_meanwhile(
        self, database: Database, configs_folder: Path
    ) -> None:
        """A name that is being removed cannot be taken up by a template at that moment."""
        LLMConfigName.objects.create(name="left")
        template = make_template("support")
        outcome: list[str] = []

        def take_up() -> None:
            try:
                with transaction.atomic():
                    template.llm_config_names.add("left")
                outcome.append("added")
            except Exception as error:
                outcome.append(type(error).__name__)

        thread = threading.Thread(target=take_up)

        def begin(**_: Any) -> None:
            thread.start()
            thread.join(0.3)
            assert not outcome  # it waits for the lock

        pre_delete.connect(begin, sender=LLMConfigName, weak=False)
        try:
            sync(prune=True)
        finally:
            pre_delete.disconnect(begin, sender=LLMConfigName)
        thread.join()
        assert outcome == ["IntegrityError"]
        assert template.llm_config_names.count() == 0


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Chat:
    """A function that chats with these lines as the input, and returns what is written."""

    def run(*words: str, lines: str = "", **options: Any) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        out = options.pop("stdout", io.StringIO())
        call_command("llm_chat", *words, stdout=out, **options)
        return str(out.getvalue())

    return run


class TestChat:
    def test_a_chat(
        self, database: Database, endpoints: Endpoints, make_prompt: MakePrompt, chat: Chat
    ) -> None:
        """Each line is a message and gets an answer, until the input ends; all of it is stored."""
        endpoints.add("echo", lambda body: f"You said: {body['messages'][-1]['content']}")
        make_prompt(configs=("echo",))
        told = chat("support", "--var", "customer=Amina", lines="Hi there\n\n  \nAnd now?")
        number = ChatHistory.objects.get().pk
        opening, *answers = told.splitlines()
        assert opening == (
            f"chat {number} with echo; --chat {number} takes it up again, /quit ends it"
        )
        assert [answer.strip() for answer in answers] == [
            "You said: Hi there",
            "You said: And now?",
        ]
        assert outline(ChatHistory.objects.get().chat_history) == [
            ("system", "You help Amina."),
            ("user", "Hi there"),
            ("assistant", "You said: Hi there"),
            ("user", "And now?"),
            ("assistant", "You said: And now?"),
        ]

    def test_it_is_taken_up_again(
        self, database: Database, make_prompt: MakePrompt, chat: Chat
    ) -> None:
        """A chat goes on where it was, with new variables; `/quit` ends it."""
        make_prompt()
        chat("support", "--var", "customer=Amina", lines="One\n")
        number = ChatHistory.objects.get().pk
        told = chat(
            "support",
            f"--chat={number}",
            "--var=customer=Bo=b",
            lines="Two\n/quit\nThree\n",
        )
        assert told.startswith(f"chat {number} ")
        history = ChatHistory.objects.get()
        assert [text for role, text in outline(history.chat_history) if role == "user"] == [
            "One",
            "Two",
        ]
        assert history.current_context_variables == {"customer": "Bo=b"}
        assert outline(history.chat_history)[0] == ("system", "You help Bo=b.")

    def test_the_greeting(self, database: Database, make_prompt: MakePrompt, chat: Chat) -> None:
        """What an assistant says at the beginning is shown in a new chat, and there only."""
        make_prompt(
            initial_messages_templates=[{"role": "assistant", "content": "Hi {{customer}}"}]
        )
        told = chat("support", "--var=customer=Amina")
        assert told.splitlines()[1:] == ["Hi Amina"]
        number = ChatHistory.objects.get().pk
        assert len(chat("support", f"--chat={number}").splitlines()) == 1

    def test_pieces(
        self, database: Database, endpoints: Endpoints, make_prompt: MakePrompt, chat: Chat
    ) -> None:
        """An answer is written piece by piece as it comes, and flushed."""

        class Recorder(io.StringIO):
            def __init__(self) -> None:
                super().__init__()
                self.seen: list[str] = []

            def flush(self) -> None:
                self.seen.append(self.getvalue())

        out = Recorder()
        endpoints.add("slow", lambda body: "One two three")
        make_prompt(configs=("slow",), system_prompt_template="")
        chat("support", lines="Count\n", stdout=out)
        seen = dict.fromkeys(text.partition("\n")[2] for text in out.seen)
        assert list(seen) == ["One ", "One two ", "One two three "]

    def test_the_seed(
        self, database: Database, configs_folder: Path, make_prompt: MakePrompt, chat: Chat
    ) -> None:
        """The seed decides which configuration is asked."""
        names = ("rehearsal", "b", "c")
        write(configs_folder, "b")
        write(configs_folder, "c")
        make_prompt(configs=names, system_prompt_template="")
        chosen = set()
        for seed in range(20):
            first, second = (chat("support", f"--seed={seed}").split("with ")[1] for _ in "ab")
            assert first.split(";")[0] == second.split(";")[0]
            chosen.add(first.split(";")[0])
        assert chosen == set(names)

    def test_errors_are_said(
        self, database: Database, endpoints: Endpoints, make_prompt: MakePrompt, chat: Chat
    ) -> None:
        """A message that fails says why, and the chat goes on; in the end the command failed."""
        fails = iter([True, False])
        endpoints.add("shaky", lambda body: 400 if next(fails) else "Here I am.")
        make_prompt(configs=("shaky",), system_prompt_template="")
        out, err = io.StringIO(), io.StringIO()
        with pytest.raises(CommandError, match="1 of 2 messages were not answered"):
            chat("support", lines="Hi\nHi\n", stdout=out, stderr=err)
        assert "BadRequest: " in err.getvalue()
        assert "Here I am." in out.getvalue()
        assert outline(ChatHistory.objects.get().chat_history) == [
            ("user", "Hi"),
            ("assistant", "Here I am."),
        ]

    @on_sqlite
    def test_a_database_that_fails(
        self,
        database: Database,
        make_prompt: MakePrompt,
        chat: Chat,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A database that fails for a moment is said, and the chat goes on."""
        make_prompt(system_prompt_template="")
        real, fails = LLMCommunicationWrapper.stream_user_message, iter([True, False])

        def stream(self: LLMCommunicationWrapper, message: str) -> Iterator[str]:
            if next(fails):
                raise OperationalError("the server closed the connection")
            yield from real(self, message)

        monkeypatch.setattr(LLMCommunicationWrapper, "stream_user_message", stream)
        err = io.StringIO()
        with pytest.raises(CommandError, match="1 of 2"):
            chat("support", lines="Hi\nHi\n", stderr=err)
        assert "the database cannot be used: the server closed" in err.getvalue()
        assert len(ChatHistory.objects.get().chat_history) == 2

    @on_sqlite
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["suport"], "no prompt template 'suport'; the nearest is 'support'"),
            (["support"], "not given: customer; give them as --var customer="),
            (["support", "--chat", "999"], "999"),
            (["support", "--chat", "x"], "argument --chat"),
            (["support", "--seed", "x"], "argument --seed"),
            (["support", "--var", "customer"], "--var 'customer' is not of the form NAME=VALUE"),
            (["support", "--var", "=x"], "--var '=x' is not"),
            (["support", "--var", "a=1", "--var", "a=2"], "--var gives a twice"),
            (["broken", "--var", "customer=x"], "gone"),
            ([], "PROMPT_NAME"),
        ],
    )
    def test_it_cannot_begin(
        self, database: Database, make_prompt: MakePrompt, chat: Chat, words: list[str], said: str
    ) -> None:
        """What keeps a chat from beginning is an error that says it."""
        make_prompt(required_kwargs=["customer"])
        make_prompt("broken", configs=("gone",))
        with pytest.raises(CommandError, match=said):
            chat(*words, lines="Hi\n")

    @on_sqlite
    def test_tools_that_are_not_allowed(
        self, database: Database, make_prompt: MakePrompt, chat: Chat
    ) -> None:
        """Code in the database that may not run is said before anything is asked."""
        tool = Tool.objects.create(name="now", tool_code="def now():\n    return 1\n")
        make_prompt(tools=(tool,), system_prompt_template="")
        with pytest.raises(CommandError, match="LLM_WRAPPER_ALLOW_TOOL_CODE"):
            chat("support", lines="Hi\n")

    @on_sqlite
    def test_input_that_is_no_text(
        self, database: Database, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Bytes that are no text end the chat with an error."""
        make_prompt(system_prompt_template="")
        raw = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", raw)
        with pytest.raises(CommandError, match="not a text in utf-8"):
            call_command("llm_chat", "support", stdout=io.StringIO())

    @on_sqlite
    def test_an_interrupt_between_messages(
        self, database: Database, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C at the prompt ends the chat as the end of the input does."""

        def interrupt(prompt: str) -> str:
            raise KeyboardInterrupt

        make_prompt(system_prompt_template="")
        monkeypatch.setattr("builtins.input", interrupt)
        call_command("llm_chat", "support", stdout=io.StringIO())


class Terminal:
    """A process at a terminal of its own."""

    def __init__(self, code: str, site: dict[str, Any]) -> None:
        self._master, slave = pty.openpty()
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_CHILD, json.dumps({"code": code, "settings": site})],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.text = ""

    def write(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, pattern: str) -> None:
        """Reads until what was written since the last time fits a pattern; then forgets it."""
        end = time.monotonic() + 30
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self._master], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no {pattern!r} in {self.text!r}"
            self.text += os.read(self._master, 4096).decode()
        self.text = self.text[found.end() :]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@on_sqlite
def test_at_a_terminal(
    database: Database,
    endpoints: Endpoints,
    make_prompt: MakePrompt,
    configs_folder: Path,
    tmp_path: Path,
) -> None:
    """At a terminal there is a prompt; Ctrl-C ends an answer, and Ctrl-D the chat."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(body: Any) -> str:
        if body["messages"][-1]["content"] != "Slow":
            return "Here I am."
        asked.set()
        go_on.wait(30)
        return "Too late."

    endpoints.add("slow", answer)
    make_prompt(configs=("slow",), system_prompt_template="")
    site = {
        "DATABASES": {"default": dict(database.settings)},
        "LLM_CONFIGS_PATH": str(configs_folder),
        "TINYTROUPE": {"cache_file_name": str(tmp_path / "answers")},
    }
    code = "from django.core.management import call_command; call_command('llm_chat', 'support')"
    terminal = Terminal(code, site)
    try:
        terminal.read_until(r"chat \d+ with slow; .*\n> ")
        terminal.write("Hello\n")
        terminal.read_until(r"Here I am\. *\r\n> ")
        terminal.write("Slow\n")
        assert asked.wait(30)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(r"stopped; the message counts as not answered[^>]*> ")
        terminal.write("Again\n")
        terminal.read_until(r"Here I am\. *\r\n> ")
        terminal.write(END_OF_INPUT)
        assert terminal.process.wait(30) == 0
    finally:
        go_on.set()
        terminal.close()
    said = outline(ChatHistory.objects.get().chat_history)
    assert ("user", "Again") in said
    assert said[-1] == ("assistant", "Here I am.")
