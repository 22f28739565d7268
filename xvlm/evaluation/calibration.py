"""Fits how a model's scores become probabilities, on data that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.models.calibration import Platt

MAX_STEPS = 100
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Precisions whose thresholds are stored with a model."""
MIN_BOXES = 20
"""A precision is measured on at least this many boxes; that of fewer says little."""


def fit_platt(log_odds_N: Tensor, is_true_N: Tensor, name: str = "scores") -> Platt:
    """Fit scale and offset by maximum likelihood.

    The labels are smoothed as Platt did, by the rule of succession, so that no finite set of cases makes the
    fit infinitely certain.

    Args:
        log_odds_N: (N,) finite scores.
        is_true_N: (N,) bool.
        name: what they are the scores of, for the error.
    Raises:
        InputError: there are no true cases, or no false ones.
    """
    scales, offset = fit_logistic(log_odds_N[:, None], is_true_N, name)
    return Platt(scales[0], offset)


def fit_logistic(score_N3: Tensor, is_true_N: Tensor, name: str = "scores") -> tuple[list[float], float]:
    """Fit weights, none below 0, and offset of a sum of scores by maximum likelihood; see `fit_platt`.

    Args:
        score_N3: (N, any number) finite scores.
        is_true_N: (N,) bool.
    """
    positives, negatives = int(is_true_N.sum()), int((~is_true_N).sum())
    if not (positives and negatives):
        raise InputError(
            f"the calibration of {name} needs true and false cases; the data have {positives} true and "
            f"{negatives} false ones"
        )
    target_N = torch.where(is_true_N, (positives + 1) / (positives + 2), 1 / (negatives + 2)).double()
    x_N3 = score_N3.double().clamp(-50, 50)
    mean_3 = x_N3.mean(0) if x_N3.shape[1] > 1 else torch.zeros(1, dtype=torch.float64)
    log_scale_3 = torch.zeros(x_N3.shape[1], dtype=torch.float64, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale_3, offset], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        # As a logarithm, a scale stays above 0: a calibration never turns the order around.
        logits_N = (x_N3 - mean_3) @ log_scale_3.clamp(-8, 8).exp() + offset
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_N, target_N)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    scale_3 = log_scale_3.detach().clamp(-8, 8).exp()
    return scale_3.tolist(), float(offset.detach() - mean_3 @ scale_3)


def precision_thresholds(
    probability_X: Tensor, is_right_X: Tensor, precisions: Sequence[float] = PRECISIONS
) -> tuple[tuple[float, float], ...]:
    """Return (precision, threshold) pairs: the smallest probability from which that share of boxes is right.

    A precision that no threshold reaches with `MIN_BOXES` boxes is left out.

    Args:
        probability_X: (X,) probabilities of the boxes.
        is_right_X: (X,) bool.
    """
    if len(probability_X) < MIN_BOXES:
        return ()
    order = probability_X.argsort(descending=True)
    sorted_X = probability_X[order].double()
    count_X = torch.arange(1, len(order) + 1, dtype=torch.float64)
    precision_X = is_right_X[order].double().cumsum(0) / count_X
    # A threshold takes all boxes of equal probability.
    is_last_X = torch.cat((sorted_X[1:] < sorted_X[:-1], torch.tensor([True])))
    usable_X = is_last_X & (count_X >= MIN_BOXES)
    pairs = []
    for precision in precisions:
        reaching_X = (usable_X & (precision_X >= precision)).nonzero()[:, 0]
        if len(reaching_X):
            pairs.append((precision, float(sorted_X[reaching_X[-1]])))
    return tuple(pairs)
