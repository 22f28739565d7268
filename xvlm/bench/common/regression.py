"""Comparison of measured ratios with recorded ones.  Ratios carry over to other hardware, times do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.common.errors import InputError

TOLERANCE = 0.10
"""Fraction by which a ratio may be worse than the recorded one."""

HIGHER, LOWER = "higher", "lower"
BETTER = {
    "image_speedup": HIGHER,
    "region_speedup": HIGHER,
    "image_gemm_fraction": HIGHER,
    "region_gemm_fraction": HIGHER,
    "speedup": HIGHER,
    "gemm_fraction": HIGHER,
    "transform_ratio": LOWER,
}
"""The ratios among the measurements, and whether higher or lower is better."""


def ratios(result: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the ratios of a benchmark's result, by their names with dots."""
    found: dict[str, float] = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            found |= ratios(value, f"{prefix}{name}.")
        elif name in BETTER and value is not None:
            found[prefix + name] = float(value)
    return found


def regressions(measured: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """Return a sentence for each ratio that is worse than the recorded one by more than `TOLERANCE`.

    A ratio that was not measured, such as one in bfloat16 on a device without it, is no regression.
    """
    sentences = []
    for name in recorded.keys() & measured.keys():
        new, old = measured[name], recorded[name]
        change = new / old if BETTER[name.rpartition(".")[2]] == HIGHER else old / new
        if change < 1 - TOLERANCE:
            sentences.append(f"{name} is {new:.3g}, it was {old:.3g} ({change - 1:+.0%})")
    return sorted(sentences)


def check(measured: Mapping[str, float], recorded: Mapping[str, float], source: str) -> None:
    """Raise InputError if a ratio is worse than the recorded one; `source` names the file of the latter."""
    if sentences := regressions(measured, recorded):
        raise InputError(f"slower than in {source}: {'; '.join(sentences)}")
