"""Templates: found in folders and nowhere else, compiled once, strict, and never data."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.errors import TemplateError
from tinytroupe.llm.talk import templates as module
from tinytroupe.llm.talk.templates import Templates, compose_messages, package_prompts_folder

LISA = {"name": "Lisa", "age": 41, "firm": {"name": "Globex", "town": {"zip": 8}}}


class Folder:
    """A folder of prompts, with a renderer over it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.templates = Templates([path])

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def show(self, name: str, /, **values: object) -> str:
        return self.templates.render(name, values)

    def fail(self, name: str, /, **values: object) -> str:
        """Renders what cannot be rendered and returns the error's message."""
        with pytest.raises(TemplateError) as caught:
            self.templates.render(name, values)
        return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "prompts")


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("a.jinja", "{% for x in likes %}{{ x }},{% endfor %}", "tea,rain,"),
        ("a.j2", "{{ likes | join(' & ') }}", "tea & rain"),
        ("a.md.j2", "{{ likes | length }}", "2"),
        ("deep/er/a.mustache", "{{#likes}}{{.}},{{/likes}}", "tea,rain,"),
        ("tiny_person.v2.mustache", "{% raw %}{{likes.0}}", "{% raw %}tea"),
    ],
)
def test_the_suffix_chooses_the_language(folder: Folder, name: str, text: str, shown: str):
    """`.jinja` and `.j2` are Jinja2, `.mustache` is mustache."""
    folder.write(name, text)
    assert folder.show(name, likes=["tea", "rain"]) == shown


@pytest.mark.parametrize("name", ["notes.md", "notes.txt", "notes", "mustache", ".jinja", "a.J2"])
def test_other_suffixes_are_refused(folder: Folder, name: str):
    """A file with another suffix is no template, and the error lists the suffixes."""
    folder.write(name, "text")
    assert folder.fail(name).endswith("such names end in .jinja, .j2, .mustache")


@pytest.mark.parametrize("name", [None, 5, b"a.jinja", Path("a.jinja")])
def test_a_name_is_text(folder: Folder, name: Any):
    """What is not text is not a template's name."""
    assert "is named by text" in folder.fail(name)


def test_earlier_folders_go_first(tmp_path: Path):
    """A template of the simulation takes the place of the package's, also in an include."""
    own, package = Folder(tmp_path / "own"), Folder(tmp_path / "package")
    templates = Templates([own.path, package.path])
    for suffix, include in ((".jinja", "{% include 'b.jinja' %}"), (".mustache", "{{>b}}")):
        package.write("a" + suffix, f"a {include}")
        package.write("b" + suffix, "theirs")
        assert templates.render("a" + suffix, {}) == "a theirs"
        own.write("b" + suffix, "ours")
        assert templates.render("a" + suffix, {}) == "a ours"
        (own.path / f"b{suffix}").unlink()
        assert templates.render("a" + suffix, {}) == "a theirs"


def test_folders_that_are_none_are_skipped(tmp_path: Path, folder: Folder):
    """A folder that does not exist, or is a file, has no templates; later ones are searched."""
    folder.write("a.jinja", "found")
    file = tmp_path / "file"
    file.touch()
    templates = Templates([tmp_path / "none", file, str(folder.path)])
    assert templates.render("a.jinja", {}) == "found"


