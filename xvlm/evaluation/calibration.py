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
    positives, negatives = int(is_true_N.sum()), int((~is_true_N).sum())
    if not (positives and negatives):
        raise InputError(
            f"the calibration of {name} needs true and false cases; the data have {positives} true and "
            f"{negatives} false ones"
        )
    target_N = torch.where(is_true_N, (positives + 1) / (positives + 2), 1 / (negatives + 2)).double()
    x_N = log_odds_N.double().clamp(-50, 50)
    parameters_2 = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters_2], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        # As a logarithm, the scale stays above 0: a calibration never turns the order around.
        log_scale, offset = parameters_2.unbind(0)
        logits_N = log_scale.clamp(-8, 8).exp() * x_N + offset
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_N, target_N)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    log_scale, offset = parameters_2.detach().unbind(0)
    return Platt(float(log_scale.clamp(-8, 8).exp()), float(offset))


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
