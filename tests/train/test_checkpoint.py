"""What a checkpoint gives back is what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from xvlm.run import OptimConfig
from xvlm.train import checkpoint
from xvlm.train.checkpoint import KEEP, State
from xvlm.train.log import keep_before
from xvlm.train.optim import Average, build_optimizer


class Net(nn.Module):
    """A convolution laid out channels-last, BatchNorm, a scalar, and a layer that never learns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.norm(self.conv(x)).mean((2, 3))).square().mean() * self.temperature


def step(model: nn.Module, optimizer: torch.optim.Optimizer, average: Average, number: int) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    model(x.contiguous(memory_format=torch.channels_last)).backward()
    optimizer.step()
    optimizer.zero_grad()
    average.update(model)


def fresh(seed: int = 0) -> tuple[Net, torch.optim.Optimizer, Average]:
    torch.manual_seed(seed)
    model = Net().train()
    config = OptimConfig(lr=0.01, ema=0.9)
    return model, build_optimizer(model, config, ()), Average(model, config.ema)


def test_the_next_steps_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    """Layouts in memory too: the fused AdamW pairs elements by address."""
    model, optimizer, average = fresh()
    for number in range(3):
        step(model, optimizer, average, number)
    state = State(step=3, loaded=["conv.weight"], seconds=1.5, bad={"read": 7})
    folder = checkpoint.save(tmp_path, state, model, optimizer, average)

    again, optimizer_again, average_again = fresh(seed=1)
    assert checkpoint.load(folder, again, optimizer_again, average_again) == state
    for name, value in average.values.items():
        assert torch.equal(average_again.values[name], value), name
    for number in range(3, 6):
        step(model, optimizer, average, number)
        step(again, optimizer_again, average_again, number)
    for pair in ((model.state_dict(), again.state_dict()), (average.values, average_again.values)):
        assert pair[0].keys() == pair[1].keys()
        assert [name for name in pair[0] if not torch.equal(pair[0][name], pair[1][name])] == []
    assert optimizer.state_dict()["state"].keys() == optimizer_again.state_dict()["state"].keys()
    tensors = checkpoint.optimizer_tensors(optimizer)
    assert all(
        torch.equal(value, tensors[n]) for n, value in checkpoint.optimizer_tensors(optimizer_again).items()
    )


def test_only_the_last_few_are_kept(tmp_path: Path) -> None:
    model, optimizer, average = fresh()
    assert checkpoint.newest(tmp_path) is None
    for number in range(1, KEEP + 3):
        checkpoint.save(tmp_path, State(step=number), model, optimizer, average)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step_{n:08d}" for n in range(3, KEEP + 3)]
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == names[-1]


def test_a_write_that_breaks_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, average = fresh()
    checkpoint.save(tmp_path, State(step=1), model, optimizer, average)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "optimizer_tensors", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path, State(step=2), model, optimizer, average)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and checkpoint.read_state(newest).step == 1


def test_another_model_is_told_by_name(tmp_path: Path) -> None:
    model, optimizer, average = fresh()
    step(model, optimizer, average, 0)
    folder = checkpoint.save(tmp_path, State(step=1), model, optimizer, None)
    other = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"conv\.weight"):
        checkpoint.load(folder, other, build_optimizer(other, OptimConfig(), ()), None)
    model.temperature.requires_grad_(False)
    with pytest.raises(RuntimeError, match="optimiser state of unknown parameters: temperature/"):
        checkpoint.load(folder, model, build_optimizer(model, OptimConfig(), ()), None)


def test_nothing_in_it_is_a_pickle(tmp_path: Path) -> None:
    model, optimizer, average = fresh()
    folder = checkpoint.save(tmp_path, State(step=1), model, optimizer, average)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_the_average_starts_late_and_can_be_swapped_in_and_out() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(model, decay=0.9)
    expected = 0.0
    for update in range(1, 200):
        nn.init.constant_(model.weight, float(update))
        average.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert average.values["weight"].item() == pytest.approx(expected, rel=1e-5)
    back = average.swapped(model)
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    back()
    assert model.weight.item() == 199.0


def test_log_lines_of_later_steps_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    keep_before(path, 3)
    assert not path.exists()
    lines = [{"step": n, "loss": 1.0} for n in range(1, 6)]
    lines.insert(3, {"step": 3, "event": "eval"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6, "los')
    keep_before(path, 3)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == [line for line in lines if int(str(line["step"])) <= 3]
    keep_before(path, 0)
    assert path.read_text() == ""
