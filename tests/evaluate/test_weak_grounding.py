"""Choosing among boxes by where a text looks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_loaded, write_photos
from xvlm.data.sources import JsonSource
from xvlm.evaluate import weak_grounding
from xvlm.evaluate.weak_grounding import candidate_scores, evaluate_maps, highest_inside
from xvlm.predict import Predictor


def test_scores_are_sums_over_area() -> None:
    map_HW = torch.rand(7, 9)
    boxes = [(0.0, 0.0, 9.0, 7.0), (2.0, 1.0, 5.0, 4.0), (8.0, 6.0, 20.0, 30.0), (3.5, 2.5, 3.9, 2.9)]
    for power in (0.0, 0.5, 1.0):
        found = candidate_scores(map_HW, boxes, power)
        expected = [map_HW.sum(), map_HW[1:4, 2:5].sum() / 9**power, map_HW[6, 8] / (12 * 24) ** power, 0]
        expected[0] = map_HW.sum() / 63**power
        assert found.tolist() == pytest.approx([float(one) for one in expected], rel=1e-5)


def test_pointing() -> None:
    map_HW = torch.zeros(6, 8)
    map_HW[2, 5] = 1
    assert highest_inside(map_HW, (5, 2, 6, 3)) and not highest_inside(map_HW, (0, 0, 5, 6))


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_a_map_that_shows_the_place_is_right(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain from the map to the chosen box: with maps that are 1 inside the true boxes every case is
    right, with the opposite none, and a blind choice of two boxes is right half of the time."""
    source = JsonSource(write_photos(tmp_path, 4))
    predictor = Predictor(tiny_loaded(kind))
    boxes = [
        (*concept.box_xyxy, source[i])
        for i in range(len(source))
        for concept in source[i].concepts
        if concept.box_xyxy
    ]
    wanted = [box[:4] for box in boxes]
    for right in (True, False):
        order = iter(wanted)

        def shown(map_hw: torch.Tensor, height: int, width: int) -> torch.Tensor:
            x0, y0, x1, y1 = next(order)  # noqa: B023
            map_HW = torch.zeros(height, width)
            map_HW[math.ceil(y0) : int(y1), math.ceil(x0) : int(x1)] = 1
            return map_HW if right else 1 - map_HW  # noqa: B023

        monkeypatch.setattr(weak_grounding, "enlarged", shown)
        metrics, predictions = evaluate_maps(predictor, source, power=1.0, batch=3)
        assert metrics["weak_grounding_acc"] == metrics["weak_grounding_pointing"] == float(right)
        assert metrics["weak_grounding_chance"] == 0.5
        assert len(predictions) == metrics["weak_grounding_cases"] == 8
