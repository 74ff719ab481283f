"""Full disks, read-only folders, locks, kills and impossible folders, each for real."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry

KEYS = [f"{number:064x}" for number in range(20)]


def make_entry(key: str) -> Entry:
    return Entry(record=f"record of {key}".encode() * 5, request=f"request of {key}".encode() * 5)


def fill(folder: Path) -> DiskStore:
    """Returns a store with twenty entries, closed, so that all is in one file."""
    store = DiskStore(folder)
    for key in KEYS:
        assert store.put(key, make_entry(key))
    store.close()
    return store


def read_warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def assert_served(store: DiskStore) -> None:
    for key in KEYS:
        assert store.get(key) == make_entry(key)


def mount(*arguments: str) -> bool:
    if shutil.which("mount") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)):
        pytest.skip("only root can mount a small disk; the limit on file sizes is tested instead")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


class Protection:
    """Makes folders really read-only, for root as well."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []
        self._changed: list[tuple[Path, int]] = []

    def __call__(self, folder: Path) -> None:
        if mount("--bind", str(folder), str(folder)):
            self._mounted.append(folder)
            assert mount("-o", "remount,bind,ro", str(folder))
        else:
            for path in (*folder.iterdir(), folder):
                self._changed.append((path, path.stat().st_mode))
                path.chmod(path.stat().st_mode & ~0o222)
        with pytest.raises(OSError, match=r"Read-only|Permission") as caught:
            (folder / "probe").write_bytes(b"")
        assert caught.value.errno in (errno.EROFS, errno.EACCES)

    def lift(self) -> None:
        """Makes everything as it was."""
        while self._mounted:
            subprocess.run(["umount", "--lazy", str(self._mounted.pop())], check=True)
        while self._changed:
            path, mode = self._changed.pop()
            path.chmod(mode)


@pytest.fixture
def protect():
    """Makes a folder read-only until the test ends."""
    protection = Protection()
    yield protection
    protection.lift()


def fill_disk(place: Path) -> Path:
    """Takes every byte that is left on a disk."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert shutil.disk_usage(place).free == 0
    return ballast


@pytest.mark.parametrize("opened", ["open", "closed", "never opened"])
def test_a_full_disk_costs_no_answer(small_disk, caplog, opened):
    """On a full disk hits go on, puts say no and report it once, and space heals it all."""
    store = fill(small_disk / "answers")
    if opened == "open":
        assert_served(store)
        assert store.put("last", make_entry("last"))
    elif opened == "never opened":
        store = DiskStore(store.folder)
    ballast = fill_disk(small_disk)

    assert_served(store)
    for number in range(20):
        assert store.put(f"lost-{number}", Entry(bytes(100_000), b"")) is False
        assert store.get(KEYS[number]) == make_entry(KEYS[number])
        assert store.get(f"lost-{number}") is None
    assert store.failed_writes == 20
    (warning,) = read_warnings(caplog)
    assert "the disk is full" in warning
    assert str(store.folder) in warning

    ballast.unlink()
    assert store.put("new", make_entry("new"))
    assert store.get("new") == make_entry("new")
    assert_served(store)
    assert store.failed_writes == 20
    assert store.damaged == 0
    store.close()
    with closing(sqlite3.connect(store.folder / "cache.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_disk_that_fills_up_meanwhile_loses_nothing_acknowledged(small_disk, caplog):
    """Every entry that was acknowledged before and after the disk ran full is there."""
    store = DiskStore(small_disk / "answers")
    kept = [key for key in map(str, range(400)) if store.put(key, Entry(key.encode() * 900, b""))]
    assert 20 < len(kept) < 400
    assert store.failed_writes == 400 - len(kept)
    assert all(store.get(key) == Entry(key.encode() * 900, b"") for key in kept)
    store.close()
    assert set(kept) == set(DiskStore(store.folder).keys())
    assert {"the disk is full" in warning for warning in read_warnings(caplog)} == {True}


def test_a_store_cannot_be_begun_on_a_full_disk(small_disk, caplog):
    """Where not even the folder's database fits, looks find nothing and puts report it."""
    folder = small_disk / "answers"
    folder.mkdir()
    ballast = fill_disk(small_disk)
    store = DiskStore(folder)
    assert store.get(KEYS[0]) is None
    assert store.put(KEYS[0], make_entry(KEYS[0])) is False
    assert "the disk is full" in caplog.text
    ballast.unlink()
    assert store.put(KEYS[0], make_entry(KEYS[0]))
    assert store.get(KEYS[0]) == make_entry(KEYS[0])
    store.close()


