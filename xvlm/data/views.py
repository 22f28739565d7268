"""Record -> sample: what one visit of a record shows to the model.

A *pairs* view shows the whole image with one caption (or a few); a *regions* view shows it with several
concepts.  Both are functions of the record and a random generator alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from xvlm.data.checks import usable_concepts
from xvlm.data.images import open_image
from xvlm.data.masking import mask_tokens
from xvlm.data.stem_views import StemPairs, StemRegions
from xvlm.data.text import Tokenizer, clean_caption, cut_words
from xvlm.data.transforms import Kept, PairsTransform, RegionsTransform
from xvlm.records import BadRecord, BoxXYXY, Note, Record


@dataclass(frozen=True)
class Row:
    """One text with its concept.

    Attributes:
        ids: tokens of the text; `masked_ids` the same with some hidden, `positions` where, `targets` what.
        box_xyxy: in [0, 1] of the view, `None` for the whole image.
        concept_key, text_key: equal for the same concept of the same record, and for the same cleaned text.
    """

    ids: Sequence[int]
    masked_ids: Sequence[int]
    positions: Sequence[int]
    targets: Sequence[int]
    box_xyxy: BoxXYXY | None
    concept_key: int
    text_key: int


@dataclass(frozen=True)
class Sample:
    """One image with its rows.

    Attributes:
        pixels: (3, height, width) uint8, or what the encoder's frozen stem made of them (C, h, w).
        bad: concepts that could not be used.
        read: concepts that were looked at.
        notes: boxes that were clipped, texts that were cut or are known in part.
    """

    pixels: Tensor
    rows: tuple[Row, ...]
    bad: tuple[BadRecord, ...] = ()
    read: int = 1
    notes: tuple[Note, ...] = ()


def key_of(text: str) -> int:
    """A 64-bit number that is the same for the same text, on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True)
class TextView:
    """Text -> row: cleaning, tokens, masking (published values of the 4M recipe by default).

    Attributes:
        max_words: cut before tokenizing; max_tokens: after it, `[CLS]` included.
        mask_probability: share of tokens hidden; 0 hides none (when no masked-language loss is asked for).
        word_dropout: share of a caption's words that are left out, others in every visit, for small sets of
            texts.  Never of a region's phrase, which would then mean something else.
    """

    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    mask_probability: float = 0.25
    max_masks: int = 8
    faithful: bool = False
    word_dropout: float = 0.0

    def row(
        self,
        text: str,
        box_xyxy: BoxXYXY | None,
        concept_key: int,
        rng: np.random.Generator,
        key: str = "",
        notes: list[Note] | None = None,
    ) -> Row:
        """One text as a row; `key` and `notes` as in `rows`.

        Raises BadRecord if no text is left after cleaning, or none that the vocabulary knows.
        """
        cleaned = cut_words(clean_caption(text), self.max_words, key, notes)
        shown = cleaned
        if self.word_dropout and box_xyxy is None:
            words = cleaned.split()
            shown = " ".join(w for w in words if rng.random() >= self.word_dropout) or cleaned
        ids = self._ids(shown, cleaned, key, notes)
        if not self.mask_probability:
            return Row(ids, ids, (), (), box_xyxy, concept_key, key_of(cleaned))
        masked = mask_tokens(
            ids,
            self.tokenizer,
            rng,
            probability=self.mask_probability,
            max_masks=self.max_masks,
            faithful=self.faithful,
        )
        return Row(ids, masked.ids, masked.positions, masked.targets, box_xyxy, concept_key, key_of(cleaned))

    def _ids(self, shown: str, cleaned: str, key: str, notes: list[Note] | None) -> list[int]:
        """Tokens of what is shown of a text; of all of it, if the known words are those left out."""
        try:
            return self.tokenizer.encode_known(shown, self.max_tokens, key=key, notes=notes)
        except BadRecord:
            if shown == cleaned:
                raise
            return self.tokenizer.encode_known(cleaned, self.max_tokens, key=key, notes=notes)

    def rows(
        self,
        said: Iterable[tuple[str, BoxXYXY | None, int]],
        key: str,
        rng: np.random.Generator,
        max_rows: int | None = None,
        notes: list[Note] | None = None,
    ) -> tuple[tuple[Row, ...], list[BadRecord]]:
        """Rows of (text, box, concept key), as many as `max_rows`; and, named by the record's key, the texts
        of which nothing was left, or nothing that the vocabulary knows.

        Args:
            notes: takes a `Note` for each text that was cut, or of which some words are not known.
        """
        rows: list[Row] = []
        empty: list[BadRecord] = []
        for text, box_xyxy, concept_key in said:
            try:
                rows.append(self.row(text, box_xyxy, concept_key, rng, key, notes))
            except BadRecord as error:
                empty.append(BadRecord(error.reason, key, error.detail))
            if len(rows) == max_rows:
                break
        return tuple(rows), empty


