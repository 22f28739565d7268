"""Commands print answers, write the files that options name, and report errors in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import photo, tiny_loaded, tiny_loaded_for, tiny_run, write_photos
from xvlm.cli import main
from xvlm.common.json_file import write_json
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.generation.config import GenerationConfig
from xvlm.predict import Predictor
from xvlm.registry import names
from xvlm.tasks.pretrain import PretrainRun
from xvlm.training.run_folder import read_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models and photos."""
    folder = tmp_path_factory.mktemp("cli")
    save_model(tiny_loaded("cnn"), folder / "run" / "model")
    for head in ("vqa_decoder", "caption_decoder", "pair_classifier"):
        save_model(tiny_loaded_for(head), folder / head)
    write_photos(folder, 4)
    return folder


def output_of(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Run a command and return its standard output, or its standard error if it is expected to fail."""
    try:
        found = main([str(word) for word in arguments])
    except SystemExit as stopped:  # tyro's own errors
        found = int(stopped.code or 0)
    out, err = capsys.readouterr()
    assert found == code, err
    return err if code else out


def json_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    return json.loads(output_of(capsys, *arguments))


def test_recipes_are_listed_with_their_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output_of(capsys, "recipes").splitlines()
    assert [line.split()[0] for line in lines] == names("recipes")
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_ground(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, drawn = folder / "0.jpg", tmp_path / "drawn.png"
    answer = json_of(
        capsys, "ground", image, "the red dog", "--model", folder / "run", "--json", "--draw", drawn
    )
    box, score = Predictor.load(folder / "run").image(image).ground("the red dog")
    assert answer["phrase"] == "the red dog"
    assert answer["box_xyxy"] == pytest.approx(box, abs=0.01) and answer["score"] == pytest.approx(score)
    with Image.open(drawn) as picture, Image.open(image) as before:
        assert picture.size[0] >= before.size[0]
        changed = np.asarray(picture.convert("RGB"))[: before.size[1], : before.size[0]] != np.asarray(before)
    assert changed.any()
    plain = output_of(capsys, "ground", image, "the red dog", "--model", folder / "run")
    assert "box_xyxy" in plain and f"{score:.4f}" in plain


def test_match(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["match", folder / "0.jpg", "a dog", "red car", "--model", folder / "run" / "model"]
    scores = json_of(capsys, *arguments, "--json")["scores"]
    assert list(scores) == ["a dog", "red car"] and all(0 <= score <= 1 for score in scores.values())
    lines = output_of(capsys, *arguments).splitlines()
    best = max(scores, key=scores.get)
    assert lines[0] == f"{scores[best]:.4f}  {best}" and len(lines) == 2


def test_caption(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["caption", folder / "0.jpg", "--model", folder / "caption_decoder", "--max-tokens", 12]
    seen = Predictor.load(folder / "caption_decoder").image(folder / "0.jpg")
    assert output_of(capsys, *arguments).splitlines() == [seen.caption(GenerationConfig(max_tokens=12))]
    sampling = GenerationConfig(num_samples=3, top_p=0.9, seed=5, max_tokens=12)
    options = ["--num-samples", 3, "--top-p", 0.9, "--seed", 5]
    found = json_of(capsys, *arguments, *options, "--json")["captions"]
    assert found == seen.captions(sampling) and len(set(found)) == 3 and seen.caption(sampling) == found[0]
    assert output_of(capsys, *arguments, *options).splitlines() == found


def test_ask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = "what colour is the dog?"
    arguments = ["ask", folder / "0.jpg", question, "--model", folder / "vqa_decoder", "--json"]
    seen = Predictor.load(folder / "vqa_decoder").image(folder / "0.jpg")
    for answers in (None, ["red", "light blue", "no"]):
        options = ["--answers", *answers] if answers else []
        best = seen.ask_all(question, answers)
        assert len(best) == len(answers or [""])
        assert json_of(capsys, *arguments, *options) == {
            "question": question,
            "answer": best[0].text,
            "score": pytest.approx(best[0].score),
            "best": [{"answer": text, "score": pytest.approx(score)} for text, score in best],
        }


def test_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [folder / "0.jpg", folder / "1.jpg"]
    truth = Predictor.load(folder / "pair_classifier").compare(*images, "both show a dog")
    arguments = ["compare", *images, "both show a dog", "--model", folder / "pair_classifier"]
    found = json_of(capsys, *arguments, "--json")
    assert found == {"statement": "both show a dog", "truth": pytest.approx(truth)}
    assert f"{truth:.4f}" in output_of(capsys, *arguments)


def test_eval_grounding(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = folder / "photos.jsonl", folder / "run"
    metrics = json_of(
        capsys, "eval", "grounding", "--model", model, "--data", data, "--out", tmp_path, "--limit", 3
    )
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert metrics["grounding_cases"] == len(predictions) == 6
    assert {"text", "true_xyxy", "predicted_xyxy", "iou", "score", "image"} <= predictions[0].keys()


def test_layers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the JSON file hold each layer and power; `xvlm eval` measures the same."""
    asked = ["--model", folder / "run", "--data", folder / "photos.jsonl", "--out", tmp_path]
    lines = output_of(capsys, "layers", *asked, "--powers", 0.5, 1).splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["0", "0.50"],
        ["0", "1.00"],
        ["1", "0.50"],
        ["1", "1.00"],
    ]
    written = json.loads((tmp_path / "layers.json").read_text())
    assert written["best"] in written["layers"] and len(written["layers"]) == 4
    metrics = json_of(capsys, "eval", "weak_grounding", *asked)
    assert written["layers"][2] == {"layer": 1, "power": 0.5, **metrics}


