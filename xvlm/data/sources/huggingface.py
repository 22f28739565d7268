"""Records from the rows of a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from xvlm.data.files import storage
from xvlm.data.images.pixel_modes import to_rgb
from xvlm.data.sources.record_fields import FieldNames, record_from_fields
from xvlm.data.sources.source import IndexedSource
from xvlm.records import BadRecord, ImageData, Record


class HuggingFaceSource(IndexedSource):
    """A loaded `datasets.Dataset` (or any object with `len()` and `[index]`), with one record per row.

    Columns besides the image have the published forms, see `record_fields.py`.  Cast the image column with
    `Image(decode=False)`, so that images are decoded only once, with the checks of `xvlm.data.images`.

    Args:
        image_column: name of the column with PIL images, encoded bytes, paths, or
            `{"bytes": ..., "path": ...}`.
        caption_column: name of the column with a text or a list of texts.
    """

    def __init__(
        self, dataset: Any, image_column: str = "image", caption_column: str = "caption", name: str = "hf"
    ) -> None:
        super().__init__(name, [len(dataset)])
        self._dataset = dataset
        self._image_column = image_column
        self._field_names = FieldNames(image_key=image_column, caption_key=caption_column)

    def __getitem__(self, index: int, /) -> Record:
        _, index = self.locate(index)
        key = f"{self.name}[{index}]"
        try:
            fields = dict(self._dataset[index])
        except OSError as error:  # without `decode=False`, the dataset decodes images itself
            raise BadRecord("image does not decode", key, str(error)) from error
        if self._image_column not in fields:
            detail = f"columns {sorted(fields)}, expected {self._image_column!r}"
            raise BadRecord("unknown fields", key, detail)
        image = _image_data(fields.pop(self._image_column), key)
        return record_from_fields(fields, key=key, field_names=self._field_names, image=image)


def _image_data(value: Any, key: str) -> ImageData:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        try:
            return np.asarray(to_rgb(ImageOps.exif_transpose(value)))
        except (OSError, ValueError) as error:
            raise BadRecord("image does not decode", key, str(error)) from error
    if isinstance(value, str):
        return storage.check_data_path(value)
    if isinstance(value, (bytes, np.ndarray)):
        return value
    expected = "expected a PIL image, bytes, a path, an array, or a dict of bytes and path"
    raise BadRecord("wrong type", key, f"image is {type(value).__name__}, {expected}")
