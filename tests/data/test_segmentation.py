"""The box around a segmentation is that of COCO's own tools, and what is none has no box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xvlm.data.sources.segmentation import box_of_segmentation


def counts_of(mask: np.ndarray) -> list[int]:
    """Uncompressed runs of a mask, down its columns."""
    counts, value = [0], 0
    for pixel in mask.flatten(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found = [
        (rng.random((7, 9)) < share).astype(np.uint8) for share in (0.03, 0.1, 0.5, 0.97) for _ in range(20)
    ]
    box = np.zeros((300, 400), np.uint8)
    box[20:290, 7:390] = 1
    return [one for one in found if one.any()] + [box, np.ones((4, 3), np.uint8)]


def test_both_forms_of_rle_have_the_box_of_pycocotools() -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    for mask in masks():
        compressed = mask_tools.encode(np.asfortranarray(mask))
        expected = mask_tools.toBbox(compressed).tolist()
        y, x = np.nonzero(mask)
        assert expected == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
        text = {"counts": compressed["counts"].decode(), "size": compressed["size"]}
        assert box_of_segmentation(text) == expected
        assert box_of_segmentation({"counts": counts_of(mask), "size": [*mask.shape]}) == expected


@pytest.mark.parametrize(
    ("polygons", "box"),
    [
        ([[10, 20, 30, 20, 20, 50], [40, 5, 41, 5, 41, 9]], [10, 5, 31, 45]),
        ([10, 20, 30, 20, 20, 50], [10, 20, 20, 30]),
        ([[[10, 20], [30, 20], [20, 50]]], [10, 20, 20, 30]),
    ],
)
def test_polygons(polygons: list[Any], box: list[int]) -> None:
    assert box_of_segmentation(polygons) == box


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        5,
        [],
        [[]],
        [[1, 2, 3]],
        [["a", "b"]],
        [[1, float("nan")]],
        {},
        {"counts": [12], "size": [3, 4]},
        {"counts": [2, 5], "size": [3, 4]},
        {"counts": [-2, 14], "size": [3, 4]},
        {"counts": [], "size": [0, 0]},
        {"counts": "\x00", "size": [3, 4]},
        {"counts": "o" * 50, "size": [3, 4]},
        {"counts": [2, 10], "size": None},
    ],
)
def test_what_has_no_box(segmentation: Any) -> None:
    assert box_of_segmentation(segmentation) is None
