"""What the published code computes, from the folder of golden files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DEFAULT = Path(__file__).parents[2] / "shared" / "golden"


def folder(needed: bool = False) -> Path | None:
    """`XVLM_GOLDEN_DIR`, or `shared/golden` beside the checkout; `None` where neither is there.

    `needed`: skips instead of returning `None`.  A variable that names no folder is an error.
    """
    asked = os.environ.get("XVLM_GOLDEN_DIR")
    if asked is not None and not Path(asked).is_dir():
        raise FileNotFoundError(f"XVLM_GOLDEN_DIR is {asked}, which is no folder")
    found = Path(asked) if asked else DEFAULT
    if found.is_dir():
        return found
    if needed:
        pytest.skip("no golden files; set XVLM_GOLDEN_DIR")
    return None


def golden(file: str, name: str | None = None) -> Any:
    """The value of a JSON file, or what stands in it under a name; never nothing, which would test nothing.

    Skips where there is no folder of golden files.
    """
    where = folder(needed=True)
    assert where is not None
    value = json.loads((where / file).read_text(encoding="utf-8"))
    if name is not None:
        value = value[name]
    assert value, f"{file} holds nothing under {name}"
    return value
