"""Recall at 1, 5, 10 of retrieval in both directions."""

from __future__ import annotations

import torch
from torch import Tensor

CUTS = (1, 5, 10)
NEVER = torch.iinfo(torch.int64).max
"""Rank of what is not found at all."""


def rank_of_first_true(score_QC: Tensor, true_QC: Tensor) -> Tensor:
    """(Q,) how many false candidates stand before the best true one: all that do not score less.

    A tie counts against the model: one that gives everything the same score finds nothing.  So does a score
    that is not a number; where the best true one is none, or nothing is true, the rank is `NEVER`.

    Args:
        score_QC: (Q, C) of each query's candidates.
        true_QC: (Q, C) bool.
    """
    best_Q1 = score_QC.masked_fill(~true_QC, -torch.inf).amax(1, keepdim=True)
    before_Q = (~(score_QC < best_Q1) & ~true_QC).sum(1)
    return before_Q.masked_fill(best_Q1[:, 0].isnan() | ~true_QC.any(1), NEVER)


def recall_metrics(i2t_rank_I: Tensor, t2i_rank_T: Tensor, suffix: str = "") -> dict[str, float]:
    """`i2t_r1` ... `t2i_r10`: shares of queries whose best true candidate is among the first k; their means
    `i2t_r_mean`, `t2i_r_mean`, and that of both, `r_mean` (published evaluation).

    Args:
        i2t_rank_I: (I,) of each image, how many texts stand before its best true one.
        t2i_rank_T: (T,) of each text, how many images do.
        suffix: put behind each name.
    """
    metrics: dict[str, float] = {}
    for direction, rank_Q in (("i2t", i2t_rank_I), ("t2i", t2i_rank_T)):
        shares = {f"{direction}_r{k}": (rank_Q < k).double().mean().item() for k in CUTS}
        metrics |= {**shares, f"{direction}_r_mean": sum(shares.values()) / len(CUTS)}
    metrics["r_mean"] = (metrics["i2t_r_mean"] + metrics["t2i_r_mean"]) / 2
    return {f"{name}{suffix}": value for name, value in metrics.items()}
