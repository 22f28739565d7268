"""Image files that are read for a report or written beside it, and the sampling of examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from xvlm.common.atomic import atomic_file
from xvlm.common.errors import OutputError
from xvlm.common.outputs import check_output_file
from xvlm.data.images.decode import open_image
from xvlm.records import ImageData

T = TypeVar("T")


def load_picture(image: ImageData) -> Image.Image:
    """Decode an image and apply its EXIF orientation."""
    return open_image(image, key="image").image


def check_picture_output(path: Path, *inputs: str) -> None:
    """Check that an image can be written to `path`, in the format of its suffix.

    Args:
        path: output file.
        inputs: input images, which must not be replaced.
    Raises:
        OutputError: the suffix is no image format, or the file cannot be written.
    """
    picture_format(path)
    check_output_file(path, _is_picture, "picture", inputs)


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write an image atomically; `options` are those of Pillow's `save`.

    Raises:
        OutputError: the suffix is no image format, or the file cannot be written.
    """
    with atomic_file(path) as partial:
        picture.save(partial, format=picture_format(path), **options)


def picture_format(path: Path) -> str:
    """Return Pillow's name of the format that a suffix stands for, such as JPEG for `a.jpg`.

    Raises:
        OutputError: the suffix is no image format that Pillow can write.
    """
    name = Image.registered_extensions().get(path.suffix.lower(), "")
    if name not in Image.SAVE:
        raise OutputError(f"{path} has no suffix of an image format, such as .png, .jpg or .webp")
    return name


def _is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format is not None


def random_selection(items: Sequence[T], count: int, seed: int = 0) -> list[T]:
    """Sample up to `count` items uniformly, so that a page shows correct and wrong answers in proportion."""
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))[:count]]
