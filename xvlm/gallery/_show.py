"""Which answers a page shows, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from xvlm.data.images import open_image
from xvlm.records import ImageData

T = TypeVar("T")


def picture(image: ImageData) -> Image.Image:
    """What was read, upright, to be shown."""
    return open_image(image, key="image").image


def drawn(found: Sequence[T], count: int, seed: int = 0) -> list[T]:
    """Some of them, drawn blindly, so that a page shows right and wrong as often as they are."""
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:count]]
