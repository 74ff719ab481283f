"""Tokens: exact where OpenAI documents it, bounded elsewhere, and never a request."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.messages import Message, to_messages
from tinytroupe.llm.rules import tokens
from tinytroupe.llm.rules.tokens import BYTES, TokenCount, count_messages, count_text, find_encoding

ENCODINGS = ("o200k_base", "cl100k_base")
MODELS = {"o200k_base": "gpt-4o", "cl100k_base": "gpt-4"}
URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
"""Where tiktoken has a rank file from; its cache names the file by the SHA-1 of this."""


@pytest.fixture(scope="session")
def rank_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of tiktoken with both rank files, as after a download."""
    folder = tmp_path_factory.mktemp("ranks")
    for encoding in ENCODINGS:
        packed = files("bpe_openai.data").joinpath(f"{encoding}.tiktoken.gz").read_bytes()
        name = hashlib.sha1(URL.format(encoding).encode()).hexdigest()
        (folder / name).write_bytes(gzip.decompress(packed))
    return folder


@pytest.fixture
def without_bpe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """As if `bpe-openai` were not installed and tiktoken had never downloaded anything."""
    monkeypatch.setattr(tokens, "_COUNTERS", {})
    monkeypatch.setitem(sys.modules, "bpe_openai", None)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    return monkeypatch


@pytest.fixture
def only_tiktoken(without_bpe: pytest.MonkeyPatch, rank_files: Path) -> None:
    """As if `bpe-openai` were not installed, but tiktoken had its rank files."""
    without_bpe.setenv("TIKTOKEN_CACHE_DIR", str(rank_files))


@pytest.fixture(params=["bpe-openai", "tiktoken"])
def counter(request: pytest.FixtureRequest) -> str:
    """Either of the two packages that can count."""
    if request.param == "tiktoken":
        request.getfixturevalue("only_tiktoken")
    return str(request.param)


# A conversation of a focus group, with names, and how many tokens OpenAI's formula and
# tiktoken give for it: per message three and the texts, one per name, three for the reply.
GROUP = (
    {"role": "system", "content": "You are Lisa, 41, a nurse from Graz. Answer as she would."},
    {"role": "system", "name": "moderator", "content": "Would you pay 12 euros for this box?"},
    {"role": "assistant", "name": "max", "content": "Sí, ¿por qué no? 値段は手頃です。"},
    {"role": "user", "content": "And you, Lisa?\n\n- price\n- taste\n"},
)

TOOL = {
    "type": "function",
    "function": {
        "name": "rate_product",
        "description": "Notes how likely a person is to buy.",
        "parameters": {
            "type": "object",
            "properties": {
                "score": {"type": "integer", "description": "From 1 to 10."},
                "mood": {
                    "type": "string",
                    "description": "How the person feels",
                    "enum": ["keen", "torn", "indifferent"],
                },
            },
            "required": ["score"],
        },
    },
}


@pytest.mark.parametrize(
    ("text", "in_o200k", "in_cl100k"),
    [
        ("", 0, 0),
        ("tiktoken is great!", 6, 6),
        ("antidisestablishmentarianism", 6, 6),
        ("2 + 2 = 4", 7, 7),
        ("お誕生日おめでとう", 8, 9),
        ("<|endoftext|>", 7, 7),
    ],
)
def test_texts_count_as_documented(counter: str, text: str, in_o200k: int, in_cl100k: int):
    """Known texts have the counts that OpenAI publishes, whichever package counts."""
    assert count_text(text, "gpt-4o") == TokenCount(in_o200k, True, "o200k_base")
    assert count_text(text, "gpt-4") == TokenCount(in_cl100k, True, "cl100k_base")


