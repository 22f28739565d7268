"""Every task, by its file: it overfits one batch, saves and goes on, and its model answers."""

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
from xvlm.lookup import find, names
from xvlm.predict import Predictor
from xvlm.run import Run, from_json, to_json
from xvlm.train.start import train

TASKS = names("tasks")


@pytest.mark.parametrize("name", TASKS)
def test_has_what_every_task_has(name: str) -> None:
    task = find("tasks", name)
    assert name in toys.RUNS, f"task {name} has no toy run yet; add one to tests/contracts/toys.py"
    assert issubclass(task.RUN, Run) and callable(task.build)
    run = toys.RUNS[name]()
    assert isinstance(run, task.RUN) and run.task == name
    assert from_json(task.RUN, json.loads(json.dumps(to_json(run)))) == run


@pytest.mark.parametrize("name", TASKS)
def test_overfits_one_batch(name: str, tmp_path: Path) -> None:
    """The weighted sum of losses falls by half within 60 steps, or what the task learns by rises."""
    built = find("tasks", name).build(toys.RUNS[name](), tmp_path)
    task: Any = built.task
    assert isinstance(task.model, nn.Module) and built.loaded.model is task.model
    batch = built.feed[0].batches[0]
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=5e-3)
    weights = task.loss_weights()
    seen = []
    task.train()
    for _ in range(60):
        losses = task(batch)
        assert losses.keys() <= weights.keys()
        total = sum(weights[key] * value for key, value in losses.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append({"total": total.item()} | {key: value.item() for key, value in losses.items()})
    toys.LEARNT.get(name, toys.halves)(seen)


@pytest.mark.parametrize("name", TASKS)
def test_saves_goes_on_and_answers(name: str, tmp_path: Path) -> None:
    run = toys.RUNS[name]()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(run, whole)
    train(run, parts, minutes=0.0)
    train(run, parts, resume=True)
    one, two = ((out / "model" / "model.safetensors").read_bytes() for out in (whole, parts))
    assert one == two
    predictor = Predictor.load(whole)
    toys.ASKED[name](predictor, predictor.image(photo(50, 70, 0)))


@pytest.mark.parametrize("name", TASKS)
def test_a_run_without_data_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data"):
        find("tasks", name).build(find("tasks", name).RUN(), tmp_path)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_from_a_model_folder_uses_its_tokenizer(name: str, tmp_path: Path) -> None:
    """Fine-tuning must not train a vocabulary of its own under another's embeddings."""
    run = toys.RUNS[name]()
    train(run, tmp_path / "first", minutes=0.0)
    other = replace(run, init=replace(run.init, model=str(tmp_path / "first" / "model"), vocab_size=90))
    built = find("tasks", name).build(other, tmp_path / "second")
    first = Predictor.load(tmp_path / "first")
    text = "a small red circle left of the large blue square"
    assert built.loaded.tokenizer.encode(text, 30) == first.tokenizer.encode(text, 30)
    assert built.given == {key for key, _ in built.loaded.model.named_parameters()}
    own, theirs = built.loaded.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    view = built.feed._readers[0].part.view
    holders = [view, getattr(view, "text", None), built.task]
    tokenizers = [holder.tokenizer for holder in holders if hasattr(holder, "tokenizer")]
    assert tokenizers, "who reads the texts?"
    assert all(one.encode(text, 30) == first.tokenizer.encode(text, 30) for one in tokenizers)
