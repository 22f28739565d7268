"""Folders that are written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from xvlm.errors import OutputError


@contextmanager
def whole_or_nothing(partial: Path) -> Iterator[None]:
    """A new, empty folder `partial` to write into; it is removed if that fails.

    The caller renames it afterwards.  Raises OSError where tensors cannot be written (a full disk, say).
    """
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, SafetensorError):
            raise OutputError(f"{partial} cannot be written: {error}") from error
        raise
