"""Entries survive the way through a file of lines, and damage on the way is noticed."""

from __future__ import annotations

import builtins
import hashlib
import io
import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinytroupe.llm.errors import ConfigError, StoreError
from tinytroupe.llm.store import compression
from tinytroupe.llm.store.compression import BrokenFile, read_lines, write_file
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.exchange import (
    FORMAT,
    DamagedLine,
    Exported,
    NewerFormat,
    read_line,
    write_line,
)

STORED_AT = 1_718_000_000.123456
FACTS = b'{"kind":"chat","endpoint":"openai","seconds":0.5,"request_id":null}'
COMPACT = b'{"choices":[{"message":{"content":"Gr\xc3\xbc\xc3\x9fe"}}],"model":"m"}'
SPREAD = b'{\n  "choices": [ {"message": {"content": "Gr\\u00fc\\u00dfe"}} ],\n  "model": "m"\n}\n'
ENTRY = Entry(FACTS + b"\n" + COMPACT, b'{"model":"m"}')
SPREAD_ENTRY = Entry(FACTS + b"\n" + SPREAD, b'{"model":"m"}')


@settings(deadline=None)
@given(record=st.binary(), request=st.binary(), key=st.text(min_size=1), time=st.floats(0, 4e9))
def test_any_entry_comes_back_byte_for_byte(record, request, key, time):
    """Whatever bytes a store holds, the line of an entry gives back the very same."""
    key = key.encode("utf-8", "replace").decode()
    line = write_line(key, Entry(record, request), time)
    read = read_line(line)
    assert (read.key, read.entry) == (key, Entry(record, request))
    assert read.stored_at_seconds == pytest.approx(time, abs=1e-6)
    assert write_line(read.key, read.entry, read.stored_at_seconds) == line


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_an_answer_in_any_spelling_comes_back(value, indent, ascii_only):
    """However an endpoint spells its JSON, a line gives back that spelling."""
    spelled = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    entry = Entry(FACTS + b"\n" + spelled, b"{}")
    assert read_line(write_line("key", entry, STORED_AT)).entry == entry


@pytest.mark.parametrize("entry", [ENTRY, SPREAD_ENTRY], ids=["compact", "spread"])
def test_a_line_is_json_for_everybody(entry):
    """A line is one line, and has answer, request and facts as JSON that any program reads."""
    line = write_line("abc.1", entry, STORED_AT)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    fields = json.loads(line)
    assert fields["tinytroupe"] == "cache entry"
    assert fields["format"] == FORMAT == 1
    assert fields["key"] == "abc.1"
    assert fields["stored_at"] == "2024-06-10T06:13:20.123456+00:00"
    assert fields["response"]["choices"][0]["message"]["content"] == "Grüße"
    assert fields["request"] == {"model": "m"}
    assert fields["facts"]["endpoint"] == "openai"
    assert ("exact" in fields) == (entry is SPREAD_ENTRY)


def test_a_line_in_the_format_of_old_is_read():
    """A line that was written when the format was made is read for ever."""
    line = (
        b'{"tinytroupe":"cache entry","format":1,"key":"abc.1",'
        b'"stored_at":"2024-06-10T06:13:20.123456+00:00",'
        b'"facts":{"kind":"chat","endpoint":"openai","seconds":0.5,"request_id":null},'
        b'"response":{"choices":[{"message":{"content":"Gr\xc3\xbc\xc3\x9fe"}}],"model":"m"},'
        b'"request":{"model":"m"},"sha256":'
        b'"ab8f26601a9071aaac1bb538b85c7c5bc80048321efcb1b1544f88be3b39c29a"}'
    )
    assert read_line(line) == Exported("abc.1", ENTRY, STORED_AT)