@pytest.mark.parametrize(
    ("model", "messages_only", "with_tool"),
    [("gpt-4o", 77, 145), ("gpt-4o-mini", 77, 145), ("gpt-4", 80, 152), ("gpt-3.5-turbo", 80, 152)],
)
def test_conversations_count_as_documented(
    counter: str, model: str, messages_only: int, with_tool: int
):
    """A conversation with names, and with a tool, has the count of the cookbook's formulas."""
    encoding = find_encoding(model)
    assert count_messages(GROUP, model) == TokenCount(messages_only, True, str(encoding))
    assert count_messages(GROUP, model, [TOOL]) == TokenCount(with_tool, True, str(encoding))


def test_the_framing_is_the_documented_one():
    """Three a message, one a name, three for the reply; then the tool's own, by model."""
    one_word = {"role": "user", "content": "yes"}
    assert count_messages([], "gpt-4o").tokens == 3
    assert count_messages([one_word], "gpt-4o").tokens == 3 + 3 + 2
    assert count_messages([{**one_word, "name": "max"}], "gpt-4o").tokens == 3 + 3 + 2 + 1 + 1
    assert count_messages([one_word], "gpt-3.5-turbo-0301").tokens == 3 + 4 + 2
    assert count_messages([{**one_word, "name": "max"}], "gpt-3.5-turbo-0301").tokens == 3 + 4 + 2
    bare: dict[str, Any] = {
        "type": "function",
        "function": {"name": "a", "description": "b.", "parameters": {"properties": {}}},
    }
    bare["function"]["parameters"]["type"] = "object"
    for model, before in (("gpt-4o", 7), ("gpt-4", 10)):
        words = count_text("a:b", model).tokens
        assert count_messages([], model, [bare]).tokens == 3 + before + words + 12
        assert count_messages([], model, [bare, bare]).tokens == 3 + 2 * (before + words) + 12


@pytest.fixture(scope="session")
def counters(rank_files: Path) -> dict[str, tuple[Callable[[str], int], Callable[[str], int]]]:
    """For each encoding, what counts with it in either package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(rank_files))
        found = {name: (tokens._open_bpe(name), tokens._open_tiktoken(name)) for name in ENCODINGS}
    return {name: (bpe, tik) for name, (bpe, tik) in found.items() if bpe and tik}


SPECIAL = st.sampled_from(
    [
        "'s",
        "'LL",
        "\r\n",
        "  ",
        " \n",
        "\t",
        "<|endoftext|>",
        "12345",
        "ß",
        "ǅ",
        "e\u0301",
        "🏽",
        "漢",
    ]
)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), st.lists(SPECIAL | st.text(max_size=3)).map("".join)))
def test_both_packages_count_alike(counters: dict[str, Any], text: str):
    """`bpe-openai` and tiktoken give the same count for any text, in both encodings."""
    assert len(counters) == len(ENCODINGS)
    for by_bpe, by_tiktoken in counters.values():
        assert by_bpe(text) == by_tiktoken(text)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=20), max_size=20), most=st.integers(4, 40))
def test_texts_are_cut_where_it_does_not_show(
    counters: dict[str, Any], texts: list[str], most: int
):
    """The pieces of a long text are the text, and their tokens add up to its tokens."""
    text = "Lisa can't say 'no' to tea, 12 euros!\n\n Max can. ".join(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_MOST_CHARACTERS", most)
        with contextlib.suppress(OverflowError):
            pieces = list(tokens._split(text))
            assert "".join(pieces) == text
            for by_bpe, _ in counters.values():
                assert sum(map(by_bpe, pieces)) == by_bpe(text)


MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant"]),
        content=st.text(max_size=40),
    ),
    max_size=4,
)


@given(first=MESSAGES, second=MESSAGES, model=st.sampled_from(["gpt-4o", "gpt-4"]))
def test_framing_adds_up(first: list[Message], second: list[Message], model: str):
    """Two conversations in one take what they take alone, less one beginning of a reply."""
    both = count_messages([*first, *second], model).tokens
    assert both == count_messages(first, model).tokens + count_messages(second, model).tokens - 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(messages=MESSAGES, tool=st.booleans())
def test_the_upper_bound_holds(
    monkeypatch: pytest.MonkeyPatch, messages: list[Message], tool: bool
):
    """Without a package that can count, what is given is no less than the exact count."""
    given_tools = [TOOL] if tool else []
    for model in ("gpt-4o", "gpt-4"):
        exact = count_messages(messages, model, given_tools)
        with monkeypatch.context() as patch:
            patch.setattr(tokens, "_load_counter", lambda encoding: None)
            bound = count_messages(messages, model, given_tools)
        assert (bound.exact, bound.encoding) == (False, BYTES)
        assert exact.exact
        assert exact.tokens <= bound.tokens


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("GPT-4o", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-5.1-mini", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-0125", "cl100k_base"),
        ("gpt-35-turbo-16k", "cl100k_base"),
        ("ft:gpt-4o-mini-2024-07-18:lab::x1", "o200k_base"),
        ("ft:gpt-4.1-2025-04-14:lab::x1", "o200k_base"),
        ("ft:gpt-3.5-turbo-0125:lab::x1", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("gpt-oss-120b", "o200k_harmony"),
        ("llama-3.3-70b", None),
        ("lisas-deployment", None),
        ("ft:", None),
        ("", None),
    ],
)
def test_models_have_encodings(model: str, encoding: str | None):
    """A model's encoding is known by its name, fine-tuned and on Azure too; else it is None."""
    assert find_encoding(model) == encoding
    counted = count_text("a word", model)
    assert counted == TokenCount(2, encoding is not None, encoding or "o200k_base")


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4.1", "gpt-4-turbo", "gpt-35-turbo", "ft:gpt-4o-mini:lab::x1"]
)
def test_chat_models_are_counted_exactly(model: str):
    """The framing of the chat models is documented."""
    assert count_messages(GROUP, model).exact


