"""The training loop with a toy loss module: steps, weighted sums, clipping, stops, outputs."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.small_disk import fill, small_disk
from tests.tiny import tiny_run
from xvlm.common.errors import NotFiniteError, OutputError
from xvlm.config import OptimConfig, Run
from xvlm.data.loading.bad_records import BadRecordCounter
from xvlm.data.loading.loader import StepData
from xvlm.records import BadRecord
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.pretrain import build
from xvlm.training import checkpoint
from xvlm.training.log import RunLog
from xvlm.training.loop import Interrupted, fit

__all__ = ["small_disk"]


@dataclass
class Numbers:
    """A batch of numbers."""

    x_B: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return replace(self, x_B=self.x_B.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return replace(self, x_B=self.x_B.pin_memory())


class Line(LossModule):
    """Has two losses, of weights 1 and 2.  The call `broken_at` returns NaN."""

    def __init__(self, broken_at: int | None = None) -> None:
        super().__init__(nn.Linear(1, 1))
        nn.init.ones_(self.model.weight)
        nn.init.zeros_(self.model.bias)
        self.broken_at, self.calls = broken_at, 0

    def loss_weights(self) -> dict[str, float]:
        return {"near": 1.0, "small": 2.0, "absent": 7.0}

    def forward(self, batch: Numbers) -> dict[str, Tensor]:
        self.calls += 1
        y_B = self.model(batch.x_B[:, None])[:, 0]
        if self.calls == self.broken_at:
            y_B = y_B / 0
        return {"near": (y_B - 3 * batch.x_B).square().mean(), "small": self.model.weight.square().mean()}


@dataclass
class ToySteps(Dataset[StepData]):
    """Step s holds `micro` batches of the numbers s + 1, s + 2."""

    has_separate_steps = False
    micro: int = 1
    bad: int = 0
    on_read: Callable[[int], None] = lambda step: None
    optimizer_steps: int = 1

    def __getitem__(self, step: int) -> StepData:
        self.on_read(step)
        batches = [Numbers(torch.tensor([step + 1.0, step + 2.0 + m])) for m in range(self.micro)]
        bad = [BadRecord("image does not decode", f"r{step}")] * self.bad
        return StepData(step, batches, {"pairs": [f"a{step}", f"b{step}"]}, 200, bad, self.optimizer_steps)


def run_of(steps: int, **fields: Any) -> Run:
    optim = {"lr": 0.01, "warmup_steps": 1, "max_grad_norm": 0.0, **fields.pop("optim", {})}
    return Run(workers=0, save_every=0, optim=OptimConfig(steps=steps, **optim), **fields)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_loss_is_the_weighted_sum_and_is_logged_by_name(tmp_path: Path) -> None:
    fit(Line(), ToySteps(), run_of(3), tmp_path)
    first = log_of(tmp_path)[0]
    assert first["near"] == pytest.approx((4 + 16) / 2)  # (1x - 3x) squared, x = 1 and 2
    assert first["small"] == 1 and first["loss"] == pytest.approx(10 + 2 * 1)
    assert first["lr"] == pytest.approx(0.01) and first["images_per_s"] > 0 and 0 <= first["data_share"] <= 1
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3]
    assert json.loads((tmp_path / "run.json").read_text())["optim"]["steps"] == 3
    assert any((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("optimizer_steps", [1, 2])
def test_steps_equal_those_of_a_plain_loop(optimizer_steps: int, tmp_path: Path) -> None:
    """Compare learning rate, weight decay, averaged micro-batches, clipping, and several optimiser steps."""
    run = run_of(4, optim={"max_grad_norm": 0.5, "weight_decay": 0.1, "warmup_steps": 2})
    loss_module = Line()
    data = ToySteps(micro=2, optimizer_steps=optimizer_steps)
    fit(loss_module, data, run, tmp_path)
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    plain = torch.optim.AdamW(
        [{"params": [model.bias], "weight_decay": 0.0}, {"params": [model.weight], "weight_decay": 0.1}],
        betas=run.optim.betas,
        eps=run.optim.eps,
    )
    for step in range(4):
        rate = [0.5, 1.0, 1.0, 0.5][step] * run.optim.lr
        for group in plain.param_groups:
            group["lr"] = rate
        batches = data[step].batches
        for group in [batches] if optimizer_steps == 1 else [[batch] for batch in batches]:
            plain.zero_grad()
            for batch in group:
                y_B = model(batch.x_B[:, None])[:, 0]
                near = (y_B - 3 * batch.x_B).square().mean()
                ((near + 2 * model.weight.square().mean()) / len(group)).backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
            for gradient in gradients:
                gradient *= min(1.0, 0.5 / norm)
            plain.step()
        assert log_of(tmp_path)[step]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    torch.testing.assert_close(loss_module.model.weight.cpu(), model.weight)
    torch.testing.assert_close(loss_module.model.bias.cpu(), model.bias)


def test_published_names_are_logged_in_faithful_mode(tmp_path: Path) -> None:
    class Named(Line):
        def loss_weights(self) -> dict[str, float]:
            return {"itc": 1.0, "region_itc": 1.0, "bbox": 1.0}

        def forward(self, batch: Numbers) -> dict[str, Tensor]:
            losses = super().forward(batch)
            return {"itc": losses["near"], "region_itc": losses["small"], "bbox": losses["small"]}

    for faithful in (False, True):
        fit(Named(), ToySteps(), run_of(1, faithful=faithful, optim={"new_lr_multiplier": 2.0}), tmp_path)
        row = log_of(tmp_path)[-1]
        names = {name for name in row if name.startswith("loss_") or name == "lr_large"}
        assert names == ({"loss_itc", "loss_bbox", "lr_large"} if faithful else set())
        if faithful:
            assert row["loss_itc"] == row["itc"] and row["lr_large"] == 2 * row["lr"]
        (tmp_path / "log.jsonl").unlink()


def test_a_loss_that_is_not_finite_stops_the_run_and_records_the_keys(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"step 2: a loss is not finite .*bad_step_rank\*\.json"):
        fit(Line(broken_at=3), ToySteps(), run_of(5), tmp_path)
    record = json.loads((tmp_path / "bad_step_rank0.json").read_text())
    assert record["step"] == 2 and record["keys"] == {"pairs": ["a2", "b2"]}
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2]


def test_a_pretraining_model_with_nan_stops_and_records_the_keys(tmp_path: Path) -> None:
    """Sampling negatives, which comes first, does not fail."""
    run = tiny_run("cnn", steps=2)
    setup = build(run, tmp_path)
    with torch.no_grad():
        setup.bundle.model.contrastive.text.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="step 0"):
        fit(setup.loss_module, setup.steps, run, tmp_path)
    record = json.loads((tmp_path / "bad_step_rank0.json").read_text())
    assert len(record["keys"]["pairs"]) == run.data.pairs_batch_size


@pytest.mark.parametrize(
    "optim", [{"lr": math.inf}, {"max_grad_norm": math.nan}, {"lr": 1e38, "weight_decay": 1e38}]
)
def test_weights_that_are_not_finite_are_not_saved(optim: dict[str, float], tmp_path: Path) -> None:
    fit(Line(), ToySteps(), run_of(2), tmp_path)
    run = replace(run_of(5, optim=optim), save_every=1)
    evaluated: list[int] = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        evaluated.append(step)
        return {}

    with pytest.raises(NotFiniteError, match=r"step 3: weight \w+ is not finite, so it is not saved"):
        fit(Line(), ToySteps(), replace(run, eval_every=3), tmp_path, resume=True, evaluate=evaluate)
    assert not evaluated
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step_00000002"
    assert fit(Line(), ToySteps(), run_of(4), tmp_path, resume=True).step == 4


def test_the_error_of_a_loss_names_the_first_weight_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(
        NotFiniteError, match=r"step 1: a loss is not finite .*, nor is weight weight; the keys"
    ):
        fit(Line(), ToySteps(), run_of(5, optim={"lr": math.inf}), tmp_path)
    record = json.loads((tmp_path / "bad_step_rank0.json").read_text(), parse_constant=pytest.fail)
    assert record["step"] == 1 and record["near"] == "nan"
    assert checkpoint.newest(tmp_path) is None


def test_a_step_is_saved_before_it_is_evaluated(tmp_path: Path) -> None:
    """A failed evaluation loses no step, and a resumed run repeats it."""

    def broken(model: nn.Module, step: int) -> dict[str, float]:
        raise KeyError("metric")

    run = run_of(5, eval_every=3)
    with pytest.raises(KeyError):
        fit(Line(), ToySteps(), run, tmp_path, evaluate=broken)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step_00000003"
    evaluated: list[int] = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        evaluated.append(step)
        return {"x": 1.0}

    for _ in range(2):  # the second time, nothing is left to do
        fit(Line(), ToySteps(), run, tmp_path, resume=True, evaluate=evaluate)
    assert evaluated == [3, 5]
    events = [(row["step"], row["x"]) for row in log_of(tmp_path) if row.get("event") == "eval"]
    assert events == [(3, 1.0), (5, 1.0)]


def test_a_full_disk_is_an_error_and_the_run_is_resumable(small_disk: Path) -> None:
    """The disk is full for the log, TensorBoard's file or a checkpoint."""
    out = small_disk / "out"
    fit(Line(), ToySteps(), run_of(2), out)
    threads = threading.active_count()
    for leave_bytes in (8192, 16384, 65536):
        ballast = fill(small_disk, leave_bytes)
        with pytest.raises(OutputError, match="No space left"):
            fit(Line(), ToySteps(), replace(run_of(400), save_every=100), out, resume=True)
        ballast.unlink()
        assert threading.active_count() == threads
        newest = checkpoint.newest_intact(out)
        assert newest is not None and newest == checkpoint.newest(out)
        log_of(out)
    state = fit(Line(), ToySteps(), run_of(3), out, resume=True)
    assert [row["step"] for row in log_of(out)] == list(range(1, state.step + 1))