def image_key(record: Record) -> int:
    """The same for all records of one image file: they show the same concept, whatever they say of it."""
    return key_of(f"{record.image if isinstance(record.image, str) else record.key}#image")


def captions_only(record: Record, boxes_as_captions: bool = False) -> Record:
    """The record without its boxed concepts, or with their texts as captions of the whole image.

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
class PairsView:
    """A random crop with `captions` of its captions (fewer if it has fewer).

    Attributes:
        boxes_as_captions: texts of regions are shown too, as texts of the whole image.
    """

    transform: PairsTransform | StemPairs
    text: TextView
    captions: int = 1
    boxes_as_captions: bool = False

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        """Raises BadRecord if the record has no caption or its image cannot be used."""
        record = captions_only(record, self.boxes_as_captions)
        opened = open_image(record.image, key=record.key)
        notes: list[Note] = []
        concepts, bad = usable_concepts(record, opened, notes)
        texts = [text for concept in concepts for text in concept.texts]
        chosen = rng.permutation(len(texts))[: self.captions]
        pixels, texts_seen = self.transform(opened, [texts[i] for i in chosen], rng)
        key = image_key(record)
        said = ((text, None, key) for text in texts_seen)
        rows, empty = self.text.rows(said, record.key, rng, notes=notes)
        if not rows:
            raise empty[-1]
        return Sample(pixels, rows, bad=(*bad, *empty), notes=tuple(notes))


@dataclass(frozen=True)
class RegionsView:
    """A crop with up to `max_regions` concepts; a caption, if there is one, counts as one of them.

    Attributes:
        max_regions: rows shown; a concept with several texts may take several.
        texts: rows that one concept may take, each with another of its texts (published: 1).
        caption: whether captions are used at all.
    """

    transform: RegionsTransform | StemRegions
    text: TextView
    max_regions: int = 5
    texts: int = 1
    caption: bool = True

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        """Raises BadRecord if nothing of the record can be used."""
        opened = open_image(record.image, key=record.key)
        notes: list[Note] = []
        usable, bad = usable_concepts(record, opened, notes)
        if not self.caption:
            usable = [concept for concept in usable if concept.box_xyxy is not None]
        if not usable:
            raise BadRecord("no concept", record.key, "the record has neither boxes nor captions to use")
        pixels, kept = self.transform(opened, usable, rng)
        rows, unusable = rows_of(record, kept, self.text, self.max_regions, self.texts, rng, notes)
        read = len(record.concepts) + len(record.bad)
        return Sample(pixels, rows, bad=(*bad, *unusable), read=read, notes=tuple(notes))


def rows_of(
    record: Record,
    kept: Sequence[Kept],
    text: TextView,
    max_rows: int,
    texts: int,
    rng: np.random.Generator,
    notes: list[Note] | None = None,
) -> tuple[tuple[Row, ...], list[BadRecord]]:
    """Up to `max_rows` rows from the concepts in view, and the texts of which nothing was left.

    A caption comes first; then every boxed concept in random order with one of its texts, then again with
    another one, until each has had `texts` rows.  `notes` takes what is said of texts, see `TextView.rows`.

    Raises BadRecord if not one row is left.
    """
    image = image_key(record)
    order = [kept[i] for i in rng.permutation(len(kept))]
    whole = [one for one in order if one.concept.box_xyxy is None][:1]
    boxed = [one for one in order if one.concept.box_xyxy is not None]
    turns = [(one, rng.permutation(len(one.concept.texts))[:texts]) for one in boxed]
    drawn = [(one, int(rng.integers(len(one.concept.texts)))) for one in whole]
    drawn += [(one, int(some[turn])) for turn in range(texts) for one, some in turns if turn < len(some)]

    def said_of(one: Kept, number: int) -> tuple[str, BoxXYXY | None, int]:
        concept = one.concept
        words = concept.texts[number]
        if concept.attributes:
            words = f"{concept.attributes[rng.integers(len(concept.attributes))]} {words}"
        if concept.box_xyxy is None:
            return words, None, image
        return words, one.box_xyxy, key_of(f"{image}#{concept.box_xyxy}")

    said = (said_of(one, number) for one, number in drawn)
    rows, bad = text.rows(said, record.key, rng, max_rows, notes)
    if not rows:
        raise (
            bad[0]
            if bad
            else BadRecord("no concept", record.key, "the view shows none of the record's concepts")
        )
    return rows, bad
