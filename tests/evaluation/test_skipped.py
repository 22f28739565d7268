"""Skipped samples are reported with reasons, and an evaluation with too many of them is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.kit import source_of
from tests.tiny import photo, tiny_loaded, tiny_loaded_for
from xvlm.cli import main
from xvlm.common.errors import InputError, TooManyBadRecordsError
from xvlm.evaluation.common.skipped import SkippedSample, SkippedSamples
from xvlm.evaluation.entailment import EntailmentPrediction
from xvlm.evaluation.grounding import evaluate_grounding
from xvlm.evaluation.nlvr2 import NLVR2Prediction
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.vqa import evaluate_vqa
from xvlm.models.checkpoints.folder import save_model
from xvlm.predict import Predictor
from xvlm.records import BadRecord, normalize_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skipped")
    for number in range(3):
        photo(60, 50, number).save(folder / f"{number}.png")
    save_model(tiny_loaded(), folder / "model")
    save_model(tiny_loaded_for("vqa_decoder"), folder / "vqa_decoder")
    return folder


def evaluated(folder: Path, measure: str, items: list[dict[str, Any]], *more: str) -> tuple[int, Path]:
    """Return the exit code, 2 for too many skipped samples, and the folder of results."""
    (folder / "items.json").write_text(json.dumps(items))
    out = folder / "out" / measure
    model = folder / ("vqa_decoder" if measure == "vqa" else "model")
    words = ["eval", measure, "--model", model, "--data", folder / "items.json", "--out", out, *more]
    try:
        return main([str(word) for word in words]), out
    except TooManyBadRecordsError as error:
        return 2 if "cannot be used" in str(error) else 1, out


def phrases(boxes: list[list[float]]) -> list[dict[str, Any]]:
    return [{"image": f"{n % 3}.png", "text": "the red dog", "bbox": box} for n, box in enumerate(boxes)]


def test_boxes_as_two_corners_are_refused_with_a_hint(folder: Path) -> None:
    corners = [[35 + n, 30, 58, 48] for n in range(12)]
    code, out = evaluated(folder, "grounding", phrases([*corners, [0, 0, 30, 30]]))
    lines = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert code == 2 and not (out / "metrics.json").exists()
    assert [one["key"] for one in lines] == [f"{folder}/items.json[{n}]" for n in range(12)]
    assert {one["reason"] for one in lines} == {"box outside the image"}
    skipped = SkippedSamples()
    with pytest.raises(InputError, match=r"no phrase with a box; first problem: .*box outside the image"):
        evaluate_grounding(Predictor(tiny_loaded()), source_of(folder, phrases(corners)), skipped=skipped)
    assert "12 of these 12 boxes would lie in their images if they were two corners" in skipped.causes()
    with pytest.raises(TooManyBadRecordsError, match=r"12 of 12 .* 12 x box outside the image \(first: .*\)"):
        skipped.check(0.01)


def test_other_bad_boxes_have_no_hint() -> None:
    boxes = [(0.0, 0.0, 500.0, 20.0), (50.0, 0.0, 200.0, 20.0), (70.0, 5.0, 90.0, 99.0)]
    bad = [SkippedSample("box outside the image", "", f"box {box} in an image of 60 x 50") for box in boxes]
    assert "corners" not in SkippedSamples(bad).causes() and SkippedSamples().causes() == ""


def test_skipped_samples_are_reported_with_reasons(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = phrases([[0, 0, 30, 30]] * 6)
    bad = [{**good[0], "text": "?!"}, {**good[0], "image": "gone.png"}]
    code, out = evaluated(folder, "grounding", [*good, *bad])
    messages = capsys.readouterr().err
    assert code == 0 and "2 of 8 samples were skipped: 1 x " in messages
    assert f"1 x no text left after cleaning (first: {folder}/items.json[6])" in messages
    assert f"1 x image file missing (first: {folder}/items.json[7])" in messages
    lines = (out / "skipped.jsonl").read_text().splitlines()
    assert {json.loads(line)["reason"] for line in lines} == {
        "no text left after cleaning",
        "image file missing",
    }
    code, out = evaluated(folder, "grounding", [*good, *bad], "--max-bad", "0")
    assert code == 2
    code, _ = evaluated(folder, "grounding", [*good, *bad * 4], "--max-bad", "1")
    assert code == 0
    code, out = evaluated(folder, "grounding", good)
    assert code == 0 and (out / "skipped.jsonl").read_text() == ""


def test_boxes_over_the_edge_are_clipped_and_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = evaluated(folder, "grounding", phrases([[40, 20, 30, 30], [0, 0, 30, 30]]))
    assert code == 0 and "1 x box clipped" in capsys.readouterr().err
    (one, _) = json.loads((out / "predictions.json").read_text())
    assert one["true_xyxy"] == [40, 20, 60, 50]


def test_texts_that_the_vocabulary_does_not_know(folder: Path) -> None:
    items = [
        {"image": "0.png", "caption": ["the red dog", "красный круг"]},
        {"image": "1.png", "caption": ["the zzz tree", "the " + "red " * 40]},
    ]
    skipped = SkippedSamples()
    metrics, result = evaluate_retrieval(Predictor(tiny_loaded()), source_of(folder, items), skipped=skipped)
    assert result.texts == ["the red dog", "the zzz tree", items[1]["caption"][1]]
    assert metrics["retrieval_skipped"] == 1
    assert [one.reason for one in skipped.samples] == ["text has only unknown tokens"]
    assert {what: len(keys) for what, keys in skipped.notes.items()} == {
        "text has unknown tokens": 1,
        "text is cut": 1,
    }
    with pytest.raises(InputError, match="only unknown tokens"):
        evaluate_retrieval(Predictor(tiny_loaded()), source_of(folder, [{"image": "0.png", "caption": "狗"}]))


def test_questions_that_a_submission_lacks_are_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"image": "0.png", "question": "a dog?", "question_id": n} for n in range(5)]
    items[1]["image"] = "gone.png"
    items[3]["question"] = "?"
    code, out = evaluated(folder, "vqa", items)
    assert code == 0 and len(json.loads((out / "submission.json").read_text())) == 3
    assert "submission.json lacks 2 that were skipped (1, 3)" in capsys.readouterr().err


def test_names_of_fields_are_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"file": f"{n}.png", "desc": f"a dog {n}"} for n in range(3)]
    options = ["--image-key", "file", "--caption-key", "desc", "--is-image-rpath", "True"]
    code, out = evaluated(folder, "retrieval", items, *options)
    assert code == 0 and json.loads((out / "metrics.json").read_text())["retrieval_texts"] == 3
    words = ["eval", "retrieval", "--model", folder / "model", "--data", "scenes:test:3", "--out", out]
    assert main([str(word) for word in [*words, "--caption-key", "desc"]]) == 2
    assert "the field names of scenes:test:3 cannot be changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"texts_per_image": 0}, "texts_per_image is 0; it must be at least 1"),
        ({"rerank_top_k": -1}, "rerank_top_k is -1; it must be at least 0"),
        ({"memory_gb": float("nan")}, "memory_gb is nan; it must be finite in float32 and at least 0"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_options_that_would_measure_nothing_are_refused(
    options: dict[str, Any], message: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_retrieval(
            Predictor(tiny_loaded()), source_of(folder, [{"image": "0.png", "caption": "a dog"}]), **options
        )


def test_disagreement_of_annotators_is_reported_and_allowed() -> None:
    skipped = SkippedSamples(measured=10)
    for number in range(90):
        skipped.append(BadRecord("annotators disagree", str(number)))
    skipped.check(0.01)
    assert skipped.lines() == ["90 of 100 samples were skipped: 90 x annotators disagree (first: 0, 1, 2)"]
    for number in range(3):
        skipped.append(BadRecord("box is empty", str(number)))
    with pytest.raises(TooManyBadRecordsError, match="3 of 13 samples cannot be used"):
        skipped.check(0.01)


@pytest.mark.parametrize(("measured", "bad", "refused"), [(100, 2, False), (100, 3, True), (9901, 99, False)])
def test_the_share_is_of_at_least_200_samples(measured: int, bad: int, refused: bool) -> None:
    skipped = SkippedSamples(measured=measured)
    skipped.extend(BadRecord("box is empty", str(number)) for number in range(bad))
    if refused:
        with pytest.raises(TooManyBadRecordsError):
            skipped.check(0.01)
    else:
        skipped.check(0.01)


def test_a_candidate_answer_that_is_not_in_the_vocabulary_is_left_out_and_reported(folder: Path) -> None:
    source = source_of(folder, [{"image": "0.png", "question": "a dog?", "answer": "red"}])
    predictor, skipped = Predictor(tiny_loaded_for("vqa_decoder")), SkippedSamples()
    _, (one,) = evaluate_vqa(predictor, source, answers=["red", "狗", "blue"], skipped=skipped)
    _, (same,) = evaluate_vqa(predictor, source, answers=["red", "blue"])
    assert one.top_answers == same.top_answers and len(one.top_answers) == 2
    assert skipped.notes == {"answer of the list is not in the vocabulary": ["狗"]}


def test_nan_is_never_correct() -> None:
    for truth in (0, 1):
        assert not NLVR2Prediction("k", ("a", "b"), "both", truth, float("nan")).correct
    probabilities = {"no": float("nan"), "yes": float("nan")}
    one = EntailmentPrediction("k", "a", None, "a dog", "no", "no", probabilities)
    assert not one.correct and replace(one, probabilities={"no": 0.6, "yes": 0.4}).correct


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("000123", 123, True), (" 7", "7", True), (0, "000", True), ("a01", "a1", False), (12, 1.2, False)],
)
def test_ids_with_leading_zeros(one: Any, other: Any, same: bool) -> None:
    assert (normalize_id(one) == normalize_id(other)) == same
