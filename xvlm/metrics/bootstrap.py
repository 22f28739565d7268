"""Bootstrap intervals of a mean over images, whose queries are not independent of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xvlm.common.errors import InputError

DRAWS = 2000
"""Number of bootstrap samples."""


def bootstrap_interval(
    values_Q: Sequence[float], image_Q: Sequence[int] | Sequence[str], level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the mean of Q values when images are drawn anew, with replacement.

    An image is drawn with all of its queries: five captions of one photograph are right or wrong together
    more often than those of five photographs, and an interval over queries would be too narrow.  The limits
    are percentiles of the bootstrap means (Efron and Tibshirani, 1993).

    Args:
        values_Q: one value for each query, for example 1 if its answer is right.
        image_Q: the image of each query, any integers or texts.
        level: share of the bootstrap means within the interval.
        seed: seed of the draws.
    Raises:
        InputError: there is no value, or the numbers of values and images differ.
    """
    values, images = np.asarray(values_Q, dtype=np.float64), np.asarray(image_Q)
    if values.size == 0 or values.shape != images.shape:
        raise InputError(f"{values.size} values of {images.size} queries; an interval needs one for each")
    _, index_Q = np.unique(images, return_inverse=True)
    counts_I = np.bincount(index_Q).astype(np.float64)
    sums_I = np.bincount(index_Q, weights=values)
    rng = np.random.default_rng(seed)
    share_I = np.full(len(counts_I), 1 / len(counts_I))
    times_BI = rng.multinomial(len(counts_I), share_I, size=DRAWS)
    means_B = (times_BI @ sums_I) / (times_BI @ counts_I)
    low, high = np.quantile(means_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
