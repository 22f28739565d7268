"""Position embeddings for another resolution; an error names a table that cannot be resized."""

from __future__ import annotations

import pytest
import torch

from xvlm.common.errors import InputError
from xvlm.models.checkpoints.position_resize import resize_relative_table


@pytest.mark.parametrize("window", [1, 2])
def test_a_table_that_is_too_small_for_a_spline(window: int) -> None:
    with pytest.raises(InputError, match=f"windows of {window} patches are too small"):
        resize_relative_table(torch.zeros((2 * window - 1) ** 2, 4), 7)


def test_a_constant_table_stays_constant() -> None:
    resized = resize_relative_table(torch.full((25, 2), 0.25), 9)
    torch.testing.assert_close(resized, torch.full((81, 2), 0.25))
