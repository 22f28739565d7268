"""Untrusted tokenizer files, and texts with unknown tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xvlm.common.errors import InputError
from xvlm.data.text.tokenizer import Tokenizer, encode_caption
from xvlm.records import BadRecord, Note

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "##s"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "a", "d", "o", "g", "Ġ", "do", "dog", "<mask>"]


@pytest.fixture
def bert(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    return Tokenizer.from_folder(tmp_path)


def changed(folder: Path, bert: Tokenizer, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Return a folder with a changed tokenizer.json."""
    bert.save(folder / "new")
    data = json.loads((folder / "new" / "tokenizer.json").read_text())
    change(data)
    (folder / "new" / "tokenizer.json").write_text(json.dumps(data))
    return folder / "new"


def vocab(**ids: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data["model"]["vocab"].update(ids)


def deep(data: dict[str, Any]) -> None:
    for _ in range(300):
        data["normalizer"] = {"type": "Sequence", "normalizers": [data["normalizer"]]}


SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
ADDED = [{**TOKEN, "id": n, "content": f"x{n}"} for n in range(10_001)]
HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "largest id": (vocab(a=2**32 - 1), r"the id of 'a' is 4294967295; with 9 tokens it may be 0 to 10017"),
    "beyond 32 bits": (vocab(a=2**40), "the id of 'a' is"),
    "negative": (vocab(a=-1), "the id of 'a' is -1"),
    "a text": (vocab(a="5"), "the id of 'a' is '5'"),
    "twice": (vocab(a=6), "two tokens have the id 6"),
    "no unknown token": (lambda data: data["model"].update(unk_token="[X]"), r"unk_token is '\[X\]'"),
    "no model": (lambda data: data.pop("model"), "has no model"),
    "added": (
        lambda data: data.update(added_tokens=ADDED),
        "added_tokens are 10001; a list of at most 10000",
    ),
    "added at an id": (
        lambda data: data["added_tokens"].append({**TOKEN, "id": 2**33, "content": "x"}),
        "is not a readable tokenizer",
    ),
    "a regular expression": (lambda data: data.update(pre_tokenizer=SPLIT), "has a regular expression"),
    "deep": (deep, "is not a readable tokenizer|nested too deeply"),
    "unknown part": (lambda data: data.update(normalizer={"type": "X"}), "is not a readable tokenizer"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_errors_of_hostile_files_are_one_sentence(kind: str, bert: Tokenizer, tmp_path: Path) -> None:
    change, sentence = HOSTILE[kind]
    with pytest.raises(InputError, match=sentence) as caught:
        Tokenizer.from_folder(changed(tmp_path, bert, change))
    assert "tokenizer.json" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"\xff\xfe\x00"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"[" * 100_000),
        ("vocab.txt", b"\xff\xff\n"),
        ("vocab.json", b"{}x"),
        ("vocab.json", b'{"<s>": -5}'),
    ],
)
def test_errors_of_damaged_files_are_one_sentence(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        Tokenizer.from_folder(tmp_path)


def test_settings_that_change_texts_are_turned_off(bert: Tokenizer, tmp_path: Path) -> None:
    """MiniLM's file pads to 128; others truncate, or skip merges at random."""
    padding = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "[PAD]"}
    truncation = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    folder = changed(tmp_path, bert, lambda data: data.update(padding=padding, truncation=truncation))
    assert Tokenizer.from_folder(folder).encode("a red dogs", 40) == [2, 5, 6, 7, 8]
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(ROBERTA)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nd o\ndo g\n")
    roberta = Tokenizer.from_folder(tmp_path)
    folder = changed(tmp_path, roberta, lambda data: data["model"].update(dropout=1.0))
    assert Tokenizer.from_folder(folder).encode("dog", 40) == roberta.encode("dog", 40) == [0, 10]


def test_a_word_of_a_million_letters_takes_no_time(bert: Tokenizer, tmp_path: Path) -> None:
    word = "abcdefgh" * 125_000
    began = time.monotonic()
    tokenizer = Tokenizer.train_wordpiece(["a red dog", f"a {word} dog", "two dogs"] * 3, 100)
    plain = Tokenizer.train_wordpiece(["a red dog", "a dog", "two dogs"] * 3, 100)
    assert tokenizer.__getstate__() == plain.__getstate__()
    unlimited = changed(tmp_path, bert, lambda data: data["model"].update(max_input_chars_per_word=2**60))
    for one in (tokenizer, bert, Tokenizer.from_folder(unlimited)):
        assert one.encode(f"a {word}", 40)[2] == one.unk_id
    assert time.monotonic() - began < 60, "the square of the length would take hours"


def test_long_texts_of_short_words_are_trained_on() -> None:
    line = " ".join(["red", "dog"] * 200)
    chinese = "红色的狗" * 50  # there are no spaces between words
    assert Tokenizer.train_wordpiece([line, chinese], 60).encode("红", 9)[1] != 1


def test_unknown_tokens_are_noted_or_refused(bert: Tokenizer) -> None:
    for text in ("черный треугольник", "qwerty zxcvb"):
        with pytest.raises(BadRecord, match="k: text has only unknown tokens") as caught:
            encode_caption(bert, text, 40, 40, "k")
        assert caught.value.reason == "text has only unknown tokens"
    notes: list[Note] = []
    assert encode_caption(bert, "A red dog.", 40, 40, "k", notes) == [2, 5, 6, 7] and notes == []
    assert encode_caption(bert, "a red fox", 40, 40, "k", notes) == [2, 5, 6, 1]
    assert notes == [Note("text has unknown tokens", "k", "1 of 3 tokens of 'a red fox'")]


def test_truncation_is_noted(bert: Tokenizer) -> None:
    notes: list[Note] = []
    assert encode_caption(bert, "a red dog a red", 3, 40, "k", notes) == [2, 5, 6, 7]
    assert encode_caption(bert, "a red dogs", 40, 4, "k", notes) == [2, 5, 6, 7]
    assert encode_caption(bert, "a red dog", 3, 4, "k", notes) == [2, 5, 6, 7]
    assert notes == [
        Note("text is cut", "k", "3 of 5 words of 'a red dog a red'"),
        Note("text is cut", "k", "3 of 4 tokens of 'a red dogs'"),
    ]
    with pytest.raises(BadRecord, match="only unknown"):
        bert.encode_known("a fox", 40, end=True, prompt_tokens=1)
    assert bert.encode_known("a red fox", 5, end=True, prompt_tokens=1) == [2, 5, 6, 1, 3]
