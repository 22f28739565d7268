"""Matching and masked-language losses are plain means of cross-entropies."""

from __future__ import annotations

import math

import pytest
import torch

from xvlm.losses.contrastive import all_pairs_loss
from xvlm.losses.language import masked_language_loss
from xvlm.losses.matching import matching_loss


def test_matching_loss_is_the_mean_of_all_rows() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-3.0, 1.0]], dtype=torch.float64)
    is_match = torch.tensor([True, False, True])
    expected = 0.0
    for (no, yes), match in zip(logits.tolist(), is_match.tolist(), strict=True):
        expected += math.log(math.exp(no) + math.exp(yes)) - (yes if match else no)
    assert matching_loss(logits, is_match).item() == pytest.approx(expected / 3)


def test_all_pairs_loss_finds_texts_of_images_and_images_of_texts() -> None:
    torch.manual_seed(0)
    log_odds = torch.randn(4, 4, dtype=torch.float64)
    positive = torch.eye(4, dtype=torch.bool)
    positive[0, 2] = positive[2, 0] = True
    expected = 0.0
    for table, true in ((log_odds, positive), (log_odds.T, positive.T)):
        for row, labels in zip(table.tolist(), true.tolist(), strict=True):
            total = sum(map(math.exp, row))
            chosen = [score for score, label in zip(row, labels, strict=True) if label]
            expected -= sum(math.log(math.exp(score) / total) for score in chosen) / len(chosen)
    assert all_pairs_loss(log_odds, positive).item() == pytest.approx(expected / 8)


def test_masked_language_loss_is_the_mean_of_masked_tokens() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0]], dtype=torch.float64)
    expected = sum(
        math.log(sum(map(math.exp, row))) - row[target]
        for row, target in zip(logits.tolist(), [1, 0], strict=True)
    )
    assert masked_language_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(expected / 2)


def test_losses_of_zero_rows_are_zero_with_a_gradient() -> None:
    """A rank may have no masked token or no row to match; its parameters must still receive a gradient."""
    logits = torch.zeros(0, 3, requires_grad=True)
    for loss in (
        masked_language_loss(logits, torch.zeros(0, dtype=torch.int64)),
        matching_loss(logits[:, :2], torch.zeros(0, dtype=torch.bool)),
        all_pairs_loss(logits[:, :0], torch.zeros(0, 0, dtype=torch.bool)),
    ):
        assert loss.item() == 0
        loss.backward()
        assert logits.grad is not None


def test_masked_language_loss_of_half_precision_is_float32() -> None:
    logits = torch.randn(3, 5, dtype=torch.bfloat16)
    assert masked_language_loss(logits, torch.tensor([0, 1, 2])).dtype == torch.float32
