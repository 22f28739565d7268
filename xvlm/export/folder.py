"""The folder of an export: graphs, a tokenizer, and `export.json` with all else that predictions need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json
from xvlm.config import from_json
from xvlm.models.calibration import Calibration

FORMAT, DESCRIPTION = 2, "export.json"
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Description:
    """Content of `export.json`.

    Attributes:
        format: version of the folder's form.
        precision: of the weights.
        image_hw: (height, width) that images are resized to.
        grid_hw: rows and columns of the patches.
        has_mean: whether the tokens of an image are its patches alone, and not a class token before them.
        heads, labels, max_words, max_tokens, prompt, calibration: those of the model.
        positions: tokens that a text or decoder may have at most.
        graphs: the largest difference of each graph from the model, by the name of its file.
    """

    format: int
    precision: Precision
    image_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    has_mean: bool
    heads: tuple[str, ...]
    labels: tuple[str, ...]
    max_words: int
    max_tokens: int
    positions: int
    prompt: str
    calibration: Calibration = field(default_factory=Calibration)
    graphs: dict[str, float] = field(default_factory=dict)


def read_description(folder: Path) -> Description:
    """Read `export.json`.  Raises InputError if the folder is none of an export, or of another version."""
    path = folder / DESCRIPTION
    value: Any = read_json(path) if path.is_file() else None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{folder} is no folder that this version of `xvlm export` wrote")
    return from_json(Description, value)
