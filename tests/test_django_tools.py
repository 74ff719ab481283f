"""Stored tools of the Django app: which code may run, what a model is told, what a call does."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import re
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinytroupe.contrib.django import tool_child
from tinytroupe.contrib.django.errors import ToolCodeRefused
from tinytroupe.contrib.django.models import Tool
from tinytroupe.contrib.django.tool_code import is_path
from tinytroupe.contrib.django.tool_process import MOST_ANSWER_BYTES, find_interpreter
from tinytroupe.contrib.django.tools import Toolbox, check_tool, fill_tool_spec, make_tool_spec
from tinytroupe.llm.errors import BadRequest, ConfigError, RateLimited
from tinytroupe.llm.response import ToolCall
from tinytroupe.llm.talk.tool_runs import ToolRun
from tinytroupe.llm.talk.tools import make_tool

SetSettings = Callable[..., None]

SHOP = '''
import asyncio
import datetime
import enum
import functools
import threading
from os import system
from subprocess import run as run_command
from typing import Annotated, Any, Literal

from tinytroupe.llm.errors import RateLimited

CALLS = []


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Teller:
    def __call__(self):
        return 1

    def tell(self):
        return 1


class Connection:
    pass


teller = Teller()
partly = functools.partial(int, "1")


def find_order(user_id: int, number: int, currency: str = "USD") -> dict:
    """Finds an order.

    Args:
        user_id: Whose.
        number: As the customer knows it.
        currency: For the sum.
    """
    CALLS.append((user_id, number, currency))
    return {"number": number, "owner": user_id, "currency": currency}


def book(day: datetime.date, size: Size = Size.SMALL) -> str:
    """Books a table."""
    return f"{day:%d.%m.%Y} {size.name}"


def order(product: str, amount: int = 1) -> int:
    CALLS.append((product, amount))
    return amount


def describe(thing: Any) -> str:
    return type(thing).__name__


def collect(first, /, *rest, **further):
    return [first, rest, further]


def connect(name: str, connection: Connection = None) -> str:
    return name


def _hide():
    return 1


def traced(function):
    @functools.wraps(function)
    def call(*positional, **named):
        return function(*positional, **named)

    return call


@traced
def find_shop(city: str) -> str:
    """Finds a shop."""
    return f"the shop in {city}"


async def wait_for(number: int) -> int:
    """Waits."""
    await asyncio.sleep(0)
    return number


def promise(number: int):
    return wait_for(number)


def name_thread() -> int:
    return threading.get_ident()


def fail() -> None:
    raise ValueError("there is nothing to find")


def stop() -> None:
    raise StopIteration("no more")


def ask() -> str:
    raise RateLimited("too many questions")


def return_shop() -> object:
    return object()
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package `corner_shop`, which the site deployed, with the module `tools`."""
    folder = tmp_path / "corner_shop"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tools.py").write_text(SHOP)
    (folder / "broken.py").write_text("import nothing_that_there_is\n")
    (folder / "raising.py").write_text("raise RuntimeError('not today')\n")
    (folder / "_inner.py").write_text("def look():\n    return 1\n")
    (tmp_path / "corner_shopping.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: sys.modules["corner_shop.tools"]
    for name in [name for name in sys.modules if name.startswith("corner_shop")]:
        del sys.modules[name]


@pytest.fixture
def deployed(shop: Any, site_settings: SetSettings) -> Any:
    """The same, where the site allows its functions as tools."""
    site_settings(LLM_WRAPPER_TOOL_MODULES=["corner_shop"])
    return shop


@pytest.fixture
def source_runs(site_settings: SetSettings) -> None:
    """The site lets source text run."""
    site_settings(LLM_WRAPPER_ALLOW_TOOL_CODE=True)


def make_row(code: str, name: str = "look", **further: Any) -> Tool:
    return Tool(name=name, tool_code=textwrap.dedent(code), **further)


def call(name: str = "look", arguments: Any = None) -> ToolCall:
    """A model's call; arguments that are a text are sent as they are."""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return ToolCall("c1", name, written)


def run(code: str, arguments: Any = None, variables: Any = None, **further: Any) -> ToolRun:
    toolbox = Toolbox([make_row(code, **further)], variables or {})
    return toolbox.run(call(arguments=arguments))


class TestPaths:
    """Which functions a path may name."""

    @pytest.mark.parametrize(
        ("code", "answer"),
        [
            ("shop.tools.find_order", True),
            ("  shop.tools.find_order\n", True),
            ("find_order", True),
            ("def f():\n    pass", False),
            ("shop.tools.\nfind", False),
            ("shop..tools", False),
            ("shop.tools:find", False),
            ("os.system('ls')", False),
            ("", False),
        ],
    )
    def test_a_path_is_dotted_names_in_one_line(self, code: str, answer: bool) -> None:
        """Everything else is source text, which needs its own permission."""
        assert is_path(code) is answer

    @pytest.mark.parametrize("allowed", [False, True])
    def test_a_colon_is_to_be_a_dot(self, site_settings: SetSettings, allowed: bool) -> None:
        """What elsewhere is the path of a function is refused as a path, and told how to be."""
        site_settings(LLM_WRAPPER_ALLOW_TOOL_CODE=allowed)
        row = make_row("corner_shop.tools:find_order\n")
        for use in (check_tool, make_tool_spec, fill_tool_spec, lambda row: Toolbox([row], {})):
            with pytest.raises(BadRequest, match=r"of the colon: corner_shop\.tools\.find_order$"):
                use(row)

    def test_a_deployed_function_runs(self, deployed: Any) -> None:
        """A function in a module that the site allows is called in this process."""
        ran = run("corner_shop.tools.find_order", {"user_id": 7, "number": 3})
        assert ran.result == {"number": 3, "owner": 7, "currency": "USD"}
        assert json.loads(ran.told) == ran.result
        assert deployed().CALLS == [(7, 3, "USD")]

    @pytest.mark.parametrize(
        "path",
        [
            "os.system",
            "subprocess.run",
            "builtins.eval",
            "builtins.print",
            "antigravity.nothing",
            "django.core.management.call_command",
            "tinytroupe.llm.talk.tools.make_tool",
            "corner_shopping.look",
        ],
    )
    @pytest.mark.parametrize("allowed", [["corner_shop"], [], None])
    def test_what_was_not_deployed_is_not_even_imported(
        self, shop: Any, site_settings: SetSettings, tmp_path: Path, path: str, allowed: Any
    ) -> None:
        """A path out of the allowed modules is refused before its module is looked for."""
        site_settings(LLM_WRAPPER_TOOL_MODULES=allowed)
        before = set(sys.modules)
        for use in (check_tool, make_tool_spec, fill_tool_spec, lambda row: Toolbox([row], {})):
            with pytest.raises(ToolCodeRefused, match="LLM_WRAPPER_TOOL_MODULES"):
                use(make_row(path))
        assert set(sys.modules) == before
        assert not (tmp_path / "seen").exists()

    @pytest.mark.parametrize(
        "name", ["system", "run_command", "Teller", "teller", "partly", "CALLS", "datetime"]
    )
    def test_only_own_functions_of_a_module(self, deployed: Any, name: str) -> None:
        """What a module took from elsewhere, classes and other objects are no tools."""
        with pytest.raises(ToolCodeRefused, match="LLM_WRAPPER_TOOL_MODULES") as caught:
            check_tool(make_row(f"corner_shop.tools.{name}"))
        assert f"corner_shop.tools.{name} is not a function" in str(caught.value)

    @pytest.mark.parametrize("path", ["corner_shop.tools._hide", "corner_shop._inner.look"])
    def test_private_functions_are_none(self, deployed: Any, path: str) -> None:
        """What begins with an underscore is nobody else's, neither module nor function."""
        with pytest.raises(ToolCodeRefused, match=r"private.*LLM_WRAPPER_TOOL_MODULES"):
            check_tool(make_row(path))
        assert "corner_shop._inner" not in sys.modules

    def test_without_the_setting_the_apps_are_allowed(
        self, shop: Any, site_settings: SetSettings
    ) -> None:
        """The site's own apps may have tools, but neither Django's nor this one."""
        from django.conf import settings as site

        with pytest.raises(ToolCodeRefused, match="there are none"):
            check_tool(make_row("corner_shop.tools.order"))
        site_settings(INSTALLED_APPS=[*site.INSTALLED_APPS, "corner_shop"])
        check_tool(make_row("corner_shop.tools.order"))
        for path in ("django.contrib.auth.hashers.make_password", "tinytroupe.utils.x"):
            with pytest.raises(ToolCodeRefused, match="corner_shop; the setting"):
                check_tool(make_row(path))

    def test_installed_packages_are_allowed_only_by_name(
        self,
        shop: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        site_settings: SetSettings,
    ) -> None:
        """What others wrote may call anything, as task queues do; the site has to name it."""
        from django.conf import settings as site

        folder = tmp_path / "site-packages" / "corner_shop_queue"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "tasks.py").write_text("def enqueue(function: str):\n    return function\n")
        monkeypatch.syspath_prepend(folder.parent)
        site_settings(INSTALLED_APPS=[*site.INSTALLED_APPS, "corner_shop_queue"])
        row = make_row("corner_shop_queue.tasks.enqueue")
        with pytest.raises(ToolCodeRefused, match="not those that were installed as packages"):
            check_tool(row)
        site_settings(LLM_WRAPPER_TOOL_MODULES=["corner_shop_queue"])
        check_tool(row)

    def test_a_single_module_may_be_allowed(self, shop: Any, site_settings: SetSettings) -> None:
        """The setting may name modules, and says nothing of those beside them."""
        site_settings(LLM_WRAPPER_TOOL_MODULES=["corner_shop.tools"])
        check_tool(make_row("corner_shop.tools.order"))
        with pytest.raises(ToolCodeRefused):
            check_tool(make_row("corner_shop.broken.order"))

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("corner_shop.tools.find_ordr", "has no function find_ordr; the nearest is find_order"),
            ("corner_shop.tols.order", "no module corner_shop.tols; the nearest is corner_shop.to"),
            ("corner_shop.tools.Teller.tell", "no module corner_shop.tools.Teller; no other lies"),
            ("corner_shop.broken.look", "ModuleNotFoundError: No module named 'nothing_that"),
            ("corner_shop.raising.look", "cannot be imported: RuntimeError: not today"),
            ("find_order", "neither source text nor a dotted path such as"),
        ],
    )
    def test_what_is_not_there_is_told(self, deployed: Any, path: str, said: str) -> None:
        """An error names what is missing and what is near, or why a module is not imported."""
        with pytest.raises(BadRequest) as caught:
            check_tool(make_row(path, name="find"))
        assert said in str(caught.value)
        assert "tool find" in str(caught.value)

    def test_decorated_functions_are_their_modules(self, deployed: Any) -> None:
        """A decorator that keeps the name keeps the function a tool, hints and docstring too."""
        spec = make_tool_spec(make_row("corner_shop.tools.find_shop"))
        assert spec["description"] == "Finds a shop."
        assert spec["parameters"]["properties"] == {"city": {"type": "string"}}
        assert run("corner_shop.tools.find_shop", {"city": "Graz"}).told == "the shop in Graz"

    def test_arguments_become_what_the_hints_say(self, deployed: Any) -> None:
        """Dates and enumerations arrive as themselves."""
        arguments = {"day": "2026-03-01", "size": "large"}
        assert run("corner_shop.tools.book", arguments).told == "01.03.2026 LARGE"