LIMITED = """
import logging, resource, sys
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry
logging.basicConfig(level=logging.WARNING, format="%(message)s")
store = DiskStore(sys.argv[1])
assert store.put("first", Entry(b"first", b""))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
kept = [str(n) for n in range(100) if store.put(str(n), Entry(bytes(10_000), b""))]
assert 0 < len(kept) < 100, len(kept)
assert store.failed_writes == 100 - len(kept)
assert store.get("first") == Entry(b"first", b"")
assert all(store.get(key) == Entry(bytes(10_000), b"") for key in kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert store.put("last", Entry(bytes(10_000), b""))
store.close()
assert len(store) == len(kept) + 2
"""


def test_a_limit_on_file_sizes_costs_no_answer(tmp_path):
    """A process that may not make files larger keeps its answers, and goes on when it may."""
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "answers")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("could not be kept") == 1
    assert "limit on file sizes" in run.stderr


KILLED = """
import os, signal, sys
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry
store = DiskStore(sys.argv[1])
for number in range(5):
    assert store.put(f"killed-{number}", Entry(b"in the log only", b""))
os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_log(folder: Path, *, shared_memory: bool) -> None:
    """Kills a writer, so that the newest entries are in the log only."""
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False, timeout=60)
    assert (folder / "cache.db-wal").stat().st_size > 0
    if not shared_memory:
        (folder / "cache.db-shm").unlink()


@pytest.mark.parametrize("state", ["closed", "killed", "killed and copied without -shm"])
def test_a_read_only_folder_is_read(tmp_path, caplog, protect, state):
    """In a read-only folder every entry is found; puts say no, report it once, and cost nothing."""
    store = fill(tmp_path / "answers")
    if state != "closed":
        leave_log(store.folder, shared_memory=state == "killed")
    protect(store.folder)
    assert_served(store)
    if state != "closed":
        for number in range(5):
            assert store.get(f"killed-{number}") == Entry(b"in the log only", b"")
    for number in range(3):
        assert store.put(f"new-{number}", make_entry("new")) is False
    assert store.get("new-1") is None
    assert store.failed_writes == 3
    (warning,) = read_warnings(caplog)
    assert "cannot be written" in warning
    assert str(store.folder) in warning
    assert len(store) == (20 if state == "closed" else 25)
    assert next(store.keys()) == KEYS[0]
    with pytest.raises(StoreError, match="cannot be written"):
        store.delete(KEYS[0])
    assert_served(store)
    store.close()


def test_damage_in_a_read_only_folder_is_reported_once(tmp_path, caplog, protect):
    """A damaged entry that cannot be moved stays, is counted once, and is a miss each time."""
    store = fill(tmp_path / "answers")
    with closing(sqlite3.connect(store.folder / "cache.db")) as connection, connection:
        connection.execute("UPDATE Cache SET value = x'00' WHERE key = ?", (KEYS[0],))
    protect(store.folder)
    for _ in range(3):
        assert store.get(KEYS[0]) is None
    assert store.damaged == 1
    (warning,) = read_warnings(caplog)
    assert "It stays there" in warning
    assert store.get(KEYS[1]) == make_entry(KEYS[1])
    store.close()


def test_a_read_only_view_of_a_folder_in_use_never_lies(tmp_path):
    """Where others write what this process may only read, a look gives the old or the new."""
    folder, view = tmp_path / "answers", tmp_path / "view"
    view.mkdir()
    writer = DiskStore(folder)
    old = {f"key-{number}": Entry(bytes([number % 256]) * 3000, b"") for number in range(1500)}
    for key, entry in old.items():
        assert writer.put(key, entry)
    writer.close()
    if not mount("--bind", str(folder), str(view)) or not mount("-o", "remount,bind,ro", str(view)):
        pytest.skip("only root can mount a read-only view")
    try:
        reader = DiskStore(view)
        assert all(reader.get(key) == entry for key, entry in list(old.items())[::50])
        new = {key: Entry(entry.record[::2] + b"new", b"") for key, entry in old.items()}
        for key in reversed(new):
            assert writer.put(key, new[key])
        writer.close()
        found = {key: reader.get(key) for key in old}
        assert all(found[key] in (old[key], new[key], None) for key in old)
        assert reader.damaged == 0
        reader.close()
        assert all(reader.get(key) == entry for key, entry in new.items())
        reader.close()
    finally:
        subprocess.run(["umount", "--lazy", str(view)], check=True)


def test_a_folder_that_is_read_only_for_a_while_heals(tmp_path, protect):
    """When the folder can be written again, the same store writes, and sees what it wrote."""
    store = fill(tmp_path / "answers")
    protect(store.folder)
    assert_served(store)
    assert store.put("new", make_entry("new")) is False
    protect.lift()
    assert store.put("new", make_entry("new"))
    assert store.get("new") == make_entry("new")
    assert_served(store)
    store.close()


def test_a_read_only_empty_folder_is_a_miss(tmp_path, caplog, protect):
    """Without a database a read-only folder holds nothing, and says so when it is to."""
    folder = tmp_path / "answers"
    folder.mkdir()
    protect(folder)
    store = DiskStore(folder)
    assert store.get(KEYS[0]) is None
    assert list(store.keys()) == []
    assert store.put(KEYS[0], make_entry(KEYS[0])) is False
    assert "cannot be written" in caplog.text


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path, protect):
    """Before anything is paid for, a look says that the folder cannot be made."""
    place = tmp_path / "place"
    place.mkdir()
    protect(place)
    store = DiskStore(place / "answers")
    with pytest.raises(StoreError, match="cannot be made") as caught:
        store.get(KEYS[0])
    assert str(place / "answers") in str(caught.value)
    assert store.put(KEYS[0], make_entry(KEYS[0])) is False
    assert store.failed_writes == 1


def test_a_folder_that_is_a_file_is_an_error_at_once(tmp_path, caplog):
    """A file in place of the folder is named in the error, stays as it is, and no put raises."""
    path = tmp_path / "answers"
    path.write_text("notes")
    store = DiskStore(path)
    with pytest.raises(StoreError, match="is a file") as caught:
        store.get(KEYS[0])
    assert str(path) in str(caught.value)
    with pytest.raises(StoreError):
        next(store.keys())
    with pytest.raises(StoreError):
        len(store)
    assert store.put(KEYS[0], make_entry(KEYS[0])) is False
    assert "is a file" in caplog.text
    assert path.read_text() == "notes"


def test_a_file_on_the_way_to_the_folder_is_an_error(tmp_path):
    """A folder below a file cannot be made, and the error says so."""
    (tmp_path / "file").write_text("notes")
    with pytest.raises(StoreError, match="cannot be made"):
        DiskStore(tmp_path / "file" / "answers").get(KEYS[0])


def test_a_directory_in_place_of_the_database_is_an_error(tmp_path):
    """Something that is no file under the database's name is named in the error."""
    (tmp_path / "answers" / "cache.db").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cache\.db cannot be read"):
        DiskStore(tmp_path / "answers").get(KEYS[0])


