"""Activation checkpointing changes what is saved for the backward pass, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import TEXT, tiny_task, toy_batch
from xvlm.models.activation_checkpointing import checkpoint_activations
from xvlm.models.cpu.enable import use_memory_efficient_training

MODES = ("selective", "full")


def step(kind: str, mode: str, efficient: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Return the losses, the gradients, and the bytes that were saved for the backward pass."""
    task = tiny_task(kind, dropout=0.1).double().train()
    if efficient:
        use_memory_efficient_training(task)
    checkpoint_activations(task, mode)
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = toy_batch()
    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        losses = task(batch)
    sum(losses.values()).backward()
    held = sum(saved.values())
    return losses, {n: p.grad for n, p in task.named_parameters() if p.grad is not None}, held


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["swin", "vit", "cnn"])
def test_losses_and_gradients_are_the_same(kind: str, mode: str, efficient: bool) -> None:
    """To the last digit, dropout included; names of parameters stay."""
    losses, gradients, saved = step(kind, "none", efficient)
    again, gradients_again, saved_again = step(kind, mode, efficient)
    assert losses.keys() == again.keys() and gradients.keys() == gradients_again.keys()
    for name, value in {**losses, **gradients}.items():
        assert torch.equal({**again, **gradients_again}[name], value), name
    if mode == "full":  # the results that selective checkpointing saves do not pass through the hooks
        assert saved_again < (0.6 if kind != "cnn" else 0.9) * saved


def test_each_block_runs_twice_in_training_and_once_without_gradients() -> None:
    task = tiny_task("swin")
    checkpoint_activations(task, "full")
    calls: list[str] = []
    for layer in task.model.fusion.layers:
        layer.mlp.register_forward_hook(lambda *_: calls.append("mlp"))
    sum(task(toy_batch()).values()).backward()
    assert len(calls) == 2 * TEXT.cross_layers
    calls.clear()
    with torch.no_grad():
        task.eval()(toy_batch())
    assert len(calls) == TEXT.cross_layers


def test_selective_checkpointing_saves_the_products() -> None:
    """Matrix products of the forward pass are not repeated, while norms are."""

    class Counter(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: dict[str, int] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(func)
            self.calls[name] = self.calls.get(name, 0) + 1
            return func(*args, **(kwargs or {}))

    calls = {}
    for mode in ("none", *MODES):
        task = tiny_task("swin")
        checkpoint_activations(task, mode)
        total = sum(task(toy_batch()).values())
        with Counter() as counter:
            total.backward()
        calls[mode] = counter.calls
    products, norms = "aten.addmm.default", "aten.native_layer_norm.default"
    assert calls["selective"].get(products, 0) == calls["none"].get(products, 0) < calls["full"][products]
    assert calls["none"].get(norms, 0) == 0 < calls["selective"][norms] == calls["full"][norms]