class TestSpecs:
    """What a model is told of a tool."""

    def test_a_spec_is_that_of_the_function(self, deployed: Any) -> None:
        """Name of the tool; description and parameters of the function, hidden ones left out."""
        row = make_row(
            "corner_shop.tools.find_order",
            name="find-order",
            context_params=["user_id"],
            default_values_for_non_llm_params={"currency": "EUR"},
        )
        spec = make_tool_spec(row)
        assert spec == {
            "name": "find-order",
            "description": "Finds an order.",
            "parameters": {
                "type": "object",
                "properties": {
                    "number": {"type": "integer", "description": "As the customer knows it."}
                },
                "required": ["number"],
                "additionalProperties": False,
            },
        }
        assert Toolbox([row], {}).wire == [{"type": "function", "function": spec}]
        assert Toolbox([row], {}).names == ("find-order",)

    def test_an_empty_spec_is_filled(self, deployed: Any) -> None:
        """A spec that is there stays; an empty one is made."""
        row = make_row("corner_shop.tools.order")
        fill_tool_spec(row)
        assert row.tool_json_spec == make_tool_spec(row)
        row.clean()
        written = {"name": "look", "parameters": {"type": "object"}}
        row.tool_json_spec = written
        fill_tool_spec(row)
        assert row.tool_json_spec is written

    @pytest.mark.parametrize(
        "signature",
        [
            "",
            "text: str, number: int, share: float, sure: bool, nothing: None",
            "a: int = 1, b: str = 'x', c: float = -1.5, d: bool = True, e=None, f=[1, {'a': 2}]",
            "a: list, b: dict, c: list[int], d: dict[str, list[float]], e: 'int'",
            "a: Optional[int] = None, b: int | None = None, c: Union[int, str] = 1",
            "a: typing.Optional[typing.List[int]], b: Dict[str, Any], c: Any, d",
            "a: Literal['x', 'y'], b: Literal[1, -2, None, True]",
            "a: Annotated[int, 'of what year'], b: Annotated[Optional[str], 'who', 'more']",
            "a: int, /, b: int = 2, *rest: int, c: str, d: int = 4, **further: str",
            "a=object(), b=max, __user_id__=1, schema: int = 1",
        ],
    )
    def test_source_text_is_described_as_if_it_were_imported(self, signature: str) -> None:
        """Read without running it, a source has the spec of the function that it defines."""
        source = textwrap.dedent(f'''
            import typing
            from typing import *

            def look({signature}):
                """Looks.

                At all of it.

                Args:
                    a: The first: one
                        and on.
                    b: The second.
                """
        ''')
        module: dict[str, Any] = {}
        exec(source, module)
        told = make_tool(module["look"])["function"]
        spec = make_tool_spec(make_row(source))
        assert spec == told
        assert json.dumps(spec["parameters"]) == json.dumps(told["parameters"])

    def test_nothing_of_a_source_is_run(self, tmp_path: Path) -> None:
        """A spec is made of source text whatever the settings, as that runs nothing."""
        path = tmp_path / "seen"
        row = make_row(
            f"""
            open({str(path)!r}, "w")

            @print
            def look(a: open({str(path)!r}, "w") = open({str(path)!r}, "w"), b: int = 1):
                pass
            """,
            default_values_for_non_llm_params={"a": 1},
        )
        assert list(make_tool_spec(row)["parameters"]["properties"]) == ["b"]
        assert not path.exists()

    @pytest.mark.parametrize(
        "annotation",
        [
            *("datetime.date", "Order", "set[int]", "dict[int, str]", "list[Order]", "int | Order"),
            *("Annotated[int, Field(ge=1)]", "Literal[Size.SMALL]", "Optional[int, str]", "'1 +'"),
            *("print('x')", "1", "list[int, str]", "other.Any", "Literal[1.5]"),
        ],
    )
    def test_other_annotations_are_not_guessed(self, source_runs: None, annotation: str) -> None:
        """The parameter is named; with a spec by hand, or hidden, it is as good as any."""
        source = f"def look(day: {annotation}):\n    return day"
        with pytest.raises(BadRequest, match="parameter 'day' is annotated with") as caught:
            check_tool(make_row(source))
        assert "write tool_json_spec by hand" in str(caught.value)
        check_tool(make_row(source, context_params=["day"]))
        properties = {"day": {"type": "string"}}
        spec = {"name": "look", "parameters": {"type": "object", "properties": properties}}
        check_tool(make_row(source, tool_json_spec=spec))

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("def look(:\n    pass", "is not Python: line 1"),
            ("x = 1\nreturn x\ndef look():\n    pass", "is not Python: line 2"),
            ("def look(a, a):\n    pass", "duplicate argument"),
            ("x = 1", "defines no public function"),
            ("def _a(): pass", "defines no public function"),
            ("if True:\n    def look():\n        pass", "defines no public function"),
            ("def a(): pass\nasync def b(): pass\ndef _c(): pass", "the functions a, b; name"),
            ("def look(): pass\n\0", "look"),
            ("(" * 1000 + ")" * 1000, "look"),
            ("-" * 100_000 + "1", "look"),
            ("x = '\ud800'", "look"),
        ],
        ids=str,
    )
    def test_what_is_no_code_is_told(self, source: str, said: str) -> None:
        """An error names the tool and the line, or the functions of which none is meant."""
        with pytest.raises(BadRequest) as caught:
            make_tool_spec(make_row(source))
        assert said in str(caught.value)
        assert "the tool look" in str(caught.value)

    def test_which_function_is_meant(self) -> None:
        """The one named like the tool, a dash being an underscore, else the only public one."""
        source = "def find_order(a): pass\ndef find(b): pass\ndef _help(c): pass"
        assert [
            list(make_tool_spec(make_row(source, name=name))["parameters"]["properties"])
            for name in ("find", "find_order", "find-order", "_help")
        ] == [["b"], ["a"], ["a"], ["c"]]
        alone = make_row("def find(b): pass\ndef _help(c): pass", name="look")
        assert make_tool_spec(alone)["name"] == "look"

    @given(text=st.text() | st.text(alphabet="def look(a: int=1)\n '[]|,") | st.characters())
    def test_any_text_is_source_or_refused(self, text: str) -> None:
        """Whatever stands in the field, it has a spec or an error that says why not."""
        for source in (text, f"def look({text}):\n    pass", f"def look(a: {text}): pass"):
            try:
                said = make_tool_spec(Tool(name="look", tool_code=source))["name"]
            except (BadRequest, ToolCodeRefused) as error:
                said = error.message
            assert "look" in said

    SPEC = {  # noqa: RUF012
        "name": "somebody's",
        "description": "Finds it.",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {
                "number": {"type": "integer", "minimum": 1},
                "user_id": {"type": "integer"},
            },
            "required": ["user_id", "number"],
        },
    }

    @pytest.mark.parametrize("shape", ["bare", "flat", "wrapped"])
    def test_a_spec_by_hand(self, deployed: Any, shape: str) -> None:
        """It is told as it is, but for the tool's name, hidden parameters, and no further ones."""
        spec = {
            "bare": self.SPEC,
            "flat": {"type": "function", **self.SPEC},
            "wrapped": {"type": "function", "function": self.SPEC},
        }[shape]
        row = make_row(
            "corner_shop.tools.find_order", tool_json_spec=spec, context_params=["user_id"]
        )
        toolbox = Toolbox([row], {"user_id": 7})
        assert toolbox.wire[0]["function"] == {
            "name": "look",
            "description": "Finds it.",
            "strict": False,
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "integer", "minimum": 1}},
                "required": ["number"],
                "additionalProperties": False,
            },
        }
        assert toolbox.run(call(arguments={"number": 2})).result["owner"] == 7
        refused = toolbox.run(call(arguments={"number": 0}))
        assert refused.error is not None
        assert "minimum 1" in refused.error
        assert "currency must not be there" in (
            toolbox.run(call(arguments={"number": 1, "currency": "EUR"})).error or ""
        )
        assert deployed().CALLS == [(7, 2, "USD")]

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [
            ({"properties": {"numbr": {}}}, "names 'numbr', which is no parameter of find_order"),
            ({"properties": {"numbr": {}}}, "the nearest is 'number'"),
            ({"properties": {"user_id": {}}}, "its parameter 'number' gets no value"),
            ({"required": ["number"]}, "requires 'number', which is not among"),
            ({"anyOf": [{"required": ["number"]}]}, "has anyOf at the top"),
            ({"properties": {"number": {"not": {}}}}, "not in it is not understood"),
            ({"properties": {"number": {"pattern": "("}}}, "cannot be read"),
            ({"properties": {"number": {"type": "int"}}}, "names the type 'int'"),
            ({"properties": 5}, "tool_json_spec"),
        ],
    )
    def test_a_spec_that_does_not_fit_is_refused(
        self, deployed: Any, parameters: dict[str, Any], said: str
    ) -> None:
        """A spec after which no call could succeed is an error before a model sees it."""
        spec = {"name": "look", "parameters": {"type": "object", **parameters}}
        with pytest.raises(BadRequest) as caught:
            check_tool(make_row("corner_shop.tools.find_order", tool_json_spec=spec))
        assert said in str(caught.value)
        assert "the tool look" in str(caught.value)

    def test_parameters_outside_of_a_spec_need_no_schema(self, deployed: Any) -> None:
        """A hint that has no JSON Schema is in the way only where a model would set it."""
        with pytest.raises(BadRequest, match="have no JSON Schema"):
            check_tool(make_row("corner_shop.tools.connect"))
        properties = {"name": {"type": "string"}}
        spec = {"name": "look", "parameters": {"type": "object", "properties": properties}}
        ran = run("corner_shop.tools.connect", {"name": "x"}, tool_json_spec=spec)
        assert ran.result == "x"


