"""Heads: formulas of the pointing and language heads, and the class names of the classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import tiny_config, tiny_loaded, tiny_model
from xvlm.models.checkpoints.adapt import adapt_model
from xvlm.models.checkpoints.folder import ModelBundle, load_model, save_model
from xvlm.models.heads import LanguageHead, PointingBoxHead
from xvlm.models.xvlm import XVLM, ModelConfig, build_model

LABELS = ("no", "perhaps", "yes")


def config_of(labels: tuple[str, ...]) -> ModelConfig:
    return replace(tiny_config("cnn"), heads=("classifier",), labels=labels)


def head(model: XVLM) -> list[torch.Tensor]:
    return list(model.classifier.parameters())


def test_class_names_are_saved_with_the_model(tmp_path: Path) -> None:
    tokenizer = tiny_loaded().tokenizer
    model = build_model(replace(config_of(LABELS), text=tiny_config(vocab_size=tokenizer.vocab_size).text))
    save_model(ModelBundle(model, tokenizer), tmp_path / "model")
    again = load_model(tmp_path / "model").model
    assert again.classifier.names == again.config.labels == LABELS


@pytest.mark.parametrize("labels", [(), ("yes",), ("yes", "no", "yes")])
def test_ambiguous_class_names_are_an_error(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="it must name at least two, each once"):
        build_model(config_of(labels))


def test_a_pretrained_model_initializes_everything_but_the_classifier() -> None:
    model, pretrained = adapt_model(tiny_model(), config_of(LABELS))
    names = {name for name, _ in model.named_parameters()}
    assert pretrained == {name for name in names if not name.startswith("classifier.")} < names


@pytest.mark.parametrize("labels", [LABELS[::-1], LABELS[:2]])
def test_a_classifier_for_other_labels_is_new(labels: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    before = build_model(config_of(LABELS))
    same, pretrained = adapt_model(before, config_of(LABELS))
    assert all(map(torch.equal, head(same), head(before))) and "classifier.0.weight" in pretrained
    other, pretrained = adapt_model(before, config_of(labels))
    assert not any(name.startswith("classifier.") for name in pretrained)
    assert not torch.equal(head(other)[0], head(before)[0])


def test_the_pointing_head_equals_a_loop_over_patches() -> None:
    head = PointingBoxHead(6, 5, key_width=4).double()
    cls_RD = torch.randn(2, 6, dtype=torch.float64)
    patches_RPD = torch.randn(2, 12, 5, dtype=torch.float64)
    logits_R4 = head.logits(cls_RD, patches_RPD, (3, 4))
    for cls_D, patches_PD, logits_4 in zip(cls_RD, patches_RPD, logits_R4, strict=True):
        scores = [(head.key(patch_D) @ head.query(cls_D)) / 4**0.5 for patch_D in patches_PD]
        weight_P = torch.stack(scores).softmax(0)
        centres = [((p % 4 + 0.5) / 4, (p // 4 + 0.5) / 3) for p in range(12)]
        guess_2 = (weight_P[:, None] * torch.tensor(centres, dtype=torch.float64)).sum(0)
        guess_4 = torch.cat(((guess_2 / (1 - guess_2)).log(), torch.zeros(2)))
        correction_4 = head.read(cls_D + head.value((weight_P[:, None] * patches_PD).sum(0)))
        torch.testing.assert_close(logits_4, guess_4 + correction_4)


def test_the_language_head_shares_the_token_embeddings() -> None:
    head = LanguageHead(6, 9, 1e-12)
    torch.nn.init.normal_(head.bias)
    x_MD, token_VD = torch.randn(4, 6), torch.randn(9, 6)
    expected_MV = head.norm(F.gelu(head.transform(x_MD))) @ token_VD.T + head.bias
    torch.testing.assert_close(head(x_MD, token_VD), expected_MV)


def test_logits_are_in_full_precision() -> None:
    logits = build_model(config_of(LABELS)).classifier(torch.randn(4, 32, dtype=torch.bfloat16))
    assert logits.shape == (4, 3) and logits.dtype == torch.float32
