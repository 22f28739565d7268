"""Language losses: masked language modelling (X-VLM, equation 6) and next-token prediction."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xvlm import distributed
from xvlm.models.heads import at_least_float


def masked_language_loss(logits_MV: Tensor, target_M: Tensor) -> Tensor:
    """Return the mean cross-entropy over the masked tokens of the global batch.

    Args:
        logits_MV: (M, V) predictions at the masked positions only.
        target_M: (M,) the original tokens.
    Returns:
        () this rank's part of the global mean.
    """
    total = F.cross_entropy(at_least_float(logits_MV), target_M, reduction="sum")
    return distributed.global_mean(total, target_M.shape[0])


def next_token_loss(
    logits_MV: Tensor, target_M: Tensor, label_smoothing: float = 0.0, faithful: bool = False
) -> Tensor:
    """Return the (M,) cross-entropies of predicted tokens, not reduced because answers are weighted.

    Args:
        logits_MV: (M, V) predictions.
        target_M: (M,) tokens to predict.
        label_smoothing: share of the label that is spread evenly over the vocabulary.
        faithful: published label: the true token receives none of the spread share, so the label sums to
            slightly less than 1.
    """
    logits_MV = at_least_float(logits_MV)
    loss_M = F.cross_entropy(logits_MV, target_M, reduction="none", label_smoothing=label_smoothing)
    if faithful and label_smoothing:
        unsmoothed_M = F.cross_entropy(logits_MV, target_M, reduction="none")
        loss_M = loss_M - label_smoothing / logits_MV.shape[1] * unsmoothed_M
    return loss_M


def sum_by_text(loss_M: Tensor, text_M: Tensor, num_texts: int) -> Tensor:
    """Sum (M,) losses of tokens to (N,) losses of texts; `text_M` (M,) int64 is the text of each token."""
    return loss_M.new_zeros(num_texts).index_add(0, text_M, loss_M)
