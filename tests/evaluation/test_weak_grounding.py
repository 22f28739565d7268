"""Choice among candidate boxes by the attention of the matching head."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.kit import count_encoded
from tests.refcoco_data import detections, write_refcoco
from tests.tiny import photo, tiny_loaded, write_photos
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.open import open_source
from xvlm.data.sources.source import Source
from xvlm.evaluation import weak_grounding
from xvlm.evaluation.grounding import evaluate_grounding
from xvlm.evaluation.layer_search import best_of, layers_json, layers_table, search_layers
from xvlm.evaluation.weak_grounding import enlarge, evaluate_weak_grounding, is_maximum_inside, sum_over_boxes
from xvlm.models.xvlm import MissingHead, build_model
from xvlm.predict import Predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_loaded("cnn"))


@pytest.fixture
def refcoco(tmp_path: Path) -> Path:
    write_refcoco(tmp_path / "refcoco+", tmp_path / "refcoco+")
    return tmp_path / "refcoco+"


def source_of(folder: Path, *items: dict[str, Any]) -> Source:
    """Return a source of phrases about one image of 80 x 60 pixels."""
    photo(80, 60, 0).save(folder / "a.jpg")
    (folder / "a.json").write_text(json.dumps([{"image": "a.jpg", **item} for item in items]))
    return JsonSource(folder / "a.json")


def test_sums_are_over_whole_pixels() -> None:
    heatmap = torch.rand(7, 9, dtype=torch.float64)
    boxes = [(0.0, 0.0, 9.0, 7.0), (2.0, 1.0, 5.0, 4.0), (8.0, 6.0, 20.0, 30.0), (3.5, 2.5, 3.9, 2.9)]
    boxes += [(-3.0, -2.0, 2.0, 3.0), (40.0, 3.0, 50.0, 9.0)]
    expected = [heatmap.sum(), heatmap[1:4, 2:5].sum(), heatmap[6, 8], 0, heatmap[:3, :2].sum(), 0]
    assert sum_over_boxes(heatmap, boxes).tolist() == pytest.approx(
        [float(one) for one in expected], abs=1e-6
    )


def test_pointing() -> None:
    heatmap = torch.zeros(6, 8)
    heatmap[2, 5] = 1
    assert is_maximum_inside(heatmap, (5, 2, 6, 3)) and not is_maximum_inside(heatmap, (0, 0, 5, 6))


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_maps_that_show_the_true_boxes_are_correct(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With maps that are 1 inside the true boxes every choice is correct, with inverted maps none; a random
    choice between two boxes is correct half of the time."""
    source = JsonSource(write_photos(tmp_path, 4))
    predictor = Predictor(tiny_loaded(kind))
    boxes = [
        (*concept.box_xyxy, source[i])
        for i in range(len(source))
        for concept in source[i].concepts
        if concept.box_xyxy
    ]
    true_boxes = [box[:4] for box in boxes]
    for correct in (True, False):
        order = iter(true_boxes)

        def inside_box(map_hw: torch.Tensor, height: int, width: int) -> torch.Tensor:
            x0, y0, x1, y1 = next(order)  # noqa: B023
            heatmap = torch.zeros(height, width)
            heatmap[math.ceil(y0) : int(y1), math.ceil(x0) : int(x1)] = 1
            return heatmap if correct else 1 - heatmap  # noqa: B023

        monkeypatch.setattr(weak_grounding, "enlarge", inside_box)
        metrics, predictions = evaluate_weak_grounding(predictor, source, power=1.0, batch_size=3)
        assert metrics["weak_grounding_acc"] == metrics["weak_grounding_pointing"] == float(correct)
        assert metrics["weak_grounding_chance"] == 0.5
        assert len(predictions) == metrics["weak_grounding_cases"] == 8


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_prediction_follows_from_its_map(power: float, predictor: Predictor, refcoco: Path) -> None:
    """The score is the sum of the enlarged map over a candidate, divided by a power of its area."""
    source = open_source(f"refcoco:{refcoco}:unc")
    metrics, predictions = evaluate_weak_grounding(predictor, source, power=power)
    assert len(predictions) == metrics["weak_grounding_cases"] == 7
    for one in predictions:
        map_hw = torch.tensor(one.map_hw)
        assert map_hw.shape == (4, 6) and set(one.candidates_xyxy) >= {one.true_xyxy, one.predicted_xyxy}
        heatmap = enlarge(map_hw, 64, 80)
        scores = [
            float(heatmap[int(y0) : int(y1), int(x0) : int(x1)].sum()) / ((x1 - x0) * (y1 - y0)) ** power
            for x0, y0, x1, y1 in one.candidates_xyxy
        ]
        assert max(scores) == pytest.approx(one.score, rel=1e-2)
        assert one.candidates_xyxy[scores.index(max(scores))] == one.predicted_xyxy
    rows = json.loads(json.dumps([one.to_json() for one in predictions]))
    assert len(rows[0]["map_hw"]) == 4 and rows[0]["ref_id"] == 10 and rows[0]["split"] == "train"


