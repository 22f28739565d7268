"""Records as they are asked about: whole images with their concepts, in order; bad ones are counted.

Each rank reads a part of its own; `dist.collected` then has everything in the source's order on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from xvlm import dist
from xvlm.data.checks import usable_concepts
from xvlm.data.images import Opened, open_image
from xvlm.data.sources import Source
from xvlm.errors import InputError
from xvlm.model.xvlm import Part
from xvlm.predict import Predictor
from xvlm.progress import tracked
from xvlm.records import BadRecord, Concept, ImageData, Record

T = TypeVar("T")


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

    `number` is the record of the source that shows it, the first one of several.
    """

    number: int
    image: ImageData
    opened: Opened
    pixels: Tensor


def needs(predictor: Predictor, part: Part) -> None:
    """Raises MissingPart, before anything is read, if the model has no such head."""
    getattr(predictor.model, part)


def span(source: Source, limit: int | None) -> range:
    """This rank's part of the first `limit` records; neighbours that show one image file stay together."""
    count = len(source) if limit is None else min(limit, len(source))

    def border(rank: int) -> int:
        at = count * rank // dist.world()
        while 0 < at < count and one_image(source, at):
            at += 1
        return at

    return range(border(dist.rank()), border(dist.rank() + 1))


def one_image(source: Source, index: int) -> bool:
    """Whether a record and the one before it name the same image file."""
    try:
        return same_file(source[index - 1], source[index])
    except BadRecord:
        return False


def same_file(one: Record | Photo, other: Record | Photo) -> bool:
    """Whether both name the same image file."""
    return isinstance(one.image, str) and isinstance(other.image, str) and one.image == other.image


def records(source: Source, limit: int | None, bad: list[BadRecord], title: str) -> Iterator[Record]:
    """This rank's records in order; those that cannot be read go to `bad`."""
    return (record for _, record in numbered(source, limit, bad, title))


def numbered(
    source: Source, limit: int | None, bad: list[BadRecord], title: str
) -> Iterator[tuple[int, Record]]:
    """`records`, each with its number in the source."""
    part = span(source, limit)
    for index in tracked(part, title, len(part)):
        try:
            yield index, source[index]
        except BadRecord as error:
            bad.append(error)


def read(
    predictor: Predictor, source: Source, limit: int | None, bad: list[BadRecord], title: str
) -> Iterator[tuple[Record, list[Concept], Photo]]:
    """Records in order, with what is usable of them; an image of the record before is not decoded again.

    What is not usable goes to `bad`: records, concepts, and texts of which cleaning leaves nothing.
    """
    photo: Photo | None = None
    last = -1
    for number, record in numbered(source, limit, bad, title):
        try:
            # Neighbours as `span` has them: one image with a bad record in its middle is two, on any ranks.
            if photo is None or number != last + 1 or not same_file(record, photo):
                opened = open_image(record.image, key=record.key)
                photo = Photo(number, record.image, opened, predictor.pixels(opened))
            last = number
            usable, dropped = usable_concepts(record, photo.opened)
        except BadRecord as error:
            bad.append(error)
            continue
        bad.extend(dropped)
        yield record, [readable(predictor, concept, record.key, bad) for concept in usable], photo


def readable(predictor: Predictor, concept: Concept, key: str, bad: list[BadRecord]) -> Concept:
    """The concept with those of its texts that have tokens."""
    return replace(concept, texts=tuple(t for t in concept.texts if has_tokens(predictor, t, key, bad)))


def has_tokens(predictor: Predictor, text: str, key: str, bad: list[BadRecord]) -> bool:
    """Whether cleaning leaves anything of a text; if not, it goes to `bad` under its record's key."""
    try:
        predictor.tokens([text])
    except BadRecord as error:
        bad.append(BadRecord(error.reason, key, error.detail))
        return False
    return True


def captioned(
    read: Iterable[tuple[Record, list[Concept], Photo]], bad: list[BadRecord]
) -> Iterator[tuple[Record, list[str], Photo]]:
    """Records with their captions; those without one are counted."""
    for record, concepts, photo in read:
        captions = [text for concept in concepts if concept.box_xyxy is None for text in concept.texts]
        if captions:
            yield record, captions, photo
        else:
            bad.append(BadRecord("no caption", record.key))


def check_any(found: Sequence[Any], source: Source, what: str, bad: Sequence[BadRecord]) -> None:
    """Raises InputError, with the first problem, where nothing of `source` could be measured."""
    if not found:
        raise InputError(f"{source.name} has no {what}; first problem: {bad[0] if bad else 'it is empty'}")


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