class TestHiddenParameters:
    """What only the site sets."""

    ROW: dict[str, Any] = {  # noqa: RUF012
        "context_params": ["user_id"],
        "default_values_for_non_llm_params": {"currency": "EUR"},
    }

    def test_they_are_filled(self, deployed: Any) -> None:
        """The chat's variables and the tool's own values arrive, in the types of the hints."""
        path = "corner_shop.tools.find_order"
        run(path, {"number": 1}, {"user_id": "7", "other": 1}, **self.ROW)
        assert deployed().CALLS == [(7, 1, "EUR")]

    def test_a_variable_goes_before_a_value(self, deployed: Any) -> None:
        """A parameter may have both; the value is for chats without the variable."""
        row = {"context_params": ["currency", "user_id"]}
        row["default_values_for_non_llm_params"] = {"currency": "EUR"}  # type: ignore[assignment]
        path = "corner_shop.tools.find_order"
        run(path, {"number": 1}, {"user_id": 7, "currency": "CHF"}, **row)
        run(path, {"number": 2}, {"user_id": 7}, **row)
        assert deployed().CALLS == [(7, 1, "CHF"), (7, 2, "EUR")]

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
    @given(
        arguments=st.dictionaries(
            st.sampled_from(["user_id", "number", "currency", "USER_ID", "user_id ", "x"]),
            st.integers() | st.text() | st.none() | st.lists(st.integers()),
        )
    )
    def test_a_model_cannot_set_them(self, deployed: Any, arguments: dict[str, Any]) -> None:
        """Whatever a model gives, the function sees the site's values, or is not run."""
        toolbox = Toolbox([make_row("corner_shop.tools.find_order", **self.ROW)], {"user_id": 7})
        deployed().CALLS.clear()
        ran = toolbox.run(call(arguments=arguments))
        if set(arguments) == {"number"} and isinstance(arguments["number"], int):
            assert [(7, arguments["number"], "EUR")] == deployed().CALLS
        else:
            assert deployed().CALLS == []
            assert ran.error is not None
            assert ran.told == f"Error: {ran.error}"
        for name in ("user_id", "currency"):
            if name in arguments:
                assert "cannot be set; the parameters are: number" in ran.told

    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            (
                {"userid": 7},
                "the variable 'user_id' was not given; the nearest name that was given",
            ),
            ({}, "the variable 'user_id' was not given; no names were given"),
            ({"user_id": "secret"}, "user_id: Input should be a valid integer"),
            ({"user_id": {1, 2}}, "a value of currency, user_id has no JSON form"),
        ],
    )
    def test_what_the_site_lacks_is_told_and_logged(
        self, deployed: Any, caplog: pytest.LogCaptureFixture, variables: Any, said: str
    ) -> None:
        """The fault is the site's: it is logged once, the model hears of it, and no value shows."""
        ran = run("corner_shop.tools.find_order", {"number": 1}, variables, **self.ROW)
        assert ran.error is not None
        assert said in ran.error
        (record,) = caplog.records
        assert record.name == "tinytroupe.django.tools"
        assert record.levelno == logging.ERROR
        assert said in record.getMessage()
        assert "secret" not in ran.told + caplog.text
        assert deployed().CALLS == []

    @pytest.mark.parametrize("spelled", ["user_id", "__user_id__"])
    def test_both_spellings(self, source_runs: None, spelled: str) -> None:
        """`__user_id__` is the parameter of that name, filled by the variable `user_id`."""
        source = f"def look({spelled}: int, number: int):\n    return [{spelled}, number]"
        ran = run(source, {"number": 1}, {"user_id": 7}, context_params=[spelled])
        assert ran.result == [7, 1]

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({"context_params": ["usr_id"]}, "context_params names 'usr_id', which is no"),
            ({"context_params": ["usr_id"]}, "parameter of find_order; the nearest is 'user_id'"),
            ({"context_params": ["__user_id__"]}, "names '__user_id__'"),
            ({"default_values_for_non_llm_params": {"price": 1}}, "params names 'price'"),
            ({"default_values_for_non_llm_params": {"user_id": "x"}}, "user_id: Input should be"),
            ({"default_values_for_non_llm_params": [1]}, "it must be an object"),
            ({"context_params": "user_id"}, "it must be a list of names"),
            ({"tool_json_spec": {"name": 5}}, 'no "name" that is a text'),
        ],
    )
    def test_what_does_not_fit_the_function_is_refused(
        self, deployed: Any, row: dict[str, Any], said: str
    ) -> None:
        """A hidden parameter that the function does not have is found out at once."""
        row = make_row("corner_shop.tools.find_order", **row)  # type: ignore[assignment]
        with pytest.raises(BadRequest) as caught:
            check_tool(row)  # type: ignore[arg-type]
        assert said in str(caught.value)
        with pytest.raises((BadRequest, ValidationError)):
            Toolbox([row], {"user_id": 1})  # type: ignore[list-item]

    def test_they_are_given_by_name(self, deployed: Any) -> None:
        """What can be given by position only cannot be hidden; what a `**` takes can."""
        path = "corner_shop.tools.collect"
        with pytest.raises(BadRequest, match="takes by position only"):
            check_tool(make_row(path, context_params=["first"]))
        ran = run(path, {"first": 1}, {"user_id": {"a": 1}}, context_params=["user_id"])
        assert ran.result == [1, (), {"user_id": {"a": 1}}]
        properties = {"first": {"type": "integer"}, "more": {"type": "string"}}
        spec = {"name": "look", "parameters": {"type": "object", "properties": properties}}
        ran = run(path, {"first": 1, "more": "x"}, tool_json_spec=spec)
        assert ran.result == [1, (), {"more": "x"}]


