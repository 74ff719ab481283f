"""Damage and planted data are noticed, set aside and reported; the rest is served."""

from __future__ import annotations

import logging
import pickle
import random
import shutil
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path

import diskcache
import pytest

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.frame import encode_entry

KEYS = [f"{number:064x}" for number in range(20)]


def make_entry(key: str) -> Entry:
    return Entry(record=f"record of {key}".encode() * 5, request=f"request of {key}".encode() * 5)


@pytest.fixture
def store(tmp_path):
    """A store with twenty entries that is closed, so that all is in one file."""
    filled = DiskStore(tmp_path / "answers")
    for key in KEYS:
        assert filled.put(key, make_entry(key))
    filled.close()
    yield filled
    filled.close()


def change(store: DiskStore, statement: str, *values: object) -> None:
    """Changes the database behind the store's back."""
    with closing(sqlite3.connect(store.folder / "cache.db")) as connection, connection:
        connection.execute(statement, values)


def flip(path: Path, position: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def read_warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def assert_others_are_served(store: DiskStore, *damaged: str) -> None:
    for key in KEYS:
        if key not in damaged:
            assert store.get(key) == make_entry(key)


def test_a_flipped_bit_costs_one_entry_only(store, caplog):
    """An entry with a flipped bit is set aside, reported once and bought anew; others stay."""
    database = store.folder / "cache.db"
    frame = encode_entry(KEYS[7], make_entry(KEYS[7]))
    content = database.read_bytes()
    assert content.count(frame) == 1
    flip(database, content.index(frame) + 40)

    assert store.get(KEYS[7]) is None
    assert store.get(KEYS[7]) is None
    assert store.damaged == 1
    assert len(store) == 19
    (warning,) = read_warnings(caplog)
    (saved,) = (store.folder / "damaged").iterdir()
    assert KEYS[7] in warning
    assert str(saved) in warning
    assert str(database) in warning
    assert sum(a != b for a, b in zip(saved.read_bytes(), frame, strict=True)) == 1
    assert_others_are_served(store, KEYS[7])
    assert store.put(KEYS[7], make_entry(KEYS[7]))
    assert_others_are_served(store)


@pytest.mark.parametrize("length", [0, 1, 10, 50, 100])
def test_a_cut_value_is_noticed(store, caplog, length):
    """An entry that was cut short is set aside, whatever is left of it."""
    change(store, "UPDATE Cache SET value = substr(value, 1, ?) WHERE key = ?", length, KEYS[3])
    assert store.get(KEYS[3]) is None
    assert store.damaged == 1
    assert len(read_warnings(caplog)) == 1
    assert_others_are_served(store, KEYS[3])


def test_a_value_under_another_key_is_noticed(store):
    """An answer that somehow stands under another question is not given for it."""
    change(store, "DELETE FROM Cache WHERE key = ?", KEYS[1])
    change(store, "UPDATE Cache SET key = ? WHERE key = ?", KEYS[1], KEYS[0])
    assert store.get(KEYS[1]) is None
    assert store.damaged == 1


def test_two_damages_of_one_key_are_both_kept(store):
    """Setting aside never writes over what was set aside before."""
    for content in (b"one", b"two"):
        change(store, "UPDATE Cache SET value = ? WHERE key = ?", content, KEYS[0])
        assert store.get(KEYS[0]) is None
        assert store.put(KEYS[0], make_entry(KEYS[0]))
    saved = {path.read_bytes() for path in (store.folder / "damaged").iterdir()}
    assert saved == {b"one", b"two"}


def test_a_key_with_slashes_is_set_aside_inside_the_folder(store):
    """The file of a damaged entry stays in its folder, whatever the key."""
    key = "../../escaped"
    store.put(key, make_entry(key))
    change(store, "UPDATE Cache SET value = x'00' WHERE key = ?", key)
    assert store.get(key) is None
    assert len(list((store.folder / "damaged").iterdir())) == 1
    assert not list(store.folder.parent.glob("escaped*"))


def plant_newer(store: DiskStore, key: str, version: int, flags: int) -> bytes:
    content = struct.pack("<4sBBII", b"TTen", version, flags, 3, 4) + b"something quite new"
    frame = content + zlib.crc32(key.encode() + content).to_bytes(4, "little")
    change(store, "UPDATE Cache SET value = ? WHERE key = ?", frame, key)
    return frame


@pytest.mark.parametrize(("version", "flags"), [(2, 0), (1, 1)])
def test_a_newer_format_is_left_alone(store, caplog, version, flags):
    """Entries of a newer version are a miss, are reported once for all, and stay as they are."""
    frames = [plant_newer(store, key, version, flags) for key in KEYS[:2]]
    assert store.get(KEYS[0]) is None
    assert store.get(KEYS[1]) is None
    (warning,) = read_warnings(caplog)
    assert "newer version" in warning
    assert store.damaged == 0
    assert len(store) == 20
    with closing(sqlite3.connect(store.folder / "cache.db")) as connection:
        rows = connection.execute("SELECT value FROM Cache ORDER BY rowid LIMIT 2").fetchall()
    assert [row[0] for row in rows] == frames


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def test_a_planted_pickle_is_never_opened(store, tmp_path, caplog):
    """A pickle that a stranger put under a key is set aside unopened, inside the row or a file."""
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    change(store, "UPDATE Cache SET mode = 4, value = ? WHERE key = ?", bomb, KEYS[0])
    (store.folder / "planted.val").write_bytes(bomb)
    change(
        store,
        "UPDATE Cache SET mode = 4, value = NULL, filename = 'planted.val' WHERE key = ?",
        KEYS[1],
    )
    assert store.get(KEYS[0]) is None
    assert store.get(KEYS[1]) is None
    assert store.damaged == 2
    assert "a pickle" in caplog.text
    assert store.put(KEYS[0], make_entry(KEYS[0]))
    assert store.put(KEYS[1], make_entry(KEYS[1]))
    assert_others_are_served(store)
    assert not (tmp_path / "exploded").exists()


def test_a_planted_pickled_key_is_never_opened(store, tmp_path):
    """Rows whose keys are pickles or numbers are passed over."""
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    for key, raw in ((bomb, 0), (7, 1), (b"\xff", 1), (None, 1)):
        change(store, "INSERT INTO Cache (key, raw, mode, value) VALUES (?, ?, 1, 'x')", key, raw)
    assert list(store.keys()) == KEYS
    assert len(store) == 20
    assert store.put("new", make_entry("new"))
    assert list(store.keys()) == [*KEYS, "new"]
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("value", [None, 7, 1.5, "text", b"", "\udcff"])
@pytest.mark.parametrize("mode", [0, 1, 2, 3, 99])
def test_planted_values_of_every_kind_are_a_miss(store, value, mode):
    """Whatever stands in a row, reading it gives None and harms nobody."""
    if value == "\udcff":
        change(
            store, "UPDATE Cache SET mode = ?, value = CAST(x'ff' AS TEXT) WHERE key = ?",
            mode, KEYS[0],
        )  # fmt: skip
    else:
        change(store, "UPDATE Cache SET mode = ?, value = ? WHERE key = ?", mode, value, KEYS[0])
    assert store.get(KEYS[0]) is None
    assert store.damaged == 1
    assert store.put(KEYS[0], make_entry(KEYS[0]))
    assert_others_are_served(store)


@pytest.mark.parametrize("mode", [0, 2, 3, 4])
def test_only_rows_of_the_right_mode_are_read(store, mode):
    """A row that says it is something else than bytes is not read, whatever its bytes are."""
    change(store, "UPDATE Cache SET mode = ? WHERE key = ?", mode, KEYS[0])
    assert store.get(KEYS[0]) is None
    assert store.damaged == 1


def test_a_planted_file_name_removes_nothing(store, tmp_path):
    """A row that names a file outside does not get that file removed, nor read."""
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("two years of work")
    for name in ("../thesis.txt", str(thesis)):
        change(store, "UPDATE Cache SET filename = ? WHERE key IN (?, ?)", name, *KEYS[:2])
        assert store.put(KEYS[0], make_entry(KEYS[0]))
        assert store.delete(KEYS[1])
        assert store.put(KEYS[1], make_entry(KEYS[1]))
    assert thesis.read_text() == "two years of work"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eviction_policy", "least-recently-stored"),
        ("size_limit", 1),
        ("cull_limit", 1000),
        ("statistics", 1),
        ("disk_min_file_size", 1),
        ("disk__directory", "/"),
        ("disk_put", "x"),
        ("disk_surprise", 1),
        ("_sql", "x"),
        ("_disk", "x"),
        ("_directory", "/"),
        ("set", "x"),
        ("sqlite_journal_mode", "off"),
        ("sqlite_synchronous", 0),
        ("sqlite_query_only", 1),
        ("sqlite_writable_schema", "1; DROP TABLE Cache"),
        (b"bytes", b"\xff"),
        (7, None),
        ("count", "many"),
        ("size", b"\xff"),
    ],
)
def test_planted_settings_are_thrown_away(store, name, value):
    """What a stranger wrote into the settings table changes nothing."""
    change(store, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", name, value)
    for number in range(30):
        assert store.put(f"new-{number}", make_entry("new"))
    assert_others_are_served(store)
    assert len(store) == 50
    assert store.failed_writes == store.damaged == 0
    store.close()
    assert [path.name for path in store.folder.iterdir()] == ["cache.db"]


def fill_with(folder: Path, content: bytes) -> DiskStore:
    folder.mkdir()
    (folder / "cache.db").write_bytes(content)
    return DiskStore(folder)


@pytest.mark.parametrize(
    "content",
    [b"not a database " * 1000, b"x", bytes(8192), b"SQLite format 3\x00" + b"\xff" * 8000],
    ids=["text", "one byte", "zeros", "header only"],
)
@pytest.mark.parametrize("first_use", ["get", "put"])
def test_a_file_that_is_no_database_is_set_aside(tmp_path, caplog, content, first_use):
    """A database that is damaged as a whole is renamed and reported, and a new one is begun."""
    store = fill_with(tmp_path / "answers", content)
    if first_use == "get":
        assert store.get(KEYS[0]) is None
    assert store.put(KEYS[0], make_entry(KEYS[0]))
    assert store.get(KEYS[0]) == make_entry(KEYS[0])
    (warning,) = read_warnings(caplog)
    aside = store.folder / "cache.db.damaged-1"
    assert str(aside) in warning
    assert aside.read_bytes() == content
    assert store.damaged == 1
    assert store.failed_writes == 0
    store.close()


def test_databases_set_aside_are_numbered(tmp_path):
    """Setting aside a second database does not write over the first."""
    folder = tmp_path / "answers"
    fill_with(folder, b"first " * 1000).get(KEYS[0])
    (folder / "cache.db").write_bytes(b"second " * 1000)
    assert DiskStore(folder).put(KEYS[0], make_entry(KEYS[0]))
    assert (folder / "cache.db.damaged-1").read_bytes().startswith(b"first")
    assert (folder / "cache.db.damaged-2").read_bytes().startswith(b"second")


def test_the_log_is_set_aside_with_its_database(tmp_path):
    """A log whose database is damaged keeps its answers, beside the database it belongs to."""
    folder = tmp_path / "answers"
    store = fill_with(folder, b"not a database " * 1000)
    (folder / "cache.db-wal").write_bytes(b"log of the old one")
    assert store.put(KEYS[0], make_entry(KEYS[0]))
    store.close()
    assert (folder / "cache.db.damaged-1-wal").read_bytes() == b"log of the old one"


def test_an_empty_file_is_an_empty_store(tmp_path, caplog):
    """A database file of no bytes, as a kill may leave it, is simply begun anew."""
    store = fill_with(tmp_path / "answers", b"")
    assert store.get(KEYS[0]) is None
    assert store.put(KEYS[0], make_entry(KEYS[0]))
    assert read_warnings(caplog) == []
    store.close()


def test_a_truncated_database_serves_what_is_left(store, caplog):
    """A database that lost its second half never raises on a look, and lies about nothing."""
    for number in range(500):
        store.put(f"more-{number}", make_entry(f"more-{number}"))
    store.close()
    database = store.folder / "cache.db"
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 2 // 4096 * 4096)
    for number in range(500):
        assert store.get(f"more-{number}") in (None, make_entry(f"more-{number}"))
    assert 1 <= len(read_warnings(caplog)) < 20


def test_a_flipped_bit_anywhere_is_never_served(tmp_path):
    """With one bit flipped anywhere in the file, each look gives the true entry or none."""
    original = tmp_path / "original"
    store = DiskStore(original)
    entries = {f"key-{number}": Entry(bytes([number]) * 700, b"{}") for number in range(60)}
    for key, entry in entries.items():
        store.put(key, entry)
    store.close()
    chance = random.Random(20)
    size = (original / "cache.db").stat().st_size
    served, refusals = [], []
    for trial in range(150):
        folder = tmp_path / f"trial-{trial}"
        shutil.copytree(original, folder)
        # Every other flip hits the header and the first pages, where structure is.
        flip(folder / "cache.db", chance.randrange(200 if trial % 2 else size), trial % 8)
        damaged = DiskStore(folder)
        try:
            found = {key: damaged.get(key) for key in entries}
        except StoreError as error:
            refusals.append(str(error))
        else:
            assert all(found[key] in (None, entry) for key, entry in entries.items())
            served.append(sum(entry is not None for entry in found.values()))
        damaged.put("new", Entry(b"new", b""))
        damaged.close()
        shutil.rmtree(folder)
    assert all("another program" in refusal for refusal in refusals)
    assert len(served) > 130
    assert sum(served) > 0.7 * len(served) * len(entries)


def test_a_broken_index_is_reported_and_the_rest_served(store, caplog):
    """A damaged page inside the database costs what stands on it, and says what to do."""
    with closing(sqlite3.connect(store.folder / "cache.db")) as connection:
        ((page,),) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'Cache_key_raw'"
        ).fetchall()
    with (store.folder / "cache.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    assert store.get(KEYS[0]) is None
    assert store.get(KEYS[1]) is None
    assert store.put("new", make_entry("new")) is False
    assert store.put("new", make_entry("new")) is False
    assert store.failed_writes == 2
    read_warning, write_warning = read_warnings(caplog)
    assert "could not be read" in read_warning
    assert "could not be kept" in write_warning
    assert "rename cache.db" in write_warning


@pytest.mark.parametrize("kind", ["sqlite", "diskcache"])
def test_a_database_of_another_program_is_refused(tmp_path, kind):
    """A folder that holds somebody else's database is not touched, and the error says so."""
    folder = tmp_path / "answers"
    folder.mkdir()
    if kind == "sqlite":
        with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
            connection.execute("CREATE TABLE notes (text)")
    else:
        with diskcache.Cache(folder) as cache:
            cache.set("key", {"a": "pickle"})
    before = (folder / "cache.db").read_bytes()
    store = DiskStore(folder)
    with pytest.raises(StoreError, match="another program") as caught:
        store.get(KEYS[0])
    assert str(folder) in str(caught.value)
    assert store.put(KEYS[0], make_entry(KEYS[0])) is False
    store.close()
    assert (folder / "cache.db").read_bytes() == before
