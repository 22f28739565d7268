"""AUROC and calibration error against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xvlm.common.errors import InputError
from xvlm.metrics.presence import BUCKETS, auroc, reliability

cases = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=40)


@given(cases)
def test_auroc_counts_pairs(drawn: list[tuple[int, bool]]) -> None:
    true = [score for score, is_true in drawn if is_true]
    false = [score for score, is_true in drawn if not is_true]
    value = auroc(torch.tensor([float(s) for s, _ in drawn]), torch.tensor([t for _, t in drawn]))
    if not (true and false):
        assert math.isnan(value)
        return
    wins = sum((a > b) + 0.5 * (a == b) for a in true for b in false)
    assert value == pytest.approx(wins / (len(true) * len(false)))


def test_nan_is_wrong() -> None:
    scores = torch.tensor([math.nan, 0.0, 1.0])
    assert auroc(scores, torch.tensor([True, False, False])) == 0.0
    assert auroc(scores, torch.tensor([False, True, True])) == 0.0
    assert auroc(torch.full((3,), math.nan), torch.tensor([False, True, True])) == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_reliability_of_plain_loops(drawn: list[tuple[float, bool]]) -> None:
    probabilities = torch.tensor([p for p, _ in drawn], dtype=torch.float64)
    found = reliability(probabilities, torch.tensor([t for _, t in drawn]))
    error = 0.0
    for place in range(BUCKETS):
        own = [(p, t) for p, t in drawn if min(int(p * BUCKETS), BUCKETS - 1) == place]
        assert found.counts[place] == len(own)
        if own:
            gap = abs(np.mean([p for p, _ in own]) - np.mean([t for _, t in own]))
            error += gap * len(own) / len(drawn)
    assert found.error == pytest.approx(error)


@pytest.mark.parametrize("wrong", [[], [1.5], [math.nan]])
def test_no_probabilities(wrong: list[float]) -> None:
    with pytest.raises(InputError, match="probabilities from 0 to 1"):
        reliability(torch.tensor(wrong), torch.zeros(len(wrong), dtype=torch.bool))
