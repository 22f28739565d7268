"""Choosing among boxes by where a text looks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.refcoco_data import detections, write_refcoco
from tests.tiny import photo, tiny_loaded, write_photos
from xvlm.data.sources import JsonSource, Source, open_source
from xvlm.evaluate import weak_grounding
from xvlm.evaluate._layers import best_of, layers_json, layers_table, search_layers
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.weak_grounding import enlarged, evaluate_maps, highest_inside, sums_inside
from xvlm.model.xvlm import MissingPart, build_model
from xvlm.predict import Predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_loaded("cnn"))


@pytest.fixture
def refcoco(tmp_path: Path) -> Path:
    write_refcoco(tmp_path / "refcoco+", tmp_path / "refcoco+")
    return tmp_path / "refcoco+"


def listed(folder: Path, *items: dict[str, Any]) -> Source:
    """Phrases about one photograph of 80 x 60 pixels."""
    photo(80, 60, 0).save(folder / "a.jpg")
    (folder / "a.json").write_text(json.dumps([{"image": "a.jpg", **item} for item in items]))
    return JsonSource(folder / "a.json")


def test_sums_are_over_whole_pixels() -> None:
    map_HW = torch.rand(7, 9, dtype=torch.float64)
    boxes = [(0.0, 0.0, 9.0, 7.0), (2.0, 1.0, 5.0, 4.0), (8.0, 6.0, 20.0, 30.0), (3.5, 2.5, 3.9, 2.9)]
    boxes += [(-3.0, -2.0, 2.0, 3.0), (40.0, 3.0, 50.0, 9.0)]
    expected = [map_HW.sum(), map_HW[1:4, 2:5].sum(), map_HW[6, 8], 0, map_HW[:3, :2].sum(), 0]
    assert sums_inside(map_HW, boxes).tolist() == pytest.approx([float(one) for one in expected], abs=1e-6)


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


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_prediction_can_be_made_again_from_its_map(
    power: float, predictor: Predictor, refcoco: Path
) -> None:
    """The map that is kept, enlarged, summed over the candidates that are kept, over the area."""
    source = open_source(f"refcoco:{refcoco}:unc")
    metrics, predictions = evaluate_maps(predictor, source, power=power)
    assert len(predictions) == metrics["weak_grounding_cases"] == 7
    for one in predictions:
        map_hw = torch.tensor(one.map_hw)
        assert map_hw.shape == (4, 6) and set(one.candidates_xyxy) >= {one.true_xyxy, one.predicted_xyxy}
        map_HW = enlarged(map_hw, 64, 80)
        scores = [
            float(map_HW[int(y0) : int(y1), int(x0) : int(x1)].sum()) / ((x1 - x0) * (y1 - y0)) ** power
            for x0, y0, x1, y1 in one.candidates_xyxy
        ]
        assert max(scores) == pytest.approx(one.score, rel=1e-2)
        assert one.candidates_xyxy[scores.index(max(scores))] == one.predicted_xyxy
    written = json.loads(json.dumps([one.to_json() for one in predictions]))
    assert len(written[0]["map_hw"]) == 4 and written[0]["ref_id"] == 10 and written[0]["split"] == "train"


def test_each_split_stands_beside_all(predictor: Predictor, refcoco: Path) -> None:
    source = open_source(f"refcoco:{refcoco}:unc")
    for metrics, predictions, name in (
        (*evaluate_maps(predictor, source), "weak_grounding_acc"),
        (*evaluate_grounding(predictor, source), "grounding_acc50"),
    ):
        for suffix in ("", "_inclusive"):
            assert {key for key in metrics if key.startswith(f"{name}{suffix}_t")} == {
                f"{name}{suffix}_{split}" for split in ("train", "testA", "testB")
            }
        of_train = [one.iou >= 0.5 for one in predictions if one.split == "train"]
        assert metrics[f"{name}_train"] == pytest.approx(sum(of_train) / 3) and len(of_train) == 3


# candidates -------------------------------------------------------------------------------------------


def test_candidates_are_those_of_the_file(predictor: Predictor, refcoco: Path) -> None:
    source = open_source(f"refcoco:{refcoco}:unc")
    known = detections()
    metrics, predictions = evaluate_maps(predictor, source, detections=refcoco / "dets.json")
    assert metrics["weak_grounding_chance"] == pytest.approx(1 / 3) and len(predictions) == 7
    for one in predictions:
        image = str(int(str(one.image)[-8:-4]))
        assert one.candidates_xyxy == tuple((x, y, x + w, y + h) for x, y, w, h, *_ in known[image])
        assert 0 <= one.iou < 1, "a pixel too small, or wrong"


def test_images_that_the_file_lacks_are_counted(predictor: Predictor, refcoco: Path, tmp_path: Path) -> None:
    known = detections()
    (refcoco / "dets.json").write_text(json.dumps({"58": known["58"], "72": []}))
    source = open_source(f"refcoco:{refcoco}:unc")
    metrics, predictions = evaluate_maps(predictor, source, detections=refcoco / "dets.json")
    assert metrics["weak_grounding_bad_records"] == 3 and len(predictions) == 4
    (refcoco / "dets.json").write_text("{}")
    with pytest.raises(
        ValueError,
        match=r"has no phrase .*; first problem: .*no detections for the image \(image_id 58",
    ):
        evaluate_maps(predictor, source, detections=refcoco / "dets.json")
    unnamed = listed(tmp_path, {"text": "a dog", "bbox": [1, 2, 30, 30]})
    with pytest.raises(ValueError, match=r"no detections for the image \(the record has no image_id"):
        evaluate_maps(predictor, unnamed, detections=refcoco / "dets.json")


def test_candidates_of_the_record_itself(predictor: Predictor, tmp_path: Path) -> None:
    """As in the files of VLUE; and one candidate is chosen whatever is looked at."""
    box = [1, 2, 30, 30]
    source = listed(
        tmp_path,
        {"text": "a dog", "bbox": box, "dets": [[40, 30, 20, 20], [2, 2, 30, 30], [0, 0, 9, 9]]},
        {"text": "red car", "bbox": box, "dets": [[2, 2, 30, 30]]},
        {"text": "the tree", "bbox": box, "dets": [[40, 30, 20, 20]]},
        {"text": "the tree", "bbox": box},
        {"text": "the tree", "bbox": box, "dets": [[40, 30]]},
        {"text": "the tree", "bbox": box, "dets": 7},
        {"text": "the tree", "bbox": box, "dets": []},
    )
    metrics, predictions = evaluate_maps(predictor, source)
    assert [len(one.candidates_xyxy) for one in predictions] == [3, 1, 1, 1]
    assert [one.iou >= 0.5 for one in predictions[1:]] == [True, False, True]
    assert metrics["weak_grounding_bad_records"] == 3
    assert metrics["weak_grounding_chance"] == pytest.approx((1 / 3 + 1 + 0 + 1) / 4)


# the search for the best layer ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_every_line_of_the_search_is_an_evaluation(
    kind: str, refcoco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, source = Predictor(tiny_loaded(kind)), open_source(f"refcoco:{refcoco}:unc")
    powers, dets = (0.0, 0.5, 1.0), refcoco / "dets.json"
    expected = {
        (layer, power): evaluate_maps(predictor, source, layer=layer, power=power, detections=dets, batch=1)[
            0
        ]
        for layer in (0, 1)
        for power in powers
    }
    encoded = []
    encode = predictor.encode_images
    monkeypatch.setattr(
        predictor, "encode_images", lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    )
    results = search_layers(predictor, source, powers=powers, detections=dets, batch=1)
    assert encoded == [1, 1], "every image once"
    assert {(one.layer, one.power): one.metrics for one in results} == expected
    assert len({tuple(one.items()) for one in expected.values()}) > 1
    best = best_of(results)
    assert best.metrics["weak_grounding_acc"] == max(one["weak_grounding_acc"] for one in expected.values())
    written = json.loads(json.dumps(layers_json(results)))
    assert written["best"] == {"layer": best.layer, "power": best.power, **best.metrics}
    assert [(row["layer"], row["power"]) for row in written["layers"]] == list(expected)
    lines = layers_table(results).splitlines()
    assert len(lines) == 2 + len(expected) and sum(line.endswith("best") for line in lines) == 1
    assert lines[1 + results.index(best)].endswith("best") and lines[-1].startswith("7 cases")


# wrong inputs -----------------------------------------------------------------------------------------


def test_what_a_model_lacks_is_named(tmp_path: Path) -> None:
    """Before any image is read."""
    loaded = tiny_loaded("cnn")
    config = loaded.model.config
    source = open_source("scene-cases:test:2?image_size=64")

    def with_parts(*parts: Any) -> Predictor:
        return Predictor(replace(loaded, model=build_model(replace(config, parts=parts))))

    with pytest.raises(MissingPart, match=r"no 'box', so it cannot do that; it has contrastive, matching"):
        evaluate_grounding(with_parts("contrastive", "matching"), source)
    for part in ("pairs", "captions"):
        with pytest.raises(MissingPart, match=rf"no 'box', so .* it has {part}"):
            evaluate_grounding(with_parts(part), source)
    for parts in (("box",), ("pairs",), ("captions",)):
        for measure in (evaluate_maps, search_layers):
            with pytest.raises(MissingPart, match=rf"no 'matching', so .* it has {parts[0]}"):
                measure(with_parts(*parts), source)


def test_wrong_questions_are_one_sentence(predictor: Predictor, tmp_path: Path) -> None:
    source = listed(tmp_path, {"text": "a dog", "bbox": [1, 2, 30, 30]})
    for layer in (2, -1):
        with pytest.raises(ValueError, match=f"layer is {layer}; the cross-modal encoder has layers 0 to 1"):
            evaluate_maps(predictor, source, layer=layer)
    with pytest.raises(ValueError, match="powers is empty"):
        search_layers(predictor, source, powers=())
    boxless = listed(tmp_path, {"text": "a dog", "ref_id": 1})
    for measure in (evaluate_maps, evaluate_grounding, search_layers):
        with pytest.raises(
            ValueError, match=r"a\.json has no phrase with a box.*; first problem: .*a\.json\[0\]: no box"
        ):
            measure(predictor, boxless)


def test_records_without_a_box_are_counted(predictor: Predictor, tmp_path: Path) -> None:
    source = listed(
        tmp_path, {"text": "a dog", "bbox": [1, 2, 30, 30]}, {"text": "a cat"}, {"caption": "cars"}
    )
    for measure, name in ((evaluate_maps, "weak_grounding"), (evaluate_grounding, "grounding")):
        metrics, predictions = measure(predictor, source)
        assert len(predictions) == 1 and metrics[f"{name}_bad_records"] == 2
