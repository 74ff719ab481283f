"""Tools: schemas out of functions, and a model that calls them, in any colour."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime
import enum
import functools
import json
import pickle
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, Optional, cast

import pytest
from conftest import Colour, ColouredClient
from fakes import FakeTransport, Script, chat_content
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import (
    BadRequest,
    BudgetExceeded,
    ConnectionFailed,
    ContentFiltered,
    MalformedResponse,
    ParseError,
    ToolRoundsExceeded,
)
from tinytroupe.llm.request import Call, CallOptions, RetryPolicy, chat_request
from tinytroupe.llm.response import ToolCall, parse_response
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.talk.docstrings import read_docstring
from tinytroupe.llm.talk.model_response import ModelResponse
from tinytroupe.llm.talk.models import Model, ModelSetup
from tinytroupe.llm.talk.places import Unreadable
from tinytroupe.llm.talk.tool_runs import prepare_job
from tinytroupe.llm.talk.tools import (
    ToolResponse,
    ToolRun,
    arun_tools,
    make_tool,
    read_function,
    run_tools,
)
from tinytroupe.llm.transports.rehearsal import RehearsalTransport

DAY = datetime.date(2026, 1, 2)
QUESTION = chat_request("gpt-4o-mini", [{"role": "user", "content": "What does the tea cost?"}])


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Order(BaseModel):
    title: str = Field(description="What is ordered.")
    day: datetime.date


@dataclasses.dataclass
class Address:
    street: str
    number: int = 1


def find_price(
    product: str, city: Literal["Graz", "Linz"] = "Graz", year: int | None = None
) -> float:
    """Looks up what a product costs.

    Prices are those of the market.

    Args:
        product: What is sold, in one word
            or two.
        city (str): Where.
        year: Of what year; None for now.

    Returns:
        The price in euros.
    """
    return 3.5


def find_stock(product: str) -> int:
    """Counts what is there of a product."""
    return len(product)


def calls(*wanted: tuple[str, Any], text: str | None = None) -> bytes:
    """Writes an answer that calls tools; arguments that are text are sent as they are."""
    written = [
        {
            "id": f"c{place}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": given if isinstance(given, str) else json.dumps(given),
            },
        }
        for place, (name, given) in enumerate(wanted)
    ]
    return chat_content(text, "tool_calls", tool_calls=written)


def talk(client: ColouredClient, *args: Any, **options: Any) -> ToolResponse:
    """Runs tools with a client of either colour."""
    run = run_tools if client._loop is None else arun_tools
    answered: ToolResponse = client._finish(run(client.inner, *args, **options))
    return answered


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    described: dict[str, Any] = make_tool(function)["function"]["parameters"]
    return described


class Shelf(list[str]):
    """A result with a JSON form that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("it is fixed to the wall")


class TestToolCalls:
    """What a response wants to be called."""

    def test_calls_are_read_in_order(self) -> None:
        """Name, id and arguments come as the model wrote them."""
        response = parse_response("chat", calls(("a", {"x": 1}), ("b", "not JSON")))
        first, second = response.tool_calls
        assert first == ToolCall("c0", "a", '{"x": 1}')
        assert first.parsed_arguments == {"x": 1}
        assert second.arguments == "not JSON"

    def test_without_calls_there_are_none(self) -> None:
        """A text and vectors call nothing."""
        assert parse_response("chat", chat_content("Hi")).tool_calls == ()
        vectors = b'{"data": [{"index": 0, "embedding": [1.0]}]}'
        assert parse_response("embedding", vectors).tool_calls == ()

    @pytest.mark.parametrize("arguments", ["", "  "])
    def test_no_arguments_are_none(self, arguments: str) -> None:
        """Servers send nothing where a tool takes nothing."""
        assert ToolCall("1", "now", arguments).parsed_arguments == {}

    @pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**40, 1.5e300])
    def test_numbers_stay_what_they_are(self, number: float) -> None:
        """A number of an order is no float, however long it is."""
        found = ToolCall("1", "look", f'{{"n": {number}}}').parsed_arguments["n"]
        assert (found, type(found)) == (number, type(number))

    @pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "null", "{'a': 1}", '{"a": NaN}'])
    def test_what_is_no_object_is_refused(self, arguments: str) -> None:
        """Arguments are never guessed: an object, or a ParseError that shows them."""
        with pytest.raises(ParseError) as caught:
            _ = ToolCall("1", "look", arguments).parsed_arguments
        assert "arguments of look" in caught.value.wanted
        assert caught.value.answer == arguments

    def test_odd_servers_are_understood(self) -> None:
        """Arguments as an object, a missing id and a tool that takes text are read."""
        odd = [
            {"type": "function", "function": {"name": "a", "arguments": {"x": 1}}},
            {"id": "7", "type": "custom", "custom": {"name": "b", "input": "free text"}},
        ]
        first, second = parse_response("chat", chat_content(None, tool_calls=odd)).tool_calls
        assert (first.id, first.parsed_arguments) == ("call_0", {"x": 1})
        assert (second.name, second.arguments) == ("b", "free text")

    def test_what_is_no_call_is_malformed(self) -> None:
        """Something else among the calls is an error of the endpoint."""
        with pytest.raises(MalformedResponse):
            _ = parse_response("chat", chat_content(None, tool_calls=["look()"])).tool_calls


