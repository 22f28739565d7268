"""Image-text matching losses: on true pairs and hard negatives (X-VLM, section 3.3), or on all pairs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xvlm import distributed
from xvlm.losses.contrastive import soft_cross_entropy


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


def all_pairs_matching_loss(log_odds_BB: Tensor, positive_BB: Tensor) -> Tensor:
    """Return the cross-entropy of finding each image's text and each text's image by their log-odds.

    This is the contrastive loss, with the cross-modal encoder as the similarity.

    Args:
        log_odds_BB: (B, B) log-odds of a match of image i and text j.
        positive_BB: (B, B) bool, True for the pairs that match; several share the label.
    Returns:
        () this rank's part of the global mean.
    """
    label_BB = positive_BB.to(log_odds_BB.dtype)
    to_text_B = soft_cross_entropy(log_odds_BB, label_BB / label_BB.sum(1, keepdim=True))
    to_image_B = soft_cross_entropy(log_odds_BB.T, (label_BB / label_BB.sum(0)).T)
    return distributed.global_mean((to_text_B + to_image_B).sum() / 2, log_odds_BB.shape[0])
