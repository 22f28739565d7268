"""Views of images of which the encoder's frozen stem has been computed and kept.

The folder holds, for each image and each of its views (a crop, perhaps mirrored), what the stem makes of it
in bfloat16, and where the view lies in the image.  `train/stem_cache.py` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvlm.data.images import Opened
from xvlm.data.mirror import MirrorRule, mirror_texts
from xvlm.data.transforms import WHOLE, Kept, box_in_view, mirror_box, mirror_concepts
from xvlm.jsonfile import read_json
from xvlm.records import BadRecord, BoxXYXY, Concept


@dataclass(frozen=True)
class Geometry:
    """Where a view lies: a crop in pixels of the upright image, mirrored afterwards or not."""

    crop_xyxy: BoxXYXY
    mirrored: bool


class StemViews:
    """Kept views by record key; files are opened when first asked for, in each process by itself."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._opened: tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_opened": None}

    def _files(self) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray]:
        if self._opened is None:
            about = read_json(self.folder / "views.json")
            shape = tuple(about["shape"])
            features = np.memmap(self.folder / "features.bf16", dtype=np.int16, mode="r", shape=shape)
            crops, mirrored = np.load(self.folder / "crops.npy"), np.load(self.folder / "mirrored.npy")
            index = {key: i for i, key in enumerate(about["keys"]) if key is not None}
            self._opened = index, features, crops, mirrored
        return self._opened

    def draw(self, key: str, rng: np.random.Generator, mirrored: bool) -> tuple[Tensor, Geometry]:
        """One of the image's views, mirrored as asked: (C, h, w) bfloat16, and where it lies.

        Raises BadRecord if nothing was kept for the record.
        """
        index, features, crops, mirror = self._files()
        if key not in index:
            raise BadRecord("no kept views", key, f"not in {self.folder}")
        i = index[key]
        views = np.flatnonzero(mirror[i] == mirrored)
        view = int(views[rng.integers(len(views))])
        pixels = torch.from_numpy(np.array(features[i, view])).view(torch.bfloat16)
        x0, y0, x1, y1 = crops[i, view].tolist()
        return pixels, Geometry((x0, y0, x1, y1), mirrored)


@dataclass(frozen=True)
class StemPairs:
    """As `PairsTransform`, from kept views."""

    views: StemViews
    flip: bool = True
    mirror: MirrorRule = "exact"

    def __call__(
        self, image: Opened, texts: Sequence[str], rng: np.random.Generator
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Returns (C, h, w) bfloat16, and the texts, which change if the view is mirrored."""
        mirrored = mirror_texts(texts, self.mirror) if self.flip and rng.random() < 0.5 else None
        pixels, _ = self.views.draw(image.key, rng, mirrored is not None)
        return pixels, tuple(texts) if mirrored is None else mirrored


@dataclass(frozen=True)
class StemRegions:
    """As `RegionsTransform`, from kept views."""

    views: StemViews
    min_inside: float = 0.5
    flip: bool = True
    tries: int = field(default=8)
    mirror: MirrorRule = "exact"

    def __call__(
        self, image: Opened, concepts: Sequence[Concept], rng: np.random.Generator
    ) -> tuple[Tensor, list[Kept]]:
        """Returns (C, h, w) bfloat16, and the concepts in view, in their order.

        A view that shows no boxed concept, though there are some, is drawn again a few times.
        """
        mirrored = mirror_concepts(concepts, self.mirror) if self.flip and rng.random() < 0.5 else None
        boxed = any(concept.box_xyxy is not None for concept in concepts)
        for _ in range(self.tries):
            pixels, where = self.views.draw(image.key, rng, mirrored is not None)
            kept = _in_view(concepts if mirrored is None else mirrored, where, self.min_inside)
            if not boxed or any(one.concept.box_xyxy is not None for one in kept):
                break
        return pixels, kept


def _in_view(concepts: Sequence[Concept], where: Geometry, min_inside: float) -> list[Kept]:
    kept = []
    for index, concept in enumerate(concepts):
        box = (
            WHOLE if concept.box_xyxy is None else box_in_view(concept.box_xyxy, where.crop_xyxy, min_inside)
        )
        if box is not None:
            kept.append(Kept(index, mirror_box(box) if where.mirrored else box, concept))
    return kept
