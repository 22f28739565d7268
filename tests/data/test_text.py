"""Texts are cleaned as in the published code; the tokenizer follows the rules of BERT and RoBERTa."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models

from xvlm.data.text.cleaning import clean_caption, clean_question
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.records import BadRecord

ROOT = Path(__file__).parents[2]
TEXTS = ["a red dog on a mat", "two dogs running past a zebra", "photosynthesis is nice", "street lamp"] * 3
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "##s", "zebra", "##fish", "cafe"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "a", "d", "o", "g", "Ġ", "do", "dog", "Ġdog", "<mask>"]
MERGES = ["d o", "do g", "Ġ dog"]


@pytest.fixture
def bert(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    return Tokenizer.from_folder(tmp_path)


@pytest.fixture
def roberta(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(ROBERTA)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "caption", "question"),
    [
        ("It's  a\t\n dog!", "its a dog", "its  a\t\n dog"),
        (" Left/right-most <PERSON>\n", "left right most person", " left right most <person>\n"),
        ("one two three four", "one two three", "one two three"),
    ],
)
def test_cleaning(text: str, caption: str, question: str) -> None:
    assert clean_caption(text, 3 if "three" in text else None) == caption
    assert clean_question(text, 3 if "three" in text else None) == question


def test_empty_after_cleaning_is_a_bad_caption_but_an_empty_question() -> None:
    with pytest.raises(BadRecord, match="no text left") as error:
        clean_caption(" ?! ")
    assert error.value.reason == "no text left after cleaning"
    assert clean_question("?!") == ""


def test_bert_ids_have_cls_and_no_sep(bert: Tokenizer) -> None:
    assert bert.encode("A red dogs Café", 40) == [2, 5, 6, 7, 8, 11]
    assert bert.encode("a red dogs", 40, end=True) == [2, 5, 6, 7, 8, 3]
    assert bert.encode("quux", 40) == [2, bert.unk_id]
    assert (bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id) == (0, 1, 2, 3, 4)
    assert bert.vocab_size == len(BERT)


def test_at_most_max_tokens_with_sep_kept(bert: Tokenizer) -> None:
    assert bert.encode("a red dogs", 3) == [2, 5, 6]
    assert bert.encode("a red dogs", 3, end=True) == [2, 5, 3]
    assert bert.encode("a red dogs", 2) == [2, 5]
    with pytest.raises(ValueError, match="at least 3"):
        bert.encode("a", 2, end=True)


def test_text_without_tokens(bert: Tokenizer) -> None:
    for text in ("", "\t", "\u200b"):
        with pytest.raises(BadRecord, match="no text left"):
            bert.encode(text, 10)
    assert bert.encode("", 10, allow_empty=True) == [2]
    assert bert.encode("", 10, end=True, allow_empty=True) == [2, 3]


def test_roberta_ids_have_no_prefix_space(roberta: Tokenizer) -> None:
    ids = roberta.encode("dog dog adog", 40, end=True)
    assert [ROBERTA[i] for i in ids] == ["<s>", "dog", "Ġdog", "Ġ", "a", "dog", "</s>"]
    assert (roberta.cls_id, roberta.pad_id, roberta.sep_id, roberta.unk_id) == (0, 1, 2, 3)
    assert roberta.mask_id == 12
    assert roberta.word_starts(ids) == [True, True, True, True, False, False, True]
    assert roberta.word_starts(ids, by_wordpiece_rule=True) == [True] * 7
    assert roberta.decode(ids) == "dog dog adog"


def test_word_starts_of_wordpiece(bert: Tokenizer) -> None:
    ids = bert.encode("dogs zebrafishs a", 40, end=True)
    assert bert.word_starts(ids) == [True, True, False, True, False, False, True, True]
    assert bert.word_starts(ids) == bert.word_starts(ids, by_wordpiece_rule=True)
    assert bert.decode(ids) == "dogs zebrafishs a"


@pytest.mark.parametrize("text", ["[MASK]", "a [SEP] dog", "[CLS]"])
def test_a_text_cannot_contain_special_tokens(bert: Tokenizer, text: str) -> None:
    for tokenizer in (bert, pickle.loads(pickle.dumps(bert))):
        assert not {bert.mask_id, bert.sep_id, bert.cls_id} & set(tokenizer.encode(text, 40)[1:])


def test_file_padding_and_truncation_are_turned_off(bert: Tokenizer, tmp_path: Path) -> None:
    bert.save(tmp_path / "new")
    core = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    core.enable_padding(length=16)
    core.enable_truncation(2)
    core.save(str(tmp_path / "new" / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path / "new").encode("a red dogs", 40) == [2, 5, 6, 7, 8]


def test_saving_and_pickling_keep_the_tokenizer(roberta: Tokenizer, bert: Tokenizer, tmp_path: Path) -> None:
    for name, tokenizer in (("bert", bert), ("roberta", roberta)):
        tokenizer.save(tmp_path / name)
        ids = tokenizer.encode("a dogs adog [MASK] <mask>", 40)
        for copy in (Tokenizer.from_folder(tmp_path / name), pickle.loads(pickle.dumps(tokenizer))):
            assert copy.encode("a dogs adog [MASK] <mask>", 40) == ids
            assert copy.word_starts(ids) == tokenizer.word_starts(ids)
            assert (copy.vocab_size, copy.mask_id) == (tokenizer.vocab_size, tokenizer.mask_id)


def test_missing_special_token_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(token for token in BERT if token != "[MASK]"))
    with pytest.raises(ValueError, match=r"no mask token; expected \[MASK\] or <mask>"):
        Tokenizer.from_folder(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt"):
        Tokenizer.from_folder(tmp_path)


def test_unknown_models_are_refused() -> None:
    names = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "a</w>"]
    vocab = {name: i for i, name in enumerate(names)}
    clip_like = models.BPE(vocab, [], end_of_word_suffix="</w>")
    for model in (models.WordLevel(vocab, unk_token="<unk>"), clip_like):
        with pytest.raises(ValueError, match="word boundaries are unknown"):
            Tokenizer(tokenizers.Tokenizer(model))


def test_trained_vocabulary_encodes_its_texts() -> None:
    tokenizer = Tokenizer.train_wordpiece(iter(TEXTS), 80)
    for text in TEXTS:
        ids = tokenizer.encode(text, 60)
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size <= 80
    assert not all(tokenizer.word_starts(tokenizer.encode("zebras", 60)))


def test_training_is_the_same_in_every_process() -> None:
    code = (
        "from xvlm.data.text.tokenizer import Tokenizer\n"
        f"print(Tokenizer.train_wordpiece({TEXTS!r}, 80).__getstate__())"
    )
    expected = Tokenizer.train_wordpiece(TEXTS, 80).__getstate__()
    for _ in range(2):
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert process.stdout.strip() == expected