def test_relative_folders_stay_where_they_were(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A folder is not looked for elsewhere when the simulation changes its directory."""
    folder.write("a.jinja", "found")
    monkeypatch.chdir(tmp_path)
    templates = Templates(["prompts"])
    monkeypatch.chdir("/")
    assert templates.render("a.jinja", {}) == "found"


def test_a_missing_template_is_described(folder: Folder, tmp_path: Path):
    """The error names the folders that were searched and the nearest file there."""
    folder.write("agents/persona.mustache", "")
    folder.write("question.jinja", "")
    folder.write("agents/person.txt", "")
    folder.templates = Templates([tmp_path / "mine", folder.path])
    message = folder.fail("agents/person.mustache")
    assert str(tmp_path / "mine") in message
    assert str(folder.path) in message
    assert message.endswith("the nearest is 'agents/persona.mustache'")


def test_a_missing_template_in_empty_folders_is_described(folder: Folder):
    """Where there are no templates at all, the error says that."""
    assert "no templates are there" in folder.fail("a.jinja")
    folder.templates = Templates([])
    assert "no folder was given" in folder.fail("a.jinja")


INCLUDES: dict[str, Callable[[str], str]] = {
    ".jinja": "{{% include '{}' %}}".format,
    ".mustache": "{{{{>{}}}}}".format,
}


@pytest.mark.parametrize("suffix", [".jinja", ".j2", ".mustache"])
@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "a/../../outside",
        "a/../..",
        "/etc/outside",
        "//server/outside",
        "..\\outside",
        "a\\outside",
        "C:outside",
        "c:/outside",
        "outside\0",
        "out\ud800side",
        "~/../outside",
    ],
)
def test_a_name_cannot_leave_its_folder(folder: Folder, suffix: str, name: str):
    """Neither the name of a template nor that in an include leads out of the folder."""
    folder.write("a/inside" + suffix, "inside")
    (folder.path.parent / f"outside{suffix}").write_text("secret")
    message = folder.fail(f"{name}/outside{suffix}")
    assert "leads out of its folder" in message or "holds a character" in message


@pytest.mark.parametrize("suffix", [".jinja", ".mustache"])
@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a\\\\outside"])
def test_an_include_cannot_leave_its_folder(folder: Folder, suffix: str, name: str):
    """What one template puts in another is held to the same folders."""
    (folder.path.parent / f"outside{suffix}").parent.mkdir(exist_ok=True)
    (folder.path.parent / f"outside{suffix}").write_text("secret")
    folder.write("a" + suffix, INCLUDES[suffix](name + suffix))
    message = folder.fail("a" + suffix)
    assert "leads out of its folder" in message or "holds a character" in message


def test_a_value_cannot_choose_a_file_outside(folder: Folder):
    """Also when an include is named by a value, it stays in the folders."""
    (folder.path.parent).mkdir(exist_ok=True)
    (folder.path.parent / "secret.jinja").write_text("secret")
    folder.write("a.jinja", "{% include chosen %}")
    folder.write("b.jinja", "fine")
    assert folder.show("a.jinja", chosen="b.jinja") == "fine"
    assert "leads out of its folder" in folder.fail("a.jinja", chosen="../secret.jinja")


def test_links_stay_in_the_folder(folder: Folder, tmp_path: Path):
    """A link may lead to a template in the folder, but neither a file nor a folder out of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jinja").write_text("secret")
    folder.write("real.jinja", "real")
    (folder.path / "inner.jinja").symlink_to("real.jinja")
    (folder.path / "file.jinja").symlink_to(outside / "secret.jinja")
    (folder.path / "dir").symlink_to(outside)
    (folder.path / "loop.jinja").symlink_to("loop.jinja")
    assert folder.show("inner.jinja") == "real"
    assert "leads out of its folder" in folder.fail("file.jinja")
    assert "leads out of its folder" in folder.fail("dir/secret.jinja")
    assert "cannot be read" in folder.fail("loop.jinja")


def test_the_folder_itself_may_be_a_link(folder: Folder, tmp_path: Path):
    """A folder of prompts that is reached by a link works like any other."""
    folder.write("a.jinja", "found")
    (tmp_path / "link").symlink_to(folder.path)
    assert Templates([tmp_path / "link"]).render("a.jinja", {}) == "found"


def test_only_files_are_templates(folder: Folder):
    """A folder or a pipe that is called like a template is not read."""
    (folder.path / "folder.jinja").mkdir(parents=True)
    os.mkfifo(folder.path / "pipe.mustache")
    assert "is not a file" in folder.fail("folder.jinja")
    assert "is not a file" in folder.fail("pipe.mustache")
    assert "there is no template" in folder.fail("folder.jinja/a.jinja")
    assert "cannot be read" in folder.fail("x" * 300 + ".jinja")


@pytest.mark.parametrize("name", ["a.jinja", "a.mustache"])
def test_text_that_is_not_utf8_is_refused(folder: Folder, name: str):
    """A template in another encoding is an error that says so, not a garbled prompt."""
    folder.write(name, "Grüße".encode("latin-1"))
    assert "is not text in UTF-8 (byte 2)" in folder.fail(name)


@pytest.mark.parametrize("name", ["a.jinja", "a.mustache"])
def test_files_of_windows_render_like_others(folder: Folder, name: str):
    """A byte order mark and Windows line ends are no part of a prompt."""
    folder.write(name, b"\xef\xbb\xbfone\r\ntwo {{name}}\r\n")
    assert folder.show(name, name="Lisa") == "one\ntwo Lisa\n"


@pytest.mark.parametrize("name", ["a.jinja", "a.mustache"])
def test_a_changed_file_is_compiled_again(folder: Folder, name: str):
    """The next rendering after a change on disk shows the change."""
    path = folder.write(name, "old {{name}}")
    assert folder.show(name, name="Lisa") == "old Lisa"
    folder.write(name, "new {{name}}")
    os.utime(path, ns=(1, 1))
    assert folder.show(name, name="Lisa") == "new Lisa"


@pytest.mark.parametrize("name", ["a.jinja", "a.mustache"])
def test_a_file_of_the_same_size_and_time_is_noticed(folder: Folder, name: str):
    """A file that is put in another's place counts as changed even if it looks the same."""
    path = folder.write(name, "old")
    os.utime(path, ns=(1, 1))
    assert folder.show(name) == "old"
    other = folder.write("other" + name, "new")
    os.utime(other, ns=(1, 1))
    other.replace(path)
    assert folder.show(name) == "new"


@pytest.mark.parametrize("name", ["a.jinja", "a.mustache"])
def test_a_file_is_compiled_once(folder: Folder, name: str, monkeypatch: pytest.MonkeyPatch):
    """However many threads render it, a file is read and compiled once."""
    reads: list[str] = []
    read = module._read

    def read_slowly(path: str) -> str:
        reads.append(path)
        for _ in range(2000):
            os.sched_yield()
        return read(path)

    monkeypatch.setattr(module, "_read", read_slowly)
    folder.write("b.mustache", "!")
    folder.write("b.jinja", "!")
    folder.write(name, "{{name}}" + ("{{>b}}" if "mustache" in name else "{% include 'b.jinja' %}"))
    start = threading.Barrier(8)
    wrong: list[str] = []

    def work(number: int) -> None:
        start.wait()
        for _ in range(25):
            shown = folder.show(name, name=f"n{number}")
            if shown != f"n{number}!":
                wrong.append(shown)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(reads) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(text=st.text())
def test_values_are_data(folder: Folder, text: str):
    """A value that contains template code of either language comes out as it is."""
    folder.write("a.jinja", "<{{ a }}|{% for x in b %}{{ x }}{% endfor %}>")
    folder.write("a.mustache", "<{{a}}|{{#b}}{{.}}{{/b}}>")
    for code in (
        text,
        f"{{{{ {text} }}}}",
        f"{{% {text} %}}",
        f"{{{{> {text}}}}}",
        f"{{# {text} #}}",
    ):
        for name in ("a.jinja", "a.mustache"):
            assert folder.show(name, a=code, b=[code]) == f"<{code}|{code}>"


def test_escaping_is_a_choice(folder: Folder):
    """Prompts are not escaped; `escape="html"` escapes both languages."""
    folder.write("a.jinja", "{{ a }}{{ a | safe }}")
    folder.write("a.mustache", "{{a}}{{{a}}}")
    html = Templates([folder.path], escape="html")
    for name in ("a.jinja", "a.mustache"):
        assert folder.show(name, a="<&>") == "<&><&>"
        assert html.render(name, {"a": "<&>"}) == "&lt;&amp;&gt;<&>"
    with pytest.raises(TemplateError, match="one of none, html"):
        Templates([], escape="xml")  # type: ignore[arg-type]


def test_leniency_is_a_choice(folder: Folder):
    """With `strict=False` what is missing shows nothing, in both languages."""
    folder.write("a.jinja", "<{{ a }}{{ a.b.c }}{{ firm.boss.name }}>")
    folder.write("a.mustache", "<{{a}}{{a.b.c}}{{firm.boss.name}}{{>none}}>")
    lenient = Templates([folder.path], strict=False)
    for name in ("a.jinja", "a.mustache"):
        assert lenient.render(name, {"firm": {}}) == "<>"


@pytest.mark.parametrize(
    ("text", "variable", "line", "nearest"),
    [
        ("{{ nmae }}", "nmae", 1, "name"),
        ("a\n\n{{ Age + 1 }}", "Age", 3, "age"),
        ("a\n{% if nmae %}x{% endif %}", "nmae", 2, "name"),
        ("\n{% for x in frim %}{% endfor %}", "frim", 2, "firm"),
        ("\n{{ nmae() }}", "nmae", 2, "name"),
        ("{{ nmae | upper }}", "nmae", 1, "name"),
        ("{{ nmae.first }}", "nmae", 1, "name"),
        ("\n\n\n{{ firm.nmae }}", "firm.nmae", 4, "firm.name"),
        ("{{ firm['nmae'] }}", "firm.nmae", 1, "firm.name"),
        ("{{ firm.town.zap }}", "firm.town.zap", 1, "firm.town.zip"),
        (
            "{% set x = 1 %}\n{% macro m(a) %}\n{{ a }}{{ aeg }}{% endmacro %}{{ m(1) }}",
            "aeg",
            3,
            "age",
        ),
    ],
)
def test_a_missing_variable_is_named(
    folder: Folder, text: str, variable: str, line: int, nearest: str
):
    """The error names the variable, the template, the line and the nearest name given."""
    path = folder.write("a.jinja", text)
    assert folder.fail("a.jinja", **LISA) == (
        f"{path}, line {line}: the variable {variable!r} was not given; "
        f"the nearest name that was given is {nearest!r}"
    )


def test_a_missing_variable_of_mustache_is_named(folder: Folder):
    """The error is the same for mustache."""
    path = folder.write("a.mustache", "a\n\n{{firm.nmae}}")
    assert folder.fail("a.mustache", **LISA) == (
        f"{path}, line 3: the variable 'firm.nmae' was not given; "
        "the nearest name that was given is 'firm.name'"
    )


@dataclass
class Persona:
    name: str
    age: int = 41


def test_a_missing_attribute_is_named(folder: Folder):
    """The names of an object are its attributes."""
    folder.write("a.jinja", "{{ who.aeg }}")
    assert folder.fail("a.jinja", who=Persona("Lisa")).endswith("is 'who.age'")
    assert "'who' has no names" in folder.fail("a.jinja", who="Lisa")
    assert "was not given" in folder.fail("a.jinja", who=None)


def test_a_missing_variable_is_found_in_the_innermost_template(folder: Folder):
    """In nested includes, imports and parents, the error names the file it is in."""
    inner = folder.write("inner.jinja", "\n\n{{ nmae }}")
    folder.write("outer.jinja", "\n{% include 'inner.jinja' %}")
    folder.write("macros.jinja", "{% macro m() %}\n{% include 'inner.jinja' %}{% endmacro %}")
    folder.write("parent.jinja", "x\n{% block b %}{% endblock %}")
    tops = (
        "{% include 'outer.jinja' %}",
        "{% from 'macros.jinja' import m with context %}\n{{ m() }}",
        "{% extends 'parent.jinja' %}\n{% block b %}{% include 'outer.jinja' %}{% endblock %}",
    )
    for top in tops:
        folder.write("top.jinja", top)
        assert folder.fail("top.jinja", name="Lisa").startswith(f"{inner}, line 3: ")
    nested = folder.write("nested.mustache", "\n{{nmae}}")
    folder.write("top.mustache", "{{#x}}\n  {{>nested}}\n{{/x}}")
    assert folder.fail("top.mustache", name="Lisa", x=1).startswith(f"{nested}, line 2: ")


def test_templates_may_ask_what_was_given(folder: Folder):
    """`is defined` and `default` work on what is missing, while using it is an error."""
    folder.write(
        "a.jinja", "{% if mood is defined %}{{ mood }}{% endif %}{{ mood | default('none') }}"
    )
    assert folder.show("a.jinja") == "none"
    assert folder.show("a.jinja", mood="fine") == "finefine"


@pytest.mark.parametrize("key", ["values", "items", "keys", "copy", "get"])
def test_a_key_goes_before_a_method(folder: Folder, key: str):
    """A persona's `values` are what it holds dear, not a method of Python's."""
    folder.write("a.jinja", "{{ who." + key + " }}{{ who['" + key + "'] }}")
    folder.write("a.mustache", "{{who." + key + "}}{{#who}}{{" + key + "}}{{/who}}")
    for values in ({key: "thrift"}, FrozenDict({key: "thrift"})):
        assert folder.show("a.jinja", who=values) == "thriftthrift"
        assert folder.show("a.mustache", who=values) == "thriftthrift"
    folder.write("b.jinja", "{% for k, v in who.items() %}{{ k }}={{ v }}{% endfor %}")
    assert folder.show("b.jinja", who={"a": 1}) == "a=1"


def test_a_function_is_not_shown(folder: Folder):
    """A method whose parentheses were forgotten is an error, not a strange prompt."""
    path = folder.write("a.jinja", "\n{{ name.upper }}")
    message = folder.fail("a.jinja", name="Lisa")
    assert message.startswith(f"{path}, line 2: ")
    assert "'upper' is a function" in message


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ likes.append('gin') }}",
        "{{ firm.update(name='x') }}",
        "{% for i in range(10000000) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(folder: Folder, text: str):
    """A template neither reaches Python's internals nor changes the values it is given."""
    path = folder.write("a.jinja", "\n" + text)
    likes = ["tea"]
    firm = {"name": "Globex"}
    assert folder.fail("a.jinja", likes=likes, firm=firm, x=1).startswith(f"{path}, line 2: ")
    assert (likes, firm) == (["tea"], {"name": "Globex"})


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("a.jinja", "one\n{% if %}", 2, "Expected an expression"),
        ("a.jinja", "one\n\n{{ a", 3, "unexpected end of template"),
        ("a.jinja", "x\n{% for x in y %}\n", 2, "end of template"),
        ("a.jinja", "\n{{ a | shout }}", 2, "No filter named 'shout'"),
        ("a.jinja", "\n{{ 1 / 0 }}", 2, "ZeroDivisionError"),
        ("a.jinja", "\n{{ 'a' + 1 }}", 2, "TypeError"),
        ("a.mustache", "one\n{{#a}}", 2, "never closed"),
    ],
)
def test_a_faulty_template_is_located(
    folder: Folder, name: str, text: str, line: int, message: str
):
    """A fault of a template is a TemplateError with its file and line, in whatever contains it."""
    path = folder.write(name, text)
    assert folder.fail(name).startswith(f"{path}, line {line}: ")
    assert message in folder.fail(name)
    suffix = path.suffix
    folder.write("top" + suffix, INCLUDES[suffix](name))
    assert folder.fail("top" + suffix).startswith(f"{path}, line {line}: ")