class TestCalls:
    """What a model may do wrong, and what it hears of that."""

    @pytest.mark.parametrize(
        ("wanted", "said"),
        [
            (call("lok"), "there is no tool 'lok'; the nearest is 'look', and all are: look"),
            (call(arguments='{"product": '), "is not JSON at line 1"),
            (call(arguments="[1]"), "wanted a JSON object with the arguments of look"),
            (call(arguments={}), "the value lacks 'product'; the parameters are: product, amount"),
            (call(arguments={"product": 1}), "product must be of type string, not 1"),
            (call(arguments={"product": "x", "amount": "2"}), "amount must be of type integer"),
            (call(arguments={"product": "x", "colour": 1}), "colour must not be there"),
            (call(arguments='{"product": "x", "amount": 1e999}'), "number is infinity"),
            (call(arguments={"product": "x", "amount": 10**400}), "is not JSON"),
        ],
    )
    def test_nothing_wrong_is_run(
        self, deployed: Any, caplog: pytest.LogCaptureFixture, wanted: ToolCall, said: str
    ) -> None:
        """The model is told what is wrong, and it is nobody else's fault."""
        toolbox = Toolbox([make_row("corner_shop.tools.order")], {})
        for ran in (toolbox.run(wanted), asyncio.run(toolbox.arun(wanted))):
            assert ran.error is not None
            assert said in ran.error
            assert ran.told == f"Error: {ran.error}"
            assert (ran.id, ran.name) == ("c1", wanted.name)
        assert deployed().CALLS == []
        assert caplog.records == []

    def test_without_tools_every_name_is_invented(self) -> None:
        """A toolbox may be empty; a model that calls all the same is told so."""
        toolbox = Toolbox([], {})
        assert (toolbox.names, toolbox.wire) == ((), [])
        assert toolbox.run(call()).error == "there is no tool 'look', and no other one"

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
    @given(
        arguments=st.dictionaries(
            st.sampled_from(["product", "amount", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats() | st.text(),
                st.lists,
            ),
        )
    )
    def test_arguments_are_run_if_and_only_if_they_fit(
        self, deployed: Any, arguments: dict[str, Any]
    ) -> None:
        """Any arguments are either valid under the spec and run once, or told and not run."""
        toolbox = Toolbox([make_row("corner_shop.tools.order")], {})
        deployed().CALLS.clear()
        ran = toolbox.run(call(arguments=arguments))
        amount = arguments.get("amount", 1)
        whole = isinstance(amount, int) or (isinstance(amount, float) and amount.is_integer())
        fits = (
            set(arguments) <= {"product", "amount"}
            and isinstance(arguments.get("product"), str)
            and whole
            and not isinstance(amount, bool)
        )
        if ran.error is None:
            assert fits
            assert [(arguments["product"], amount)] == deployed().CALLS
        else:
            assert deployed().CALLS == []
            # Floats that are whole, but too large for a whole number of pydantic's.
            assert not fits or (isinstance(amount, float) and abs(amount) > 2**53)

    @pytest.mark.parametrize("depth", [900, 1000, 1020, 5000])
    def test_deep_arguments_are_no_crash(self, deployed: Any, depth: int) -> None:
        """However deeply a model nests, the answer is a result or an error that it hears."""
        arguments = '{"thing": ' + "[" * depth + "]" * depth + "}"
        ran = run("corner_shop.tools.describe", arguments)
        said = ran.error or ""
        assert ran.result == "list" or re.search("depth|deeply|recursion limit", said)

    @pytest.mark.parametrize("runs", ["run", "arun"])
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("fail", "ValueError: there is nothing to find"),
            ("stop", "StopIteration: no more"),
            ("return_shop", "TypeError: what the function returned, of type object, has no JSON"),
        ],
    )
    def test_what_a_function_raises_is_told_and_logged(
        self, deployed: Any, caplog: pytest.LogCaptureFixture, runs: str, name: str, said: str
    ) -> None:
        """The model hears type and message, the log the traceback, once."""
        toolbox = Toolbox([make_row(f"corner_shop.tools.{name}")], {})
        ran = toolbox.run(call()) if runs == "run" else asyncio.run(toolbox.arun(call()))
        assert ran.error is not None
        assert ran.error.startswith(said)
        assert ran.told == f"Error: {ran.error}"
        (record,) = caplog.records
        assert said in record.getMessage()
        assert record.exc_info is not None

    def test_a_failed_call_of_a_function_is_not_the_models_affair(self, deployed: Any) -> None:
        """An LLMError that a function's own call raises leaves the toolbox."""
        toolbox = Toolbox([make_row("corner_shop.tools.ask")], {})
        with pytest.raises(RateLimited):
            toolbox.run(call())
        with pytest.raises(RateLimited):
            asyncio.run(toolbox.arun(call()))

    @pytest.mark.parametrize("name", ["wait_for", "promise"])
    def test_asynchronous_functions_are_awaited(self, deployed: Any, name: str) -> None:
        """Blocking or on an event loop, what has to be awaited is."""
        toolbox = Toolbox([make_row(f"corner_shop.tools.{name}", tool_json_spec={})], {})
        arguments = {"number": 4}
        assert toolbox.run(call(arguments=arguments)).result == 4
        assert asyncio.run(toolbox.arun(call(arguments=arguments))).result == 4

    def test_functions_of_the_site_share_one_thread(self, deployed: Any) -> None:
        """On an event loop ordinary functions run where Django's database connections are."""
        from asgiref.sync import sync_to_async

        toolbox = Toolbox([make_row("corner_shop.tools.name_thread")], {})

        async def gather() -> list[int]:
            runs = await asyncio.gather(*(toolbox.arun(call()) for _ in range(4)))
            database = await sync_to_async(threading.get_ident, thread_sensitive=True)()
            return [database, *(ran.result for ran in runs)]

        threads = asyncio.run(gather())
        assert len(set(threads)) == 1
        assert threads[0] != threading.get_ident()
        assert toolbox.run(call()).result == threading.get_ident()

    def test_one_broken_tool_is_found_before_a_model_is_asked(self, deployed: Any) -> None:
        """A toolbox with a tool that cannot be used is not made; nor one with a name twice."""
        good = make_row("corner_shop.tools.order", name="order")
        with pytest.raises(ToolCodeRefused):
            Toolbox([good, make_row("os.system")], {})
        with pytest.raises(BadRequest, match="two tools are called order"):
            Toolbox([good, good], {})


