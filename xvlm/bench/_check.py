"""Has anything become slower?  Ratios, not times, against those that are committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.errors import InputError

ALLOWED = 0.10
"""How much worse a ratio may be."""

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
"""The ratios among what a measurement finds, and which way is better."""


def ratios(result: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every ratio in a measurement, by its dotted name."""
    found: dict[str, float] = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            found |= ratios(value, f"{prefix}{name}.")
        elif name in BETTER and value is not None:
            found[prefix + name] = float(value)
    return found


def worse(found: Mapping[str, float], kept: Mapping[str, float]) -> list[str]:
    """A sentence for each kept ratio that is worse by more than `ALLOWED`; what this device lacks is not."""
    lines = []
    for name in kept.keys() & found.keys():
        higher = BETTER[name.rpartition(".")[2]] == HIGHER
        change = found[name] / kept[name] if higher else kept[name] / found[name]
        if change < 1 - ALLOWED:
            lines.append(f"{name} is {found[name]:.3g}, it was {kept[name]:.3g} ({change - 1:+.0%})")
    return sorted(lines)


def check(found: Mapping[str, float], kept: Mapping[str, float], where: str) -> None:
    """Raise InputError if a ratio is worse than the one that is kept, in a file `where`."""
    if lines := worse(found, kept):
        raise InputError(f"slower than in {where}: {'; '.join(lines)}")
