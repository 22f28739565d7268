"""The loop on a task that it does not know: steps, sums, clipping, stops, what is written."""

from __future__ import annotations

import json
import math
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
from xvlm.data.loader import BadRecords, Fed
from xvlm.errors import NotFiniteError, OutputError
from xvlm.records import BadRecord
from xvlm.run import OptimConfig, Run
from xvlm.tasks.pretrain import build
from xvlm.train import checkpoint
from xvlm.train.log import Log
from xvlm.train.loop import Interrupted, fit

__all__ = ["small_disk"]


@dataclass
class Numbers:
    """A batch: some numbers."""

    x_B: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return replace(self, x_B=self.x_B.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return replace(self, x_B=self.x_B.pin_memory())


class Line(nn.Module):
    """Two named losses of weights 1 and 2; `broken_at` gives NaN in that call."""

    def __init__(self, broken_at: int | None = None) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
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


class Feed(Dataset[Fed]):
    """Step s holds `micro` batches of the numbers s + 1, s + 2."""

    def __init__(
        self,
        micro: int = 1,
        bad: int = 0,
        log: Callable[[int], None] = lambda step: None,
        turns: int = 1,
    ) -> None:
        self.micro, self.bad, self.log, self.turns = micro, bad, log, turns

    def __getitem__(self, step: int) -> Fed:
        self.log(step)
        batches = [Numbers(torch.tensor([step + 1.0, step + 2.0 + m])) for m in range(self.micro)]
        bad = [BadRecord("image does not decode", f"r{step}")] * self.bad
        return Fed(step, batches, {"pairs": [f"a{step}", f"b{step}"]}, 200, bad, self.turns)


def run_of(steps: int, **fields: Any) -> Run:
    optim = {"lr": 0.01, "warmup": 1, "clip": 0.0, **fields.pop("optim", {})}
    return Run(workers=0, save_every=0, optim=OptimConfig(steps=steps, **optim), **fields)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def fit_it(task: Line, feed: Feed, run: Run, out: Path, **options: Any) -> checkpoint.State:
    return fit(task, feed, run, out, **options)  # type: ignore[arg-type]


def test_the_loss_is_the_weighted_sum_and_is_logged_by_name(tmp_path: Path) -> None:
    fit_it(Line(), Feed(), run_of(3), tmp_path)
    first = log_of(tmp_path)[0]
    assert first["near"] == pytest.approx((4 + 16) / 2)  # (1x - 3x) squared, x = 1 and 2
    assert first["small"] == 1 and first["loss"] == pytest.approx(10 + 2 * 1)
    assert first["lr"] == pytest.approx(0.01) and first["images_per_s"] > 0 and 0 <= first["data_share"] <= 1
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3]
    assert json.loads((tmp_path / "run.json").read_text())["optim"]["steps"] == 3
    assert any((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("turns", [1, 2])
def test_steps_are_adamws(turns: int, tmp_path: Path) -> None:
    """Against a loop written here: rate, decay, micro-batches averaged, clipping; turns of one rate."""
    run = run_of(4, optim={"clip": 0.5, "weight_decay": 0.1, "warmup": 2})
    task = Line()
    feed = Feed(micro=2, turns=turns)
    fit_it(task, feed, run, tmp_path)
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
        batches = feed[step].batches
        for turn in [batches] if turns == 1 else [[batch] for batch in batches]:
            plain.zero_grad()
            for batch in turn:
                y_B = model(batch.x_B[:, None])[:, 0]
                near = (y_B - 3 * batch.x_B).square().mean()
                ((near + 2 * model.weight.square().mean()) / len(turn)).backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
            for gradient in gradients:
                gradient *= min(1.0, 0.5 / norm)
            plain.step()
        assert log_of(tmp_path)[step]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    torch.testing.assert_close(task.model.weight.cpu(), model.weight)
    torch.testing.assert_close(task.model.bias.cpu(), model.bias)


def test_published_names_are_logged_in_faithful_mode(tmp_path: Path) -> None:
    class Named(Line):
        def loss_weights(self) -> dict[str, float]:
            return {"itc": 1.0, "region_itc": 1.0, "bbox": 1.0}

        def forward(self, batch: Numbers) -> dict[str, Tensor]:
            losses = super().forward(batch)
            return {"itc": losses["near"], "region_itc": losses["small"], "bbox": losses["small"]}

    for faithful in (False, True):
        fit_it(Named(), Feed(), run_of(1, faithful=faithful, optim={"new_multiplier": 2.0}), tmp_path)
        row = log_of(tmp_path)[-1]
        names = {name for name in row if name.startswith("loss_") or name == "lr_large"}
        assert names == ({"loss_itc", "loss_bbox", "lr_large"} if faithful else set())
        if faithful:
            assert row["loss_itc"] == row["itc"] and row["lr_large"] == 2 * row["lr"]
        (tmp_path / "log.jsonl").unlink()


def test_a_loss_that_is_not_finite_stops_with_the_batchs_keys(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"step 2: a loss is not finite .*bad_step_rank\*\.json"):
        fit_it(Line(broken_at=3), Feed(), run_of(5), tmp_path)
    kept = json.loads((tmp_path / "bad_step_rank0.json").read_text())
    assert kept["step"] == 2 and kept["keys"] == {"pairs": ["a2", "b2"]}
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2]


def test_a_pretraining_model_that_is_nan_stops_with_keys(tmp_path: Path) -> None:
    """Not by a failing draw of negatives, which would come first."""
    run = tiny_run("cnn", steps=2)
    built = build(run, tmp_path)
    with torch.no_grad():
        built.loaded.model.contrastive.text.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="step 0"):
        fit(built.task, built.feed, run, tmp_path)
    kept = json.loads((tmp_path / "bad_step_rank0.json").read_text())
    assert len(kept["keys"]["pairs"]) == run.data.pairs_batch