def test_bad_records_on_a_full_disk(small_disk: Path) -> None:
    counter = BadRecordCounter(small_disk / "bad_records.jsonl")
    counter.add(200, [BadRecord("image does not decode", "r0")], [])
    fill(small_disk)
    with pytest.raises(OutputError, match=r"bad_records\.jsonl cannot be written: No space left on device"):
        for step in range(90):
            counter.add(200, [BadRecord("image does not decode", f"r{step}")], [])
    lines = (small_disk / "bad_records.jsonl").read_text().splitlines(keepends=True)
    assert lines and all(line.endswith("\n") and json.loads(line)["key"] for line in lines)


def test_tensorboard_reads_the_event_files(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, 0, 3, "demo")
    for step in (1, 2):
        log.step(step, {"loss": step / 2, "name": "not a number"})
    log.event(1, "eval", {"acc": 0.25})
    log.close()
    log = RunLog(tmp_path, 2, 3, "demo")  # a run that continues after step 1 replaces step 2
    log.step(2, {"loss": 7.0})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 0.5), (2, 7.0)]
    assert [(one.step, one.value) for one in events.Scalars("eval/acc")] == [(1, 0.25)]


def test_too_many_bad_records_stop_the_run(tmp_path: Path) -> None:
    fit(Line(), ToySteps(bad=2), run_of(3, max_bad=0.01), tmp_path / "few")
    with pytest.raises(RuntimeError, match=r"3 of 200 records read are bad, more than 1\.00%"):
        fit(Line(), ToySteps(bad=3), run_of(3, max_bad=0.01), tmp_path / "many")
    assert (tmp_path / "many" / "bad_records.jsonl").read_text().count("\n") == 3


