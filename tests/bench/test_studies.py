"""The studies of docs/results.md run on a tiny model and learn what can be learnt."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_loaded, write_photos
from xvlm.data.text.phrases import split_phrases
from xvlm.models.checkpoints.folder import save_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """Import a script of the folder `benchmarks`, which imports its neighbours as when it is run."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Return a tiny model and photographs that are both trained and evaluated on."""
    lines = write_photos(tmp_path / "photographs", 8)
    model = save_model(tiny_loaded(), tmp_path / "model")
    return {"model": model, "train": lines, "held_out": lines, "root": lines.parent}


NEGATIVES = ["sampled", "all_pairs", "neighbours", "swapped"]


OPTIONS = [*({"negatives": one} for one in NEGATIVES), {"init": "aligned"}, {"soft_targets": 0.4}]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_matching_study_prints_every_figure(
    options: dict[str, Any],
    paths: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = load("matching_study")
    monkeypatch.setattr(module, "NEIGHBOURS", 5)
    small = {"steps": 4, "batch_size": 4, "group": 2, "candidates": 4, "crops": 2, "seeds": 2}
    module.main(module.Study(**paths, **options, **small))
    figures = {
        line.split()[0]: [float(part) for part in line.split()[1:] if part != "±"]
        for line in capsys.readouterr().out.splitlines()
    }
    assert {"i2t_r1", "t2i_r1_contrastive", "i2t_nll_gain", "loss", "matching_weight"} <= figures.keys()
    assert all(math.isfinite(value) for values in figures.values() for value in values)
    # The weight was fitted on these images, where contrastive scores alone are a weight of 0.
    assert figures["t2i_nll"][0] <= figures["t2i_nll_contrastive"][0] + 1e-3


def test_matching_learns_the_images_that_it_is_trained_on(paths: dict[str, Path], capsys: Any) -> None:
    module = load("matching_study")
    sizes = {"batch_size": 8, "candidates": 8, "crops": 1, "seeds": 1}
    study = module.Study(**paths, **sizes, steps=250, lr=3e-3, dropout=0.0)
    module.main(study)
    figures = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert float(figures["loss"]) < math.log(8) / 2


def test_a_swapped_phrase_is_the_only_difference() -> None:
    module = load("matching_study")
    text, other = "a dog runs on the beach near a boat", "two men stand behind a fence"
    swapped = module.swapped_phrase(text, other, np.random.default_rng(0))
    pieces = [set(split_phrases(one)) for one in (text, other)]
    assert len(set(split_phrases(swapped)) & pieces[0]) == len(pieces[0]) - 1
    assert len(set(split_phrases(swapped)) & pieces[1]) == 1
    assert module.swapped_phrase("the", other, np.random.default_rng(0)) == other


def test_a_phrase_study_prints_every_division(
    paths: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("phrase_study")
    module.main(module.Study(**paths))
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith("| none |") and len(rows) == 11
    assert all(row.count("%") == 2 for row in rows[2:])


def test_a_diagnosis_writes_its_charts(
    paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("reranking_diagnosis")
    files = {"train": paths["train"], "unseen": paths["train"], "phrases": paths["train"]}
    out = tmp_path / "diagnosis"
    module.main(module.Study(paths["model"], **files, root=paths["root"], out=out, limit=6))
    printed = capsys.readouterr().out
    assert all(
        f"| {name} |" in printed for name in ("attention, layer 1", "matching, unseen", "area of the box")
    )
    assert {path.name for path in out.iterdir()} == {"attention.svg", "attention.jpg", "accuracy.svg"}
    # The same images are "trained on" and "unseen" here, so their rows are the same.
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in printed.splitlines()}
    assert rows["| matching, unseen"] == rows["| matching, trained on"]


def test_captions_are_divided_as_the_names_say() -> None:
    module = load("phrase_study")
    text = "A brown dog runs on the wet sand."
    assert module.annotated(text, {"a brown dog", "brown", "a cat"}) == ["a brown dog", "brown"]
    assert module.known(text, {"a brown dog", "brown dog", "the wet sand", "sand"}) == [
        "a brown dog",
        "the wet sand",
    ]
    assert module.before_determiners(text) == ["a brown dog runs", "the wet sand"]
    assert module.runs_of_words(3)("a red car here") == ["a red car", "red car here"]
    assert module.runs_of_words(3)("a car") == ["a car"]
    assert module.windows().shape == (35, 4)
