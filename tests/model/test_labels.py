"""The head that tells labels: their names belong to the model, and only the same names keep its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_config, tiny_loaded, tiny_model
from xvlm.model.adapt import adapted
from xvlm.model.folder import Loaded, load_model, save_model
from xvlm.model.xvlm import XVLM, ModelConfig, build_model

LABELS = ("no", "perhaps", "yes")


def config_of(labels: tuple[str, ...]) -> ModelConfig:
    return replace(tiny_config("cnn"), parts=("labels",), labels=labels)


def head(model: XVLM) -> list[torch.Tensor]:
    return list(model.labels.parameters())


def test_names_are_kept_with_the_model(tmp_path: Path) -> None:
    tokenizer = tiny_loaded().tokenizer
    model = build_model(replace(config_of(LABELS), text=tiny_config(vocab_size=tokenizer.vocab_size).text))
    save_model(Loaded(model, tokenizer), tmp_path / "model")
    again = load_model(tmp_path / "model").model
    assert again.labels.names == again.config.labels == LABELS


@pytest.mark.parametrize("labels", [(), ("yes",), ("yes", "no", "yes")])
def test_labels_that_cannot_be_told_apart_are_an_error(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="it must name at least two, each once"):
        build_model(config_of(labels))


def test_a_pretrained_model_gives_everything_but_the_head() -> None:
    model, given = adapted(tiny_model(), config_of(LABELS))
    names = {name for name, _ in model.named_parameters()}
    assert given == {name for name in names if not name.startswith("labels.")} < names


@pytest.mark.parametrize("labels", [LABELS[::-1], LABELS[:2]])
def test_a_head_for_other_labels_begins_anew(labels: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    before = build_model(config_of(LABELS))
    same, given = adapted(before, config_of(LABELS))
    assert all(map(torch.equal, head(same), head(before))) and "labels.0.weight" in given
    other, given = adapted(before, config_of(labels))
    assert not any(name.startswith("labels.") for name in given)
    assert not torch.equal(head(other)[0], head(before)[0])


def test_logits_are_never_of_half_precision() -> None:
    found = build_model(config_of(LABELS)).labels(torch.randn(4, 32, dtype=torch.bfloat16))
    assert found.shape == (4, 3) and found.dtype == torch.float32
