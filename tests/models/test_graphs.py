"""CUDA graphs of vision encoders; without a GPU, the functions that they would replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")

from tests.models.test_gpu import (
    DEVICE,
    SWIN,
    VIT,
    assert_same_gradients,
    losses_and_gradients,
    task_and_batch,
)
from xvlm.models.gpu import enable, graph
from xvlm.models.vision.encoder import VisionConfig


@pytest.fixture
def encoder() -> Iterator[tuple[nn.Module, graph.GraphedForward]]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)).to(DEVICE)
    yield module, graph.GraphedForward(module.forward, module)


def test_graphs_add_gradients_of_micro_batches(encoder: tuple[nn.Module, graph.GraphedForward]) -> None:
    """On a CPU, and where nothing is trained, the function is called."""
    module, graphed = encoder
    batches = [torch.randn(4, 8, device=DEVICE) for _ in range(5)]

    def gradients(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        module.zero_grad(set_to_none=True)
        for x in batches:
            function(x).square().sum().backward()
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]

    expected = gradients(module)
    assert_same_gradients(gradients(graphed), expected)
    assert_same_gradients(gradients(graphed), expected)
    assert len(graphed.graphs) == (DEVICE.type == "cuda")
    with torch.no_grad():
        torch.testing.assert_close(graphed(batches[0]), module(batches[0]))


@pytest.mark.parametrize("vision", [SWIN, VIT], ids=["swin", "vit"])
def test_steps_with_graphs_are_those_without(vision: VisionConfig) -> None:
    """Five steps of an encoder whose last blocks may run again for regions, outside of the graphs."""
    task, batch = task_and_batch(vision)
    task.train()
    losses, gradients = losses_and_gradients(task, batch)
    enable.use_graphs(task.model)
    for _ in range(5):
        replayed, replayed_gradients = losses_and_gradients(task, batch)
        for name, loss in losses.items():
            torch.testing.assert_close(replayed[name], loss, rtol=1e-5, atol=1e-6)
        assert_same_gradients(replayed_gradients, gradients, 1e-4)
    encoder: Any = task.model.vision
    assert bool(encoder.run_blocks.graphs) == (DEVICE.type == "cuda")


@pytest.mark.parametrize("vision", [SWIN, VIT], ids=["swin", "vit"])
def test_a_trained_model_holds_no_graphs(vision: VisionConfig) -> None:
    task, batch = task_and_batch(vision)
    encoder: Any = task.model.vision
    enable.use_graphs(task.model)
    assert isinstance(encoder.run_blocks, graph.GraphedForward)
    enable.release_graphs(task.model)
    assert encoder.run_blocks == encoder.forward_blocks
    assert all(loss.isfinite() for loss in task(batch).values())
