"""The disk store keeps what it is given, for threads, processes and forks alike."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import diskcache
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.frame import DamagedFrame, decode_entry, encode_entry
from tinytroupe.llm.store.memory import MemoryStore

KEY = "5e" * 32


def make_entry(text: str) -> Entry:
    return Entry(record=f"record of {text}".encode(), request=f"request of {text}".encode())


@pytest.fixture
def store(tmp_path):
    opened = DiskStore(tmp_path / "answers")
    yield opened
    opened.close()


@pytest.fixture(params=["disk", "memory"])
def any_store(request, tmp_path):
    opened = DiskStore(tmp_path / "answers") if request.param == "disk" else MemoryStore()
    yield opened
    opened.close()


def test_what_is_put_comes_back(any_store):
    """An entry comes back byte for byte, over an older one too."""
    assert any_store.get(KEY) is None
    assert any_store.put(KEY, make_entry("one")) is True
    assert any_store.get(KEY) == make_entry("one")
    assert any_store.put(KEY, make_entry("two")) is True
    assert any_store.get(KEY) == make_entry("two")
    assert len(any_store) == 1
    assert any_store.failed_writes == 0


def test_what_is_deleted_is_gone(any_store):
    """Deleting says whether there was something, and only that is gone."""
    any_store.put("a", make_entry("a"))
    any_store.put("b", make_entry("b"))
    assert any_store.delete("a") is True
    assert any_store.delete("a") is False
    assert any_store.get("a") is None
    assert any_store.get("b") == make_entry("b")
    assert list(any_store.keys()) == ["b"]


def test_a_closed_store_opens_again(any_store):
    """Closing loses nothing and forbids nothing, however often it is done."""
    any_store.put(KEY, make_entry("one"))
    any_store.close()
    any_store.close()
    assert any_store.get(KEY) == make_entry("one")
    any_store.close()
    assert any_store.put("other", make_entry("two"))
    assert len(any_store) == 2


def test_keys_come_oldest_first(store):
    """Keys come in the order in which their entries were last put, over many pages."""
    names = [f"{number * 7919 % 2500:05d}" for number in range(2500)]
    for name in names:
        store.put(name, make_entry(name))
    store.put(names[3], make_entry("again"))
    assert list(store.keys()) == [*names[:3], *names[4:], names[3]]
    assert len(store) == 2500


def test_entries_can_be_put_while_the_keys_are_listed(store):
    """A listing ends although each key it yields is put anew."""
    for number in range(1500):
        store.put(str(number), make_entry("old"))
    listing = store.keys()
    for key in listing:
        store.put(key, make_entry("new"))
    assert {store.get(key) for key in list(store.keys())} == {make_entry("new")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    key=st.text(st.characters(exclude_categories=["Cs"])),
    record=st.binary(),
    request=st.binary(max_size=5000),
)
def test_every_key_and_every_bytes_round_trip(store, key, record, request):
    """Whatever the key and the bytes, what comes back is what was put."""
    entry = Entry(record, request)
    assert store.put(key, entry)
    assert store.get(key) == entry
    assert store.describe(key).key == key
    assert store.delete(key)


def test_large_entries_round_trip(store):
    """An entry of 20 MB is kept like any other."""
    entry = Entry(os.urandom(10_000_000), os.urandom(10_000_000))
    assert store.put(KEY, entry)
    assert store.get(KEY) == entry
    assert store.describe(KEY).size_bytes >= 20_000_000


def test_nothing_is_evicted(tmp_path):
    """Entries stay when the folder holds more than the gigabyte at which diskcache deletes."""
    store = DiskStore(tmp_path / "answers")
    plain = diskcache.Cache(tmp_path / "plain", eviction_policy="least-recently-stored")
    for folder in (store.folder, tmp_path / "plain"):
        store.put("first", make_entry("first"))
        plain.set("first", b"first")
        with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
            connection.execute("UPDATE Settings SET value = ? WHERE key = 'size'", (2**40,))
    for number in range(50):
        assert store.put(str(number), make_entry("more"))
        plain.set(str(number), b"more")
    assert len(plain) < 50
    plain.close()
    assert len(store) == 51
    assert store.get("first") == make_entry("first")
    store.close()


def test_age_and_size_are_told_without_reading(store):
    """A description holds the time of the last put and the size of what is kept."""
    assert store.describe(KEY) is None
    store.put(KEY, make_entry("one"))
    info = store.describe(KEY)
    written = (store.folder / "cache.db").stat().st_mtime
    assert abs(info.stored_at_seconds - written) < 60
    entry = make_entry("one")
    assert info.size_bytes == len(encode_entry(KEY, entry))
    assert list(store.list_entries()) == [info]


def test_constructing_opens_nothing(tmp_path):
    """A store that is only constructed makes no folder; a look makes no database."""
    store = DiskStore(tmp_path / "deep" / "answers")
    assert not (tmp_path / "deep").exists()
    assert store.get(KEY) is None
    assert list(store.folder.iterdir()) == []
    assert list(store.keys()) == []
    assert len(store) == 0
    assert store.delete(KEY) is False


def test_a_hit_does_not_load_diskcache(store):
    """Answers are read without the package that could unpickle them."""
    store.put(KEY, make_entry("one"))
    code = (
        "import sys; from tinytroupe.llm.store.disk import DiskStore\n"
        f"assert DiskStore({str(store.folder)!r}).get({KEY!r})\n"
        "assert not {'diskcache', 'pickle'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_folder_is_fixed_when_the_store_is_made(tmp_path, monkeypatch):
    """A relative folder stays where it was when the program changes its directory later."""
    monkeypatch.chdir(tmp_path)
    store = DiskStore("answers")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put(KEY, make_entry("one"))
    assert (tmp_path / "answers" / "cache.db").exists()
    store.close()


@pytest.mark.parametrize("name", ["with space", "50%?a=b#c", "$HOME", "käse", "~tilde"])
def test_odd_folder_names_are_taken_as_they_are(tmp_path, name):
    """A folder's name is not read as an address, a variable or a user."""
    store = DiskStore(tmp_path / name)
    assert store.put(KEY, make_entry("one"))
    store.close()
    assert DiskStore(tmp_path / name).get(KEY) == make_entry("one")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_home_folder_is_known(monkeypatch, tmp_path):
    """A leading ~ stands for the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert DiskStore("~/answers").folder == tmp_path / "answers"


def test_a_store_can_be_pickled(store):
    """A copy sent to another process is a store over the same folder."""
    store.put(KEY, make_entry("one"))
    copy = pickle.loads(pickle.dumps(store))
    assert copy.get(KEY) == make_entry("one")
    copy.close()


def test_a_key_that_is_no_text_is_refused(store, caplog):
    """A put never raises, not even for a key that cannot be one; it says so."""
    assert store.put(b"bytes", make_entry("one")) is False  # type: ignore[arg-type]
    assert store.put("\ud800", make_entry("one")) is False
    assert store.failed_writes == 2
    assert "could not be kept" in caplog.text


def test_a_folder_that_is_removed_while_open_is_made_again(store):
    """What is put after the folder was deleted is kept in a new one."""
    store.put("old", make_entry("old"))
    assert store.get("old")
    shutil.rmtree(store.folder)
    assert store.put("new", make_entry("new"))
    assert store.get("new") == make_entry("new")
    assert DiskStore(store.folder).get("new") == make_entry("new")
    assert store.get("old") is None


def test_threads_lose_nothing(store):
    """Entries put by many threads at once are all kept and all readable meanwhile."""

    def work(worker: int) -> None:
        for number in range(100):
            name = f"{worker}-{number}"
            assert store.put(name, make_entry(name))
            assert store.get(name) == make_entry(name)
            assert store.get(f"{(worker + 1) % 8}-{number}") in (
                None,
                make_entry(f"{(worker + 1) % 8}-{number}"),
            )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(store) == 800
    assert store.failed_writes == store.damaged == 0


PROCESS = """
import sys
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry
folder, worker = sys.argv[1:]
store = DiskStore(folder)
sys.stdin.readline()
for number in range(60):
    name = f"{worker}-{number}"
    assert store.put(name, Entry(name.encode(), b"request")), store
    assert store.get(name).record == name.encode()
    store.put("shared", Entry(b"shared", worker.encode()))
