"""What the published code computes, from the folder of golden files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DEFAULT = Path(__file__).parents[2] / "shared" / "golden"


def golden(file: str) -> Any:
    """The value of a JSON file in `XVLM_GOLDEN_DIR`, or in `shared/golden` beside the checkout.

    Skips where neither is there; a variable that names a folder without the file is an error.
    """
    asked = os.environ.get("XVLM_GOLDEN_DIR")
    if asked is None and not DEFAULT.is_dir():
        pytest.skip("no golden files; set XVLM_GOLDEN_DIR")
    return json.loads((Path(asked or DEFAULT) / file).read_text(encoding="utf-8"))
