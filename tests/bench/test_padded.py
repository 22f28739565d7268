"""The padded step, which is the baseline of the benchmarks, computes the losses of the packed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import KINDS, tiny_task, toy_parts
from xvlm.bench.common.padded import padded_losses
from xvlm.losses.negatives import sample_negatives
from xvlm.tasks import pretrain
from xvlm.tasks.common.pretraining_batch import PretrainBatch, collate
from xvlm.tasks.pretrain import LossConfig, Pretrain


def losses_and_gradients(
    task: Pretrain, losses_of: Callable[[PretrainBatch], dict[str, Tensor]], batch: PretrainBatch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return losses, and the gradients of a sum in which each has a different weight."""
    torch.manual_seed(0)
    task.zero_grad()
    losses = losses_of(batch)
    torch.stack([(i + 1) * losses[name] for i, name in enumerate(sorted(losses))]).sum().backward()
    return losses, {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-2))


CASES: list[tuple[str, str, int, dict[str, Any]]] = [
    *[(kind, streams, 0, {}) for kind in KINDS for streams in ("pairs", "regions", "both")],
    ("cnn", "both", 1, {"pooling": "mean", "box_head": "point"}),
    ("vit", "both", 2, {"pooling": "mean", "box_head": "point"}),
    ("swin", "both", 0, {"first_position": 2, "type_vocab_size": 1}),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "streams", "fused_per_image", "config"), CASES)
def test_losses_and_gradients_equal_those_of_packed_texts(
    kind: str, streams: str, fused_per_image: int, config: dict[str, Any], training: bool
) -> None:
    task = tiny_task(kind, **config).double().train(training)
    both = toy_parts(pairs=4, regions=(4, 1, 5, 2))
    batch = collate(both if streams == "both" else {streams: both[streams]}, fused_per_image)
    packed, packed_gradients = losses_and_gradients(task, task, batch)
    padded, padded_gradients = losses_and_gradients(task, lambda one: padded_losses(task, one, 12), batch)
    assert packed.keys() == padded.keys()
    assert packed_gradients.keys() == padded_gradients.keys()
    if streams == "both":
        assert 1 in batch.texts.lengths_N and len(batch.texts.lengths_N.unique()) > 4
        assert packed.keys() == {name for name, weight in task.loss_weights().items() if weight}
    for name in padded:
        assert packed[name].dtype == padded[name].dtype == torch.float64, name
        assert difference(packed[name], padded[name]) < 1e-6, name
    for name in padded_gradients:
        assert difference(packed_gradients[name], padded_gradients[name]) < 1e-6, name


@pytest.fixture
def two_threads() -> Iterator[None]:
    """The rounding of sums depends on the number of threads; the bounds hold for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_they_are_near(kind: str, monkeypatch: pytest.MonkeyPatch, two_threads: None) -> None:
    task = tiny_task(kind).eval()
    # As many rows as in a real step: rounding errors cancel, as in the base model (docs/performance.md).
    batch = collate(toy_parts(pairs=16, regions=(4, 1, 5, 2) * 4))
    sampled = []

    def record(*arguments: object) -> object:
        sampled.append(sample_negatives(*arguments))  # type: ignore[arg-type]
        return sampled[-1]

    monkeypatch.setattr(pretrain, "sample_negatives", record)
    with torch.autocast("cpu", torch.bfloat16):
        packed, packed_gradients = losses_and_gradients(task, task, batch)
        # Similarities differ in their last digits, so that other negatives might be sampled.
        negatives = iter(sampled)
        monkeypatch.setattr("xvlm.bench.common.padded.sample_negatives", lambda *_: next(negatives))
        padded, padded_gradients = losses_and_gradients(task, lambda one: padded_losses(task, one, 12), batch)
    for name in padded:
        assert difference(packed[name], padded[name]) < 1e-2, name
    assert packed_gradients.keys() == padded_gradients.keys()
    all_packed, all_padded = (
        torch.cat([gradient.flatten() for gradient in gradients.values()])
        for gradients in (packed_gradients, padded_gradients)
    )
    assert difference(all_packed, all_padded) < 1e-2
    for name in padded_gradients:  # a small one, such as a norm's eight weights, is up to 0.1 from float32's
        assert difference(packed_gradients[name], padded_gradients[name]) < 5e-2, name


def test_negatives_from_other_ranks_are_an_error() -> None:
    task = tiny_task(losses=LossConfig(global_negatives=True))
    with pytest.raises(ValueError, match="global_negatives is set"):
        padded_losses(task, collate(toy_parts()))
