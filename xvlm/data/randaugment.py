"""RandAugment with the operations and strengths of the published code.

torchvision's has other strengths (it darkens as often as it brightens, translates by up to 45 % of the
image, applies every drawn operation, fills with black), so the few operations are written out here on
Pillow, whose results the published OpenCV ones reproduce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

COLOUR = ("Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness")
"""Operations that leave every pixel in its place: for images with boxes."""
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ALL = COLOUR + GEOMETRIC

_APPLIED = 0.5  # each drawn operation is applied with this probability
_MAX_LEVEL = 10
_FILL = (128, 128, 128)
_Affine = tuple[float, float, float, float, float, float]


def rand_augment(
    image: Image.Image, count: int, level: int, operations: Sequence[str], rng: np.random.Generator
) -> Image.Image:
    """Draw `count` operations with replacement and apply each, with probability 0.5, at `level` of 10."""
    for name in rng.choice(list(operations), count):
        applied, negative = rng.random(2) < (_APPLIED, 0.5)
        if applied:
            image = _OPERATIONS[name](image, level / _MAX_LEVEL, -1 if negative else 1)
    return image


def _affine(image: Image.Image, to_source: _Affine) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, to_source, Image.Resampling.BILINEAR, fillcolor=_FILL
    )


def _translate(image: Image.Image, x: float, y: float) -> Image.Image:
    """By whole pixels, as at the published level, nothing has to be interpolated."""
    if not (x.is_integer() and y.is_integer()):
        return _affine(image, (1, 0, -x, 0, 1, -y))
    moved = Image.new(image.mode, image.size, _FILL)
    moved.paste(image, (int(x), int(y)))
    return moved


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_FILL)


def _enhanced(strength: float) -> float:
    """0.1 at level 0, 1.9 at level 10; 1 changes nothing."""
    return strength * 1.8 + 0.1


# (image, strength in [0, 1], sign) -> image
_OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "Identity": lambda image, strength, sign: image,
    "AutoContrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, strength, sign: ImageOps.equalize(image),
    "Brightness": lambda image, strength, sign: ImageEnhance.Brightness(image).enhance(_enhanced(strength)),
    "Sharpness": lambda image, strength, sign: ImageEnhance.Sharpness(image).enhance(_enhanced(strength)),
    "ShearX": lambda image, strength, sign: _affine(image, (1, -sign * strength * 0.3, 0, 0, 1, 0)),
    "ShearY": lambda image, strength, sign: _affine(image, (1, 0, 0, -sign * strength * 0.3, 1, 0)),
    "TranslateX": lambda image, strength, sign: _translate(image, sign * strength * 10, 0.0),
    "TranslateY": lambda image, strength, sign: _translate(image, 0.0, sign * strength * 10),
    "Rotate": lambda image, strength, sign: _rotate(image, sign * strength * 30),
}
