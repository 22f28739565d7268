"""What the published code computes, from the folder of golden files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DEFAULT = Path(__file__).parents[2] / "shared" / "golden"


def golden(file: str, name: str | None = None) -> Any:
    """The value of a JSON file, or what stands in it under a name; never nothing, which would test nothing.

    The file is in `XVLM_GOLDEN_DIR`, or in `shared/golden` beside the checkout.  Skips where
    neither is there; a variable that names a folder without the file is an error.
    """
    asked = os.environ.get("XVLM_GOLDEN_DIR")
    if asked is None and not DEFAULT.is_dir():
        pytest.skip("no golden files; set XVLM_GOLDEN_DIR")
    value = json.loads((Path(asked or DEFAULT) / file).read_text(encoding="utf-8"))
    if name is not None:
        value = value[name]
    assert value, f"{file} holds nothing under {name}"
    return value
