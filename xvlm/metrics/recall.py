"""Recall at 1, 5, 10 of retrieval in both directions."""

from __future__ import annotations

import torch
from torch import Tensor

CUTS = (1, 5, 10)


def rank_of_first_true(score_QC: Tensor, true_QC: Tensor) -> Tensor:
    """(Q,) how many candidates stand before the best true one; ties and NaN count against it.

    Args:
        score_QC: (Q, C) of each query's candidates.
        true_QC: (Q, C) bool, at least one True a query.
    """
    best_Q1 = score_QC.masked_fill(~true_QC, -torch.inf).amax(1, keepdim=True)
    return (~(score_QC < best_Q1) & ~true_QC).sum(1)


def recall_metrics(score_IT: Tensor, image_T: Tensor, suffix: str = "") -> dict[str, float]:
    """`i2t_r1` ... `t2i_r10`, `r_mean`: shares of queries whose best true candidate is among the first k.

    Args:
        score_IT: (images, texts).
        image_T: (texts,) which image each text describes; every image needs a text.
        suffix: put behind each name.
    """
    images = score_IT.shape[0]
    true_IT = torch.arange(images, device=image_T.device)[:, None] == image_T
    if not true_IT.any(1).all():
        lonely = int((~true_IT.any(1)).nonzero()[0])
        raise ValueError(f"image {lonely} has no text; recall needs at least one for every image")
    ranks = {"i2t": rank_of_first_true(score_IT, true_IT), "t2i": rank_of_first_true(score_IT.T, true_IT.T)}
    metrics = {
        f"{direction}_r{k}{suffix}": (rank < k).double().mean().item()
        for direction, rank in ranks.items()
        for k in CUTS
    }
    metrics[f"r_mean{suffix}"] = sum(metrics.values()) / len(metrics)
    return metrics
