"""The numbers of a step are read when a device has computed them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_loop import Line, ToySteps, log_of, run_of
from xvlm.common.errors import NotFiniteError
from xvlm.training.loop import fit
from xvlm.training.step_numbers import StepNumbers
from xvlm.training.trainer import Trainer


class FakeEvent:
    """An event of a GPU whose clock the test sets, in milliseconds."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = FakeEvent.now

    def synchronize(self) -> None:
        assert hasattr(self, "at")

    def elapsed_time(self, later: FakeEvent) -> float:
        return later.at - self.at


def test_waiting_counts_only_while_the_device_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that waits 50 ms for data lets a GPU wait for what is left of it after the step before."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    steps: list[StepNumbers] = []
    for begun, done in [(0, 100), (120, 200), (200, 300)]:
        FakeEvent.now = begun
        numbers = StepNumbers.begin(0, 0.1, {}, torch.device("cuda"), steps[-1] if steps else None)
        numbers.add(["loss"], torch.tensor([1.5]))
        FakeEvent.now = done
        numbers.end()
        steps.append(numbers)
    assert [numbers.read() for numbers in steps] == [{"loss": 1.5}] * 3
    # Before the first step the GPU did nothing.
    assert [numbers.idle_s(0.05) for numbers in steps] == pytest.approx([0.05, 0.02, 0.0])
    assert StepNumbers.begin(0, 0.1, {}, torch.device("cpu"), None).idle_s(0.05) == 0.05


@pytest.fixture
def reads_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the numbers of each step after the next one has begun, as on a GPU."""
    build_trainer = Trainer.__init__

    def build_late(trainer: Trainer, *args: Any) -> None:
        build_trainer(trainer, *args)
        trainer.reads_late = True

    monkeypatch.setattr(Trainer, "__init__", build_late)


def test_numbers_that_are_read_late_are_the_same(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Rows, checkpoints in between and evaluations are those of a run that reads at once."""
    order: list[int] = []
    rows = {}
    for name in ("at_once", "late"):
        if name == "late":
            request.getfixturevalue("reads_late")
        loss_module, out = Line(), tmp_path / name
        run = replace(run_of(5, optim={"max_grad_norm": 0.5, "ema_decay": 0.9}), save_every=2, eval_every=3)
        fit(loss_module, ToySteps(), run, out, evaluate=lambda model, step: order.append(step) or {"m": 1.0})
        names = ("step", "event", "near", "m")
        untimed = [{k: v for k, v in row.items() if k in names} for row in log_of(out)]
        rows[name] = untimed, loss_module.model.weight.item()
    assert rows["late"] == rows["at_once"] and order == [3, 5, 3, 5]
    assert [row["step"] for row in rows["late"][0]] == [1, 2, 3, 3, 4, 5, 5]


def test_a_loss_that_is_not_finite_changes_no_weight_before_it_is_read(
    tmp_path: Path, reads_late: None
) -> None:
    """The next step has begun by then; the error is that of the first one, whose row is not logged."""
    loss_module = Line(broken_at=3)
    with pytest.raises(NotFiniteError, match="step 2: a loss is not finite"):
        fit(loss_module, ToySteps(), run_of(5), tmp_path)
    assert loss_module.calls == 4 and loss_module.model.weight.isfinite().all()
    record = json.loads((tmp_path / "bad_step_rank0.json").read_text())
    assert record["step"] == 2 and record["keys"] == {"pairs": ["a2", "b2"]}
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2]


def test_the_last_row_is_written_though_the_data_end_in_an_error(tmp_path: Path, reads_late: None) -> None:
    def fail(step: int) -> None:
        if step == 2:
            raise KeyError("data")

    with pytest.raises(KeyError):
        fit(Line(), ToySteps(on_read=fail), run_of(5), tmp_path)
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2]
