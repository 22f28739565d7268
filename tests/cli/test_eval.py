"""`xvlm eval` of every task: metrics, predictions with their inputs, submissions and reports."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reports.test_report import checked
from tests.tiny import photo, tiny_config, tiny_tokenizer
from xvlm.cli import main
from xvlm.data.sources.json import JsonSource
from xvlm.evaluation.common.results import write_predictions, write_results
from xvlm.models.checkpoints.folder import ModelBundle, save_model
from xvlm.models.xvlm import ModelConfig, build_model, find_head
from xvlm.predict import Predictor
from xvlm.reports import cards
from xvlm.tasks.common.task import measure_of, measured_tasks

NAMES = [f"{number}.jpg" for number in range(4)]
ODD = 'a <b>cat</b> & "dog"'
"""Text that would be markup if it were not escaped."""


def phrases() -> list[dict[str, Any]]:
    boxes = [[0, 0, 40, 30], [20, 10, 30, 30]]
    return [
        {"image": name, "text": text, "bbox": box}
        for name in NAMES
        for text, box in zip((ODD, "a dog"), boxes, strict=True)
    ]


def captions() -> list[dict[str, Any]]:
    return [{"image": name, "caption": [ODD, f"a small dog {n}"]} for n, name in enumerate(NAMES)]


def questions() -> list[dict[str, Any]]:
    return [
        {"image": name, "question": f"{ODD} what?", "answer": ["red", "no"], "question_id": n}
        for n, name in enumerate(NAMES)
    ]


def statements() -> list[dict[str, Any]]:
    labels = ("True", "False", "True", "False")
    return [{"images": NAMES[:2], "sentence": f"{ODD} {label}", "label": label} for label in labels]


def hypotheses() -> list[dict[str, Any]]:
    labels = ("neutral", "entailment", "contradiction", "neutral")
    return [
        {"image": name, "sentence": ODD, "label": label} for name, label in zip(NAMES, labels, strict=True)
    ]


def regions() -> list[dict[str, Any]]:
    """Return records with a text that describes two things, and one that describes nothing."""
    pair = [[2, 2, 20, 20], [30, 20, 20, 20]]
    return [{"image": name, "elems": [{"caption": ODD, "bb": pair}], "absent": ["a dog"]} for name in NAMES]


def labelled() -> list[dict[str, Any]]:
    labels = (["neutral"], ["entailment", "neutral"], ["contradiction"], [])
    return [
        {"image": name, "caption": ODD, "labels": found} for name, found in zip(NAMES, labels, strict=True)
    ]


MEASURES: dict[str, tuple[tuple[str, ...], Callable[[], list[dict[str, Any]]], list[str]]] = {
    "detection": (("detection",), regions, []),
    "grounding": (("box",), phrases, []),  # as after fine-tuning: without a matching head
    "weak_grounding": (("contrastive", "matching"), phrases, ["--layer", "0"]),
    "retrieval": (("contrastive", "matching"), captions, ["--rerank-top-k", "3"]),
    "vqa": (("vqa_decoder",), questions, ["--answers", "ANSWERS"]),
    "nlvr2": (("pair_classifier",), statements, []),
    "captioning": (("caption_decoder",), captions, ["--no-java", "--max-tokens", "8"]),
    "entailment": (("classifier",), hypotheses, []),
    "multilabel": (("multilabel",), labelled, []),
}
"""Heads of a model, records and options for each task."""
TEXT_FIELDS = {
    "detection": "text",
    "grounding": "text",
    "weak_grounding": "text",
    "vqa": "question",
    "nlvr2": "statement",
    "entailment": "hypothesis",
    "multilabel": "text",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measure")
    for number, name in enumerate(NAMES):
        photo(60 + 5 * number, 50, number).save(folder / name)
    return folder


def save_tiny(folder: Path, heads: tuple[str, ...]) -> None:
    tokenizer = tiny_tokenizer()
    config: ModelConfig = replace(tiny_config("cnn", vocab_size=tokenizer.vocab_size), heads=heads)
    if find_head(heads[0]).uses_labels:
        config = replace(config, labels=("contradiction", "neutral", "entailment"))
    torch.manual_seed(1)
    save_model(ModelBundle(build_model(config), tokenizer, 30, 20), folder)


def evaluated(task: str, photos: Path, out: Path) -> tuple[dict[str, float], Any, str]:
    """Evaluate a model with random weights; return metrics, predictions and the report."""
    heads, items, options = MEASURES[task]
    data, answers = out / "items.json", out / "answers.json"
    out.mkdir()
    data.write_text(json.dumps(items()))
    answers.write_text('["red", "no", "light blue"]')
    save_tiny(out / "model", heads)
    words = [str(answers) if word == "ANSWERS" else word for word in options]
    arguments = ["--model", out / "model", "--data", data, "--image-root", photos, "--out", out / "results"]
    assert main(["eval", task, *map(str, arguments), *words]) == 0
    found = {path.name: path.read_text() for path in (out / "results").iterdir()}
    assert ("submission.json" in found) == (task in ("vqa", "captioning"))
    metrics, predictions = (
        json.loads(found[name], parse_constant=no_constant) for name in ("metrics.json", "predictions.json")
    )
    return metrics, predictions, found["report.html"]


def no_constant(name: str) -> None:
    """Raise for NaN and Infinity, which only Python's parser accepts."""
    raise AssertionError(f"{name} is not JSON")


