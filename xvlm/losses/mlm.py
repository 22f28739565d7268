"""Masked language modelling, given the concept that the text describes (X-VLM, equation 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import dist


def masked_language_loss(logits_MV: Tensor, target_M: Tensor) -> Tensor:
    """Cross-entropy over all masked tokens of the global batch.

    Args:
        logits_MV: (M, V) at masked positions only.
        target_M: (M,) the tokens that stood there.
    Returns:
        () this rank's part of the global mean.
    """
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    total = F.cross_entropy(logits_MV, target_M, reduction="sum")
    return dist.global_mean(total, target_M.shape[0])