def test_evaluation_sees_averaged_weights_in_evaluation_mode(tmp_path: Path) -> None:
    evaluated = []
    loss_module = Line()

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        evaluated.append((step, model.weight.item()))
        return {"value": float(step)}

    fit(
        loss_module,
        ToySteps(),
        run_of(5, eval_every=2, optim={"ema_decay": 0.5}),
        tmp_path,
        evaluate=evaluate,
    )
    assert [step for step, _ in evaluated] == [2, 4, 5]
    events = [row for row in log_of(tmp_path) if row.get("event") == "eval"]
    assert [(row["step"], row["value"]) for row in events] == [(2, 2.0), (4, 4.0), (5, 5.0)]
    # The model ends with the average; the weights themselves are in the checkpoint.
    assert loss_module.model.weight.item() == evaluated[-1][1]
    again = Line()
    fit(again, ToySteps(), run_of(5), tmp_path / "again")
    assert again.model.weight.item() != evaluated[-1][1]


def test_a_signal_stops_the_run_after_the_current_step(tmp_path: Path) -> None:
    def at_three(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped after step 4 of 9"):
        fit(Line(), ToySteps(on_read=at_three), run_of(9), tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step_00000004"
    fit(Line(), ToySteps(), run_of(9), tmp_path, resume=True)
    assert [row["step"] for row in log_of(tmp_path)] == list(range(1, 10))


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(Line(), ToySteps(on_read=twice), run_of(9), tmp_path)
    assert checkpoint.newest(tmp_path) is None


def test_log_every_and_save_every(tmp_path: Path) -> None:
    run = replace(run_of(7), log_every=3, save_every=2)
    fit(Line(), ToySteps(), run, tmp_path)
    assert [row["step"] for row in log_of(tmp_path)] == [3, 6]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000006", "step_00000007"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("precision", "fp16", "precision is 'fp16'; it may be 'fp32' or 'bf16'"),
        (
            "optim",
            OptimConfig(steps=3, warmup_steps=9, schedule="step"),  # an error although it is not reached
            "schedule is 'step'; it may be linear or cosine",
        ),
    ],
)
def test_wrong_values_are_errors(field: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fit(Line(), ToySteps(), replace(run_of(3), **{field: value}), tmp_path)


def test_half_precision_trains(tmp_path: Path) -> None:
    run = tiny_run("cnn", steps=2, precision="bf16")
    setup = build(run, tmp_path)
    fit(setup.loss_module, setup.steps, run, tmp_path)
    assert all(math.isfinite(row["loss"]) for row in log_of(tmp_path))
    assert all(p.dtype == torch.float32 for p in setup.bundle.model.parameters())


def test_progress_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path, 0, 3, "demo", line_seconds=0.0)
    log.step(1, {"loss": 2.5, "grad_norm": 1.0, "images_per_s": 7.0})
    log.close()
    errors = capsys.readouterr().err
    assert "demo 1/3  loss 2.5 images_per_s 7" in errors and "left" in errors
