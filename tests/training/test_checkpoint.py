"""Checkpoints: bit-for-bit restoring, damage, full disks, running average."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.small_disk import fill, small_disk
from xvlm.common.errors import InputError, OutputError
from xvlm.config import OptimConfig
from xvlm.training import checkpoint
from xvlm.training.checkpoint import MAX_CHECKPOINTS, TrainingState
from xvlm.training.log import drop_later_steps
from xvlm.training.optimizer import ExponentialMovingAverage, build_optimizer, first_non_finite

__all__ = ["small_disk"]
FILES = ("model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json")


class Net(nn.Module):
    """A channels-last convolution, BatchNorm, a scalar, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.norm(self.conv(x)).mean((2, 3))).square().mean() * self.temperature


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: ExponentialMovingAverage, number: int
) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    model(x.contiguous(memory_format=torch.channels_last)).backward()
    optimizer.step()
    optimizer.zero_grad()
    average.update(model)


def fresh(seed: int = 0) -> tuple[Net, torch.optim.Optimizer, ExponentialMovingAverage]:
    torch.manual_seed(seed)
    model = Net().train()
    config = OptimConfig(lr=0.01, ema_decay=0.9)
    return model, build_optimizer(model, config, ()), ExponentialMovingAverage(model, config.ema_decay)


def test_the_next_steps_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    """Memory layouts are restored too: the fused AdamW pairs elements by address."""
    model, optimizer, average = fresh()
    for number in range(3):
        step(model, optimizer, average, number)
    state = TrainingState(step=3, pretrained_names=["conv.weight"], seconds=1.5, bad={"read": 7})
    folder = checkpoint.save(tmp_path, state, model, optimizer, average)

    restored, restored_optimizer, restored_average = fresh(seed=1)
    assert checkpoint.load(folder, restored, restored_optimizer, restored_average) == state
    for name, value in average.values.items():
        assert torch.equal(restored_average.values[name], value), name
    for number in range(3, 6):
        step(model, optimizer, average, number)
        step(restored, restored_optimizer, restored_average, number)
    for pair in ((model.state_dict(), restored.state_dict()), (average.values, restored_average.values)):
        assert pair[0].keys() == pair[1].keys()
        assert [name for name in pair[0] if not torch.equal(pair[0][name], pair[1][name])] == []
    assert optimizer.state_dict()["state"].keys() == restored_optimizer.state_dict()["state"].keys()
    tensors = checkpoint.optimizer_tensors(optimizer)
    assert all(
        torch.equal(value, tensors[n])
        for n, value in checkpoint.optimizer_tensors(restored_optimizer).items()
    )


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    for number in range(1, MAX_CHECKPOINTS + 3):
        checkpoint.save(tmp_path, TrainingState(step=number), *fresh())
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step_{n:08d}" for n in range(3, MAX_CHECKPOINTS + 3)]
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == names[-1]


def test_a_failed_write_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, TrainingState(step=1), *fresh())

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "optimizer_tensors", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path, TrainingState(step=2), *fresh())
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and checkpoint.read_state(newest).step == 1


def test_another_model_is_an_error_with_a_name(tmp_path: Path) -> None:
    model, optimizer, average = fresh()
    step(model, optimizer, average, 0)
    folder = checkpoint.save(tmp_path, TrainingState(step=1), model, optimizer, None)
    other = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"conv\.weight"):
        checkpoint.load(folder, other, build_optimizer(other, OptimConfig(), ()), None)
    model.temperature.requires_grad_(False)
    with pytest.raises(RuntimeError, match="optimiser state of unknown parameters: temperature/"):
        checkpoint.load(folder, model, build_optimizer(model, OptimConfig(), ()), None)


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def change_step(path: Path) -> None:
    """Write valid JSON of another checkpoint."""
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))


DAMAGES = [(name, how) for name in FILES for how in (flip_bit, truncate, empty, remove)]


