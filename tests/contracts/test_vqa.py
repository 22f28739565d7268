"""Weights of answers in training, by the published rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import photo, tiny_tokenizer
from xvlm.data.sources import JsonSource
from xvlm.data.transforms import PairsTransform
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
