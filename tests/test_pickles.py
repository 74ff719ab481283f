"""TinyTroupe's pickles are read without running, importing or calling anything."""

from __future__ import annotations

import builtins
import collections
import contextlib
import datetime
import functools
import operator
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from old_pickles import ANSWERS, MODEL, PICKLED, QUESTIONS, load_pickle, make_key, make_parameters
from openai.types.chat import ChatCompletion

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store import pickle_machine, pickle_names, pickles
from tinytroupe.llm.store.literals import NoLiteral, parse_literal
from tinytroupe.llm.store.pickles import Unreadable, iter_answers

CANARY = "canary"


def read(content: bytes) -> dict[str, Any]:
    return dict(iter_answers(content))


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path, monkeypatch):
    """Every hostile pickle here would, if it ran, make a file in the current folder."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / CANARY).exists(), "the pickle ran a program"


@pytest.mark.parametrize("name", PICKLED)
def test_answers_of_every_version_of_the_sdk_are_those_of_the_endpoint(name):
    """What the endpoint sent comes out of the SDK's pickled objects, and nothing besides."""
    assert read(load_pickle(name)) == {
        make_key(make_parameters(question)): answer
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("answer", ANSWERS, ids=["text", "tools"])
def test_the_installed_sdk_is_read_in_every_protocol(protocol, answer):
    """The objects of the SDK that is installed here become what the SDK makes of them."""
    completion = ChatCompletion.construct(**answer)
    assert read(pickle.dumps({"key": completion}, protocol)) == {
        "key": completion.to_dict(mode="json")
    }


def test_an_object_that_was_used_becomes_what_the_endpoint_sent():
    """What the SDK or a program set on an object later is not taken for a part of the answer."""
    completion = ChatCompletion.construct(**ANSWERS[0])
    completion._request_id = "req_1"
    assert read(pickle.dumps({"key": completion})) == {"key": ANSWERS[0]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@settings(deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=30,
    )
)
def test_plain_data_comes_back(protocol, value):
    """Whatever JSON can say comes back from a pickle of any protocol."""
    assert read(pickle.dumps({"key": value}, protocol)) == {"key": value}


def test_tuples_become_lists_and_what_is_shared_is_copied():
    """What stands in a pickle once and is meant twice comes out twice, each for itself."""
    shared = ["bread"]
    answers = read(pickle.dumps({"one": (shared, shared), "two": shared}))
    assert answers == {"one": [["bread"], ["bread"]], "two": ["bread"]}
    answers["one"][0].append("wine")
    assert answers["two"] == ["bread"]


@pytest.mark.parametrize(
    "value", [b"bytes", {"set"}, ChatCompletion], ids=["bytes", "set", "class"]
)
def test_an_answer_without_a_form_in_json_costs_no_other(value):
    """One answer that cannot be told as JSON says so in its place; the others come."""
    answers = read(pickle.dumps({"odd": value, "good": {"content": "Hello"}}))
    assert isinstance(answers["odd"], Unreadable)
    assert answers["good"] == {"content": "Hello"}


def test_what_contains_itself_is_one_unreadable_answer():
    """A list within itself ends, as does one that is nested very deeply."""
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    answers = read(pickle.dumps({"endless": endless, "deep": deep, "good": 1}))
    assert isinstance(answers["endless"], Unreadable)
    assert isinstance(answers["deep"], Unreadable)
    assert answers["good"] == 1


class Reduced:
    """Pickles as a call of something."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.reduced


MAKE_CANARY = f"open({CANARY!r}, 'w').close()"
TOUCH = f'{sys.executable} -c "{MAKE_CANARY}"'

HOSTILE_OBJECTS = {
    "os.system": Reduced(os.system, (TOUCH,)),
    "eval": Reduced(eval, (MAKE_CANARY,)),
    "exec": Reduced(exec, (MAKE_CANARY,)),
    "open": Reduced(open, (CANARY, "w")),
    "subprocess": Reduced(subprocess.check_call, (["touch", CANARY],)),
    "Popen": Reduced(subprocess.Popen, (["touch", CANARY],)),
    "os.open": Reduced(os.open, (CANARY, os.O_CREAT)),
    "getattr": Reduced(getattr, (Path(CANARY), "touch")),
    "import": Reduced(builtins.__import__, ("antigravity",)),
    "partial": functools.partial(os.system, TOUCH),
    "methodcaller": Reduced(operator.methodcaller, ("touch",)),
    "path": Path(CANARY),
    "OrderedDict": collections.OrderedDict(a=1),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "datetime": datetime.datetime(2024, 1, 1),
    "bytearray": bytearray(b"x" * 10),
    "exception": ValueError("x"),
    "complex": 1j,
    "range": range(3),
    "state setter": Reduced(ChatCompletion, (), {"a": 1}, None, None, os.system),
    "object with arguments": Reduced(ChatCompletion.construct, ()),
    "items by call": Reduced(dict, (), None, None, iter([("a", 1)])),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", HOSTILE_OBJECTS)
@pytest.mark.parametrize("place", ["alone", "value", "key", "deep", "state"])
def test_what_is_no_answer_is_refused_and_named(name, protocol, place):
    """A pickle with anything but answers is refused as a whole, wherever in it that stands."""
    hostile = HOSTILE_OBJECTS[name]
    completion = ChatCompletion.construct(**ANSWERS[0])
    completion.__dict__["usage"] = hostile
    content = {
        "alone": lambda: hostile,
        "value": lambda: {"good": ANSWERS[0], "key": hostile},
        "key": lambda: {(1, _Hashable(hostile)): 1},
        "deep": lambda: {"key": [{"a": ({"b": hostile},)}]},
        "state": lambda: {"key": completion},
    }[place]()
    try:
        pickled = pickle.dumps(content, protocol)
    except (TypeError, pickle.PicklingError):
        pytest.skip("this protocol cannot write it")
    with pytest.raises(StoreError, match=r"It is refused|not a dictionary"):
        read(pickled)


class _Hashable:
    """Wraps what cannot be hashed, so that it can be a part of a key."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Reduced, (self.inner,)


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


SYSTEM = glob("os", "system")
CHAT = glob("openai.types.chat.chat_completion", "ChatCompletion")
SET = glob("builtins", "set")

HOSTILE_BYTES = {
    "REDUCE": SYSTEM + text(TOUCH) + b"\x85R.",
    "INST": b"(" + text(TOUCH) + b"ios\nsystem\n.",
    "INST of the SDK": b"(iopenai.types.chat.chat_completion\nChatCompletion\n.",
    "OBJ": b"(" + SYSTEM + text(TOUCH) + b"o.",
    "OBJ of the SDK": b"(" + CHAT + b"o.",
    "NEWOBJ": glob("subprocess", "Popen") + text(TOUCH) + b"\x85\x81.",
    "NEWOBJ of the SDK with arguments": CHAT + text(TOUCH) + b"\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04" + glob("subprocess", "Popen") + text(TOUCH) + b"\x85}\x92.",
    "NEWOBJ_EX of the SDK": b"\x80\x04" + CHAT + b")}\x92.",
    "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + text(TOUCH) + b"\x85R.",
    "STACK_GLOBAL with dots": (
        b"\x80\x04" + text("openai.types.chat.chat_completion") + text("sys.modules") + b"\x93."
    ),
    "STACK_GLOBAL in parts": (
        b"\x80\x04" + text("openai.types.chat") + text("chat_completion.ChatCompletion") + b"\x93."
    ),
    "STACK_GLOBAL of numbers": b"\x80\x04K\x01K\x02\x93.",
    "STACK_GLOBAL of lists": b"\x80\x04]]\x93.",
    "GLOBAL unused": SYSTEM + b"0}.",
    "GLOBAL of the SDK's own imports": glob("openai.types.chat.chat_completion", "Optional") + b".",
    "GLOBAL of the SDK's client": glob("openai", "OpenAI") + b".",
    "GLOBAL with a newline": b"\x80\x04" + text("os\nsystem") + text("x") + b"\x93.",
    "BUILD with __setstate__": (
        glob("types", "SimpleNamespace")
        + b")\x81}"
        + text("__setstate__")
        + SYSTEM
        + b"sb"
        + text(TOUCH)
        + b"b."
    ),
    "BUILD of the SDK with __setstate__": (
        CHAT + b")\x81}" + text("__setstate__") + SYSTEM + b"sb" + text(TOUCH) + b"b."
    ),
    "BUILD of the SDK twice": CHAT + b")\x81}b" + text(TOUCH) + b"b.",
    "BUILD on a class": CHAT + b"}" + text("__init__") + b"Nsb.",
    "BUILD on a dictionary": b"}}" + text("__class__") + b"Nsb.",
    "BUILD on a list": b"]}b.",
    "BUILD with slots": CHAT + b")\x81N}\x86b.",
    "BUILD with text": CHAT + b")\x81" + text(TOUCH) + b"b.",
    "BUILD on nothing": b"}b.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Pos.system\n.",
    "BINPERSID": text("os.system") + b"Q.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05\x97\x98.",
    "call of a class": CHAT + b")R.",
    "call of what the memo holds": SYSTEM + b"q\x000h\x00" + text(TOUCH) + b"\x85R.",
    "call of text": text("os.system") + text(TOUCH) + b"\x85R.",
    "call of a stand-in": CHAT + b")\x81)R.",
    "set of a call": SET + b"(" + SYSTEM + b"l\x85R.",
    "set of sets": SET + b"](" + b"\x8f" + b"e\x85R.",
    "set with two arguments": SET + b"]]\x86R.",
    "set of a text": SET + text("abc") + b"\x85R.",
    "set as an object": SET + b")\x81.",
    "object of object": glob("builtins", "object") + b")\x81.",
    "reconstructor of os": (
        glob("copyreg", "_reconstructor") + SYSTEM + glob("builtins", "object") + b"N\x87R."
    ),
    "reconstructor with another base": (
        glob("copyreg", "_reconstructor") + CHAT + SET + b"N\x87R."
    ),
    "reconstructor with a state": (
        glob("copyreg", "_reconstructor") + CHAT + glob("builtins", "object") + b"]\x87R."
    ),
    "reconstructor with text": glob("copyreg", "_reconstructor") + b"(VX\nVY\nNtR.",
    "newobj with arguments": glob("copyreg", "__newobj__") + CHAT + text("x") + b"\x86R.",
    "newobj of a set": glob("copyreg", "__newobj__") + SET + b"\x85R.",
    "dictionary of numbers": b"}(K\x01K\x02u.",
    "dictionary of tuples": b"}()K\x02u.",
    "dictionary of stand-ins": b"}(" + CHAT + b")\x81K\x01u.",
    "set of numbers": b"\x80\x04\x8f(K\x01\x90.",
    "frozenset of tuples": b"\x80\x04()\x91.",
    "huge memo": b"}p99999999999999999999\n.",
    "negative memo": b"}p-1\n.",
}


@pytest.mark.parametrize("name", HOSTILE_BYTES)
def test_what_only_a_hand_would_write_is_refused(name):
    """Instructions that no pickle of answers needs are refused, whatever they would have done."""
    with pytest.raises(StoreError):
        read(HOSTILE_BYTES[name])
    inside = b"\x80\x04}" + text("key") + HOSTILE_BYTES[name].removesuffix(b".") + b"s."
    with pytest.raises(StoreError):
        read(inside)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (HOSTILE_BYTES["REDUCE"], "os.system"),
        (HOSTILE_BYTES["INST"], "os.system"),
        (HOSTILE_BYTES["STACK_GLOBAL"], "os.system"),
        (HOSTILE_BYTES["NEWOBJ"], "subprocess.Popen"),
        (HOSTILE_BYTES["PERSID"], "os.system"),
        (HOSTILE_BYTES["EXT1"], "EXT1"),
        (pickle.dumps({"key": eval}), "builtins.eval"),
        (pickle.dumps({"key": eval}, 0), "__builtin__.eval"),
    ],
)
def test_a_refusal_names_what_was_found(content, named):
    """The message says which name or instruction was refused, and that nothing of it ran."""
    with pytest.raises(StoreError, match="nothing of it was run") as refused:
        read(content)
    assert named in refused.value.message