"""


def test_processes_share_a_folder(tmp_path):
    """Processes that begin a store together and write at once lose nothing."""
    folder = tmp_path / "answers"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder), str(worker)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in range(6)
    ]
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    errors = [worker.communicate(timeout=60)[1] for worker in workers]
    assert errors == [""] * 6
    store = DiskStore(folder)
    assert len(store) == 361
    assert store.get("5-59") == Entry(b"5-59", b"request")
    store.close()


def test_new_entries_of_another_store_are_seen(tmp_path):
    """A store that has looked already sees what another one puts later."""
    one, other = DiskStore(tmp_path / "answers"), DiskStore(tmp_path / "answers")
    assert one.get("a") is None
    other.put("a", make_entry("a"))
    assert one.get("a") == make_entry("a")
    other.put("a", make_entry("b"))
    assert one.get("a") == make_entry("b")
    one.close()
    other.close()


def test_opening_a_store_twice_in_a_process_keeps_its_locks(tmp_path):
    """A second look at a folder does not end the locks that protect what is being written."""
    store = DiskStore(tmp_path / "answers")
    store.put("a", make_entry("a"))
    other = DiskStore(store.folder)
    assert other.get("a") == make_entry("a")
    other.close()
    # Whoever closes a database as the last removes its log; a foreign process would think that
    # it is the last if our locks were gone, and what we put next would be lost.
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1])\n"
        "print(connection.execute('SELECT count(*) FROM Cache').fetchall())\n"
        "connection.close()\n"
    )
    path = str(store.folder / "cache.db")
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert run.stdout == b"[(1,)]\n"
    assert (store.folder / "cache.db-wal").exists()
    assert store.put("b", make_entry("b"))
    assert DiskStore(store.folder).get("b") == make_entry("b")
    store.close()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run_in_fork(work) -> str:
    """Runs work in a forked child and returns what became of it: an empty text is success."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            work()
            os.write(writing, b" ")
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said.strip() if said else "the child was killed"


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_amid_busy_threads_is_safe(store):
    """Children forked while threads read and write can use the store, and so can the parent."""
    stop = threading.Event()

    def keep_busy(worker: int) -> int:
        number = 0
        while not stop.is_set():
            assert store.put(f"{worker}-{number}", make_entry("busy"))
            assert store.get(f"{worker}-{number}") == make_entry("busy")
            number += 1
        return number

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(keep_busy, worker) for worker in range(4)]
        for child in range(12):

            def work(name: str = f"child-{child}") -> None:
                assert store.put(name, make_entry(name))
                assert store.get(name) == make_entry(name)
                assert store.failed_writes == 0
                store.close()

            assert run_in_fork(work) == ""
            assert store.get(f"child-{child}") == make_entry(f"child-{child}")
        stop.set()
        written = sum(future.result() for future in futures)
    assert len(store) == written + 12
    assert store.failed_writes == store.damaged == 0


