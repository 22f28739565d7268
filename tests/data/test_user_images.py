"""Every form of an image gives the same pixels; other values are refused in one sentence."""

from __future__ import annotations

import array
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data import make
from xvlm.common.errors import InputError, XVLMError
from xvlm.data.files.limits import temporary_limits
from xvlm.data.images.user_images import open_user_image
from xvlm.records import BadRecord

PHOTO = make.photo(40, 30)
PIXELS = np.asarray(PHOTO)
PNG = make.encoded(PHOTO, "PNG")
GREY = np.asarray(PHOTO.convert("L"))


def _pixels(image: Any) -> np.ndarray:
    return np.asarray(open_user_image(image).image)


def _at_end() -> io.BytesIO:
    """Return a file positioned at its end, as after writing."""
    file = io.BytesIO()
    file.write(PNG)
    return file


class _Stream:
    """A stream that cannot seek, like a socket."""

    def __init__(self) -> None:
        self.file = io.BytesIO(PNG)

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self.file.read(min(size, 100))


class _Array:
    """An array of another library."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return PIXELS


FORMS = {
    "bytes": PNG,
    "bytearray": bytearray(PNG),
    "memoryview": memoryview(PNG),
    "BytesIO": io.BytesIO(PNG),
    "BytesIO at its end": _at_end(),
    "stream": _Stream(),
    "array": PIXELS,
    "array (3, height, width)": PIXELS.transpose(2, 0, 1),
    "array of another library": _Array(),
    "array, not contiguous": PIXELS[:, ::-1][:, ::-1],
    "array of floats": PIXELS / 255,
    "array of int64": PIXELS.astype(np.int64),
    "array of uint16": PIXELS.astype(np.uint16) * 257,
    "array of opaque RGBA": np.dstack([PIXELS, np.full(GREY.shape, 255, np.uint8)]),
    "tensor (3, height, width)": torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()),
    "tensor (height, width, 3)": torch.from_numpy(PIXELS.copy()),
    "tensor of floats": torch.from_numpy(PIXELS.transpose(2, 0, 1) / 255),
    "tensor with a gradient": torch.tensor(PIXELS.transpose(2, 0, 1) / 255, requires_grad=True),
    "Pillow image": PHOTO,
    "Pillow image, RGBA": PHOTO.convert("RGBA"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_pixels(form: str) -> None:
    assert np.array_equal(_pixels(FORMS[form]), PIXELS)


def test_paths_and_open_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with path.open("rb") as file:
        forms = [path, str(path), f"file://{path}", file]
        assert all(np.array_equal(_pixels(form), PIXELS) for form in forms)
    with tempfile.TemporaryFile() as file:
        file.write(PNG)
        assert np.array_equal(_pixels(file), PIXELS)


@pytest.mark.parametrize(
    "image",
    [*(GREY, GREY[:, :, None], GREY[None], GREY / 255, GREY.astype(np.uint16) * 257, PHOTO.convert("L")),
     torch.from_numpy(GREY.copy()), torch.from_numpy(GREY.copy())[None]],
)  # fmt: skip
def test_grey(image: Any) -> None:
    assert np.array_equal(_pixels(image), np.repeat(GREY[:, :, None], 3, 2))


def test_masks_and_half_precision() -> None:
    mask = GREY > 100
    assert np.array_equal(_pixels(mask)[:, :, 1], np.where(mask, 255, 0))
    half = torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16).repeat(2, 1)
    assert _pixels(half)[0, :, 0].tolist() == [0, 128, 255]


def test_transparent_parts_show_white() -> None:
    clear = np.dstack([PIXELS, np.zeros(GREY.shape, np.uint8)])
    tensor = torch.from_numpy(clear.transpose(2, 0, 1).copy())
    for image in (clear, clear / 255, tensor, Image.fromarray(clear)):
        assert (_pixels(image) == 255).all()


def test_small_images_with_ambiguous_channels() -> None:
    """In shape (3, 5, 3), the channels of an array are last, those of a tensor first."""
    values = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    assert np.array_equal(_pixels(values), values)
    assert np.array_equal(_pixels(torch.from_numpy(values)), values.transpose(1, 2, 0))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pillow_images_of_any_mode(mode: str) -> None:
    """White remains white."""
    white = Image.new("RGB", (4, 4), "white")
    if mode == "I;16":
        white = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    else:
        white = white.quantize(2).convert("PA") if mode == "PA" else white.convert(mode)
    assert (_pixels(white) == 255).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "a int"),
        (None, "a NoneType"),
        ({"bytes": PNG}, "a dict"),
        ([PNG, PNG], "a list"),
        (array.array("i", [1]), "a array"),
        (io.StringIO("text"), "a file that returns str; open it in binary mode"),
        (Path, "a type"),
        (np.zeros((2, 3, 40, 30), np.uint8), r"an array of shape \(2, 3, 40, 30\) and type uint8"),
        (np.zeros((5, 40, 30), np.uint8), r"an array of shape \(5, 40, 30\) and type uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"an array of shape \(0, 4, 3\)"),
        (np.zeros(9, np.uint8), r"an array of shape \(9,\)"),
        (torch.zeros(1, 3, 8, 8), r"an array of shape \(1, 3, 8, 8\) and type float32"),
        (PIXELS.astype(np.float32), r"values of type float32 from \d+\.0 to \d+\.0"),
        ((PIXELS / 255 - 0.5) / 0.5, "values of type float64 from -"),
        (np.full((4, 4, 3), np.nan), "values of type float64 from nan to nan"),
        (np.full((4, 4, 3), 256), "values of type int64 from 256 to 256"),
        (np.zeros((4, 4, 3), complex), "values of type complex128"),
        (np.full((4, 4, 3), "a"), "values of type <U1"),
        (np.full((4, 4, 3), None), "values of type object"),
    ],
)
def test_other_values_are_refused_in_one_sentence(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"image (is|holds) {message}") as caught:
        open_user_image(image)
    text = str(caught.value)
    assert "binary mode" in text and "\n" not in text


@pytest.mark.parametrize("image", [PIXELS, PHOTO, PNG, torch.from_numpy(PIXELS.copy()), GREY])
def test_limits_apply_to_every_form(image: Any) -> None:
    message = r"40 x 30, at most 1,199 pixels .*--max-pixels"
    with temporary_limits(max_pixels=1199), pytest.raises(BadRecord, match=message):
        open_user_image(image)


def test_an_endless_file_is_refused() -> None:
    limits = temporary_limits(max_file_bytes=10**6)
    with limits, open("/dev/zero", "rb") as file, pytest.raises(XVLMError, match="1,000,000"):
        open_user_image(file)
