"""A tokenizer is compared with the embeddings that it is to number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.contracts import toys
from tests.model.test_weights import bert_tensors, write_bert
from tests.tiny import tiny_loaded, tiny_tokenizer
from xvlm.average import average
from xvlm.data.text import Tokenizer
from xvlm.errors import InputError
from xvlm.model.folder import save_model
from xvlm.model.vocabulary import KNOWN, check_vocabulary
from xvlm.tasks import pretrain
from xvlm.tasks._build import Init

BERT = KNOWN[0]


def bert_vocabulary(folder: Path, **moved: int) -> Tokenizer:
    """As many tokens as bert-base-uncased has, with some of its own in their places, or in others."""
    tokens = [f"token{number}" for number in range(BERT.size)]
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    for role, place in (BERT.special | BERT.words | moved).items():
        tokens[place] = names.get(role, role)
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens))
    return Tokenizer.from_folder(folder)


def test_as_many_tokens_as_embeddings_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer()
    check_vocabulary(tokenizer, tokenizer.vocab_size, "the checkpoint")
    assert capsys.readouterr().err == ""


def test_a_smaller_one_is_a_warning_with_both_counts(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer()
    check_vocabulary(tokenizer, tokenizer.vocab_size + 7, "the checkpoint")
    said = capsys.readouterr().err
    assert f"{tokenizer.vocab_size} tokens" in said and f"{tokenizer.vocab_size + 7}:" in said


def test_a_larger_one_is_an_error() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(InputError, match=f"{tokenizer.vocab_size} tokens, the embeddings of x 20"):
        check_vocabulary(tokenizer, 20, "x")


def test_a_known_size_asks_for_the_known_vocabulary(tmp_path: Path) -> None:
    """Another one of the same size numbers other words."""
    check_vocabulary(bert_vocabulary(tmp_path), 30522, "x")
    check_vocabulary(bert_vocabulary(tmp_path), 30592, "x")  # padded to a multiple of 64
    with pytest.raises(InputError, match=r"'the' is token 1996; in the tokenizer it is 5000"):
        check_vocabulary(bert_vocabulary(tmp_path / "other", the=5000), 30522, "x")
    with pytest.raises(InputError, match=r"'sep' is token 102; in the tokenizer it is 7"):
        check_vocabulary(bert_vocabulary(tmp_path / "chinese", sep=7), 30522, "x")
    with pytest.raises(InputError, match=r"bert-base-uncased \(30522 tokens\); the tokenizer has"):
        check_vocabulary(tiny_tokenizer(), 30522, "x")
    with pytest.raises(InputError, match="roberta-base"):
        check_vocabulary(tiny_tokenizer(), 50265, "x")


@pytest.mark.parametrize("tokens", [39, 41])
def test_a_bert_with_anothers_vocabulary(
    tokens: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before training: its table has 40 rows."""
    folder = write_bert(tmp_path / "bert", bert_tensors())
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"word{number}" for number in range(tokens - len(special))]
    (folder / "vocab.txt").write_text("\n".join(special + words))
    run = toys.pretrain()
    text = replace(run.model.text, text_layers=2, cross_layers=1)
    run = replace(run, init=Init(text=str(folder)), model=replace(run.model, text=text))
    run = replace(run, data=replace(run.data, max_tokens=30))
    if tokens > 40:
        with pytest.raises(InputError, match=r"41 tokens, the embeddings of .*bert 40"):
            pretrain.build(run, tmp_path / "out")
    else:
        pretrain.build(run, tmp_path / "out")
        assert "39 tokens" in capsys.readouterr().err


def test_a_model_folder_with_anothers_tokenizer(tmp_path: Path) -> None:
    """Neither training nor averaging goes on from it."""
    loaded = tiny_loaded()
    save_model(loaded, tmp_path / "model")
    words = [f"{letter}{other}" for letter in "abcdefghijkl" for other in "mnopqrstuvwxyz"]
    foreign = Tokenizer.train_wordpiece([" ".join(words)] * 3, 400)
    assert foreign.vocab_size > loaded.tokenizer.vocab_size
    foreign.save(tmp_path / "model")
    run = replace(toys.pretrain(), init=Init(model=str(tmp_path / "model")))
    with pytest.raises(InputError, match="another model's"):
        pretrain.build(run, tmp_path / "out")
    with pytest.raises(InputError, match="another model's"):
        average([tmp_path / "model", tmp_path / "model"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