def test_each_split_has_its_own_accuracy(predictor: Predictor, refcoco: Path) -> None:
    source = open_source(f"refcoco:{refcoco}:unc")
    for metrics, predictions, name in (
        (*evaluate_weak_grounding(predictor, source), "weak_grounding_acc"),
        (*evaluate_grounding(predictor, source), "grounding_acc50"),
    ):
        for suffix in ("", "_inclusive"):
            assert {key for key in metrics if key.startswith(f"{name}{suffix}_t")} == {
                f"{name}{suffix}_{split}" for split in ("train", "testA", "testB")
            }
        correct = [one.iou >= 0.5 for one in predictions if one.split == "train"]
        assert metrics[f"{name}_train"] == pytest.approx(sum(correct) / 3) and len(correct) == 3


# candidates -------------------------------------------------------------------------------------------


def test_candidates_are_those_of_the_file(predictor: Predictor, refcoco: Path) -> None:
    source = open_source(f"refcoco:{refcoco}:unc")
    boxes = detections()
    metrics, predictions = evaluate_weak_grounding(predictor, source, detections=refcoco / "dets.json")
    assert metrics["weak_grounding_chance"] == pytest.approx(1 / 3) and len(predictions) == 7
    for one in predictions:
        image = str(int(str(one.image)[-8:-4]))
        assert one.candidates_xyxy == tuple((x, y, x + w, y + h) for x, y, w, h, *_ in boxes[image])
        assert 0 <= one.iou < 1, "detections are not the annotated boxes"


def test_images_without_detections_are_skipped(predictor: Predictor, refcoco: Path, tmp_path: Path) -> None:
    (refcoco / "dets.json").write_text(json.dumps({"58": detections()["58"], "72": []}))
    source = open_source(f"refcoco:{refcoco}:unc")
    metrics, predictions = evaluate_weak_grounding(predictor, source, detections=refcoco / "dets.json")
    assert metrics["weak_grounding_skipped"] == 3 and len(predictions) == 4
    (refcoco / "dets.json").write_text("{}")
    with pytest.raises(
        ValueError,
        match=r"has no phrase .*; first problem: .*no detections for the image \(image_id 58",
    ):
        evaluate_weak_grounding(predictor, source, detections=refcoco / "dets.json")
    unnamed = source_of(tmp_path, {"text": "a dog", "bbox": [1, 2, 30, 30]})
    with pytest.raises(ValueError, match=r"no detections for the image \(the record has no image_id"):
        evaluate_weak_grounding(predictor, unnamed, detections=refcoco / "dets.json")


def test_candidates_of_the_record_itself(predictor: Predictor, tmp_path: Path) -> None:
    """Records of VLUE have their own candidates; a single candidate is always chosen."""
    box = [1, 2, 30, 30]
    source = source_of(
        tmp_path,
        {"text": "a dog", "bbox": box, "dets": [[40, 30, 20, 20], [2, 2, 30, 30], [0, 0, 9, 9]]},
        {"text": "red car", "bbox": box, "dets": [[2, 2, 30, 30]]},
        {"text": "the tree", "bbox": box, "dets": [[40, 30, 20, 20]]},
        {"text": "the tree", "bbox": box},
        {"text": "the tree", "bbox": box, "dets": [[40, 30]]},
        {"text": "the tree", "bbox": box, "dets": 7},
        {"text": "the tree", "bbox": box, "dets": []},
    )
    metrics, predictions = evaluate_weak_grounding(predictor, source)
    assert [len(one.candidates_xyxy) for one in predictions] == [3, 1, 1, 1]
    assert [one.iou >= 0.5 for one in predictions[1:]] == [True, False, True]
    assert metrics["weak_grounding_skipped"] == 3
    assert metrics["weak_grounding_chance"] == pytest.approx((1 / 3 + 1 + 0 + 1) / 4)


