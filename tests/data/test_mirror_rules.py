"""The published rules of mirroring, which faithful mode follows: what is mirrored, what becomes of texts."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contracts import toys
from tests.tiny import photo
from xvlm.data.images import open_image
from xvlm.data.mirror import mirror_texts
from xvlm.data.transforms import PairsTransform, RegionsTransform
from xvlm.lookup import find
from xvlm.records import Concept, Record


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
def test_rules(
    texts: tuple[str, ...], exact: tuple[str, ...] | None, letters: tuple[str, ...] | None
) -> None:
    assert mirror_texts(texts) == exact
    assert mirror_texts(texts, "letters") == letters
    assert mirror_texts(texts, "always") == texts


def test_always_moves_pixels_and_boxes_and_leaves_texts() -> None:
    file = io.BytesIO()
    photo(60, 40, 3).save(file, "PNG")
    opened = open_image(file.getvalue(), key="k")
    concept = Concept(("he has left",), (0.0, 0.0, 15.0, 40.0))
    regions = RegionsTransform((40, 60), crop=False, rand_augment=None, mirror="always")
    pairs = PairsTransform((40, 60), crop=False, rand_augment=None, mirror="always")
    boxes, pictures = set(), set()
    for seed in range(12):
        pixels, (kept,) = regions(opened, [concept], np.random.default_rng(seed))
        assert kept.concept == concept
        boxes.add(kept.box_xyxy)
        pictures.add(pixels.numpy().tobytes())
        assert pairs(opened, ["he has left"], np.random.default_rng(seed))[1] == ("he has left",)
    assert boxes == {(0.0, 0.0, 0.25, 1.0), (0.75, 0.0, 1.0, 1.0)} and len(pictures) == 2


RULES = {
    "pretrain": "always",
    "retrieval": "always",
    "weak_grounding": "always",
    "grounding": "letters",
    "vqa": "letters",
    "nlvr2": "always",
    "assignment": "always",
    "captioning": "always",
    "self_critical": "always",
    "entailment": "always",
}
"""Of the published code."""


@pytest.mark.parametrize("task", RULES)
@pytest.mark.parametrize("faithful", [False, True])
def test_each_task_has_its_rule(task: str, faithful: bool, tmp_path: Path) -> None:
    built = find("tasks", task).build(replace(toys.RUNS[task](), faithful=faithful), tmp_path)
    found = {reader.part.view.transform.mirror for reader in built.feed._readers}
    assert found == {RULES[task] if faithful else "exact"}


def test_a_statement_about_sides_is_mirrored_in_faithful_mode(tmp_path: Path) -> None:
    """NLVR2: each image of the pair by its own chance, whatever the statement says."""
    run = toys.RUNS["nlvr2"]()
    views: dict[bool, Any] = {}
    for faithful in (False, True):
        one = replace(run, faithful=faithful, data=replace(run.data, flip=True))
        views[faithful] = find("tasks", "nlvr2").build(one, tmp_path).feed._readers[0].part.view
    files = []
    for number in range(2):
        photo(60, 50, number).save(tmp_path / f"{number}.png")
        files.append(str(tmp_path / f"{number}.png"))
    fields = {"sentence": "The left one is a dog.", "label": "True", "right": files[1]}
    record = Record("k", files[0], (), fields)
    for faithful, pictures in ((False, 1), (True, 4)):
        seen = [views[faithful](record, np.random.default_rng(seed)) for seed in range(40)]
        assert len({one.pixels.numpy().tobytes() for one in seen}) == pictures
