"""Image-text matching loss on true pairs and hard negatives (X-VLM, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xvlm import distributed


def matching_loss(logits_R2: Tensor, is_match_R: Tensor) -> Tensor:
    """Return the mean two-way cross-entropy over the true and the negative pairs of the global batch.

    Args:
        logits_R2: (R, 2) logits of "no match" and "match".
        is_match_R: (R,) bool.
    Returns:
        () this rank's part of the global mean.
    """
    total = F.cross_entropy(logits_R2, is_match_R.long(), reduction="sum")
    return distributed.global_mean(total, logits_R2.shape[0])
