"""`xvlm demo --tasks` trains and evaluates every task, here with a tiny model and few scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_config
from xvlm import cli
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.experiments import calibrated, demo, demo_tasks
from xvlm.experiments.demo_tasks import TASKS, run_tasks
from xvlm.models.checkpoints.folder import ModelBundle, save_model
from xvlm.models.xvlm import build_model
from xvlm.scenes import Scenes
from xvlm.tasks.common.sources import SourceConfig, tokenizer_corpus

REQUIRED = {
    "grounding": {"grounding_acc50"},
    "detection": {"detection_f1", "presence_auroc"},
    "vqa": {"vqa_acc"},
    "nlvr2": {"nlvr2_acc"},
    "captioning": {"caption_cider", "caption_true"},
    "weak_grounding": {"weak_grounding_acc", "weak_grounding_chance"},
}


def brief(run: Any) -> Any:
    """Change a run to two steps on 8 scenes."""
    is_finetuning = hasattr(run.data, "train")
    scheme = run.data.train[0].path.split(":")[0] if is_finetuning else "scenes"
    source = (SourceConfig(f"{scheme}:train:8?image_size=64", cache_in_memory=True),)
    if is_finetuning:
        data = replace(run.data, train=source, batch_size=4)
    else:
        streams = {name: source for name in ("pairs", "regions") if getattr(run.data, name)}
        data = replace(run.data, **streams, pairs_batch_size=4, regions_batch_size=4)
    optim = replace(run.optim, steps=2, warmup_steps=1)
    return replace(run, data=data, optim=optim, workers=0, save_every=1)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a finished demo."""
    monkeypatch.setattr(demo_tasks, "NUM_UNSEEN", 3)
    monkeypatch.setattr(demo_tasks, "NUM_TRAINING", 20)
    monkeypatch.setattr(calibrated, "NUM_SCENES", 5)
    tokenizer = Tokenizer.train_wordpiece(tokenizer_corpus([Scenes("train", 40)], 40), 200)
    model = build_model(tiny_config("cnn", (64, 64), vocab_size=tokenizer.vocab_size, max_positions=64))
    save_model(ModelBundle(model, tokenizer, 40, 40), tmp_path / "model")
    (tmp_path / "metrics.json").write_text("{}")
    return tmp_path


def test_every_task_is_trained_and_evaluated(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xvlm.metrics.coco_tools.java_problem", lambda enabled: "it takes seconds to start")
    assert TASKS.keys() == REQUIRED.keys()
    metrics = run_tasks(out, list(TASKS), brief)
    assert metrics == json.loads((out / "tasks.json").read_text())
    for name, task in TASKS.items():
        assert REQUIRED[name] <= metrics.keys() and metrics[f"{name}_train_seconds"] > 0
        assert json.loads((out / "tasks" / task.recipes[-1] / "predictions.json").read_text())
    run = json.loads((out / "tasks" / "scenes/nlvr2" / "run.json").read_text())
    assert Path(run["init"]["model"]) == out / "tasks" / "scenes/vqa" / "model"


def test_metrics_of_other_tasks_are_kept(out: Path) -> None:
    (out / "tasks.json").write_text('{"vqa_acc": 0.25}')
    metrics = run_tasks(out, ["weak_grounding"], brief)
    assert metrics["vqa_acc"] == 0.25 and "weak_grounding_acc" in metrics


def test_an_unknown_task_is_named_before_training(out: Path) -> None:
    with pytest.raises(ValueError, match="no task 'groundin' on scenes; there is grounding, detection, vqa"):
        run_tasks(out, ["vqa", "groundin"], brief)
    assert not (out / "tasks").exists()


@pytest.mark.parametrize(
    ("arguments", "exists", "expected"),
    [
        ([], True, ["demo"]),
        (["--tasks", "all"], True, [list(TASKS)]),
        (["--tasks", "vqa", "nlvr2"], True, [["vqa", "nlvr2"]]),
        (["--tasks", "all"], False, ["demo", list(TASKS)]),
    ],
)
def test_the_demo_is_trained_first_if_it_does_not_exist(
    arguments: list[str], exists: bool, expected: list[Any], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(demo, "run_demo", lambda out: calls.append("demo"))
    monkeypatch.setattr(demo_tasks, "run_tasks", lambda out, names: calls.append(list(names)))
    if not exists:
        (out / "metrics.json").unlink()
    assert cli.main(["demo", "--out", str(out), *arguments]) == 0
    assert calls == expected
