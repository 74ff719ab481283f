"""The tape: whole lines or none, every change noticed, wherever it was cut."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
from fakes import FakeTransport, chat_content
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulations import Clients, DeadTransport, DrawingTransport, record

from tinytroupe.llm.client import Client
from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.request import chat_request
from tinytroupe.llm.runs.recording import Recording
from tinytroupe.llm.runs.run import Run
from tinytroupe.llm.store.tape import TAPE_FORMAT, TapeReader, TapeWriter, seal

HEADER = {"tinytroupe": "0.0.0", "key_schema": 1}

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.lists(
    st.dictionaries(TEXTS.filter(lambda key: key not in ("hash", "event")), VALUES, max_size=4),
    max_size=8,
)
IN_A_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, events: list[dict[str, Any]]) -> bytes:
    path.unlink(missing_ok=True)
    writer = TapeWriter(path, HEADER)
    for event in events:
        assert writer.append({"event": "note", **event})
    writer.close()
    return path.read_bytes()


def read(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Returns the events after the header, and whether the last was cut."""
    reader = TapeReader(path)
    events = [line.event for line in reader.lines() if line.intact]
    return [{key: event[key] for key in event if key != "event"} for event in events[1:]], (
        reader.scan.cut
    )


@IN_A_FOLDER
@given(events=EVENTS)
def test_what_is_written_is_read(events, tmp_path):
    """Any events come back as they were, in order, and every line holds its hash."""
    path = tmp_path / "any.tape"
    content = write(path, events)
    assert read(path) == (events, False)
    assert TapeReader(path).verify() == []
    assert content.count(b"\n") == len(events) + 1
    assert all("hash" in json.loads(line) for line in content.splitlines())


@IN_A_FOLDER
@given(events=EVENTS, data=st.data())
def test_a_cut_anywhere_costs_at_most_the_last_event(events, data, tmp_path):
    """Cut at any byte, a tape gives all whole events, and says when a part of one was lost."""
    path = tmp_path / "any.tape"
    content = write(path, events)
    size = data.draw(st.integers(content.index(b"\n") + 1, len(content)))
    path.write_bytes(content[:size])
    whole = content[:size].count(b"\n") - 1
    assert read(path) == (events[:whole], not content[:size].endswith(b"\n"))
    assert TapeReader(path).verify() == []
    writer = TapeWriter(path, HEADER, resume=True)
    assert writer.append({"event": "note", "text": "on"})
    writer.close()
    resumed, cut = read(path)
    assert resumed[:whole] == events[:whole]
    assert resumed[-1] == {"text": "on"}
    assert not cut
    assert TapeReader(path).verify() == []


def test_every_cut_of_a_real_tape(tmp_path):
    """At each of its bytes a recorded run can be cut, read, and resumed to its end."""
    tape = tmp_path / "run.tape"
    recorded = record(tape, lambda clients: clients.talk(2))
    content = tape.read_bytes()
    for size in range(len(content) + 1):
        tape.write_bytes(content[:size])
        if content[:size].count(b"\n") == 0:
            with pytest.raises(StoreError, match="empty" if not size else "cut"):
                Recording(tape)
            continue
        recording = Recording(tape)
        assert len(recording.takes) == content[:size].count(b'"event":"call"') - (
            b'"event":"call"' in content[:size].rpartition(b"\n")[2]
        )
        assert recording.cut == (not content[:size].endswith(b"\n"))
        if size % 97 == 0:
            transport = DrawingTransport()
            with Run.record(tape, resume=True):
                resumed = Clients(transport).talk(2)
            kept = 2 - len(transport.attempts)
            assert kept == len(recording.takes)
            assert resumed[:kept] == recorded[:kept]
            assert TapeReader(tape).verify() == []


@IN_A_FOLDER
@given(events=EVENTS.filter(len), data=st.data())
def test_any_change_is_noticed_where_it_is(events, data, tmp_path):
    """A byte that is changed anywhere is noticed, and the line that holds it is named."""
    path = tmp_path / "any.tape"
    content = write(path, events)
    first = content.index(b"\n") + 1
    place = data.draw(st.integers(first, len(content) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (content[place], 10)))
    if content[place : place + 1] == b"\n":
        return
    path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    changed = TapeReader(path).verify()
    number = content[:place].count(b"\n") + 1
    # Where it is a line's own hash that was changed, the next one does not build on it either.
    assert changed in ([number], [number, number + 1])


