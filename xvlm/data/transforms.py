"""Pixels and boxes move together: crop, flip, resize, augment.

Every random choice comes from the generator that is passed in, so a sample is a pure function of its
record and seed.  Boxes come in as pixels of the upright image and leave as fractions of the view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xvlm.data import randaugment
from xvlm.data.images import Opened
from xvlm.data.mirror import MirrorRule, mirror_texts
from xvlm.records import BoxXYXY, Concept

WHOLE: BoxXYXY = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Kept:
    """A concept that is still in view.

    Attributes:
        index: its place in the sequence of concepts that went in.
        box_xyxy: in [0, 1] of the view; `WHOLE` for a concept without a box.
        concept: the concept as it was, except that its texts and attributes are mirrored if the view is.
    """

    index: int
    box_xyxy: BoxXYXY
    concept: Concept


@dataclass(frozen=True)
class PairsTransform:
    """For images with captions (published `pretrain_transform`).

    Attributes:
        size: (height, width) of the view, in pixels.
        scale: range of the crop's share of the image's area; 0.5 to 1 in the published fine-tuning.
        crop: off: the whole image is resized (published weakly supervised grounding).
        flip: mirror every second image, texts with it; an image whose texts have no exact mirror
            image (see `mirror_text`) stays as it is.
        rand_augment: (operations, level of 10), or `None`.
        fast: see `Opened.resized`.
        mirror: which images may be mirrored; see `MirrorRule`.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.2, 1.0)
    crop: bool = True
    flip: bool = True
    rand_augment: tuple[int, int] | None = (2, 7)
    fast: bool = True
    mirror: MirrorRule = "exact"

    def __call__(
        self, image: Opened, texts: Sequence[str], rng: np.random.Generator
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Returns (3, height, width) uint8 pixels, and the texts, which change if the view is mirrored."""
        crop_xyxy = _all_of(image)
        if self.crop:
            crop_xyxy = random_resized_crop(image.width, image.height, self.scale, rng)
        mirrored = mirror_texts(texts, self.mirror) if self.flip and rng.random() < 0.5 else None
        view = image.resized(crop_xyxy, self.size, fast=self.fast)
        if mirrored is not None:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment is not None:
            view = randaugment.rand_augment(view, *self.rand_augment, randaugment.ALL, rng)
        return pixels_3hw(view), tuple(texts) if mirrored is None else mirrored


@dataclass(frozen=True)
class RegionsTransform:
    """For images with boxes (published `RegionTextJsonDataset`, `grounding_dataset_bbox`).

    The crop contains one concept drawn among those with a box, whole.  Other concepts stay if more than
    `min_inside` of their area is in view, clipped to it.  Without boxes the view is the whole image.

    Attributes:
        size, crop, flip, fast, mirror: as in `PairsTransform`.
        rand_augment: (operations, level of 10) of those that move no pixel, or `None`.
    """

    size: tuple[int, int]
    min_inside: float = 0.5
    crop: bool = True
    flip: bool = True
    rand_augment: tuple[int, int] | None = (2, 7)
    fast: bool = True
    mirror: MirrorRule = "exact"

    def __call__(
        self, image: Opened, concepts: Sequence[Concept], rng: np.random.Generator
    ) -> tuple[Tensor, list[Kept]]:
        """Returns (3, height, width) uint8 pixels, and the concepts in view, in their order.

        Boxes have to lie within the image: pass what `usable_concepts` returns.
        """
        boxes = [concept.box_xyxy for concept in concepts if concept.box_xyxy is not None]
        crop_xyxy = _all_of(image)
        if self.crop and boxes:
            crop_xyxy = _crop_around(boxes[rng.integers(len(boxes))], image, rng)
        mirrored = mirror_concepts(concepts, self.mirror) if self.flip and rng.random() < 0.5 else None
        view = image.resized(crop_xyxy, self.size, fast=self.fast)
        if mirrored is not None:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment is not None:
            view = randaugment.rand_augment(view, *self.rand_augment, randaugment.COLOUR, rng)
        kept = []
        for index, concept in enumerate(concepts if mirrored is None else mirrored):
            box = box_in_view(concept.box_xyxy, crop_xyxy, self.min_inside)
            if box is not None:
                kept.append(Kept(index, box if mirrored is None else mirror_box(box), concept))
        return pixels_3hw(view), kept


@dataclass(frozen=True)
class EvalTransform:
    """The whole image, bicubically resized from a full decode; nothing is random."""

    size: tuple[int, int]

    def __call__(self, image: Opened, concepts: Sequence[Concept] = ()) -> tuple[Tensor, list[Kept]]:
        """Returns (3, height, width) uint8 pixels, and every concept with its box in [0, 1]."""
        whole = _all_of(image)
        kept = [
            Kept(index, _relative(concept.box_xyxy or whole, whole), concept)
            for index, concept in enumerate(concepts)
        ]
        return pixels_3hw(image.resized(whole, self.size)), kept


def random_resized_crop(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> BoxXYXY:
    """A crop of a random share of the area and aspect ratio 3/4 to 4/3 (torchvision's rule and fallback)."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_w, crop_h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_w <= width and 0 < crop_h <= height:
            x0 = int(rng.integers(width - crop_w + 1))
            y0 = int(rng.integers(height - crop_h + 1))
            return x0, y0, x0 + crop_w, y0 + crop_h
    # a very long image: the largest central crop of an allowed ratio
    crop_w, crop_h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    x0, y0 = (width - crop_w) // 2, (height - crop_h) // 2
    return x0, y0, x0 + crop_w, y0 + crop_h


def _crop_around(box_xyxy: BoxXYXY, image: Opened, rng: np.random.Generator) -> BoxXYXY:
    """Whole pixels that contain the box, each edge uniform between the box and the image's edge."""
    x0, y0 = (int(rng.integers(math.floor(edge) + 1)) for edge in box_xyxy[:2])
    x1, y1 = (
        int(rng.integers(min(math.ceil(edge), side), side + 1))
        for edge, side in zip(box_xyxy[2:], (image.width, image.height), strict=True)
    )
    return x0, y0, x1, y1


def box_in_view(box_xyxy: BoxXYXY | None, crop_xyxy: BoxXYXY, min_inside: float) -> BoxXYXY | None:
    """The box as fractions of the crop; `None` where too little of it is inside."""
    if box_xyxy is None:
        return WHOLE
    x0, y0 = max(box_xyxy[0], crop_xyxy[0]), max(box_xyxy[1], crop_xyxy[1])
    x1, y1 = min(box_xyxy[2], crop_xyxy[2]), min(box_xyxy[3], crop_xyxy[3])
    if x1 <= x0 or y1 <= y0:
        return None
    area = (box_xyxy[2] - box_xyxy[0]) * (box_xyxy[3] - box_xyxy[1])
    inside = (x1 - x0) * (y1 - y0) / area
    return _relative((x0, y0, x1, y1), crop_xyxy) if inside > min_inside else None


def _relative(box_xyxy: BoxXYXY, crop_xyxy: BoxXYXY) -> BoxXYXY:
    left, top = crop_xyxy[:2]
    width, height = crop_xyxy[2] - left, crop_xyxy[3] - top
    x0, y0, x1, y1 = box_xyxy
    return (x0 - left) / width, (y0 - top) / height, (x1 - left) / width, (y1 - top) / height


def mirror_box(box_xyxy: BoxXYXY) -> BoxXYXY:
    """The box, in [0, 1] of the view, in the mirrored view."""
    x0, y0, x1, y1 = box_xyxy
    return 1 - x1, y0, 1 - x0, y1


def mirror_concepts(concepts: Sequence[Concept], rule: MirrorRule = "exact") -> list[Concept] | None:
    """The concepts with mirrored texts; boxes stay.  `None` if the image may not be mirrored."""
    mirrored = []
    for concept in concepts:
        texts, attributes = mirror_texts(concept.texts, rule), mirror_texts(concept.attributes, rule)
        if texts is None or attributes is None:
            return None
        mirrored.append(replace(concept, texts=texts, attributes=attributes))
    return mirrored


def _all_of(image: Opened) -> BoxXYXY:
    return 0.0, 0.0, float(image.width), float(image.height)


def pixels_3hw(image: Image.Image) -> Tensor:
    """RGB -> (3, height, width) uint8."""
    # Band by band: to turn interleaved pixels round in memory takes twice as long.
    return torch.from_numpy(np.stack([np.asarray(band) for band in image.split()]))
