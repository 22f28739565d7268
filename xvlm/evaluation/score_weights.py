"""How much matching and phrases count beside the contrastive score, fitted on held-out images.

All scores are log-odds or log-likelihood ratios, and their sum would be right if each knew only what the
others do not.  A cross-modal encoder that was trained on few images is too confident of images that it has
not seen, and the phrases of a caption are part of what its contrastive vector says: so their scores count for
less than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.evaluation.common.candidates import CandidateScores

MAX_STEPS = 100
PRIOR = 1e-6
"""Weight of the squared logarithms of the factors, which few images may leave undecided."""
MAX_LOG_FACTOR = 8.0
"""Limit of the logarithms: among equal scores a step of the search would take them to infinity."""
Term = Literal["matching", "phrases"]
"""A score that is added to the contrastive one."""


@dataclass(frozen=True)
class ScoreWeights:
    """The weights of the scores, and how well the candidates' true ones are predicted with and without them.

    Attributes:
        matching, phrases: factors of both scores that are added to contrastive ones; at least 0.
        scale: factor of the sum that makes its softmax over the candidates a probability.
        nll: mean negative log-likelihood of the true candidates, in nats a query.
        nll_contrastive: the same by contrastive scores alone, at their own best scale.
    """

    matching: float
    phrases: float
    scale: float
    nll: float
    nll_contrastive: float


def fit_score_weights(
    scores: Sequence[CandidateScores], terms: Sequence[Term] = ("matching", "phrases")
) -> ScoreWeights:
    """Fit the weights by maximum likelihood of the true candidates among those that were reranked.

    The likelihood moves less from one sample of images to another than the recall does.  Queries without a
    true candidate, which no weight could find, do not count; each direction counts equally.

    Args:
        scores: those of `RetrievalResult`, of both directions.
        terms: scores that are added to contrastive ones; the weight of any other is 0.
    Raises:
        InputError: no query has a true candidate and a false one.
    """
    tables = [one for one in map(_with_true_and_false, scores) if len(one.true_Qk)]
    if not tables:
        raise InputError(
            "the weights of scores cannot be fitted: no query has both a true and a false candidate among "
            "those that are reranked"
        )
    (scale, *factors), nll = _fit(tables, terms)
    _, nll_contrastive = _fit(tables, ())
    weights = {"matching": 0.0, "phrases": 0.0}
    weights |= {term: factor / scale for term, factor in zip(terms, factors, strict=True)}
    return ScoreWeights(**weights, scale=scale, nll=nll, nll_contrastive=nll_contrastive)


def _with_true_and_false(scores: CandidateScores) -> CandidateScores:
    """Return the queries that have both kinds of candidates."""
    both_Q = scores.true_Qk.any(1) & ~scores.true_Qk.all(1)
    tables = (scores.contrastive_Qk, scores.matching_Qk, scores.phrases_Qk, scores.true_Qk)
    return CandidateScores(*(table[both_Q].cpu() for table in tables))


def _fit(tables: Sequence[CandidateScores], terms: Sequence[Term]) -> tuple[list[float], float]:
    """Return the factors of the contrastive score and of `terms` that minimise the NLL, and its value."""
    score_CQk = [
        torch.stack([table.contrastive_Qk, *(getattr(table, f"{term}_Qk") for term in terms)]).double()
        for table in tables
    ]
    # As logarithms, the factors stay above 0.
    start = [0.0] + [-1.0] * len(terms)
    log_factor_C = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_factor_C], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def factors() -> Tensor:
        return log_factor_C.clamp(-MAX_LOG_FACTOR, MAX_LOG_FACTOR).exp()

    def loss() -> Tensor:
        factor_C, parts = factors(), []
        for terms_CQk, table in zip(score_CQk, tables, strict=True):
            score_Qk = torch.einsum("c,cqk->qk", factor_C, terms_CQk)
            true_Qk = score_Qk.log_softmax(1).masked_fill(~table.true_Qk, -torch.inf)
            parts.append(-true_Qk.logsumexp(1).mean())
        return torch.stack(parts).mean() + PRIOR * log_factor_C.square().sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return factors().tolist(), float(loss())
