"""Record reading shared by all evaluations: images with their records; unusable samples are told by reason.

Each rank reads a part of the images; `in_order` then has everything in the source's order on every rank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from xvlm import dist
from xvlm.data.checks import usable_concepts
from xvlm.data.images import Opened, open_image
from xvlm.data.sources import Source
from xvlm.errors import InputError
from xvlm.evaluate._candidates import share
from xvlm.evaluate._images import image_groups, record_count
from xvlm.evaluate._skipped import Skipped, SkippedSample
from xvlm.model.xvlm import Part
from xvlm.predict import Predictor
from xvlm.progress import tracked
from xvlm.records import BadRecord, Concept, ImageData, Record

T = TypeVar("T")

ROWS_AT_ONCE = 1024
"""Texts that are asked about a batch of images in one pass."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image, with what it was asked; subclasses say what."""

    key: str
    image: ImageData

    def to_json(self) -> dict[str, Any]:
        """Plain values; an image that is no path is left out."""
        return {**vars(self), "image": self.image if isinstance(self.image, str) else None}


@dataclass(frozen=True, eq=False)
class Photo:
    """An image that decodes: its file, and its pixels (3, height, width) as the model sees them.

    `records` are those that show it, each with its number in the source.
    """

    opened: Opened
    pixels: Tensor
    records: tuple[tuple[int, Record], ...]


def check_least(least: float, **options: float | None) -> None:
    """Raises InputError for an option below the least value that it may have; `None` is none."""
    for name, value in options.items():
        if value is not None and not value >= least:
            raise InputError(f"{name} is {value}; it must be at least {least:g}")


def needs(predictor: Predictor, part: Part) -> None:
    """Raises MissingPart, before anything is read, if the model has no such head."""
    getattr(predictor.model, part)


def numbered(source: Source, numbers: Iterable[int], skipped: Skipped) -> Iterator[tuple[int, Record]]:
    """Records by number; those that cannot be read are skipped."""
    for number in numbers:
        try:
            yield number, source[number]
        except BadRecord as error:
            skipped.append(error)


def nothing(record: Record) -> Sequence[Any]:
    """A record whose loss no submission feels."""
    return ()


def own_records(
    source: Source, limit: int | None, skipped: Skipped, title: str
) -> Iterator[tuple[int, Record]]:
    """This rank's part of the records, each with its number, whatever images they show."""
    numbers = range(record_count(source, limit))[share(record_count(source, limit))]
    return numbered(source, tracked(numbers, title, len(numbers)), skipped)


def photos(
    predictor: Predictor,
    source: Source,
    limit: int | None,
    skipped: Skipped,
    title: str,
    ids: Callable[[Record], Sequence[Any]] = nothing,
) -> Iterator[Photo]:
    """This rank's part of the images, in the order of their first records, each decoded once.

    Args:
        ids: what a submission lacks where a record is skipped.
    """
    groups = image_groups(source, limit, skipped)
    own = groups[share(len(groups))]
    for numbers in tracked(own, title, len(own)):
        records = list(numbered(source, numbers, skipped))
        if not records:
            continue
        first = records[0][1]
        try:
            opened = open_image(first.image, key=first.key)
            pixels = predictor.pixels(opened)
        except BadRecord as error:
            for _, record in records:
                skipped.append(BadRecord(error.reason, record.key, error.detail), ids(record))
            continue
        if not isinstance(first.image, str):  # equal bytes are kept once
            records = [(number, replace(record, image=first.image)) for number, record in records]
        yield Photo(opened, pixels, tuple(records))


def usable(record: Record, photo: Photo, skipped: Skipped, boxed: bool) -> list[Concept]:
    """The concepts of a record that can be used, of those with a box or of those of the whole image."""
    wanted = tuple(concept for concept in record.concepts if (concept.box_xyxy is not None) == boxed)
    if not wanted:
        return []
    try:
        found, bad = usable_concepts(replace(record, concepts=wanted), photo.opened)
    except BadRecord as error:
        skipped.append(error)
        return []
    skipped.extend(bad)
    if photo.opened.orientation == 1:  # boxes on a turned image are other ones anyway
        given = {concept.box_xyxy for concept in wanted}
        for _ in (concept for concept in found if concept.box_xyxy not in given):
            skipped.note("box clipped", record.key)
    return found


def readable(predictor: Predictor, concept: Concept, key: str, skipped: Skipped) -> tuple[str, ...]:
    """Those of a concept's texts that say something to the model."""
    return tuple(text for text in concept.texts if has_tokens(predictor, text, key, skipped))


def has_tokens(predictor: Predictor, text: str, key: str, skipped: Skipped) -> bool:
    """Whether a text says anything to the model; if not, it is skipped under its record's key."""
    try:
        encoded = predictor.reader.caption(text)
    except BadRecord as error:
        skipped.append(BadRecord(error.reason, key, error.detail))
        return False
    note_losses(encoded.unknown, encoded.cut, key, skipped)
    return True


def note_losses(unknown: int, cut: bool, key: str, skipped: Skipped) -> None:
    """Note a text of which some tokens are unknown, or the end is cut off."""
    if unknown:
        skipped.note("text has unknown tokens", key)
    if cut:
        skipped.note("text is cut", key)


def in_order(found: Sequence[tuple[int, T]]) -> list[T]:
    """What all ranks found, each with the number of its record: in the source's order, on every rank."""
    return [one for _, one in sorted(dist.collected(list(found)), key=lambda pair: pair[0])]


def check_any(found: Sequence[Any], source: Source, what: str, skipped: Skipped) -> None:
    """Raises InputError, with the first problem, where nothing of `source` could be measured."""
    if not found:
        raise InputError(f"{source.name} has no {what}; first problem: {skipped.first}")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """As many at a time, the last ones perhaps fewer."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def batches(
    items: Iterable[tuple[Photo, list[T]]], images: int, rows: int = ROWS_AT_ONCE
) -> Iterator[list[tuple[Photo, list[T]]]]:
    """Images with what is asked about each, at most so many images and so many questions at a time.

    An image about which nothing is asked is left out; one about which more is asked comes several times.
    """
    batch: list[tuple[Photo, list[T]]] = []
    count = 0
    for photo, several in items:
        for part in chunks(several, rows):
            if len(batch) == images or count + len(part) > rows:
                yield batch
                batch, count = [], 0
            batch.append((photo, part))
            count += len(part)
    if batch:
        yield batch


def same_id(value: Any) -> str:
    """One spelling of an id: "000000123", "123" and 123 are the same."""
    text = str(value).strip()
    return str(int(text)) if text.isascii() and text.isdigit() else text


_BOX = re.compile(r"box \(([^)]*)\) in an image of (\d+) x (\d+)")


def xyxy_hint(bad: Sequence[SkippedSample]) -> str:
    """A guess at the cause where nearly all bad boxes would fit if read as x0, y0, x1, y1; else empty."""
    fits = []
    for one in bad:
        if found := _BOX.search(one.detail):
            try:
                x0, y0, x1, y1 = (float(edge) for edge in found[1].split(","))
            except ValueError:
                continue
            right, bottom = x1 - x0, y1 - y0  # what the file has as width and height
            fits.append(x0 < right <= int(found[2]) + 1 and y0 < bottom <= int(found[3]) + 1)
    if not fits or sum(fits) < 0.9 * len(fits):
        return ""
    return "; boxes must be x, y, width, height, and these look like x0, y0, x1, y1"