@pytest.mark.parametrize("suffix", [".jinja", ".mustache"])
def test_templates_without_end_are_noticed(folder: Folder, suffix: str):
    """Templates that contain one another without end are a TemplateError, soon."""
    one = folder.write("a" + suffix, "x\n" + INCLUDES[suffix]("b" + suffix))
    two = folder.write("b" + suffix, "\n" + INCLUDES[suffix]("a" + suffix))
    message = folder.fail("a" + suffix)
    assert message.startswith((f"{one}, line 2: ", f"{two}, line 2: "))
    assert "itself" in message


@pytest.mark.parametrize("suffix", [".jinja", ".mustache"])
def test_a_missing_include_is_located(folder: Folder, suffix: str):
    """The error for a missing include says where the tag is and what is near."""
    path = folder.write("a" + suffix, "\n" + INCLUDES[suffix]("persn" + suffix))
    folder.write("person" + suffix, "")
    message = folder.fail("a" + suffix)
    assert message.startswith(f"{path}, line 2: there is no template 'persn{suffix}'")
    assert message.endswith(f"the nearest is 'person{suffix}'")


def test_a_missing_include_may_be_ignored(folder: Folder):
    """Jinja2's own ways of coping with a missing include work."""
    folder.write("a.jinja", "<{% include 'none.jinja' ignore missing %}>")
    folder.write("b.jinja", "<{% include ['none.jinja', 'a.jinja'] %}>")
    assert folder.show("b.jinja") == "<<>>"


