"""Dropout that costs little on a CPU.

PyTorch draws one random number for each element there, which took a tenth of a training step.  A byte is
enough to decide, and one draw gives eight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def drop(x: Tensor, probability: float) -> Tensor:
    """(...) -> (...), zeros with `probability` (on a CPU, in steps of 1/256); the rest keeps the mean."""
    if not probability:
        return x
    if not x.is_cpu:
        return F.dropout(x, probability)
    dropped = round(256 * probability)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    byte = words.view(torch.uint8)[: x.numel()].view(x.shape)
    return x * (byte >= dropped).to(x.dtype).mul_(256 / (256 - dropped))


class Dropout(nn.Module):
    """`drop` while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return drop(x, self.probability) if self.training else x

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"probability={self.probability}"
