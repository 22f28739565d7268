"""From the photos of a collection to rows of the table: read, hash, decode, encode."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from torch import Tensor

from xvlm.common.threads import in_threads
from xvlm.data.images.content_hash import content_hash
from xvlm.data.images.decode import open_image
from xvlm.inference.model import InferenceModel
from xvlm.records import BadRecord
from xvlm.search.exif import Exif, read_exif
from xvlm.search.photos import PhotoFile, read_photo
from xvlm.search.rows import FileVersion, PhotoRow
from xvlm.search.windows import image_vectors

_AHEAD = 3
"""Batches that are read and decoded before they are encoded."""


@dataclass(frozen=True)
class ReadPhoto:
    """A photo that has been read.

    Attributes:
        file: what was listed.
        hash: hash of the content.
        exif: time and place.
        width, height: pixels of the upright image.
        pixels: (3, height, width) uint8 at the model's size; `None` for a content whose vectors are known.
    """

    file: PhotoFile
    hash: str
    exif: Exif
    width: int
    height: int
    pixels: Tensor | None

    def row(self, vectors_CE: np.ndarray) -> PhotoRow:
        """Return the row of the table, with (1 + windows, E) vectors."""
        file, exif = self.file, self.exif
        time = exif.time or (datetime.fromtimestamp(file.mtime_ns / 1e9) if file.mtime_ns else None)
        version = FileVersion(file.size, file.mtime_ns, self.hash, file.root)
        place = exif.latitude, exif.longitude
        return PhotoRow(
            file.path, version, time, exif.time is not None, *place, self.width, self.height, vectors_CE
        )


Encoded = PhotoRow | ReadPhoto | BadRecord
"""A photo's row; or the photo as it was read, if the vectors of its content are known; or why it has none."""


def read_for_index(predictor: InferenceModel, file: PhotoFile, known: Collection[str]) -> ReadPhoto:
    """Read a photo, and decode it unless its hash is in `known`.  Raises BadRecord if that fails."""
    data = read_photo(file.path)
    digest = content_hash(data).hex()
    opened = open_image(data, key=file.path)
    pixels = None if digest in known else predictor.pixels(opened)
    return ReadPhoto(file, digest, read_exif(data), opened.width, opened.height, pixels)


def read_photos(
    predictor: InferenceModel, files: Iterable[PhotoFile], known: Collection[str], threads: int, ahead: int
) -> Iterator[ReadPhoto | BadRecord]:
    """Read and decode photos by several threads; yield them, or why not, in their order."""

    def read(file: PhotoFile) -> ReadPhoto | BadRecord:
        try:
            return read_for_index(predictor, file, known)
        except BadRecord as error:
            return error

    return in_threads(read, files, threads, ahead)


def encode_photos(
    predictor: InferenceModel,
    files: Iterable[PhotoFile],
    window_C4: Tensor,
    known: Collection[str] = (),
    batch_size: int = 32,
    threads: int = 4,
) -> Iterator[Encoded]:
    """Yield the row of each photo, a `ReadPhoto` for a content whose hash is `known`, or why it has none.

    Args:
        window_C4: (C, 4) windows, xyxy in [0, 1].
        known: hashes of contents that have vectors already.
        batch_size: photos that are encoded at a time.
        threads: threads that read and decode.
    """
    batch: list[tuple[ReadPhoto, Tensor]] = []
    for one in read_photos(predictor, files, known, threads, _AHEAD * batch_size):
        if isinstance(one, BadRecord) or one.pixels is None:
            yield one
            continue
        batch.append((one, one.pixels))
        if len(batch) == batch_size:
            yield from _encode(predictor, batch, window_C4)
            batch = []
    if batch:
        yield from _encode(predictor, batch, window_C4)


def _encode(
    predictor: InferenceModel, batch: list[tuple[ReadPhoto, Tensor]], window_C4: Tensor
) -> Iterator[PhotoRow | BadRecord]:
    features = predictor.encode_images([pixels for _, pixels in batch])
    vectors = image_vectors(predictor, features, window_C4).half().cpu().numpy()
    for (photo, _), vectors_CE in zip(batch, vectors, strict=True):
        if np.isfinite(vectors_CE).all():
            yield photo.row(vectors_CE)
        else:
            yield BadRecord("vectors are not numbers", photo.file.path, "the model's weights are damaged")
