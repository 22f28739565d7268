"""Retrieval recall at 1, 5 and 10 in both directions, with tied scores in expectation.

Candidates of equal score are ranked in random order; the recall is its exact mean over these orders.  So a
model that gives every candidate the same score has the recall of chance, and duplicate candidates neither
help nor harm.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUTOFFS = (1, 5, 10)
NOT_FOUND = torch.iinfo(torch.int64).max
"""Number of better candidates of a query without a true candidate, or whose true scores are NaN."""


def rank_of_first_true(score_QN: Tensor, true_QN: Tensor) -> Tensor:
    """Return (Q, 3) int64, the rank of the best true candidate of each query.

    The three numbers are: false candidates with a better score, false candidates with the same score, and
    true candidates with the same score (itself included).  A false candidate whose score is NaN counts as
    better.  If the best true score is NaN, or no candidate is true, the first number is `NOT_FOUND`.

    Args:
        score_QN: (Q, N) scores of N candidates for Q queries.
        true_QN: (Q, N) bool.
    """
    best_Q1 = score_QN.masked_fill(~true_QN, -torch.inf).amax(1, keepdim=True)
    tied_QN = score_QN == best_Q1
    better_Q = (~(score_QN <= best_Q1) & ~true_QN).sum(1)
    not_found_Q = best_Q1[:, 0].isnan() | ~true_QN.any(1)
    better_Q = better_Q.masked_fill(not_found_Q, NOT_FOUND)
    return torch.stack((better_Q, (tied_QN & ~true_QN).sum(1), (tied_QN & true_QN).sum(1)), dim=1)


def recall_at(rank_Q3: Tensor, k: int) -> Tensor:
    """Return (Q,) float64, the probability that a true candidate is among the first k.

    With b better candidates, f false and t true tied ones, and m = k - b positions left for them, it is
    1 - C(f, m) / C(f + t, m), and 0 if m <= 0.

    Args:
        rank_Q3: (Q, 3) from `rank_of_first_true`.
        k: cutoff.
    """
    better_Q, false_Q, true_Q = rank_Q3.unbind(1)
    positions_Q = (k - better_Q).clamp(min=0)
    missed_Q = torch.ones_like(better_Q, dtype=torch.float64)
    for position in range(k):
        false_ratio_Q = (false_Q - position).clamp(min=0) / (false_Q + true_Q - position).clamp(
            min=1
        ).double()
        missed_Q = torch.where(position < positions_Q, missed_Q * false_ratio_Q, missed_Q)
    return 1 - missed_Q


def expected_rank(rank_Q3: Tensor) -> Tensor:
    """Return (Q,) float64, the mean rank of the first true candidate from 1; infinite if there is none.

    `rank_Q3`: (Q, 3) from `rank_of_first_true`.
    """
    better_Q, false_Q, true_Q = rank_Q3.unbind(1)
    rank_Q = better_Q.double() + false_Q / (true_Q + 1).double() + 1
    return rank_Q.masked_fill(better_Q == NOT_FOUND, torch.inf)


def recall_metrics(i2t_rank_I3: Tensor, t2i_rank_U3: Tensor, suffix: str = "") -> dict[str, float]:
    """Return the recalls `i2t_r1` ... `t2i_r10`, and their means (published evaluation).

    `i2t_r_mean` and `t2i_r_mean` are the means over the cutoffs, `r_mean` is the mean of both.

    Args:
        i2t_rank_I3: (I, 3) from `rank_of_first_true`, with images as queries.
        t2i_rank_U3: (U, 3) with texts as queries.
        suffix: appended to each name.
    """
    metrics: dict[str, float] = {}
    for direction, rank_Q3 in (("i2t", i2t_rank_I3), ("t2i", t2i_rank_U3)):
        recalls = {f"{direction}_r{k}": recall_at(rank_Q3, k).mean().item() for k in CUTOFFS}
        metrics |= {**recalls, f"{direction}_r_mean": sum(recalls.values()) / len(CUTOFFS)}
    metrics["r_mean"] = (metrics["i2t_r_mean"] + metrics["t2i_r_mean"]) / 2
    return {f"{name}{suffix}": value for name, value in metrics.items()}
