"""Asking until the answer can be read: what was wrong is told, and nothing is bought twice."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Colour, ColouredClient
from fakes import FakeTransport, Script, chat_content
from pydantic import BaseModel

from tinytroupe.llm.client import Client
from tinytroupe.llm.errors import (
    BadRequest,
    CacheMiss,
    ConnectionFailed,
    ContentFiltered,
    ContextTooLong,
    ParseError,
    RateLimited,
)
from tinytroupe.llm.request import Attempt, Call, CallOptions, RetryPolicy, chat_request
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.store.memory import MemoryStore
from tinytroupe.llm.talk.ask import aask, ask
from tinytroupe.llm.talk.parsers import (
    ChoiceParser,
    JsonBlockParser,
    JsonDictParser,
    ParsedResponse,
)
from tinytroupe.llm.transports.rehearsal import RehearsalTransport


class Person(BaseModel):
    name: str
    age: int


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
QUESTION = chat_request("gpt-4o-mini", [{"role": "user", "content": "Who are you?"}])
LISA = '{"name": "Lisa", "age": 41}'


def put(client: ColouredClient, *args: Any, **options: Any) -> ParsedResponse:
    """Asks with a client of either colour."""
    blocking = client._loop is None
    parsed: ParsedResponse = client._finish(
        ask(client.inner, *args, **options) if blocking else aask(client.inner, *args, **options)
    )
    return parsed


class Endpoint:
    """Knows no response format; answers the first questions badly if it should."""

    def __init__(self, *answers: str, status: int | None = 400) -> None:
        self.answers = list(answers)
        self.status = status

    def __call__(self, attempt: Attempt) -> bytes:
        if "response_format" in attempt.call.request.parameters:
            raise BadRequest("response_format is not known here", status=self.status)
        return chat_content(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


class TestAskingAgain:
    """With the error in the conversation, as a new sample."""

    def test_a_good_answer_is_asked_for_once(self, colour: Colour) -> None:
        """Where the first answer can be read, nothing else is asked."""
        transport = FakeTransport(Script(chat_content(LISA)))
        client = colour.make_client(transport)
        parsed = put(client, QUESTION, JsonDictParser(required_keys=["name"]))
        assert parsed.parsed == {"name": "Lisa", "age": 41}
        assert parsed.rejected == ()
        assert len(transport.attempts) == 1

    def test_the_bad_answer_and_the_error_are_in_the_conversation(self, colour: Colour) -> None:
        """The second question holds the first answer and what was wrong with it."""
        transport = FakeTransport(Script(chat_content('{"age": 41}'), chat_content(LISA)))
        client = colour.make_client(transport)
        parser = JsonDictParser(required_keys=["name"])
        parsed = put(client, QUESTION, parser)
        assert parsed.parsed["name"] == "Lisa"
        assert "lacks the key 'name'" in parsed.rejected[0]
        first, second = [attempt.call for attempt in transport.attempts]
        assert second.request.messages[:1] == first.request.messages
        bad, complaint = second.request.messages[1:]
        assert (bad.role, bad.content) == ("assistant", '{"age": 41}')
        assert complaint.role == "user"
        assert "lacks the key 'name'" in str(complaint.content)
        assert parser.format_instruction in str(complaint.content)
        assert (first.options.sample, second.options.sample) == (0, 1)

    def test_samples_go_on_from_the_caller_s(self, colour: Colour) -> None:
        """What the caller calls sample 5 is asked again as 6 and 7, with the same options."""
        transport = FakeTransport(lambda attempt: chat_content("no"))
        client = colour.make_client(transport)
        call = Call(QUESTION, CallOptions(sample=5, lane="lisa", purpose="plan"))
        with pytest.raises(ParseError):
            put(client, call, ChoiceParser(["yes", "perhaps"]))
        options = [attempt.call.options for attempt in transport.attempts]
        assert [item.sample for item in options] == [5, 6, 7]
        assert {(item.lane, item.purpose) for item in options} == {("lisa", "plan")}

    def test_the_first_error_is_raised_in_the_end(self, colour: Colour) -> None:
        """After so many attempts the first error leaves, and tells the later ones."""
        answers = [chat_content(text) for text in ("one", "two", "three")]
        client = colour.make_client(FakeTransport(Script(*answers)))
        with pytest.raises(ParseError) as caught:
            put(client, QUESTION, ChoiceParser(["yes", "no"]), attempts=3)
        assert "begins with 'one'" in caught.value.message
        assert caught.value.answer == "one"
        assert caught.value.wanted == "one of: yes, no"
        assert ["'two'" in caught.value.history[0], "'three'" in caught.value.history[1]] == [
            True
        ] * 2
        assert caught.value.model == "fake"

    @pytest.mark.parametrize("attempts", [1, 2, 5])
    def test_it_asks_as_often_as_it_may(self, colour: Colour, attempts: int) -> None:
        """`attempts` counts the questions, the first included."""
        transport = FakeTransport(lambda attempt: chat_content("no JSON"))
        client = colour.make_client(transport)
        with pytest.raises(ParseError):
            put(client, QUESTION, JsonBlockParser(), attempts=attempts)
        assert len(transport.attempts) == attempts

    def test_an_empty_answer_is_an_error(self, colour: Colour) -> None:
        """An empty answer is asked again, without an empty message of the assistant."""
        transport = FakeTransport(Script(chat_content("  "), chat_content(LISA)))
        client = colour.make_client(transport)
        parsed = put(client, QUESTION, JsonBlockParser())
        assert "is empty" in parsed.rejected[0]
        assert [m.role for m in transport.attempts[1].call.request.messages] == ["user", "user"]

    def test_a_cut_answer_is_told_to_be_brief(self, colour: Colour) -> None:
        """The model learns that its answer was too long."""
        transport = FakeTransport(Script(chat_content("{", "length"), chat_content(LISA)))
        client = colour.make_client(transport)
        parsed = put(client, QUESTION, JsonBlockParser())
        assert "maximum of tokens" in parsed.rejected[0]
        assert "be brief" in str(transport.attempts[1].call.request.messages[-1].content)

    def test_a_failed_call_is_no_parse_error(self, colour: Colour) -> None:
        """What the chain raises leaves as it is, and is not asked again."""
        once = RetryPolicy(max_attempts=1)
        transport = FakeTransport(Script(RateLimited("slowly", status=429)))
        client = colour.make_client(transport)
        with pytest.raises(RateLimited):
            put(client, Call(QUESTION, CallOptions(retry=once)), JsonBlockParser())
        assert len(transport.attempts) == 1

    def test_a_withheld_answer_is_no_parse_error(self, colour: Colour) -> None:
        """What the content filter withheld is said to be that, and not asked again."""
        transport = FakeTransport(Script(chat_content(None, "content_filter")))
        with pytest.raises(ContentFiltered):
            put(colour.make_client(transport), QUESTION, JsonBlockParser())

    def test_tool_calls_and_refusals_are_named(self, colour: Colour) -> None:
        """An answer without text says why it has none."""
        calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
        client = colour.make_client(
            FakeTransport(
                Script(
                    chat_content(None, tool_calls=calls),
                    chat_content(None, refusal="I will not."),
                    chat_content(LISA),
                )
            )
        )
        parsed = put(client, QUESTION, JsonBlockParser())
        assert "called tools instead (look)" in parsed.rejected[0]
        assert "refused: I will not." in parsed.rejected[1]


class TestTheCache:
    """A bad answer is never served twice, and nothing is bought twice."""

    def test_a_later_run_gets_the_same_without_buying(self, colour: Colour) -> None:
        """With the same cache the same final answer comes, and no endpoint is asked."""
        store = MemoryStore()
        parser = JsonDictParser(required_keys=["name"])
        answers = ("nothing", '{"age": 1}', LISA)
        first = FakeTransport(Script(*map(chat_content, answers)))
        bought = put(colour.make_client(first, store), QUESTION, parser)
        again = FakeTransport(Script())
        client = colour.make_client(again, store)
        for _ in range(2):
            stored = put(client, QUESTION, parser)
            assert (stored.parsed, stored.rejected) == (bought.parsed, bought.rejected)
            assert stored.response.origin == "cache"
        assert again.attempts == []

    def test_the_same_bad_answer_is_another_sample(self, colour: Colour) -> None:
        """An endpoint that repeats itself is asked each time; no answer comes from the store."""
        transport = FakeTransport(lambda attempt: chat_content("never"))
        client = colour.make_client(transport, MemoryStore())
        with pytest.raises(ParseError):
            put(client, QUESTION, JsonBlockParser(), attempts=4)
        assert len({attempt.call.key for attempt in transport.attempts}) == 4


class TestInstruction:
    """How to answer is told once."""

    def test_the_instruction_follows_the_last_message(self, colour: Colour) -> None:
        """A message of the user is made longer; the caller's request stays as it was."""
        transport = FakeTransport(lambda attempt: chat_content("yes"))
        parser = ChoiceParser(["yes", "no"])
        put(colour.make_client(transport), QUESTION, parser)
        sent = transport.attempts[0].call.request.messages
        assert sent[-1].content == f"Who are you?\n\n{parser.format_instruction}"
        assert QUESTION.messages[-1].content == "Who are you?"

    def test_it_is_not_told_twice(self, colour: Colour) -> None:
        """Where a message holds the instruction already, nothing is added."""
        transport = FakeTransport(lambda attempt: chat_content("yes"))
        parser = ChoiceParser(["yes", "no"])
        messages = [
            {"role": "system", "content": f"Be brief. {parser.format_instruction}"},
            {"role": "user", "content": "Do you like it?"},
        ]
        put(colour.make_client(transport), chat_request("m", messages), parser)
        assert transport.attempts[0].call.request.messages[-1].content == "Do you like it?"

    def test_without_it_the_request_is_the_caller_s(self, colour: Colour) -> None:
        """`instruct=False` leaves the prompt alone."""
        transport = FakeTransport(lambda attempt: chat_content("yes"))
        put(colour.make_client(transport), QUESTION, ChoiceParser(["yes"]), instruct=False)
        assert transport.attempts[0].call.request == QUESTION

    def test_after_another_s_message_it_is_one_of_its_own(self, colour: Colour) -> None:
        """Behind an assistant's message and behind parts the instruction finds its place."""
        transport = FakeTransport(lambda attempt: chat_content("yes"))
        client = colour.make_client(transport)
        parser = ChoiceParser(["yes"])
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        put(client, chat_request("m", [{"role": "assistant", "content": "Well?"}]), parser)
        put(client, chat_request("m", [{"role": "user", "content": [image]}]), parser)
        first, second = [attempt.call.request.messages for attempt in transport.attempts]
        assert [message.role for message in first] == ["assistant", "user"]
        assert second[0].content[1] == {"type": "text", "text": parser.format_instruction}  # type: ignore[index]