def test_the_hostile_pickles_are_dangerous_indeed(tmp_path):
    """Read with Python's own reader, such a pickle does make the file: the tests can fail."""
    code = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for content in (
        HOSTILE_BYTES["REDUCE"],
        HOSTILE_BYTES["INST"],
        HOSTILE_BYTES["OBJ"],
        HOSTILE_BYTES["STACK_GLOBAL"],
        HOSTILE_BYTES["BUILD with __setstate__"],
        pickle.dumps(HOSTILE_OBJECTS["eval"]),
    ):
        subprocess.run(
            [sys.executable, "-c", code], input=content, cwd=folder, capture_output=True, timeout=60
        )
        assert (folder / CANARY).exists()
        (folder / CANARY).unlink()


def test_no_module_is_imported():
    """Reading imports nothing: neither the SDK nor what a pickle names."""
    code = (
        "import sys; from tinytroupe.llm.store.pickles import iter_answers\n"
        "before = set(sys.modules)\n"
        "from tinytroupe.llm.errors import StoreError\n"
        "import base64, zlib\n"
        "for content in sys.stdin.buffer.read().split(b'|'):\n"
        "    try: list(iter_answers(bytes.fromhex(content.decode())))\n"
        "    except StoreError: pass\n"
        "new = set(sys.modules) - before - {'base64', 'zlib'}\n"
        "assert not [name for name in new if name.split('.')[0] not in sys.stdlib_module_names]\n"
        "assert not {'openai', 'pydantic', 'antigravity', 'this'} & set(sys.modules)\n"
        "assert not {'antigravity', 'subprocess', 'turtle'} & new, new\n"
    )
    contents = [
        *map(load_pickle, PICKLED),
        glob("antigravity", "x") + b".",
        glob("this", "s") + b".",
        b"\x80\x04" + text("turtle") + text("Turtle") + b"\x93)\x81.",
        *HOSTILE_BYTES.values(),
    ]
    stdin = b"|".join(content.hex().encode() for content in contents)
    subprocess.run([sys.executable, "-c", code], input=stdin, check=True, timeout=60)


