"""Exported graphs compute what the model does, and their predictor answers as the model's does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import VISION, photo, tiny_loaded, tiny_loaded_for
from xvlm.common.errors import InputError, MissingFileError, MissingHead, OutputError
from xvlm.export.export import TOLERANCE, export
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.generation.config import GenerationConfig
from xvlm.models.xvlm import PRETRAINING, build_model
from xvlm.predict import Predictor

pytest.importorskip("onnxruntime")
import onnx

from xvlm.export.predictor import OnnxPredictor

ROOT = Path(__file__).resolve().parents[2]
PHRASES = ["a red dog", "the small blue car beside a tree", "cat"]
DECODERS = {"cnn": ["caption_decoder"], "vit": ["vqa_decoder"]}
"""Those of a model whose encoder has no class token, and of one that has; a decoder sees no more of it."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder with a model of a kind of encoder, its export, and a photo; each is made once."""

    @cache
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        heads = (*PRETRAINING, "detection", *DECODERS.get(kind, []))
        save_model(tiny_loaded(kind, seed=2, heads=heads), folder / "model")
        export(folder / "model", folder / "onnx")
        photo(90, 70, 4).save(folder / "a.png")
        return folder

    return make


@pytest.mark.parametrize("kind", sorted(VISION))
def test_every_answer_of_every_encoder(kind: str, exported: Callable[[str], Path]) -> None:
    folder = exported(kind)
    model, onnx = Predictor.load(folder / "model"), OnnxPredictor.load(folder / "onnx")
    one, other = model.image(folder / "a.png"), onnx.image(folder / "a.png")
    for mine, theirs in zip(one.ground_many(PHRASES), other.ground_many(PHRASES), strict=True):
        assert theirs.box_xyxy == pytest.approx(mine.box_xyxy, abs=1e-2)
        assert theirs.score == pytest.approx(mine.score, abs=1e-4)
    assert other.match(PHRASES) == pytest.approx(one.match(PHRASES), abs=1e-4)
    assert other.presence(PHRASES) == pytest.approx(one.presence(PHRASES), abs=1e-4)
    for mine, theirs in zip(one.find_many(PHRASES, 0.0), other.find_many(PHRASES, 0.0), strict=True):
        assert len(theirs) == len(mine) > 0
        assert np.allclose([d.box_xyxy for d in theirs], [d.box_xyxy for d in mine], atol=1e-2)
        assert np.allclose([d.score for d in theirs], [d.score for d in mine], atol=1e-4)
    vectors = model.model.contrastive.embed_texts(model.encode_texts(PHRASES).cls_ND)
    assert np.allclose(onnx.text_vectors(PHRASES), vectors.detach().numpy(), atol=1e-5)
    _, cls_BD = model.model.encode_whole(one.features)
    assert np.allclose(other.vector, model.model.contrastive.embed_concepts(cls_BD)[0].detach(), atol=1e-5)
    if "vqa_decoder" in model.model.config.heads:
        answers = ["a dog", "red", "a blue car"]
        assert [a.text for a in other.ask_all("what is it?", answers)] == [
            a.text for a in one.ask_all("what is it?", answers)
        ]
        assert other.ask("what is it?", answers).score == pytest.approx(
            one.ask("what is it?", answers).score, abs=1e-4
        )
        assert other.ask("what is it?").text == one.ask("what is it?").text
    if "caption_decoder" in model.model.config.heads:
        short = GenerationConfig(num_beams=2, min_tokens=3, max_tokens=9)
        assert other.caption(short) == one.caption(short) and other.caption() == one.caption()


