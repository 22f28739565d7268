"""Detection head: any encoder and grid, and boxes that belong to their cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny import IMAGE_HW, KINDS, tiny_config
from xvlm.batch import Images, Texts
from xvlm.boxes import patch_centres
from xvlm.inference.answers import MAX_OVERLAP
from xvlm.inference.detection import find_boxes, peaks
from xvlm.models.calibration import Calibration
from xvlm.models.detection import DetectionHead
from xvlm.models.xvlm import XVLM, MissingHead, build_model


def detecting(kind: str, finer: bool = False, **config: object) -> XVLM:
    base = tiny_config(kind, box_head="point")
    vision = replace(base.vision, finer_map=finer)
    torch.manual_seed(3)
    return build_model(replace(base, vision=vision, heads=(*base.heads, "detection"))).eval()


def encoded(model: XVLM) -> tuple:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, *IMAGE_HW), generator=generator, dtype=torch.uint8)
    texts = model.encode_texts(Texts.pack([[2, 7, 8], [2, 9], [2, 10, 11, 12]]))
    return model.encode_images(Images(pixels)), texts, torch.tensor([0, 1, 1])


@pytest.mark.parametrize(("kind", "finer"), [*((kind, False) for kind in KINDS), ("cnn", True)])
@torch.no_grad()
def test_cells_of_every_encoder(kind: str, finer: bool) -> None:
    """Without a finer map each patch has four cells; boxes begin at their cell, and their sides in [0, 1]."""
    model = detecting(kind, finer)
    features, texts, image_N = encoded(model)
    images, _ = model.encode_whole(features)
    found = model.detect(model.fuse_cls(texts, torch.arange(3), images, image_N), images, image_N)
    rows, columns = images.grid_hw
    if finer:
        assert images.finer_SChw is not None
        expected = tuple(images.finer_SChw.shape[2:])
    else:
        expected = (2 * rows, 2 * columns)
    cells = expected[0] * expected[1]
    assert found.cells.grid_hw == expected and found.objectness_RC.shape == (3, cells)
    assert found.presence_R.shape == (3,)
    everywhere = torch.arange(cells)
    boxes = found.boxes(torch.full((cells,), 2), everywhere)
    centres = patch_centres(expected)
    # With the initial weights of its last layer, a box is at its cell and a fifth of the image.
    assert (boxes[:, :2] - centres).abs().max() < 0.3 / min(expected)
    assert ((boxes[:, 2:] > 0.1) & (boxes[:, 2:] < 0.3)).all()
    assert (found.objectness_RC.sigmoid() < 0.5).all()


def test_cells_follow_the_picture() -> None:
    """A pixel-shuffled map has the four cells of a patch at its own place, not at another patch's."""
    head = DetectionHead(8, 6, key_width=4)
    patches = torch.zeros(1, 6, 6)
    patches[0, 4] = 1.0  # row 1, column 1 of 2 x 3
    with torch.no_grad():
        head.patch.bias.zero_()
        cells = head.cells(patches, (2, 3), None)
    touched = cells.key_SKC.abs().sum(1).view(4, 6) > 0
    assert touched[2:, 2:4].all() and touched.sum() == 4
    assert torch.equal(cells.value_SCK[0].abs().sum(1).view(4, 6) > 0, touched)


@torch.no_grad()
def test_rows_do_not_influence_each_other() -> None:
    model = detecting("cnn")
    features, texts, image_N = encoded(model)
    together = find_boxes(model, features, texts, image_N, Calibration())
    for row in range(3):
        alone_texts = model.encode_texts(Texts.pack([[[2, 7, 8], [2, 9], [2, 10, 11, 12]][row]]))
        alone = find_boxes(model, features, alone_texts, image_N[row : row + 1], Calibration())
        boxes, probabilities, _ = together.by_text()[row]
        assert torch.allclose(boxes, alone.box_xyxy_X4, atol=1e-5)
        assert torch.allclose(probabilities, alone.probability_X, atol=1e-5)


@torch.no_grad()
def test_boxes_are_sorted_apart_and_above_the_threshold() -> None:
    model = detecting("cnn")
    with torch.no_grad():  # opinions
        for parameter in model.detection.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
            parameter.add_(0.05 * noise)
    features, texts, image_N = encoded(model)
    everything = find_boxes(model, features, texts, image_N, Calibration())
    assert (everything.row_X.diff() >= 0).all() and len(everything.row_X) > 3
    middle = float(everything.probability_X.median())
    some = find_boxes(model, features, texts, image_N, Calibration(), middle)
    assert 0 < len(some.row_X) < len(everything.row_X) and (some.probability_X >= middle).all()
    for row in range(3):
        boxes, probabilities, _ = everything.by_text()[row]
        assert (probabilities.diff() <= 0).all()
        assert ((boxes >= 0) & (boxes <= 1)).all()
        for a in range(len(boxes)):
            for b in range(a):
                top, low = (
                    torch.maximum(boxes[a, :2], boxes[b, :2]),
                    torch.minimum(boxes[a, 2:], boxes[b, 2:]),
                )
                inter = (low - top).clamp(min=0).prod()
                areas = sum((box[2:] - box[:2]).prod() for box in (boxes[a], boxes[b]))
                assert inter / (areas - inter) <= MAX_OVERLAP + 1e-5


@torch.no_grad()
def test_numbers_that_are_none_find_nothing() -> None:
    model = detecting("cnn")
    for parameter in model.detection.parameters():
        parameter.fill_(torch.nan)
    found = find_boxes(model, *encoded(model), Calibration())
    assert len(found.row_X) == 0 and len(found.presence_N) == 3


@torch.no_grad()
def test_peaks_are_local_maxima() -> None:
    model = detecting("cnn")
    features, texts, image_N = encoded(model)
    images, _ = model.encode_whole(features)
    found = model.detect(model.fuse_cls(texts, torch.arange(3), images, image_N), images, image_N)
    maps = torch.full((3, *found.cells.grid_hw), -5.0)
    maps[0, 0, 0], maps[0, 3, 4], maps[0, 3, 5] = 1.0, 2.0, 1.9  # the last is beside a higher one
    found = replace(found, objectness_RC=maps.flatten(1))
    rows, cells = peaks(found)
    own = cells[rows == 0].tolist()
    assert own[:2] == [3 * found.cells.grid_hw[1] + 4, 0]
    assert 3 * found.cells.grid_hw[1] + 5 not in own


def test_a_model_without_the_head_says_so() -> None:
    model = build_model(tiny_config("cnn"))
    with pytest.raises(MissingHead, match="no head 'detection'"):
        find_boxes(model, *encoded(model), Calibration())
