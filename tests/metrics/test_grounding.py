"""Accuracy at IoU 0.5 and mean IoU, plainly and by inclusive pixels; each split apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.published import golden
from xvlm.boxes import xywh_to_xyxy
from xvlm.metrics.grounding import accuracy, grounding_metrics, overlaps


def test_counts_what_overlaps_by_half() -> None:
    true = torch.tensor([[0.0, 0, 10, 10]]).expand(4, 4)
    predicted = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [20, 20, 30, 30]])
    found = grounding_metrics(*overlaps(predicted, true))
    assert found["grounding_acc50"] == 0.5  # exactly one half counts
    assert found["grounding_miou"] == pytest.approx((1 + 0.5 + 0.49 + 0) / 4)
    assert found["grounding_cases"] == 4


def pixel_counts(a_xyxy: list[int], b_xyxy: list[int], side: int) -> tuple[float, float]:
    """(plain, inclusive) IoU by painting both boxes on a grid and counting pixels."""
    painted = []
    for x0, y0, x1, y1 in (a_xyxy, b_xyxy):
        grid = np.zeros((side, side), bool)
        grid[y0:y1, x0:x1] = True
        painted.append(grid)
    both, either = painted[0] & painted[1], painted[0] | painted[1]
    plain = both.sum() / either.sum()
    # RefCOCO's tool compares inclusive corners with `<`: a strip of one pixel is no overlap, and then the
    # union is the sum of both areas
    if both.any(0).sum() > 1 and both.any(1).sum() > 1:
        return plain, plain
    return plain, 0.0


def random_boxes(rng: np.random.Generator, count: int, side: int) -> Tensor:
    corners = np.sort(rng.integers(0, side, (count, 2, 2)), axis=1)
    corners[:, 1] += 1  # at least a pixel
    return torch.tensor(corners.reshape(count, 4))


def test_overlaps_are_counts_of_pixels() -> None:
    """500 pairs of whole-pixel boxes, large and small, half of them near each other."""
    rng, side = np.random.default_rng(0), 24
    a = random_boxes(rng, 500, side - 4)
    b = random_boxes(rng, 500, side - 4)
    b[250:] = a[250:] + torch.tensor(rng.integers(0, 4, (250, 1)))
    plain, inclusive = overlaps(a, b)
    expected = [pixel_counts(one, two, side) for one, two in zip(a.tolist(), b.tolist(), strict=True)]
    assert plain.tolist() == pytest.approx([one for one, _ in expected], abs=1e-12)
    assert inclusive.tolist() == pytest.approx([one for _, one in expected], abs=1e-12)
    differ = [one != two for one, two in expected]
    assert 5 < sum(differ) < 100 and 50 < sum(one > 0.5 for one, _ in expected) < 450


def test_overlaps_agree_with_the_published_tool() -> None:
    for case in golden("text_and_boxes.json", "refcoco_iou_inclusive_pixels"):
        a, b = (
            xywh_to_xyxy(torch.tensor([case[name]], dtype=torch.float64)) for name in ("a_xywh", "b_xywh")
        )
        assert overlaps(a, b)[1].item() == pytest.approx(case["iou"], abs=1e-9), case


def test_the_two_ways_to_count_differ_where_one_pixel_overlaps() -> None:
    predicted, true = torch.tensor([[0.0, 0, 1, 9]]), torch.tensor([[0.0, 0, 1, 9]])
    found = grounding_metrics(*overlaps(predicted, true))
    assert found["grounding_acc50"] == 1 and found["grounding_acc50_inclusive"] == 0


def test_splits_stand_apart() -> None:
    iou_N = torch.tensor([0.9, 0.1, 0.5, 0.2])
    found = accuracy("acc", iou_N, ["testA", "testA", "val", ""])
    assert found == {"acc": 0.5, "acc_testA": 0.5, "acc_val": 1.0}
    assert set(grounding_metrics(iou_N, iou_N)) == {
        *("grounding_acc50", "grounding_acc50_inclusive", "grounding_miou", "grounding_cases")
    }


def test_boxes_that_are_not_numbers_are_wrong() -> None:
    nowhere = torch.full((2, 4), torch.nan)
    found = grounding_metrics(*overlaps(nowhere, torch.tensor([[0.0, 0, 1, 1]] * 2)))
    assert found["grounding_acc50"] == found["grounding_acc50_inclusive"] == found["grounding_miou"] == 0
    assert overlaps(torch.zeros(1, 4), torch.zeros(1, 4)) == (torch.zeros(1), torch.zeros(1))


def test_no_case_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no case"):
        grounding_metrics(torch.zeros(0), torch.zeros(0))