def test_every_task_with_a_measure_is_tested() -> None:
    assert set(measured_tasks()) == set(MEASURES)


@pytest.mark.parametrize("measure", MEASURES)
def test_results_hold_their_inputs(measure: str, photos: Path, tmp_path: Path) -> None:
    metrics, predictions, page = evaluated(measure, photos, tmp_path / "out")
    headline = measure_of(measure).headline
    read = checked(page)
    assert set(headline) & set(metrics), "the report has no headline"
    for name in set(headline) & set(metrics):
        assert headline[name] in read.words
    assert "b" not in read.tags[read.tags.index("section") :], "a text was not escaped"
    assert f"xvlm eval {measure} --model" in read.words
    pictures = read.tags.count("img")
    if measure == "retrieval":
        assert [one["image"] for one in predictions["images"]] == [str(photos / name) for name in NAMES]
        assert len(predictions["texts"]) == 8 and pictures >= 4
        return
    field = TEXT_FIELDS.get(measure)
    for one in predictions:
        image = one["images"][0] if measure == "nlvr2" else one["image"]
        assert Path(image).parent == photos and Path(image).name in NAMES
        assert field is None or ODD in one[field] or one[field] == "a dog"
    assert pictures >= len(predictions) * (2 if measure == "nlvr2" else 1)
    if field:
        assert ODD in read.words
        assert ("✓ right" in read.words) or ("✗ wrong" in read.words)


@pytest.mark.parametrize("measure", MEASURES)
def test_bfloat16(measure: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _, _ = evaluated(measure, photos, tmp_path / "fp32")
    monkeypatch.setattr("xvlm.common.hardware.supports_bfloat16", lambda device: True)
    heads, items, options = MEASURES[measure]
    monkeypatch.setitem(MEASURES, measure, (heads, items, [*options, "--precision", "bf16"]))
    metrics, _, _ = evaluated(measure, photos, tmp_path / "bf16")
    assert metrics.keys() == before.keys()


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "captioning"])
def test_a_model_with_nan_weights_scores_0(measure: str, photos: Path, tmp_path: Path) -> None:
    """All headline metrics are 0, all files are JSON, and the report is written."""
    heads, items, _ = MEASURES[measure]
    save_tiny(tmp_path / "model", heads)
    predictor = Predictor.load(tmp_path / "model", "cpu")
    for parameter in predictor.model.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    (tmp_path / "items.json").write_text(json.dumps(items()))
    options = {"answers": ["red", "no"]} if measure == "vqa" else {}
    source = JsonSource(tmp_path / "items.json", str(photos))
    metrics, predictions = measure_of(measure).evaluate(predictor, source, **options)
    headline = measure_of(measure).headline.keys() & metrics.keys() - {"weak_grounding_chance"}
    assert headline and {name: metrics[name] for name in headline} == dict.fromkeys(headline, 0.0)
    write_results(tmp_path / "out", measure, measure_of(measure), metrics, predictions, "a test")
    for name in ("metrics.json", "predictions.json"):
        json.loads((tmp_path / "out" / name).read_text(), parse_constant=no_constant)


def test_right_and_wrong_answers_are_both_shown(photos: Path, tmp_path: Path) -> None:
    """Two of four statements are true, and a model with random weights judges all alike."""
    _, predictions, page = evaluated("nlvr2", photos, tmp_path / "out")
    shown = checked(page).words
    wrong = sum(not one["right"] for one in predictions)
    assert 0 < wrong < 4
    assert shown.count("✗ wrong") == 2 * wrong and shown.count("✓ right") == 4 - wrong


