"""Transforms that read crops of an image, after the encoder's frozen stem, from a feature cache.

The cache holds for each image several views: a crop, perhaps flipped, as the stem's output in bfloat16.
`training/feature_cache.py` fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvlm.common.json_file import read_json
from xvlm.data.images.decode import ImageFile
from xvlm.data.samples.transforms import VisibleConcept, flip_concepts, visible_concepts
from xvlm.data.text.flip import FlipRule, flip_texts
from xvlm.records import BadRecord, BoxXYXY, Concept

_MAX_TRIES = 8


class CachedFeatureViews:
    """The cached views of every image, by record key; each process opens the files on first use."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    @cached_property
    def _files(self) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray]:
        description = read_json(self.folder / "views.json")
        shape = tuple(description["shape"])
        features = np.memmap(self.folder / "features.bf16", dtype=np.int16, mode="r", shape=shape)
        crops, flipped = np.load(self.folder / "crops.npy"), np.load(self.folder / "mirrored.npy")
        rows = {key: row for row, key in enumerate(description["keys"]) if key is not None}
        return rows, features, crops, flipped

    def sample(self, key: str, rng: np.random.Generator, is_flipped: bool) -> tuple[Tensor, BoxXYXY]:
        """Sample one of the views of an image that are flipped, or not.

        Returns:
            (C, h, w) bfloat16 features, and the crop in pixels of the upright image.
        Raises:
            BadRecord: the cache does not have the record.
        """
        rows, features, crops, flipped = self._files
        if key not in rows:
            raise BadRecord("no kept views", key, f"not in {self.folder}")
        row = rows[key]
        views = np.flatnonzero(flipped[row] == is_flipped)
        view = int(views[rng.integers(len(views))])
        x0, y0, x1, y1 = crops[row, view].tolist()
        return torch.from_numpy(np.array(features[row, view])).view(torch.bfloat16), (x0, y0, x1, y1)


@dataclass(frozen=True)
class CachedPairTransform:
    """As `PairTransform`, with cached views."""

    views: CachedFeatureViews
    random_flip: bool = True
    flip_rule: FlipRule = "exact"

    def __call__(
        self, image: ImageFile, texts: Sequence[str], rng: np.random.Generator
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Return (C, h, w) bfloat16 features and the texts, which are flipped with the image."""
        flipped = flip_texts(texts, self.flip_rule) if self.random_flip and rng.random() < 0.5 else None
        features, _ = self.views.sample(image.key, rng, flipped is not None)
        return features, tuple(texts) if flipped is None else flipped


@dataclass(frozen=True)
class CachedRegionTransform:
    """As `RegionTransform`, with cached views."""

    views: CachedFeatureViews
    random_flip: bool = True
    flip_rule: FlipRule = "exact"

    def __call__(
        self, image: ImageFile, concepts: Sequence[Concept], rng: np.random.Generator
    ) -> tuple[Tensor, list[VisibleConcept]]:
        """Return (C, h, w) bfloat16 features and the visible concepts, in their order.

        If none of the boxes is visible, another view is sampled, up to 8 times in all.
        """
        flipped = flip_concepts(concepts, self.flip_rule) if self.random_flip and rng.random() < 0.5 else None
        has_boxes = any(concept.box_xyxy is not None for concept in concepts)
        for _ in range(_MAX_TRIES):
            features, crop_xyxy = self.views.sample(image.key, rng, flipped is not None)
            visible = visible_concepts(flipped or concepts, crop_xyxy, flipped is not None)
            if not has_boxes or any(one.concept.box_xyxy is not None for one in visible):
                break
        return features, visible
