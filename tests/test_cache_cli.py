"""`tinytroupe cache`: what it shows, what it takes where, and that it never harms a store."""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fakes import chat_content

from tinytroupe import cli
from tinytroupe.cli import cache_views, quantities, tables
from tinytroupe.llm.request import chat_request, completion_request, embedding_request
from tinytroupe.llm.response import parse_response
from tinytroupe.llm.store.disk import DiskStore
from tinytroupe.llm.store.entry import Entry
from tinytroupe.llm.store.exchange import read_line
from tinytroupe.llm.store.survey import Survey

DAY = 86_400.0
NOW = 1_790_000_000.0
AMISS, FAILED = 1, 2


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder, and a clock that stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.time", lambda: NOW)
    return tmp_path


def make_entry(question: str, answer: str, model: str = "gpt-4o-mini", **others: Any):
    request = chat_request(model, [{"role": "user", "content": question}], **others)
    response = parse_response("chat", chat_content(answer), endpoint="openai", seconds=0.5)
    return request.digest, Entry(response.to_record(), request.body)


def fill(name: str = "tinytroupe_cache", count: int = 5, **others: Any) -> DiskStore:
    """Makes a store with answers that are 0, 1, 2 … days old, the newest first to come in."""
    store = DiskStore(name)
    for number in range(count):
        key, entry = make_entry(f"Question {number}?", f"Answer {number}.", **others)
        assert store.add(key, entry, NOW - number * DAY)
    return store


def run(capsys, *words: str, code: int = 0) -> str:
    """Runs `tinytroupe cache …` and returns what it printed."""
    assert cli.main(["cache", *words]) == code
    return capsys.readouterr().out


def tell(capsys, *words: str, code: int = 0) -> Any:
    return json.loads(run(capsys, *words, "--json", code=code))


def list_entries(store: DiskStore) -> dict[str, tuple[Entry | None, float]]:
    return {
        info.key: (store.get(info.key), info.stored_at_seconds) for info in store.list_entries()
    }


def damage(name: str, key: str) -> None:
    """Flips a bit of an entry on the disk."""
    with sqlite3.connect(Path(name) / "cache.db") as connection:
        ((value,),) = connection.execute("SELECT value FROM Cache WHERE key = ?", (key,))
        spoilt = bytes([*value[:40], value[40] ^ 1, *value[41:]])
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (spoilt, key))
    connection.close()


def test_stats_count_answers_and_tokens_by_model(capsys):
    """Each model has its answers, their size and what they took."""
    store = fill(count=3)
    store.put(*make_entry("Question?", "Answer.", model="gpt-5"))
    stats = tell(capsys, "stats")
    assert stats["entries"] == 4
    assert [(one["model"], one["entries"]) for one in stats["models"]] == [
        ("gpt-4o-mini", 3),
        ("gpt-5", 1),
    ]
    assert stats["models"][0]["input_tokens"] == 21
    assert stats["models"][0]["output_tokens"] == 9
    assert sum(one["size_bytes"] for one in stats["models"]) == stats["size_bytes"]
    assert stats["disk_bytes"] > stats["size_bytes"]
    assert stats["oldest_seconds"] == NOW - 2 * DAY
    text = run(capsys, "stats")
    assert "4 answers in" in text
    assert text.splitlines()[-1].split()[0] == "gpt-5"


def test_ls_shows_the_newest_first(capsys):
    """Answers are listed by their age, whenever they came into this store."""
    fill()
    lines = run(capsys, "ls").splitlines()
    assert lines[0].split() == ["KEY", "AGE", "MODEL", "SIZE", "ANSWER"]
    assert [line[line.index("Answer") :] for line in lines[1:]] == [
        f"Answer {number}." for number in range(5)
    ]
    assert "2 d" in lines[3]


