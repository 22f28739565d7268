"""Settings of a preparation: what becomes of images and texts."""

from __future__ import annotations

from dataclasses import dataclass

from xvlm.common.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What becomes of images and texts.

    Attributes:
        resize: shorter side in pixels of larger images, which are encoded again as JPEG; `None` leaves the
            bytes of images as they are.
        quality: quality of these JPEGs, 1 to 95.
        filters: filters that leave out texts and images, each `NAME` or `NAME:option=value,option=value`; a
            name is that of a file in `filters/`, or the path of the user's own.
        exclude: file that `xvlm prepare leaks --out` wrote; the images that it lists are left out.
        max_repeats: leave out captions that occur more often in the whole set; 0 leaves out none.
    """

    resize: int | None = None
    quality: int = 90
    filters: tuple[str, ...] = ()
    max_repeats: int = 0
    exclude: str = ""

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 16:
            raise InputError(f"resize is {self.resize}; it must be at least 16")
        if not 1 <= self.quality <= 95:
            raise InputError(f"quality is {self.quality}; it must be 1 to 95")
        if self.max_repeats < 0:
            raise InputError(f"max_repeats is {self.max_repeats}; it must be at least 0")
