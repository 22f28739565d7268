"""Records from the rows of a Hugging Face dataset: one that is loaded, or `hf:NAME?split=train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from xvlm.common.errors import InputError, MissingFileError, MissingPackageError, first_line
from xvlm.data.files import storage
from xvlm.data.images.pixel_modes import to_rgb
from xvlm.data.sources.record_fields import FieldNames, record_from_fields
from xvlm.data.sources.source import IndexedSource, Opener, Source
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


def _open_hf(rest: str, options: Mapping[str, str], image_root: str | None = None) -> Source:
    """Open `hf:NAME?split=train&config=&revision=&image=image&caption=caption`.

    NAME is a data set of the hub, a folder of files as a hub has them (Parquet, or images with
    `metadata.jsonl`), or a folder that `save_to_disk` wrote.  `image` and `caption` name columns.  The
    environment variables of the package hold: HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, HF_HOME.

    Raises:
        MissingPackageError: the extra `hf` is not installed.
        MissingFileError: there is no such data set, or the hub cannot be reached.
        InputError: an option is unknown, or there is no such split or column.
    """
    spec = f"hf:{rest}"
    allowed = {"split": "train", "config": "", "revision": "", "image": "image", "caption": "caption"}
    if unknown := sorted(options.keys() - allowed):
        raise InputError(f"{spec}: unknown option {unknown[0]!r}; allowed are {', '.join(allowed)}")
    if image_root is not None:
        raise InputError(f"{spec}: rows hold their images, so there is no image_root, found {image_root}")
    chosen = {**allowed, **options}
    rows = _load(spec, rest, options.get("split"), chosen["config"] or None, chosen["revision"] or None)
    for column in (chosen["image"], options.get("caption", chosen["image"])):
        if column not in rows.column_names:
            found = ", ".join(rows.column_names)
            raise InputError(f"{spec} has no column {column!r}; its columns are {found}")
    name = f"{spec}/{chosen['split']}"
    return HuggingFaceSource(rows, chosen["image"], chosen["caption"], name)


def _load(spec: str, name: str, split: str | None, config: str | None, revision: str | None) -> Any:
    """Return the rows of a split, by default "train", with encoded images."""
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError(f"{spec} needs the extra: pip install 'xvlm[hf]' ({error})") from error
    folder = Path(name)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            rows = datasets.load_from_disk(name)
            # One data set alone may have no name of its split.
            splits = rows if isinstance(rows, datasets.DatasetDict) else {str(rows.split or ""): rows}
            chosen = split or ("train" if splits is rows else next(iter(splits)))
            if chosen not in splits:
                raise InputError(f"{spec} has no split {chosen!r}; it has {', '.join(splits) or 'none'}")
            rows = splits[chosen]
        else:
            rows = datasets.load_dataset(name, config, split=split or "train", revision=revision)
    except (FileNotFoundError, ConnectionError) as error:
        hint = f"{first_line(error)}; expected hf:FOLDER or hf:ORGANISATION/NAME"
        raise MissingFileError(f"{spec} cannot be loaded: {hint}") from error
    except ValueError as error:  # no such split or configuration; the message lists those that there are
        raise InputError(f"{spec} cannot be loaded: {first_line(error)}") from error
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):  # decoded once, with our checks
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


SCHEMES: dict[str, Opener] = {"hf": _open_hf}
