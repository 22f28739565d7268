"""Every task overfits one batch, can be saved and resumed, and its model predicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.contracts import toys
from tests.tiny import photo
from xvlm.common.json_file import to_json
from xvlm.config import Run, from_json
from xvlm.predict import Predictor
from xvlm.registry import names
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.task import find_task
from xvlm.training.train import train

TASKS = names("tasks")


@pytest.mark.parametrize("name", TASKS)
def test_has_what_every_task_has(name: str) -> None:
    task = find_task(name)
    assert name in toys.RUNS, f"task {name} has no toy run yet; add one to tests/contracts/toys.py"
    assert issubclass(task.run, Run) and callable(task.build)
    run = toys.RUNS[name]()
    assert isinstance(run, task.run) and run.task == name
    assert from_json(task.run, json.loads(json.dumps(to_json(run)))) == run


@pytest.mark.parametrize("name", TASKS)
def test_overfits_one_batch(name: str, tmp_path: Path) -> None:
    """Within 60 steps the weighted sum of losses falls by half, or the reward rises."""
    built = find_task(name).build(toys.RUNS[name](), tmp_path)
    task: Any = built.loss_module
    assert isinstance(task.model, nn.Module) and built.bundle.model is task.model
    batch = built.steps[0].batches[0]
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=5e-3)
    weights = task.loss_weights()
    history: list[dict[str, float]] = []
    has_learnt = toys.LEARNING_CHECKS.get(name, toys.halves)
    task.train()
    while len(history) < toys.LEARNING_STEPS and not (history and has_learnt(history)):
        losses = task(batch)
        assert losses.keys() <= weights.keys()
        total = sum(weights[key] * value for key, value in losses.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({"total": total.item()} | {key: value.item() for key, value in losses.items()})
    assert has_learnt(history), history[::5]


@pytest.mark.parametrize("name", TASKS)
def test_saves_resumes_and_predicts(name: str, tmp_path: Path) -> None:
    run = toys.RUNS[name]()
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    train(run, uninterrupted)
    train(run, resumed, minutes=0.0)
    train(run, resumed, resume=True)
    one, two = ((out / "model" / "model.safetensors").read_bytes() for out in (uninterrupted, resumed))
    assert one == two
    predictor = Predictor.load(uninterrupted)
    toys.ANSWERS[name](predictor, predictor.image(photo(50, 70, 0)))


@pytest.mark.parametrize("name", TASKS)
def test_a_run_without_data_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data"):
        find_task(name).build(find_task(name).run(), tmp_path)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_from_a_model_folder_uses_its_tokenizer(name: str, tmp_path: Path) -> None:
    """Fine-tuning must not train another vocabulary for the token embeddings of the model."""
    run = toys.RUNS[name]()
    train(run, tmp_path / "first", minutes=0.0)
    other = replace(run, init=InitConfig(model=str(tmp_path / "first" / "model")))
    built = find_task(name).build(other, tmp_path / "second")
    first = Predictor.load(tmp_path / "first")
    text = "a small red circle left of the large blue square"
    assert built.bundle.tokenizer.encode(text, 30) == first.tokenizer.encode(text, 30)
    assert built.pretrained_names == {key for key, _ in built.bundle.model.named_parameters()}
    own, theirs = built.bundle.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    build_sample = built.steps.streams[0].build_sample
    owners = [build_sample, getattr(build_sample, "text", None), built.loss_module]
    tokenizers = [owner.tokenizer for owner in owners if hasattr(owner, "tokenizer")]
    assert tokenizers, "no object that tokenizes texts was found"
    assert all(one.encode(text, 30) == first.tokenizer.encode(text, 30) for one in tokenizers)