def test_the_machine_never_calls_what_it_reads():
    """No part of the reader knows how to find, import or call anything by a name from a pickle."""
    for module in (pickle_machine, pickle_names, pickles):
        source = Path(module.__file__).read_text(encoding="utf-8")
        for word in ("import pickle\n", "getattr(", "__import__", "importlib", "eval(", "exec("):
            assert word not in source, f"{module.__name__} has {word}"


BOMBS = {
    "marks": b"(" * 2_000_000,
    "nested lists": b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "nested tuples": b")" + b"\x85" * 1_000_000 + b".",
    "doubling": b"]" + b"2\x86" * 60 + b".",
    "announced text": b"X\xff\xff\xff\x7f" + b"x",
    "announced long text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"x",
    "announced bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x",
    "announced integer": b"\x80\x02\x8b\xff\xff\xff\x7f\x01",
    "long decimal": b"L" + b"9" * 3_000_000 + b"L\n.",
    "memos": b"}" + b"\x94" * 4_000_000 + b".",
    "sets": b"\x80\x04" + b"\x8f" * 4_000_000 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_soon_and_stays_small(name):
    """What is built to take all memory, all time or the whole stack is refused before it does."""
    tracemalloc.start()
    began = time.process_time()
    try:
        answers = read(b"\x80\x04}" + text("key") + BOMBS[name].removesuffix(b".") + b"s.")
    except StoreError:
        answers = {}
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert all(isinstance(answer, Unreadable) for answer in answers.values())
    assert peak < 600 * 2**20
    assert time.process_time() - began < 60


def test_what_repeats_itself_without_end_is_refused():
    """Lists of the same list, sixty times over, would be more than all memory when copied."""
    content = b"]" + text("bread" * 1000) + b"aq\x00"
    for number in range(40):
        content += b"0](" + b"h" + bytes([number]) + b"h" + bytes([number]) + b"e"
        content += b"q" + bytes([number + 1])
    whole = b"\x80\x04}" + text("key") + content + b"s."
    with pytest.raises(StoreError, match="far more than it holds"):
        read(whole)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_store_error(content):
    """Bytes of any kind never raise anything but the one error that the caller expects."""
    with contextlib.suppress(StoreError):
        read(b"\x80\x04" + content)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_an_answer_or_a_store_error(data):
    """A real pickle with some bytes changed or its end missing never raises anything else."""
    content = bytearray(load_pickle(data.draw(st.sampled_from(sorted(PICKLED)))))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(1, len(content)))
    with contextlib.suppress(StoreError):
        read(bytes(content[:end]))


