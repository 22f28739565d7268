"""Whether something may be written where the person says, looked at before the work begins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from xvlm.errors import OutputError
from xvlm.jsonfile import read_json


def check_apart(out: Path, inputs: Iterable[str | Path] = ()) -> None:
    """A folder that is replaced holds neither an input nor the working folder, and is no symbolic link.

    Raises OutputError.
    """
    if out.is_symlink():
        raise OutputError(
            f"{out} is a symbolic link to {out.resolve()}; name a folder that may be replaced itself"
        )
    place = out.resolve()
    if Path.cwd().is_relative_to(place):
        raise OutputError(f"{out} is the working folder, or holds it; name a folder of its own")
    for one in inputs:
        if os.path.exists(one) and Path(one).resolve().is_relative_to(place):
            raise OutputError(f"{out} is the input {one}, or holds it; name another folder")


def check_writable(folder: Path) -> None:
    """`folder` is one, or can be made, and files can be made in it.  Raises OutputError."""
    above = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if not above.is_dir():
        raise OutputError(f"{folder} cannot be made: {above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written: no permission to write in {above}")


def check_room(folder: Path, needed_bytes: int, what: str) -> None:
    """There is room for as much on the disk of `folder`.  Raises OutputError."""
    above = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    free_bytes = shutil.disk_usage(above).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"{folder} cannot be written: No space left for {what}, which takes {needed_bytes / 1e6:.1f} MB; "
            f"{free_bytes / 1e6:.1f} MB are free"
        )


def check_output_file(
    path: Path, is_ours: Callable[[Path], bool], kind: str, inputs: Iterable[str | Path] = ()
) -> None:
    """`path` can be written, and a file that is there is of the kind that is written, and none of the inputs.

    Args:
        is_ours: whether an existing file is of that kind; it may raise OSError or ValueError where it is not.
        kind: for the error, such as "JSON".
    Raises OutputError.
    """
    check_writable(path.parent)
    if not os.path.lexists(path):
        return
    for one in inputs:
        if os.path.exists(one) and path.exists() and os.path.samefile(one, path):
            raise OutputError(f"{path} is the input {one}; name another file")
    try:
        ours = path.is_file() and is_ours(path)
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise OutputError(f"{path} is there already and is no {kind}; name another file, or remove it")


def is_json_object(path: Path) -> bool:
    """Whether a file is one."""
    return isinstance(read_json(path, allow_nan=True), dict)
