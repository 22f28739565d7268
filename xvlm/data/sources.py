"""Where records come from: random access to JSON files, tar shards, Hugging Face datasets.

A source knows its length and the sizes of its storage blocks, so that the order of samples can be a
pure function of the seed and still read few files at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image, ImageOps

from xvlm.data import files
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


class JsonSource:
    """JSON lists and JSON-lines files in the published shapes (see `published.py`), told apart by content.

    Lines are found once, on opening, and parsed when asked for; lists are parsed on opening.

    Args:
        paths: a file, glob or folder, local or remote, or a list of them.
        image_root: where image paths start; by default each file's own folder.
    Raises:
        FileNotFoundError: a path names no file.
        InputError: a list file is not valid JSON.
    """

    def __init__(self, paths: files.Paths, image_root: str | None = None, keys: Keys = USUAL_KEYS) -> None:
        found = files.expand(paths)
        self.name = files.name_of(paths)
        self._root = image_root
        self._keys = keys
        self._parts = [_open_part(path) for path in found]
        self.shards: Sequence[int] = [len(part) for part in self._parts]
        self._ends = np.cumsum(self.shards)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        shard, place = files.locate(self._ends, index)
        part = self._parts[shard]
        key, fields = part.read(place)
        root = os.path.dirname(part.path) if self._root is None else self._root
        return record_from_fields(fields, key=key, image_root=root, keys=self._keys)


@dataclass(frozen=True)
class _ListFile:
    path: str
    items: list[Any]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, place: int) -> tuple[str, Any]:
        return f"{self.path}[{place}]", self.items[place]


@dataclass(frozen=True)
class _LinesFile:
    """Lines that are not blank: where each starts, how long it is, its number in the file from 1."""

    path: str
    starts: np.ndarray
    sizes: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, place: int) -> tuple[str, Any]:
        key = f"{self.path}:{self.numbers[place]}"
        line = files.read_range(self.path, int(self.starts[place]), int(self.sizes[place]))
        try:
            return key, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRecord("line is not JSON", key, str(error)) from error


def _open_part(path: str) -> _ListFile | _LinesFile:
    with files.open_binary(path) as file:
        if file.read(4096).lstrip().startswith(b"["):
            file.seek(0)
            return _ListFile(path, _load_list(path, file.read()))
        file.seek(0)
        starts, sizes, numbers, position = [], [], [], 0
        for number, line in enumerate(file, start=1):
            if not line.isspace():
                starts.append(position)
                sizes.append(len(line))
                numbers.append(number)
            position += len(line)
    return _LinesFile(path, *(np.array(column, np.int64) for column in (starts, sizes, numbers)))


def _load_list(path: str, data: bytes) -> list[Any]:
    try:
        return json.loads(data)  # type: ignore[no-any-return]
    except ValueError as error:
        raise InputError(f"{path} begins as a JSON list but does not parse: {error}") from error


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


def open_source(spec: str, image_root: str | None = None, **keys: Any) -> Source:
    """Open what a command line names.

    Args:
        spec: `data/*.tar`, `data/train.json`, a folder of such files, or a scheme:
            `scenes:train:20000?seed=0&image_size=128`, `scene-questions:train:8000?about=count,relation`,
            `refcoco:FOLDER:unc:val` (see `refcoco.py`).
        image_root: where image paths start.
        keys: fields of `Keys`, where a file uses other names.
    Raises:
        MissingFileError, InputError: with what would be allowed.
    """
    scheme, colon, rest = spec.partition(":")
    if colon and scheme in SCHEMES:
        place, _, query = rest.partition("?")
        return SCHEMES[scheme](place, dict(parse_qsl(query, keep_blank_values=True)), image_root)
    paths = files.expand(spec)
    suffixes = {os.path.splitext(path)[1].lower() for path in paths}
    if suffixes == {".tar"}:
        return TarSource(spec, image_root, Keys(**keys))
    if suffixes <= set(_JSON_SUFFIXES):
        return JsonSource(spec, image_root, Keys(**keys))
    raise InputError(
        f"{spec!r} names files with suffixes {sorted(suffixes)}; allowed are .tar, or .json, .jsonl, .ndjson "
        f"and none, or the schemes {sorted(SCHEMES)}"
    )
