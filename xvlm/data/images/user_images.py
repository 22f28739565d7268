"""Open an image in any form that a user has: a path, bytes, an open file, an array, a Pillow image."""

from __future__ import annotations

import os
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from xvlm.common.errors import InputError
from xvlm.data.files.limits import current_limits
from xvlm.data.files.storage import read_at_most
from xvlm.data.images.decode import ImageFile, check_size, open_image
from xvlm.data.images.pixel_modes import to_rgb, white_level
from xvlm.records import BadRecord


class TensorLike(Protocol):
    """A tensor of PyTorch, which is not imported for those who give none."""

    def is_floating_point(self) -> bool:
        """Return whether its values are floats."""


AnyImage = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | np.ndarray
    | TensorLike
    | Image.Image
)

_ALLOWED = (
    "a path or URL, encoded bytes, a file open in binary mode, a Pillow image, or an array or tensor of "
    "shape (height, width), (height, width, 1 or 3 or 4) or (1 or 3 or 4, height, width) of uint8, uint16, "
    "bool, integers in 0 to 255 or floats in 0 to 1"
)
_CHANNELS = (1, 3, 4)


def open_user_image(image: AnyImage) -> ImageFile:
    """Read the header of an image in any form.  The EXIF orientation of a Pillow image is applied.

    Args:
        image: if an array could have its channels first or last, they are last; those of a tensor are first.
            16-bit grey is scaled as in `to_rgb`, and transparent parts become white.
    Raises:
        InputError: the value is not an image, or its pixels are out of range.
        BadRecord: the image is missing, too large, or does not decode.
    """
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if not isinstance(path, str):
            raise InputError(f"image is a path of type {type(path).__name__}; it must be a str")
        return open_image(path, key=path, trusted=True)
    if isinstance(image, Image.Image):
        return open_image(_from_pillow(image), key="image")
    if isinstance(image, (bytes, bytearray, memoryview)):
        return open_image(bytes(image), key="image")
    other: Any = image
    if hasattr(other, "is_floating_point"):  # a tensor
        values = other.detach().cpu()
        array = (values.float() if values.is_floating_point() else values).numpy()
        return open_image(_from_array(array, channels_first=True), key="image")
    if hasattr(other, "__array__"):
        return open_image(_from_array(np.asarray(other), channels_first=False), key="image")
    if hasattr(other, "read"):
        return open_image(_from_file(other), key="image")
    raise InputError(f"image is a {type(image).__name__}; it may be {_ALLOWED}")


def _from_pillow(image: Image.Image) -> np.ndarray:
    check_size(*image.size, "image")
    try:
        return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except (OSError, ValueError, SyntaxError) as error:
        raise BadRecord("image does not decode", "image", f"{type(error).__name__}: {error}") from error


def _from_file(file: IO[bytes]) -> bytes:
    """Read a file from its beginning, as Pillow does."""
    limit = current_limits().max_file_bytes
    if getattr(file, "seekable", bool)():
        file.seek(0)
    start: Any = file.read(1)
    if not isinstance(start, bytes):
        raise InputError(f"image is a file that returns {type(start).__name__}; open it in binary mode")
    data = start + read_at_most(file, limit)
    if len(data) > limit:
        raise InputError(f"image is a file with more than the {limit:,} bytes allowed for an image")
    return data


def _from_array(array: np.ndarray, channels_first: bool) -> np.ndarray:
    """Convert an array of any allowed shape and type to (height, width, 3) uint8."""
    if array.ndim == 2:
        array = array[:, :, None]
    first, last = (array.ndim == 3 and array.shape[axis] in _CHANNELS for axis in (0, -1))
    if array.size == 0 or not (first or last):
        found = f"shape {array.shape} and type {array.dtype}"
        raise InputError(f"image is an array of {found}; it may be {_ALLOWED}")
    if first and (channels_first or not last):
        array = array.transpose(1, 2, 0)
    check_size(array.shape[1], array.shape[0], "image")
    array = _to_uint8(array)
    if array.shape[2] == 3:
        return np.ascontiguousarray(array)
    return np.asarray(to_rgb(Image.fromarray(array if array.shape[2] == 4 else array[:, :, 0])))


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """Convert an array (height, width, channels) of any allowed type to uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise InputError(f"image holds values of type {array.dtype}; it may be {_ALLOWED}")
    smallest, largest = array.min(), array.max()
    if array.dtype == np.uint16 or array.dtype.kind == "f":
        white = white_level(float(largest), array.dtype)
    else:
        white = 255.0
    if not (smallest >= 0 and largest <= white):  # also true for NaN
        found = f"of type {array.dtype} from {smallest} to {largest}"
        raise InputError(f"image holds values {found}; it may be {_ALLOWED}")
    return array.astype(np.uint8) if white == 255 else np.round(array * (255 / white)).astype(np.uint8)