def test_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights are written into the model, and `xvlm eval` ranks by them; a hub name is not written to."""
    model, data = tmp_path / "copy", folder / "photos.jsonl"
    shutil.copytree(folder / "run" / "model", model)
    table = output_of(capsys, "weights", "--model", model, "--data", data)
    config = json.loads((model / "config.json").read_text())
    assert f"| {config['matching_weight']:.2f} | {config['phrase_weight']:.2f} |" in table.splitlines()[-1]
    asked = ["--model", model, "--data", data, "--out", tmp_path / "out"]
    metrics = json_of(capsys, "eval", "retrieval", *asked)
    assert f"contrastive + both | {100 * metrics['i2t_r1']:.1f} % | {100 * metrics['t2i_r1']:.1f} %" in table
    assert main(["weights", "--model", "some/repository", "--data", str(data)]) == 2
    assert "no folder here" in capsys.readouterr().err


@pytest.mark.parametrize("rerank", ["both", "matching"])
def test_eval_retrieval(
    rerank: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = folder / "photos.jsonl", folder / "run"
    options = ["--model", model, "--data", data, "--out", tmp_path, "--rerank", rerank, "--rerank-top-k", 2]
    options += ["--memory-gb", 0.5]
    metrics = json_of(capsys, "eval", "retrieval", *options)
    assert metrics["retrieval_texts"] == 8 and 0 <= metrics["t2i_r1"] <= 1
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert len(predictions["i2t"]) == 4 and len(predictions["t2i"]) == 8


def test_a_recorded_run_is_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "asked.json", tiny_run("vit", steps=2))
    first, second = tmp_path / "first", tmp_path / "second"
    output_of(
        capsys, "train", "--from", tmp_path / "asked.json", "--out", first, "--optim.lr", "0.002", "--seed", 5
    )
    run = read_run(first / "run.json")
    assert isinstance(run, PretrainRun) and run.optim.lr == 0.002 and run.seed == 5
    assert f"model: {second / 'model'}" in output_of(
        capsys, "train", "--from", first / "run.json", "--out", second
    )
    assert (first / "run.json").read_text() == (second / "run.json").read_text()
    one, two = ((out / "model" / "model.safetensors").read_bytes() for out in (first, second))
    assert one == two


def test_train_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "asked.json", tiny_run("vit", steps=2))
    arguments = ["train", "--from", tmp_path / "asked.json", "--out", tmp_path / "out"]
    output_of(capsys, *arguments, "--minutes", "0")
    assert "holds a run already; --resume goes on with it" in output_of(capsys, *arguments, code=2)
    output_of(capsys, *arguments, "--resume")
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


def test_train_evaluates_on_validation_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It evaluates every `eval_every` steps; a missing file is an error before the folder exists."""
    write_json(tmp_path / "asked.json", tiny_run("cnn", steps=2))
    scenes = "scenes:test:4?image_size=64"
    asked = [
        "--validation.retrieval",
        scenes,
        "--validation.grounding",
        "scene-cases:test:4?image_size=64",
        "--eval-every",
        1,
    ]
    output_of(capsys, "train", "--from", tmp_path / "asked.json", "--out", tmp_path / "out", *asked)
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    measured = [row for row in rows if row.get("event") == "eval"]
    assert [row["step"] for row in measured] == [1, 2]
    assert all(
        {"grounding_acc50", "t2i_r1", "i2t_r1", "t2i_r1_contrastive"} <= row.keys() for row in measured
    )
    asked = ["--validation.grounding", tmp_path / "none.json"]
    wrong = ["train", "--from", tmp_path / "asked.json", "--out", tmp_path / "other", *asked]
    assert "none.json" in output_of(capsys, *wrong, code=2)
    assert not (tmp_path / "other").exists()


