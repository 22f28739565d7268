"""Boxes follow the pixels, texts follow the mirror, and chance comes from the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import make
from xvlm.data import randaugment
from xvlm.data.images import Opened, open_image
from xvlm.data.mirror import mirror_text
from xvlm.data.transforms import (
    WHOLE,
    EvalTransform,
    PairsTransform,
    RegionsTransform,
    box_in_view,
    random_resized_crop,
)
from xvlm.records import BoxXYXY, Concept

SIDE = 120


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, width - 20)), draw(st.integers(0, height - 20))
    return x0, y0, draw(st.integers(x0 + 20, width)), draw(st.integers(y0 + 20, height))


@st.composite
def painted_images(draw: st.DrawFn) -> tuple[Opened, Concept]:
    """A red box, as array, PNG or JPEG; on the stored image, turned upright by EXIF."""
    width, height = draw(st.integers(30, 300)), draw(st.integers(30, 300))
    box = draw(boxes(width, height))
    image = make.painted(width, height, box)
    kind = draw(st.sampled_from(["array", "PNG", "JPEG"]))
    data = np.asarray(image) if kind == "array" else make.encoded(image, kind)
    return open_image(data, key="k"), Concept(("a red box",), tuple(map(float, box)))


def _red_box(pixels_3HW: torch.Tensor) -> BoxXYXY:
    """Edges of the red area to a fraction of a pixel: coverage along its middle row and column."""
    red = (pixels_3HW[0].double() / 255).clamp(0, 1).numpy()
    rows, columns = red.max(1), red.max(0)
    return _edges(columns) + _edges(rows)


def _edges(coverage: np.ndarray) -> tuple[float, float]:
    inside = np.nonzero(coverage > 0.5)[0]
    return float(inside[0]), float(inside[-1] + 1)


def _assert_covers(box_xyxy: BoxXYXY, pixels_3HW: torch.Tensor, tolerance: float = 1.01) -> None:
    height, width = pixels_3HW.shape[1:]
    x0, x1, y0, y1 = _red_box(pixels_3HW)
    expected = (x0 / width, y0 / height, x1 / width, y1 / height)
    off = np.abs(np.array(box_xyxy) - expected) * [width, height, width, height]
    assert off.max() <= tolerance, (box_xyxy, expected)


@settings(max_examples=300, deadline=None)
@given(painted_images(), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_box_covers_its_pixels_after_crop_flip_resize(
    painted: tuple[Opened, Concept], seed: int, crop: bool, flip: bool
) -> None:
    opened, concept = painted
    transform = RegionsTransform((SIDE, SIDE + 30), crop=crop, flip=flip, rand_augment=None)
    pixels, kept = transform(opened, [concept], np.random.default_rng(seed))
    assert pixels.shape == (3, SIDE, SIDE + 30) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert [one.index for one in kept] == [0]
    _assert_covers(kept[0].box_xyxy, pixels)


@settings(max_examples=100, deadline=None)
@given(painted_images())
def test_evaluation_box_covers_its_pixels(painted: tuple[Opened, Concept]) -> None:
    opened, concept = painted
    pixels, kept = EvalTransform((SIDE, SIDE))(opened, [Concept(("all",)), concept])
    assert kept[0].box_xyxy == WHOLE
    _assert_covers(kept[1].box_xyxy, pixels)


@settings(max_examples=100, deadline=None)
@given(boxes(200, 150), boxes(200, 150), st.integers(0, 2**32), st.floats(0, 0.99))
def test_other_concepts_stay_when_enough_is_inside(
    chosen: tuple[int, int, int, int], other: tuple[int, int, int, int], seed: int, min_inside: float
) -> None:
    opened = open_image(np.asarray(make.painted(200, 150, other)), key="k")
    concepts = [Concept(("whole",)), Concept(("a",), chosen), Concept(("b",), other)]
    transform = RegionsTransform((SIDE, SIDE), min_inside, flip=False, rand_augment=None)
    pixels, kept = transform(opened, concepts, np.random.default_rng(seed))
    by_index = {one.index: one for one in kept}
    assert by_index[0].box_xyxy == WHOLE
    assert 1 in by_index or 2 in by_index, "one concept is always inside, whole"
    assert all(0 <= edge <= 1 + 1e-12 for one in kept for edge in one.box_xyxy)
    if 2 in by_index and (pixels[0] > 128).any():
        _assert_covers(by_index[2].box_xyxy, pixels, 2.0)


def test_min_inside_is_strict_on_area() -> None:
    crop = (50.0, 0.0, 100.0, 10.0)
    assert box_in_view((0, 0, 100, 10), crop, 0.5) is None, "exactly half"
    assert box_in_view((0, 0, 100, 10), crop, 0.49) == WHOLE
    assert box_in_view((0, 0, 40, 10), crop, 0.0) is None


def test_augmented_boxes_still_cover_their_pixels() -> None:
    concept = Concept(("red",), (30.0, 20.0, 90.0, 70.0))
    opened = open_image(np.asarray(make.painted(150, 100, (30, 20, 90, 70))), key="k")
    for seed in range(60):
        pixels, kept = RegionsTransform((SIDE, SIDE))(opened, [concept], np.random.default_rng(seed))
        _assert_covers(kept[0].box_xyxy, pixels, 2.01)


def test_drawn_operations_are_applied_half_the_time() -> None:
    image = make.photo(32, 32)
    changed = [
        randaugment.rand_augment(image, 1, 7, ("TranslateX",), np.random.default_rng(seed)) is not image
        for seed in range(300)
    ]
    assert 0.4 < np.mean(changed) < 0.6


def test_flip_happens_for_half_and_swaps_words() -> None:
    opened = open_image(np.asarray(make.painted(100, 100, (0, 0, 30, 100))), key="k")
    transform = RegionsTransform((50, 50), crop=False, rand_augment=None)
    texts = ("a man on the left",)
    flips = 0
    for seed in range(200):
        _, kept = transform(
            opened, [Concept(texts, (0, 0, 30, 100), ("leftmost",))], np.random.default_rng(seed)
        )
        mirrored = kept[0].box_xyxy == pytest.approx((0.7, 0, 1, 1))
        flips += mirrored
        assert kept[0].concept.texts == (("a man on the right",) if mirrored else texts)
        assert kept[0].concept.attributes == (("rightmost",) if mirrored else ("leftmost",))
        assert kept[0].concept.box_xyxy == (0, 0, 30, 100)
    assert 70 < flips < 130


def test_texts_without_mirror_image_are_never_flipped() -> None:
    image = make.painted(100, 100, (0, 0, 30, 100))
    opened = open_image(np.asarray(image), key="k")
    pairs = PairsTransform((50, 50), crop=False, rand_augment=None)
    regions = RegionsTransform((50, 50), crop=False, rand_augment=None)
    concepts = [Concept(("a cup",), (0, 0, 30, 100)), Concept(("he left",))]
    for seed in range(50):
        pixels, texts = pairs(opened, ["a cup", "the right answer"], np.random.default_rng(seed))
        assert texts == ("a cup", "the right answer") and pixels[0, 0, 0] == 255
        assert regions(opened, concepts, np.random.default_rng(seed))[1][0].box_xyxy == (0, 0, 0.3, 1)


def test_pairs_flip_pixels_with_texts() -> None:
    opened = open_image(np.asarray(make.painted(100, 100, (0, 0, 30, 100))), key="k")
    seen = set()
    for seed in range(40):
        pixels, texts = PairsTransform((50, 50), crop=False, rand_augment=None)(
            opened, ["red on the left"], np.random.default_rng(seed)
        )
        assert texts == (("red on the left",) if pixels[0, 0, 0] == 255 else ("red on the right",))
        seen.add(texts)
    assert len(seen) == 2
    never = PairsTransform((50, 50), crop=False, flip=False, rand_augment=None)
    assert all(never(opened, ["x"], np.random.default_rng(seed))[0][0, 0, 0] == 255 for seed in range(40))


@pytest.mark.parametrize("transform", [PairsTransform((64, 48)), RegionsTransform((64, 48))])
def test_same_seed_same_sample_and_global_generators_untouched(transform) -> None:
    opened = open_image(make.encoded(make.photo(200, 150)), key="k")
    texts = [Concept(("a",), (10, 10, 60, 60))] if isinstance(transform, RegionsTransform) else ["a"]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = [transform(opened, texts, np.random.default_rng(seed)) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    torch.manual_seed(1)
    np.random.seed(1)
    again = [transform(opened, texts, np.random.default_rng(seed)) for seed in range(8)]
    for (a, kept_a), (b, kept_b) in zip(first, again, strict=True):
        assert torch.equal(a, b) and kept_a == kept_b
    assert not torch.equal(first[0][0], first[1][0])


def test_regions_without_boxes_show_the_whole_image() -> None:
    opened = open_image(np.asarray(make.photo(100, 80)), key="k")
    transform = RegionsTransform((80, 100), flip=False, rand_augment=None)
    pixels, kept = transform(opened, [Concept(("a",))], np.random.default_rng(0))
    assert kept[0].box_xyxy == WHOLE
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(opened.image))


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 2**32))
def test_random_resized_crop_is_inside_and_of_the_allowed_shape(width: int, height: int, seed: int) -> None:
    x0, y0, x1, y1 = random_resized_crop(width, height, (0.2, 1.0), np.random.default_rng(seed))
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    if min(width, height) >= 100:
        assert 0.73 < (x1 - x0) / (y1 - y0) < 1.37


def test_random_resized_crop_spans_the_scale() -> None:
    rng = np.random.default_rng(0)
    crops = [random_resized_crop(400, 400, (0.2, 1.0), rng) for _ in range(500)]
    shares = [(x1 - x0) * (y1 - y0) / 400**2 for x0, y0, x1, y1 in crops]
    assert 0.19 < min(shares) < 0.25 and 0.9 < max(shares) <= 1


@pytest.mark.parametrize("name", randaugment.ALL)
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


def test_colour_operations_move_no_pixel() -> None:
    image = make.painted(64, 64, (20, 10, 40, 30))
    for name in randaugment.COLOUR:
        after = np.asarray(randaugment._OPERATIONS[name](image, 0.7, 1), np.int16)
        red = after[:, :, 0] > 128
        assert red[12:28, 22:38].all() and not red[:8].any() and not red[:, :18].any(), name


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("a bright copyright sign, leftovers upright", "a bright copyright sign, leftovers upright"),
        ("man on the left", "man on the right"),
        ("Man on the far LEFT, dog to the right of him", "Man on the far RIGHT, dog to the left of him"),
        ("leftmost cup and right-most plate", "rightmost cup and left-most plate"),
        ("on the left-hand side", "on the right-hand side"),
        ("top-left corner", "top-right corner"),
        ("his left arm", "his right arm"),
        ("the left side of the road", "the right side of the road"),
        ("from left to right: a, b", "from right to left: a, b"),
        ("guy on right", "guy on left"),
        ("woman looking left", "woman looking right"),
        ("he has left the room", None),
        ("half a pizza left over", None),
        ("food left on the table", None),
        ("the right answer", None),
        ("at the right time", None),
        ("all right", None),
        ("a right angle", None),
        ("right next to a dog", None),
        ("a right-handed batter", None),
        ("two cups on the left and one cookie left", None),
        ("they walk left hand in hand", None),
        ("a cup right side up", None),
        ("leftside guy", None),
        ("topleft zebra", None),
        ("mug at the mid left of the shelf", "mug at the mid right of the shelf"),
        ("lft man", None),
        ("second from rt", None),
        ("guy on R", None),
        ("kid at 3 o'clock", None),
        ("turned counterclockwise", None),
        ("rightful owner of animal rights, leftover rice", "rightful owner of animal rights, leftover rice"),
    ],
)
def test_mirror_text(text: str, mirrored: str | None) -> None:
    assert mirror_text(text) == mirrored
    if mirrored is not None:
        assert mirror_text(mirrored) == text


WORDS = [
    *["the", "on", "to", "from", "of", "far", "top", "over", "angle", "arm", ",", ".", "-"],
    *["left", "right", "Right", "leftmost", "side", "hand-side"],
]


@given(
    st.lists(
        st.sampled_from(WORDS),
        max_size=9,
    )
)
def test_mirror_is_its_own_inverse(words: list[str]) -> None:
    text = " ".join(words)
    mirrored = mirror_text(text)
    if mirrored is not None:
        assert mirror_text(mirrored) == text
