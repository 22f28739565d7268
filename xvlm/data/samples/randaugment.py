"""RandAugment with the operations and strengths of the published code.

torchvision's RandAugment differs: it darkens as often as it brightens, translates by up to 45 % of the image,
applies every sampled operation and fills with black.  So the operations are written here with Pillow, which
reproduces the results of the published OpenCV code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

COLOR_OPERATIONS = ("Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness")
"""Operations that do not move pixels, for images with boxes."""
ALL_OPERATIONS = (*COLOR_OPERATIONS, "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")

_PROBABILITY = 0.5  # of applying a sampled operation
_MAX_LEVEL = 10
_FILL = (128, 128, 128)
_Affine = tuple[float, float, float, float, float, float]


def rand_augment(
    image: Image.Image, count: int, level: int, operations: Sequence[str], rng: np.random.Generator
) -> Image.Image:
    """Sample `count` operations with replacement and apply each with probability 0.5 at `level` of 10."""
    for name in rng.choice(list(operations), count):
        is_applied, is_negative = rng.random(2) < (_PROBABILITY, 0.5)
        if is_applied:
            image = _OPERATIONS[name](image, level / _MAX_LEVEL, -1 if is_negative else 1)
    return image


def _affine(image: Image.Image, output_to_input: _Affine) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, output_to_input, Image.Resampling.BILINEAR, fillcolor=_FILL
    )


def _translate(image: Image.Image, x: float, y: float) -> Image.Image:
    if not (x.is_integer() and y.is_integer()):
        return _affine(image, (1, 0, -x, 0, 1, -y))
    # At the published level x and y are whole numbers, so that nothing has to be interpolated.
    translated = Image.new(image.mode, image.size, _FILL)
    translated.paste(image, (int(x), int(y)))
    return translated


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_FILL)


def _factor(strength: float) -> float:
    """Return Pillow's factor, in which 1 changes nothing: 0.1 at level 0 to 1.9 at level 10."""
    return strength * 1.8 + 0.1


# (image, strength in [0, 1], sign) -> image
_OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "Identity": lambda image, strength, sign: image,
    "AutoContrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, strength, sign: ImageOps.equalize(image),
    "Brightness": lambda image, strength, sign: ImageEnhance.Brightness(image).enhance(_factor(strength)),
    "Sharpness": lambda image, strength, sign: ImageEnhance.Sharpness(image).enhance(_factor(strength)),
    "ShearX": lambda image, strength, sign: _affine(image, (1, -sign * strength * 0.3, 0, 0, 1, 0)),
    "ShearY": lambda image, strength, sign: _affine(image, (1, 0, 0, -sign * strength * 0.3, 1, 0)),
    "TranslateX": lambda image, strength, sign: _translate(image, sign * strength * 10, 0.0),
    "TranslateY": lambda image, strength, sign: _translate(image, 0.0, sign * strength * 10),
    "Rotate": lambda image, strength, sign: _rotate(image, sign * strength * 30),
}
