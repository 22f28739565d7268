"""What an evaluation does not measure is said, with reasons, and refused where it is too much."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.test_images import source_of
from tests.tiny import photo, tiny_loaded, tiny_loaded_for
from xvlm.cli import main
from xvlm.errors import InputError, TooManyBadRecordsError
from xvlm.evaluate._read import same_id, xyxy_hint
from xvlm.evaluate._skipped import Skipped, SkippedSample
from xvlm.evaluate.entailment import EntailmentPrediction
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.nlvr2 import PairPrediction
from xvlm.evaluate.retrieval import evaluate_retrieval
from xvlm.evaluate.vqa import evaluate_questions
from xvlm.model.folder import save_model
from xvlm.predict import Predictor
from xvlm.records import BadRecord


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skipped")
    for number in range(3):
        photo(60, 50, number).save(folder / f"{number}.png")
    save_model(tiny_loaded(), folder / "model")
    save_model(tiny_loaded_for("answers"), folder / "answers")
    return folder


def evaluated(folder: Path, measure: str, items: list[dict[str, Any]], *more: str) -> tuple[int, Path]:
    """The exit code, or 2 for an error that a user can mend; and the folder of results."""
    (folder / "items.json").write_text(json.dumps(items))
    out = folder / "out" / measure
    model = folder / ("answers" if measure == "vqa" else "model")
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
    skipped = Skipped()
    with pytest.raises(InputError, match=r"no phrase with a box; first problem: .*box outside the image"):
        evaluate_grounding(Predictor(tiny_loaded()), source_of(folder, phrases(corners)), skipped=skipped)
    assert "these look like x0, y0, x1, y1" in xyxy_hint(skipped.samples)
    with pytest.raises(TooManyBadRecordsError, match=r"12 of 12 .* 12 x box outside the image \(first: .*\)"):
        skipped.check(0.01)


def test_other_bad_boxes_have_no_hint() -> None:
    boxes = [(0.0, 0.0, 500.0, 20.0), (50.0, 0.0, 200.0, 20.0), (70.0, 5.0, 90.0, 99.0)]
    bad = [SkippedSample("box outside the image", "", f"box {box} in an image of 60 x 50") for box in boxes]
    assert xyxy_hint(bad) == "" and xyxy_hint([]) == ""


def test_few_skipped_samples_are_told_with_their_reasons(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = phrases([[0, 0, 30, 30]] * 6)
    bad = [{**good[0], "text": "?!"}, {**good[0], "image": "gone.png"}]
    code, out = evaluated(folder, "grounding", [*good, *bad])
    told = capsys.readouterr().err
    assert code == 0 and "2 of 8 samples were skipped: 1 x " in told
    assert f"1 x no text left after cleaning (first: {folder}/items.json[6])" in told
    assert f"1 x image file missing (first: {folder}/items.json[7])" in told
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


def test_boxes_over_the_edge_are_clipped_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = evaluated(folder, "grounding", phrases([[30, 20, 30.5, 30], [0, 0, 30, 30]]))
    assert code == 0 and "1 x box clipped" in capsys.readouterr().err
    (one, _) = json.loads((out / "predictions.json").read_text())
    assert one["true_xyxy"] == [30, 20, 60, 50]


def test_texts_that_the_vocabulary_does_not_know(folder: Path) -> None:
    items = [
        {"image": "0.png", "caption": ["the red dog", "красный круг"]},
        {"image": "1.png", "caption": ["the zzz tree", "the " + "red " * 40]},
    ]
    skipped = Skipped()
    metrics, found = evaluate_retrieval(Predictor(tiny_loaded()), source_of(folder, items), skipped=skipped)
    assert found.texts == ["the red dog", "the zzz tree", items[1]["caption"][1]]
    assert metrics["retrieval_bad_records"] == 1
    assert [one.reason for one in skipped.samples] == ["text has only unknown tokens"]
    assert {what: len(keys) for what, keys in skipped.notes.items()} == {
        "text has unknown tokens": 1,
        "text is cut": 1,
    }
    with pytest.raises(InputError, match="only unknown tokens"):
        evaluate_retrieval(Predictor(tiny_loaded()), source_of(folder, [{"image": "0.png", "caption": "狗"}]))


def test_what_a_submission_lacks_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"image": "0.png", "question": "a dog?", "question_id": n} for n in range(5)]
    items[1]["image"] = "gone.png"
    items[3]["question"] = "?"
    code, out = evaluated(folder, "vqa", items)
    assert code == 0 and len(json.loads((out / "submission.json").read_text())) == 3
    assert "submission.json lacks 2 that were skipped (1, 3)" in capsys.readouterr().err


def test_names_of_fields_can_be_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"file": f"{n}.png", "desc": f"a dog {n}"} for n in range(3)]
    options = ["--image-key", "file", "--caption-key", "desc", "--is-image-rpath", "True"]
    code, out = evaluated(folder, "retrieval", items, *options)
    assert code == 0 and json.loads((out / "metrics.json").read_text())["retrieval_texts"] == 3
    words = ["eval", "retrieval", "--model", folder / "model", "--data", "scenes:test:3", "--out", out]
    assert main([str(word) for word in [*words, "--caption-key", "desc"]]) == 2
    assert "--caption-key is for JSON and tar files, not for scenes:test:3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"texts_per_image": 0}, "texts_per_image is 0; it must be at least 1"),
        ({"top": -1}, "top is -1; it must be at least 0"),
        ({"memory": float("nan")}, "memory is nan; it must be at least 0"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
    ],
)
def test_options_that_would_measure_nothing_are_refused(
    options: dict[str, Any], told: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=told):
        evaluate_retrieval(
            Predictor(tiny_loaded()), source_of(folder, [{"image": "0.png", "caption": "a dog"}]), **options
        )


def test_disagreement_of_annotators_is_told_and_not_held_against_the_file() -> None:
    skipped = Skipped(measured=10)
    for number in range(90):
        skipped.append(BadRecord("annotators disagree", str(number)))
    skipped.check(0.01)
    assert skipped.lines() == ["90 of 100 samples were skipped: 90 x annotators disagree (first: 0, 1, 2)"]
    for number in range(3):
        skipped.append(BadRecord("box is empty", str(number)))
    with pytest.raises(TooManyBadRecordsError, match="3 of 13 samples cannot be used"):
        skipped.check(0.01)


@pytest.mark.parametrize(("measured", "bad", "refused"), [(100, 2, False), (100, 3, True), (9901, 99, False)])
def test_a_share_of_at_least_two_hundred(measured: int, bad: int, refused: bool) -> None:
    skipped = Skipped(measured=measured)
    skipped.extend(BadRecord("box is empty", str(number)) for number in range(bad))
    if refused:
        with pytest.raises(TooManyBadRecordsError):
            skipped.check(0.01)
    else:
        skipped.check(0.01)


def test_an_answer_that_is_not_in_the_vocabulary_is_left_out_and_told(folder: Path) -> None:
    source = source_of(folder, [{"image": "0.png", "question": "a dog?", "answer": "red"}])
    predictor, skipped = Predictor(tiny_loaded_for("answers")), Skipped()
    _, (one,) = evaluate_questions(predictor, source, answers=["red", "狗", "blue"], skipped=skipped)
    _, (same,) = evaluate_questions(predictor, source, answers=["red", "blue"])
    assert one.best == same.best and len(one.best) == 2
    assert skipped.notes == {"answer of the list is not in the vocabulary": ["狗"]}


def test_what_is_not_a_number_is_never_right() -> None:
    for truth in (0, 1):
        assert not PairPrediction("k", ("a", "b"), "both", truth, float("nan")).right
    broken = {"no": float("nan"), "yes": float("nan")}
    one = EntailmentPrediction("k", "a", None, "a dog", "no", "no", broken)
    assert not one.right and replace(one, probabilities={"no": 0.6, "yes": 0.4}).right


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("000123", 123, True), (" 7", "7", True), (0, "000", True), ("a01", "a1", False), (12, 1.2, False)],
)
def test_ids_with_leading_zeros(one: Any, other: Any, same: bool) -> None:
    assert (same_id(one) == same_id(other)) == same