class TestSchemas:
    """What a model is told of a function."""

    def test_hints_and_docstring_describe_it(self) -> None:
        """Names, types, choices, defaults and descriptions are those of the function."""
        assert make_tool(find_price) == {
            "type": "function",
            "function": {
                "name": "find_price",
                "description": "Looks up what a product costs.\n\nPrices are those of the market.",
                "parameters": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "product": {
                            "type": "string",
                            "description": "What is sold, in one word or two.",
                        },
                        "city": {
                            "type": "string",
                            "enum": ["Graz", "Linz"],
                            "default": "Graz",
                            "description": "Where.",
                        },
                        "year": {
                            "anyOf": [{"type": "integer"}, {"type": "null"}],
                            "default": None,
                            "description": "Of what year; None for now.",
                        },
                    },
                    "required": ["product"],
                },
            },
        }

    def test_types_of_every_kind(self) -> None:
        """Enumerations, dataclasses, pydantic classes, lists, dates and Optional are described."""

        def order(
            what: Order,
            where: Address,
            size: Size,
            tags: list[str],
            day: datetime.date,
            note: Optional[str] = None,  # noqa: UP045
            price: Annotated[float, Field(ge=0, description="In euros.")] = 1.0,
            who: Annotated[str, "who orders"] = "Lisa",
            anything=None,  # type: ignore[no-untyped-def]
        ) -> None:
            pass

        schema = parameters_of(order)
        assert sorted(schema["$defs"]) == ["Address", "Order", "Size"]
        assert schema["required"] == ["what", "where", "size", "tags", "day"]
        properties = schema["properties"]
        assert properties["tags"] == {"type": "array", "items": {"type": "string"}}
        assert properties["day"] == {"type": "string", "format": "date"}
        assert properties["price"]["minimum"] == 0
        assert properties["price"]["description"] == "In euros."
        assert properties["who"]["description"] == "who orders"
        assert properties["anything"] == {"default": None}
        assert schema["$defs"]["Order"]["properties"]["title"]["description"] == "What is ordered."

    def test_any_name_may_be_a_parameter(self) -> None:
        """Names that pydantic keeps for itself are parameters like others."""

        def odd(schema: int, copy: int, _hidden: int, model_config: int, title: int) -> None:
            pass

        names = ["schema", "copy", "_hidden", "model_config", "title"]
        assert list(parameters_of(odd)["properties"]) == names
        bound = read_function(odd).bind(dict.fromkeys(names, 1))
        assert bound == ([], dict.fromkeys(names, 1))

    def test_kinds_of_functions(self) -> None:
        """Methods, functions without parameters and positional-only ones can be tools."""

        class Shop:
            def sell(self, product: str, /, *rest: int, price: float = 1, **more: str) -> None:
                """Sells."""

        assert list(parameters_of(Shop().sell)["properties"]) == ["product", "price"]
        assert read_function(Shop().sell).bind({"product": "tea"}) == (["tea"], {})
        assert parameters_of(lambda_like := _named(lambda: 1)) == {
            "type": "object",
            "properties": {},
            "additionalProperties": False,
        }
        assert read_function(lambda_like).bind({}) == ([], {})

    def test_defaults_without_json_are_left_to_the_function(self) -> None:
        """A default that cannot be written is not told and not passed."""
        nothing = object()

        def look(where: Any = nothing) -> bool:
            return where is nothing

        assert parameters_of(look)["properties"] == {"where": {}}
        assert read_function(look).bind({}) == ([], {})

    @pytest.mark.parametrize(
        "function",
        [lambda x: x, functools.partial(find_price, year=1), 5, "print", object()],
        ids=["lambda", "partial", "number", "text", "object"],
    )
    def test_what_has_no_name_is_refused(self, function: Any) -> None:
        """A model can only call what has a name."""
        with pytest.raises(BadRequest, match="cannot be a tool"):
            make_tool(function)

    def test_hints_that_say_nothing_are_refused(self) -> None:
        """A hint that cannot be resolved or has no schema is named."""

        def unknown(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
            pass

        def unwritable(x: threading.Lock) -> None:  # type: ignore[valid-type]
            pass

        with pytest.raises(BadRequest, match="a type hint of unknown"):
            make_tool(unknown)
        with pytest.raises(BadRequest, match="the parameters of unwritable"):
            make_tool(unwritable)

    def test_a_tool_may_know_only_some_parameters(self) -> None:
        """Under another name, and with the others neither told nor taken."""
        tool = read_function(find_price, name="find-price", parameters=["city", "year"])
        function = json.loads(json.dumps(tool.wire["function"]))
        assert function["name"] == "find-price"
        assert list(function["parameters"]["properties"]) == ["city", "year"]
        assert tool.bind({"year": 2026}) == ([], {"year": 2026})
        with pytest.raises(Unreadable, match="product: Extra inputs"):
            tool.bind({"product": "tea"})
        with pytest.raises(BadRequest, match="cannot be a tool"):
            read_function(find_price, name="find price")

    def test_values_that_do_not_fit_are_shown_if_wanted(self) -> None:
        """A reason quotes the value, unless it is nobody's business."""
        tool = read_function(find_price)
        wrong = {"product": "tea", "year": "secret"}
        with pytest.raises(Unreadable, match=r'year: .*, not "secret"$'):
            tool.bind(wrong)
        with pytest.raises(Unreadable, match="year: ") as caught:
            tool.bind(wrong, quoted=False)
        assert "secret" not in caught.value.reason

    @pytest.mark.parametrize("depth", [900, 1000, 1020, 5000])
    def test_deep_arguments_are_no_crash(self, depth: int) -> None:
        """However deeply a model nests, the call is refused and nothing is raised."""
        arguments = f'{{"product": {"[" * depth}{"]" * depth}}}'
        job = prepare_job(
            ToolCall("1", "find_price", arguments), {"find_price": read_function(find_price)}
        )
        assert job.tool is None
        assert job.complaint

    def test_without_tools_every_name_is_invented(self) -> None:
        """Where there is none, none is the nearest."""
        job = prepare_job(ToolCall("1", "look", "{}"), {})
        assert job.complaint == "there is no tool 'look', and no other one"


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = "named"
    return function


DOCSTRINGS = {
    "google": """Does it.

        More of it.

        Args:
            first (int): The first: one
                and on.
            *second: The second.

        Raises:
            third: Never.
        """,
    "numpy": """Does it.

        More of it.

        Parameters
        ----------
        first : int, optional
            The first: one
            and on.
        second
            The second.

        Returns
        -------
        third : int
            Never.
        """,
    "sphinx": """Does it.

        More of it.

        :param int first: The first: one
            and on.
        :param second: The second.
        :type second: str
        :raises third: Never.
        :returns: nothing
        """,
}


@pytest.mark.parametrize("style", DOCSTRINGS)
def test_docstrings(style: str) -> None:
    """Each of the three styles gives the description and one line for each parameter."""
    assert read_docstring(DOCSTRINGS[style]) == (
        "Does it.\n\nMore of it.",
        {"first": "The first: one and on.", "second": "The second."},
    )


@given(text=st.text() | st.text(alphabet="Args:\n -x param(){}*,"))
def test_any_docstring_is_read(text: str) -> None:
    """Whatever people write into a docstring, reading it causes no error."""
    summary, described = read_docstring(text)
    assert isinstance(summary, str)
    assert all(described)


class TestRunning:
    """The model asks for tools, they are run, it goes on."""

    def test_results_are_sent_back(self, colour: Colour) -> None:
        """The second request holds the model's calls and their results, in order."""
        wanted = calls(("find_price", {"product": "tea"}), ("find_stock", {"product": "tea"}))
        transport = FakeTransport(Script(wanted, chat_content("It costs 3.50.")))
        answered = talk(colour.make_client(transport), QUESTION, [find_price, find_stock])
        assert answered.text == "It costs 3.50."
        assert answered.runs == (
            ToolRun("c0", "find_price", {"product": "tea"}, "3.5", 3.5),
            ToolRun("c1", "find_stock", {"product": "tea"}, "3", 3),
        )
        first, second = [attempt.call.request for attempt in transport.attempts]
        assert [tool["function"]["name"] for tool in first.parameters["tools"]] == [  # type: ignore[index,union-attr,call-overload]
            "find_price",
            "find_stock",
        ]
        sent = [message.to_wire() for message in second.messages]
        assert sent[0] == QUESTION.messages[0].to_wire()
        assert [call["id"] for call in sent[1]["tool_calls"]] == ["c0", "c1"]  # type: ignore[union-attr,index,call-overload]
        assert sent[2:] == [
            {"role": "tool", "content": "3.5", "tool_call_id": "c0"},
            {"role": "tool", "content": "3", "tool_call_id": "c1"},
        ]
        assert answered.messages[-1].content == "It costs 3.50."
        assert answered.usage is not None
        assert answered.usage.total_tokens == 20

    def test_arguments_become_what_the_hints_say(self, colour: Colour) -> None:
        """Classes, enumerations and dates arrive as themselves; defaults stay the function's."""
        seen: list[Any] = []

        def order(what: Order, where: Address, size: Size, number: int = 7) -> str:
            seen.extend([what, where, size, number])
            return "ordered"

        arguments = {
            "what": {"title": "tea", "day": "2026-01-02"},
            "where": {"street": "Hauptplatz"},
            "size": "large",
        }
        transport = FakeTransport(Script(calls(("order", arguments)), chat_content("Done.")))
        answered = talk(colour.make_client(transport), QUESTION, [order])
        assert seen == [Order(title="tea", day=DAY), Address("Hauptplatz", 1), Size.LARGE, 7]
        assert answered.runs[0].told == "ordered"
        assert answered.runs[0].arguments == arguments

    @pytest.mark.parametrize(
        ("wanted", "complaint"),
        [
            (("find_prize", {}), "there is no tool 'find_prize'; the nearest is 'find_price'"),
            (("find_price", "{'product'"), "is not JSON at line 1"),
            (("find_price", {}), "product: Field required"),
            (("find_price", {"product": 5}), "product: Input should be a valid string, not 5"),
            (("find_price", {"product": "tea", "shop": "x"}), "shop: Extra inputs"),
            (("find_price", {"product": "tea", "city": "Rome"}), "city: Input should be 'Graz'"),
            (("__import__('os').system", '{"command": "ls"}'), "there is no tool"),
        ],
    )
    def test_wrong_calls_are_told_to_the_model(
        self, colour: Colour, wanted: tuple[str, Any], complaint: str
    ) -> None:
        """What a model invents is not run; it learns why, and the caller sees it."""
        ran: list[str] = []

        def find_price(product: str, city: Literal["Graz", "Linz"] = "Graz") -> None:
            ran.append(product)

        transport = FakeTransport(Script(calls(wanted), chat_content("Sorry.")))
        answered = talk(colour.make_client(transport), QUESTION, [find_price])
        (run,) = answered.runs
        assert ran == []
        assert run.error is not None
        assert complaint in run.error
        assert run.told == f"Error: {run.error}"
        assert transport.attempts[1].call.request.messages[-1].content == run.told
        assert answered.text == "Sorry."

    def test_errors_of_a_tool_are_told_to_both(self, colour: Colour) -> None:
        """The model reads what was raised, the caller gets the exception, and the talk goes on."""

        def break_down() -> None:
            raise KeyError("no such street")

        transport = FakeTransport(Script(calls(("break_down", {})), chat_content("A pity.")))
        answered = talk(colour.make_client(transport), QUESTION, [break_down])
        (run,) = answered.runs
        assert run.told == "Error: KeyError: 'no such street'"
        assert isinstance(run.exception, KeyError)
        assert answered.text == "A pity."

    def test_errors_of_the_simulation_leave(self, colour: Colour) -> None:
        """A budget that a tool used up is not something for the model to talk about."""

        def spend() -> None:
            raise BudgetExceeded("nothing is left")

        client = colour.make_client(FakeTransport(Script(calls(("spend", {})))))
        with pytest.raises(BudgetExceeded):
            talk(client, QUESTION, [spend])

    @pytest.mark.parametrize("in_threads", [False, True])
    def test_interrupts_leave(self, colour: Colour, in_threads: bool) -> None:
        """What is no Exception is never swallowed."""

        def stop() -> None:
            raise SystemExit(3)

        wanted = calls(("stop", {}), ("stop", {}))
        client = colour.make_client(FakeTransport(Script(wanted)))
        with pytest.raises(SystemExit):
            talk(client, QUESTION, [stop], in_threads=in_threads)

    @pytest.mark.parametrize(
        ("result", "told"),
        [
            ("as it is", "as it is"),
            (None, "null"),
            ({"ä": [1, 2.5, True]}, '{"ä": [1, 2.5, true]}'),
            ({"b", "a", "c"}, '["a", "b", "c"]'),
            (Order(title="tea", day=DAY), '{"title": "tea", "day": "2026-01-02"}'),
            (Address("x"), '{"street": "x", "number": 1}'),
            (Size.LARGE, '"large"'),
            (float("nan"), "null"),
        ],
    )
    def test_what_the_model_is_told(self, colour: Colour, result: Any, told: str) -> None:
        """A text goes as it is and anything else as JSON, the same in every process."""

        def give() -> Any:
            return result

        transport = FakeTransport(Script(calls(("give", {})), chat_content("Thanks.")))
        (run,) = talk(colour.make_client(transport), QUESTION, [give]).runs
        assert run.told == told
        assert run.error is None

    def test_a_result_without_json_is_an_error(self, colour: Colour) -> None:
        """An object's address in memory must not get into a request."""

        def give() -> Any:
            return object()

        transport = FakeTransport(Script(calls(("give", {})), chat_content("Hm.")))
        (run,) = talk(colour.make_client(transport), QUESTION, [give]).runs
        assert (
            run.error == "TypeError: what the function returned, of type object, has no JSON form"
        )

    def test_text_is_never_run(self, colour: Colour) -> None:
        """A call that is written into the text is a text."""
        said = '<tool_call>{"name": "find_stock", "arguments": {"product": "tea"}}</tool_call>'
        client = colour.make_client(FakeTransport(Script(chat_content(said))))
        answered = talk(client, QUESTION, [find_stock])
        assert answered.runs == ()
        assert answered.text == said

    def test_what_an_endpoint_needs_is_sent_back(self, colour: Colour) -> None:
        """Reasoning and signatures return to the endpoint; what it only tells does not."""
        call = {
            "type": "function",
            "function": {"name": "find_stock", "arguments": '{"product": "tea"}'},
            "extra_content": {"google": {"thought_signature": "xyz"}},
        }
        content = chat_content(
            None,
            "tool_calls",
            tool_calls=[call],
            reasoning_content="Hm.",
            annotations=[],
            refusal=None,
        )
        transport = FakeTransport(Script(content, chat_content("3")))
        talk(colour.make_client(transport), QUESTION, [find_stock])
        echoed = transport.attempts[1].call.request.messages[1].to_wire()
        assert echoed == {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": ({**call, "id": "call_0"},),
        }

    def test_rounds_have_an_end(self, colour: Colour) -> None:
        """A model that goes on calling is stopped, and the error carries all that happened."""
        transport = FakeTransport(lambda attempt: calls(("find_stock", {"product": "tea"})))
        client = colour.make_client(transport)
        with pytest.raises(ToolRoundsExceeded, match="after 3 rounds") as caught:
            talk(client, QUESTION, [find_stock], max_rounds=3)
        error = pickle.loads(pickle.dumps(caught.value))
        assert len(transport.attempts) == 4
        assert [run.result for run in error.runs] == [3, 3, 3]
        assert error.response.tool_calls[0].name == "find_stock"
        assert error.messages[-1].role == "assistant"
        assert error.model == "fake"

    def test_an_error_in_a_later_round_tells_what_was_run(self, colour: Colour) -> None:
        """Whatever ends a conversation, what was run before it is known, in order."""
        lost = ConnectionFailed("the endpoint is gone")
        wanted = calls(("find_stock", {"product": "tea"}), ("nothing", {}))
        transport = FakeTransport(Script(wanted, calls(("find_price", {"product": "tea"})), lost))
        once = CallOptions(retry=RetryPolicy(max_attempts=1), lane="lisa")
        client = colour.make_client(transport)
        with pytest.raises(ConnectionFailed, match="gone") as caught:
            talk(client, Call(QUESTION, once), [find_stock, find_price])
        error = pickle.loads(pickle.dumps(caught.value))
        assert [(run.name, run.result) for run in error.runs] == [
            ("find_stock", 3),
            ("nothing", None),
            ("find_price", 3.5),
        ]
        assert (error.lane, error.attempts) == ("lisa", 1)
        assert str(error) == str(caught.value)

    def test_an_error_in_the_first_round_is_no_larger(self, colour: Colour) -> None:
        """Where nothing was run, the error is the chain's own."""
        client = colour.make_client(FakeTransport(Script(BadRequest("no", status=400))))
        with pytest.raises(BadRequest) as caught:
            talk(client, QUESTION, [find_stock])
        assert caught.value.runs == ()
        assert "runs" not in vars(caught.value)

    def test_a_failed_call_of_a_function_tells_what_was_run(self, colour: Colour) -> None:
        """The runs before it, and those of a conversation that the function itself led."""
        deep = Client(
            FakeTransport(Script(calls(("find_price", {"product": "tea"})), BadRequest("no")))
        )

        def ask_on(word: str) -> str:
            return run_tools(deep, QUESTION, [find_price]).text

        wanted = calls(("find_stock", {"product": "tea"}), ("ask_on", {"word": "tea"}))
        client = colour.make_client(FakeTransport(Script(wanted)))
        with pytest.raises(BadRequest) as caught:
            talk(client, QUESTION, [find_stock, ask_on])
        told = [run.name for run in caught.value.runs if isinstance(run, ToolRun)]
        assert told == ["find_stock", "find_price"]

    def test_the_cause_stays_the_cause(self, colour: Colour) -> None:
        """What an error came from, and where, is shown as if no tool had been run."""

        def fail(word: str) -> str:
            try:
                raise KeyError(word)
            except KeyError as error:
                raise ConnectionFailed("the shelf is empty") from error

        wanted = calls(("find_stock", {"product": "tea"}), ("fail", {"word": "tea"}))
        client = colour.make_client(FakeTransport(Script(wanted)))
        with pytest.raises(ConnectionFailed) as caught:
            talk(client, QUESTION, [find_stock, fail])
        shown = "".join(traceback.format_exception(caught.value))
        assert isinstance(caught.value.__cause__, KeyError)
        assert shown.count("the shelf is empty") == 2  # its own line, and that of the source
        assert "in fail" in shown

    def test_runs_that_cannot_be_pickled_stop_no_error(self, colour: Colour) -> None:
        """A result that no process can be given is left out, and so is such an exception."""

        class Odd(Exception):
            def __init__(self, one: int, two: int) -> None:
                super().__init__("odd")

        def give(kind: str) -> Any:
            """Gives."""
            if kind == "odd":
                raise Odd(1, 2)
            return Shelf()

        wanted = calls(("give", {"kind": "shelf"}), ("give", {"kind": "odd"}))
        client = colour.make_client(FakeTransport(Script(wanted, BadRequest("no", status=400))))
        with pytest.raises(BadRequest) as caught:
            talk(client, QUESTION, [give])
        shelf, odd = cast("tuple[ToolRun, ToolRun]", caught.value.runs)
        assert isinstance(shelf.result, Shelf)
        assert isinstance(odd.exception, Odd)
        assert copy.copy(shelf) is shelf
        one, two = pickle.loads(pickle.dumps(caught.value)).runs
        assert (one.told, one.result) == (shelf.told, None)
        assert (two.error, two.exception) == (odd.error, None)

    def test_who_shares_a_failed_call_has_runs_of_their_own(self) -> None:
        """Of two that ask the same at the same moment each is told what it ran itself."""
        together = threading.Barrier(2)

        def find(product: str) -> str:
            """Finds."""
            together.wait(10)
            return "here"

        def answer(attempt: Any) -> bytes:
            if len(attempt.call.request.messages) == 1:
                return calls(("find", {"product": "tea"}))
            time.sleep(0.5)
            raise BadRequest("no", status=400)

        transport = FakeTransport(answer)
        client = Client(transport, MemoryStore())

        def lead(number: int) -> tuple[list[ToolRun], tuple[object, ...]]:
            seen: list[ToolRun] = []
            with pytest.raises(BadRequest) as caught:
                run_tools(client, QUESTION, [find], on_run=seen.append)
            return seen, caught.value.runs

        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lead, range(2)))
        assert len(transport.attempts) < 4
        for seen, told in both:
            assert len(told) == 1
            assert told[0] is seen[0]

    def test_a_forced_choice_counts_once(self, colour: Colour) -> None:
        """`required` would have the model call for ever."""
        transport = FakeTransport(
            Script(calls(("find_stock", {"product": "tea"})), chat_content("Three."))
        )
        forced = chat_request("m", QUESTION.messages, tool_choice="required", temperature=0.5)
        talk(colour.make_client(transport), forced, [find_stock])
        first, second = [attempt.call.request.parameters for attempt in transport.attempts]
        assert first["tool_choice"] == "required"
        assert "tool_choice" not in second
        assert second["temperature"] == 0.5

    def test_tools_of_the_request_are_sent_as_well(self, colour: Colour) -> None:
        """A description that the caller wrote goes before one made of the hints."""
        own = make_tool(find_stock)
        own["function"]["description"] = "My own words."
        transport = FakeTransport(Script(chat_content("Hi.")))
        request = chat_request("m", QUESTION.messages, tools=[own])
        talk(colour.make_client(transport), request, [find_stock, find_price])
        sent: Any = transport.attempts[0].call.request.parameters["tools"]
        assert [tool["function"]["name"] for tool in sent] == ["find_stock", "find_price"]
        assert sent[0]["function"]["description"] == "My own words."

    def test_each_response_is_cached(self, colour: Colour) -> None:
        """A later run buys nothing; the functions run again, and each call keeps its options."""
        store = MemoryStore()
        wanted = calls(("find_stock", {"product": "tea"}))
        first = FakeTransport(Script(wanted, chat_content("Three.")))
        call = Call(QUESTION, CallOptions(lane="lisa", sample=2))
        bought = talk(colour.make_client(first, store), call, [find_stock])
        again = FakeTransport(Script())
        stored = talk(colour.make_client(again, store), call, [find_stock])
        assert again.attempts == []
        assert stored.runs == bought.runs
        assert stored.text == bought.text
        options = [attempt.call.options for attempt in first.attempts]
        assert [(item.lane, item.sample) for item in options] == [("lisa", 2)] * 2

    def test_each_run_is_told_as_it_ends(self, colour: Colour) -> None:
        """`on_run` sees every run, in order, before the model goes on."""
        seen: list[tuple[int, ToolRun]] = []
        wanted = calls(("find_stock", {"product": "tea"}), ("nothing", {}))
        transport = FakeTransport(Script(wanted, chat_content("Three.")))
        answered = talk(
            colour.make_client(transport),
            QUESTION,
            [find_stock],
            on_run=lambda run: seen.append((len(transport.attempts), run)),
        )
        assert seen == [(1, run) for run in answered.runs]

    def test_a_withheld_answer_is_said_to_be_one(self, colour: Colour) -> None:
        """What the content filter withheld is no empty answer."""
        client = colour.make_client(FakeTransport(Script(chat_content(None, "content_filter"))))
        with pytest.raises(ContentFiltered):
            talk(client, QUESTION, [find_stock])

    @pytest.mark.parametrize(
        ("functions", "options", "said"),
        [
            ([], {}, "there is no function"),
            ([find_stock, find_stock], {}, "two functions are called find_stock"),
            ([find_stock], {"max_rounds": 0}, "max_rounds is 0"),
        ],
    )
    def test_what_cannot_be_run(
        self, colour: Colour, functions: Any, options: dict[str, Any], said: str
    ) -> None:
        """A wrong argument is a BadRequest before anything is asked."""
        transport = FakeTransport()
        with pytest.raises(BadRequest, match=said):
            talk(colour.make_client(transport), QUESTION, functions, **options)
        assert transport.attempts == []