@needs_fork
def test_no_connection_crosses_a_fork(store):
    """What a child writes outlives a parent that lets go of the database meanwhile."""
    store.put("before", make_entry("before"))
    store.get("before")
    to_child, from_parent = os.pipe()
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        done = store.put("one", make_entry("one"))
        os.write(to_parent, b"1")
        os.read(to_child, 1)
        done = done and store.put("two", make_entry("two"))
        os.write(to_parent, b"2" if done else b"!")
        os._exit(0)
    assert os.read(from_child, 1) == b"1"
    store.close()
    os.write(from_parent, b"x")
    assert os.read(from_child, 1) == b"2"
    os.waitpid(child, 0)
    for pipe in (to_child, from_parent, from_child, to_parent):
        os.close(pipe)
    assert list(store.keys()) == ["before", "one", "two"]
    assert store.get("two") == make_entry("two")


@needs_fork
def test_a_store_made_in_a_child_works_there(tmp_path):
    """A child can make stores of its own, and fork again."""

    def work() -> None:
        own = DiskStore(tmp_path / "own")
        assert own.put(KEY, make_entry("one"))
        assert run_in_fork(lambda: own.put("deeper", make_entry("deeper"))) == ""
        assert own.get("deeper") == make_entry("deeper")

    assert run_in_fork(work) == ""


@given(st.binary(max_size=200), st.binary(max_size=200), st.data())
def test_any_flipped_bit_is_noticed(record, request, data):
    """No frame with a flipped bit, wherever it is, is read."""
    frame = bytearray(encode_entry(KEY, Entry(record, request)))
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedFrame):
        decode_entry(KEY, bytes(frame))


@given(st.binary(max_size=200), st.binary(max_size=200), st.data())
def test_any_cut_is_noticed(record, request, data):
    """No frame whose end is missing is read."""
    frame = encode_entry(KEY, Entry(record, request))
    with pytest.raises(DamagedFrame):
        decode_entry(KEY, frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(st.binary(max_size=50), st.text(max_size=20))
def test_a_frame_belongs_to_its_key(record, other):
    """A frame is not read under another key than the one it was written for."""
    frame = encode_entry(KEY, Entry(record, b""))
    assert decode_entry(KEY, frame) == Entry(record, b"")
    with pytest.raises(DamagedFrame):
        decode_entry(KEY + other + "x", frame)


def test_the_layout_on_disk_is_the_documented_one():
    """Version 1 is written as docs/store.md says, so that other programs can read it."""
    frame = encode_entry("key", Entry(b'{"a":1}', b"{}"))
    content = b'TTen\x01\x00\x07\0\0\0\x02\0\0\0{"a":1}{}'
    assert frame == content + zlib.crc32(b"key" + content).to_bytes(4, "little")


def test_a_store_error_can_cross_processes(tmp_path):
    """The error of a folder that cannot be used survives pickling, message and all."""
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(StoreError) as caught:
        DiskStore(tmp_path / "file").get(KEY)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_place_of_the_database_is_plain(store):
    """The folder holds one SQLite database and nothing else once the store is closed."""
    store.put(KEY, make_entry("one"))
    store.get(KEY)
    store.close()
    assert [path.name for path in Path(store.folder).iterdir()] == ["cache.db"]