@pytest.mark.parametrize("optim", [{"lr": math.inf}, {"clip": math.nan}, {"lr": 1e38, "weight_decay": 1e38}])
def test_weights_that_are_not_finite_are_not_saved(optim: dict[str, float], tmp_path: Path) -> None:
    fit_it(Line(), Feed(), run_of(2), tmp_path)
    run = replace(run_of(5, optim=optim), save_every=1)
    measured: list[int] = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        measured.append(step)
        return {}

    with pytest.raises(NotFiniteError, match=r"step 3: weight \w+ is not finite, so it is not saved"):
        fit_it(Line(), Feed(), replace(run, eval_every=3), tmp_path, resume=True, evaluate=evaluate)
    assert not measured
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step_00000002"
    assert fit_it(Line(), Feed(), run_of(4), tmp_path, resume=True).step == 4


def test_a_loss_of_broken_weights_names_the_first(tmp_path: Path) -> None:
    with pytest.raises(
        NotFiniteError, match=r"step 1: a loss is not finite .*, nor is weight weight; the keys"
    ):
        fit_it(Line(), Feed(), run_of(5, optim={"lr": math.inf}), tmp_path)
    kept = json.loads((tmp_path / "bad_step_rank0.json").read_text(), parse_constant=pytest.fail)
    assert kept["step"] == 1 and kept["near"] == "nan"
    assert checkpoint.newest(tmp_path) is None


def test_a_step_is_saved_before_it_is_measured(tmp_path: Path) -> None:
    """What goes wrong while measuring costs nothing; the number is made up for when it goes on."""

    def broken(model: nn.Module, step: int) -> dict[str, float]:
        raise KeyError("no such number")

    run = run_of(5, eval_every=3)
    with pytest.raises(KeyError):
        fit_it(Line(), Feed(), run, tmp_path, evaluate=broken)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step_00000003"
    seen: list[int] = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        seen.append(step)
        return {"x": 1.0}

    for _ in range(2):  # the second time nothing is left to do
        fit_it(Line(), Feed(), run, tmp_path, resume=True, evaluate=evaluate)
    assert seen == [3, 5]
    events = [(row["step"], row["x"]) for row in log_of(tmp_path) if row.get("event") == "eval"]
    assert events == [(3, 1.0), (5, 1.0)]


def test_a_full_disk_is_one_sentence(small_disk: Path) -> None:
    """In the log, TensorBoard's file or a checkpoint; what was saved goes on once there is room."""
    out = small_disk / "out"
    fit_it(Line(), Feed(), run_of(2), out)
    threads = threading.active_count()
    for leave_bytes in (8192, 16384, 65536):
        ballast = fill(small_disk, leave_bytes)
        with pytest.raises(OutputError, match="No space left"):
            fit_it(Line(), Feed(), replace(run_of(400), save_every=100), out, resume=True)
        ballast.unlink()
        assert threading.active_count() == threads
        newest = checkpoint.newest_intact(out)
        assert newest is not None and newest == checkpoint.newest(out)
        log_of(out)
    state = fit_it(Line(), Feed(), run_of(3), out, resume=True)
    assert [row["step"] for row in log_of(out)] == list(range(1, state.step + 1))


