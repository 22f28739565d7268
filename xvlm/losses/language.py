"""Next-token losses of texts that are written: answers and captions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def next_token_loss(
    logits_MV: Tensor, target_M: Tensor, smoothing: float = 0.0, faithful: bool = False
) -> Tensor:
    """Cross-entropy of each token given those before it.

    Args:
        logits_MV: (M, V); target_M: (M,) the tokens that stand there.
        smoothing: share of the label that is spread over all tokens.
        faithful: the published label, which gives the true token nothing of what is spread, and so sums to
            a little less than 1.
    Returns:
        (M,), not reduced: answers are weighted one by one.
    """
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    loss_M = F.cross_entropy(logits_MV, target_M, reduction="none", label_smoothing=smoothing)
    if faithful and smoothing:
        true_M = F.cross_entropy(logits_MV, target_M, reduction="none")
        loss_M = loss_M - smoothing / logits_MV.shape[1] * true_M
    return loss_M


def sum_by_text(loss_M: Tensor, text_M: Tensor, texts: int) -> Tensor:
    """(M,) losses of tokens, (M,) int64 the text of each -> (N,) sums."""
    return loss_M.new_zeros(texts).index_add(0, text_M, loss_M)
