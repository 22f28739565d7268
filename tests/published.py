"""What the published code computes, from the folder of golden files."""

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


def asked() -> Path | None:
    """`XVLM_GOLDEN_DIR`, or `shared/golden` beside the checkout; `None`: the repository's own are used.

    The variable may name the repository's own, too.  One that names no folder is an error.
    """
    named = os.environ.get("XVLM_GOLDEN_DIR")
    if named and not Path(named).is_dir():
        raise FileNotFoundError(f"XVLM_GOLDEN_DIR is {named}, which is no folder")
    found = Path(named) if named else DEFAULT
    return found if found.is_dir() and found.resolve() != DATA.resolve() else None


def folder() -> Path:
    """The folder of golden files: the one that is asked for, or the repository's own, unpacked."""
    return asked() or unpacked()


@functools.cache
def unpacked() -> Path:
    """The repository's golden files in a temporary folder, which goes when the process ends."""
    where = Path(tempfile.mkdtemp(prefix="xvlm-golden-"))
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    expand(where)
    return where


def golden(file: str, name: str | None = None) -> Any:
    """The value of a JSON file, or what stands in it under a name; nothing at all is an error."""
    value = json.loads((folder() / file).read_text(encoding="utf-8"))
    if name is not None:
        value = value[name]
    assert value, f"{file} holds nothing under {name}"
    return value