def test_a_question_has_its_best_answers(photos: Path, tmp_path: Path) -> None:
    _, predictions, page = evaluated("vqa", photos, tmp_path / "out")
    for one in predictions:
        texts, shares = zip(*one["best"], strict=True)
        assert sorted(texts) == ["light blue", "no", "red"] and list(shares) == sorted(shares, reverse=True)
        assert (one["answer"], one["score"]) == tuple(one["best"][0])
        assert sum(shares) == pytest.approx(1)
    assert "light blue" in checked(page).words


def test_an_attention_map_lies_over_its_image(photos: Path, tmp_path: Path) -> None:
    _, predictions, page = evaluated("weak_grounding", photos, tmp_path / "out")
    assert {len(one["candidates_xyxy"]) for one in predictions} == {2}
    assert {len(row) for one in predictions for row in one["map_hw"]} == {6}  # 96 pixels wide, patches of 16
    assert "chosen candidate" in checked(page).words


@pytest.mark.parametrize("matching", [True, False])
def test_a_box_has_a_probability_if_the_model_has_a_matching_head(
    matching: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = ("box", "matching") if matching else ("box",)
    monkeypatch.setitem(MEASURES, "grounding", (heads, phrases, []))
    labels: list[str] = []
    draw = cards.thumbnail
    monkeypatch.setattr(
        cards,
        "thumbnail",
        lambda image, longest, boxes=(): (
            labels.extend(box.label for box in boxes) or draw(image, longest, boxes)
        ),
    )
    _, predictions, page = evaluated("grounding", photos, tmp_path / "out")
    words = checked(page).words
    assert all((one["score"] is not None) == matching for one in predictions)
    assert ("matching probability" in words) == matching
    drawn = [label for label in labels if label]
    assert bool(drawn) == matching and all(0 <= float(label) <= 1 for label in drawn)


def test_each_prediction_is_one_line(tmp_path: Path) -> None:
    class One:
        def to_json(self) -> dict[str, Any]:
            return {"text": "a\nb", "map_hw": [[1.0, 2.0]]}

    write_predictions(tmp_path / "predictions.json", [One(), One()])
    lines = (tmp_path / "predictions.json").read_text().splitlines()
    assert len(lines) == 4 and json.loads("".join(lines)) == [One().to_json()] * 2


@pytest.mark.parametrize("measure", MEASURES)
def test_options_are_the_arguments_of_evaluate(measure: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", measure, "--help"])
    shown = capsys.readouterr().out
    parameters = inspect.signature(measure_of(measure).evaluate).parameters
    assert list(parameters)[-1] == "skipped"
    for name in ["model", "data", "out", "image_root", "max_bad", "caption_key", *list(parameters)[2:-1]]:
        assert f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "xvlm eval needs a task first (captioning, detection, entailment, grounding,"),
        (["--model", "x"], "xvlm eval needs a task first"),
        (["groundin"], "did you mean 'grounding'?"),
        (
            ["pretrain"],
            "task pretrain has no measure; those that have one are captioning, detection, entailment,",
        ),
    ],
)
def test_a_task_must_be_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("measure", MEASURES)
def test_a_model_without_the_head_says_so(
    measure: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads, items, _ = MEASURES[measure]
    (tmp_path / "items.json").write_text(json.dumps(items()))
    save_tiny(tmp_path / "model", ("mlm",))
    arguments = ["--model", tmp_path / "model", "--data", tmp_path / "items.json", "--image-root", photos]
    assert main(["eval", measure, *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    head = "matching" if measure == "weak_grounding" else heads[0]
    assert lines[-1] == f"xvlm: this model has no head '{head}', so it cannot do that; it has mlm"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("measure", MEASURES)
def test_if_all_images_are_missing_the_first_is_named(
    measure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads, items, _ = MEASURES[measure]
    (tmp_path / "items.json").write_text(json.dumps(items()))
    save_tiny(tmp_path / "model", heads)
    arguments = ["--model", tmp_path / "model", "--data", tmp_path / "items.json", "--out", tmp_path / "out"]
    assert main(["eval", measure, *map(str, arguments)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("xvlm: ") and "first problem: " in line and f"{tmp_path / NAMES[0]}" in line
    assert not (tmp_path / "out").exists()