class TestThreadsAndTasks:
    """Several calls at once, only where that is asked for."""

    def test_calls_run_one_after_the_other(self, colour: Colour) -> None:
        """Unless threads are asked for, functions run in order on the caller's own thread."""
        seen: list[tuple[int, int]] = []

        def note(number: int) -> None:
            seen.append((number, threading.get_ident()))

        wanted = calls(*[("note", {"number": number}) for number in range(5)])
        transport = FakeTransport(Script(wanted, chat_content("Done.")))
        talk(colour.make_client(transport), QUESTION, [note])
        assert seen == [(number, threading.get_ident()) for number in range(5)]

    def test_threads_run_them_at_once_and_keep_the_order(
        self, colour: Colour, threads_end: None
    ) -> None:
        """With threads all calls of a response run together; results go back in its order."""
        barrier = threading.Barrier(4)

        def meet(number: int) -> int:
            barrier.wait(10)
            return number

        wanted = calls(*[("meet", {"number": number}) for number in range(4)], ("none", {}))
        transport = FakeTransport(Script(wanted, chat_content("Done.")))
        answered = talk(colour.make_client(transport), QUESTION, [meet], in_threads=True)
        assert [run.result for run in answered.runs] == [0, 1, 2, 3, None]

    def test_asynchronous_functions_are_awaited(self) -> None:
        """On an event loop functions of both kinds are tools, with and without threads."""
        colour = Colour("async")

        async def wait_for(number: int) -> int:
            await asyncio.sleep(0)
            return number

        async def fail() -> None:
            await asyncio.sleep(0)
            raise ValueError("no")

        wanted = calls(("wait_for", {"number": 1}), ("fail", {}), ("find_stock", {"product": "ab"}))
        for in_threads in (False, True):
            transport = FakeTransport(Script(wanted, chat_content("Done.")))
            client = colour.make_client(transport)
            functions = [wait_for, fail, find_stock]
            runs = talk(client, QUESTION, functions, in_threads=in_threads).runs
            assert [run.result for run in runs] == [1, None, 2]
            assert runs[1].error == "ValueError: no"
        colour.close()

    def test_a_blocking_client_cannot_await(self) -> None:
        """An asynchronous function without an event loop is refused before anything is asked."""

        async def wait() -> None:
            pass

        transport = FakeTransport()
        with pytest.raises(BadRequest, match="use arun_tools"):
            run_tools(Client(transport), QUESTION, [wait])
        assert transport.attempts == []

    def test_a_tool_that_hides_that_it_is_asynchronous(self) -> None:
        """An ordinary function that returns a coroutine is an error, not a result."""

        async def wait() -> None:
            pass

        def hide() -> Any:
            return wait()

        transport = FakeTransport(Script(calls(("hide", {})), chat_content("Hm.")))
        (run,) = run_tools(Client(transport), QUESTION, [hide]).runs
        assert run.error == "TypeError: the function is asynchronous; arun_tools awaits it"

    def test_tools_may_ask_models_themselves(self, colour: Colour) -> None:
        """A function may use a client while the model waits for it."""
        inner = Client(FakeTransport(lambda attempt: chat_content("Tea is a drink.")))

        def explain(word: str) -> str:
            return inner.send(QUESTION).text

        transport = FakeTransport(Script(calls(("explain", {"word": "tea"})), chat_content("Ah.")))
        answered = talk(colour.make_client(transport), QUESTION, [explain], in_threads=True)
        assert answered.runs[0].result == "Tea is a drink."


