"""Compute the frozen stem of an encoder once for several views of every image, and keep it.

Resumable: finished blocks of images are not computed again.  Each row is tied to its record and image: after
lines were reordered or images replaced, those rows are computed again.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from xvlm.batch import Images
from xvlm.data.images import open_image
from xvlm.data.sources import Source
from xvlm.data.transforms import random_resized_crop
from xvlm.data.workers import Stream
from xvlm.errors import InputError, OutputError
from xvlm.jsonfile import read_json
from xvlm.lock import locked
from xvlm.model.vision import VisionEncoder
from xvlm.progress import tracked
from xvlm.records import BadRecord, BoxXYXY
from xvlm.run import write_json
from xvlm.terminal import notice
from xvlm.whole import whole_file, write_fully, writing

BLOCK = 512
"""Images between savings."""

FEATURES = "features.bf16"
PROGRESS = "progress.json"

View = tuple[Tensor, list[tuple[float, float, float, float]], list[bool]]


class _Views(Dataset[tuple[str, View | BadRecord]]):
    """Image i -> its views as (V, 3, h, w) uint8, their crops, and which are mirrored.

    View 0 is the whole image, view 1 the whole image mirrored; the others are random crops of which every
    second one is mirrored.
    """

    def __init__(
        self, sources: Sequence[Source], size_hw: tuple[int, int], views: int, scale: tuple[float, float]
    ) -> None:
        self.places = [(source, i) for source in sources for i in range(len(source))]
        self.size_hw, self.views, self.scale = size_hw, views, scale

    def __len__(self) -> int:
        return len(self.places)

    def prints(self) -> list[str]:
        """For each record something that changes when it becomes another, or its image does."""
        return [_print_of(source, place) for source, place in self.places]

    def __getitem__(self, index: int) -> tuple[str, View | BadRecord]:
        source, place = self.places[index]
        rng = np.random.default_rng([7, index])
        try:
            record = source[place]
            opened = open_image(record.image, key=record.key)
            whole = (0.0, 0.0, float(opened.width), float(opened.height))
            crops = [whole, whole] + [
                random_resized_crop(opened.width, opened.height, self.scale, rng)
                for _ in range(self.views - 2)
            ]
            mirrored = [view % 2 == 1 for view in range(self.views)]
            pixels = [F.pil_to_tensor(opened.resized(crop, self.size_hw)) for crop in crops]
        except BadRecord as error:
            return f"{source.name}[{place}]", error
        flipped = [p.flip(-1) if m else p for p, m in zip(pixels, mirrored, strict=True)]
        return record.key, (torch.stack(flipped), crops, mirrored)


def keep_stem(
    encoder: VisionEncoder,
    sources: Sequence[Source],
    folder: Path,
    views: int,
    scale: tuple[float, float] = (0.4, 1.0),
    workers: int = 1,
) -> Path:
    """Fill `folder` with `views` (an even number, at least 2) views of every image of the sources.

    Bad images are left out; the view that asks for one then counts it as bad.  Only records are computed that
    are not there yet, or were another image when they were.
    """
    with kept_stem(encoder, sources, folder, views, scale, workers):
        return folder


@contextmanager
def kept_stem(
    encoder: VisionEncoder,
    sources: Sequence[Source],
    folder: Path,
    views: int,
    scale: tuple[float, float] = (0.4, 1.0),
    workers: int = 1,
) -> Iterator[Path]:
    """As `keep_stem`; no other process fills the folder anew until the context ends.

    Raises OutputError where another process fills or uses it, or it cannot be written.
    """
    if views < 2 or views % 2:
        raise InputError(f"views is {views}; it must be an even number from 2 up")
    if encoder.stem is None:
        raise InputError("the vision encoder has no frozen stem; set stem_blocks")
    encoder.eval()
    with torch.inference_mode():
        probe = encoder.stem(torch.zeros(1, 3, *encoder.config.image_hw))
    about = {
        "stem": _fingerprint(encoder.stem),
        "shape": [sum(map(len, sources)), views, *probe.shape[1:]],
        "scale": list(scale),
        "sources": [s.name for s in sources],
    }
    data = _Views(sources, encoder.config.image_hw, views, scale)
    with locked(folder, shared=True) as lock:
        cache = _Cache(folder, about, data.prints())
        if not cache.is_complete:
            lock.make_exclusive()
            _fill(cache, data, encoder, workers)
            lock.make_shared()
        yield folder


def _fill(cache: _Cache, data: _Views, encoder: VisionEncoder, workers: int) -> None:
    assert encoder.stem is not None
    todo = cache.begin()
    begun = time.monotonic() - cache.seconds
    with closing(cache), Stream(data, todo, workers) as views:
        seen = tracked(views, "keeping the stem of images", len(data), len(data) - len(todo))
        for number, (index, (key, found)) in enumerate(zip(todo, seen, strict=True), start=1):
            if isinstance(found, BadRecord):
                cache.put_bad(index)
            else:
                pixels, crops, mirrored = found
                with torch.inference_mode():
                    x = encoder.normalised(Images(pixels)).contiguous(memory_format=torch.channels_last)
                    out = encoder.stem(x).to(torch.bfloat16).contiguous()
                cache.put(index, key, out, crops, mirrored)
            if number % BLOCK == 0 or number == len(todo):
                cache.save(time.monotonic() - begun)
    cache.finish()


class _Cache:
    """The files of the folder, and which rows of them are done.

    Attributes:
        prints: what every record is now; a row is done if it was computed from the same.
        done: what each row was computed from; empty: it was not.
        seconds: of filling so far, over all sittings.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], prints: list[str]) -> None:
        self.folder, self.about, self.prints = folder, about, prints
        self.shape = tuple(about["shape"])
        self.row_bytes = 2 * math.prod(self.shape[1:])
        self.keys: list[str | None] = [None] * len(prints)
        self.done = [""] * len(prints)
        self.seconds = 0.0
        self.crops = np.zeros((*self.shape[:2], 4), np.float32)
        self.mirrored = np.zeros(self.shape[:2], bool)
        self._go_on()

    def _go_on(self) -> None:
        """Take what an earlier process left, if it is of the same stem and whole."""
        try:
            before = read_json(self.folder / PROGRESS)
            crops, mirrored = np.load(self.folder / "crops.npy"), np.load(self.folder / "mirrored.npy")
            features_bytes = (self.folder / FEATURES).stat().st_size
            same = before["about"] == self.about and len(before["done"]) == len(self.prints)
        except (OSError, ValueError, EOFError, KeyError, TypeError):  # not there, of an earlier version, cut
            return
        whole = features_bytes == len(self.prints) * self.row_bytes
        if same and whole and crops.shape == self.crops.shape and mirrored.shape == self.mirrored.shape:
            self.crops, self.mirrored = crops, mirrored
            self.keys, self.done, self.seconds = before["keys"], before["done"], float(before["seconds"])

    @property
    def is_complete(self) -> bool:
        """Only a folder with `views.json` is."""
        return self.done == self.prints and (self.folder / "views.json").exists()

    def begin(self) -> list[int]:
        """Forget what is not of these records any more; returns the rows to do."""
        todo = [
            index for index, (was, now) in enumerate(zip(self.done, self.prints, strict=True)) if was != now
        ]
        stale = sum(bool(self.done[index]) for index in todo)
        if stale:
            notice(f"{self.folder}: {stale} images are others than when they were kept; again")
        for index in todo:
            self.done[index], self.keys[index] = "", None
        path = self.folder / FEATURES
        with writing(path):
            (self.folder / "views.json").unlink(missing_ok=True)
            if len(todo) == len(self.prints):
                path.unlink(missing_ok=True)
            self._features = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if self.prints:
                # All of it now: a disk that is too small is known at once, not after hours.
                _allocate(self._features, path, len(self.prints) * self.row_bytes)
        self.save(self.seconds)
        return todo

    def put(
        self, index: int, key: str, features: Tensor, crops: Sequence[BoxXYXY], mirrored: Sequence[bool]
    ) -> None:
        """A row's features, (V, C, h, w) bfloat16, and where each view lies."""
        data = features.view(torch.int16).numpy().tobytes()
        start = index * self.row_bytes
        with writing(self.folder / FEATURES):
            write_fully(data, lambda piece, done: os.pwrite(self._features, piece, start + done))
        self.crops[index], self.mirrored[index] = crops, mirrored
        self.done[index], self.keys[index] = self.prints[index], key

    def put_bad(self, index: int) -> None:
        """A row of an image that cannot be read."""
        self.done[index], self.keys[index] = self.prints[index], None

    def save(self, seconds: float) -> None:
        """Bring everything to the disk, the list of what is done last."""
        self.seconds = seconds
        with writing(self.folder / FEATURES):
            os.fsync(self._features)
        for name, values in (("crops.npy", self.crops), ("mirrored.npy", self.mirrored)):
            with whole_file(self.folder / name) as partial, partial.open("wb") as file:
                np.save(file, values)
        write_json(self.folder / PROGRESS, self._record() | {"about": self.about, "done": self.done})

    def finish(self) -> None:
        """Say that it is complete."""
        write_json(self.folder / "views.json", {**self.about, **self._record()})

    def close(self) -> None:
        """Write no more features."""
        os.close(self._features)

    def _record(self) -> dict[str, Any]:
        return {"keys": self.keys, "seconds": self.seconds}