@IN_A_FOLDER
@given(events=EVENTS.filter(lambda events: len(events) > 2), data=st.data())
def test_lines_taken_out_or_put_elsewhere_are_noticed(events, data, tmp_path):
    """A line that is missing, doubled or in another place is noticed at the line after."""
    path = tmp_path / "any.tape"
    lines = write(path, events).splitlines(keepends=True)
    number = data.draw(st.integers(1, len(lines) - 2))
    without = [*lines[:number], *lines[number + 1 :]]
    doubled = [*lines[:number], lines[number], *lines[number:]]
    swapped = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
    for changed in (without, doubled, swapped):
        path.write_bytes(b"".join(changed))
        found = TapeReader(path).verify()
        assert found
        assert found[0] in (number + 1, number + 2)


def test_the_header_is_sealed_too(tmp_path):
    """A header that was changed by hand is noticed as line 1."""
    path = tmp_path / "any.tape"
    content = write(path, [{}])
    path.write_bytes(content.replace(b'"0.0.0"', b'"9.9.9"', 1))
    assert TapeReader(path).verify() == [1]


def test_a_changed_tape_is_not_replayed(tmp_path):
    """Neither replay nor resume trusts a tape that was changed; both name the line."""
    tape = tmp_path / "run.tape"
    record(tape, lambda clients: clients.talk(3))
    lines = tape.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"answer", b"ANSWER")
    tape.write_bytes(b"".join(lines))
    for run in (Run.replay(tape), Run.record(tape, resume=True)):
        with pytest.raises(StoreError, match="line 3 of the tape"):
            run.start()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b'{"event":"hea', "was cut before its first event"),
        (b"PNG\x00\xff\n", "is not a tape"),
        (b"not a tape at all", "is not a tape"),
        (b'{"a": 1}\n', "is not a tape"),
        (b"[1]\n", "is not a tape"),
        (b'{"event":"header","format":"x"}\n', "is not a tape"),
        (b'{"event":"note","format":1}\n', "is not a tape"),
        (b'{"event":"header","format":99,"tinytroupe":"7.0"}\n', "format 99.*tinytroupe 7.0"),
    ],
)
def test_what_is_no_tape_of_ours(content, said, tmp_path):
    """Whatever else a file is, the error says it, and how to go on where there is a way."""
    path = tmp_path / "any.tape"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=said):
        TapeReader(path)
    with pytest.raises(StoreError, match=said):
        Run.replay(path).start()
    assert path.read_bytes() == content


def test_a_tape_that_is_not_there(tmp_path):
    """A missing tape, and a folder in its place, are told."""
    with pytest.raises(StoreError, match="there is no tape"):
        Run.replay(tmp_path / "none.tape").start()
    with pytest.raises(StoreError, match="cannot be read"):
        Run.replay(tmp_path).start()
    with pytest.raises(StoreError, match="cannot be written"):
        Run.record(tmp_path).start()


def test_a_tape_of_other_keys(tmp_path):
    """A tape with another key schema is refused with what to do, by replay, resume and fork."""
    path = tmp_path / "any.tape"
    line, _ = seal(
        {"event": "header", "format": TAPE_FORMAT, "tinytroupe": "7.0", "key_schema": 99}, ""
    )
    path.write_bytes(line)
    for run in (
        Run.replay(path),
        Run.record(path, resume=True),
        Run.fork(path, tmp_path / "to.tape"),
    ):
        with pytest.raises(StoreError, match=r"key schema 99.*replay it with tinytroupe 7\.0"):
            run.start()
    assert TapeReader(path).verify() == []