class TestResponseFormat:
    """The endpoint's own schema mode, and what happens where there is none."""

    @pytest.mark.parametrize("given", [Person, SCHEMA], ids=["pydantic", "schema"])
    def test_the_endpoint_keeps_to_the_schema(self, colour: Colour, given: Any) -> None:
        """The schema is sent, the prompt stays, and the value is the schema's own."""
        transport = FakeTransport(lambda attempt: chat_content(LISA))
        parsed = put(colour.make_client(transport), QUESTION, response_format=given)
        expected: Any = Person(name="Lisa", age=41) if given is Person else json.loads(LISA)
        assert parsed.parsed == expected
        request = transport.attempts[0].call.request
        assert request.messages == QUESTION.messages
        sent: Any = request.parameters["response_format"]
        assert sent["type"] == "json_schema"
        assert sent["json_schema"]["strict"] is True
        assert sorted(sent["json_schema"]["schema"]["required"]) == ["age", "name"]

    def test_a_format_in_the_request_counts(self, colour: Colour) -> None:
        """`response_format` among the parameters is the same as given to ask."""
        transport = FakeTransport(lambda attempt: chat_content(LISA))
        described = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
        request = chat_request("m", QUESTION.messages, response_format=described)
        assert put(colour.make_client(transport), request).parsed == json.loads(LISA)
        assert transport.attempts[0].call.request == request

    def test_json_mode_is_told_in_words_too(self, colour: Colour) -> None:
        """The API wants the word JSON in the prompt where there is no schema."""
        transport = FakeTransport(lambda attempt: chat_content(LISA))
        client = colour.make_client(transport)
        parsed = put(client, QUESTION, response_format={"type": "json_object"})
        assert parsed.parsed == json.loads(LISA)
        assert "JSON" in str(transport.attempts[0].call.request.messages[-1].content)

    def test_a_server_that_ignores_the_schema_is_told(self, colour: Colour) -> None:
        """Prose under status 200 is asked again, with the format in words."""
        transport = FakeTransport(Script(chat_content("I am Lisa."), chat_content(LISA)))
        parsed = put(colour.make_client(transport), QUESTION, response_format=Person)
        assert parsed.parsed == Person(name="Lisa", age=41)
        assert "JSON Schema" in str(transport.attempts[1].call.request.messages[-1].content)

    @pytest.mark.parametrize("status", [400, 422, None])
    def test_where_it_is_refused_it_is_told_in_words(
        self, colour: Colour, status: int | None
    ) -> None:
        """The same question follows without the format and with the instruction."""
        transport = FakeTransport(Endpoint(f"```json\n{LISA}\n```", status=status))
        parsed = put(colour.make_client(transport), QUESTION, response_format=Person)
        assert parsed.parsed == Person(name="Lisa", age=41)
        first, second = [attempt.call.request for attempt in transport.attempts]
        assert "response_format" in first.parameters
        assert "response_format" not in second.parameters
        assert "JSON Schema" in str(second.messages[-1].content)

    def test_a_refusal_is_remembered_for_the_endpoint_and_the_model(self, colour: Colour) -> None:
        """The next question goes without the format at once, by any client of the endpoint."""
        transport = FakeTransport(Endpoint(LISA))
        for client in (colour.make_client(transport), colour.make_client(transport)):
            put(client, QUESTION, response_format=Person)
        assert len(transport.attempts) == 3
        other = chat_request("another", QUESTION.messages)
        put(colour.make_client(transport), other, response_format=Person)
        assert len(transport.attempts) == 5
        put(colour.make_client(FakeTransport(Endpoint(LISA))), QUESTION, response_format=Person)

    def test_another_endpoint_is_not_blamed(self, colour: Colour) -> None:
        """What one endpoint refuses another one of the same name may take."""
        put(colour.make_client(FakeTransport(Endpoint(LISA))), QUESTION, response_format=Person)
        transport = FakeTransport(lambda attempt: chat_content(LISA))
        put(colour.make_client(transport), QUESTION, response_format=Person)
        assert "response_format" in transport.attempts[0].call.request.parameters

    def test_what_is_not_the_format_s_fault_is_raised(self, colour: Colour) -> None:
        """Where the question is refused without the format too, the first error leaves."""
        steps = [BadRequest("bad role", status=400), BadRequest("still bad", status=400)]
        transport = FakeTransport(Script(*steps, chat_content(LISA)))
        client = colour.make_client(transport)
        with pytest.raises(BadRequest, match="bad role"):
            put(client, QUESTION, response_format=Person)
        put(client, QUESTION, response_format=Person)
        assert "response_format" in transport.attempts[-1].call.request.parameters

    @pytest.mark.parametrize(
        "error",
        [ContextTooLong("too long", status=400), BadRequest("nothing here", status=404)],
        ids=["context", "address"],
    )
    def test_other_errors_are_not_taken_for_a_refusal(
        self, colour: Colour, error: Exception
    ) -> None:
        """A prompt that is too long or a wrong address is not asked again in words."""
        transport = FakeTransport(Script(error))
        with pytest.raises(type(error)):
            put(colour.make_client(transport), QUESTION, response_format=Person)

    def test_an_unreadable_answer_after_a_refusal_tells_both(self, colour: Colour) -> None:
        """The error says that the format was refused and that words did not help."""
        client = colour.make_client(FakeTransport(Endpoint("Lisa.")))
        with pytest.raises(ParseError) as caught:
            put(client, QUESTION, response_format=Person, attempts=2)
        assert "response_format is not known here" in caught.value.history[0]

    def test_offline_the_stored_answer_in_words_is_found(self, colour: Colour) -> None:
        """A new process whose endpoint is gone finds what was bought after a refusal."""
        store = MemoryStore()
        answers = Endpoint("nothing", LISA)
        first = put(
            colour.make_client(FakeTransport(answers), store), QUESTION, response_format=Person
        )
        gone = ConnectionFailed("the endpoint is gone")
        once = Call(QUESTION, CallOptions(retry=RetryPolicy(max_attempts=1)))
        client = colour.make_client(FakeTransport(Script(gone)), store)
        again = put(client, once, response_format=Person)
        assert (again.parsed, again.rejected) == (first.parsed, first.rejected)
        only = Call(QUESTION, CallOptions(cache="only"))
        client = colour.make_client(FakeTransport(Script()), store)
        assert put(client, only, response_format=Person).parsed == first.parsed

    def test_offline_without_an_answer_the_first_error_leaves(self, colour: Colour) -> None:
        """That nothing is stored in the other form either does not hide why."""
        gone = ConnectionFailed("the endpoint is gone")
        once = CallOptions(retry=RetryPolicy(max_attempts=1))
        client = colour.make_client(FakeTransport(Script(gone)), MemoryStore())
        with pytest.raises(ConnectionFailed):
            put(client, Call(QUESTION, once), response_format=Person)
        with pytest.raises(CacheMiss):
            put(client, Call(QUESTION, CallOptions(cache="only")), response_format=Person)

    def test_many_threads_learn_of_a_refusal(self) -> None:
        """Threads that ask at once all get their answers, and later ones ask once."""
        transport = FakeTransport(Endpoint(LISA))
        client = Client(transport)
        barrier = threading.Barrier(8)

        def one(index: int) -> Any:
            barrier.wait()
            request = chat_request("m", [{"role": "user", "content": f"Who are you, {index}?"}])
            return ask(client, request, response_format=Person).parsed

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(one, range(8))) == [Person(name="Lisa", age=41)] * 8
        before = len(transport.attempts)
        assert before <= 16
        ask(client, chat_request("m", QUESTION.messages), response_format=Person)
        assert len(transport.attempts) == before + 1