def test_every_end_of_a_pickle_that_was_cut_short_is_noticed():
    """A pickle of which any part is missing is said to be damaged, not taken for a smaller one."""
    content = pickle.dumps({"key": ANSWERS[1]})
    for end in range(len(content)):
        with pytest.raises(StoreError, match="damaged or cut short"):
            read(content[:end])


def test_progress_is_told():
    """Who waits for a large pickle hears how far the reading has come."""
    places: list[int] = []
    content = pickle.dumps({str(number): [number] for number in range(10_000)})
    assert len(dict(iter_answers(content, places.append))) == 10_000
    assert places == sorted(places)
    assert places[-1] > len(content) / 2


def test_every_instruction_is_one_of_python():
    """No instruction that is followed is misspelled, and those that begin objects are few."""
    known = {opcode.name for opcode in pickletools.opcodes}
    followed = set(pickle_machine._INSTRUCTIONS)
    assert followed < known
    assert known - followed - {"STOP"} == {
        *("INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
        *("NEXT_BUFFER", "READONLY_BUFFER", "BYTEARRAY8"),
    }


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@settings(deadline=None)
@given(
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple)
        ),
        max_leaves=40,
    )
)
def test_a_repr_of_plain_data_comes_back(value):
    """What Python writes for plain data is read back as the same data."""
    assert parse_literal(repr(value)) == value


