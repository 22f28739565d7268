"""How well probabilities tell what is there from what is not: AUROC, and the error of their calibration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xvlm.common.errors import InputError

BUCKETS = 10
"""Number of equal intervals of probability, in which the calibration is measured."""


def auroc(score_N: Tensor, is_true_N: Tensor) -> float:
    """Return the probability that a true case has a higher score than a false one; equal scores count half.

    Args:
        score_N: (N,) scores; NaN counts as wrong.
        is_true_N: (N,) bool.
    Returns:
        NaN unless there are both true and false cases.
    """
    positives, negatives = int(is_true_N.sum()), int((~is_true_N).sum())
    if not (positives and negatives):
        return float("nan")
    wrong_N = torch.where(is_true_N, -torch.inf, torch.inf).double()
    score_N = torch.where(score_N.isnan(), wrong_N, score_N.double())
    _, place_N, count_U = score_N.unique(return_inverse=True, return_counts=True)
    last_U = count_U.cumsum(0).double()
    rank_N = (last_U - (count_U - 1) / 2)[place_N]
    rank_sum = float(rank_N[is_true_N].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


@dataclass(frozen=True)
class Reliability:
    """What share of the cases is true, for cases of similar probability.

    Attributes:
        counts: number of cases in each of `BUCKETS` equal intervals of probability.
        confidences: mean probability of each; NaN without cases.
        shares: share of true cases of each; NaN without cases.
    """

    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    shares: tuple[float, ...]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of probability and share, weighted by the counts."""
        total = sum(self.counts)
        parts = zip(self.counts, self.confidences, self.shares, strict=True)
        return sum(count * abs(confidence - share) / total for count, confidence, share in parts if count)


def reliability(probability_N: Tensor, is_true_N: Tensor) -> Reliability:
    """Return the reliability of N probabilities.

    Args:
        probability_N: (N,) in [0, 1].
        is_true_N: (N,) bool.
    Raises:
        InputError: there is no case, or a probability is outside [0, 1] or NaN.
    """
    probability_N = probability_N.double()
    if len(probability_N) == 0 or not ((probability_N >= 0) & (probability_N <= 1)).all():
        raise InputError("reliability needs at least one case, and probabilities from 0 to 1")
    bin_N = (probability_N * BUCKETS).long().clamp(max=BUCKETS - 1)
    count = torch.bincount(bin_N, minlength=BUCKETS)
    confidence = torch.bincount(bin_N, probability_N, minlength=BUCKETS) / count
    share = torch.bincount(bin_N, is_true_N.double(), minlength=BUCKETS) / count
    return Reliability(tuple(count.tolist()), tuple(confidence.tolist()), tuple(share.tolist()))