def _allocate(handle: int, path: Path, size: int) -> None:
    """Give a file its size on the disk.  Raises OutputError, and leaves nothing new, where that is full."""
    before = os.fstat(handle).st_size
    try:
        os.posix_fallocate(handle, 0, size)
        os.ftruncate(handle, size)
    except OSError as error:
        os.ftruncate(handle, before)
        os.close(handle)
        if not before:
            path.unlink()
        raise OutputError(
            f"{path} cannot be written, it takes {size / 1e6:.1f} MB: {error.strerror}"
        ) from error


def stem_seconds(folder: Path) -> float:
    """How long it took to fill a folder, over all sittings."""
    return float(read_json(folder / "views.json")["seconds"])


def _print_of(source: Source, place: int) -> str:
    try:
        record = source[place]
    except BadRecord as error:
        return f"bad: {error.reason}"
    digest = hashlib.blake2b(record.key.encode(errors="replace"), digest_size=8)
    image = record.image
    if isinstance(image, str):
        digest.update(image.encode(errors="surrogateescape"))
        if os.path.isfile(image):
            status = os.stat(image)
            digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    else:
        digest.update(image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _fingerprint(stem: nn.Module) -> str:
    """Changes when a weight of the stem does."""
    digest = hashlib.blake2b(digest_size=8)
    for value in stem.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
