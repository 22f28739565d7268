"""Accuracy at IoU 0.5 and mean IoU, by plain IoU and by inclusive pixels, in total and for each split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.published import golden
from xvlm.metrics.grounding import accuracy, grounding_metrics, overlaps


def test_accuracy_counts_boxes_that_overlap_by_half() -> None:
    true = torch.tensor([[0.0, 0, 10, 10]]).expand(4, 4)
    predicted = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [20, 20, 30, 30]])
    metrics = grounding_metrics(*overlaps(predicted, true))
    assert metrics["grounding_acc50"] == 0.5  # an IoU of exactly 0.5 is correct
    assert metrics["grounding_miou"] == pytest.approx((1 + 0.5 + 0.49 + 0) / 4)
    assert metrics["grounding_cases"] == 4


def pixel_counts(a_xyxy: list[int], b_xyxy: list[int], side: int) -> tuple[float, float]:
    """Return the plain and the inclusive IoU, by painting both boxes on a grid and counting pixels."""
    painted = []
    for x0, y0, x1, y1 in (a_xyxy, b_xyxy):
        grid = np.zeros((side, side), bool)
        grid[y0:y1, x0:x1] = True
        painted.append(grid)
    both, either = painted[0] & painted[1], painted[0] | painted[1]
    plain = both.sum() / either.sum()
    # RefCOCO's tool compares inclusive corners with `<`: a strip of one pixel is no overlap, and then the
    # union is the sum of both areas.
    if both.any(0).sum() > 1 and both.any(1).sum() > 1:
        return plain, plain
    return plain, 0.0


def random_boxes(rng: np.random.Generator, count: int, side: int) -> Tensor:
    corners = np.sort(rng.integers(0, side, (count, 2, 2)), axis=1)
    corners[:, 1] += 1  # at least one pixel wide and high
    return torch.tensor(corners.reshape(count, 4))


def test_overlaps_are_counts_of_pixels() -> None:
    """Compare 500 pairs of whole-pixel boxes, half of them near each other."""
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
        a, b = (torch.tensor([case[name]], dtype=torch.float64) for name in ("a_xywh", "b_xywh"))
        a, b = (torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), dim=1) for xywh in (a, b))
        assert overlaps(a, b)[1].item() == pytest.approx(case["iou"], abs=1e-9), case


def test_the_two_ious_differ_for_an_overlap_one_pixel_wide() -> None:
    predicted, true = torch.tensor([[0.0, 0, 1, 9]]), torch.tensor([[0.0, 0, 1, 9]])
    metrics = grounding_metrics(*overlaps(predicted, true))
    assert metrics["grounding_acc50"] == 1 and metrics["grounding_acc50_inclusive"] == 0


def test_each_split_has_its_accuracy() -> None:
    iou_N = torch.tensor([0.9, 0.1, 0.5, 0.2])
    metrics = accuracy("acc", iou_N, ["testA", "testA", "val", ""])
    assert metrics == {"acc": 0.5, "acc_testA": 0.5, "acc_val": 1.0}
    assert set(grounding_metrics(iou_N, iou_N)) == {
        *("grounding_acc50", "grounding_acc50_inclusive", "grounding_miou", "grounding_cases")
    }


def test_nan_boxes_are_wrong() -> None:
    nan_N4 = torch.full((2, 4), torch.nan)
    metrics = grounding_metrics(*overlaps(nan_N4, torch.tensor([[0.0, 0, 1, 1]] * 2)))
    names = ("grounding_acc50", "grounding_acc50_inclusive", "grounding_miou")
    assert [metrics[name] for name in names] == [0, 0, 0]
    assert overlaps(torch.zeros(1, 4), torch.zeros(1, 4)) == (torch.zeros(1), torch.zeros(1))


def test_no_phrase_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="there is no phrase"):
        grounding_metrics(torch.zeros(0), torch.zeros(0))