def test_ls_shows_as_many_as_wanted(capsys):
    """A list is cut to its limit, and says so; 0 shows all."""
    fill(count=30)
    assert "The newest 20 are shown" in run(capsys, "ls")
    assert len(tell(capsys, "ls")) == 20
    assert len(tell(capsys, "ls", "--limit", "0")) == 30
    assert [one["answer"] for one in tell(capsys, "ls", "--limit", "2")] == [
        "Answer 0.",
        "Answer 1.",
    ]
    assert "are shown" not in run(capsys, "ls", "--limit", "30")


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["--older-than", "2d"], [3, 4]),
        (["--newer-than", "2d"], [0, 1]),
        (["--older-than", "12h", "--newer-than", "60h"], [1, 2]),
        (["--text", "QUESTION 3"], [3]),
        (["--text", "answer 4."], [4]),
        (["--text", "nowhere"], []),
        (["--model", "gpt-4o-mini"], [0, 1, 2, 3, 4]),
        (["--model", "gpt-4*"], [0, 1, 2, 3, 4]),
        (["--model", "gpt-4"], []),
        (["--text", "Question", "--limit", "1"], [0]),
    ],
)
def test_ls_finds_by_age_model_and_words(capsys, words, answers):
    """Filters narrow the list, together and alone."""
    fill()
    assert [one["answer"] for one in tell(capsys, "ls", *words)] == [
        f"Answer {number}." for number in answers
    ]


