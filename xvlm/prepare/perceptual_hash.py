"""A hash of what an image looks like: copies that were encoded again, resized or slightly cropped are near.

It is the pHash of 16 x 16 frequencies of the package ImageHash, 256 bits.  Copies are found by the number of
bits that differ; `leaks.py` has the thresholds and how they were measured.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

HASH_SIDE, HASH_BYTES = 16, 32
HASH_PIXELS = 4 * HASH_SIDE
"""Pixels a side of the image that is transformed."""
_CROP = 0.05


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """Return the (32,) uint8 hash of an image of any size."""
    import imagehash

    # The package makes a large image small by one filter, which takes four times as long; of 256 bits 0.7
    # differ from its hash on average, and at most 4.
    side = (HASH_PIXELS, HASH_PIXELS)
    grey = image.convert("L").resize(side, Image.Resampling.LANCZOS, reducing_gap=2.0)
    found = imagehash.phash(grey, hash_size=HASH_SIDE)
    return np.packbits(np.asarray(found.hash, bool).ravel())


def variants(image: Image.Image) -> np.ndarray:
    """Return (V, 32) uint8 hashes of an image, slightly cropped ones, and the mirror images of all.

    Those of an evaluation image are compared with the one hash of a training image, so that a mirrored copy,
    or one that lacks an edge, is found as well.
    """
    width, height = image.size
    dx, dy = _CROP * width, _CROP * height
    whole = (0.0, 0.0, float(width), float(height))
    corners = [(x, y, x + width - dx, y + height - dy) for x in (0, dx) for y in (0, dy)]
    crops = [
        whole,
        *corners,
        (dx / 2, dy / 2, width - dx / 2, height - dy / 2),
        (dx, dy, width - dx, height - dy),
    ]
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = (HASH_PIXELS, HASH_PIXELS)
    views = [one.resize(side, Image.Resampling.LANCZOS, crop) for one in (image, mirrored) for crop in crops]
    return np.stack([perceptual_hash(view) for view in views])


VIEWS = 14
"""Hashes that `variants` returns."""
