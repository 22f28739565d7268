"""Rows of a sample: cleaned, tokenized and masked texts, each with the concept that it describes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from xvlm.data.text.cleaning import clean_caption, truncate_words
from xvlm.data.text.masking import MaskedTokens, mask_tokens
from xvlm.data.text.phrases import split_phrases
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.records import BadRecord, BoxXYXY, Note, Record


@dataclass(frozen=True)
class TextRow:
    """A tokenized text with its concept.

    Attributes:
        ids, masked_ids: token ids of the text, before and after masking.
        positions, targets: positions of the masked tokens, and their original ids.
        box_xyxy: box as fractions of the crop; `None` for the whole image.
        phrases: token ids of each phrase of a caption; empty if they are not needed.
        concept_key, text_key: hashes, equal for the same concept of one image and for the same cleaned text.
        targets_xyxy: boxes of everything that the text describes, as fractions of the crop.
    """

    ids: Sequence[int]
    masked_ids: Sequence[int]
    positions: Sequence[int]
    targets: Sequence[int]
    box_xyxy: BoxXYXY | None
    concept_key: int
    text_key: int
    phrases: tuple[Sequence[int], ...] = ()
    targets_xyxy: tuple[BoxXYXY, ...] = ()


class ConceptText(NamedTuple):
    """A text to build a row of; the fields are those of `TextRow`."""

    text: str
    box_xyxy: BoxXYXY | None
    concept_key: int
    targets_xyxy: tuple[BoxXYXY, ...] = ()


def hash_text(text: str) -> int:
    """Return a 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def hash_image(record: Record) -> int:
    """Return a hash that is equal for all records of one image file: it is one concept with many texts."""
    return hash_text(f"{record.image if isinstance(record.image, str) else record.key}#image")


@dataclass(frozen=True)
class TextRowBuilder:
    """Builds rows of texts; the defaults are those of the published 4M recipe.

    Attributes:
        max_words: words of a text that are used.
        max_tokens: tokens of a text that are used, `[CLS]` included.
        mask_probability: fraction of the tokens to mask; 0 if there is no masked-language loss.
        max_masks: maximum number of masked tokens.
        faithful: whether to mask as the published code does.
        word_dropout: fraction of the words of a caption to drop at random, against overfitting on few texts.
            Phrases of regions keep their words, without which they would mean something else.
        with_phrases: whether rows of captions have their phrases (`split_phrases`).
    """

    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    mask_probability: float = 0.25
    max_masks: int = 8
    faithful: bool = False
    word_dropout: float = 0.0
    with_phrases: bool = False

    def build_row(
        self,
        text: str,
        box_xyxy: BoxXYXY | None,
        concept_key: int,
        rng: np.random.Generator,
        key: str = "",
        notes: list[Note] | None = None,
    ) -> TextRow:
        """Build the row of one text.

        Args:
            key: key of the record, for notes and errors.
            notes: receives a `Note` if the text is truncated or has unknown tokens.
        Raises:
            BadRecord: no text is left after cleaning, or it has no known token.
        """
        cleaned = truncate_words(clean_caption(text, key=key), self.max_words, key, notes)
        shortened = cleaned
        if self.word_dropout and box_xyxy is None:
            words = cleaned.split()
            shortened = " ".join(w for w in words if rng.random() >= self.word_dropout) or cleaned
        try:
            ids = self.tokenizer.encode_known(shortened, self.max_tokens, key=key, notes=notes)
        except BadRecord:
            if shortened == cleaned:
                raise
            # All known words were dropped.
            ids = self.tokenizer.encode_known(cleaned, self.max_tokens, key=key, notes=notes)
        masked = MaskedTokens(ids, (), ())
        if probability := self.mask_probability:
            masked = mask_tokens(ids, self.tokenizer, rng, probability, self.max_masks, self.faithful)
        phrases = self.phrase_ids(text if shortened == cleaned else shortened) if box_xyxy is None else ()
        return TextRow(
            ids,
            masked.ids,
            masked.positions,
            masked.targets,
            box_xyxy,
            concept_key,
            hash_text(cleaned),
            phrases,
        )

    def phrase_ids(self, caption: str) -> tuple[Sequence[int], ...]:
        """Return the token ids of the phrases of a caption that have a known token, if they are needed."""
        if not self.with_phrases:
            return ()
        return tuple(self.known_ids(split_phrases(caption)))

    def known_ids(self, texts: Iterable[str]) -> list[Sequence[int]]:
        """Return the token ids of those texts that have a known token."""
        encoded: list[Sequence[int]] = []
        for text in texts:
            with suppress(BadRecord):
                encoded.append(
                    self.tokenizer.encode_known(clean_caption(text, self.max_words), self.max_tokens)
                )
        return encoded

    def build_rows(
        self,
        texts: Iterable[ConceptText],
        key: str,
        rng: np.random.Generator,
        max_rows: int | None = None,
        notes: list[Note] | None = None,
    ) -> tuple[tuple[TextRow, ...], list[BadRecord]]:
        """Build up to `max_rows` rows, and return with them the errors of unusable texts; see `build_row`.

        Args:
            texts: the text of each row, with its concept; no more are consumed than are needed.
        """
        rows: list[TextRow] = []
        bad: list[BadRecord] = []
        for one in texts:
            try:
                row = self.build_row(one.text, one.box_xyxy, one.concept_key, rng, key, notes)
                rows.append(replace(row, targets_xyxy=one.targets_xyxy))
            except BadRecord as error:
                bad.append(BadRecord(error.reason, key, error.detail))
            if len(rows) == max_rows:
                break
        return tuple(rows), bad