@settings(deadline=None)
@given(record=st.binary(), request=st.binary(), key=st.text(min_size=1))
def test_the_checksum_is_the_documented_one(record, request, key):
    """Any program can make the checksum, from what docs/cache-tools.md tells."""
    key = key.encode("utf-8", "replace").decode()
    line = json.loads(write_line(key, Entry(record, request), STORED_AT))
    told = hashlib.sha256()
    for part in (key.encode(), record, request):
        told.update(str(len(part)).encode() + b":" + part)
    assert line["sha256"] == told.hexdigest()


@settings(deadline=None)
@given(st.data())
def test_a_changed_byte_is_noticed(data):
    """A line in which a byte was changed is refused, or says the very same."""
    entry = data.draw(st.sampled_from([ENTRY, SPREAD_ENTRY]))
    line = bytearray(write_line("key", entry, STORED_AT))
    place = data.draw(st.integers(0, len(line) - 2))
    line[place] = data.draw(st.integers(0, 255))
    try:
        read = read_line(bytes(line))
    except (DamagedLine, NewerFormat):
        return
    assert (read.key, read.entry) == ("key", entry)


@settings(deadline=None)
@given(st.data())
def test_a_line_that_was_cut_is_noticed(data):
    """No beginning of a line passes for an entry."""
    line = write_line("key", SPREAD_ENTRY, STORED_AT)
    with pytest.raises(DamagedLine):
        read_line(line[: data.draw(st.integers(0, len(line) - 2))])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": None}, "which format"),
        ({"format": "1"}, "which format"),
        ({"format": True}, "which format"),
        ({"format": 0}, "which format"),
        ({"tinytroupe": "call"}, "not an entry of a cache"),
        ({"key": ""}, "no key"),
        ({"key": 5}, "no key"),
        ({"exact": []}, "no key"),
        ({"exact": {"response": {"base64": "!"}}}, "exact form of its response"),
        ({"exact": {"response": 5}}, "exact form of its response"),
        ({"sha256": "0" * 64}, "checksum"),
        ({"sha256": None}, "checksum"),
        ({"response": {"choices": []}}, "checksum"),
        ({"key": "another"}, "checksum"),
        ({"stored_at": None}, "when it was stored"),
        ({"stored_at": "yesterday"}, "when it was stored"),
    ],
)
def test_a_line_that_is_not_as_written_says_why(changes, reason):
    """What is missing from a line, or does not fit, is named."""
    fields = {**orjson.loads(write_line("key", ENTRY, STORED_AT)), **changes}
    with pytest.raises(DamagedLine, match=reason):
        read_line(orjson.dumps(fields))


@pytest.mark.parametrize("name", ["facts", "response", "request"])
def test_a_line_without_a_part_is_damaged(name):
    """A part that is missing is named."""
    fields = orjson.loads(write_line("key", ENTRY, STORED_AT))
    del fields[name]
    with pytest.raises(DamagedLine, match=f"no {name}"):
        read_line(orjson.dumps(fields))


@pytest.mark.parametrize("line", [b"", b"null", b"[]", b"{}", b'"x"', b"PK\x03\x04", b"\xff\xfe"])
def test_a_foreign_line_is_damaged(line):
    """What is no JSON, or JSON of something else, is refused."""
    with pytest.raises(DamagedLine):
        read_line(line)


def test_a_newer_format_is_refused_as_such():
    """The message of a newer format says which it is and what to do."""
    fields = orjson.loads(write_line("key", ENTRY, STORED_AT))
    with pytest.raises(NewerFormat, match=r"format 2 was written by a newer.*pip install"):
        read_line(orjson.dumps({**fields, "format": 2, "response": "whatever this is then"}))


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.jsonl.zst"])
@settings(deadline=None)
@given(lines=st.lists(st.binary(min_size=1).map(lambda line: line.replace(b"\n", b"") + b"\n")))
def test_lines_come_back_from_a_file(tmp_path_factory, name, lines):
    """The lines of a file, plain or compressed, are those that were written, with numbers."""
    path = tmp_path_factory.mktemp("lines") / name
    with write_file(path) as file:
        file.writelines(lines)
    assert list(read_lines(path)) == list(enumerate(lines, start=1))


