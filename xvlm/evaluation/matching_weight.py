"""How much the matching score counts beside the contrastive one, fitted on images that chose nothing else.

Both scores are log-odds, and their sum would be right if matching knew nothing of the contrastive similarity
but what it was trained to correct.  A cross-modal encoder that was trained on few images is too confident of
images that it has not seen, and its log-odds then count for less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.evaluation.common.candidates import CandidateScores

MAX_STEPS = 100


@dataclass(frozen=True)
class MatchingWeight:
    """The weight of matching, and how well the candidates' true ones are predicted with and without it.

    Attributes:
        weight: factor of the log-odds that are added to contrastive scores; at least 0.
        scale: factor of the sum that makes its softmax over the candidates a probability.
        nll: mean negative log-likelihood of the true candidates, in nats a query.
        nll_contrastive: the same without matching, at its own best scale.
    """

    weight: float
    scale: float
    nll: float
    nll_contrastive: float


def fit_matching_weight(scores: Sequence[CandidateScores]) -> MatchingWeight:
    """Fit the weight by maximum likelihood of the true candidates among those that were reranked.

    The likelihood moves less from one sample of images to another than the recall does.  Queries without a
    true candidate, which no weight could find, do not count; each direction counts equally.

    Args:
        scores: those of `RetrievalResult`, of both directions.
    Raises:
        InputError: no query has a true candidate and a false one.
    """
    tables = [one for one in map(_with_true_and_false, scores) if len(one.true_Qk)]
    if not tables:
        raise InputError(
            "matching_weight cannot be fitted: no query has both a true and a false candidate among those "
            "that are reranked"
        )
    scale, product, nll = _fit(tables, with_matching=True)
    _, _, nll_contrastive = _fit(tables, with_matching=False)
    return MatchingWeight(product / scale, scale, nll, nll_contrastive)


def _with_true_and_false(scores: CandidateScores) -> CandidateScores:
    """Return the queries that have both kinds of candidates."""
    both_Q = scores.true_Qk.any(1) & ~scores.true_Qk.all(1)
    tables = (scores.contrastive_Qk, scores.matching_Qk, scores.true_Qk)
    return CandidateScores(*(table[both_Q].cpu() for table in tables))


def _fit(tables: Sequence[CandidateScores], with_matching: bool) -> tuple[float, float, float]:
    """Return the factors of both scores that minimise the negative log-likelihood, and its value."""
    # As logarithms, the factors stay above 0.
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    log_product = torch.full((), -1.0, dtype=torch.float64, requires_grad=True)
    parameters = [log_scale, log_product] if with_matching else [log_scale]
    optimizer = torch.optim.LBFGS(parameters, max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def product() -> Tensor:
        return log_product.exp() if with_matching else torch.zeros((), dtype=torch.float64)

    def loss() -> Tensor:
        parts = []
        for table in tables:
            score_Qk = (
                log_scale.exp() * table.contrastive_Qk.double() + product() * table.matching_Qk.double()
            )
            true_Qk = score_Qk.log_softmax(1).masked_fill(~table.true_Qk, -torch.inf)
            parts.append(-true_Qk.logsumexp(1).mean())
        return torch.stack(parts).mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return float(log_scale.exp()), float(product()), float(loss())
