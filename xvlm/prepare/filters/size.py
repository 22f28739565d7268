"""Leave out images that are small, or very long."""

from __future__ import annotations

from xvlm.data.images.decode import ImageFile
from xvlm.prepare.filtering import Filter


def make(min_side: int = 1, max_ratio: float = 1e9) -> Filter:
    """Return the filter.

    Args:
        min_side: smallest shorter side, in pixels.
        max_ratio: largest ratio of the longer to the shorter side.
    """

    def image(image: ImageFile) -> str | None:
        short, long = sorted((image.width, image.height))
        if short < min_side:
            return "image is small"
        return "image is very long" if long > max_ratio * short else None

    return Filter(image=image)
