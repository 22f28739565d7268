"""Random transforms of an image with its texts and boxes: crop, flip, resize, augment.

All random choices use the generator that is passed in, so a sample is a pure function of its record and seed.
Boxes are pixels of the upright image before a transform, and fractions of the crop after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xvlm.data.images.decode import ImageFile
from xvlm.data.samples.crops import box_in_crop, flip_box, full_crop, random_crop_around, random_resized_crop
from xvlm.data.samples.randaugment import ALL_OPERATIONS, COLOR_OPERATIONS, rand_augment
from xvlm.data.text.flip import FlipRule, flip_texts
from xvlm.records import BoxXYXY, Concept

WHOLE_IMAGE: BoxXYXY = (0.0, 0.0, 1.0, 1.0)
MIN_INSIDE = 0.5
"""A concept stays in a sample if more than this fraction of its box is inside the crop (published)."""


@dataclass(frozen=True)
class VisibleConcept:
    """A concept that a crop shows.

    Attributes:
        box_xyxy: box as fractions of the crop; `WHOLE_IMAGE` for a concept without a box.
        concept: the concept; its texts and attributes are flipped with the image, its boxes are not.
        targets_xyxy: boxes of the single things that the crop shows, as fractions of it; at least one for a
            concept with a box.
    """

    box_xyxy: BoxXYXY
    concept: Concept
    targets_xyxy: tuple[BoxXYXY, ...] = ()


@dataclass(frozen=True)
class PairTransform:
    """Transforms an image with captions (published `pretrain_transform`).

    Attributes:
        size_hw: (height, width) of the result in pixels.
        crop_scale: range of the crop's area as a fraction of the image's (published: 0.5 to 1 to fine-tune).
        random_crop: whether to crop at random; else the whole image is resized (published weakly supervised
            grounding).
        random_flip: whether to flip every second image, and its texts with it.
        rand_augment: number and level (of 10) of RandAugment operations, or `None`.
        flip_rule: which images may be flipped.
    """

    size_hw: tuple[int, int]
    crop_scale: tuple[float, float] = (0.2, 1.0)
    random_crop: bool = True
    random_flip: bool = True
    rand_augment: tuple[int, int] | None = (2, 7)
    flip_rule: FlipRule = "exact"

    def __call__(
        self, image: ImageFile, texts: Sequence[str], rng: np.random.Generator
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Return (3, height, width) uint8 pixels and the texts, which are flipped with the image."""
        crop_xyxy = full_crop(image)
        if self.random_crop:
            crop_xyxy = random_resized_crop(image.width, image.height, self.crop_scale, rng)
        flipped = flip_texts(texts, self.flip_rule) if self.random_flip and rng.random() < 0.5 else None
        pixels = _augmented_pixels(self, image, crop_xyxy, flipped is not None, ALL_OPERATIONS, rng)
        return pixels, tuple(texts) if flipped is None else flipped


@dataclass(frozen=True)
class RegionTransform:
    """Transforms an image with boxes (published `RegionTextJsonDataset`, `grounding_dataset_bbox`).

    The crop contains the full box of one concept that is sampled.  Without boxes it is the whole image.

    Attributes:
        size_hw, random_crop, random_flip, flip_rule: as in `PairTransform`.
        rand_augment: number and level (of 10) of RandAugment operations that do not move pixels, or `None`.
        min_inside: fraction of a box that must be inside the crop for its concept to stay.
    """

    size_hw: tuple[int, int]
    random_crop: bool = True
    random_flip: bool = True
    rand_augment: tuple[int, int] | None = (2, 7)
    flip_rule: FlipRule = "exact"
    min_inside: float = MIN_INSIDE

    def __call__(
        self, image: ImageFile, concepts: Sequence[Concept], rng: np.random.Generator
    ) -> tuple[Tensor, list[VisibleConcept]]:
        """Return (3, height, width) uint8 pixels and the visible concepts, in their order.

        Boxes must be within the image; `usable_concepts` returns such boxes.
        """
        boxes = [concept.box_xyxy for concept in concepts if concept.box_xyxy is not None]
        crop_xyxy = full_crop(image)
        if self.random_crop and boxes:
            crop_xyxy = random_crop_around(boxes[rng.integers(len(boxes))], image, rng)
        flipped = flip_concepts(concepts, self.flip_rule) if self.random_flip and rng.random() < 0.5 else None
        pixels = _augmented_pixels(self, image, crop_xyxy, flipped is not None, COLOR_OPERATIONS, rng)
        return pixels, visible_concepts(flipped or concepts, crop_xyxy, flipped is not None, self.min_inside)


def eval_pixels(image: ImageFile, size_hw: tuple[int, int]) -> Tensor:
    """Return the whole image, resized from a full decode without any randomness: (3, height, width) uint8."""
    return image_to_tensor(image.resized(full_crop(image), size_hw))


def flip_concepts(concepts: Sequence[Concept], rule: FlipRule) -> list[Concept] | None:
    """Return the concepts with flipped texts, boxes unchanged; `None` if the image may not be flipped."""
    result = []
    for concept in concepts:
        texts, attributes = flip_texts(concept.texts, rule), flip_texts(concept.attributes, rule)
        if texts is None or attributes is None:
            return None
        result.append(replace(concept, texts=texts, attributes=attributes))
    return result


def visible_concepts(
    concepts: Sequence[Concept], crop_xyxy: BoxXYXY, is_flipped: bool, min_inside: float = MIN_INSIDE
) -> list[VisibleConcept]:
    """Return the concepts that a crop shows, with boxes relative to the crop, which may be flipped."""

    def shown(box_xyxy: BoxXYXY) -> BoxXYXY | None:
        inside = box_in_crop(box_xyxy, crop_xyxy, min_inside)
        return flip_box(inside) if inside is not None and is_flipped else inside

    visible = []
    for concept in concepts:
        if concept.box_xyxy is None:
            visible.append(VisibleConcept(WHOLE_IMAGE, concept))
            continue
        box, targets = shown(concept.box_xyxy), tuple(filter(None, map(shown, concept.targets_xyxy)))
        if box is not None and targets:
            visible.append(VisibleConcept(box, concept, targets))
    return visible


def _augmented_pixels(
    transform: PairTransform | RegionTransform,
    image: ImageFile,
    crop_xyxy: BoxXYXY,
    is_flipped: bool,
    operations: Sequence[str],
    rng: np.random.Generator,
) -> Tensor:
    view = image.resized(crop_xyxy, transform.size_hw, fast=True)
    if is_flipped:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if transform.rand_augment is not None:
        view = rand_augment(view, *transform.rand_augment, operations, rng)
    return image_to_tensor(view)


def image_to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to a (3, height, width) uint8 tensor."""
    # Band by band: to transpose interleaved pixels in memory takes twice as long.
    return torch.from_numpy(np.stack([np.asarray(band) for band in image.split()]))
