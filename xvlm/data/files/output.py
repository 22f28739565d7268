"""Write files by path, local or remote: readers find a whole file or none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xvlm.common.atomic import atomic_file
from xvlm.data.files import storage


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder, local or remote."""
    return f"{folder.rstrip('/')}/{name}"


@contextmanager
def new_file(path: str, keep: Callable[[], bool] = lambda: True) -> Iterator[Path]:
    """Yield a local path to write to, which becomes `path` if the block succeeds.

    Args:
        keep: asked at the end; if it returns false, no file is left.
    Raises:
        OutputError: the file cannot be written.
    """
    if storage.is_remote(path):
        with tempfile.TemporaryDirectory(prefix="xvlm-") as folder:
            partial = Path(folder) / path.rpartition("/")[2]
            yield partial
            if keep():
                storage.upload(partial, path)
        return
    with atomic_file(path) as partial:
        yield partial
    if not keep():
        Path(path).unlink()


def remove_file(path: str) -> None:
    """Remove a file, local or remote, if it is there."""
    if storage.is_remote(path):
        storage.remove(path)
    else:
        Path(path).unlink(missing_ok=True)


def write_bytes(path: str, data: bytes) -> None:
    """Write a file.  Raises OutputError if it cannot be written."""
    with new_file(path) as partial:
        partial.write_bytes(data)