def test_arguments_of_a_recipe_and_fields_of_the_run_are_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "--model.vision.image-hw",
        "64",
        "64",
        "--data.pairs-batch-size",
        "2",
        "--data.regions-batch-size",
        "2",
    ]
    quick = ["--optim.steps", "1", "--workers", "0", "--init.vocab-size", "120"]
    output_of(capsys, "train", "demo", "scenes=8", "--out", tmp_path / "out", *small, *quick)
    run = read_run(tmp_path / "out" / "run.json")
    assert isinstance(run, PretrainRun)
    assert run.data.pairs[0].path.startswith("scenes:train:8") and run.model.vision.image_hw == (64, 64)
    assert run.recipe == "demo" and run.optim.steps == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--help"], ["demo", "train", "ground", "Find the box of a phrase"]),
        (["train", "--help"], ["RECIPE", "[name=value ...]", "--FIELD"]),
        (["train", "demo", "--help"], ["--resume", "--out", "--optim.lr", "peak learning rate"]),
        (["train", "task=vqa", "--help"], ["--questions-per-image", "--validation.data"]),
    ],
)
def test_help(arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    helped = output_of(capsys, *arguments)
    assert all(part in helped for part in parts), helped


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "demo", "--optim.lrr", "1"], ["--optim.lrr", "--optim.lr"]),
        (["train", "dmeo"], ["no 'dmeo' in recipes: there is", "did you mean 'demo'?"]),
        (["train", "demo", "scene=8"], ["recipe demo has no argument scene; it has scenes"]),
        (["train"], ["needs a recipe first (", "demo", "--from run.json"]),
        (["train", "demo", "--precision", "fp16"], ["--precision", "'fp32'", "'bf16'"]),
        (["train", "--from", "gone.json"], ["gone.json"]),
        (["match", "gone.jpg", "a dog", "--model", "MODEL"], ["gone.jpg: image file missing"]),
        (["ground", "PHOTO", "?!", "--model", "MODEL"], ["no text left after cleaning"]),
        (["ground", "PHOTO", "a dog", "--model", "no/model"], ["no/model is neither a folder here nor"]),
        (["eval", "grounding", "--model", "MODEL", "--data", "no.json", "--out", "x"], ["no.json"]),
        (["groundd", "PHOTO", "a dog"], ["ground"]),
        (["caption", "PHOTO", "--model", "MODEL"], ["this model has no head 'caption_decoder'"]),
        (
            ["caption", "PHOTO", "--model", "CAPTION_DECODER", "--top-p", "2"],
            ["top_p is 2.0; it must be above 0"],
        ),
        (
            ["caption", "PHOTO", "--model", "CAPTION_DECODER", "--max-tokens", "49"],
            ["49 tokens", "exceeds the decoder's 48 positions"],
        ),
        (
            ["ask", "PHOTO", "the dog?", "--model", "CAPTION_DECODER"],
            ["this model has no head 'vqa_decoder'"],
        ),
        (["ask", "PHOTO", "?!", "--model", "VQA_DECODER"], ["'?!'; nothing is left of it"]),
        (
            ["ask", "PHOTO", "the dog?", "--model", "VQA_DECODER", "--answers"],
            ["a list of at least one text"],
        ),
        (
            ["ask", "PHOTO", "the dog?", "--answers", "a dog", "", "--model", "VQA_DECODER"],
            ["answers contains ''; an answer must not be empty"],
        ),
        (
            ["ask", "PHOTO", "the dog?", "--answers", "dog " * 47, "--model", "VQA_DECODER"],
            ["the answer that begins with 'dog dog", "it may have 48 tokens, because"],
        ),
        (
            ["compare", "PHOTO", "PHOTO", "two dogs", "--model", "MODEL"],
            ["this model has no head 'pair_classifier'"],
        ),
    ],
)
def test_an_error_is_one_sentence(
    arguments: list[str], parts: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"MODEL": str(folder / "run"), "PHOTO": str(folder / "0.jpg")}
    paths |= {head.upper(): str(folder / head) for head in ("vqa_decoder", "caption_decoder")}
    error = output_of(capsys, *[paths.get(word, word) for word in arguments], code=2)
    assert all(part in error for part in parts), error
    assert "Traceback" not in error


def test_a_transparent_image_is_accepted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clear = photo(40, 30, 1).convert("RGBA")
    clear.save(tmp_path / "clear.png")
    assert json_of(capsys, "ground", tmp_path / "clear.png", "a dog", "--model", folder / "run", "--json")[
        "score"
    ]
