"""Dropout samples eight decisions from one random number on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xvlm.models.text.dropout import Dropout, apply_dropout


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_the_right_fraction_is_dropped_and_the_mean_stays(probability: float) -> None:
    torch.manual_seed(0)
    y = apply_dropout(torch.ones(1000, 999), probability)
    assert (y == 0).float().mean().item() == pytest.approx(probability, abs=4e-3)
    assert y.mean().item() == pytest.approx(1, abs=4e-3)
    # The eight decisions from one random number are not correlated.
    decisions = y.flatten()[: 8 * (y.numel() // 8)].view(-1, 8).eq(0).double()
    assert torch.corrcoef(decisions.T).fill_diagonal_(0).abs().max() < 0.02


@given(st.lists(st.integers(1, 5), max_size=3), st.sampled_from([torch.float32, torch.bfloat16]))
def test_shape_and_precision_stay(shape: list[int], dtype: torch.dtype) -> None:
    y = apply_dropout(torch.ones(shape, dtype=dtype), 0.5)
    assert y.shape == torch.Size(shape) and y.dtype == dtype
    assert set(y.flatten().tolist()) <= {0.0, 2.0}


def test_the_gradient_has_the_mask_of_the_value() -> None:
    x = torch.ones(100, requires_grad=True)
    y = apply_dropout(x, 0.3)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())


def test_only_while_training_and_by_the_seed() -> None:
    layer, x = Dropout(0.5), torch.ones(64)
    assert layer.eval()(x) is x and apply_dropout(x, 0.0) is x
    layer.train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(layer(x))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
