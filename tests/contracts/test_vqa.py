"""Weights of answers in training, by the published rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contracts import toys
from tests.tiny import photo, tiny_tokenizer
from xvlm.data.mirror import MirrorRule
from xvlm.data.sources import JsonSource
from xvlm.data.transforms import PairsTransform
from xvlm.lookup import find
from xvlm.tasks._build import SourceConfig
from xvlm.tasks.vqa import QuestionView


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({"answer": ["red"] * 6 + ["no"] * 4, "dataset": "vqa"}, [0.6, 0.4]),
        ({"answer": ["red"] * 6 + ["no"] * 4}, [0.6, 0.4]),
        ({"answer": ["red"], "dataset": "vqa"}, [1.0]),
        ({"answer": "red"}, [1.0]),
        ({"answer": "red", "dataset": "vg"}, [0.5]),
        ({"answer": ["red"], "dataset": "vg"}, [0.5]),
        ({"questions": [{"question": "a dog?", "answer": ["a", "b"]}], "dataset": "vg"}, [0.25, 0.25]),
    ],
)
def test_answers_of_visual_genome_count_half(
    fields: dict[str, Any], weights: list[float], tmp_path: Path
) -> None:
    photo(40, 30, 0).save(tmp_path / "0.png")
    (tmp_path / "items.json").write_text(json.dumps([{"image": "0.png", "question": "red?", **fields}]))
    transform = PairsTransform((32, 32), (1.0, 1.0), crop=False, flip=False, rand_augment=None)
    view = QuestionView(transform, tiny_tokenizer())
    asked = view(JsonSource(tmp_path / "items.json")[0], np.random.default_rng(0))
    (found,) = asked.weights
    assert list(found) == pytest.approx(weights)


SIDES = {
    ("what is this?", "a bright cat"): {"exact": True, "letters": False},
    ("what is this?", "a cat"): {"exact": True, "letters": True},
    ("what is on the left?", "a cat"): {"exact": True, "letters": False},
    ("what is this?", "left"): {"exact": False, "letters": False},
}
"""A question and its answer, and whether their image is ever mirrored by each rule."""


@pytest.mark.parametrize("rule", ["exact", "letters"])
@pytest.mark.parametrize("said", SIDES)
def test_images_are_mirrored_where_question_and_answers_allow_it(
    said: tuple[str, str], rule: MirrorRule, tmp_path: Path
) -> None:
    """By default sides are swapped where that is exact; faithful mode goes by the letters."""
    photo(40, 30, 0).save(tmp_path / "0.png")
    (tmp_path / "items.json").write_text(
        json.dumps([{"image": "0.png", "question": said[0], "answer": [said[1]]}])
    )
    transform = PairsTransform((32, 32), crop=False, rand_augment=None, mirror=rule)
    view = QuestionView(transform, tiny_tokenizer())
    record = JsonSource(tmp_path / "items.json")[0]
    seen = [view(record, np.random.default_rng(seed)) for seed in range(16)]
    pictures = {one.pixels.numpy().tobytes() for one in seen}
    assert len(pictures) == (2 if SIDES[said][rule] else 1)
    questions = {tuple(one.questions[0]) for one in seen}
    swaps = rule == "exact" and "left" in said[0]
    assert len(questions) == (2 if swaps else 1)


def test_the_published_recipe_mirrors(tmp_path: Path) -> None:
    """By the letters' rule in faithful mode, and not at all where a recipe says so."""
    photo(40, 30, 0).save(tmp_path / "0.png")
    (tmp_path / "items.json").write_text(json.dumps([{"image": "0.png", "question": "what?", "answer": "a"}]))
    run = replace(toys.RUNS["vqa"](), faithful=True)
    run = replace(run, data=replace(run.data, train=(SourceConfig(str(tmp_path / "items.json")),), batch=1))
    assert find("tasks", "vqa").build(run, tmp_path).feed._readers[0].part.view.transform.mirror == "letters"
    for name in ("vqa", "vqa_480"):
        assert find("recipes", name).recipe().data.flip
