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
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.json import JsonSource
from xvlm.data.text.flip import FlipRule
from xvlm.registry import find
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.task import find_task
from xvlm.tasks.vqa import VQASampleBuilder


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
    transform = PairTransform((32, 32), (1.0, 1.0), random_crop=False, random_flip=False, rand_augment=None)
    build_sample = VQASampleBuilder(transform, tiny_tokenizer())
    sample = build_sample(JsonSource(tmp_path / "items.json")[0], np.random.default_rng(0))
    (answer_weights,) = sample.weights
    assert list(answer_weights) == pytest.approx(weights)


SIDES = {
    ("what is this?", "a bright cat"): {"exact": True, "letters": False},
    ("what is this?", "a cat"): {"exact": True, "letters": True},
    ("what is on the left?", "a cat"): {"exact": True, "letters": False},
    ("what is this?", "left"): {"exact": False, "letters": False},
}
"""A question and its answer, and whether each rule flips their image."""


@pytest.mark.parametrize("rule", ["exact", "letters"])
@pytest.mark.parametrize("texts", SIDES)
def test_images_are_flipped_if_question_and_answers_allow_it(
    texts: tuple[str, str], rule: FlipRule, tmp_path: Path
) -> None:
    """By default left and right are swapped if that is exact; faithful mode uses the published rule."""
    photo(40, 30, 0).save(tmp_path / "0.png")
    (tmp_path / "items.json").write_text(
        json.dumps([{"image": "0.png", "question": texts[0], "answer": [texts[1]]}])
    )
    transform = PairTransform((32, 32), random_crop=False, rand_augment=None, flip_rule=rule)
    build_sample = VQASampleBuilder(transform, tiny_tokenizer())
    record = JsonSource(tmp_path / "items.json")[0]
    samples = [build_sample(record, np.random.default_rng(seed)) for seed in range(16)]
    images = {one.pixels.numpy().tobytes() for one in samples}
    assert len(images) == (2 if SIDES[texts][rule] else 1)
    questions = {tuple(one.questions[0]) for one in samples}
    swaps = rule == "exact" and "left" in texts[0]
    assert len(questions) == (2 if swaps else 1)


def test_the_published_recipe_flips(tmp_path: Path) -> None:
    """Faithful mode uses the rule of letters, and the published recipes flip images."""
    photo(40, 30, 0).save(tmp_path / "0.png")
    (tmp_path / "items.json").write_text(json.dumps([{"image": "0.png", "question": "what?", "answer": "a"}]))
    run = replace(toys.RUNS["vqa"](), faithful=True)
    run = replace(
        run, data=replace(run.data, train=(SourceConfig(str(tmp_path / "items.json")),), batch_size=1)
    )
    assert (
        find_task("vqa").build(run, tmp_path).steps.streams[0].build_sample.transform.flip_rule == "letters"
    )
    for name in ("published/vqa", "published/vqa_480"):
        assert find("recipes", name).recipe().data.random_flip
