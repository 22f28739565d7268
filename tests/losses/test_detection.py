"""Losses of detection: values of plain loops, and finite gradients without targets or without texts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xvlm.losses.detection import centre_cells, centre_heat, objectness_loss, presence_loss

side = st.floats(0.02, 1)
boxes = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), side, side), max_size=6)
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(boxes, GRIDS, st.randoms(use_true_random=False))
def test_heat_of_a_plain_loop(drawn: list[tuple[float, ...]], grid_hw: tuple[int, int], rng: object) -> None:
    height, width = grid_hw
    box_X4 = torch.tensor(drawn, dtype=torch.float64).view(-1, 4)
    row_X = torch.arange(len(drawn)) % 3
    heat = centre_heat(box_X4, row_X, 3, grid_hw).view(3, height, width)
    cells = centre_cells(box_X4, grid_hw).tolist()
    for row in range(3):
        for y in range(height):
            for x in range(width):
                values = [0.0]
                for place, (_, _, w, h) in enumerate(drawn):
                    if place % 3 == row:
                        cy, cx = divmod(cells[place], width)
                        far = ((x - cx) / max(w * width / 6, 0.01)) ** 2
                        far += ((y - cy) / max(h * height / 6, 0.01)) ** 2
                        values.append(math.exp(-far / 2))
                assert float(heat[row, y, x]) == pytest.approx(max(values), abs=1e-9)
    for place, (cx, cy, _, _) in enumerate(drawn):
        y, x = divmod(cells[place], width)
        assert 0 <= x < width and 0 <= y < height
        assert x <= cx * width <= x + 1 and y <= cy * height <= y + 1
        assert heat[place % 3, y, x] == 1


def test_objectness_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 12, dtype=torch.float64)
    box_X4 = torch.tensor([[0.2, 0.3, 0.4, 0.5], [0.9, 0.9, 0.1, 0.2]], dtype=torch.float64)
    heat = centre_heat(box_X4, torch.tensor([0, 2]), 3, (3, 4))
    total = 0.0
    for logit, target in zip(logits.flatten().tolist(), heat.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        if target == 1:
            total -= (1 - p) ** 2 * math.log(p)
        else:
            total -= (1 - target) ** 4 * p**2 * math.log(1 - p)
    assert objectness_loss(logits, heat, 2).item() == pytest.approx(total / 2)


def test_objectness_falls_towards_the_target() -> None:
    """Right logits cost less than wrong ones: a sign that is turned around would not be noticed above."""
    heat = centre_heat(torch.tensor([[0.5, 0.5, 0.3, 0.3]]), torch.tensor([0]), 1, (5, 5))
    right = torch.where(heat == 1, 6.0, -6.0)
    assert objectness_loss(right, heat, 1) < 0.01 < 1 < objectness_loss(-right, heat, 1)


@pytest.mark.parametrize("present", [0, 1, 4])
def test_presence_gives_both_kinds_one_half(present: int) -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    is_present = torch.arange(4) < present
    groups: list[list[float]] = [[], []]
    for logit, true in zip(logits.tolist(), is_present.tolist(), strict=True):
        groups[true].append(math.log1p(math.exp(-logit if true else logit)))
    expected = sum(sum(group) / len(group) for group in groups if group) / 2
    loss = presence_loss(logits, is_present)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_nothing_to_find_costs_nothing_of_places() -> None:
    """No text at all, and texts that are all absent: the losses are finite, and so are the gradients."""
    none = torch.zeros(0, 6, requires_grad=True)
    empty = torch.zeros(0, 4)
    heat = centre_heat(empty, torch.zeros(0, dtype=torch.int64), 0, (2, 3))
    assert objectness_loss(none, heat, 0) == 0 and presence_loss(none[:, 0], torch.zeros(0).bool()) == 0
    logits = torch.zeros(2, 6, requires_grad=True)
    heat = centre_heat(empty, torch.zeros(0, dtype=torch.int64), 2, (2, 3))
    objectness_loss(logits, heat, 0).backward()
    assert logits.grad is not None and (logits.grad > 0).all()
