"""Do the tensors of a file fit a model?  What does not is told in one clause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

NAMED = 3
"""Tensors that are named of each kind."""


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """How the tensors (...) of a file differ from a model's own; empty if they fit.

    They fit if names and shapes are the same, and numbers are of one kind: floating-point or not.
    """
    both = [name for name in own if name in given]
    shapes = [
        f"{name} {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
        for name in both
        if given[name].shape != own[name].shape
    ]
    kinds = [
        f"{name} {given[name].dtype}, not {own[name].dtype}"
        for name in both
        if given[name].is_floating_point() != own[name].is_floating_point()
        or given[name].is_complex() != own[name].is_complex()
    ]
    found = [
        _several("lacks", [name for name in own if name not in given]),
        _several("has unknown", [name for name in given if name not in own]),
        _several("has other shapes:", shapes),
        _several("has other numbers:", kinds),
    ]
    return "; ".join(filter(None, found))


def _several(verb: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{verb} {', '.join(names[:NAMED])}{more}" if names else ""
