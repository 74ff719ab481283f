"""Response formats over several endpoints: who refuses one is known, and left for another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Colour, ColouredClient
from fakes import FakeTransport, chat_content
from pydantic import BaseModel

from tinytroupe.llm.client import Client, ClientDefaults
from tinytroupe.llm.errors import BadRequest, ConnectionFailed
from tinytroupe.llm.layers.route import Route
from tinytroupe.llm.request import Attempt, Request, RetryPolicy, chat_request
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.talk.ask import aask, ask
from tinytroupe.llm.talk.parsers import ParsedResponse
from tinytroupe.llm.transports.endpoint import Endpoint

PATIENT = ClientDefaults(retry=RetryPolicy(max_attempts=4, waiting_seconds=0.0))
LISA = '{"name": "Lisa", "age": 41}'


class Person(BaseModel):
    name: str
    age: int


class Server:
    """Answers in JSON, from a list first; may know no response format, or be gone."""

    def __init__(self, *answers: str, refuses: bool = False) -> None:
        self.answers = list(answers)
        self.refuses = refuses
        self.gone = False
        self.transport = FakeTransport(self.answer)

    def answer(self, attempt: Attempt) -> bytes:
        if self.gone:
            raise ConnectionFailed("nobody there")
        if self.refuses and is_formatted(attempt):
            raise BadRequest("response_format is not known here", status=400)
        return chat_content(self.answers.pop(0) if self.answers else LISA)

    @property
    def asked(self) -> list[bool]:
        """Tells for each request whether it had a response format."""
        return [is_formatted(attempt) for attempt in self.transport.attempts]


def is_formatted(attempt: Attempt) -> bool:
    return "response_format" in attempt.call.request.parameters


def route(*servers: Server, **named: Any) -> Route:
    return Route(
        [Endpoint(f"e{index}", each.transport, **named) for index, each in enumerate(servers)]
    )


def question(number: int = 0) -> Request:
    return chat_request("m", [{"role": "user", "content": f"Who are you, {number}?"}])


def put(client: ColouredClient, request: Request, **options: Any) -> ParsedResponse:
    """Asks for a person with a client of either colour."""
    blocking = client._loop is None
    asked = (ask if blocking else aask)(client.inner, request, response_format=Person, **options)
    parsed: ParsedResponse = client._finish(asked)
    return parsed


def test_who_refuses_is_left_for_who_does_not(colour: Colour) -> None:
    """One endpoint's refusal costs one request; from then on the other is asked with the schema."""
    plain, able = Server(refuses=True), Server()
    client = colour.make_client(route(plain, able), None, PATIENT)
    for number in range(5):
        assert put(client, question(number)).parsed == Person(name="Lisa", age=41)
    assert plain.asked == [True]
    assert able.asked == [True] * 5


def test_who_takes_a_format_is_not_blamed_for_another(colour: Colour) -> None:
    """By itself an endpoint is asked with the schema, whatever one beside it refused."""
    able, plain = Server(), Server(refuses=True)
    client = colour.make_client(route(able, plain), None, PATIENT)
    for number in range(4):
        put(client, question(number))
    assert plain.asked == [True]
    put(colour.make_client(able.transport), question(9))
    assert able.asked[-1] is True
    put(colour.make_client(plain.transport), question(9))
    assert plain.asked == [True, False]


def test_where_all_refuse_all_are_asked_in_words(colour: Colour) -> None:
    """Each endpoint refuses once; then the calls are balanced again."""
    servers = [Server(refuses=True) for _ in range(3)]
    client = colour.make_client(route(*servers), None, PATIENT)
    for number in range(12):
        assert put(client, question(number)).parsed == Person(name="Lisa", age=41)
    assert [server.asked.count(True) for server in servers] == [1, 1, 1]
    assert all(3 <= server.asked.count(False) <= 5 for server in servers)


def test_where_the_others_are_gone_the_one_that_refuses_is_asked_in_words(colour: Colour) -> None:
    """A refusal is no reason to fail, nor to wait for who is down."""
    plain, able = Server(refuses=True), Server()
    client = colour.make_client(route(plain, able), None, PATIENT)
    put(client, question(0))
    able.gone = True
    for number in range(1, 3):
        assert put(client, question(number)).parsed == Person(name="Lisa", age=41)
    assert plain.asked[1:] == [True, False] * 2


def test_a_refusal_while_asking_again_is_no_end(colour: Colour) -> None:
    """After an answer that cannot be read, an endpoint that knows no format may be the next."""
    able, plain = Server("I am Lisa."), Server(refuses=True)
    client = colour.make_client(route(able, plain), None, PATIENT)
    parsed = put(client, question())
    assert parsed.parsed == Person(name="Lisa", age=41)
    assert "there is no JSON" in parsed.rejected[0]
    assert (able.asked, plain.asked) == ([True, True], [True])
    first, again = [attempt.call for attempt in able.transport.attempts]
    assert (first.options.sample, again.options.sample) == (0, 1)
    assert [message.role for message in again.request.messages] == ["user", "assistant", "user"]


def test_what_all_refuse_in_words_too_is_not_the_format_s_fault(colour: Colour) -> None:
    """The first endpoint's error leaves, and nothing is held against anybody."""
    servers = [Server(), Server()]

    def both() -> list[bool]:
        return [*servers[0].asked, *servers[1].asked]

    def refuse(attempt: Attempt) -> bytes:
        raise BadRequest(f"bad role {len(both())}", status=400)

    for server in servers:
        server.transport.answer = refuse
    client = colour.make_client(route(*servers), None, PATIENT)
    with pytest.raises(BadRequest, match="bad role 1"):
        put(client, question())
    assert sorted(both()) == [False, True, True]
    for server in servers:
        server.transport.answer = server.answer
        server.transport.attempts.clear()
    put(client, question())
    assert both() == [True]


def test_a_model_s_own_name_at_an_endpoint_counts(colour: Colour) -> None:
    """What one model refuses at an address another one may take there."""
    server = Server(refuses=True)
    put(colour.make_client(route(server, model="small"), None, PATIENT), question())
    server.refuses = False
    put(colour.make_client(route(server, model="large"), None, PATIENT), question(1))
    put(colour.make_client(route(server, model="small"), None, PATIENT), question(2))
    assert server.asked == [True, False, True, False]


def test_a_recorded_run_over_endpoints_replays(tmp_path: Path) -> None:
    """Whoever refused in the recorded run refuses in the replay, whatever is known by now."""
    servers = Server("I am Lisa.", refuses=False), Server(refuses=True), Server(refuses=True)

    def simulate() -> list[Any]:
        client = Client(route(*servers), None, PATIENT)

        def one(agent: int) -> list[Any]:
            return [
                ask(client, question(10 * agent + number), response_format=Person).parsed
                for number in range(4)
            ]

        with ThreadPoolExecutor(4) as pool:
            return [*pool.map(one, range(4)), one(9)]

    tape = tmp_path / "run.tape"
    with Run.record(tape):
        recorded = simulate()
    asked = sum(len(server.asked) for server in servers)
    for _ in range(2):
        with Run.replay(tape):
            assert simulate() == recorded
    assert sum(len(server.asked) for server in servers) == asked
