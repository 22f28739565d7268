"""Accuracy at IoU 0.5 and mean IoU."""

from __future__ import annotations

import pytest
import torch

from xvlm.metrics.grounding import grounding_metrics


def test_counts_what_overlaps_by_half() -> None:
    true = torch.tensor([[0.0, 0, 10, 10]]).expand(4, 4)
    predicted = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [20, 20, 30, 30]])
    found = grounding_metrics(predicted, true)
    assert found["grounding_acc50"] == 0.5  # exactly one half counts
    assert found["grounding_miou"] == pytest.approx((1 + 0.5 + 0.49 + 0) / 4)
    assert found["grounding_cases"] == 4


def test_boxes_that_are_not_numbers_are_wrong() -> None:
    found = grounding_metrics(torch.full((2, 4), torch.nan), torch.tensor([[0.0, 0, 1, 1]] * 2))
    assert found["grounding_acc50"] == 0


def test_no_case_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no case"):
        grounding_metrics(torch.zeros(0, 4), torch.zeros(0, 4))
