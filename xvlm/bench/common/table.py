"""Formats the result of a benchmark as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.bench.common.gemm_baseline import DTYPES


def table(result: Mapping[str, Any]) -> str:
    """Return a line for each quantity, with a column for each precision if there are several."""
    plain = [(name, [cell(value)]) for name, value in result.items() if not isinstance(value, Mapping)]
    plain = [(name, cells) for name, cells in plain if name not in DTYPES]
    by_precision = [result.get(precision) or {} for precision in DTYPES]
    names = dict.fromkeys(name for quantities in by_precision for name in quantities)
    several = [(name, [cell(quantities.get(name)) for quantities in by_precision]) for name in names]
    curves = [
        (name, [f"~ size^{value['exponent']:.2f}", cell(value["sizes"]), cell(value["seconds"])])
        for name, value in result.items()
        if isinstance(value, Mapping) and "exponent" in value
    ]
    lines = [*plain, *([("", list(DTYPES))] if several else []), *several, *curves]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  " + "  ".join(f"{one:>10}" for one in cells) for name, cells in lines)


def cell(value: Any) -> str:
    """Format a number with three digits, several numbers with commas, and `None` as a dash."""
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-" if value is None else str(value)