# the search for the best layer ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_every_row_of_the_search_is_an_evaluation(
    kind: str, refcoco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, source = Predictor(tiny_loaded(kind)), open_source(f"refcoco:{refcoco}:unc")
    powers, dets = (0.0, 0.5, 1.0), refcoco / "dets.json"
    expected = {
        (layer, power): evaluate_weak_grounding(
            predictor, source, layer=layer, power=power, detections=dets, batch_size=1
        )[0]
        for layer in (0, 1)
        for power in powers
    }
    encoded = count_encoded(predictor, monkeypatch)
    results = search_layers(predictor, source, powers=powers, detections=dets, batch_size=1)
    assert encoded == [1, 1], "each image is encoded once"
    assert {(one.layer, one.power): one.metrics for one in results} == expected
    assert len({tuple(one.items()) for one in expected.values()}) > 1
    best = best_of(results)
    assert best.metrics["weak_grounding_acc"] == max(one["weak_grounding_acc"] for one in expected.values())
    rows = json.loads(json.dumps(layers_json(results)))
    assert rows["best"] == {"layer": best.layer, "power": best.power, **best.metrics}
    assert [(row["layer"], row["power"]) for row in rows["layers"]] == list(expected)
    lines = layers_table(results).splitlines()
    assert len(lines) == 2 + len(expected) and sum(line.endswith("best") for line in lines) == 1
    assert lines[1 + results.index(best)].endswith("best") and lines[-1].startswith("7 phrases")


# wrong inputs -----------------------------------------------------------------------------------------


def test_a_missing_head_is_named() -> None:
    """The error comes before any image is read."""
    bundle = tiny_loaded("cnn")
    config = bundle.model.config
    source = open_source("scene-cases:test:2?image_size=64")

    def with_heads(*heads: Any) -> Predictor:
        return Predictor(replace(bundle, model=build_model(replace(config, heads=heads))))

    with pytest.raises(
        MissingHead, match=r"no head 'box', so it cannot do that; it has contrastive, matching"
    ):
        evaluate_grounding(with_heads("contrastive", "matching"), source)
    for head in ("pair_classifier", "caption_decoder"):
        with pytest.raises(MissingHead, match=rf"no head 'box', so .* it has {head}"):
            evaluate_grounding(with_heads(head), source)
    for head in ("box", "pair_classifier", "caption_decoder"):
        for evaluate in (evaluate_weak_grounding, search_layers):
            with pytest.raises(MissingHead, match=rf"no head 'matching', so .* it has {head}"):
                evaluate(with_heads(head), source)


def test_wrong_options_are_named(predictor: Predictor, tmp_path: Path) -> None:
    source = source_of(tmp_path, {"text": "a dog", "bbox": [1, 2, 30, 30]})
    for layer, message in ((2, "the cross-modal encoder has layers 0 to 1"), (-1, "it must be at least 0")):
        with pytest.raises(ValueError, match=f"layer is {layer}; {message}"):
            evaluate_weak_grounding(predictor, source, layer=layer)
    with pytest.raises(ValueError, match="powers is empty"):
        search_layers(predictor, source, powers=())
    without_box = source_of(tmp_path, {"text": "a dog", "ref_id": 1})
    for evaluate in (evaluate_weak_grounding, evaluate_grounding, search_layers):
        with pytest.raises(
            ValueError, match=r"a\.json has no phrase with a box.*; first problem: .*a\.json\[0\]: no box"
        ):
            evaluate(predictor, without_box)


def test_records_without_a_box_are_skipped(predictor: Predictor, tmp_path: Path) -> None:
    source = source_of(
        tmp_path, {"text": "a dog", "bbox": [1, 2, 30, 30]}, {"text": "a cat"}, {"caption": "cars"}
    )
    for evaluate, name in ((evaluate_weak_grounding, "weak_grounding"), (evaluate_grounding, "grounding")):
        metrics, predictions = evaluate(predictor, source)
        assert len(predictions) == 1 and metrics[f"{name}_skipped"] == 2
