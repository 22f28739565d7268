"""Calibration: known lines are found again, the order never changes, and precisions hold."""

from __future__ import annotations

import pytest
import torch

from xvlm.common.errors import InputError
from xvlm.evaluation.calibration import MIN_BOXES, fit_platt, precision_thresholds
from xvlm.metrics.presence import reliability
from xvlm.models.calibration import Platt, joint_log_odds


@pytest.mark.parametrize(("scale", "offset"), [(0.3, 1.0), (2.0, -1.5), (1.0, 0.0)])
def test_finds_the_line_again(scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    log_odds = 3 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    truth = Platt(scale, offset).probability(log_odds)
    is_true = torch.rand(20_000, generator=generator) < truth
    fitted = fit_platt(log_odds, is_true)
    assert fitted.scale == pytest.approx(scale, rel=0.1) and fitted.offset == pytest.approx(offset, abs=0.1)
    assert reliability(fitted.probability(log_odds), is_true).error < 0.01


def test_scores_that_separate_everything_stay_finite() -> None:
    """Without the smoothed labels, the scale of few cases would be infinite; the order is never reversed."""
    log_odds = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    fitted = fit_platt(log_odds, log_odds > 0)
    assert 0 < fitted.scale < 100
    reversed_ = fit_platt(log_odds, log_odds < 0)
    assert reversed_.scale > 0
    huge = fit_platt(torch.tensor([-1e30, 1e30]), torch.tensor([False, True]))
    assert 0 < huge.scale < 1e4


@pytest.mark.parametrize("is_true", [True, False])
def test_one_kind_of_cases_alone(is_true: bool) -> None:
    with pytest.raises(InputError, match="calibration of scores needs true and false cases"):
        fit_platt(torch.zeros(3), torch.full((3,), is_true))


def test_thresholds_reach_their_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(2000, generator=generator)
    is_right = torch.rand(2000, generator=generator) < probability
    pairs = precision_thresholds(probability, is_right)
    assert len(pairs) >= 4
    for precision, threshold in pairs:
        chosen = is_right[probability >= threshold]
        assert chosen.double().mean() >= precision
        assert len(chosen) >= MIN_BOXES
    assert list(pairs) == sorted(pairs)
    assert precision_thresholds(probability[:5], is_right[:5]) == ()
    # Equal probabilities are taken together.
    equal = torch.full((100,), 0.5)
    assert precision_thresholds(equal, torch.arange(100) < 55) == ((0.5, 0.5),)


def test_joint_log_odds() -> None:
    a, b = torch.randn(2, 1000, dtype=torch.float64) * 5
    joint = a.sigmoid() * b.sigmoid()
    assert torch.allclose(joint_log_odds(a, b).sigmoid(), joint, rtol=1e-9)
    extreme = torch.tensor([-300.0, 0.0, 300.0])
    assert joint_log_odds(extreme, extreme).isfinite().all()
