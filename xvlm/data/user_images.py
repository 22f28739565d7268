"""Whatever a user has in hand as one image: a path, bytes, an open file, an array, a Pillow image."""

from __future__ import annotations

import os
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from xvlm.data.files import read_at_most
from xvlm.data.images import Opened, check_size, open_image
from xvlm.data.limits import current
from xvlm.data.modes import grey_maximum, to_rgb
from xvlm.errors import InputError
from xvlm.records import BadRecord

AnyImage = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | np.ndarray | Tensor | Image.Image
)

_ALLOWED = (
    "a path or URL, encoded bytes, a file open in binary mode, a Pillow image, or an array or tensor of "
    "shape (H, W), (H, W, 1 or 3 or 4) or (1 or 3 or 4, H, W) of uint8, uint16, bool, whole numbers in 0 to "
    "255 or floats in 0 to 1"
)
_CHANNELS = (1, 3, 4)


def open_any(image: AnyImage) -> Opened:
    """The image with its header read.  A Pillow image's own EXIF orientation is followed.

    Args:
        image: of an array (H, W, C) or (C, H, W); where both are possible, an array has its channels last and
            a tensor first.  16-bit grey is scaled as in `modes.to_rgb`, transparent parts show white.
    Raises:
        InputError: it is nothing of the kind, or its values are out of range.
        BadRecord: it is missing, too large, or does not decode.
    """
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if not isinstance(path, str):
            raise InputError(f"image is a path of type {type(path).__name__}; paths are texts")
        return open_image(path, key=path, trusted=True)
    if isinstance(image, Image.Image):
        return open_image(_from_pillow(image), key="image")
    if isinstance(image, (bytes, bytearray, memoryview)):
        return open_image(bytes(image), key="image")
    if isinstance(image, Tensor):
        values = image.detach().cpu()
        array = (values.float() if values.is_floating_point() else values).numpy()
        return open_image(_from_array(array, channels_first=True), key="image")
    other: Any = image
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
    """From its beginning, as Pillow reads it."""
    most = current().max_file_bytes
    if getattr(file, "seekable", bool)():
        file.seek(0)
    start: Any = file.read(1)
    if not isinstance(start, bytes):
        raise InputError(f"image is a file that gives {type(start).__name__}; open it in binary mode")
    data = start + read_at_most(file, most)
    if len(data) > most:
        raise InputError(f"image is a file of more than the {most:,} bytes that are read of an image")
    return data


def _from_array(array: np.ndarray, channels_first: bool) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) of any allowed type -> (H, W, 3) uint8."""
    if array.ndim == 2:
        array = array[:, :, None]
    first, last = (array.ndim == 3 and array.shape[axis] in _CHANNELS for axis in (0, -1))
    if array.size == 0 or not (first or last):
        found = f"shape {array.shape} and type {array.dtype}"
        raise InputError(f"image is an array of {found}; it may be {_ALLOWED}")
    if first and (channels_first or not last):
        array = array.transpose(1, 2, 0)
    check_size(array.shape[1], array.shape[0], "image")
    array = _to_bytes(array)
    if array.shape[2] == 3:
        return np.ascontiguousarray(array)
    return np.asarray(to_rgb(Image.fromarray(array if array.shape[2] == 4 else array[:, :, 0])))


def _to_bytes(array: np.ndarray) -> np.ndarray:
    """(H, W, C) of any allowed type -> the same as uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise InputError(f"image holds values of type {array.dtype}; it may be {_ALLOWED}")
    smallest, largest = array.min(), array.max()
    if array.dtype == np.uint16 or array.dtype.kind == "f":
        full = grey_maximum(float(largest), array.dtype)
    else:
        full = 255.0
    if not (smallest >= 0 and largest <= full):  # also true for NaN
        found = f"of type {array.dtype} from {smallest} to {largest}"
        raise InputError(f"image holds values {found}; it may be {_ALLOWED}")
    return array.astype(np.uint8) if full == 255 else np.round(array * (255 / full)).astype(np.uint8)
