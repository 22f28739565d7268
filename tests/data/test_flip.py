"""Texts are flipped with their image if that is exact; faithful mode follows the published rules."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts import toys
from tests.tiny import photo
from xvlm.data.images.decode import open_image
from xvlm.data.samples.transforms import PairTransform, RegionTransform
from xvlm.data.text.flip import flip_text, flip_texts
from xvlm.records import Concept, Record
from xvlm.tasks.common.task import find_task


@pytest.mark.parametrize(
    ("text", "flipped"),
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
def test_flip_text(text: str, flipped: str | None) -> None:
    assert flip_text(text) == flipped
    if flipped is not None:
        assert flip_text(flipped) == text


WORDS = [
    *["the", "on", "to", "from", "of", "far", "top", "over", "angle", "arm", ",", ".", "-"],
    *["left", "right", "Right", "leftmost", "side", "hand-side"],
]


@given(st.lists(st.sampled_from(WORDS), max_size=9))
def test_flipping_is_its_own_inverse(words: list[str]) -> None:
    text = " ".join(words)
    flipped = flip_text(text)
    if flipped is not None:
        assert flip_text(flipped) == text


@pytest.mark.parametrize(
    ("texts", "exact", "letters"),
    [
        (("a dog",), ("a dog",), ("a dog",)),
        (("a bright dog",), ("a bright dog",), None),
        (("the dog on the left",), ("the dog on the right",), None),
        (("he has left",), None, None),
        (("a dog", "he has left"), None, None),
    ],
)
def test_flip_texts(
    texts: tuple[str, ...], exact: tuple[str, ...] | None, letters: tuple[str, ...] | None
) -> None:
    assert flip_texts(texts) == exact
    assert flip_texts(texts, "letters") == letters
    assert flip_texts(texts, "always") == texts


def test_always_flips_pixels_and_boxes_but_not_texts() -> None:
    file = io.BytesIO()
    photo(60, 40, 3).save(file, "PNG")
    image = open_image(file.getvalue(), key="k")
    concept = Concept(("he has left",), (0.0, 0.0, 15.0, 40.0))
    regions = RegionTransform((40, 60), random_crop=False, rand_augment=None, flip_rule="always")
    pairs = PairTransform((40, 60), random_crop=False, rand_augment=None, flip_rule="always")
    boxes, images = set(), set()
    for seed in range(12):
        pixels, (visible,) = regions(image, [concept], np.random.default_rng(seed))
        assert visible.concept == concept
        boxes.add(visible.box_xyxy)
        images.add(pixels.numpy().tobytes())
        assert pairs(image, ["he has left"], np.random.default_rng(seed))[1] == ("he has left",)
    assert boxes == {(0.0, 0.0, 0.25, 1.0), (0.75, 0.0, 1.0, 1.0)} and len(images) == 2


RULES = {
    "pretrain": "always",
    "retrieval": "always",
    "weak_grounding": "always",
    "grounding": "letters",
    "vqa": "letters",
    "nlvr2": "always",
    "text_assignment": "always",
    "captioning": "always",
    "self_critical": "always",
    "entailment": "always",
}
"""Rules of the published code."""


@pytest.mark.parametrize("task", RULES)
@pytest.mark.parametrize("faithful", [False, True])
def test_each_task_has_its_rule(task: str, faithful: bool, tmp_path: Path) -> None:
    built = find_task(task).build(replace(toys.RUNS[task](), faithful=faithful), tmp_path)
    rules = {stream.build_sample.transform.flip_rule for stream in built.steps.streams}
    assert rules == {RULES[task] if faithful else "exact"}


def test_a_statement_about_sides_is_flipped_in_faithful_mode(tmp_path: Path) -> None:
    """NLVR2: each image of the pair is flipped independently, whatever the statement says."""
    run = toys.RUNS["nlvr2"]()
    build_sample: dict[bool, Any] = {}
    for faithful in (False, True):
        one = replace(run, faithful=faithful, data=replace(run.data, random_flip=True))
        build_sample[faithful] = find_task("nlvr2").build(one, tmp_path).steps.streams[0].build_sample
    files = []
    for number in range(2):
        photo(60, 50, number).save(tmp_path / f"{number}.png")
        files.append(str(tmp_path / f"{number}.png"))
    fields = {"sentence": "The left one is a dog.", "label": "True", "right": files[1]}
    record = Record("k", files[0], (), fields)
    for faithful, count in ((False, 1), (True, 4)):
        samples = [build_sample[faithful](record, np.random.default_rng(seed)) for seed in range(40)]
        assert len({sample.pixels.numpy().tobytes() for sample in samples}) == count
