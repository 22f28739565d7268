"""Reading of the samples of an evaluation: each rank reads a part, unusable samples are skipped by reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from xvlm.common.errors import InputError
from xvlm.common.progress import progress_bar
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.data.samples.concept_checks import usable_concepts
from xvlm.data.sources.source import Source
from xvlm.data.text.query_reader import EncodedQuery
from xvlm.evaluation.common.queries import DecodedImage, ImageQueries, Query, QueryBatch, batches
from xvlm.evaluation.common.ranks import gather_in_order, rank_slice
from xvlm.evaluation.common.same_images import image_groups, record_count
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.inference.model import InferenceModel
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import BadRecord, Concept, Note, Record

T = TypeVar("T")

IdsOf = Callable[[Record], Sequence[Any]]
"""Returns the ids that a submission lacks if a record is skipped."""


class SampleReader:
    """Reads the samples of one evaluation, and gathers its predictions.

    Attributes:
        predictor: the model to evaluate.
        source: where records come from.
        limit: number of records to read; `None` reads all.
        skipped: receives the samples that cannot be used.
    """

    def __init__(
        self,
        predictor: InferenceModel,
        source: Source,
        limit: int | None,
        skipped: SkippedSamples | None,
        head: str,
    ) -> None:
        """Check that the model has the head that the evaluation needs.  Raises MissingHead."""
        predictor.model.head(head, nn.Module)
        self.predictor, self.source, self.limit = predictor, source, limit
        self.skipped = SkippedSamples() if skipped is None else skipped

    def records(self, title: str) -> Iterator[tuple[int, Record]]:
        """Yield this rank's records with their indices in the source; `title` is that of the progress bar."""
        count = record_count(self.source, self.limit)
        indices = range(count)[rank_slice(count)]
        return self._read(progress_bar(indices, title, len(indices)))

    def images(self, title: str, ids: IdsOf = lambda record: ()) -> Iterator[DecodedImage]:
        """Yield this rank's images in the order of their first records; each is decoded once."""
        groups = image_groups(self.source, self.limit, self.skipped)
        own = groups[rank_slice(len(groups))]
        for indices in progress_bar(own, title, len(own)):
            records = list(self._read(indices))
            if not records:
                continue
            first = records[0][1]
            try:
                file = open_image(first.image, key=first.key)
                pixels = self.predictor.pixels(file)
            except BadRecord as error:
                for _, record in records:
                    self.skipped.append(BadRecord(error.reason, record.key, error.detail), ids(record))
                continue
            if not isinstance(first.image, str):  # share one copy of equal encoded or decoded images
                records = [(index, replace(record, image=first.image)) for index, record in records]
            yield DecodedImage(file, pixels, tuple(records))

    def queries(
        self, title: str, read: Callable[[Record, ImageFile], Iterable[T]], ids: IdsOf = lambda record: ()
    ) -> Iterator[ImageQueries[T]]:
        """Yield this rank's images with the queries that `read` returns for their records."""
        for image in self.images(title, ids):
            queries = [
                Query(index, record, content)
                for index, record in image.records
                for content in read(record, image.file)
            ]
            yield image, queries

    def encoded(
        self, queries: Iterable[ImageQueries[T]], text_of: Callable[[T], str], batch_size: int
    ) -> Iterator[tuple[QueryBatch[T], ImageFeatures, TextFeatures, Tensor]]:
        """Yield N queries about `batch_size` images at a time.

        Each batch comes with features of its images, features of its texts, and (N,) int64 image indices.
        """
        predictor = self.predictor
        for batch in batches(queries, batch_size):
            features = predictor.encode_images(batch.pixels)
            texts = predictor.encode_texts([text_of(content) for content in batch.contents])
            yield batch, features, texts, torch.tensor(batch.image_index, device=predictor.device)

    def concept_texts(self, record: Record, file: ImageFile, boxed: bool) -> Iterator[tuple[Concept, str]]:
        """Yield each usable text with its concept, of concepts with a box or else of the whole image."""
        # A bad region matters only to an evaluation of regions.
        self.skipped.extend(bad for bad in record.bad if boxed or not bad.detail.startswith("elems["))
        concepts = tuple(concept for concept in record.concepts if (concept.box_xyxy is not None) == boxed)
        if not concepts:
            return
        notes: list[Note] = []
        try:
            usable, bad = usable_concepts(replace(record, concepts=concepts, bad=()), file, notes)
        except BadRecord as error:
            self.skipped.append(error)
            return
        self.skipped.extend(bad)
        for note in notes:
            self.skipped.note(note.reason, record.key)
        for concept in usable:
            yield from ((concept, text) for text in concept.texts if self.has_tokens(text, record.key))

    def has_tokens(self, text: str, key: str) -> bool:
        """Return whether a text has known tokens; if it has none, skip it under its record's key."""
        return self.encode(self.predictor.reader.encode_caption, text, key) is not None

    def encode(
        self, tokenize: Callable[[str], EncodedQuery], text: str, key: str, ids: Sequence[Any] = ()
    ) -> EncodedQuery | None:
        """Tokenize a text and note what is lost of it; skip it and return `None` if it has no known token.

        Args:
            tokenize: method of `predictor.reader` for this kind of text.
            ids: ids that a submission lacks if the text is skipped.
        """
        try:
            encoded = tokenize(text)
        except BadRecord as error:
            self.skipped.append(BadRecord(error.reason, key, error.detail), ids)
            return None
        for reason in sorted({note.reason for note in encoded.notes}):
            self.skipped.note(reason, key)
        return encoded

    def gather(self, indexed: Sequence[tuple[int, T]], what: str) -> list[T]:
        """Gather the predictions of all ranks, in the order of their record indices; then `finish`."""
        gathered = gather_in_order(indexed)
        self.finish(len(gathered), what)
        return gathered

    def finish(self, measured: int, what: str) -> None:
        """Gather the skipped samples of all ranks.

        Args:
            measured: number of samples that all ranks measured.
            what: description of a usable sample, for the error.
        Raises:
            InputError: no sample was measured; the message names the first problem.
        """
        self.skipped.gather(measured)
        if not measured:
            raise InputError(f"{self.source.name} has no {what}; first problem: {self.skipped.first_problem}")

    def _read(self, indices: Iterable[int]) -> Iterator[tuple[int, Record]]:
        """Yield records with their indices; skip those that cannot be read."""
        for index in indices:
            try:
                yield index, self.source[index]
            except BadRecord as error:
                self.skipped.append(error)
