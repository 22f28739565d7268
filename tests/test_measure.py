"""`xvlm eval` of every measure: numbers, predictions with their inputs, what a server takes, and a page."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_report import checked
from tests.tiny import photo, tiny_config, tiny_tokenizer
from xvlm.cli import main
from xvlm.data.sources import JsonSource
from xvlm.gallery import _results
from xvlm.lookup import find, names
from xvlm.model.folder import Loaded, save_model
from xvlm.model.xvlm import ModelConfig, build_model
from xvlm.predict import Predictor
from xvlm.report import cards

NAMES = [f"{number}.jpg" for number in range(4)]
ODD = 'a <b>cat</b> & "dog"'
"""Text that would become markup, were it not escaped."""


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


MEASURES: dict[str, tuple[tuple[str, ...], Callable[[], list[dict[str, Any]]], list[str]]] = {
    "grounding": (("box",), phrases, []),  # as it is fine-tuned: without a matching head
    "weak_grounding": (("contrastive", "matching"), phrases, ["--layer", "0"]),
    "retrieval": (("contrastive", "matching"), captions, ["--top", "3"]),
    "vqa": (("answers",), questions, ["--answers", "ANSWERS"]),
    "nlvr2": (("pairs",), statements, []),
    "captioning": (("captions",), captions, ["--no-java", "--max-tokens", "8"]),
    "entailment": (("labels",), hypotheses, []),
}
"""Of each measure: parts of a model that has it, a file, options."""
TEXT_FIELDS = {
    "grounding": "text",
    "weak_grounding": "text",
    "vqa": "question",
    "nlvr2": "statement",
    "entailment": "hypothesis",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measure")
    for number, name in enumerate(NAMES):
        photo(60 + 5 * number, 50, number).save(folder / name)
    return folder


def save_tiny(folder: Path, parts: tuple[Any, ...]) -> None:
    tokenizer = tiny_tokenizer()
    config: ModelConfig = replace(tiny_config("cnn", vocab_size=tokenizer.vocab_size), parts=parts)
    if "labels" in parts:
        config = replace(config, labels=("contradiction", "neutral", "entailment"))
    torch.manual_seed(1)
    save_model(Loaded(build_model(config), tokenizer, 30, 20), folder)


def measured(measure: str, photos: Path, out: Path) -> tuple[dict[str, float], Any, str]:
    """Metrics, predictions and the page."""
    parts, items, options = MEASURES[measure]
    data, answers = out / "items.json", out / "answers.json"
    out.mkdir()
    data.write_text(json.dumps(items()))
    answers.write_text('["red", "no", "light blue"]')
    save_tiny(out / "model", parts)
    words = [str(answers) if word == "ANSWERS" else word for word in options]
    asked = ["--model", out / "model", "--data", data, "--image-root", photos, "--out", out / "results"]
    assert main(["eval", measure, *map(str, asked), *words]) == 0
    found = {path.name: path.read_text() for path in (out / "results").iterdir()}
    assert ("submission.json" in found) == (measure in ("vqa", "captioning"))
    metrics, predictions = (
        json.loads(found[name], parse_constant=no_constant) for name in ("metrics.json", "predictions.json")
    )
    return metrics, predictions, found["report.html"]


def no_constant(name: str) -> None:
    """Python reads NaN and Infinity; nobody else does."""
    raise AssertionError(f"{name} is no JSON")


def test_every_measure_is_tried_and_has_a_page() -> None:
    assert set(names("evaluate")) == set(MEASURES) == set(names("gallery"))


@pytest.mark.parametrize("measure", MEASURES)
def test_results_stand_with_their_inputs(measure: str, photos: Path, tmp_path: Path) -> None:
    metrics, predictions, page = measured(measure, photos, tmp_path / "out")
    module = find("gallery", measure)
    read = checked(page)
    assert set(module.TILES) & set(metrics), "no number stands at the top"
    for name in set(module.TILES) & set(metrics):
        assert module.TILES[name] in read.words
    assert "b" not in read.tags[read.tags.index("section") :], "a text became markup"
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
def test_in_bfloat16_too(measure: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _, _ = measured(measure, photos, tmp_path / "fp32")
    monkeypatch.setattr("xvlm.machine.multiplies_bfloat16", lambda device: True)
    parts, items, options = MEASURES[measure]
    monkeypatch.setitem(MEASURES, measure, (parts, items, [*options, "--precision", "bf16"]))
    metrics, _, _ = measured(measure, photos, tmp_path / "bf16")
    assert metrics.keys() == before.keys()


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "captioning"])
def test_a_model_that_broke_is_right_about_nothing(measure: str, photos: Path, tmp_path: Path) -> None:
    """Weights that are no numbers: every share is 0, every file is JSON, the page is written."""
    parts, items, _ = MEASURES[measure]
    save_tiny(tmp_path / "model", parts)
    predictor = Predictor.load(tmp_path / "model", "cpu")
    for parameter in predictor.model.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    (tmp_path / "items.json").write_text(json.dumps(items()))
    options = {"answers": ["red", "no"]} if measure == "vqa" else {}
    source = JsonSource(tmp_path / "items.json", str(photos))
    metrics, found = find("evaluate", measure).evaluate(predictor, source, **options)
    told = find("gallery", measure).TILES.keys() & metrics.keys() - {"weak_grounding_chance"}
    assert told and {name: metrics[name] for name in told} == dict.fromkeys(told, 0.0)
    _results.write_results(tmp_path / "out", measure, metrics, found, "a test")
    for name in ("metrics.json", "predictions.json"):
        json.loads((tmp_path / "out" / name).read_text(), parse_constant=no_constant)


def test_right_and_wrong_answers_are_both_shown(photos: Path, tmp_path: Path) -> None:
    """Of four statements, two of them true, an untrained model that says one thing gets half right."""
    _, predictions, page = measured("nlvr2", photos, tmp_path / "out")
    shown = checked(page).words
    wrong = sum(not one["right"] for one in predictions)
    assert 0 < wrong < 4
    assert shown.count("✗ wrong") == 2 * wrong and shown.count("✓ right") == 4 - wrong


def test_a_question_has_its_best_answers(photos: Path, tmp_path: Path) -> None:
    _, predictions, page = measured("vqa", photos, tmp_path / "out")
    for one in predictions:
        texts, shares = zip(*one["best"], strict=True)
        assert sorted(texts) == ["light blue", "no", "red"] and list(shares) == sorted(shares, reverse=True)
        assert (one["answer"], one["score"]) == tuple(one["best"][0])
        assert sum(shares) == pytest.approx(1)
    assert "light blue" in checked(page).words


def test_a_map_lies_over_its_picture(photos: Path, tmp_path: Path) -> None:
    _, predictions, page = measured("weak_grounding", photos, tmp_path / "out")
    assert {len(one["candidates_xyxy"]) for one in predictions} == {2}
    assert {len(row) for one in predictions for row in one["map_hw"]} == {6}  # of 96 pixels by 16
    assert "what it chose" in checked(page).words


@pytest.mark.parametrize("matching", [True, False])
def test_a_box_has_a_probability_where_the_model_matches(
    matching: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ("box", "matching") if matching else ("box",)
    monkeypatch.setitem(MEASURES, "grounding", (parts, phrases, []))
    plates: list[str] = []
    draw = cards.thumbnail
    monkeypatch.setattr(
        cards,
        "thumbnail",
        lambda image, longest, boxes=(): (
            plates.extend(box.label for box in boxes) or draw(image, longest, boxes)
        ),
    )
    _, predictions, page = measured("grounding", photos, tmp_path / "out")
    told = checked(page).words
    assert all((one["score"] is not None) == matching for one in predictions)
    assert ("matching probability" in told) == matching
    written = [plate for plate in plates if plate]
    assert bool(written) == matching and all(0 <= float(plate) <= 1 for plate in written)


def test_predictions_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    class One:
        def to_json(self) -> dict[str, Any]:
            return {"text": "a\nb", "map_hw": [[1.0, 2.0]]}

    _results.write_predictions(tmp_path / "predictions.json", [One(), One()])
    lines = (tmp_path / "predictions.json").read_text().splitlines()
    assert len(lines) == 4 and json.loads("".join(lines)) == [One().to_json()] * 2


@pytest.mark.parametrize("measure", MEASURES)
def test_options_are_those_of_the_measure(measure: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", measure, "--help"])
    told = capsys.readouterr().out
    parameters = inspect.signature(find("evaluate", measure).evaluate).parameters
    assert list(parameters)[-1] == "skipped"
    for name in ["model", "data", "out", "image_root", "max_bad", "caption_key", *list(parameters)[2:-1]]:
        assert f"--{name.replace('_', '-')}" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "xvlm eval needs a measure first (captioning, entailment, grounding,"),
        (["--model", "x"], "xvlm eval needs a measure first"),
        (["groundin"], "did you mean 'grounding'?"),
    ],
)
def test_a_measure_must_be_named(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("measure", MEASURES)
def test_a_model_without_the_head_says_so(
    measure: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, items, _ = MEASURES[measure]
    (tmp_path / "items.json").write_text(json.dumps(items()))
    save_tiny(tmp_path / "model", ("masked",))
    asked = ["--model", tmp_path / "model", "--data", tmp_path / "items.json", "--image-root", photos]
    assert main(["eval", measure, *map(str, asked), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    part = "matching" if measure == "weak_grounding" else parts[0]
    assert told[-1] == f"xvlm: this model has no '{part}', so it cannot do that; it has masked"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("measure", MEASURES)
def test_where_no_image_is_there_the_first_one_is_named(
    measure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, items, _ = MEASURES[measure]
    (tmp_path / "items.json").write_text(json.dumps(items()))
    save_tiny(tmp_path / "model", parts)
    asked = ["--model", tmp_path / "model", "--data", tmp_path / "items.json", "--out", tmp_path / "out"]
    assert main(["eval", measure, *map(str, asked)]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("xvlm: ") and "first problem: " in told and f"{tmp_path / NAMES[0]}" in told
    assert not (tmp_path / "out").exists()
