"""Boxes: properties that hold for every box, and known values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xvlm import boxes

coordinate = st.integers(0, 64).map(lambda value: value / 64)  # exact in float32 and often equal
corners = st.tuples(coordinate, coordinate, coordinate, coordinate)


@st.composite
def box(draw: st.DrawFn, smallest: float = 1 / 64) -> Tensor:
    """Generate a (4,) xyxy box in [0, 1] with sides of at least `smallest`."""
    x0, y0 = draw(st.floats(0, 1 - smallest)), draw(st.floats(0, 1 - smallest))
    x1, y1 = draw(st.floats(x0 + smallest, 1)), draw(st.floats(y0 + smallest, 1))
    return torch.tensor([x0, y0, x1, y1], dtype=torch.float64)


# formats ----------------------------------------------------------------------------------------------


def test_formats_of_a_known_box() -> None:
    xyxy = torch.tensor([[10.0, 20.0, 40.0, 60.0]])
    assert boxes.xyxy_to_cxcywh(xyxy).tolist() == [[25, 40, 30, 40]]
    assert boxes.cxcywh_to_xyxy(torch.tensor([[25.0, 40.0, 30.0, 40.0]])).tolist() == xyxy.tolist()
    assert boxes.xyxy_to_xywh(xyxy).tolist() == [[10, 20, 30, 40]]


@given(box())
def test_formats_round_trip(a: Tensor) -> None:
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(a)), a)


def test_formats_keep_leading_axes() -> None:
    many = torch.rand(2, 3, 4)
    for change in (boxes.cxcywh_to_xyxy, boxes.xyxy_to_cxcywh, boxes.xyxy_to_xywh):
        assert change(many).shape == many.shape
    assert boxes.area(many).shape == (2, 3)


# overlap ----------------------------------------------------------------------------------------------


@given(corners)
def test_area_is_never_negative(a: tuple[float, ...]) -> None:
    x0, y0, x1, y1 = a
    assert boxes.area(torch.tensor(a)).item() == max(x1 - x0, 0) * max(y1 - y0, 0)


def test_iou_of_known_boxes() -> None:
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 1.0], [2.0, 0.0, 4.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    overlap, union = boxes.iou_and_union(a, b)
    torch.testing.assert_close(overlap, torch.tensor([1 / 7, 1 / 2, 0, 0]))
    torch.testing.assert_close(union, torch.tensor([7.0, 4.0, 8.0, 5.0]))
    # hulls: 9, 4, 8, 36
    expected = torch.tensor([1 / 7 - 2 / 9, 1 / 2, 0, -31 / 36])
    torch.testing.assert_close(boxes.generalized_iou(a, b), expected)


@given(box(), box())
def test_overlap_is_symmetric_and_bounded(a: Tensor, b: Tensor) -> None:
    overlap, giou = boxes.iou(a, b).item(), boxes.generalized_iou(a, b).item()
    assert overlap == pytest.approx(boxes.iou(b, a).item(), abs=1e-12)
    assert giou == pytest.approx(boxes.generalized_iou(b, a).item(), abs=1e-12)
    assert 0 <= overlap <= 1 + 1e-12
    assert -1 < giou <= overlap + 1e-12


@given(box())
def test_a_box_overlaps_itself_fully(a: Tensor) -> None:
    assert boxes.iou(a, a).item() == pytest.approx(1)
    assert boxes.generalized_iou(a, a).item() == pytest.approx(1)


@given(box(), box(), st.floats(0.5, 500), st.floats(-50, 50))
def test_overlap_does_not_depend_on_unit_or_origin(a: Tensor, b: Tensor, scale: float, shift: float) -> None:
    for measure in (boxes.iou, boxes.generalized_iou):
        moved = measure(a * scale + shift, b * scale + shift).item()
        assert moved == pytest.approx(measure(a, b).item(), abs=1e-9)


@given(corners, corners)
def test_degenerate_boxes_give_finite_values_and_gradients(
    a: tuple[float, ...], b: tuple[float, ...]
) -> None:
    first = torch.tensor(a, requires_grad=True)
    value = boxes.generalized_iou(first, torch.tensor(b))
    value.backward()
    assert math.isfinite(value.item())
    assert first.grad is not None and first.grad.isfinite().all()
    assert -1 <= value.item() <= 1


def test_giou_has_a_gradient_where_nothing_overlaps() -> None:
    far = torch.tensor([0.0, 0.0, 0.1, 0.1], requires_grad=True)
    boxes.generalized_iou(far, torch.tensor([0.8, 0.8, 0.9, 0.9])).backward()
    assert far.grad is not None and far.grad[2] > 0 and far.grad[3] > 0


# RefCOCO's IoU ----------------------------------------------------------------------------------------


pixel_box = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 8), st.integers(1, 8))


@given(pixel_box, pixel_box)
def test_inclusive_pixels_count_pixels(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    def pixels(x: int, y: int, w: int, h: int) -> set[tuple[int, int]]:
        return {(column, row) for column in range(x, x + w) for row in range(y, y + h)}

    shared = pixels(*a) & pixels(*b)
    columns, rows = {x for x, _ in shared}, {y for _, y in shared}
    # A strip one pixel wide is no overlap: the tool compares the inclusive corners with `<`.
    inter = len(shared) if len(columns) > 1 and len(rows) > 1 else 0
    union = len(pixels(*a)) + len(pixels(*b)) - inter
    value = boxes.iou_inclusive_pixels(torch.tensor(a), torch.tensor(b)).item()
    assert value == pytest.approx(inter / union, rel=1e-6)


# patches ----------------------------------------------------------------------------------------------


def touched(box_xyxy: list[float], grid_hw: tuple[int, int]) -> list[int]:
    """Return the indices of the touched patches; the box is stored in float32, as in a batch."""
    mask_NP = boxes.patches_touched(torch.tensor([box_xyxy], dtype=torch.float32), grid_hw)
    assert mask_NP.shape == (1, grid_hw[0] * grid_hw[1]) and mask_NP.dtype == torch.bool
    return mask_NP[0].nonzero().flatten().tolist()


@settings(max_examples=300)
@given(st.data(), st.integers(1, 14), st.integers(1, 14), st.sampled_from([7, 14, 16, 32]))
def test_a_patch_is_touched_when_it_shares_a_pixel(
    data: st.DataObject, rows: int, columns: int, patch: int
) -> None:
    """Boxes on whole pixels need no rounding: a patch is touched if it shares a pixel with the box."""
    x0 = data.draw(st.integers(0, columns * patch - 1))
    y0 = data.draw(st.integers(0, rows * patch - 1))
    x1 = data.draw(st.integers(x0 + 1, columns * patch))
    y1 = data.draw(st.integers(y0 + 1, rows * patch))
    expected = [
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if x0 < (column + 1) * patch and column * patch < x1 and y0 < (row + 1) * patch and row * patch < y1
    ]
    width, height = columns * patch, rows * patch
    assert touched([x0 / width, y0 / height, x1 / width, y1 / height], (rows, columns)) == expected


@given(corners, st.integers(1, 12), st.integers(1, 12))
def test_every_box_touches_a_rectangle_of_at_least_one_patch(
    a: tuple[float, ...], rows: int, columns: int
) -> None:
    patches = touched(list(a), (rows, columns))
    across, down = {index % columns for index in patches}, {index // columns for index in patches}
    assert len(patches) == len(across) * len(down) >= 1


def test_whole_image_touches_everything() -> None:
    assert touched([0, 0, 1, 1], (3, 5)) == list(range(15))


def test_an_empty_box_at_the_far_corner_touches_the_last_patch() -> None:
    assert touched([1, 1, 1, 1], (3, 5)) == [14]


def test_a_larger_box_touches_no_fewer_patches() -> None:
    inner, outer = [0.3, 0.3, 0.6, 0.6], [0.2, 0.25, 0.7, 0.6]
    assert set(touched(inner, (9, 11))) <= set(touched(outer, (9, 11)))


def test_no_boxes() -> None:
    assert boxes.patches_touched(torch.zeros(0, 4), (7, 7)).shape == (0, 49)
