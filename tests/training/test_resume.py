"""A run that is interrupted or killed at any step resumes bit for bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_run, write_photos
from tests.training.interrupt import rows, saved, train_and_signal, under_way
from xvlm.common.errors import OutputError
from xvlm.config import OptimConfig
from xvlm.models.checkpoints.folder import ModelBundle
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.pretrain import PretrainRun
from xvlm.training import checkpoint
from xvlm.training.loop import Interrupted
from xvlm.training.train import train

STEPS = 24


def demanding_run(**fields: Any) -> PretrainRun:
    """Return a run with dropout, augmentation, BatchNorm, channels-last weights and a running average."""
    run = tiny_run("cnn", save_every=4, **fields)
    model = replace(run.model, text=replace(run.model.text, dropout=0.1))
    return replace(run, model=model, optim=OptimConfig(steps=STEPS, lr=3e-3, warmup_steps=3, ema_decay=0.9))


def mixture_run(folder: Path, workers: int) -> PretrainRun:
    """Return a run on scenes and on photographs, of which one cannot be decoded."""
    photos = write_photos(folder, 6, first_bad=True)
    sources = (
        SourceConfig("scenes:train:9?image_size=64", weight=2.0),
        SourceConfig(str(photos), weight=1.0),
    )
    run = demanding_run(workers=workers, max_bad=0.5)
    return replace(run, data=replace(run.data, pairs=sources, regions=sources))


@pytest.fixture(scope="module")
def scenes_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "out"
    train(demanding_run(), out)
    return out


@pytest.fixture(scope="module")
def mixture_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    train(mixture_run(folder / "photos", workers=2), folder / "out")
    return folder / "out"


def assert_same_run(a: Path, b: Path) -> None:
    """Compare every number of every step, and the model, bit for bit."""
    assert [row["step"] for row in rows(a)] == list(range(1, STEPS + 1))
    assert rows(a) == rows(b)
    one, two = (load_file(out / "model" / "model.safetensors") for out in (a, b))
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def stop_after(step: int) -> Any:
    """Return options with an evaluation that sends Ctrl-C the first time."""
    evaluated = []

    def evaluate(_: ModelBundle) -> dict[str, float]:
        if not evaluated:
            os.kill(os.getpid(), signal.SIGINT)
        evaluated.append(step)
        return {"evaluated": 1.0}

    return {"evaluate": evaluate}


@pytest.mark.parametrize("step", [1, 5, 8, 23])
def test_stopped_by_ctrl_c_and_resumed(step: int, scenes_done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match=rf"stopped after step {step + 1} of {STEPS}; .* --resume goes on"):
        train(demanding_run(eval_every=step), out, **stop_after(step))
    assert not (out / "model").exists()
    train(demanding_run(), out, resume=True)
    assert_same_run(out, scenes_done)


def test_killed_and_resumed(scenes_done: Path, tmp_path: Path) -> None:
    """After kill -9, unsaved steps are repeated, and an incomplete checkpoint is ignored."""
    out = tmp_path / "out"
    code, _ = train_and_signal(demanding_run(), out, signal.SIGKILL, saved(4))
    assert code == -signal.SIGKILL
    newest = checkpoint.newest(out)
    assert newest is not None and newest.name != f"step_{STEPS:08d}", "killed too late to test anything"
    shutil.copytree(newest, out / "checkpoints" / "partial_4711")
    (out / "checkpoints" / "partial_4711" / "state.json").unlink()
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 99999, "loss": 0.0}\n{"step": 9, "lo')
    train(demanding_run(), out, resume=True)
    assert_same_run(out, scenes_done)
    assert not list((out / "checkpoints").glob("partial_*"))


@pytest.mark.parametrize("workers", [2, 0])
def test_a_mixture_killed_and_resumed(workers: int, mixture_done: Path, tmp_path: Path) -> None:
    """Two sources and two workers, resumed with two or with none."""
    out = tmp_path / "out"
    photos = mixture_done.parent / "photos"
    code, _ = train_and_signal(mixture_run(photos, 2), out, signal.SIGKILL, saved(4))
    assert code == -signal.SIGKILL
    train(mixture_run(photos, workers), out, resume=True)
    assert_same_run(out, mixture_done)
    bad = [checkpoint.read_state(checkpoint.newest(run)).bad for run in (out, mixture_done)]  # type: ignore[arg-type]
    assert bad[0] == bad[1] and bad[0]["counts"]["image does not decode"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_with_a_message(number: signal.Signals, tmp_path: Path) -> None:
    """The signal is sent to the process group, which includes the workers."""
    out = tmp_path / "out"
    run = replace(demanding_run(workers=2), save_every=0)
    run = replace(run, optim=replace(run.optim, steps=5000))
    code, errors = train_and_signal(run, out, number, under_way)
    assert code == 130, errors
    message = r"stopped after step \d+ of 5000; it is saved in .*out and --resume goes on"
    assert re.fullmatch(message, errors.splitlines()[-1])
    newest = checkpoint.newest(out)
    assert newest is not None and newest.name == f"step_{rows(out)[-1]['step']:08d}"


def test_a_run_is_not_overwritten(scenes_done: Path) -> None:
    with pytest.raises(OutputError, match="holds a run already; --resume goes on with it"):
        train(demanding_run(), scenes_done)


def test_a_finished_run_does_not_change(scenes_done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(scenes_done, out)
    shutil.rmtree(out / "model")
    train(demanding_run(), out, resume=True)
    assert_same_run(out, scenes_done)


def test_only_the_same_run_is_resumed(scenes_done: Path, tmp_path: Path) -> None:
    """A field that an older run.json lacks has its default; the validation data may change."""
    out = tmp_path / "out"
    shutil.copytree(scenes_done, out)
    record = json.loads((out / "run.json").read_text())
    del record["losses"]["global_negatives"], record["validation"]
    (out / "run.json").write_text(json.dumps(record))
    run = demanding_run()
    train(replace(run, validation=replace(run.validation, limit=3)), out, resume=True)
    record["losses"]["global_negatives"] = True
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"losses\.global_negatives was True, now it is False"):
        train(run, out, resume=True)


def test_a_time_limit_stops_the_run(scenes_done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, state = train(demanding_run(), out, minutes=0.0)
    assert state.step == 1 and (out / "model" / "config.json").is_file()
    _, state = train(demanding_run(), out, resume=True, minutes=10.0)
    assert state.step == STEPS and state.seconds > 0
    assert_same_run(out, scenes_done)


def test_resuming_without_a_checkpoint_starts_over(scenes_done: Path, tmp_path: Path) -> None:
    """A run was killed before its first checkpoint, but after it wrote a log and a tokenizer."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(scenes_done / "log.jsonl", out)
    (out / "tokenizer.json").write_text('{"half": ')
    train(demanding_run(), out, resume=True)
    assert_same_run(out, scenes_done)


def test_a_deterministic_run_computes_the_same(tmp_path: Path) -> None:
    """On a CPU it changes nothing; the setting ends with the run."""
    before = torch.are_deterministic_algorithms_enabled()
    for name, deterministic in (("a", False), ("b", True)):
        train(replace(tiny_run(steps=2), deterministic=deterministic), tmp_path / name)
    if not torch.cuda.is_available():
        a, b = (load_file(tmp_path / name / "model" / "model.safetensors") for name in "ab")
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.are_deterministic_algorithms_enabled() == before
