"""Boxes and texts follow the pixels, and all randomness comes from the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import make
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.data.samples import randaugment
from xvlm.data.samples.crops import box_in_crop, random_resized_crop
from xvlm.data.samples.transforms import WHOLE_IMAGE, PairTransform, RegionTransform, eval_pixels
from xvlm.records import BoxXYXY, Concept

SIDE = 120


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, width - 20)), draw(st.integers(0, height - 20))
    return x0, y0, draw(st.integers(x0 + 20, width)), draw(st.integers(y0 + 20, height))


@st.composite
def painted_images(draw: st.DrawFn) -> tuple[ImageFile, Concept]:
    """Return an image of a red box, as an array, PNG or JPEG."""
    width, height = draw(st.integers(30, 300)), draw(st.integers(30, 300))
    box = draw(boxes(width, height))
    painted = make.painted(width, height, box)
    kind = draw(st.sampled_from(["array", "PNG", "JPEG"]))
    data = np.asarray(painted) if kind == "array" else make.encoded(painted, kind)
    return open_image(data, key="k"), Concept(("a red box",), tuple(map(float, box)))


def _red_edges(pixels_3HW: torch.Tensor) -> tuple[float, float, float, float]:
    """Return the edges of the red area, (x0, x1, y0, y1)."""
    is_red = pixels_3HW[0].numpy() > 127.5
    columns, rows = np.nonzero(is_red.any(0))[0], np.nonzero(is_red.any(1))[0]
    return float(columns[0]), float(columns[-1] + 1), float(rows[0]), float(rows[-1] + 1)


def _assert_covers(box_xyxy: BoxXYXY, pixels_3HW: torch.Tensor, tolerance: float = 1.01) -> None:
    height, width = pixels_3HW.shape[1:]
    x0, x1, y0, y1 = _red_edges(pixels_3HW)
    expected = (x0 / width, y0 / height, x1 / width, y1 / height)
    off = np.abs(np.array(box_xyxy) - expected) * [width, height, width, height]
    assert off.max() <= tolerance, (box_xyxy, expected)


@settings(max_examples=300, deadline=None)
@given(painted_images(), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_box_covers_its_pixels_after_crop_flip_resize(
    painted: tuple[ImageFile, Concept], seed: int, crop: bool, flip: bool
) -> None:
    image, concept = painted
    transform = RegionTransform((SIDE, SIDE + 30), crop, flip, rand_augment=None)
    pixels, (visible,) = transform(image, [concept], np.random.default_rng(seed))
    assert pixels.shape == (3, SIDE, SIDE + 30) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert visible.concept.box_xyxy == concept.box_xyxy
    _assert_covers(visible.box_xyxy, pixels)


@settings(max_examples=100, deadline=None)
@given(painted_images())
def test_a_box_covers_its_pixels_in_evaluation(painted: tuple[ImageFile, Concept]) -> None:
    image, concept = painted
    size = [image.width, image.height] * 2
    _assert_covers(tuple(np.array(concept.box_xyxy) / size), eval_pixels(image, (SIDE, SIDE)))


@settings(max_examples=100, deadline=None)
@given(boxes(200, 150), boxes(200, 150), st.integers(0, 2**32), st.floats(0, 0.99))
def test_other_concepts_stay_when_enough_is_inside(
    chosen: tuple[int, int, int, int], other: tuple[int, int, int, int], seed: int, min_inside: float
) -> None:
    image = open_image(np.asarray(make.painted(200, 150, other)), key="k")
    concepts = [Concept(("whole",)), Concept(("a",), chosen), Concept(("b",), other)]
    transform = RegionTransform((SIDE, SIDE), random_flip=False, rand_augment=None, min_inside=min_inside)
    pixels, visible = transform(image, concepts, np.random.default_rng(seed))
    boxes = {one.concept.texts[0]: one.box_xyxy for one in visible}
    assert boxes["whole"] == WHOLE_IMAGE
    assert "a" in boxes or "b" in boxes, "the full box of one concept is always inside"
    assert all(0 <= edge <= 1 + 1e-12 for box in boxes.values() for edge in box)
    if "b" in boxes and (pixels[0] > 128).any():
        _assert_covers(boxes["b"], pixels, 2.0)


def test_min_inside_is_strict_on_area() -> None:
    crop = (50.0, 0.0, 100.0, 10.0)
    assert box_in_crop((0, 0, 100, 10), crop, 0.5) is None, "exactly half is inside"
    assert box_in_crop((0, 0, 100, 10), crop, 0.49) == WHOLE_IMAGE
    assert box_in_crop((0, 0, 40, 10), crop, 0.0) is None


def test_augmented_boxes_still_cover_their_pixels() -> None:
    concept = Concept(("red",), (30.0, 20.0, 90.0, 70.0))
    image = open_image(np.asarray(make.painted(150, 100, (30, 20, 90, 70))), key="k")
    for seed in range(60):
        pixels, visible = RegionTransform((SIDE, SIDE))(image, [concept], np.random.default_rng(seed))
        _assert_covers(visible[0].box_xyxy, pixels, 2.01)


def test_sampled_operations_are_applied_half_of_the_time() -> None:
    image = make.photo(32, 32)
    changed = [
        randaugment.rand_augment(image, 1, 7, ("TranslateX",), np.random.default_rng(seed)) is not image
        for seed in range(300)
    ]
    assert 0.4 < np.mean(changed) < 0.6


def test_flip_happens_for_half_and_swaps_words() -> None:
    image = open_image(np.asarray(make.painted(100, 100, (0, 0, 30, 100))), key="k")
    transform = RegionTransform((50, 50), random_crop=False, rand_augment=None)
    concept = Concept(("a man on the left",), (0, 0, 30, 100), ("leftmost",))
    flips = 0
    for seed in range(200):
        _, (visible,) = transform(image, [concept], np.random.default_rng(seed))
        is_flipped = visible.box_xyxy == pytest.approx((0.7, 0, 1, 1))
        flips += is_flipped
        assert visible.concept.texts == (("a man on the right",) if is_flipped else concept.texts)
        assert visible.concept.attributes == (("rightmost",) if is_flipped else ("leftmost",))
        assert visible.concept.box_xyxy == (0, 0, 30, 100)
    assert 70 < flips < 130


def test_an_image_whose_texts_cannot_be_flipped_is_never_flipped() -> None:
    image = open_image(np.asarray(make.painted(100, 100, (0, 0, 30, 100))), key="k")
    pairs = PairTransform((50, 50), random_crop=False, rand_augment=None)
    regions = RegionTransform((50, 50), random_crop=False, rand_augment=None)
    concepts = [Concept(("a cup",), (0, 0, 30, 100)), Concept(("he left",))]
    for seed in range(50):
        pixels, texts = pairs(image, ["a cup", "the right answer"], np.random.default_rng(seed))
        assert texts == ("a cup", "the right answer") and pixels[0, 0, 0] == 255
        assert regions(image, concepts, np.random.default_rng(seed))[1][0].box_xyxy == (0, 0, 0.3, 1)


def test_pairs_flip_pixels_with_texts() -> None:
    image = open_image(np.asarray(make.painted(100, 100, (0, 0, 30, 100))), key="k")
    transform = PairTransform((50, 50), random_crop=False, rand_augment=None)
    sampled = set()
    for seed in range(40):
        pixels, texts = transform(image, ["red on the left"], np.random.default_rng(seed))
        assert texts == (("red on the left",) if pixels[0, 0, 0] == 255 else ("red on the right",))
        sampled.add(texts)
    assert len(sampled) == 2
    never = PairTransform((50, 50), random_crop=False, random_flip=False, rand_augment=None)
    assert all(never(image, ["x"], np.random.default_rng(seed))[0][0, 0, 0] == 255 for seed in range(40))


@pytest.mark.parametrize("transform", [PairTransform((64, 48)), RegionTransform((64, 48))])
def test_a_sample_depends_on_its_seed_and_not_on_global_generators(transform) -> None:
    image = open_image(make.encoded(make.photo(200, 150)), key="k")
    texts = [Concept(("a",), (10, 10, 60, 60))] if isinstance(transform, RegionTransform) else ["a"]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = [transform(image, texts, np.random.default_rng(seed)) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    torch.manual_seed(1)
    np.random.seed(1)
    again = [transform(image, texts, np.random.default_rng(seed)) for seed in range(8)]
    for (a, texts_a), (b, texts_b) in zip(first, again, strict=True):
        assert torch.equal(a, b) and texts_a == texts_b
    assert not torch.equal(first[0][0], first[1][0])


def test_without_boxes_the_crop_is_the_whole_image() -> None:
    image = open_image(np.asarray(make.photo(100, 80)), key="k")
    transform = RegionTransform((80, 100), random_flip=False, rand_augment=None)
    pixels, (visible,) = transform(image, [Concept(("a",))], np.random.default_rng(0))
    assert visible.box_xyxy == WHOLE_IMAGE
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image.image))


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 2**32))
def test_a_random_resized_crop_is_inside_and_has_an_allowed_shape(width: int, height: int, seed: int) -> None:
    x0, y0, x1, y1 = random_resized_crop(width, height, (0.2, 1.0), np.random.default_rng(seed))
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    if min(width, height) >= 100:
        assert 0.73 < (x1 - x0) / (y1 - y0) < 1.37


def test_random_resized_crops_span_the_scale() -> None:
    rng = np.random.default_rng(0)
    crops = [random_resized_crop(400, 400, (0.2, 1.0), rng) for _ in range(500)]
    fractions = [(x1 - x0) * (y1 - y0) / 400**2 for x0, y0, x1, y1 in crops]
    assert 0.19 < min(fractions) < 0.25 and 0.9 < max(fractions) <= 1


@pytest.mark.parametrize("name", randaugment.ALL_OPERATIONS)
def test_every_operation_changes_the_image_as_named(name: str) -> None:
    image = make.photo(64, 64).point(lambda value: value * 0.6 + 20)
    after = np.asarray(randaugment._OPERATIONS[name](image, 0.7, 1), np.int16)
    before = np.asarray(image, np.int16)
    assert after.shape == before.shape
    assert (name == "Identity") == np.array_equal(after, before)
    if name == "TranslateX":
        assert np.array_equal(after[:, 7:], before[:, :-7]) and (after[:, :6] == 128).all()
    if name == "TranslateY":
        assert np.array_equal(after[7:], before[:-7])
    if name == "Brightness":
        assert np.abs(after - np.clip(before * 1.36, 0, 255)).max() <= 1


def test_color_operations_do_not_move_pixels() -> None:
    image = make.painted(64, 64, (20, 10, 40, 30))
    for name in randaugment.COLOR_OPERATIONS:
        after = np.asarray(randaugment._OPERATIONS[name](image, 0.7, 1), np.int16)
        red = after[:, :, 0] > 128
        assert red[12:28, 22:38].all() and not red[:8].any() and not red[:, :18].any(), name
