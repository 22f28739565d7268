"""Recall at 1, 5, 10 of retrieval in both directions, with ties counted by their expectation.

Equally scored candidates stand in a random order, and a recall is its mean over all these orders, computed
exactly.  So a model that gives everything the same score has the recall of chance, and copies of a candidate
neither help nor harm.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUTS = (1, 5, 10)
NEVER = torch.iinfo(torch.int64).max
"""How many candidates stand before what is not found at all."""


def rank_of_first_true(score_QC: Tensor, true_QC: Tensor) -> Tensor:
    """(Q, 3) int64, where the best true candidate of each query stands: how many false candidates are better
    than it, how many false ones are as good, and how many true ones are (itself among them).

    A false candidate whose score is not a number counts as better.  Where the best true score is not a
    number, or nothing is true, `NEVER` candidates are better.

    Args:
        score_QC: (Q, C) of each query's candidates.
        true_QC: (Q, C) bool.
    """
    best_Q1 = score_QC.masked_fill(~true_QC, -torch.inf).amax(1, keepdim=True)
    tied_QC = score_QC == best_Q1
    better_Q = (~(score_QC <= best_Q1) & ~true_QC).sum(1)
    lost_Q = best_Q1[:, 0].isnan() | ~true_QC.any(1)
    return torch.stack(
        (better_Q.masked_fill(lost_Q, NEVER), (tied_QC & ~true_QC).sum(1), (tied_QC & true_QC).sum(1)), dim=1
    )


def recall_at(rank_Q3: Tensor, k: int) -> Tensor:
    """(Q, 3) as `rank_of_first_true` -> (Q,) float64, the chance that a true candidate is among the first k.

    With b better ones, f false and t true ones tied, and m = k - b places for the tied, it is
    1 - C(f, m) / C(f + t, m); 0 where no place is left.
    """
    better_Q, false_Q, true_Q = rank_Q3.unbind(1)
    room_Q = (k - better_Q).clamp(min=0)
    missed_Q = torch.ones_like(better_Q, dtype=torch.float64)
    for place in range(k):
        left_Q = (false_Q - place).clamp(min=0) / (false_Q + true_Q - place).clamp(min=1).double()
        missed_Q = torch.where(place < room_Q, missed_Q * left_Q, missed_Q)
    return 1 - missed_Q


def expected_rank(rank_Q3: Tensor) -> Tensor:
    """(Q, 3) as `rank_of_first_true` -> (Q,) float64, the mean rank of the first true candidate (1: it is the
    best of all), infinite where it is never found."""
    better_Q, false_Q, true_Q = rank_Q3.unbind(1)
    rank_Q = better_Q.double() + false_Q / (true_Q + 1).double() + 1
    return rank_Q.masked_fill(better_Q == NEVER, torch.inf)


def recall_metrics(i2t_rank_I3: Tensor, t2i_rank_T3: Tensor, suffix: str = "") -> dict[str, float]:
    """`i2t_r1` ... `t2i_r10`: shares of queries that find a true candidate among the first k; their means
    `i2t_r_mean`, `t2i_r_mean`, and that of both, `r_mean` (published evaluation).

    Args:
        i2t_rank_I3: (I, 3) of each image, as `rank_of_first_true`.
        t2i_rank_T3: (T, 3) of each text.
        suffix: put behind each name.
    """
    metrics: dict[str, float] = {}
    for direction, rank_Q3 in (("i2t", i2t_rank_I3), ("t2i", t2i_rank_T3)):
        shares = {f"{direction}_r{k}": recall_at(rank_Q3, k).mean().item() for k in CUTS}
        metrics |= {**shares, f"{direction}_r_mean": sum(shares.values()) / len(CUTS)}
    metrics["r_mean"] = (metrics["i2t_r_mean"] + metrics["t2i_r_mean"]) / 2
    return {f"{name}{suffix}": value for name, value in metrics.items()}