class TestPermission:
    """Source text of a database runs only where the site says so."""

    @pytest.mark.parametrize("value", [False, None])
    def test_source_text_is_refused(
        self, site_settings: SetSettings, tmp_path: Path, value: Any
    ) -> None:
        """Without the setting nothing of it runs, and the error names the setting."""
        if value is not None:
            site_settings(LLM_WRAPPER_ALLOW_TOOL_CODE=value)
        path = tmp_path / "seen"
        row = make_row(f"open({str(path)!r}, 'w')\ndef look(): pass")
        for use in (check_tool, lambda row: Toolbox([row], {})):
            with pytest.raises(ToolCodeRefused, match="LLM_WRAPPER_ALLOW_TOOL_CODE is True"):
                use(row)
        assert not path.exists()

    @pytest.mark.parametrize("value", [1, "True", "yes", [True]])
    def test_only_true_is_true(self, site_settings: SetSettings, value: Any) -> None:
        """What merely looks like consent is none."""
        site_settings(LLM_WRAPPER_ALLOW_TOOL_CODE=value)
        with pytest.raises((ToolCodeRefused, ConfigError), match="LLM_WRAPPER_ALLOW_TOOL_CODE"):
            Toolbox([make_row("def look(): pass")], {})

    def test_a_system_that_cannot_end_a_group_is_told(
        self, source_runs: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where a process cannot be ended with all that it started, source text does not run."""
        monkeypatch.delattr(os, "killpg")
        with pytest.raises(ToolCodeRefused, match="give the dotted path of a function"):
            Toolbox([make_row("def look(): pass")], {})

    def test_an_interpreter_is_needed(
        self, source_runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Inside of another program, the Python beside the site's packages is taken, if any."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for executable in ("/usr/sbin/uwsgi", "", None):
            monkeypatch.setattr(sys, "executable", executable)
            monkeypatch.setattr(sys, "prefix", str(tmp_path))
            with pytest.raises(ConfigError, match="there is no interpreter"):
                check_tool(make_row("def look(): pass"))
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / version).write_text("")
        assert find_interpreter() == str(tmp_path / "bin" / version)


class TestChildProcess:
    """Source text in a process of its own. Every test starts real ones."""

    def test_arguments_and_results_are_json(self, source_runs: None) -> None:
        """What a function is given and returns comes through unchanged, its prints do not."""
        source = """
            import os, sys

            def look(text: str, numbers: list[float], more: dict[str, Any], *, sure: bool = True):
                print("noise " * 100_000)
                print("noise", file=sys.stderr)
                os.write(1, b"noise")
                os.system("echo noise")
                return [text, numbers, more, sure]
        """
        arguments = {"text": "Grüße \U0001f680\n\0", "numbers": [1, 2.5], "more": {"a": [None]}}
        ran = run(source, arguments)
        assert ran.error is None
        assert ran.result == [*arguments.values(), True]
        assert json.loads(ran.told) == ran.result
        assert run("def look():\n    return 'a text'").told == "a text"

    def test_asynchronous_functions_are_awaited(self, source_runs: None) -> None:
        """A function of `async def` gives its result."""
        source = "import asyncio\nasync def look():\n    await asyncio.sleep(0)\n    return 5"
        assert run(source).result == 5
        toolbox = Toolbox([make_row(source)], {})
        assert asyncio.run(toolbox.arun(call())).result == 5

    def test_modules_of_a_source_are_whole(self, source_runs: None) -> None:
        """Dataclasses with hints that are texts, and own functions, work as in a module."""
        source = """
            from __future__ import annotations
            from dataclasses import asdict, dataclass

            @dataclass
            class Order:
                number: int

            def _double(number):
                return 2 * number

            def look(number: int):
                return asdict(Order(_double(number)))
        """
        assert run(source, {"number": 2}).result == {"number": 4}

    def test_the_environment_is_not_the_sites(
        self, source_runs: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No variable of the site is seen: no key, no path, no home."""
        monkeypatch.setenv("SECRET_KEY", "planted")
        monkeypatch.setenv("PYTHONPATH", "/planted")
        ran = run("import os\ndef look():\n    return dict(os.environ)")
        # Python itself sets the first one where there is no locale.
        assert set(ran.result) <= {"LC_CTYPE", "LD_LIBRARY_PATH"}

    def test_nothing_of_the_site_can_be_imported(self, source_runs: None) -> None:
        """Neither packages nor the neighbours of the child's program are modules for it."""
        source = """
            import importlib, sys

            def look():
                found = []
                for name in ("django", "tinytroupe", "pydantic", "tools", "models", "conf"):
                    try:
                        importlib.import_module(name)
                    except ImportError:
                        continue
                    found.append(name)
                return found
        """
        assert run(source).result == []

    def test_the_program_of_the_child_needs_the_standard_library_only(self) -> None:
        """What it imports is there in every Python."""
        tree = ast.parse(Path(tool_child.__file__).read_text(encoding="utf-8"))
        names = [
            name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
        ]
        assert names
        assert {str(name).split(".")[0] for name in names} <= set(sys.stdlib_module_names)

    def test_it_begins_in_an_empty_folder_that_goes(self, source_runs: None) -> None:
        """Files that a tool writes are gone afterwards, also where it locked the folder."""
        source = """
            import os

            def look():
                listed = os.listdir()
                os.mkdir("a")
                open("a/b", "w").write("x")
                return [os.getcwd(), listed]
        """
        folder, listed = run(source).result
        assert listed == []
        assert folder != os.getcwd()
        assert not Path(folder).exists()

    @pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system has no /proc")
    def test_no_open_file_is_inherited(self, source_runs: None, tmp_path: Path) -> None:
        """A tool has three streams to nowhere and its pipe, and cannot read what is typed."""
        source = """
            import os

            def look():
                try:
                    input()
                except EOFError:
                    return {n: os.readlink(f"/proc/self/fd/{n}") for n in sorted(
                        os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{n}")}
        """
        with open(tmp_path / "open", "w") as kept:
            os.set_inheritable(kept.fileno(), True)
            found = run(source).result
        assert [found[number] for number in "012"] == ["/dev/null"] * 3
        others = [name for number, name in found.items() if number not in "012"]
        assert [name.partition(":")[0] for name in others] == ["pipe"]

    def test_its_limits_are_set(self, source_runs: None) -> None:
        """Memory, processor and files are limited, and no core is dumped."""
        source = """
            import resource

            def look():
                names = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_CORE")
                return [resource.getrlimit(getattr(resource, name))[1] for name in names]
        """
        memory, seconds, size, core = run(source).result
        assert 0 < memory <= 512 * 1024 * 1024
        assert 0 < seconds <= 11
        assert 0 < size <= 16 * 1024 * 1024
        assert core == 0
        assert (run("def look():\n    return len(bytearray(10**9))").error or "") == "MemoryError"

    @pytest.mark.parametrize(
        ("source", "said", "logged"),
        [
            ("def look():\n    raise ValueError('no such order')", "ValueError: no such order", 2),
            ("def look():\n    import os\n    os._exit(3)", "ended with exit status 3", None),
            ("def look():\n    import os\n    os._exit(0)", "ended with exit status 0", None),
            ("def look():\n    import sys\n    sys.exit(3)", "SystemExit: 3", 3),
            ("def look():\n    import os\n    os.abort()", "was ended by SIGABRT", None),
            ("def look():\n    import os\n    os.kill(os.getpid(), 40)", "by signal 40", None),
            ("def look():\n    return object()", "TypeError: what it returned, of type obje", None),
            ("def look():\n    return {1, 2}", "TypeError: what it returned, of type set", None),
            ("def look():\n    return float('nan')", "of type float, has no JSON form", None),
            (
                "def look():\n    a = []\n    a.append(a)\n    return a",
                "of type list, has no",
                None,
            ),
            ("def look():\n    return {(1, 2): 3}", "of type dict, has no JSON form", None),
            ("def look():\n    return 'x' * 2_000_000", "is longer than 1,000,000 bytes", None),
            ("def look():\n    look()", "RecursionError", 2),
            ("1 / 0\ndef look():\n    pass", "ZeroDivisionError: division by zero", 1),
            ("import django\ndef look():\n    pass", "No module named 'django'", 1),
            ("def look():\n    pass\ndel look", "AttributeError", None),
            ("def look():\n    pass\nlook = 5", "TypeError: 'int' object is not callable", None),
            (
                "import os\ndef look():\n    os.closerange(0, 99)\n    return 1",
                "ended with exit",
                None,
            ),
            ("import os\ndef look():\n    os.write(3, b'}\\n')", "cannot be read back", None),
            ("import os\ndef look():\n    os.write(3, b'[]\\n')", "it wrote into the pipe", None),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_goes_wrong_is_told_and_logged_once(
        self,
        source_runs: None,
        caplog: pytest.LogCaptureFixture,
        source: str,
        said: str,
        logged: int | None,
    ) -> None:
        """The model and the run are told what became of it, the log the line; no path shows."""
        toolbox = Toolbox([make_row(source)], {})
        for runs in (toolbox.run, lambda wanted: asyncio.run(toolbox.arun(wanted))):
            ran = runs(call())
            assert ran.error is not None
            assert said in ran.error
            assert ran.told == f"Error: {ran.error}"
            assert ran.result is None
            assert ran.exception is not None
            assert str(Path(tool_child.__file__).parent) not in ran.told
            (record,) = caplog.records
            assert (record.name, record.levelno) == ("tinytroupe.django.tools", logging.ERROR)
            assert said in record.getMessage()
            assert (f"(line {logged} of its code)" in record.getMessage()) is (logged is not None)
            caplog.clear()

    def test_a_long_message_is_cut(self, source_runs: None) -> None:
        """An exception's message does not flood the conversation; one that cannot be told is."""
        ran = run("def look():\n    raise ValueError('x' * 900_000)")
        assert len(ran.told) < 2_100
        bad = "class Bad(Exception):\n    def __str__(self): raise KeyError\n"
        assert run(f"{bad}def look():\n    raise Bad").error == "Bad: its message cannot be told"

    @pytest.mark.parametrize(
        "source",
        [
            "def look():\n    while True:\n        pass",
            "while True:\n    pass\ndef look():\n    pass",
            "import time\ndef look():\n    time.sleep(60)",
            "import signal, time\nfor n in (1, 2, 14, 15):\n    signal.signal(n, signal.SIG_IGN)\n"
            "def look():\n    time.sleep(60)",
            "import os, time\ndef look():\n    os.closerange(0, 99)\n    time.sleep(60)",
            "import re\ndef look():\n    re.match('(a+)+$', 'a' * 60 + 'b')",
            "import os\ndef look():\n    os.write(3, b'x' * 1000)\n    while True:\n        pass",
        ],
        ids=["loop", "at import", "sleep", "ignores signals", "no pipe", "in C", "half an answer"],
    )
    def test_a_tool_that_does_not_end_is_ended(
        self,
        site_settings: SetSettings,
        caplog: pytest.LogCaptureFixture,
        source: str,
    ) -> None:
        """After the time limit it is ended and reported, whatever it does."""
        site_settings(LLM_WRAPPER_ALLOW_TOOL_CODE=True, LLM_WRAPPER_TOOL_SECONDS=0.5)
        begun = time.monotonic()
        ran = run(source)
        assert 0.5 <= time.monotonic() - begun < 5
        said = "it took longer than the 0.5 seconds of LLM_WRAPPER_TOOL_SECONDS and was ended"
        assert ran.error == said
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("end", ["return 5", "os._exit(1)", "while True: pass"])
    def test_grandchildren_neither_stay_nor_hold_the_pipe(
        self, site_settings: SetSettings, tmp_path: Path, end: str
    ) -> None:
        """A group is ended whole: after a result, after a crash, and at the time limit."""
        seconds = 10 if end == "return 5" else 2
        site_settings(LLM_WRAPPER_ALLOW_TOOL_CODE=True, LLM_WRAPPER_TOOL_SECONDS=seconds)
        source = f"""
            import os, time

            def look():
                for number in range(5):
                    if os.fork() == 0:
                        open({str(tmp_path)!r} + f"/{{os.getpid()}}", "w")
                        time.sleep(60)
                while len(os.listdir({str(tmp_path)!r})) < 5:
                    time.sleep(0.01)
                {end}
        """
        begun = time.monotonic()
        ran = run(source)
        assert time.monotonic() - begun < 8
        assert ran.result == (5 if end == "return 5" else None)
        ids = [int(path.name) for path in tmp_path.iterdir()]
        assert len(ids) == 5
        for process_id in ids:
            wait_until(lambda process_id=process_id: not is_alive(process_id))  # type: ignore[misc]

    def test_one_that_leaves_the_group_holds_nobody_up(
        self, site_settings: SetSettings, tmp_path: Path
    ) -> None:
        """A process in a session of its own cannot be ended, but is not waited for either."""
        site_settings(LLM_WRAPPER_ALLOW_TOOL_CODE=True, LLM_WRAPPER_TOOL_SECONDS=2)
        source = f"""
            import os, time

            def look():
                if os.fork() == 0:
                    os.setsid()
                    open({str(tmp_path / "id")!r}, "w").write(str(os.getpid()))
                    time.sleep(60)
                    os._exit(0)
                while True:
                    time.sleep(0.01)
        """
        begun = time.monotonic()
        assert "it took longer" in (run(source).error or "")
        assert time.monotonic() - begun < 8
        left = int((tmp_path / "id").read_text())
        assert is_alive(left)
        os.kill(left, signal.SIGKILL)

    def test_only_the_tool_itself_answers(self, source_runs: None) -> None:
        """A fork that returns from the function too does not mix in its own answer."""
        source = """
            import os, time

            def look():
                first = os.getpid()
                if os.fork():
                    time.sleep(0.3)
                return os.getpid() == first
        """
        assert run(source).result is True

    def test_threads_that_are_left_are_not_waited_for(self, source_runs: None) -> None:
        """A result comes back at once, whatever else still runs in the child."""
        source = """
            import threading, time

            def look():
                threading.Thread(target=time.sleep, args=(60,)).start()
                return 5
        """
        begun = time.monotonic()
        assert run(source).result == 5
        assert time.monotonic() - begun < 5

    def test_as_much_as_may_be_comes_through(self, source_runs: None) -> None:
        """A result just below the limit is read whole, and large arguments arrive."""
        size = MOST_ANSWER_BYTES - 20
        ran = run("def look(text: str):\n    return text", {"text": "x" * size})
        assert ran.error is None
        assert ran.result == "x" * size

    def test_the_loop_goes_on_while_a_child_runs(self, site_settings: SetSettings) -> None:
        """On an event loop neither other tasks nor the thread of the database are held up."""
        from asgiref.sync import sync_to_async

        site_settings(LLM_WRAPPER_ALLOW_TOOL_CODE=True, LLM_WRAPPER_TOOL_SECONDS=1)
        toolbox = Toolbox([make_row("def look():\n    while True:\n        pass")], {})

        async def watch() -> tuple[ToolRun, int]:
            task = asyncio.ensure_future(toolbox.arun(call()))
            beats = 0
            while not task.done():
                await sync_to_async(int, thread_sensitive=True)()
                await asyncio.sleep(0.01)
                beats += 1
            return await task, beats

        ran, beats = asyncio.run(watch())
        assert "it took longer" in (ran.error or "")
        assert beats > 10

    def test_a_child_that_cannot_be_started_is_told(
        self, source_runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An interpreter that is no program is the site's fault, and no crash."""
        broken = tmp_path / "python"
        broken.write_text("not a program")
        toolbox = Toolbox([make_row("def look():\n    return 1")], {})
        monkeypatch.setattr(sys, "executable", str(broken))
        ran = toolbox.run(call())
        assert ran.error == "its process could not be started: Permission denied"


def is_alive(process_id: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        os.kill(process_id, 0)
        status = Path(f"/proc/{process_id}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits a few seconds for what is about to happen."""
    for _ in range(300):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")
