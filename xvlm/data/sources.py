"""Where records come from: random access to JSON files, tar shards, Hugging Face datasets, schemes.

A source knows its length and the sizes of its storage blocks, so that the order of samples can be a
pure function of the seed and still read few files at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image, ImageOps

from xvlm.data import files
from xvlm.data.json_source import JsonSource
from xvlm.data.modes import to_rgb
from xvlm.data.published import USUAL_KEYS, Keys, record_from_fields
from xvlm.data.refcoco import open_refcoco
from xvlm.data.tars import TarSource
from xvlm.errors import InputError
from xvlm.records import BadRecord, ImageData, Record


class Source(Protocol):
    """Records by number."""

    @property
    def name(self) -> str:
        """What to call it in logs."""

    @property
    def shards(self) -> Sequence[int]:
        """Number of records in each storage block (file), in order; they sum to the length."""

    def __len__(self) -> int:
        """How many records there are, bad ones included."""

    def __getitem__(self, index: int, /) -> Record:
        """Record `index`.  Raises BadRecord if it cannot be read, IndexError outside [0, len)."""


Opener = Callable[[str, Mapping[str, str], str | None], Source]
"""(rest, options, image root) -> source, of a scheme."""


class HuggingFaceSource:
    """A loaded `datasets.Dataset` (or anything with its `len()` and `[i]`), one row a record.

    Columns besides the image follow the published shapes.  Cast the image column with
    `Image(decode=False)`, so that images are decoded here, once, with their checks.

    Args:
        image_column: holds PIL images, encoded bytes, paths, or `{"bytes": ..., "path": ...}`.
        caption_column: holds a text or a list of texts.
    """

    def __init__(
        self, dataset: Any, image_column: str = "image", caption_column: str = "caption", name: str = "hf"
    ) -> None:
        self.name = name
        self._dataset = dataset
        self._image_column = image_column
        self._keys = Keys(image_key=image_column, caption_key=caption_column)
        self.shards: Sequence[int] = [len(dataset)]

    def __len__(self) -> int:
        return self.shards[0]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of a source that has {len(self)}")
        key = f"{self.name}[{index}]"
        try:
            fields = dict(self._dataset[index])
        except OSError as error:  # the dataset decodes images itself, unless told not to
            raise BadRecord("image does not decode", key, str(error)) from error
        if self._image_column not in fields:
            found = f"columns {sorted(fields)}, expected {self._image_column!r}"
            raise BadRecord("unknown fields", key, found)
        image = _hugging_face_image(fields.pop(self._image_column), key)
        return record_from_fields(fields, key=key, keys=self._keys, image=image)


def _hugging_face_image(value: Any, key: str) -> ImageData:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        try:
            return np.asarray(to_rgb(ImageOps.exif_transpose(value)))
        except (OSError, ValueError) as error:
            raise BadRecord("image does not decode", key, str(error)) from error
    if isinstance(value, str):
        return files.check_named_by_data(value)
    if isinstance(value, (bytes, np.ndarray)):
        return value
    expected = "expected a PIL image, bytes, a path, an array, or a dict of bytes and path"
    raise BadRecord("wrong type", key, f"image is {type(value).__name__}, {expected}")


def _open_scenes(rest: str, options: Mapping[str, str], _: str | None = None) -> Source:
    from xvlm.data.scenes import Scenes  # here: not every run draws scenes

    split, _, size = rest.partition(":")
    try:
        numbers = {name: int(value) for name, value in options.items()}
        return Scenes(split, int(size), **numbers)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected scenes:SPLIT:SIZE?seed=0&image_size=128; {error}") from error


def _open_cases(kind: str) -> Opener:
    def opened(rest: str, options: Mapping[str, str], _: str | None = None) -> Source:
        from xvlm.data.scenes import Scenes, cases

        numbers = dict(options)
        about = tuple(numbers.pop("about").split(",")) if "about" in options else ()
        scenes = _open_scenes(rest, numbers)
        assert isinstance(scenes, Scenes)
        kinds = {one.kind: one for one in (cases.SceneCases, cases.SceneQuestions, cases.ScenePairs)}
        return kinds[kind](scenes, about)

    return opened


def _open_refcoco(rest: str, options: Mapping[str, str], image_root: str | None = None) -> Source:
    if options:
        raise InputError(f"refcoco: takes no options, found {', '.join(options)}")
    return open_refcoco(rest, image_root)


SCHEMES: dict[str, Opener] = {
    "refcoco": _open_refcoco,
    "scenes": _open_scenes,
    **{kind: _open_cases(kind) for kind in ("scene-cases", "scene-questions", "scene-pairs")},
}
"""What `name:rest?option=value` opens."""

_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson", "")  # published pre-training files have no suffix


def open_source(spec: str, image_root: str | None = None, keys: Keys | None = None, **names: Any) -> Source:
    """Open what a command line names.

    Args:
        spec: `data/*.tar`, `data/train.json`, a folder of such files, or a scheme:
            `scenes:train:20000?seed=0&image_size=128`, `scene-questions:train:8000?about=count,relation`,
            `refcoco:FOLDER:unc:val` (see `refcoco.py`).
        image_root: where image paths start.
        keys: names of fields, where a file uses other ones than the usual.
        names: fields of `Keys`, in place of those of `keys`.
    Raises:
        MissingFileError, InputError: with what would be allowed.
    """
    keys = replace(keys or USUAL_KEYS, **names)
    scheme, colon, rest = spec.partition(":")
    if colon and scheme in SCHEMES and keys != USUAL_KEYS:
        raise InputError(f"{spec} has fields of its own, whose names are no options: found {keys}")
    if colon and scheme in SCHEMES:
        place, _, query = rest.partition("?")
        return SCHEMES[scheme](place, dict(parse_qsl(query, keep_blank_values=True)), image_root)
    paths = files.expand(spec)
    suffixes = {os.path.splitext(path)[1].lower() for path in paths}
    if suffixes == {".tar"}:
        return TarSource(spec, image_root, keys)
    if suffixes <= set(_JSON_SUFFIXES):
        return JsonSource(spec, image_root, keys)
    raise InputError(
        f"{spec!r} names files with suffixes {sorted(suffixes)}; allowed are .tar, or .json, .jsonl, .ndjson "
        f"and none, or the schemes {sorted(SCHEMES)}"
    )
