"""A measurement as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.bench._yardstick import DTYPES


def table(result: Mapping[str, Any]) -> str:
    """A line for each quantity; where there are precisions, a column for each of them."""
    plain = [(name, [cell(value)]) for name, value in result.items() if not isinstance(value, Mapping)]
    plain = [(name, cells) for name, cells in plain if name not in DTYPES]
    by_precision = [result.get(precision) or {} for precision in DTYPES]
    names = dict.fromkeys(name for found in by_precision for name in found)
    several = [(name, [cell(found.get(name)) for found in by_precision]) for name in names]
    curves = [
        (name, [f"~ size^{value['exponent']:.2f}", cell(value["sizes"]), cell(value["seconds"])])
        for name, value in result.items()
        if isinstance(value, Mapping) and "exponent" in value
    ]
    lines = [*plain, *([("", list(DTYPES))] if several else []), *several, *curves]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  " + "  ".join(f"{one:>10}" for one in cells) for name, cells in lines)


def cell(value: Any) -> str:
    """Numbers to three digits, several with commas; a dash for nothing."""
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-" if value is None else str(value)
