"""Find the folder of golden files, which hold what the published code computes."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.golden.reduced import DATA, expand

DEFAULT = Path(__file__).parents[2] / "shared" / "golden"


def full_folder() -> Path | None:
    """Return the folder `XVLM_GOLDEN_DIR`, or `DEFAULT` if it exists; `None` for the repository's own files.

    Raises FileNotFoundError if the variable names no folder.
    """
    name = os.environ.get("XVLM_GOLDEN_DIR")
    if name and not Path(name).is_dir():
        raise FileNotFoundError(f"XVLM_GOLDEN_DIR is {name}, which is no folder")
    path = Path(name) if name else DEFAULT
    return path if path.is_dir() and path.resolve() != DATA.resolve() else None


def folder() -> Path:
    """Return the full folder of golden files, or the repository's own, unpacked."""
    return full_folder() or unpacked()


@functools.cache
def unpacked() -> Path:
    """Unpack the repository's golden files into a temporary folder that is removed at exit."""
    path = Path(tempfile.mkdtemp(prefix="xvlm-golden-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    expand(path)
    return path


def golden(file: str, name: str | None = None) -> Any:
    """Return the content of a JSON file, or its entry `name`, which must not be empty."""
    value = json.loads((folder() / file).read_text(encoding="utf-8"))
    if name is not None:
        value = value[name]
    assert value, f"{file} holds nothing under {name}"
    return value