def test_two_recorders_on_one_tape(tmp_path):
    """A tape that is being recorded is refused to others, also to those who would resume it."""
    path = tmp_path / "any.tape"
    writer = TapeWriter(path, HEADER)
    for resume in (False, True):
        with pytest.raises(StoreError, match="another process is recording"):
            TapeWriter(path, HEADER, resume=resume)
    assert writer.append({"event": "note"})
    writer.close()
    TapeWriter(path, HEADER, resume=True).close()
    assert TapeReader(path).verify() == []


def test_threads_write_whole_lines(tmp_path):
    """Lines of many threads, short and long, follow each other whole and chained."""
    path = tmp_path / "any.tape"
    writer = TapeWriter(path, HEADER)

    def work(name: int) -> None:
        for number in range(40):
            writer.append({"event": "note", "from": name, "text": "x" * (number % 7) ** 5})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    events, cut = read(path)
    assert not cut
    for name in range(6):
        assert [len(event["text"]) for event in events if event["from"] == name] == [
            (number % 7) ** 5 for number in range(40)
        ]
    assert TapeReader(path).verify() == []


def test_after_the_end_nothing_is_written(tmp_path):
    """A closed tape takes no more events; closing twice does nothing."""
    path = tmp_path / "any.tape"
    writer = TapeWriter(path, HEADER)
    writer.close()
    writer.close()
    content = path.read_bytes()
    assert writer.append({"event": "note"}) is False
    assert path.read_bytes() == content


def test_whatever_an_event_holds_it_can_be_written(tmp_path):
    """Halves of characters and values without a JSON form cost no event."""
    path = tmp_path / "any.tape"
    writer = TapeWriter(path, HEADER)
    odd = {"event": "note", "lane": "a\ud800b", 7: (b"x", {1, 2}), "raw": orjson.Fragment(b"[1]")}
    assert writer.append(odd)
    writer.close()
    ((event,), _) = read(path)
    assert event["lane"] == "a?b"
    assert event["raw"] == [1]
    assert TapeReader(path).verify() == []


def test_an_answer_over_several_lines_is_one_line(tmp_path):
    """A pretty-printed answer, with line ends of all kinds in its text, is recorded whole."""
    text = "One.\nTwo.\r\nThree.\u2028Four.\x85"
    content = json.dumps(json.loads(chat_content(text)), indent=4).replace("\n", "\r\n").encode()
    tape = tmp_path / "run.tape"
    request = chat_request("model", [{"role": "user", "content": text}])
    with Run.record(tape):
        assert Client(FakeTransport(lambda _: content)).send(request).text == text
    assert len(tape.read_bytes().split(b"\n")) == 4
    with Run.replay(tape):
        response = Client(DeadTransport()).send(request)
    assert response.text == text
    assert response.raw == json.loads(content)


def test_an_answer_of_ten_megabytes(tmp_path):
    """Size is no limit: a huge answer is one line and comes back whole."""
    text = "Ich bin so groß. " * 600_000
    tape = tmp_path / "run.tape"
    request = chat_request("model", [{"role": "user", "content": "Speak."}])
    with Run.record(tape):
        Client(FakeTransport(lambda _: chat_content(text))).send(request)
    assert tape.stat().st_size > 10_000_000
    with Run.replay(tape):
        assert Client(DeadTransport()).send(request).text == text


def test_a_tape_is_readable_while_it_is_recorded(tmp_path):
    """Whoever looks at a tape during the run sees all that was acknowledged."""
    tape = tmp_path / "run.tape"
    with Run.record(tape):
        clients = Clients(DrawingTransport())
        for number in range(1, 4):
            clients.talk(1)
            assert len(Recording(tape).takes) == number


def test_folders_on_the_way_are_made(tmp_path):
    """A tape may be put into a folder that does not exist yet."""
    tape = tmp_path / "a" / "b" / "run.tape"
    record(tape, lambda clients: clients.talk(1))
    assert len(Recording(tape).takes) == 1


def test_a_tape_is_for_its_owner_s_umask(tmp_path):
    """A tape is an ordinary file, with the rights that new files have."""
    before = os.umask(0o027)
    try:
        record(tmp_path / "run.tape", lambda clients: clients.talk(1))
    finally:
        os.umask(before)
    assert (tmp_path / "run.tape").stat().st_mode & 0o777 == 0o640
