"""Evaluation of detection: its metrics on known predictions, and the whole way from a file to a report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.kit import predictor_of, source_of
from tests.tiny import tiny_loaded_for
from xvlm.cli import main
from xvlm.evaluation.detection import (
    DetectionPrediction,
    Wanted,
    detection_metrics,
    evaluate_detection,
    sections,
)
from xvlm.experiments.calibrated import calibrate
from xvlm.models.checkpoints.folder import load_model, save_model
from xvlm.predict import Predictor
from xvlm.records import BoxXYXY
from xvlm.reports import write_report

BOX: BoxXYXY = (10.0, 10.0, 30.0, 30.0)
OTHER: BoxXYXY = (50.0, 50.0, 70.0, 70.0)
SMALL: BoxXYXY = (80.0, 80.0, 90.0, 90.0)
FAR: BoxXYXY = (0.0, 60.0, 8.0, 99.0)


def predicted(
    targets: list[BoxXYXY], found: list[tuple[BoxXYXY, float]], presence: float = 0.9, **fields: Any
) -> DetectionPrediction:
    """A prediction in an image of 5,000 pixels."""
    wanted = Wanted("a dog", tuple(targets), fields.get("kind", ""), tuple(fields.get("rivals", ())), 5_000)
    return DetectionPrediction(
        "k",
        torch.zeros(100, 100, 3, dtype=torch.uint8).numpy(),
        wanted,
        presence,
        math.log(presence / (1 - presence)),
        tuple(box for box, _ in found),
        tuple(p for _, p in found),
        tuple(math.log(p / (1 - p)) for _, p in found),
        0.5,
    )


CASES = [
    predicted([BOX], [(BOX, 0.9), (OTHER, 0.2)]),  # right
    predicted([BOX], [(BOX, 0.9), (OTHER, 0.8)]),  # a false alarm
    predicted([BOX], [(OTHER, 0.9), (BOX, 0.3)], kind="relation", rivals=[OTHER]),  # the rival
    predicted([SMALL], [(FAR, 0.9)]),  # a small one is missed
    predicted([BOX, OTHER], [(BOX, 0.9), (OTHER, 0.8)]),  # right
    predicted([BOX, OTHER], [(BOX, 0.9)]),  # one is missed
    predicted([], [(BOX, 0.1)], 0.1),  # right
    predicted([], [(BOX, 0.7)], 0.8),  # a false alarm
]


def test_metrics_of_known_predictions() -> None:
    metrics = detection_metrics(CASES)
    assert metrics["detection_f1"] == 3 / 8
    assert metrics["detection_f1_one"] == 1 / 4
    assert metrics["detection_f1_several"] == metrics["detection_n_acc"] == 1 / 2
    assert metrics["detection_t_acc"] == 1
    assert metrics["anybox_r1"] == 4 / 6 and metrics["anybox_r5"] == 5 / 6
    # Both found boxes together are the merged box of the first pair; one alone is not.
    assert metrics["mergedbox_r1"] == pytest.approx((1 + 0 + 0 + 0 + 1 + 0) / 6)
    assert metrics["detection_acc50"] == 2 / 4 and metrics["detection_acc50_small"] == 0
    assert metrics["detection_acc50_relation"] == 0 and metrics["detection_rival"] == 1
    assert metrics["presence_auroc"] == 1
    assert metrics["presence_ece"] == pytest.approx((6 * 0.1 + 0.1 + 0.8) / 8)
    assert metrics["detection_cases"] == 8


def test_a_target_makes_one_box_right() -> None:
    """Of two boxes around one thing the more probable one is right, the other a false alarm."""
    twice = predicted([BOX, OTHER], [(BOX, 0.9), ((11.0, 10.0, 31.0, 30.0), 0.8), (OTHER, 0.7)])
    assert twice.are_right() == [True, False, True]
    assert twice.outcome().hits == 2 and twice.outcome().f1 < 1
    assert predicted([], [(BOX, 0.9)]).are_right() == [False]


def test_report_of_known_predictions(tmp_path: Path) -> None:
    page = write_report(tmp_path / "report.html", "t", sections=sections(CASES)).read_text()
    assert "Misses and false alarms" in page and "expected calibration error" in page
    assert page.count("1 found of 1") >= 2 and "0 found of 0" in page


def items() -> list[dict[str, Any]]:
    elems = [
        {"caption": ["the red dog"], "bb": [24, 20, 13, 11]},
        {"caption": ["the dogs"], "bb": [[24, 20, 13, 11], [40, 30, 13, 11]]},
    ]
    return [
        {"image": f"{number}.jpg", "caption": "a dog", "elems": elems, "absent": ["the blue cat"]}
        for number in range(4)
    ]


def test_from_a_file(photos: Path) -> None:
    predictor = predictor_of("detection")
    metrics, predictions = evaluate_detection(predictor, source_of(photos, items()), threshold=0.0)
    assert metrics["detection_cases"] == len(predictions) == 12 and metrics["detection_skipped"] == 0
    counts = [len(one.wanted.targets_xyxy) for one in predictions]
    assert counts == [1, 2, 0] * 4
    for one in predictions:
        assert one.found_xyxy == one.chosen_xyxy and len(one.found_xyxy) > 0
        assert list(one.probabilities) == sorted(one.probabilities, reverse=True)
        found = predictor.image(photos / one.image.rsplit("/", 1)[-1]).find(one.wanted.text, 0.0)
        assert [box.score for box in found] == pytest.approx(list(one.probabilities), abs=1e-5)
    assert json.loads(json.dumps(predictions[0].to_json()))["text"] == "the red dog"
    none, _ = evaluate_detection(predictor, source_of(photos, items()), threshold=1.0)
    assert none["detection_n_acc"] == 1 and none["detection_t_acc"] == 0
    assert none["anybox_r10"] == metrics["anybox_r10"]
    with_ap, _ = evaluate_detection(predictor, source_of(photos, items()), categories=True)
    assert 0 <= with_ap["detection_ap50"] <= 1


def test_a_failed_training_is_wrong_about_everything(photos: Path) -> None:
    predictor = predictor_of("detection")
    for parameter in predictor.model.parameters():
        parameter.data.fill_(math.nan)
    metrics, predictions = evaluate_detection(predictor, source_of(photos, items()))
    assert metrics["detection_f1"] == metrics["detection_n_acc"] == metrics["presence_auroc"] == 0
    assert metrics["presence_ece"] == 1
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(one.found_xyxy == () for one in predictions)


def test_calibrate_changes_probabilities_not_the_order(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_model(tiny_loaded_for("detection"), tmp_path / "model")
    predictor = Predictor.load(folder)
    known = []
    for item in items():  # a random model is right about what it finds itself
        (x0, y0, x1, y1), _, _ = predictor.image(photos / item["image"]).find("the red dog", 0.0)[1]
        known.append({**item, "elems": [{"caption": "the red dog", "bb": [x0, y0, x1 - x0, y1 - y0]}]})
    source_of(photos, known, "held_out.json")
    raw = predictor.image(photos / "0.jpg")
    assert main(["calibrate", "--model", str(folder), "--data", str(photos / "held_out.json")]) == 0
    assert "| presence | 8 |" in capsys.readouterr().out
    calibrated = Predictor.load(folder)
    assert calibrated.calibration.presence.scale != 1.0
    seen = calibrated.image(photos / "0.jpg")
    before, after = raw.find("the red dog", 0.0), seen.find("the red dog", 0.0)
    assert [one.log_odds for one in before] == [one.log_odds for one in after]
    assert [one.box_xyxy for one in before] == [one.box_xyxy for one in after]
    assert [one.score for one in before] != [one.score for one in after]
    platt = calibrated.calibration.box
    for one in after:
        assert one.score == pytest.approx(
            1 / (1 + math.exp(-platt.scale * one.log_odds - platt.offset)), abs=1e-5
        )


def test_calibrate_needs_a_head_and_both_kinds(photos: Path, tmp_path: Path) -> None:
    folder = save_model(tiny_loaded_for("caption_decoder"), tmp_path / "captions")
    with pytest.raises(ValueError, match="calibration needs detection, or box and matching"):
        calibrate(load_model(folder), folder, source_of(photos, items()))
    folder = save_model(tiny_loaded_for("detection"), tmp_path / "model")
    present = [{name: value for name, value in one.items() if name != "absent"} for one in items()]
    with pytest.raises(ValueError, match="8 true and 0 false"):
        calibrate(load_model(folder), folder, source_of(photos, present))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"presence": {"scale": -1}}, "presence.scale is -1.0; it must be at least 0"),
        ({"presence": {"slope": 1}}, "presence.slope is not a field of Platt"),
        ({"thresholds": [[0.9, 1.5]]}, "thresholds.0.1 is 1.5; it must be at least 0 and at most 1"),
        ([1], "must be an object"),
    ],
)
def test_a_damaged_calibration_is_named(tmp_path: Path, entry: Any, message: str) -> None:
    folder = save_model(tiny_loaded_for("detection"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "calibration": entry}))
    with pytest.raises(ValueError, match=message) as caught:
        load_model(folder)
    assert "config.json" in str(caught.value)


def test_a_folder_without_calibration_has_raw_scores(tmp_path: Path) -> None:
    folder = save_model(tiny_loaded_for("detection"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["calibration"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder).calibration.box.scale == 1.0
