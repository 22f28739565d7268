"""`Photo.find`, `find_all` and `xvlm find`: everything that phrases describe, or nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import photo, tiny_loaded, tiny_loaded_for
from xvlm.cli import main
from xvlm.common.errors import InputError, WeightsError
from xvlm.models.calibration import Calibration, Platt
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.xvlm import PRETRAINING
from xvlm.predict import Photo, Predictor

TEXT = "a small dog beside two red cars"


@pytest.fixture(scope="module")
def seen() -> Photo:
    return Predictor(tiny_loaded_for("detection")).image(photo(80, 60, 3))


def test_phrases_do_not_depend_on_each_other(seen: Photo) -> None:
    phrases = ["the dog", "two red cars", "the dog"]
    together = seen.find_many(phrases, 0.0)
    for phrase, found in zip(phrases, together, strict=True):
        alone = seen.find(phrase, 0.0)
        assert len(alone) == len(found) > 0
        for one, other in zip(alone, found, strict=True):
            assert one.box_xyxy == pytest.approx(other.box_xyxy, abs=1e-3)
            assert one.score == pytest.approx(other.score, abs=1e-5)
    assert seen.presence(phrases) == pytest.approx([seen.presence([one])[0] for one in phrases], abs=1e-5)


def test_a_threshold_takes_those_from_it_on(seen: Photo) -> None:
    everything = seen.find("the dog", 0.0)
    scores = [one.score for one in everything]
    assert scores == sorted(scores, reverse=True)
    middle = scores[len(scores) // 2]
    assert [one.score for one in seen.find("the dog", middle)] == [one for one in scores if one >= middle]
    assert seen.find("the dog", 1.0) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan])
def test_a_wrong_threshold_is_named(seen: Photo, wrong: float) -> None:
    with pytest.raises(InputError, match="it must be 0 to 1"):
        seen.find("the dog", wrong)


def test_noun_phrases_of_a_text_are_found_at_once(seen: Photo) -> None:
    parts = seen.find_all(TEXT, 0.0)
    assert [part.text for part in parts] == ["a small dog", "two red cars"]
    for part in parts:
        assert TEXT[part.start : part.end] == part.text
        assert [one.score for one in part.found] == pytest.approx(
            [one.score for one in seen.find(part.text, 0.0)], abs=1e-5
        )
    (own,) = seen.find_all(TEXT, 0.0, spans=[(8, 11)])
    assert own.text == "dog" and own.found


@pytest.mark.parametrize("span", [(0, 0), (5, 3), (-1, 4), (0, 99)])
def test_a_span_outside_the_text_is_named(seen: Photo, span: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="is not within the 31 characters"):
        seen.find_all(TEXT, spans=[span])
    with pytest.raises(InputError, match="no noun phrase was found in 'it is there'"):
        seen.find_all("it is there")


def test_calibration_changes_scores_and_raw_ones_stay() -> None:
    bundle = tiny_loaded(heads=(*PRETRAINING, "detection"))
    calibration = Calibration(
        presence=Platt(0.5, 1.0), box=Platt(0.5, 2.0), ground=Platt(0.5, 1.0), match=Platt(2.0, -1.0)
    )
    raw = Predictor(bundle).image(photo(80, 60, 3))
    calibrated = Predictor(replace(bundle, calibration=calibration)).image(photo(80, 60, 3))

    def log_odds(score: float | None) -> float:
        assert score is not None
        return math.log(score / (1 - score))

    assert log_odds(calibrated.ground("the dog").score) == pytest.approx(
        0.5 * log_odds(raw.ground("the dog").score) + 1.0, abs=1e-3
    )
    assert calibrated.ground("the dog", calibrated=False) == raw.ground("the dog")
    (before,), (after,) = raw.match(["the dog"]), calibrated.match(["the dog"])
    assert log_odds(after) == pytest.approx(2 * log_odds(before) - 1, abs=1e-3)
    assert calibrated.match(["the dog"], calibrated=False) == raw.match(["the dog"])
    (before,), (after,) = raw.presence(["the dog"]), calibrated.presence(["the dog"])
    assert log_odds(after) == pytest.approx(0.5 * log_odds(before) + 1, abs=1e-3)


def test_ground_never_answers_with_nan() -> None:
    """A model without a score has none; one whose weights are no numbers is an error."""
    assert Predictor(tiny_loaded_for("box")).image(photo(80, 60, 3)).ground("the dog").score is None
    broken = tiny_loaded_for("box")
    for parameter in broken.model.parameters():
        parameter.data.fill_(math.nan)
    with pytest.raises(WeightsError, match="boxes are not numbers"):
        Predictor(broken).image(photo(80, 60, 3)).ground("the dog")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_model(tiny_loaded_for("detection"), tmp_path / "model")
    photo(80, 60, 3).save(tmp_path / "a.png")
    seen = Predictor.load(model).image(tmp_path / "a.png")
    words = ["find", str(tmp_path / "a.png"), "the dog", "two cars", "--model", str(model)]
    drawn = tmp_path / "drawn.png"
    assert main([*words, "--min-probability", "0", "--json", "--draw", str(drawn)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["phrase"] for one in answer["phrases"]] == ["the dog", "two cars"]
    for one, expected in zip(answer["phrases"], seen.find_many(["the dog", "two cars"], 0.0), strict=True):
        assert [found["score"] for found in one["found"]] == pytest.approx(
            [x.score for x in expected], abs=1e-6
        )
    assert Image.open(drawn).size == (80, 60)
    assert Image.open(drawn).tobytes() != Image.open(tmp_path / "a.png").convert("RGB").tobytes()
    assert main([*words, "--min-probability", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["none    the dog", "none    two cars"]
    assert main(["find", words[1], TEXT, "--noun-phrases", "--min-probability", "0", *words[-2:]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("  ")[1] for line in lines} == {"a small dog", "two red cars"}
