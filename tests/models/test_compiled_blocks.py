"""Compiled blocks compute what plain ones do, in few graphs without breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests.tiny import KINDS, TEXT, tiny_task, toy_batch
from xvlm.models.activation_checkpointing import checkpoint_activations
from xvlm.models.compiled_blocks import compile_blocks
from xvlm.tasks.common.pretraining_batch import PretrainBatch
from xvlm.tasks.pretrain import Pretrain

BLOCKS = {"swin": 4, "vit": 3, "cnn": 4, "convnext": 4}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def step(task: Pretrain, batch: PretrainBatch) -> dict[str, Tensor]:
    torch.manual_seed(1)
    task.zero_grad(set_to_none=True)
    losses = task(batch)
    sum(losses.values()).backward()
    return losses | {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_the_same_without_a_break(kind: str) -> None:
    """In float64; the second and third numbers of images and texts add graphs, all others add none."""
    task = tiny_task(kind).double().train()
    names, expected = list(task.state_dict()), step(task, toy_batch())
    blocks = compile_blocks(task.model, "aot_eager")
    assert len(blocks) == BLOCKS[kind] + TEXT.text_layers + TEXT.cross_layers
    assert list(task.state_dict()) == names
    for name, value in step(task, toy_batch()).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9, msg=name)
    step(task, toy_batch(4, (2, 3)))
    step(task, toy_batch(2, (5, 1, 1)))
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 10
    step(task, toy_batch(5, (2, 2)))
    step(task, toy_batch(1, (3, 4)))
    assert counters["stats"]["unique_graphs"] == graphs and not counters["graph_break"]


def test_activations_of_compiled_blocks_may_be_computed_again() -> None:
    task = tiny_task("swin").double().train()
    expected = step(task, toy_batch())
    compile_blocks(task.model, "aot_eager")
    checkpoint_activations(task, "full")
    for name, value in step(task, toy_batch()).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9, msg=name)