@pytest.mark.parametrize("part", ["pair_classifier", "classifier"])
def test_heads_of_other_tasks(part: str, tmp_path: Path) -> None:
    labels = ("entailment", "neutral", "contradiction") if part == "classifier" else ()
    save_model(tiny_loaded_for(part, labels), tmp_path / "model")
    export(tmp_path / "model", tmp_path / "onnx")
    model, onnx = Predictor.load(tmp_path / "model"), OnnxPredictor.load(tmp_path / "onnx")
    paths = [tmp_path / f"{seed}.png" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        photo(80, 60, seed).save(path)
    if part == "classifier":
        mine, theirs = (one.image(paths[0]).entails("a red dog") for one in (model, onnx))
        assert theirs.label == mine.label
        assert theirs.probabilities == pytest.approx(mine.probabilities, abs=1e-5)
        with pytest.raises(MissingHead, match="no head 'box'"):
            onnx.image(paths[0]).ground("a dog")
        return
    mine, theirs = (one.compare(*paths, "both show a dog") for one in (model, onnx))
    assert theirs == pytest.approx(mine, abs=1e-5)


def test_other_precisions_and_what_they_cost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(tiny_loaded(heads=("contrastive", "matching")), tmp_path / "model")
    photo(80, 60, 1).save(tmp_path / "a.png")
    kinds = {"fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}
    for precision in kinds:  # an export may be replaced by another one
        differing = export(tmp_path / "model", tmp_path / "onnx", precision)  # type: ignore[arg-type]
        description = json.loads((tmp_path / "onnx" / "export.json").read_text())
        assert description["graphs"] == differing
        assert TOLERANCE < max(differing.values()) < 0.5 and "pre-processing" not in caplog.text
        weights = onnx.load(tmp_path / "onnx" / "fusion.onnx").graph.initializer
        assert kinds[precision] in {one.data_type for one in weights}
        assert OnnxPredictor.load(tmp_path / "onnx").image(tmp_path / "a.png").match(PHRASES)


@pytest.mark.parametrize("heads", [("contrastive",), ("mlm",)])
def test_models_without_heads_for_pairs(heads: tuple[str, ...], tmp_path: Path) -> None:
    """Also one with fewer positions than the graphs are compared at."""
    loaded = tiny_loaded(heads=heads)
    text = replace(loaded.model.config.text, max_positions=20)
    model = build_model(replace(loaded.model.config, text=text)).eval()
    save_model(replace(loaded, model=model), tmp_path / "model")
    assert export(tmp_path / "model", tmp_path / "onnx").keys() == {"image", "text"}
    predictor, seen = OnnxPredictor.load(tmp_path / "onnx"), photo(60, 40, 3)
    if heads == ("contrastive",):
        vectors = Predictor.load(tmp_path / "model").text_vectors(PHRASES)
        assert np.allclose(predictor.text_vectors(PHRASES), vectors, atol=1e-5)
        assert predictor.image(seen).vector.shape == vectors[0].shape
    with pytest.raises(MissingHead, match="no head 'matching'"):
        predictor.image(seen).match(PHRASES)


def test_long_answers_and_captions(tmp_path: Path) -> None:
    """A decoder has more positions than a text of training has tokens, and no more."""
    save_model(tiny_loaded_for("vqa_decoder"), tmp_path / "model")
    export(tmp_path / "model", tmp_path / "onnx")
    model, onnx = Predictor.load(tmp_path / "model"), OnnxPredictor.load(tmp_path / "onnx")
    one, other, answers = model.image(photo(60, 40, 3)), onnx.image(photo(60, 40, 3)), ["a dog", "red " * 27]
    assert len(model.tokenizer.encode(answers[1], 64)) > model.max_tokens
    assert other.ask("what is it?", answers).score == pytest.approx(
        one.ask("what is it?", answers).score, abs=1e-4
    )
    for photo_of in (one, other):
        with pytest.raises(InputError, match="too long"):
            photo_of.ask("what is it?", ["red " * 600])
        with pytest.raises(InputError, match="num_beams is 0"):
            photo_of.ask("what is it?", num_beams=0)


def test_torch_is_not_loaded(exported: Callable[[str], Path]) -> None:
    cnn, vit = exported("cnn"), exported("vit")
    code = (
        "import sys, xvlm\n"
        "one, other = (xvlm.OnnxPredictor.load(path).image(sys.argv[3]) for path in sys.argv[1:3])\n"
        "one.ground('a dog'), one.find('a dog', 0.0), one.caption(), other.ask('a red dog')\n"
        "assert not {'torch', 'timm'} & sys.modules.keys()"
    )
    words = [sys.executable, "-c", code, str(cnn / "onnx"), str(vit / "onnx"), str(cnn / "a.png")]
    subprocess.run(words, cwd=ROOT, check=True)


def test_wrong_folders(tmp_path: Path, exported: Callable[[str], Path]) -> None:
    save_model(tiny_loaded(heads=("contrastive", "matching")), tmp_path / "model")
    with pytest.raises(InputError, match="is no folder that this version of `xvlm export` wrote"):
        OnnxPredictor.load(tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("")
    with pytest.raises(OutputError, match="did not write; name another folder"):
        export(tmp_path / "model", tmp_path / "full")
    shutil.copytree(exported("cnn") / "onnx", tmp_path / "onnx")
    (tmp_path / "onnx/text.onnx").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match=r"text.onnx cannot be read"):
        OnnxPredictor.load(tmp_path / "onnx")
    (tmp_path / "onnx/text.onnx").unlink()
    with pytest.raises(MissingFileError, match=r"lacks text.onnx"):
        OnnxPredictor.load(tmp_path / "onnx")


@pytest.mark.parametrize("options", [{"num_samples": 2}, {"repetition_penalty": 1.1}])
def test_what_a_search_has_not_is_refused(options: dict[str, Any], exported: Callable[[str], Path]) -> None:
    folder = exported("cnn")
    with pytest.raises(InputError, match="neither num_samples nor repetition_penalty"):
        OnnxPredictor.load(folder / "onnx").image(folder / "a.png").caption(GenerationConfig(**options))
    assert torch.is_grad_enabled(), "an export turns gradients off for itself alone"