@pytest.mark.parametrize(
    "model", ["gpt-5", "o3-mini", "gpt-oss-20b", "llama-3", "text-embedding-3-small"]
)
def test_other_models_are_not_counted_exactly(model: str):
    """The framing of reasoning models, and of models of other makers, is not documented."""
    counted = count_messages(GROUP, model)
    assert not counted.exact
    assert counted.tokens > 60


CALL = {"id": "call_1", "type": "function", "function": {"name": "rate_product", "arguments": "{}"}}
NOT_DOCUMENTED: dict[str, dict[str, Any]] = {
    "a developer message": {"messages": [{"role": "developer", "content": "Be brief."}]},
    "a tool call": {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]},
    "a tool's answer": {"messages": [{"role": "tool", "content": "7", "tool_call_id": "call_1"}]},
    "text in parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    "the older functions": {"messages": GROUP, "functions": [TOOL["function"]]},
    "a tool without description": {
        "messages": GROUP,
        "tools": [{"type": "function", "function": {"name": "wait", "parameters": {}}}],
    },
    "a tool of another kind": {"messages": GROUP, "tools": [{"type": "web_search"}]},
    "a nested parameter": {
        "messages": GROUP,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "note",
                    "description": "Notes.",
                    "parameters": {
                        "type": "object",
                        "properties": {"at": {"type": "object", "properties": {}}},
                    },
                },
            }
        ],
    },
    "a list of numbers": {
        "messages": GROUP,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "note",
                    "description": "Notes.",
                    "parameters": {
                        "type": "object",
                        "properties": {"n": {"type": "integer", "description": "", "enum": [1]}},
                    },
                },
            }
        ],
    },
}


@pytest.mark.parametrize("case", NOT_DOCUMENTED.values(), ids=NOT_DOCUMENTED.keys())
def test_what_is_not_documented_is_an_estimate(case: dict[str, Any]):
    """Where the cookbook says nothing, the texts are counted and the count is not exact."""
    counted = count_messages(model="gpt-4o", **case)
    assert not counted.exact
    assert counted.tokens > count_messages([], "gpt-4o").tokens + 3
    if case["messages"] is GROUP:
        assert counted.tokens > count_messages(GROUP, "gpt-4o").tokens


