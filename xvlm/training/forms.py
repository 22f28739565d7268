"""The forms of a model's modules that train fastest, or with least memory, on a device."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from xvlm import distributed
from xvlm.common.hardware import autocast
from xvlm.config import Run
from xvlm.models.activation_checkpointing import checkpoint_activations
from xvlm.models.compiled_blocks import compile_blocks
from xvlm.models.cpu.enable import use_memory_efficient_training
from xvlm.models.gpu.enable import step_precision, use_graphs, use_kernels
from xvlm.tasks.common.loss_module import LossModule
from xvlm.training.sharding import is_sharded


def use_training_forms(loss_module: LossModule, run: Run, device: torch.device) -> None:
    """Give the modules of a task's model the forms that a run asks for, in place; results stay the same."""
    recomputes = run.activation_checkpointing != "none"
    if run.compile:
        compile_blocks(loss_module.model)
    elif run.cpu_memory_efficient and device.type == "cpu":
        use_memory_efficient_training(loss_module)
    elif run.gpu_kernels and device.type == "cuda":
        use_kernels(loss_module)
        # A graph holds all activations, and knows nothing of gradients that are averaged during the pass.
        if distributed.world_size() == 1 and not recomputes:
            use_graphs(loss_module.model)
    checkpoint_activations(loss_module, run.activation_checkpointing)


def forward_precision(
    model: nn.Module, run: Run, device: torch.device, precision: str
) -> AbstractContextManager[None]:
    """Return the context of a forward pass in a precision."""
    # Weights cannot be converted before the step if no rank holds them all.
    if run.gpu_kernels and not is_sharded(run):
        return step_precision(model, device, precision)
    return autocast(device, precision)
