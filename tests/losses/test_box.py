"""Box losses: values, bounds, and finite gradients for any boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xvlm.boxes import cxcywh_to_xyxy
from xvlm.losses.box import box_losses

edges = st.floats(0, 1, width=32)
boxes = st.lists(st.tuples(edges, edges, edges, edges), min_size=0, max_size=6)


def tensor(rows: list[tuple[float, ...]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).view(-1, 4)


def plain_giou(a: list[float], b: list[float]) -> float:
    """Compute the GIoU of two xyxy boxes with plain numbers."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)

    inter = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - inter
    hull = area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    return (inter / union if union else 0.0) - ((hull - union) / hull if hull else 0.0)


@given(st.data())
def test_values_equal_a_plain_loop(data: st.DataObject) -> None:
    predicted = tensor(data.draw(boxes))
    target = tensor(
        data.draw(st.lists(st.tuples(*[edges] * 4), min_size=len(predicted), max_size=len(predicted)))
    )
    l1, giou = box_losses(predicted, target)
    count = max(1, len(predicted))
    assert l1.item() == pytest.approx(sum((predicted - target).abs().flatten().tolist()) / count)
    giou_losses = [
        1 - plain_giou(a, b)
        for a, b in zip(cxcywh_to_xyxy(predicted).tolist(), cxcywh_to_xyxy(target).tolist(), strict=True)
    ]
    assert giou.item() == pytest.approx(sum(giou_losses) / count, abs=1e-9)
    assert 0 <= l1.item() <= 4 and 0 <= giou.item() <= 2


@given(st.data())
def test_gradients_are_finite(data: st.DataObject) -> None:
    """Boxes include points, lines, equal boxes, boxes that touch, and no boxes."""
    values = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    rows = st.lists(st.tuples(*[values] * 8), max_size=5)
    both = torch.tensor(data.draw(rows), dtype=torch.float32).view(-1, 8)
    predicted = both[:, :4].clone().requires_grad_()
    l1, giou = box_losses(predicted, both[:, 4:])
    (l1 + giou).backward()
    assert predicted.grad is not None and predicted.grad.isfinite().all()


def test_a_perfect_box_has_loss_zero_and_a_distant_one_almost_two() -> None:
    box = tensor([(0.5, 0.5, 0.2, 0.4)])
    assert [loss.item() for loss in box_losses(box, box)] == pytest.approx([0, 0], abs=1e-12)
    tiny = tensor([(0.01, 0.01, 0.01, 0.01)]), tensor([(0.99, 0.99, 0.01, 0.01)])
    assert box_losses(*tiny)[1].item() > 1.99


def test_faithful_one_degenerate_box_switches_giou_off() -> None:
    """A box of negative width is degenerate; one of zero width is not (published)."""
    valid, line, inverted = (0.5, 0.5, 0.2, 0.2), (0.5, 0.5, 0.0, 0.2), (0.5, 0.5, -0.1, 0.2)
    target = tensor([valid, valid])
    moved = (0.4, 0.5, 0.2, 0.2)
    for other, off in ((moved, False), (line, False), (inverted, True)):
        predicted = tensor([moved, other])
        l1, giou = box_losses(predicted, target, faithful=True)
        default = box_losses(predicted, target)
        assert l1 == default[0]
        assert giou.item() == (0.0 if off else pytest.approx(default[1].item()))
        assert default[1] > 0
