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
from xvlm.data.samples.text_rows import ConceptText, TextRow, TextRowBuilder, hash_image, hash_text
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
        absent: token ids of texts that describe nothing in the image.
    """

    pixels: Tensor
    rows: tuple[TextRow, ...]
    bad: tuple[BadRecord, ...] = ()
    read: int = 1
    notes: tuple[Note, ...] = ()
    absent: tuple[Sequence[int], ...] = ()


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
        described = (ConceptText(caption, None, concept_key) for caption in captions)
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
        absent_texts: maximum number of texts that describe nothing in the image.
    """

    transform: RegionTransform | CachedRegionTransform
    text: TextRowBuilder
    max_regions: int = 5
    texts_per_region: int = 1
    use_captions: bool = True
    absent_texts: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        """Raises BadRecord if the record has no usable concept or its image cannot be used."""
        image = open_image(record.image, key=record.key)
        notes: list[Note] = []
        concepts, bad = usable_concepts(record, image, notes)
        if not self.use_captions:
            concepts = [concept for concept in concepts if concept.box_xyxy is not None]
        if not concepts:
            raise BadRecord("no concept", record.key, "the record has neither boxes nor captions to use")
        absent: tuple[str, ...] = ()
        if self.absent_texts and record.absent_texts:
            order = rng.permutation(len(record.absent_texts))[: self.absent_texts]
            absent = tuple(record.absent_texts[i] for i in order)
            # As a concept of the whole image, they are flipped with the others.
            concepts.append(Concept(absent))
        pixels, visible = self.transform(image, concepts, rng)
        if absent:
            absent = visible.pop().concept.texts
        texts = self._sample_texts(record, visible, rng)
        rows, unusable = self.text.build_rows(texts, record.key, rng, self.max_regions, notes)
        if not rows:
            invisible = BadRecord("no concept", record.key, "the crop shows none of the record's concepts")
            raise unusable[0] if unusable else invisible
        read = len(record.concepts) + len(record.bad)
        ids = tuple(self.text.known_ids(absent))
        return Sample(pixels, rows, bad=(*bad, *unusable), read=read, notes=tuple(notes), absent=ids)

    def _sample_texts(
        self, record: Record, visible: Sequence[VisibleConcept], rng: np.random.Generator
    ) -> Iterator[ConceptText]:
        """Yield texts with their concepts.

        A caption comes first, then one text of every region in random order, then another text of every
        region that has one, and so on.
        """
        image_key = hash_image(record)
        shuffled = [visible[i] for i in rng.permutation(len(visible))]
        captions = [one.concept for one in shuffled if one.concept.box_xyxy is None][:1]
        regions = [one for one in shuffled if one.concept.box_xyxy is not None]
        orders = [rng.permutation(len(one.concept.texts)) for one in regions]
        for caption in captions:
            yield ConceptText(_text_of(caption, int(rng.integers(len(caption.texts))), rng), None, image_key)
        targets_of = targets_of_texts(regions)
        for n in range(self.texts_per_region):
            for region, order in zip(regions, orders, strict=True):
                if n < len(order):
                    concept_key = hash_text(f"{image_key}#{region.concept.box_xyxy}")
                    text = _text_of(region.concept, int(order[n]), rng)
                    targets = targets_of.get(text, region.targets_xyxy)
                    yield ConceptText(text, region.box_xyxy, concept_key, targets)


def targets_of_texts(regions: Sequence[VisibleConcept]) -> dict[str, tuple[BoxXYXY, ...]]:
    """Return the boxes of everything that each text of some regions describes, by text.

    Several regions with an equal text, such as the people of "people", are what it describes together.
    """
    boxes: dict[str, dict[BoxXYXY, None]] = {}
    for region in regions:
        for text in region.concept.texts:
            boxes.setdefault(text, {}).update(dict.fromkeys(region.targets_xyxy))
    return {text: tuple(own) for text, own in boxes.items()}


def _text_of(concept: Concept, index: int, rng: np.random.Generator) -> str:
    """Return a text of a concept, after one of its attributes if it has any."""
    text = concept.texts[index]
    if not concept.attributes:
        return text
    return f"{concept.attributes[rng.integers(len(concept.attributes))]} {text}"