def test_languages_do_not_contain_one_another(folder: Folder):
    """A template can only contain others of its own language, and says so."""
    folder.write("a.jinja", "{% include 'b.mustache' %}")
    folder.write("b.mustache", "{{>a.jinja}}")
    assert "that ends in .jinja or .j2" in folder.fail("a.jinja")
    assert "that ends in .mustache" in folder.fail("b.mustache")


def test_partials_are_named_with_or_without_suffix(folder: Folder):
    """`{{>who}}` and `{{>who.mustache}}` are the same, below a folder too."""
    folder.write("a.mustache", "{{>agents/who.v1}}{{>agents/who.v1.mustache}}")
    folder.write("agents/who.v1.mustache", "{{name}}")
    assert folder.show("a.mustache", name="Lisa") == "LisaLisa"


def test_texts_keep_their_last_line_end(folder: Folder):
    """Both languages keep the line end that a file ends with."""
    for name in ("a.jinja", "a.mustache"):
        folder.write(name, "text\n")
        assert folder.show(name) == "text\n"


def test_jinja_is_imported_when_it_is_needed():
    """Mustache alone does not load jinja2."""
    program = (
        "import sys, pathlib, tempfile\n"
        "from tinytroupe.llm.talk.templates import Templates\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "(folder / 'a.mustache').write_text('{{a}}')\n"
        "assert Templates([folder]).render('a.mustache', {'a': 1}) == '1'\n"
        "sys.exit('jinja2' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_messages_are_composed(folder: Folder):
    """The first messages are a system message and, if a template is named, a user message."""
    folder.write("system.mustache", "You are {{name}}.")
    folder.write("user.jinja", "Hello {{ name }}!")
    system = {"role": "system", "content": "You are Lisa."}
    user = {"role": "user", "content": "Hello Lisa!"}
    templates = folder.templates
    values = {"name": "Lisa"}
    assert compose_messages(templates, "system.mustache", rendering_configs=values) == [system]
    assert compose_messages(templates, "system.mustache", "user.jinja", values) == [system, user]
    folder.write("plain.jinja", "Be brief.")
    assert compose_messages(templates, "plain.jinja") == [
        {"role": "system", "content": "Be brief."}
    ]


@pytest.mark.smoke
def test_the_package_has_prompts():
    """The folder of the package's prompts exists, be it installed or a checkout, and is used."""
    assert package_prompts_folder().is_dir()
    name = "focus_group_persona.mustache"
    assert (package_prompts_folder() / name).is_file()
    assert Templates([package_prompts_folder()]).render(name, {"persona": None}) == ""


def test_a_renderer_is_named_by_its_folders(folder: Folder):
    """The repr is short and says where templates are looked for."""
    assert repr(folder.templates) == f"Templates({folder.path})"