def test_every_kind_of_answer_is_listed_and_shown(capsys):
    """Completions, vectors, calls of tools, refusals and parts of images can be looked at."""
    store = DiskStore("tinytroupe_cache")
    call = [{"id": "1", "type": "function", "function": {"name": "buy", "arguments": "{}"}}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Look"}]}]
    for request, content in (
        (completion_request("m", "Once"), b'{"choices":[{"text":"upon"}],"model":"m"}'),
        (
            embedding_request("m", ["Once", "twice"]),
            b'{"data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":[1.0]}],"model":"m"}',
        ),
        (chat_request("m", parts, tools=[]), chat_content(None, tool_calls=call)),
        (chat_request("m", parts), chat_content(None, refusal="I will not.")),
    ):
        record = parse_response(request.kind, content).to_record()
        assert store.put(request.digest, Entry(record, request.body))
    text = run(capsys, "ls")
    for said in ("upon", "(2 vectors)", '"name":"buy"', "I will not."):
        assert said in text
    for one in tell(capsys, "ls"):
        assert one["answer"] in run(capsys, "show", one["key"])


def test_what_would_steer_a_terminal_is_not_printed(capsys):
    """Neither an answer nor a model's name can move the cursor or turn the direction of writing."""
    evil = "\x1b[2Jgone\x07\u202eback\x9b1m"
    DiskStore("tinytroupe_cache").put(*make_entry(f"Q{evil}", f"A{evil}\nB", model=f"m{evil}"))
    key = tell(capsys, "ls")[0]["key"]
    for text in (run(capsys, "ls"), run(capsys, "stats"), run(capsys, "show", key)):
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(text)
        assert "gone" in text
    assert "B" in run(capsys, "show", key).splitlines()


def test_show_tells_all_of_a_question_and_its_answer(capsys):
    """A key shows what was asked, with what, and what came back."""
    key, entry = make_entry("Who are you?", "I am Lisa.", temperature=0.5)
    DiskStore("tinytroupe_cache").put(key, entry)
    text = run(capsys, "show", key[:8])
    for said in (key, "gpt-4o-mini", "temperature:", "0.5", "Who are you?", "I am Lisa.", "7 in"):
        assert said in text
    told = tell(capsys, "show", key)
    assert told["request"]["messages"] == [{"role": "user", "content": "Who are you?"}]
    assert told["response"]["choices"][0]["message"]["content"] == "I am Lisa."
    assert told["endpoint"] == "openai"


def test_show_takes_the_beginning_of_a_key_where_it_is_the_only_one(capsys):
    """A beginning that several keys have lists them; a whole key is that key."""
    store = DiskStore("tinytroupe_cache")
    _, entry = make_entry("Question?", "Answer.")
    keys = ["ab12", "ab12.1", "ab12.10", "ab34", "cd56.aaa.0", "cd56.bbb.0"]
    for key in keys:
        store.put(key, entry)
    assert tell(capsys, "show", "ab3")["key"] == "ab34"
    assert tell(capsys, "show", "ab12")["key"] == "ab12"
    assert tell(capsys, "show", "ab12.1")["key"] == "ab12.1"
    assert tell(capsys, "show", "ab1.10")["key"] == "ab12.10"
    assert tell(capsys, "show", "c.b")["key"] == "cd56.bbb.0"
    assert tell(capsys, "show", "cd", code=FAILED) == {"candidates": ["cd56.aaa.0", "cd56.bbb.0"]}
    text = run(capsys, "show", "ab1", code=FAILED)
    assert "the beginning of 3 keys" in text
    assert text.splitlines()[1:] == ["  ab12", "  ab12.1", "  ab12.10"]
    assert cli.main(["cache", "show", "ef"]) == FAILED
    assert "no key in" in capsys.readouterr().err


def test_a_short_key_of_the_list_can_be_shown(capsys):
    """What `ls` prints as the key is enough for `show`, for draws of one request too."""
    store = DiskStore("tinytroupe_cache")
    digest, entry = make_entry("Question?", "Answer.")
    for draw in ("", ".1", ".10", ".0123456789ab.0", ".0123456789ab.1"):
        store.put(digest + draw, entry)
        short = cache_views.shorten_key(digest + draw)
        assert short in run(capsys, "ls")
    for draw in (".1", ".10", ".0123456789ab.0", ".0123456789ab.1"):
        assert tell(capsys, "show", cache_views.shorten_key(digest + draw))["key"] == digest + draw


def test_a_missing_cache_is_said(capsys, folder):
    """Where there is no cache, nothing is made, and the message names the place."""
    for words in (["stats"], ["ls"], ["show", "a"], ["verify"], ["prune", "--model", "m"]):
        assert cli.main(["cache", *words]) == FAILED
        assert f"there is no cache in {folder}" in capsys.readouterr().err
    assert cli.main(["cache", "merge", "elsewhere"]) == FAILED
    assert cli.main(["cache", "export", "x.jsonl"]) == FAILED
    assert list(folder.iterdir()) == []
    Path("file").write_text("x")
    assert cli.main(["cache", "ls", "--store", "file"]) == FAILED
    assert "is a file" in capsys.readouterr().err


def test_the_store_is_that_of_the_settings_or_the_named_one(capsys, folder):
    """config.ini names the cache; --store names another."""
    Path("config.ini").write_text("[OpenAI]\nCACHE_FILE_NAME=elsewhere\n")
    fill("elsewhere", 1)
    fill("other", 2)
    assert tell(capsys, "stats")["folder"] == str(folder / "elsewhere")
    assert tell(capsys, "stats", "--store", "other")["entries"] == 2


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.zst"])
def test_export_and_import_keep_every_byte_and_age(capsys, name):
    """What goes out and comes in elsewhere is the same entry, as old as it was."""
    store = fill()
    odd = Entry(b"\x00\xff not an answer", b"\n{ }\n")
    store.put("odd.key", odd)
    assert tell(capsys, "export", name)["exported"] == 6
    report = tell(capsys, "import", name, "--store", "copy")
    assert report == {
        "imported": 6,
        "already_there": 0,
        "other_answer_kept": [],
        "damaged_lines": [],
    }
    assert list_entries(DiskStore("copy")) == list_entries(store)
    assert "6 answers written" in run(capsys, "export", f"again-{name}", "--store", "copy")
    assert Path(f"again-{name}").read_bytes() == Path(name).read_bytes()


def test_export_writes_what_is_asked_for(capsys):
    """Filters hold for exports; a file is replaced only with --force."""
    fill()
    run(capsys, "export", "some.jsonl", "--older-than", "3d")
    (line,) = Path("some.jsonl").read_bytes().splitlines()
    assert b"Answer 4." in read_line(line).entry.record
    assert cli.main(["cache", "export", "some.jsonl"]) == FAILED
    assert "exists already" in capsys.readouterr().err
    assert "5 answers" in run(capsys, "export", "some.jsonl", "--force")


def test_import_never_overwrites(capsys):
    """An answer that is here stays; the same one counts as there, another one is said."""
    here, there = fill(count=2), DiskStore("there")
    same_key, same = make_entry("Question 0?", "Answer 0.")
    facts, content = same.record.split(b"\n")
    slower = Entry(facts.replace(b"0.5", b"9.5") + b"\n" + content, same.request)
    other_key, other = make_entry("Question 1?", "Another answer.")
    new_key, new = make_entry("Question 2?", "Answer 2.")
    for key, entry in ((same_key, slower), (other_key, other), (new_key, new)):
        there.put(key, entry)
    run(capsys, "export", "there.jsonl", "--store", "there")
    for words in (["import", "there.jsonl"], ["merge", "there"]):
        before = list_entries(here)
        report = tell(capsys, *words)
        assert report["other_answer_kept"] == [other_key]
        assert report["imported"] + report["already_there"] == 2
        assert {key: list_entries(here)[key] for key in before} == before
        assert here.get(new_key) == new
        text = run(capsys, *words)
        assert "0 answers came in, 2 were there already" in text
        assert other_key in text


def test_damaged_and_foreign_lines_are_passed_over_and_named(capsys):
    """Each line that is no entry is named with its number, and all others come in."""
    fill(count=3)
    run(capsys, "export", "all.jsonl")
    lines = Path("all.jsonl").read_bytes().splitlines(keepends=True)
    spoilt = lines[1].replace(b"Answer", b"Enswer")
    Path("bad.jsonl").write_bytes(
        b"".join([lines[0], b"not json\n", b"\n", spoilt, b'{"a": 1}\n', lines[2], lines[1][:50]])
    )
    report = tell(capsys, "import", "bad.jsonl", "--store", "copy", code=AMISS)
    assert report["imported"] == 2
    assert [one["line"] for one in report["damaged_lines"]] == [2, 4, 5, 7]
    text = run(capsys, "import", "bad.jsonl", "--store", "copy", code=AMISS)
    assert "4 lines were passed over" in text
    assert "line 4: it was changed since it was written" in text


def test_a_cut_compressed_export_gives_what_it_has(capsys):
    """Of a compressed file that was cut, what comes before the cut comes in."""
    generator = random.Random(1)
    store = DiskStore("tinytroupe_cache")
    for number in range(300):
        store.put(*make_entry(f"Q{number}", generator.randbytes(1000).hex()))
    run(capsys, "export", "all.jsonl.zst")
    content = Path("all.jsonl.zst").read_bytes()
    Path("cut.jsonl.zst").write_bytes(content[: len(content) * 2 // 3])
    report = tell(capsys, "import", "cut.jsonl.zst", "--store", "copy", code=AMISS)
    assert 0 < report["imported"] < 300
    assert "cut short" in report["damaged_lines"][-1]["problem"]


def test_a_newer_format_stops_the_import(capsys):
    """Lines of a newer version are refused, with the line and what to do."""
    fill(count=2)
    run(capsys, "export", "all.jsonl")
    first, second = Path("all.jsonl").read_bytes().splitlines(keepends=True)
    newer = second.replace(b'"format":1', b'"format":2')
    Path("newer.jsonl").write_bytes(first + newer)
    assert cli.main(["cache", "import", "newer.jsonl", "--store", "copy"]) == FAILED
    message = capsys.readouterr().err
    assert "line 2: format 2 was written by a newer version" in message
    assert "Before that, 1 answer came in" in message
    assert len(DiskStore("copy")) == 1


def test_a_store_that_cannot_be_written_stops_the_import(capsys, folder):
    """What cannot be kept is an error, not a success; what is here stays readable."""
    fill(count=2)
    run(capsys, "export", "all.jsonl")
    (folder / "blocked").write_text("a file where the folder should be")
    assert cli.main(["cache", "import", "all.jsonl", "--store", "blocked"]) == FAILED
    assert "blocked is a file" in capsys.readouterr().err


def test_merge_leaves_the_other_cache_as_it_is(capsys):
    """A cache that is merged into another is only read, its damaged entries included."""
    there = fill("there", 3)
    key, _ = make_entry("Question 1?", "Answer 1.")
    there.close()
    damage("there", key)
    before = sorted((path, path.stat().st_size) for path in Path("there").glob("cache.db"))
    report = tell(capsys, "merge", "there", code=AMISS)
    assert (report["imported"], [one["key"] for one in report["damaged"]]) == (2, [key])
    assert sorted((path, path.stat().st_size) for path in Path("there").glob("cache.db")) == before
    assert not (Path("there") / "damaged").exists()
    ages = [stored_at for _, stored_at in list_entries(DiskStore("tinytroupe_cache")).values()]
    assert ages == [NOW - 2 * DAY, NOW]


def test_a_cache_is_not_merged_into_itself(capsys):
    """Merging a cache into itself is a slip, and said to be one."""
    fill(count=1)
    assert cli.main(["cache", "merge", "./tinytroupe_cache"]) == FAILED
    assert "is this cache itself" in capsys.readouterr().err


def test_merge_while_others_write_loses_and_overwrites_nothing(capsys):
    """What a simulation puts during a merge stays, on both sides."""
    there = fill("there", 200)
    here = DiskStore("tinytroupe_cache")
    mine = {}
    for number in range(0, 200, 2):
        key, entry = make_entry(f"Question {number}?", f"My answer {number}.")
        mine[key] = entry
    begun = threading.Event()

    def simulate() -> None:
        for number, (key, entry) in enumerate(mine.items()):
            # As a simulation does: it asks only for what it has not got.
            if here.get(key) is None and not here.add(key, entry):
                continue
            there.put(f"new.{number}", entry)
            begun.set()

    thread = threading.Thread(target=simulate)
    thread.start()
    begun.wait(10)
    report = tell(capsys, "merge", "there")
    thread.join()
    final = DiskStore("tinytroupe_cache")
    for number in range(200):
        key, theirs = make_entry(f"Question {number}?", f"Answer {number}.")
        assert final.get(key) in (theirs, mine.get(key))
        assert there.get(key) == theirs
    kept = [key for key, entry in mine.items() if final.get(key) == entry]
    assert set(report["other_answer_kept"]) == set(kept)


def test_prune_deletes_by_age(capsys):
    """What is older than said goes; all else stays."""
    store = fill()
    assert "2 answers of" in run(capsys, "prune", "--older-than", "2d", "--yes")
    assert sorted(at for _, at in list_entries(store).values()) == [NOW - 2 * DAY, NOW - DAY, NOW]


def test_prune_deletes_by_model(capsys):
    """Only what a model was asked goes."""
    store = fill(count=3)
    kept, entry = make_entry("Question?", "Answer.", model="gpt-5")
    store.put(kept, entry)
    assert tell(capsys, "prune", "--model", "gpt-4*", "--yes")["deleted"] == 3
    assert list(store.keys()) == [kept]


def test_prune_deletes_the_oldest_until_the_size_is_right(capsys):
    """With --max-size the oldest go, and no more than need to."""
    store = fill()
    sizes = {info.stored_at_seconds: info.size_bytes for info in store.list_entries()}
    limit = sum(sizes.values()) - 1
    assert tell(capsys, "prune", "--max-size", f"{limit}B", "--yes")["deleted"] == 1
    assert min(at for _, at in list_entries(store).values()) == NOW - 3 * DAY
    assert tell(capsys, "prune", "--max-size", "1GB", "--yes")["deleted"] == 0
    assert tell(capsys, "prune", "--max-size", "0", "--yes")["deleted"] == 4
    assert len(store) == 0


def test_prune_takes_all_conditions_together(capsys):
    """Of several conditions, all must hold."""
    store = fill()
    for number in range(5):
        key, entry = make_entry(f"Question {number}?", "Answer.", model="gpt-5")
        store.add(key, entry, NOW - number * DAY)
    words = ["prune", "--model", "gpt-5", "--older-than", "36h", "--max-size", "1B", "--yes"]
    assert tell(capsys, *words)["deleted"] == 3
    assert len(store) == 7


def test_a_dry_run_deletes_nothing_and_shows_what_it_would(capsys):
    """With --dry-run the list is that of what goes without it."""
    store = fill()
    text = run(capsys, "prune", "--older-than", "2d", "--dry-run")
    assert "2 answers" in text
    assert "would be deleted" in text
    keys = tell(capsys, "prune", "--older-than", "2d", "--dry-run")["keys"]
    assert all(cache_views.shorten_key(key) in text for key in keys)
    assert len(store) == 5
    run(capsys, "prune", "--older-than", "2d", "--yes")
    assert not set(keys) & set(store.keys())


class Terminal(io.StringIO):
    """Text in memory that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("reply", "left"), [("y\n", 3), ("YES\n", 3), ("n\n", 5), ("\n", 5), ("", 5)]
)
def test_prune_asks_first(capsys, monkeypatch, reply, left):
    """On a terminal one is asked, and only a yes deletes."""
    store = fill()
    monkeypatch.setattr(sys, "stdin", Terminal(reply))
    text = run(capsys, "prune", "--older-than", "2d", code=0 if left == 3 else AMISS)
    assert "Delete 2 answers" in text
    assert len(store) == left


def test_prune_deletes_nothing_when_nobody_can_be_asked(capsys, monkeypatch):
    """Without a terminal and without --yes, or with nothing to go by, nothing is deleted."""
    store = fill()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert cli.main(["cache", "prune", "--older-than", "2d"]) == FAILED
    assert "add --yes" in capsys.readouterr().err
    assert cli.main(["cache", "prune", "--yes"]) == FAILED
    assert "say what to delete" in capsys.readouterr().err
    assert len(store) == 5


def test_prune_gives_the_space_back(capsys):
    """The files are smaller afterwards, also while another program has the cache open."""
    store = DiskStore("tinytroupe_cache")
    for number in range(50):
        store.put(*make_entry(f"Question {number}?", "long " * 20_000))
    before = tell(capsys, "stats")["disk_bytes"]
    run(capsys, "prune", "--max-size", "1MB", "--yes")
    after = tell(capsys, "stats")
    assert after["disk_bytes"] < before / 2
    assert after["entries"] > 0
    assert len(store) == after["entries"]


def test_prune_spares_what_was_written_anew(capsys, monkeypatch):
    """An answer that a simulation renews while the list is made is not deleted."""
    store = fill()
    survey = Survey("tinytroupe_cache")
    (old,) = [row for row in survey.list_rows() if row.stored_at_seconds == NOW - 4 * DAY]
    key, entry = make_entry("Question 4?", "A new answer.")
    store.put(key, entry)
    assert survey.remove(old) is False
    assert store.get(key) == entry


def test_verify_is_silent_about_a_sound_cache(capsys):
    """A sound cache gives exit code 0, with and without another program that uses it."""
    store = fill()
    assert "5 sound answers" in run(capsys, "verify")
    store.close()
    assert tell(capsys, "verify")["findings"] == []


def test_verify_names_what_is_damaged_and_what_strays(capsys, folder):
    """Damaged entries, planted rows and stray files are named, and nothing is changed."""
    store = fill()
    key, _ = make_entry("Question 2?", "Answer 2.")
    store.put("no-answer", Entry(b"whatever\nit is", b"{}"))
    store.close()
    damage("tinytroupe_cache", key)
    cache = folder / "tinytroupe_cache"
    with sqlite3.connect(cache / "cache.db") as connection:
        connection.execute(
            "INSERT INTO Cache (key, raw, store_time, value) VALUES (x'80', 0, 1.0, 1)"
        )
    connection.close()
    (cache / "ab").mkdir()
    (cache / "ab" / "stray.val").write_bytes(b"x")
    (cache / "damaged").mkdir()
    (cache / "damaged" / "a.entry").write_bytes(b"x")
    (cache / "cache.db.damaged-1").write_bytes(b"x")
    files = sorted(cache.rglob("*"))
    report = tell(capsys, "verify", code=AMISS)
    assert report["sound"] == 4
    findings = {one["what"]: one["problem"] for one in report["findings"]}
    assert set(findings) == {
        *(key, "no-answer", "database"),
        *(os.path.join("ab", "stray.val"), os.path.join("damaged", "a.entry")),
        "cache.db.damaged-1",
    }
    assert "checksum" in findings[key]
    assert "rows that this store never writes: 1" in findings["database"]
    text = run(capsys, "verify", code=AMISS)
    assert all(what in text for what in findings)
    assert sorted(
        path for path in cache.rglob("*") if not path.name.endswith(("-wal", "-shm"))
    ) == [path for path in files if not path.name.endswith(("-wal", "-shm"))]


def test_verify_notices_any_changed_byte_of_an_entry(capsys):
    """Wherever in an entry a bit is flipped, verify names the entry."""
    store = DiskStore("tinytroupe_cache")
    key, entry = make_entry("Question?", "Answer.")
    store.put(key, entry)
    store.close()
    with sqlite3.connect("tinytroupe_cache/cache.db") as connection:
        ((value,),) = connection.execute("SELECT value FROM Cache")
    survey = Survey("tinytroupe_cache")
    for place in range(0, len(value), 7):
        spoilt = bytes([*value[:place], value[place] ^ 16, *value[place + 1 :]])
        connection.execute("UPDATE Cache SET value = ?", (spoilt,))
        connection.commit()
        (row,) = survey.list_rows()
        with pytest.raises(Exception, match=r"checksum|not an entry"):
            survey.read(row)
    connection.close()


def test_a_database_that_is_damaged_as_a_whole_is_a_finding(capsys, folder):
    """A file that is no database at all is named, and stays."""
    (folder / "tinytroupe_cache").mkdir()
    (folder / "tinytroupe_cache" / "cache.db").write_bytes(b"not a database at all" * 100)
    report = tell(capsys, "verify", code=AMISS)
    assert "damaged as a whole" in report["findings"][0]["problem"]
    assert (folder / "tinytroupe_cache" / "cache.db").read_bytes().startswith(b"not a database")


def test_an_entry_is_added_only_once():
    """Of many that add under one key at once, one wins and the others are told."""
    _, entry = make_entry("Question?", "Answer.")
    entries = [Entry(entry.record, str(number).encode()) for number in range(16)]
    store = DiskStore("tinytroupe_cache")
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda one: store.add("key", one), entries))
    assert added.count(True) == 1
    assert store.get("key") == entries[added.index(True)]


def test_the_order_is_that_of_ages_not_of_arrival():
    """What came from elsewhere takes its place among the others by its age."""
    store = DiskStore("tinytroupe_cache")
    _, entry = make_entry("Question?", "Answer.")
    for days in (3, 1, 4, 1.5, 9, 2.6):
        store.add(f"{days}", entry, NOW - days * DAY)
    survey = Survey("tinytroupe_cache")
    ages = ["9", "4", "3", "2.6", "1.5", "1"]
    assert [row.key for row in survey.list_rows()] == ages
    assert [row.key for row in survey.list_rows(newest_first=True)] == ages[::-1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 30 * DAY), ("12h", 43_200), ("90min", 5400), ("1.5h", 5400), ("2 w", 14 * DAY)],
)
def test_ages_are_read(text, seconds):
    """An age is a number and a unit."""
    assert quantities.parse_age(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("500MiB", 500 * 2**20), ("1.5k", 1500), ("7", 7), ("10 B", 10)],
)
def test_sizes_are_read(text, size):
    """A size is a number and a unit, decimal or binary."""
    assert quantities.parse_size(text) == size


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "--older-than", "soon"],
        ["prune", "--older-than", "-3d"],
        ["prune", "--max-size", "big"],
        ["ls", "--limit", "-1"],
        ["ls", "--limit", "few"],
        ["frobnicate"],
        [],
    ],
)
def test_wrong_words_are_a_usage_error(words, capsys):
    """Arguments that make no sense end with code 2 and say what they should be."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["cache", *words])
    assert exit_.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_sizes_and_ages_are_written_short():
    """Sizes have two or three digits, ages their largest unit."""
    assert [quantities.show_size(size) for size in (0, 999, 1234, 12_345, 10**9)] == [
        *("0 B", "999 B", "1.2 kB", "12 kB", "1.0 GB")
    ]
    assert [quantities.show_age(age) for age in (-5, 59, 61, 7200, DAY * 17, DAY * 800)] == [
        *("0 s", "59 s", "1 min", "2 h", "17 d", "2 y")
    ]


def test_columns_are_aligned_for_every_script():
    """Wide, combining and joined characters take as many columns as a terminal gives them."""
    rows = [("食べ物", 1), ("cafe\u0301", 22), ("👩\u200d🌾", 3), ("plain", 4444)]
    lines = list(tables.write_table(("WHAT", "N"), rows, right=("N",)))
    assert {tables.measure(line) for line in lines} == {len("plain   4444")}
    assert tables.cut("食べ物と飲み物", 7) == "食べ物…"
    assert tables.cut("short", 7) == "short"
    assert list(tables.write_table(("A", "B"), [("x", "y" * 50)], width=10))[1] == "x  yyyyyy…"


@pytest.mark.parametrize("with_rich", [True, False])
def test_progress_is_shown_on_a_terminal_only(monkeypatch, with_rich):
    """A terminal sees how far the work is, with rich and without; a file sees nothing."""
    if not with_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("TERM", "xterm")
    for stream, seen in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with tables.progress("Reading", 100) as advance:
            for _ in range(100):
                advance(1)
        assert ("Reading" in stream.getvalue()) == seen
        if seen and not with_rich:
            assert stream.getvalue().endswith("\r")
        assert list(tables.track(range(3), "Reading", 3)) == [0, 1, 2]


def test_output_that_the_terminal_cannot_show_is_no_failure(monkeypatch):
    """With an encoding that lacks a character, a question mark stands for it."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    tables.say("Grüße 食")
    sys.stdout.flush()
    assert raw.getvalue() == b"Gr??e ?\n"


def test_looking_into_a_cache_imports_nothing_heavy():
    """`tinytroupe cache ls` loads neither an SDK nor what only a long export needs."""
    code = (
        "import sys; from tinytroupe import cli; cli.main(['cache', 'ls']);"
        "heavy = {'openai', 'diskcache', 'rich', 'pydantic', 'aiohttp', 'jinja2', 'backports'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    fill(count=2)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Answer 1." in done.stdout


def test_a_reader_that_stops_early_is_no_error():
    """`tinytroupe cache ls | head -1` prints no traceback."""
    fill(count=300)
    command = f"{sys.executable} -m tinytroupe cache ls --limit 0 --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[\n"
    assert "Traceback" not in done.stderr
