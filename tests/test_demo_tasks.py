"""The demo's tasks, each from its recipe's training to its figures, on a tiny model and few scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_config
from xvlm import cli, demo, demo_tasks
from xvlm.data.scenes import Scenes
from xvlm.data.text import Tokenizer
from xvlm.demo_tasks import TASKS, run_tasks
from xvlm.model.folder import Loaded, save_model
from xvlm.model.xvlm import build_model
from xvlm.tasks._build import SourceConfig, corpus

REQUIRED = {
    "grounding": {"grounding_acc50"},
    "vqa": {"vqa_acc"},
    "nlvr2": {"nlvr2_acc"},
    "captioning": {"caption_cider", "caption_true"},
    "weak_grounding": {"weak_grounding_acc", "weak_grounding_chance"},
}


def brief(run: Any) -> Any:
    """Two short steps on a few scenes."""
    few = (SourceConfig("scenes:train:8?image_size=64", cache=True),)
    kind = run.data.train[0].path.split(":")[0] if hasattr(run.data, "train") else ""
    if kind:
        few = (SourceConfig(f"{kind}:train:8?image_size=64", cache=True),)
        data = replace(run.data, train=few, batch=4)
    else:
        parts = {name: few for name in ("pairs", "regions") if getattr(run.data, name)}
        data = replace(run.data, **parts, pairs_batch=4, regions_batch=4)
    optim = replace(run.optim, steps=2, warmup=1)
    return replace(run, data=data, optim=optim, workers=0, save_every=1)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a demo that is over."""
    monkeypatch.setattr(demo_tasks, "UNSEEN", 3)
    monkeypatch.setattr(demo_tasks, "KNOWN", 20)
    tokenizer = Tokenizer.train_wordpiece(corpus([Scenes("train", 40)], 40), 200)
    model = build_model(tiny_config("cnn", (64, 64), vocab_size=tokenizer.vocab_size, max_positions=64))
    save_model(Loaded(model, tokenizer, 40, 40), tmp_path / "model")
    (tmp_path / "metrics.json").write_text("{}")
    return tmp_path


def test_every_task_is_trained_and_measured(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xvlm.metrics.captions.why_no_java", lambda wanted: "it takes seconds to start")
    assert TASKS.keys() == REQUIRED.keys()
    metrics = run_tasks(out, list(TASKS), brief)
    assert metrics == json.loads((out / "tasks.json").read_text())
    for name, task in TASKS.items():
        assert REQUIRED[name] <= metrics.keys() and metrics[f"{name}_train_seconds"] > 0
        assert json.loads((out / "tasks" / task.recipes[-1] / "predictions.json").read_text())
    last = json.loads((out / "tasks" / "scenes_nlvr2" / "run.json").read_text())
    assert Path(last["init"]["model"]) == out / "tasks" / "scenes_vqa" / "model"


def test_figures_of_other_tasks_stay(out: Path) -> None:
    (out / "tasks.json").write_text('{"vqa_acc": 0.25}')
    metrics = run_tasks(out, ["weak_grounding"], brief)
    assert metrics["vqa_acc"] == 0.25 and "weak_grounding_acc" in metrics


def test_an_unknown_task_is_named_before_anything_is_trained(out: Path) -> None:
    with pytest.raises(ValueError, match="no task 'groundin' on scenes; there is grounding, vqa"):
        run_tasks(out, ["vqa", "groundin"], brief)
    assert not (out / "tasks").exists()


@pytest.mark.parametrize(
    ("arguments", "there", "called"),
    [
        ([], True, ["demo"]),
        (["--tasks", "all"], True, [list(TASKS)]),
        (["--tasks", "vqa", "nlvr2"], True, [["vqa", "nlvr2"]]),
        (["--tasks", "all"], False, ["demo", list(TASKS)]),
    ],
)
def test_the_demo_comes_first_where_there_is_none(
    arguments: list[str], there: bool, called: list[Any], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(demo, "run_demo", lambda out: found.append("demo"))
    monkeypatch.setattr(demo_tasks, "run_tasks", lambda out, names: found.append(list(names)))
    if not there:
        (out / "metrics.json").unlink()
    assert cli.main(["demo", "--out", str(out), *arguments]) == 0
    assert found == called
