"""Which answers a page shows, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from xvlm.data.images import open_image
from xvlm.errors import OutputError
from xvlm.outputs import check_output_file
from xvlm.records import ImageData
from xvlm.whole import whole_file

T = TypeVar("T")


def picture(image: ImageData) -> Image.Image:
    """What was read, upright, to be shown."""
    return open_image(image, key="image").image


def check_picture_output(path: Path, *inputs: str) -> None:
    """A picture can be written to `path`, in the form that its ending says.  Raises OutputError.

    Args:
        inputs: pictures that it must not replace.
    """
    form(path)
    check_output_file(path, _is_picture, "picture", inputs)


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write it whole or not at all.  Raises OutputError."""
    with whole_file(path) as partial:
        picture.save(partial, format=form(path), **options)


def form(path: Path) -> str:
    """JPEG of `a.jpg`.  Raises OutputError for an ending that no picture has that can be written."""
    known = Image.registered_extensions()
    found = known.get(path.suffix.lower(), "")
    if found not in Image.SAVE:
        raise OutputError(
            f"{path} has no ending of a picture that can be written, such as .png, .jpg or .webp"
        )
    return found


def _is_picture(path: Path) -> bool:
    with Image.open(path) as found:
        return found.format is not None


def drawn(found: Sequence[T], count: int, seed: int = 0) -> list[T]:
    """Some of them, drawn blindly, so that a page shows right and wrong as often as they are."""
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:count]]
