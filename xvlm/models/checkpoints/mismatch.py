"""Describe how a state dict differs from that of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

SHOWN = 3
"""Tensors of each kind that are named."""


def describe_mismatch(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return how `tensors` differ from a model's own, in one clause; empty if they fit.

    They fit if keys and shapes are equal, and both are floating-point, complex or neither.
    """
    common = [name for name in own if name in tensors]
    shapes = [
        f"{name} {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in common
        if tensors[name].shape != own[name].shape
    ]
    dtypes = [
        f"{name} {tensors[name].dtype}, not {own[name].dtype}"
        for name in common
        if tensors[name].is_floating_point() != own[name].is_floating_point()
        or tensors[name].is_complex() != own[name].is_complex()
    ]
    clauses = [
        _clause("lacks", [name for name in own if name not in tensors]),
        _clause("has unknown", [name for name in tensors if name not in own]),
        _clause("has other shapes:", shapes),
        _clause("has other numbers:", dtypes),
    ]
    return "; ".join(filter(None, clauses))


def _clause(verb: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{verb} {', '.join(names[:SHOWN])}{more}" if names else ""