class TestRuns:
    """Within a run the same is asked again, whatever was learned meanwhile."""

    def test_a_recorded_refusal_replays(self, tmp_path: Path) -> None:
        """A replay in the same process asks what was asked, though the refusal is known by now."""
        tape = tmp_path / "run.tape"
        transport = FakeTransport(Endpoint(LISA))

        def simulate(client: Client) -> list[Any]:
            questions = [[{"role": "user", "content": f"Who are you, {i}?"}] for i in range(3)]

            def one(messages: Any) -> Any:
                return ask(client, chat_request("m", messages), response_format=Person).parsed

            with ThreadPoolExecutor(3) as pool:
                threads = list(pool.map(one, questions))
            return [*threads, one(questions[0])]

        with Run.record(tape):
            recorded = simulate(Client(transport))
        asked = len(transport.attempts)
        with Run.replay(tape):
            assert simulate(Client(transport)) == recorded
        assert len(transport.attempts) == asked


class TestRehearsal:
    """The rehearsal keeps to schemas, so a simulation can be tried without a model."""

    @pytest.mark.parametrize("given", [Person, SCHEMA], ids=["pydantic", "schema"])
    def test_a_schema_is_kept_to(self, colour: Colour, given: Any) -> None:
        """A pydantic class and a JSON Schema come back filled."""
        parsed = put(colour.make_client(RehearsalTransport()), QUESTION, response_format=given)
        value = parsed.parsed.model_dump() if given is Person else parsed.parsed
        assert sorted(value) == ["age", "name"]
        assert parsed.repairs == ()

    def test_keys_that_are_asked_for_come(self, colour: Colour) -> None:
        """JSON mode with required keys gives them, in their places."""
        parser = JsonDictParser(
            required_keys=["thought"], keys_to_content="speak", keys_to_metadata=["mood"]
        )
        client = colour.make_client(RehearsalTransport())
        parsed = put(client, QUESTION, parser, response_format={"type": "json_object"})
        assert sorted(parsed.parsed) == ["mood", "speak", "thought"]
        assert parsed.content == parsed.parsed["speak"]
        assert parsed.metadata == {"mood": parsed.parsed["mood"]}

    def test_prose_is_refused_in_the_end(self, colour: Colour) -> None:
        """Asked in words only, the rehearsal speaks; that is an error and no empty object."""
        with pytest.raises(ParseError, match="there is no JSON in the answer"):
            put(colour.make_client(RehearsalTransport()), QUESTION, JsonDictParser())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give a parser or a response_format"),
        ({"parser": JsonBlockParser(), "attempts": 0}, "attempts is 0"),
        ({"response_format": {"type": "text"}}, "give a parser"),
        ({"response_format": {"type": "json_schema"}}, "no schema in it"),
        ({"response_format": {"name": "x"}}, "neither a JSON Schema"),
        ({"response_format": 5}, "response_format is 5"),
        ({"response_format": {"type": "object", "not": {}}}, "not in it is not understood"),
        ({"response_format": {"type": "string", "pattern": "("}}, "pattern '\\(' in the schema"),
    ],
)
def test_what_cannot_be_asked(colour: Colour, options: dict[str, Any], said: str) -> None:
    """A wrong argument is a BadRequest before anything is asked."""
    transport = FakeTransport()
    with pytest.raises(BadRequest, match=said):
        put(colour.make_client(transport), QUESTION, **options)
    assert transport.attempts == []
