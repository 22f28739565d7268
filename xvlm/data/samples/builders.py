"""Sample builders: functions of a record and a random generator that return a training sample.

A *pair* is an image with one or more of its captions; *regions* are an image with several of its concepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from xvlm.data.images.decode import open_image
from xvlm.data.samples.cached_views import CachedPairTransform, CachedRegionTransform
from xvlm.data.samples.concept_checks import usable_concepts
from xvlm.data.samples.text_rows import TextRow, TextRowBuilder, hash_image, hash_text
from xvlm.data.samples.transforms import PairTransform, RegionTransform, VisibleConcept
from xvlm.records import BadRecord, BoxXYXY, Concept, Note, Record


@dataclass(frozen=True)
class Sample:
    """An image with its rows.

    Attributes:
        pixels: (3, height, width) uint8, or cached (C, h, w) outputs of the encoder's frozen stem.
        bad: concepts that cannot be used.
        read: number of concepts that were checked, including bad ones.
        notes: clipped boxes, truncated texts, texts with unknown tokens.
    """

    pixels: Tensor
    rows: tuple[TextRow, ...]
    bad: tuple[BadRecord, ...] = ()
    read: int = 1
    notes: tuple[Note, ...] = ()


def captions_only(record: Record, boxes_as_captions: bool = False) -> Record:
    """Return the record without its boxed concepts, or with their texts as captions of the whole image.

    Raises BadRecord if it has no caption.
    """
    concepts = record.concepts
    if boxes_as_captions:
        concepts = tuple(replace(concept, box_xyxy=None) for concept in concepts)
    captions = tuple(concept for concept in concepts if concept.box_xyxy is None)
    if not captions:
        raise BadRecord("no caption", record.key, f"{len(record.concepts)} concepts, all with a box")
    return replace(record, concepts=captions)


@dataclass(frozen=True)
class PairSampleBuilder:
    """Builds a sample of a crop with captions of its image.

    Attributes:
        captions_per_image: captions sampled from the record; all if it has fewer.
        boxes_as_captions: whether texts of regions are also used, as captions.
    """

    transform: PairTransform | CachedPairTransform
    text: TextRowBuilder
    captions_per_image: int = 1
    boxes_as_captions: bool = False

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        """Raises BadRecord if the record has no usable caption or its image cannot be used."""
        record = captions_only(record, self.boxes_as_captions)
        image = open_image(record.image, key=record.key)
        notes: list[Note] = []
        concepts, bad = usable_concepts(record, image, notes)
        texts = [text for concept in concepts for text in concept.texts]
        sampled = rng.permutation(len(texts))[: self.captions_per_image]
        pixels, captions = self.transform(image, [texts[i] for i in sampled], rng)
        concept_key = hash_image(record)
        described = ((caption, None, concept_key) for caption in captions)
        rows, unusable = self.text.build_rows(described, record.key, rng, notes=notes)
        if not rows:
            raise unusable[-1]
        return Sample(pixels, rows, bad=(*bad, *unusable), notes=tuple(notes))


@dataclass(frozen=True)
class RegionSampleBuilder:
    """Builds a sample of a crop with concepts of its image; a caption, if there is one, is one of them.

    Attributes:
        max_regions: maximum number of rows.
        texts_per_region: maximum number of rows of one region, each with another of its texts (published: 1).
        use_captions: whether captions are used at all.
    """

    transform: RegionTransform | CachedRegionTransform
    text: TextRowBuilder
    max_regions: int = 5
    texts_per_region: int = 1
    use_captions: bool = True

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        """Raises BadRecord if the record has no usable concept or its image cannot be used."""
        image = open_image(record.image, key=record.key)
        notes: list[Note] = []
        concepts, bad = usable_concepts(record, image, notes)
        if not self.use_captions:
            concepts = [concept for concept in concepts if concept.box_xyxy is not None]
        if not concepts:
            raise BadRecord("no concept", record.key, "the record has neither boxes nor captions to use")
        pixels, visible = self.transform(image, concepts, rng)
        texts = self._sample_texts(record, visible, rng)
        rows, unusable = self.text.build_rows(texts, record.key, rng, self.max_regions, notes)
        if not rows:
            invisible = BadRecord("no concept", record.key, "the crop shows none of the record's concepts")
            raise unusable[0] if unusable else invisible
        read = len(record.concepts) + len(record.bad)
        return Sample(pixels, rows, bad=(*bad, *unusable), read=read, notes=tuple(notes))

    def _sample_texts(
        self, record: Record, visible: Sequence[VisibleConcept], rng: np.random.Generator
    ) -> Iterator[tuple[str, BoxXYXY | None, int]]:
        """Yield texts with their boxes and concept keys.

        A caption comes first, then one text of every region in random order, then another text of every
        region that has one, and so on.
        """
        image_key = hash_image(record)
        shuffled = [visible[i] for i in rng.permutation(len(visible))]
        captions = [one.concept for one in shuffled if one.concept.box_xyxy is None][:1]
        regions = [one for one in shuffled if one.concept.box_xyxy is not None]
        orders = [rng.permutation(len(one.concept.texts)) for one in regions]
        for caption in captions:
            yield _text_of(caption, int(rng.integers(len(caption.texts))), rng), None, image_key
        for n in range(self.texts_per_region):
            for region, order in zip(regions, orders, strict=True):
                if n < len(order):
                    concept_key = hash_text(f"{image_key}#{region.concept.box_xyxy}")
                    yield _text_of(region.concept, int(order[n]), rng), region.box_xyxy, concept_key


def _text_of(concept: Concept, index: int, rng: np.random.Generator) -> str:
    """Return a text of a concept, after one of its attributes if it has any."""
    text = concept.texts[index]
    if not concept.attributes:
        return text
    return f"{concept.attributes[rng.integers(len(concept.attributes))]} {text}"