@settings(deadline=None)
@given(st.text(alphabet="()[]{}'\":,\\ n0.eTrueN<xu9", max_size=60))
def test_any_text_is_a_literal_or_none(text):
    """A text of any kind is read, or said to be none; nothing else happens."""
    with contextlib.suppress(NoLiteral):
        parse_literal(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("('m', {'response_format': <class 'agent.Action'>})", "the Python class agent.Action"),
        ("{'client': <openai.OpenAI object at 0x7f>}", "not plain data"),
        ("__import__('os').system('x')", "not plain data"),
        ("[1 for x in y]", "not plain data"),
        ("1 + 1", "goes on after its end"),
        ("'a' 'b'", "goes on after its end"),
        ("('a'", "breaks off"),
        ("'a", "has no end"),
        ("", "breaks off"),
        ("(" * 5000, "nested more than"),
        ("-" * 5000 + "1", "not plain data"),
        ("9" * 5000, "not plain data"),
        ("nan", "not plain data"),
        ("{1: 2}", "not text"),
        ("{'a' 1}", "no ':'"),
        ("(1)", "in brackets"),
        ("'\\U00110000'", "nothing that Python writes"),
        ("f'{x}'", "not plain data"),
    ],
)
def test_what_is_not_plain_data_is_said(text, reason):
    """A text that is no plain data is refused with the reason, and nothing of it is evaluated."""
    with pytest.raises(NoLiteral, match=reason):
        parse_literal(text)


def test_a_long_key_is_read_in_time():
    """The text of a long conversation takes time in proportion to its length."""
    parameters = make_parameters('What\'s "new"?\n' * 20_000)
    began = time.process_time()
    assert parse_literal(make_key(parameters)) == (MODEL, parameters)
    assert time.process_time() - began < 5
