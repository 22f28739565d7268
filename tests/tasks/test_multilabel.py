"""Multi-label classification: its samples, loss, metrics, and the same file outside of the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import photo, tiny_loaded_for
from xvlm.batch import Images, Texts
from xvlm.cli import main
from xvlm.common.json_file import read_json
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.open import open_source
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.classification import class_logits
from xvlm.predict import Predictor
from xvlm.records import BadRecord, Concept, Record
from xvlm.tasks import multilabel
from xvlm.tasks.multilabel import MultiLabel, MultiLabelSample, MultiLabelSampleBuilder, evaluate_multilabel

LABELS = ("dog", "cat", "bird")


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(tiny_loaded_for("multilabel", LABELS))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a file of five records, of which the third has no labels and the fourth an unknown one."""
    labels = [["dog"], ["dog", "bird"], None, ["dog", "fish"], []]
    lines = []
    for number, found in enumerate(labels):
        photo(60, 50, number).save(tmp_path / f"{number}.jpg")
        record = {"image": f"{number}.jpg", "caption": "a dog"} | ({} if found is None else {"labels": found})
        lines.append(json.dumps(record))
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines))
    return path


def record(path: Path, **extra: object) -> Record:
    return Record("one", str(path), (Concept(("a dog",)),), extra=extra)


def test_a_sample_has_the_indices_of_its_labels(data: Path, predictor: Predictor) -> None:
    build = MultiLabelSampleBuilder(PairTransform((32, 32)), predictor.tokenizer, LABELS)
    path, rng = data.parent / "0.jpg", np.random.default_rng(0)
    assert list(build(record(path, labels=["bird", "dog"]), rng).labels) == [2, 0]
    with pytest.raises(BadRecord, match="labels is None; it must be a list of names"):
        build(record(path), rng)
    with pytest.raises(BadRecord, match="'fish' is none of dog, cat, bird"):
        build(record(path, labels=["fish"]), rng)


def test_loss_is_the_mean_cross_entropy_of_all_labels(predictor: Predictor) -> None:
    samples = [
        MultiLabelSample(
            pixels=torch.full((3, 64, 64), level, dtype=torch.uint8), ids=[2, 5, 3], labels=labels
        )
        for level, labels in ((10, [0, 2]), (200, []))
    ]
    batch = multilabel.collate({"train": samples}, len(LABELS))
    assert batch.target_BY.tolist() == [[1, 0, 1], [0, 0, 0]]
    model = predictor.model
    images, texts = Images(batch.images.pixels_BCHW), Texts.pack([[2, 5, 3], [2, 5, 3]])
    logits_BY = class_logits(model, model.encode_images(images), texts, torch.arange(2), "multilabel")
    p_BY = logits_BY.sigmoid().double()
    expected = -torch.where(batch.target_BY == 1, p_BY, 1 - p_BY).log().mean()
    assert MultiLabel(model)(batch)["multilabel"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_metrics_of_known_predictions() -> None:
    """Three of four annotated labels are found, and one that is wrong: 2 * 3 / (4 + 4)."""
    pairs = [({"dog", "cat"}, {"dog"}), ({"bird", "dog"}, {"bird", "dog", "cat"})]
    assert multilabel.f1(pairs) == pytest.approx(6 / 8)
    assert multilabel.f1([(set(), set())]) == 0.0


@pytest.mark.parametrize("batch_size", [1, 32])
def test_evaluation(data: Path, predictor: Predictor, batch_size: int) -> None:
    skipped = SkippedSamples()
    metrics, predictions = evaluate_multilabel(
        predictor, open_source(str(data)), threshold=0.0, batch_size=batch_size, skipped=skipped
    )
    assert [one.truth for one in predictions] == [("dog",), ("dog", "bird"), ()]
    assert len(skipped) == 2 and metrics["multilabel_skipped"] == 2 and metrics["multilabel_samples"] == 3
    # At a threshold of 0, all labels are predicted for all three samples.
    assert metrics["multilabel_f1"] == pytest.approx(2 * 3 / (3 + 9))
    by_label = [2 * 2 / (2 + 3), 0, 2 * 1 / (1 + 3)]
    assert metrics["multilabel_f1_macro"] == pytest.approx(sum(by_label) / 3)
    assert metrics["multilabel_exact"] == 0
    assert all(one.predicted == LABELS and not one.correct for one in predictions)
    expected = predictor.predict("multilabel", str(data.parent / "1.jpg"), "a dog")
    assert predictions[1].probabilities == pytest.approx(expected, abs=1e-5)
    assert set(expected) == set(LABELS)


def test_commands(data: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data.parent
    save_model(tiny_loaded_for("multilabel", LABELS), folder / "model")
    words = ["--model", str(folder / "model")]
    assert main(["eval", "multilabel", *words, "--data", str(data), "--out", str(folder / "results")]) == 0
    assert json.loads(capsys.readouterr().out)["multilabel_samples"] == 3
    assert "samples with exactly the annotated labels" in (folder / "results" / "report.html").read_text()
    assert main(["predict", "multilabel", str(folder / "0.jpg"), "a dog", *words, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(LABELS)


RECIPE = """
from xvlm.config import OptimConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.registry import load_file
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig


def recipe():
    return load_file("./tags.py").MultiLabelRun(
        task="./tags.py",
        model=ModelConfig(heads=("tags",), labels=("dog", "cat", "bird")),
        init=InitConfig(model="base"),
        data=FinetuneData((SourceConfig("train.jsonl"),), batch_size=2),
        optim=OptimConfig(steps=2, warmup_steps=1),
        workers=0,
    )
"""


def test_the_same_file_works_from_outside(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file, copied under a name of its own, trains, evaluates and predicts."""
    monkeypatch.chdir(tmp_path)
    text = Path(multilabel.__file__).read_text()
    for old, new in (
        ('HEAD = "multilabel"', 'HEAD = "tags"'),
        ('task: str = "multilabel"', 'task: str = ""'),
    ):
        assert old in text
        text = text.replace(old, new)
    Path("tags.py").write_text(text)
    save_model(tiny_loaded_for("matching"), Path("base"))
    shutil.copy(data, "train.jsonl")
    Path("my_recipe.py").write_text(RECIPE)
    assert main(["train", "./my_recipe.py", "--out", "out"]) == 0
    assert read_json(Path("out/run.json"))["model"]["heads"] == ["tags"]
    capsys.readouterr()
    assert main(["eval", "./tags.py", "--model", "out", "--data", "train.jsonl", "--out", "results"]) == 0
    assert json.loads(capsys.readouterr().out)["multilabel_samples"] == 3
    assert main(["predict", "./tags.py", "0.jpg", "a dog", "--model", "out", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(LABELS)