def test_tools_of_newer_models_are_an_estimate():
    """The cookbook counts tools for four models; for others its numbers are an estimate."""
    assert count_messages(GROUP, "gpt-4.1", [TOOL]) == TokenCount(145, False, "o200k_base")


def test_images_are_not_texts():
    """An image counts as an image however long its data is, and makes the count not exact."""

    def count(**image: str) -> TokenCount:
        parts = [{"type": "text", "text": "See?"}, {"type": "image_url", "image_url": image}]
        return count_messages([{"role": "user", "content": parts}], "gpt-4o")

    without = count_messages([{"role": "user", "content": "See?"}], "gpt-4o").tokens
    data = "data:image/png;base64," + "A" * 100_000
    assert count(url=data) == TokenCount(without + 1445, False, "o200k_base")
    assert count(url=data, detail="low") == TokenCount(without + 85, False, "o200k_base")


def test_messages_may_be_values_or_mappings():
    """Messages count alike in both shapes; what is no message is an error."""
    assert count_messages(to_messages(GROUP), "gpt-4o") == count_messages(GROUP, "gpt-4o")
    assert count_messages(GROUP, "gpt-4o", None, None) == count_messages(GROUP, "gpt-4o")
    with pytest.raises(BadRequest, match="message 1"):
        count_messages([GROUP[0], "hello"], "gpt-4o")  # type: ignore[list-item]


@pytest.mark.parametrize("text", ["\ud800", "a\udc80b", "\ude00\ud83d"])
def test_unpaired_surrogates_have_a_count(counter: str, text: str):
    """A text that cannot be sent counts as if its faults were U+FFFD, and not exactly."""
    repaired = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    expected = count_text(repaired, "gpt-4o").tokens
    assert count_text(text, "gpt-4o") == TokenCount(expected, False, "o200k_base")


def test_surrogates_in_a_pair_are_one_character(counter: str):
    """Two halves of a character count as the character."""
    assert count_text("\ud83d\ude00", "gpt-4o").tokens == count_text("😀", "gpt-4o").tokens


@pytest.mark.parametrize("piece", ["a", " ", "\n", "ab ", "word and word ", "漢", "🙂", "\0"])
def test_long_texts_are_counted(piece: str):
    """Ten megabytes are counted exactly, repetitive ones included, without a wait."""
    text = piece * (10_000_000 // len(piece.encode()))
    counted = count_text(text, "gpt-4o")
    assert counted.exact
    assert 0 < counted.tokens <= len(text.encode())


def test_long_texts_are_counted_by_tiktoken(counters: dict[str, Any], only_tiktoken: None):
    """A text of a megabyte and more is counted exactly, as long as it has words."""
    text = "Lisa, 41, can't decide: tea or rain? 漢字 12 345.\n\n  (She smiles.)  \t\n" * 20_000
    expected = counters["o200k_base"][0](text)
    assert count_text(text, "gpt-4o") == TokenCount(expected, True, "o200k_base")


@pytest.mark.parametrize("piece", [" ", "a", "\n", "漢"])
def test_texts_that_tiktoken_cannot_count_have_an_upper_bound(only_tiktoken: None, piece: str):
    """What tiktoken would panic on, or take minutes for, gets an upper bound that says so."""
    text = piece * 3_000_000
    assert count_text(text, "gpt-4o") == TokenCount(len(text.encode()), False, BYTES)
    counted = count_messages([GROUP[0], {"role": "user", "content": text}], "gpt-4o")
    assert (counted.exact, counted.encoding) == (False, BYTES)
    assert counted.tokens > len(text.encode())


@pytest.fixture
def requests_made(without_bpe: pytest.MonkeyPatch) -> list[str]:
    """The addresses that tiktoken asks for; it gets nothing."""
    from tiktoken import load

    made: list[str] = []

    def refuse(path: str) -> bytes:
        made.append(path)
        raise OSError("no network")

    without_bpe.setattr(load, "read_file", refuse)
    return made


def test_without_rank_files_there_is_an_upper_bound(requests_made: list[str]):
    """Where neither package can count, a count is an upper bound, and nothing is downloaded."""
    assert count_text("Grüße", "gpt-4o") == TokenCount(7, False, BYTES)
    assert count_messages(GROUP, "gpt-4").encoding == BYTES
    assert count_text("Grüße", "davinci") == TokenCount(7, False, BYTES)
    assert requests_made == []


@pytest.mark.parametrize("folder", ["", "/dev/null", "empty"])
def test_a_folder_without_rank_files_is_no_error(
    without_bpe: pytest.MonkeyPatch, requests_made: list[str], tmp_path: Path, folder: str
):
    """tiktoken's cache may be switched off, missing or no folder."""
    without_bpe.setenv("TIKTOKEN_CACHE_DIR", folder and str(tmp_path / folder))
    assert count_text("Grüße", "gpt-4o") == TokenCount(7, False, BYTES)
    assert requests_made == []


def test_a_damaged_rank_file_is_not_used(
    without_bpe: pytest.MonkeyPatch, requests_made: list[str], tmp_path: Path, rank_files: Path
):
    """A rank file with one byte changed gives an upper bound, not a wrong count."""
    for path in rank_files.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / path.name).write_bytes(data)
    without_bpe.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert count_text("Grüße", "gpt-4o") == TokenCount(7, False, BYTES)
    assert requests_made == []


