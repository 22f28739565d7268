"""A tokenizer must belong to the table of token embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.contracts import toys
from tests.models.test_weights import bert_tensors, write_bert
from tests.tiny import tiny_loaded, tiny_tokenizer
from xvlm.common.errors import InputError
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.models.checkpoints.average import average
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.checkpoints.vocabulary import KNOWN, check_vocabulary
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks import pretrain
from xvlm.tasks.common.init import InitConfig

BERT = KNOWN[0]


def bert_vocabulary(folder: Path, **moved: int) -> Tokenizer:
    """Return a tokenizer of bert-base-uncased's size, with its known tokens at their ids or `moved`."""
    tokens = [f"token{number}" for number in range(BERT.size)]
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    for role, id_ in (BERT.special | BERT.words | moved).items():
        tokens[id_] = names.get(role, role)
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens))
    return Tokenizer.from_folder(folder)


def test_a_tokenizer_of_the_size_of_the_table_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer()
    check_vocabulary(tokenizer, tokenizer.vocab_size, "the checkpoint")
    assert capsys.readouterr().err == ""


def test_a_smaller_tokenizer_is_a_warning_with_both_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer()
    check_vocabulary(tokenizer, tokenizer.vocab_size + 7, "the checkpoint")
    warning = capsys.readouterr().err
    assert f"{tokenizer.vocab_size} tokens" in warning and f"{tokenizer.vocab_size + 7}:" in warning


def test_a_larger_tokenizer_is_an_error() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(InputError, match=f"{tokenizer.vocab_size} tokens, the embeddings of x 20"):
        check_vocabulary(tokenizer, 20, "x")


def test_a_known_size_requires_the_known_vocabulary(tmp_path: Path) -> None:
    """Another vocabulary of the same size has other ids."""
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
def test_a_bert_with_the_vocabulary_of_another(
    tokens: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its table has 40 rows, so training does not start with 41 tokens."""
    folder = write_bert(tmp_path / "bert", bert_tensors())
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"word{number}" for number in range(tokens - len(special))]
    (folder / "vocab.txt").write_text("\n".join(special + words))
    run = toys.pretrain()
    model = replace(run.model, text=TextConfig(text_layers=2, cross_layers=1))
    run = replace(run, init=InitConfig(text=str(folder)), model=model)
    run = replace(run, data=replace(run.data, max_tokens=30))
    if tokens > 40:
        with pytest.raises(InputError, match=r"41 tokens, the embeddings of .*bert 40"):
            pretrain.build(run, tmp_path / "out")
    else:
        pretrain.build(run, tmp_path / "out")
        assert "39 tokens" in capsys.readouterr().err


def test_a_model_folder_with_the_tokenizer_of_another(tmp_path: Path) -> None:
    """Neither training nor averaging starts from it."""
    loaded = tiny_loaded()
    save_model(loaded, tmp_path / "model")
    words = [f"{letter}{other}" for letter in "abcdefghijkl" for other in "mnopqrstuvwxyz"]
    foreign = Tokenizer.train_wordpiece([" ".join(words)] * 3, 400)
    assert foreign.vocab_size > loaded.tokenizer.vocab_size
    foreign.save(tmp_path / "model")
    run = replace(toys.pretrain(), init=InitConfig(model=str(tmp_path / "model")), model=ModelConfig())
    with pytest.raises(InputError, match="another model's"):
        pretrain.build(run, tmp_path / "out")
    with pytest.raises(InputError, match="another model's"):
        average([tmp_path / "model", tmp_path / "model"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
