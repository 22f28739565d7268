"""Files of a feature cache: features, crops, and which rows are done."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvlm.common.atomic import atomic_file, write_all, writing
from xvlm.common.errors import OutputError
from xvlm.common.json_file import read_json, write_json
from xvlm.common.terminal import print_notice
from xvlm.records import BoxXYXY

_FEATURES = "features.bf16"
_PROGRESS = "progress.json"
_COMPLETE = "views.json"
"""Only a complete cache has this file, which `data/samples/cached_views.py` reads."""


class FeatureCacheFolder:
    """A feature cache on the disk; one row is one image.

    Attributes:
        description: stem, shape, crop scale and sources of the features.
        current: current fingerprint of each record.
        done: fingerprint of the record that each row was computed from; empty for a row that is missing.
        keys: key of each record; `None` for one without features.
        seconds: time spent on filling so far, over all sessions.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], fingerprints: list[str]) -> None:
        self.folder, self.description, self.current = folder, description, fingerprints
        self.shape = tuple(description["shape"])
        self.row_bytes = 2 * math.prod(self.shape[1:])
        self.keys: list[str | None] = [None] * len(fingerprints)
        self.done = [""] * len(fingerprints)
        self.seconds = 0.0
        self.crops = np.zeros((*self.shape[:2], 4), np.float32)
        self.flipped = np.zeros(self.shape[:2], bool)
        self._resume()

    def _resume(self) -> None:
        """Continue from the files of an earlier process, if they are complete and of the same description."""
        try:
            saved = read_json(self.folder / _PROGRESS)
            crops, flipped = np.load(self.folder / "crops.npy"), np.load(self.folder / "mirrored.npy")
            features_bytes = (self.folder / _FEATURES).stat().st_size
            is_same = saved["about"] == self.description and len(saved["done"]) == len(self.current)
        except (
            OSError,
            ValueError,
            EOFError,
            KeyError,
            TypeError,
        ):  # missing, truncated, or an older version's
            return
        fits = features_bytes == len(self.current) * self.row_bytes
        if is_same and fits and crops.shape == self.crops.shape and flipped.shape == self.flipped.shape:
            self.crops, self.flipped = crops, flipped
            self.keys, self.done, self.seconds = saved["keys"], saved["done"], float(saved["seconds"])

    @property
    def is_complete(self) -> bool:
        """Whether every row is done and up to date."""
        return self.done == self.current and (self.folder / _COMPLETE).exists()

    def begin(self) -> list[int]:
        """Open the file of features, and return the rows that are missing or out of date."""
        rows = zip(self.done, self.current, strict=True)
        missing = [index for index, (done, current) in enumerate(rows) if done != current]
        outdated = sum(bool(self.done[index]) for index in missing)
        if outdated:
            print_notice(f"{self.folder}: {outdated} images have changed and are computed again")
        for index in missing:
            self.done[index], self.keys[index] = "", None
        path = self.folder / _FEATURES
        with writing(path):
            (self.folder / _COMPLETE).unlink(missing_ok=True)
            if len(missing) == len(self.current):
                path.unlink(missing_ok=True)
            self._features = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if self.current:
                # The full size at once: a disk that is too small is an error now, not after hours.
                _allocate(self._features, path, len(self.current) * self.row_bytes)
        self.save(self.seconds)
        return missing

    def put(self, index: int, features: Tensor, crops: Sequence[BoxXYXY], flipped: Sequence[bool]) -> None:
        """Write a row: features (views, channels, height, width) bfloat16, crops and flips of the views."""
        data = features.view(torch.int16).numpy().tobytes()
        start = index * self.row_bytes
        with writing(self.folder / _FEATURES):
            write_all(data, lambda rest, done: os.pwrite(self._features, rest, start + done))
        self.crops[index], self.flipped[index] = crops, flipped

    def mark_done(self, index: int, key: str | None) -> None:
        """Mark a row as done; the key of an image that cannot be decoded is `None`."""
        self.done[index], self.keys[index] = self.current[index], key

    def save(self, seconds: float) -> None:
        """Flush everything to the disk, the list of finished rows last."""
        self.seconds = seconds
        with writing(self.folder / _FEATURES):
            os.fsync(self._features)
        for name, values in (("crops.npy", self.crops), ("mirrored.npy", self.flipped)):
            with atomic_file(self.folder / name) as partial, partial.open("wb") as file:
                np.save(file, values)
        progress = {"keys": self.keys, "seconds": seconds, "about": self.description, "done": self.done}
        write_json(self.folder / _PROGRESS, progress)

    def finish(self) -> None:
        """Mark the cache as complete."""
        write_json(self.folder / _COMPLETE, {**self.description, "keys": self.keys, "seconds": self.seconds})

    def close(self) -> None:
        """Close the file of features."""
        os.close(self._features)


def _allocate(descriptor: int, path: Path, size: int) -> None:
    """Give a file its size on the disk.  If that is full, undo and raise OutputError."""
    before = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, 0, size)
        os.ftruncate(descriptor, size)
    except OSError as error:
        os.ftruncate(descriptor, before)
        os.close(descriptor)
        if not before:
            path.unlink()
        raise OutputError(
            f"{path} cannot be written, it takes {size / 1e6:.1f} MB: {error.strerror}"
        ) from error