@pytest.mark.parametrize("name", ["openai_api_cache.pickle", "openai_api_cache"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_old_cache_is_recognised(tmp_path, name, protocol):
    """The pickle of an older TinyTroupe is explained, another name is offered, nothing is read."""
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"key": "value"}, protocol=protocol))
    with pytest.raises(StoreError, match="older TinyTroupe") as caught:
        DiskStore(path).get(KEYS[0])
    offered = tmp_path / ("openai_api_cache" if "." in name else "openai_api_cache_answers")
    assert f"{offered} for example" in str(caught.value)
    assert pickle.loads(path.read_bytes()) == {"key": "value"}


@pytest.mark.parametrize("opened", [True, False])
def test_a_lock_is_waited_for_only_so_long(tmp_path, caplog, opened):
    """A put that another program locks out fails after its wait; looks go on, and so do puts."""
    fill(tmp_path / "answers")
    store = DiskStore(tmp_path / "answers", wait_seconds=0.05)
    if opened:
        assert store.put(KEYS[0], make_entry(KEYS[0]))
    with closing(sqlite3.connect(store.folder / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(3):
            assert store.put(f"new-{number}", make_entry("new")) is False
        assert_served(store)
        assert store.failed_writes == 3
        (warning,) = read_warnings(caplog)
        assert "locked" in warning
        other.execute("ROLLBACK")
    assert store.put("new", make_entry("new"))
    assert len(store) == 21
    store.close()


def test_a_lock_that_is_let_go_in_time_costs_nothing(tmp_path):
    """A put waits for another writer that is done soon."""
    store = fill(tmp_path / "answers")
    code = (
        "import sqlite3, sys, time\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "time.sleep(0.2)\n"
        "connection.execute('ROLLBACK')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.folder / "cache.db")], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        assert store.put("new", make_entry("new"))
    assert store.failed_writes == 0
    store.close()


def test_a_program_that_locks_out_readers_costs_a_look_not_a_run(tmp_path, caplog):
    """A look that is locked out for good is a miss with a report, not an error."""
    fill(tmp_path / "answers")
    store = DiskStore(tmp_path / "answers", wait_seconds=0.05)
    with closing(sqlite3.connect(store.folder / "cache.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE Extra (x)")
        assert store.get(KEYS[0]) is None
        assert store.get(KEYS[1]) is None
        assert len(read_warnings(caplog)) == 1
        with pytest.raises(StoreError, match="locked"):
            len(store)
        other.execute("ROLLBACK")
    assert_served(store)
    store.close()


def test_too_many_open_files_are_not_taken_for_damage(tmp_path, caplog):
    """A look that cannot open the database now is a miss with a report; later it is a hit."""
    store = fill(tmp_path / "answers")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes = []
    for spare in range(8):
        # Below the limit as many are free; what other tests have open may lie between them.
        free = [os.dup(0) for _ in range(spare + 1)]
        for descriptor in free:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(free), hard))
        try:
            outcomes.append((store.get(KEYS[0]), store.put("new", make_entry("new"))))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        # However the store came to read, it must see what others write from now on.
        other = DiskStore(store.folder)
        assert other.put("other", make_entry(str(spare)))
        assert store.get("other") == make_entry(str(spare))
        other.close()
        store.close()
    assert outcomes[0] == (None, False)
    assert outcomes[-1] == (make_entry(KEYS[0]), True)
    assert {found for found, _ in outcomes} == {None, make_entry(KEYS[0])}
    assert all("too many files" in warning for warning in read_warnings(caplog))
    assert_served(store)
    assert store.damaged == 0
    store.close()
    assert [path.name for path in store.folder.iterdir()] == ["cache.db"]


INTERRUPTED = """
import random, signal, sys, threading
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry
store, other = DiskStore(sys.argv[1]), DiskStore(sys.argv[1], wait_seconds=0.05)
chance, amid, written = random.Random(3), 0, {None}

def put_from_a_thread():
    assert store.put("thread", Entry(b"", b""))
    assert store.get("last") in written

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
for trial in range(400):
    assert store.put("warm", Entry(b"", b""))
    entry, done = Entry(str(trial).encode(), b""), False
    written.add(entry)
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.000001, 0.0002), 0.5)
        store.put("last", entry)
        done = True
        while True:
            pass
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
    amid += not done
    assert other.put("other", Entry(b"", b"")), "the database stayed locked"
    thread = threading.Thread(target=put_from_a_thread, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the store stayed locked"
assert amid > 40, amid
assert store.failed_writes == other.failed_writes == store.damaged == 0
"""


def test_an_interrupted_put_leaves_no_lock(tmp_path):
    """A put that Ctrl-C cuts off is kept or not as a whole, and holds up nobody afterwards."""
    subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "answers")], check=True, timeout=100
    )


