"""Queries about images (questions, phrases, hypotheses), in batches that share an encoding of each image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

from xvlm.data.images.decode import ImageFile
from xvlm.records import Record

T = TypeVar("T")

MAX_QUERIES = 1024
"""Maximum number of queries in a batch of images."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: (3, height, width) uint8 at the model's resolution.
        records: every record that shows the image, with its index in the source.
    """

    file: ImageFile
    pixels: Tensor
    records: tuple[tuple[int, Record], ...]


@dataclass(frozen=True)
class Query(Generic[T]):
    """A query about an image: its content, its record, and the record's index in the source."""

    index: int
    record: Record
    content: T


ImageQueries = tuple[DecodedImage, list[Query[T]]]
"""An image and the queries about it."""


@dataclass(eq=False)
class QueryBatch(Generic[T]):
    """N queries about B images, and the index of each query's image, in [0, B)."""

    images: list[DecodedImage] = field(default_factory=list)
    queries: list[Query[T]] = field(default_factory=list)
    image_index: list[int] = field(default_factory=list)

    def add(self, image: DecodedImage, queries: list[Query[T]]) -> None:
        """Add an image with queries about it."""
        self.image_index += [len(self.images)] * len(queries)
        self.images.append(image)
        self.queries += queries

    @property
    def contents(self) -> list[T]:
        """The content of each query."""
        return [query.content for query in self.queries]

    @property
    def pixels(self) -> list[Tensor]:
        """The (3, height, width) pixels of each image."""
        return [image.pixels for image in self.images]


def batches(
    items: Iterable[ImageQueries[T]], max_images: int, max_queries: int = MAX_QUERIES
) -> Iterator[QueryBatch[T]]:
    """Yield batches of at most `max_images` images and `max_queries` queries.

    An image without queries is left out; one with more than `max_queries` is in several batches.
    """
    batch: QueryBatch[T] = QueryBatch()
    for image, queries in items:
        for chunk in chunks(queries, max_queries):
            if len(batch.images) == max_images or len(batch.queries) + len(chunk) > max_queries:
                yield batch
                batch = QueryBatch()
            batch.add(image, chunk)
    if batch.images:
        yield batch


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last list may be shorter."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
