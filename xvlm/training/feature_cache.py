"""Features after a frozen stem, computed once for several views of every image and cached on the disk.

The computation is resumable.  Each row of the cache belongs to a record and its image: a row is computed
again if lines of the data were reordered, or its image was replaced.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from xvlm.batch import Images
from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json
from xvlm.common.lock import folder_lock
from xvlm.common.progress import progress_bar
from xvlm.data.images.decode import open_image
from xvlm.data.loading.workers import WorkerStream
from xvlm.data.samples.crops import random_resized_crop
from xvlm.data.sources.source import Source
from xvlm.models.vision.encoder import VisionEncoder
from xvlm.records import BadRecord, BoxXYXY
from xvlm.training.feature_cache_folder import FeatureCacheFolder

BLOCK = 512
"""Number of images after which the progress is saved."""

_Views = tuple[Tensor, list[BoxXYXY], list[bool]]
"""Views of an image, (views, 3, height, width) uint8, with the crop of each and whether it is flipped."""


class _ViewDataset(Dataset[tuple[str, _Views | BadRecord]]):
    """Index of an image -> its key and its views.

    View 0 is the full image and view 1 the full image flipped; the others are random crops, every second one
    flipped.
    """

    def __init__(
        self, sources: Sequence[Source], size_hw: tuple[int, int], views: int, scale: tuple[float, float]
    ) -> None:
        self.records = [(source, i) for source in sources for i in range(len(source))]
        self.size_hw, self.views, self.scale = size_hw, views, scale

    def __len__(self) -> int:
        return len(self.records)

    def fingerprints(self) -> list[str]:
        """Return for each record a text that changes with the record and its image."""
        return [_record_fingerprint(source, i) for source, i in self.records]

    def __getitem__(self, index: int) -> tuple[str, _Views | BadRecord]:
        source, i = self.records[index]
        rng = np.random.default_rng([7, index])
        try:
            record = source[i]
            image = open_image(record.image, key=record.key)
            full = (0.0, 0.0, float(image.width), float(image.height))
            crops = [full, full] + [
                random_resized_crop(image.width, image.height, self.scale, rng) for _ in range(self.views - 2)
            ]
            flipped = [view % 2 == 1 for view in range(self.views)]
            pixels = [F.pil_to_tensor(image.resized(crop, self.size_hw)) for crop in crops]
        except BadRecord as error:
            return f"{source.name}[{i}]", error
        pixels = [p.flip(-1) if flip else p for p, flip in zip(pixels, flipped, strict=True)]
        return record.key, (torch.stack(pixels), crops, flipped)


@contextmanager
def feature_cache(
    encoder: VisionEncoder,
    sources: Sequence[Source],
    folder: Path,
    views: int,
    scale: tuple[float, float] = (0.4, 1.0),
    workers: int = 1,
) -> Iterator[None]:
    """Fill a cache as far as it is missing or out of date, and protect it from other processes for the block.

    Images that cannot be decoded are left out; training counts them as bad records when it samples them.

    Args:
        views: number of views of each image, an even number of at least 2.
        scale: range of a crop's area as a fraction of the image's.
    Raises:
        InputError: `views` is wrong, or the encoder has no frozen stem.
        OutputError: the cache cannot be written, or another process fills or uses it.
    """
    if views < 2 or views % 2:
        raise InputError(f"views is {views}; it must be an even number of at least 2")
    if encoder.stem is None:
        raise InputError("the vision encoder has no frozen stem; set frozen_stem_blocks")
    encoder.eval()
    with torch.inference_mode():
        example = encoder.stem(torch.zeros(1, 3, *encoder.config.image_hw))
    description = {
        "stem": _stem_fingerprint(encoder.stem),
        "shape": [sum(map(len, sources)), views, *example.shape[1:]],
        "scale": list(scale),
        "sources": [source.name for source in sources],
    }
    data = _ViewDataset(sources, encoder.config.image_hw, views, scale)
    with folder_lock(folder, shared=True) as lock:
        cache = FeatureCacheFolder(folder, description, data.fingerprints())
        if not cache.is_complete:
            lock.make_exclusive()
            _fill(cache, data, encoder, encoder.stem, workers)
            lock.make_shared()
        yield


def _fill(
    cache: FeatureCacheFolder, data: _ViewDataset, encoder: VisionEncoder, stem: nn.Module, workers: int
) -> None:
    missing = cache.begin()
    start = time.monotonic() - cache.seconds
    with closing(cache), WorkerStream(data, missing, workers) as images:
        progress = progress_bar(images, "caching features", len(data), len(data) - len(missing))
        for number, (index, (key, views)) in enumerate(zip(missing, progress, strict=True), start=1):
            if not isinstance(views, BadRecord):
                pixels, crops, flipped = views
                with torch.inference_mode():
                    x = encoder.normalize(Images(pixels)).contiguous(memory_format=torch.channels_last)
                    features = stem(x).to(torch.bfloat16).contiguous()
                cache.put(index, features, crops, flipped)
            cache.mark_done(index, None if isinstance(views, BadRecord) else key)
            if number % BLOCK == 0 or number == len(missing):
                cache.save(time.monotonic() - start)
    cache.finish()


def feature_cache_seconds(folder: Path) -> float:
    """Return the time that it took to fill a cache, over all sessions."""
    return float(read_json(folder / "views.json")["seconds"])


def _record_fingerprint(source: Source, index: int) -> str:
    try:
        record = source[index]
    except BadRecord as error:
        return f"bad: {error.reason}"
    digest = hashlib.blake2b(record.key.encode(errors="replace"), digest_size=8)
    image = record.image
    if isinstance(image, str):
        digest.update(_file_fingerprint(image))
    else:
        digest.update(image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _file_fingerprint(image: str) -> bytes:
    """Return bytes that change with the content of a file, or with the name of what is no file here.

    A copied data set, whose paths and times differ, is not computed again.
    """
    if os.path.isfile(image):
        with suppress(OSError), open(image, "rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    return image.encode(errors="surrogateescape")


def _stem_fingerprint(stem: nn.Module) -> str:
    """Return a text that changes with the weights of the stem."""
    digest = hashlib.blake2b(digest_size=8)
    for value in stem.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