WRITER = """
import os, sys
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry
store = DiskStore(sys.argv[1])
round_, number = sys.argv[2], 0
while True:
    key = f"{round_}-{number}"
    size = (number * 37 % 50) ** 3
    if store.put(key, Entry(key.encode() * (1 + size // 10), key.encode())):
        os.write(1, key.encode() + b"\\n")
    number += 1
"""


def make_written(key: str) -> Entry:
    number = int(key.split("-")[1])
    return Entry(key.encode() * (1 + (number * 37 % 50) ** 3 // 10), key.encode())


def test_no_acknowledged_answer_is_lost_by_kills(tmp_path):
    """Writers killed at 44 random moments lose nothing they acknowledged, and break nothing."""
    folder = tmp_path / "answers"
    chance = random.Random(9)
    acknowledged: list[str] = []
    for round_ in range(22):
        # Two writers at a time, so that each is also killed while the other writes.
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder), f"{round_}{name}"],
                stdout=subprocess.PIPE,
            )
            for name in "ab"
        ]
        for writer in writers:
            for _ in range(chance.randrange(1, 40)):
                acknowledged.append(writer.stdout.readline().decode().strip())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().decode()
            # A kill can cut the last line of the pipe; only whole lines are acknowledgements.
            acknowledged += rest[: rest.rfind("\n") + 1].split()
            assert writer.wait(30) == -signal.SIGKILL
            writer.stdout.close()
    store = DiskStore(folder)
    assert len(acknowledged) > 400
    lost = [key for key in acknowledged if store.get(key) != make_written(key)]
    assert lost == []
    assert all(store.get(key) == make_written(key) for key in list(store.keys()))
    assert store.damaged == 0
    store.close()
    with closing(sqlite3.connect(folder / "cache.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_kill_while_a_store_is_begun_leaves_a_usable_folder(tmp_path):
    """A process killed while it makes the database leaves nothing that a later one trips over."""
    code = (
        "import os, sys, threading\n"
        "from tinytroupe.llm.store.disk import DiskStore\n"
        "from tinytroupe.llm.store.entry import Entry\n"
        "import tinytroupe.llm.store.writer\n"
        "lines = 0\n"
        "def trace(frame, event, argument):\n"
        "    global lines\n"
        "    if 'diskcache' in frame.f_code.co_filename or 'writer' in frame.f_code.co_filename:\n"
        "        lines += 1\n"
        "        if lines == int(sys.argv[2]): os.kill(os.getpid(), 9)\n"
        "    return trace\n"
        "sys.settrace(trace)\n"
        "DiskStore(sys.argv[1]).put('key', Entry(b'record', b'request'))\n"
    )
    endings = set()
    for trial, line in enumerate((1, 3, 6, 10, 15, 22, 30, 45, 60, 100, 200, 400, 700, 100_000)):
        folder = tmp_path / f"answers-{trial}"
        run = subprocess.run([sys.executable, "-c", code, str(folder), str(line)], check=False)
        endings.add(run.returncode)
        store = DiskStore(folder)
        assert store.get("key") in (None, Entry(b"record", b"request"))
        assert store.put("key", make_entry("key"))
        assert store.get("key") == make_entry("key")
        assert store.failed_writes == store.damaged == 0
        store.close()
    assert endings == {0, -signal.SIGKILL}