def test_rank_files_are_found_when_they_come(
    without_bpe: pytest.MonkeyPatch, requests_made: list[str], rank_files: Path
):
    """A count becomes exact as soon as the rank files are there, in either folder's variable."""
    assert not count_text("Grüße", "gpt-4o").exact
    without_bpe.delenv("TIKTOKEN_CACHE_DIR")
    without_bpe.setenv("DATA_GYM_CACHE_DIR", str(rank_files))
    assert count_text("Grüße", "gpt-4o").exact
    assert requests_made == []


def test_tiktoken_itself_stays_as_it_was(only_tiktoken: None):
    """Only the copy that counts cannot download; tiktoken's own functions are not touched."""
    from tiktoken import load

    before = vars(load).copy()
    assert count_text("Grüße", "gpt-4o").exact
    assert vars(load) == before
    assert load.load_tiktoken_bpe.__globals__ is vars(load)


def test_another_tiktoken_cannot_download_either(
    without_bpe: pytest.MonkeyPatch, requests_made: list[str]
):
    """A tiktoken that is built differently gives an upper bound rather than a download."""
    from tiktoken import load

    def load_tiktoken_bpe(path: str, expected_hash: str | None = None) -> dict[bytes, int]:
        load.read_file(path)
        return {}

    without_bpe.setattr(load, "load_tiktoken_bpe", load_tiktoken_bpe)
    assert count_text("Grüße", "gpt-4o") == TokenCount(7, False, BYTES)
    assert requests_made == []


def test_many_threads_count_at_once(without_bpe: pytest.MonkeyPatch):
    """Threads that need an encoding at the same time load it once and count alike."""
    without_bpe.delitem(sys.modules, "bpe_openai")
    opened: list[str] = []
    open_bpe = tokens._open_bpe
    without_bpe.setattr(tokens, "_open_bpe", lambda name: opened.append(name) or open_bpe(name))
    start = threading.Barrier(8)
    counted: list[TokenCount] = []

    def work() -> None:
        start.wait()
        counted.extend(count_messages(GROUP, model) for model in ("gpt-4o", "gpt-4") * 20)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(counted) == {TokenCount(77, True, "o200k_base"), TokenCount(80, True, "cl100k_base")}
    assert len(counted) == 320
    assert sorted(opened) == ["cl100k_base", "o200k_base"]


def test_importing_loads_no_encoding():
    """Importing the module imports neither tiktoken nor bpe-openai."""
    program = (
        "import sys, tinytroupe.llm.rules.tokens\n"
        "sys.exit('tiktoken' in sys.modules or 'bpe_openai' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
