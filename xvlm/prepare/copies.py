"""Find images of training data that occur in it before: the same bytes, or almost the same hash of looks."""

from __future__ import annotations

import numpy as np

NEAR_BITS = 7
"""Bits of 256 in which the hashes of copies differ at most; docs/results.md has how that was measured.

Leaks are looked for with more (`leaks.DIFFERENT_BITS`): there a false alarm costs one image of many, and here
every image is compared with all others.
"""
_BANDS = NEAR_BITS + 1
"""Parts of a hash: two hashes that differ in `NEAR_BITS` bits have at least one part in common."""
_COMPARED = 64
"""Images with the same part of the hash that an image is compared with; identical hashes are all found."""


def earlier_copies(hashes_N32: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each image the first one before it that looks the same.

    Args:
        hashes_N32: (N, 32) uint8, see `perceptual_hash.py`.
    Returns:
        (N,) int64 numbers of these images, -1 without one, and (N,) int64 bits that differ.
    """
    count = len(hashes_N32)
    first_N = np.full(count, count)
    parts_NB = np.ascontiguousarray(hashes_N32).view(np.uint32)
    assert parts_NB.shape[1] == _BANDS
    for band in range(_BANDS):
        order = np.argsort(parts_NB[:, band], kind="stable")  # so that earlier images come first
        part_N = parts_NB[order, band]
        for offset in range(1, min(count, _COMPARED + 1)):
            same = part_N[offset:] == part_N[:-offset]
            if not same.any():
                break
            late, early = order[offset:][same], order[:-offset][same]
            near = _different_bits(hashes_N32[late], hashes_N32[early]) <= NEAR_BITS
            np.minimum.at(first_N, late[near], early[near])
    found = first_N < count
    bits_N = np.zeros(count, np.int64)
    bits_N[found] = _different_bits(hashes_N32[found], hashes_N32[first_N[found]])
    return np.where(found, first_N, -1), bits_N


def _different_bits(one_N32: np.ndarray, other_N32: np.ndarray) -> np.ndarray:
    """Return the (N,) number of bits in which the rows of two (N, 32) arrays differ."""
    return np.unpackbits(one_N32 ^ other_N32, axis=1).sum(1, dtype=np.int64)