def test_a_compressed_file_is_smaller_and_any_tool_reads_it(tmp_path):
    """A name that ends in .zst makes a Zstandard file."""
    path = tmp_path / "lines.zst"
    with write_file(path) as file:
        file.writelines([b"again and again\n"] * 10_000)
    assert path.read_bytes().startswith(b"\x28\xb5\x2f\xfd")
    assert path.stat().st_size < 1000


def write_half(path):
    with write_file(path, replace=True) as file:
        file.write(b"half\n")
        raise RuntimeError


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.jsonl.zst"])
def test_a_file_takes_its_name_when_it_is_whole(tmp_path, name):
    """When writing fails, there is neither a half file nor a lost old one."""
    path = tmp_path / name
    with pytest.raises(RuntimeError):
        write_half(path)
    assert list(tmp_path.iterdir()) == []
    with write_file(path) as file:
        file.write(b"old\n")
    with pytest.raises(RuntimeError):
        write_half(path)
    assert [line for _, line in read_lines(path)] == [b"old\n"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_only_when_told(tmp_path):
    """An existing file is not written over unless that was asked for."""
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"old\n")
    with pytest.raises(StoreError, match="exists already"), write_file(path):
        pass
    with write_file(path, replace=True) as file:
        file.write(b"new\n")
    assert path.read_bytes() == b"new\n"


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    """A place where no file can be is a clear error."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"), write_file(tmp_path / "file" / "x"):
        pass


def test_a_compressed_file_that_was_cut_gives_what_it_has(tmp_path):
    """The lines before the damage come; then it is said."""
    path = tmp_path / "lines.zst"
    with write_file(path) as file:
        file.writelines(str(number).encode() * 50 + b"\n" for number in range(100_000))
    path.write_bytes(path.read_bytes()[:-1000])
    lines = read_lines(path)
    assert next(lines) == (1, b"0" * 50 + b"\n")
    with pytest.raises(BrokenFile, match="damaged or cut short"):
        for _ in lines:
            pass


def test_a_file_that_is_not_compressed_at_all_is_said(tmp_path):
    """A plain file under the name of a compressed one is an error, not an empty file."""
    path = tmp_path / "lines.zst"
    path.write_bytes(b'{"tinytroupe":"cache entry"}\n')
    with pytest.raises(BrokenFile):
        list(read_lines(path))


def test_a_line_that_is_too_long_is_passed_over(tmp_path, monkeypatch):
    """A line beyond the limit is not taken into memory, and those after it are read."""
    monkeypatch.setattr(compression, "MAX_LINE_BYTES", 10)
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"short\n" + b"long" * 100 + b"\nlast")
    assert list(read_lines(path)) == [(1, b"short\n"), (2, None), (3, b"last")]


def test_a_missing_file_is_said(tmp_path):
    """There is no file, and the message says so."""
    with pytest.raises(StoreError, match="there is no file"):
        list(read_lines(tmp_path / "missing.jsonl"))
    with pytest.raises(StoreError, match="cannot be read"):
        list(read_lines(tmp_path))


def test_without_the_package_a_compressed_file_says_what_to_install(tmp_path, monkeypatch):
    """Where the optional package is missing, plain files work and .zst names the extra."""
    real_import = builtins.__import__

    def without_zstd(name, *args, **options):
        if name.split(".")[0] in ("backports", "compression"):
            raise ImportError(name)
        return real_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_zstd)
    with pytest.raises(ConfigError, match=r"pip install 'tinytroupe\[zstd\]'"):
        list(read_lines(tmp_path / "lines.zst"))
    with pytest.raises(ConfigError, match="zstd"), write_file(tmp_path / "lines.zst"):
        pass
    with write_file(tmp_path / "lines.jsonl") as file:
        assert isinstance(file, io.BufferedWriter)
    assert list(tmp_path.iterdir()) == [tmp_path / "lines.jsonl"]
