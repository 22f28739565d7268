"""Checks that an output can be written where the user wants it, made before the work begins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from xvlm.common.errors import OutputError
from xvlm.common.json_file import read_json


def check_separate(out: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that the folder `out` may be replaced: it holds no input and not the working folder.

    Raises OutputError, also if `out` is a symbolic link.
    """
    if out.is_symlink():
        raise OutputError(
            f"{out} is a symbolic link to {out.resolve()}; name a folder that may be replaced itself"
        )
    resolved = out.resolve()
    if Path.cwd().is_relative_to(resolved):
        raise OutputError(f"{out} is the working folder, or holds it; name a folder of its own")
    for path in inputs:
        if os.path.exists(path) and Path(path).resolve().is_relative_to(resolved):
            raise OutputError(f"{out} is the input {path}, or holds it; name another folder")


def check_writable(folder: Path) -> None:
    """Check that files can be created in `folder`, which need not exist yet.  Raises OutputError."""
    existing = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if not existing.is_dir():
        raise OutputError(f"{folder} cannot be created: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written: no permission to write in {existing}")


def check_free_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Check the free space on the disk of `folder`, which need not exist yet, for the output `what`.

    Raises OutputError.
    """
    existing = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"{folder} cannot be written: No space left for {what}, which takes {needed_bytes / 1e6:.1f} MB; "
            f"{free_bytes / 1e6:.1f} MB are free"
        )


def check_output_file(
    path: Path, is_ours: Callable[[Path], bool], kind: str, inputs: Iterable[str | Path] = ()
) -> None:
    """Check that `path` can be written, and that an existing file there may be replaced.

    Args:
        is_ours: returns whether an existing file has the format of the output; it may raise OSError or
            ValueError if not.
        kind: name of the format in the error, such as "JSON object".
        inputs: input files, which must not be replaced.
    Raises:
        OutputError: the file cannot be written, or another file exists there.
    """
    check_writable(path.parent)
    if not os.path.lexists(path):
        return
    for one in inputs:
        if os.path.exists(one) and path.exists() and os.path.samefile(one, path):
            raise OutputError(f"{path} is the input {one}; name another file")
    try:
        may_replace = path.is_file() and is_ours(path)
    except (OSError, ValueError):
        may_replace = False
    if not may_replace:
        raise OutputError(f"{path} exists and is not a {kind}; name another file, or remove it")


def is_json_object(path: Path) -> bool:
    """Return whether a file holds a JSON object.  Raises OSError or ValueError if it is not JSON."""
    return isinstance(read_json(path, allow_nan=True), dict)
