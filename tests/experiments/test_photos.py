"""`xvlm photos` trains with several seeds and chooses on held-out images, here with a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_run, write_photos
from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import read_json
from xvlm.evaluation.common.candidates import CandidateScores
from xvlm.evaluation.score_weights import ScoreWeights, fit_score_weights
from xvlm.experiments import photos as experiment
from xvlm.experiments.chosen_weights import recalls_at_1
from xvlm.experiments.held_out import phrases_with_one_box
from xvlm.models.checkpoints.folder import load_model
from xvlm.models.vision.encoder import VisionConfig
from xvlm.tasks.common.init import InitConfig


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of photographs, which the recipes train a tiny model on for two steps."""
    folder = tmp_path / "photographs"
    rows = [json.loads(line) for line in write_photos(folder, 14).read_text().splitlines()]
    for name, part in (("train", rows[:10]), ("dev", rows[10:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "dev_grounding.json").write_text(json.dumps(list(phrases_with_one_box(rows[10:]))))

    def recipe(root: str, aligned: str = "") -> Any:
        run = tiny_run(steps=2)
        vision = VisionConfig("tf_efficientnet_lite0", (64, 64), frozen_stem_blocks=5, freeze_batch_norm=True)
        model = replace(run.model, vision=vision)
        data = replace(run.data, cached_views=2)
        if not aligned:
            return replace(run, model=model, data=data)
        return replace(
            run,
            model=replace(model, heads=(*model.heads, "detection")),
            data=replace(data, absent_texts=2),
            losses=replace(run.losses, detection=1.0),
            init=InitConfig(model=aligned),
        )

    monkeypatch.setattr(experiment.photos_align, "recipe", recipe)
    monkeypatch.setattr(experiment.photos, "recipe", recipe)
    return folder


def test_seeds_are_trained_evaluated_and_not_repeated(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    metrics = experiment.run_photos(root, out, seeds=2, held_out=4)
    seeds = read_json(out / "seeds.json")
    runs = [read_json(out / "metrics.json"), read_json(out / "seed1" / "metrics.json")]
    for name in ("i2t_r1", "t2i_r1_contrastive", "t2i_r1_phrases", "grounding_acc50_low", "choose_i2t_r1"):
        assert seeds[name]["values"] == [run[name] for run in runs]
        assert metrics[name] == pytest.approx(sum(run[name] for run in runs) / 2)
    used = [
        json.loads((folder / "run.json").read_text()) for folder in (out / "align", out / "seed1" / "align")
    ]
    assert [run["seed"] for run in used] == [0, 2]
    assert used[0]["data"]["pairs"][0]["path"] == str(out / "split4" / "train.jsonl")
    final = json.loads((out / "run.json").read_text())
    assert final["data"]["regions"][0]["path"] == f"absent:{out / 'split4' / 'train.jsonl'}"
    for folder, run in zip((out, out / "seed1"), runs, strict=True):
        bundle = load_model(folder)
        assert (
            bundle.matching_weight == run["matching_weight"] and bundle.phrase_weight == run["phrase_weight"]
        )
        assert bundle.calibration.presence.scale != 1.0 and run["presence_ece"] <= 1
    weights = (out / "model" / "model.safetensors").read_bytes()
    assert weights != (out / "seed1" / "model" / "model.safetensors").read_bytes()

    steps = (out / "log.jsonl").read_text()
    again = experiment.run_photos(root, out, seeds=2, held_out=4)
    assert again | {"train_seconds": 0} == metrics | {"train_seconds": 0}
    assert (out / "log.jsonl").read_text() == steps


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seeds": 0}, "seeds is 0"), ({"held_out": 0}, "held_out is 0"), ({"held_out": 10}, "has 10 images")],
)
def test_wrong_numbers_are_said_before_training(
    options: dict[str, int], message: str, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        experiment.run_photos(root, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "align").exists()


@pytest.mark.parametrize("name", ["train.jsonl", "dev.jsonl", "dev_grounding.json"])
def test_a_missing_file_is_said_before_training(name: str, root: Path, tmp_path: Path) -> None:
    (root / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        experiment.run_photos(root, tmp_path / "out", held_out=4)
    assert not (tmp_path / "out" / "align").exists()


def test_recall_of_scores_is_that_of_their_weighted_sum() -> None:
    contrastive = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    matching = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    phrases = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    true = torch.tensor([[False, True, False], [True, False, False]])
    scores = [CandidateScores(contrastive, matching, phrases, true)] * 2
    for expected, matching_weight, phrase_weight in ((1.0, 1.0, 1.0), (0.5, 1.0, 0.0), (0.0, 0.0, 0.0)):
        weights = ScoreWeights(matching_weight, phrase_weight, 1.0, 0.0, 0.0)
        assert recalls_at_1(scores, weights) == {"i2t_r1": expected, "t2i_r1": expected}
    assert recalls_at_1(scores) == {"i2t_r1": 0.0, "t2i_r1": 0.0}
    assert fit_score_weights(scores, ("phrases",)).matching == 0.0