@pytest.mark.parametrize(("name", "how"), [*DAMAGES, ("state.json", change_step)])
def test_an_older_checkpoint_replaces_a_damaged_one(
    name: str, how: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, optimizer, average = fresh()
    for number in (1, 2):
        step(model, optimizer, average, number)
        folder = checkpoint.save(tmp_path, TrainingState(step=number), model, optimizer, average)
    how(folder / name)
    with pytest.raises(InputError, match=f"step_00000002.*{name}"):
        checkpoint.load(folder, *fresh(1))
    older = checkpoint.newest_intact(tmp_path)
    assert older is not None and older.name == "step_00000001"
    assert checkpoint.load(older, *fresh(1)).step == 1
    notice = capsys.readouterr().err
    assert "step_00000002 is damaged" in notice and name in notice and "step_00000001 is used" in notice
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["damaged_step_00000002", "step_00000001"]
    for number in (2, 3):  # the damaged one does not count
        checkpoint.save(tmp_path, TrainingState(step=number), model, optimizer, average)
    newest = checkpoint.newest_intact(tmp_path)
    assert newest is not None and newest.name == "step_00000003"
    assert (tmp_path / "checkpoints" / "step_00000002").exists()


def test_damage_of_all_checkpoints_is_an_error(tmp_path: Path) -> None:
    for number in (1, 2):
        truncate(checkpoint.save(tmp_path, TrainingState(step=number), *fresh()) / "model.safetensors")
    for _ in range(2):
        with pytest.raises(InputError, match=r"no checkpoint in .* is intact"):
            checkpoint.newest_intact(tmp_path)


def remove_checksums(folder: Path) -> None:
    """Convert a checkpoint to the format of commit 5607df6."""
    record = json.loads((folder / "state.json").read_text())
    for name in ("checksums", "checksum", "without_state"):
        del record[name]
    (folder / "state.json").write_text(json.dumps(record))


def test_checkpoints_without_checksums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They can be loaded, and a truncated file, NaN and missing optimiser state are still detected."""
    model, optimizer, average = fresh()
    step(model, optimizer, average, 1)
    folder = checkpoint.save(tmp_path, TrainingState(step=1), model, optimizer, average)
    remove_checksums(folder)
    assert checkpoint.newest_intact(tmp_path) == folder and checkpoint.load(folder, *fresh(1)).step == 1
    tensors = load_file(folder / "optimizer.safetensors")
    save_file({}, folder / "optimizer.safetensors")
    with pytest.raises(InputError, match="lacks the optimiser's state of"):
        checkpoint.load(folder, *fresh(1))
    few = {name: value for name, value in tensors.items() if name != "conv.weight/exp_avg"}
    save_file(few, folder / "optimizer.safetensors")
    with pytest.raises(InputError, match=r"lacks the optimiser's state of conv\.weight$"):
        checkpoint.load(folder, *fresh(1))
    few = {name: value for name, value in tensors.items() if not name.startswith("conv.weight/")}
    save_file(few, folder / "optimizer.safetensors")
    checkpoint.load(folder, *fresh(1))
    assert "it is assumed of conv.weight" in capsys.readouterr().err
    save_file(tensors, folder / "optimizer.safetensors")
    weights = load_file(folder / "model.safetensors")
    weights["temperature"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="weight temperature is not finite"):
        checkpoint.newest_intact(tmp_path)


def test_parameters_without_gradient_need_no_state(tmp_path: Path) -> None:
    model, optimizer, average = fresh()
    model.conv(torch.zeros(1, 3, 3, 3)).sum().backward()
    optimizer.step()
    folder = checkpoint.save(tmp_path, TrainingState(step=1), model, optimizer, average)
    checkpoint.load(folder, *fresh(1))
    record = json.loads((folder / "state.json").read_text())
    assert sorted(record["without_state"]) == ["norm.bias", "norm.weight", "temperature"]


def test_a_full_disk_leaves_the_previous_checkpoint(small_disk: Path) -> None:
    model, optimizer, average = fresh()
    step(model, optimizer, average, 0)
    first = checkpoint.save(small_disk, TrainingState(step=1), model, optimizer, average)
    for leave_bytes in (0, 4096, 8192):
        fill(small_disk, leave_bytes)
        with pytest.raises(OutputError, match=r"step_00000002 cannot be written: .*No space left"):
            checkpoint.save(small_disk, TrainingState(step=2), model, optimizer, average)
        assert [path.name for path in (small_disk / "checkpoints").iterdir()] == ["step_00000001"]
        assert checkpoint.find_damage(first) is None


def test_file_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = checkpoint.save(tmp_path, TrainingState(step=1), *fresh())
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_a_checkpoint_has_no_pickles(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, TrainingState(step=1), *fresh())
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_the_average_forgets_early_weights_and_can_be_swapped_in_and_out() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = ExponentialMovingAverage(model, decay=0.9)
    expected = 0.0
    for update in range(1, 200):
        nn.init.constant_(model.weight, float(update))
        average.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert average.values["weight"].item() == pytest.approx(expected, rel=1e-5)
    restore = average.swap_in(model)
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    restore()
    assert model.weight.item() == 199.0


def test_log_rows_of_later_steps_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    drop_later_steps(path, 3)
    assert not path.exists()
    lines = [{"step": n, "loss": 1.0} for n in range(1, 6)]
    lines.insert(3, {"step": 3, "event": "eval"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6, "los')
    drop_later_steps(path, 3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [line for line in lines if int(str(line["step"])) <= 3]
    drop_later_steps(path, 0)
    assert path.read_text() == ""


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    tensors = {"large": torch.full((4,), 1e30), "count": torch.tensor(3), "good": torch.zeros(2)}
    assert first_non_finite(tensors) is None
    assert first_non_finite({}) is None
    for value in (float("nan"), float("inf"), -float("inf")):
        bad = {"bad": torch.tensor([0.0, value]), "worse": torch.tensor(value)}
        assert first_non_finite({**tensors, **bad}) == "bad"
