"""The path that the fast one is measured against computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.tiny import KINDS, tiny_task, toy_parts
from xvlm.bench._padded import padded_losses
from xvlm.losses.matching import draw_negatives
from xvlm.tasks import pretrain
from xvlm.tasks._batch import PretrainBatch, collate
from xvlm.tasks.pretrain import LossConfig, Pretrain


def found(
    task: Pretrain, losses_of: Callable[[PretrainBatch], dict[str, Tensor]], batch: PretrainBatch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses, and gradients of a sum in which each has another weight."""
    torch.manual_seed(0)
    task.zero_grad()
    losses = losses_of(batch)
    torch.stack([(i + 1) * losses[name] for i, name in enumerate(sorted(losses))]).sum().backward()
    return losses, {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", ["pairs", "regions", "both"])
def test_losses_and_gradients_equal_the_fast_paths(kind: str, parts: str) -> None:
    task = tiny_task(kind).double().eval()
    both = toy_parts(pairs=4, regions=(4, 1, 5, 2))
    batch = collate(both if parts == "both" else {parts: both[parts]})
    fast, fast_gradients = found(task, task, batch)
    slow, slow_gradients = found(task, lambda one: padded_losses(task, one, 12), batch)
    assert fast.keys() == slow.keys()
    assert fast_gradients.keys() == slow_gradients.keys()
    for name in slow:
        assert difference(fast[name], slow[name]) < 1e-6, name
    for name in slow_gradients:
        assert difference(fast_gradients[name], slow_gradients[name]) < 1e-6, name


@pytest.fixture
def two_threads() -> Iterator[None]:
    """How sums are rounded depends on the number of threads; the bounds are of two."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_they_are_near(kind: str, monkeypatch: pytest.MonkeyPatch, two_threads: None) -> None:
    task = tiny_task(kind).eval()
    # As many as in a real step: roundings cancel, as in the base model (docs/performance.md).
    batch = collate(toy_parts(pairs=16, regions=(4, 1, 5, 2) * 4))
    drawn = []

    def remember(*arguments: object) -> object:
        drawn.append(draw_negatives(*arguments))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr(pretrain, "draw_negatives", remember)
    with torch.autocast("cpu", torch.bfloat16):
        fast, fast_gradients = found(task, task, batch)
        # Similarities differ in their last digits, and a draw may fall otherwise.
        again = iter(drawn)
        monkeypatch.setattr("xvlm.bench._padded.draw_negatives", lambda *_: next(again))
        slow, slow_gradients = found(task, lambda one: padded_losses(task, one, 12), batch)
    for name in slow:
        assert difference(fast[name], slow[name]) < 1e-2, name
    assert fast_gradients.keys() == slow_gradients.keys()
    whole_fast, whole_slow = (
        torch.cat([gradient.flatten() for gradient in gradients.values()])
        for gradients in (fast_gradients, slow_gradients)
    )
    assert difference(whole_fast, whole_slow) < 1e-2
    for name in slow_gradients:  # one alone, as a norm's eight weights, is up to 0.1 from float32's
        assert difference(fast_gradients[name], slow_gradients[name]) < 5e-2, name


def test_a_draw_from_other_ranks_is_refused() -> None:
    task = tiny_task(losses=LossConfig(global_negatives=True))
    with pytest.raises(ValueError, match="global_negatives is set"):
        padded_losses(task, collate(toy_parts()))