def make_model(transport: Any, **parameters: Any) -> Model:
    given = FrozenDict(parameters)
    clients = Client(transport), AsyncClient(transport)
    return Model(ModelSetup("lisa", "fake-1", {"fake": "fake-1"}, *clients, given))


def talk_to(colour: Colour, model: Model, *args: Any, **options: Any) -> ModelResponse:
    """Runs tools with a model, in either colour."""
    if colour._loop is None:
        return model.run_tools(*args, **options)
    return colour._loop.run_until_complete(model.arun_tools(*args, **options))


class TestModels:
    """Models by name run tools like any client."""

    def test_the_answer_says_who_and_what_was_run(self, colour: Colour) -> None:
        """Text, runs, conversation, the usage of all responses, and who answered."""
        wanted = calls(("find_stock", {"product": "tea"}))
        transport = FakeTransport(Script(wanted, chat_content("Three.")))
        seen: list[ToolRun] = []
        model = make_model(transport)
        answered = talk_to(colour, model, "How much tea?", [find_stock], on_run=seen.append)
        assert answered.text == "Three."
        assert answered.runs == (ToolRun("c0", "find_stock", {"product": "tea"}, "3", 3),)
        assert list(answered.runs) == seen
        roles = [message.role for message in answered.messages]
        assert roles == ["user", "assistant", "tool", "assistant"]
        assert answered.usage is not None
        assert answered.usage.total_tokens == 20
        assert answered.model_info["config_name"] == "fake"
        assert answered.model_info["model_name"] == "fake-1"
        assert answered.finish_reason == "stop"
        assert answered.tool_calls == ()

    def test_parameters_and_options_are_those_of_a_call(self, colour: Colour) -> None:
        """What the configuration and the caller say goes into every request, as it is asked."""
        wanted = calls(("find_stock", {"product": "tea"}))
        transport = FakeTransport(Script(wanted, chat_content("Three.")))
        model = make_model(transport, temperature=0.5, top_p=0.9)
        talk_to(colour, model, "How much tea?", [find_stock], temperature=1.0, lane="lisa/1")
        for attempt in transport.attempts:
            parameters = attempt.call.request.parameters
            assert (parameters["temperature"], parameters["top_p"]) == (1.0, 0.9)
            assert attempt.call.options.lane == "lisa/1"
            assert attempt.call.request.model == "fake-1"

    def test_rounds_and_errors_are_those_of_run_tools(self, colour: Colour) -> None:
        """A model that never answers is stopped, and what failed tells what was run."""
        endless = FakeTransport(lambda attempt: calls(("find_stock", {"product": "tea"})))
        with pytest.raises(ToolRoundsExceeded) as stopped:
            talk_to(colour, make_model(endless), "Hm?", [find_stock], max_rounds=2)
        assert len(stopped.value.runs) == 2
        wanted = calls(("find_stock", {"product": "tea"}))
        broken = FakeTransport(Script(wanted, BadRequest("no", status=400)))
        with pytest.raises(BadRequest, match="no") as failed:
            talk_to(colour, make_model(broken), "Hm?", [find_stock], in_threads=True)
        assert len(failed.value.runs) == 1
        with pytest.raises(BadRequest, match="there is no message"):
            talk_to(colour, make_model(broken), None, [find_stock])

    def test_an_answer_without_tools_has_no_runs(self, colour: Colour) -> None:
        """Other answers of a model have neither runs nor a conversation."""
        model = make_model(FakeTransport(lambda attempt: chat_content("Hi.")))
        assert talk_to(colour, model, "Hello", [find_stock]).runs == ()
        answered = model("Hello")
        assert (answered.runs, answered.messages) == ((), ())


class TestRehearsal:
    """The rehearsal calls tools too, so a simulation with tools can be tried without a model."""

    def test_a_tool_that_fits_the_question_is_called(self, colour: Colour) -> None:
        """The rehearsal gives valid arguments, hears the result and answers."""
        client = colour.make_client(RehearsalTransport())
        question = [{"role": "user", "content": "What is the price of tea, per product?"}]
        answered = talk(client, chat_request("gpt-4o-mini", question), [find_price])
        (run,) = answered.runs
        assert run.error is None
        assert run.result == 3.5
        assert answered.text

    def test_every_schema_that_is_made_can_be_met(self, colour: Colour) -> None:
        """Arguments that are valid under the schema are arguments that the function takes."""

        def order_tea(what: Order, where: Address, size: Size, tags: list[str]) -> str:
            """Orders tea, and tells the cost."""
            return f"{what.title} {where.street} {size.value} {len(tags)}"

        forced = chat_request("gpt-4o-mini", QUESTION.messages, tool_choice="required")
        answered = talk(colour.make_client(RehearsalTransport()), forced, [order_tea])
        assert answered.runs[0].error is None
