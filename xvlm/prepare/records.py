"""From records that xvlm reads back to fields in the published forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xvlm.data.sources.source import Source
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord, BoxXYXY, Record


def records_of(source: Source) -> Iterator[Record | BadRecord]:
    """Yield every record of a source, or why it cannot be read."""
    for number in range(len(source)):
        try:
            yield source[number]
        except BadRecord as error:
            yield error


def samples_of_source(source: Source) -> Samples:
    """Yield the records of a source as samples, and their parts that cannot be used."""
    for record in records_of(source):
        if isinstance(record, BadRecord):
            yield record
        elif isinstance(record.image, (str, bytes)):
            yield from record.bad
            yield Sample(record.key, record.image, fields_of(record))


def fields_of(record: Record) -> dict[str, Any]:
    """Return the fields of a record without its image."""
    fields = dict(record.extra)
    captions = [text for one in record.concepts if one.box_xyxy is None for text in one.texts]
    elems: list[dict[str, Any]] = []
    for one in record.concepts:
        if one.box_xyxy is not None:
            elem = {"caption": list(one.texts), "bb": [to_xywh(box) for box in one.targets_xyxy]}
            elems.append(elem | ({"attributes": list(one.attributes)} if one.attributes else {}))
    given = {"caption": captions, "elems": elems, "absent": list(record.absent_texts)}
    return fields | {name: value for name, value in given.items() if value}


def to_xywh(box_xyxy: BoxXYXY) -> list[float]:
    """Return a box as x, y, w, h."""
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]