def test_bad_records_on_a_full_disk(small_disk: Path) -> None:
    ledger = BadRecords(small_disk / "bad_records.jsonl")
    ledger.add(Feed(bad=1)[0])
    fill(small_disk)
    with pytest.raises(OutputError, match=r"bad_records\.jsonl cannot be written: No space left on device"):
        for step in range(90):
            ledger.add(Feed(bad=1)[step])
    lines = (small_disk / "bad_records.jsonl").read_text().splitlines(keepends=True)
    assert lines and all(line.endswith("\n") and json.loads(line)["key"] for line in lines)


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path, 0, 3, "demo")
    for step in (1, 2):
        log.step(step, {"loss": step / 2, "name": "no number"})
    log.event(1, "eval", {"acc": 0.25})
    log.close()
    log = Log(tmp_path, 2, 3, "demo")  # went on from step 1: what was said of step 2 is replaced
    log.step(2, {"loss": 7.0})
    log.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("loss")] == [(1, 0.5), (2, 7.0)]
    assert [(one.step, one.value) for one in read.Scalars("eval/acc")] == [(1, 0.25)]


def test_too_many_bad_records_stop_the_run(tmp_path: Path) -> None:
    fit_it(Line(), Feed(bad=2), run_of(3, max_bad=0.01), tmp_path / "few")
    with pytest.raises(RuntimeError, match=r"3 of 200 records read are bad, more than 1\.00%"):
        fit_it(Line(), Feed(bad=3), run_of(3, max_bad=0.01), tmp_path / "many")
    assert (tmp_path / "many" / "bad_records.jsonl").read_text().count("\n") == 3


def test_evaluation_sees_averaged_weights_in_evaluation_mode(tmp_path: Path) -> None:
    seen = []
    task = Line()

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        seen.append((step, model.weight.item()))  # type: ignore[union-attr, operator]
        return {"value": float(step)}

    fit_it(task, Feed(), run_of(5, eval_every=2, optim={"ema": 0.5}), tmp_path, evaluate=evaluate)
    assert [step for step, _ in seen] == [2, 4, 5]
    events = [row for row in log_of(tmp_path) if row.get("event") == "eval"]
    assert [(row["step"], row["value"]) for row in events] == [(2, 2.0), (4, 4.0), (5, 5.0)]
    # what is left in the model at the end is the average; the weights themselves are in the checkpoint
    assert task.model.weight.item() == seen[-1][1]
    again = Line()
    fit_it(again, Feed(), run_of(5), tmp_path / "again")
    assert again.model.weight.item() != seen[-1][1]


def test_interrupted_while_several_steps_are_asked_of_the_feed(tmp_path: Path) -> None:
    import os
    import signal

    def at_three(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped after step 4 of 9"):
        fit_it(Line(), Feed(log=at_three), run_of(9), tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "step_00000004"
    fit_it(Line(), Feed(), run_of(9), tmp_path, resume=True)
    assert [row["step"] for row in log_of(tmp_path)] == list(range(1, 10))


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    import os
    import signal

    def twice(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit_it(Line(), Feed(log=twice), run_of(9), tmp_path)
    assert checkpoint.newest(tmp_path) is None


def test_log_every_and_save_every(tmp_path: Path) -> None:
    run = replace(run_of(7), log_every=3, save_every=2)
    fit_it(Line(), Feed(), run, tmp_path)
    assert [row["step"] for row in log_of(tmp_path)] == [3, 6]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000006", "step_00000007"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("precision", "fp16", "precision is 'fp16'; it may be 'fp32' or 'bf16'"),
        (
            "optim",
            OptimConfig(steps=3, warmup=9, schedule="step"),  # not only when it is used
            "schedule is 'step'; it may be linear or cosine",
        ),
    ],
)
def test_wrong_values_are_named(field: str, value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        fit_it(Line(), Feed(), replace(run_of(3), **{field: value}), tmp_path)


def test_half_precision_trains(tmp_path: Path) -> None:
    run = tiny_run("cnn", steps=2, precision="bf16")
    built = build(run, tmp_path)
    fit(built.task, built.feed, run, tmp_path)
    assert all(math.isfinite(row["loss"]) for row in log_of(tmp_path))
    assert all(p.dtype == torch.float32 for p in built.loaded.model.parameters())


def test_a_line_now_and_then_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(tmp_path, 0, 3, "demo", line_seconds=0.0)
    log.step(1, {"loss": 2.5, "grad_norm": 1.0, "images_per_s": 7.0})
    log.close()
    said = capsys.readouterr().err
    assert "demo 1/3  loss 2.5 images_per_s 7" in said and "left" in said
