"""The test files of VLUE can be evaluated as they are released (Zhou et al. 2022)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import published_data
from tests.evaluation.kit import predictor_of
from tests.tiny import tiny_loaded
from xvlm.cli import main
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.task_fields import image_pair_of, questions_of, statements_of
from xvlm.evaluation.nlvr2 import evaluate_nlvr2
from xvlm.models.checkpoints.folder import ModelBundle, save_model
from xvlm.records import BadRecord, Record

HEADS: tuple[str, ...] = ("vqa_decoder", "pair_classifier", "caption_decoder")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlue")
    published_data.write_vlue(folder)
    save_model(tiny_loaded(), folder / "pretrained")
    for head in HEADS:
        predictor = predictor_of(head)
        bundle = ModelBundle(predictor.model, predictor.tokenizer, 30, 20, predictor.prompt)
        save_model(bundle, folder / head)
    (folder / "answer_list.json").write_text(json.dumps(["yes", "no", "2"]))
    return folder


def evaluated(measure: str, model: str, name: str, root: Path, out: Path, *more: Any) -> Any:
    words = ["eval", measure, "--model", root / model, "--data", root / f"{name}_vlue_test.json"]
    words += ["--image-root", root / "marvl", "--out", out, *more]
    assert main([str(word) for word in words]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert [value for name, value in metrics.items() if name.endswith("_skipped")] == [0]
    return metrics, json.loads((out / "predictions.json").read_text())


def test_retrieval(root: Path, tmp_path: Path) -> None:
    metrics, _ = evaluated("retrieval", "pretrained", "itr", root, tmp_path)
    assert (metrics["retrieval_images"], metrics["retrieval_texts"]) == (2, 5 + 8)
    assert metrics["t2i_r5"] == 1


def test_captions_have_the_image_id_of_the_file_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files have no ids; the published reader takes them from the file names."""
    monkeypatch.setattr("xvlm.metrics.coco_tools.java_problem", lambda wanted: "it takes seconds to start")
    metrics, predictions = evaluated("captioning", "caption_decoder", "caption", root, tmp_path)
    assert metrics["caption_images"] == 2
    assert [one["image_id"] for one in predictions] == [0, 1]
    assert [len(one["references"]) for one in predictions] == [5, 8]


@pytest.mark.parametrize("listed", [True, False])
def test_questions_have_one_answer_each(listed: bool, root: Path, tmp_path: Path) -> None:
    more = ("--answers", root / "answer_list.json") if listed else ()
    metrics, predictions = evaluated("vqa", "vqa_decoder", "vqa", root, tmp_path, *more)
    assert [one["people"] for one in predictions] == [["yes"], ["2"], ["light blue"], ["no"]]
    assert [one["question_id"] for one in predictions] == [0, 1, 2, 3]
    exact = [[one["answer"]] == one["people"] for one in predictions]
    assert metrics["vqa_exact"] == sum(exact) / 4 and metrics["vqa_questions"] == 4


def test_exact_match_needs_one_reference_for_each_question(root: Path, tmp_path: Path) -> None:
    items = json.loads((root / "vqa_vlue_test.json").read_text())
    items[1]["answer"] = ["2", "two", "2"]
    (tmp_path / "vqa_vlue_test.json").write_text(json.dumps(items))
    (tmp_path / "vqa_decoder").symlink_to(root / "vqa_decoder")
    (tmp_path / "marvl").symlink_to(root / "marvl")
    assert "vqa_exact" not in evaluated("vqa", "vqa_decoder", "vqa", tmp_path, tmp_path / "out")[0]


def test_statements(root: Path, tmp_path: Path) -> None:
    metrics, predictions = evaluated("nlvr2", "pair_classifier", "nlvr2", root, tmp_path)
    assert [one["truth"] for one in predictions] == [1, 0] and metrics["nlvr2_statements"] == 2
    images = [str(root / "marvl" / name) for name in published_data.MARVL]
    assert [one["images"] for one in predictions] == [images, images[::-1]]


def test_grounding(root: Path, tmp_path: Path) -> None:
    metrics, predictions = evaluated("grounding", "pretrained", "refcoco+", root, tmp_path)
    assert metrics["grounding_cases"] == len(predictions) == 4
    boxes = [[x, y, x + w, y + h] for x, y, w, h in published_data.BOXES]
    assert [one["true_xyxy"] for one in predictions] == boxes * 2


def test_weak_grounding_chooses_among_the_detections(root: Path, tmp_path: Path) -> None:
    """There are three detections; the image's own phrases have two boxes."""
    metrics, predictions = evaluated("weak_grounding", "pretrained", "refcoco+_bbox100", root, tmp_path)
    assert metrics["weak_grounding_cases"] == len(predictions) == 4
    assert metrics["weak_grounding_chance"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("label", "truth"), [("True", 1), ("false", 0), (True, 1), (False, 0), (1, 1), (0, 0), ("1", 1)]
)
def test_spellings_of_truth(label: Any, truth: int) -> None:
    record = Record("one", "a.jpg", (), {"sentence": "a dog", "label": label})
    assert statements_of(record) == [("a dog", truth)]


@pytest.mark.parametrize("label", ["yes", 2, None, "", [True], 0.5])
def test_an_unknown_truth_is_named(label: Any) -> None:
    record = Record("one", "a.jpg", (), {"sentence": "a dog", "label": label})
    with pytest.raises(BadRecord) as caught:
        statements_of(record)
    assert str(caught.value) == f"one: no truth (label is {label!r}; it may be True or False)"


@pytest.mark.parametrize(
    ("answer", "answers"),
    [("no", ("no",)), (["a", " ", "b"], ("a", "b")), (0, ("0",)), ([2, "two"], ("2", "two")), (None, ())],
)
def test_answers_of_every_type(answer: Any, answers: tuple[str, ...]) -> None:
    (question,) = questions_of(Record("one", "a.jpg", (), {"question": "how many?", "answer": answer}))
    assert question.answers == answers


@pytest.mark.parametrize("answer", [{"answer": "no"}, [["no"]], [None]])
def test_an_unknown_type_of_answer_is_named(answer: Any) -> None:
    with pytest.raises(BadRecord, match=r"one: wrong type \(answer is .*, expected a text, a number or"):
        questions_of(Record("one", "a.jpg", (), {"question": "how many?", "answer": answer}))


def test_image_pairs_are_in_order(root: Path) -> None:
    source = JsonSource(root / "nlvr2_vlue_test.json", str(root / "marvl"))
    expected = [str(root / "marvl" / name) for name in published_data.MARVL]
    assert [image_pair_of(source[0]), image_pair_of(source[1])] == [tuple(expected), tuple(expected[::-1])]


def test_a_statement_without_tokens_is_skipped_alone(root: Path, tmp_path: Path) -> None:
    items = json.loads((root / "nlvr2_vlue_test.json").read_text())
    (tmp_path / "items.json").write_text(json.dumps([{**items[0], "sentence": "?!"}, *items]))
    source = JsonSource(tmp_path / "items.json", str(root / "marvl"))
    metrics, predictions = evaluate_nlvr2(predictor_of("pair_classifier"), source)
    assert len(predictions) == 2 and metrics["nlvr2_skipped"] == 1
