"""The values that `--faithful` changes in a recipe, besides the switch itself.

A recipe's own values may be better than the published ones; where they are other numbers, its file has the
published ones in a table `PUBLISHED`: dotted name of a field -> value.  The command line has the last word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from xvlm.config import Run
from xvlm.registry import find

R = TypeVar("R", bound=Run)

FLOAT32 = {"precision": "fp32"}
"""The published fine-tuning was float32; only pre-training and the domain stages were half precision."""


def as_published(run: R) -> R:
    """Return the run of a recipe in faithful mode, with the published values instead of ours."""
    changes: Mapping[str, Any] = getattr(find("recipes", run.recipe), "PUBLISHED", {})
    for name, value in {"faithful": True, **changes}.items():
        run = _with(run, name.split("."), value)
    return run


def _with(tree: Any, names: list[str], value: Any) -> Any:
    """Return a copy of a tree of dataclasses with another leaf."""
    first, *rest = names
    return dataclasses.replace(tree, **{first: _with(getattr(tree, first), rest, value) if rest else value})
