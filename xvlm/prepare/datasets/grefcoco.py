"""gRefCOCO (Liu et al., CVPR 2023): sentences that pick out one object, several, or none."""

from __future__ import annotations

from xvlm.data.sources.grefcoco import GeneralizedRefCoco
from xvlm.prepare.records import records_of, to_xywh
from xvlm.prepare.referring import image_folder
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord, normalize_id


def read(release: Release) -> Samples:
    """Yield each image with its sentences, their boxes, and those that describe nothing."""
    inside = release.path("grefcoco") if release.names("grefcoco") else release.root
    source = GeneralizedRefCoco(inside, "unc", release.split, image_folder(release))
    for record in records_of(source):
        if isinstance(record, BadRecord):
            yield record
            continue
        yield from record.bad
        assert isinstance(record.image, str)
        elems: dict[tuple[str, ...], list[list[float]]] = {}
        for concept in record.concepts:
            elems.setdefault(concept.texts, []).extend(map(to_xywh, concept.targets_xyxy))
        fields = {
            "elems": [{"caption": list(texts), "bb": boxes} for texts, boxes in elems.items()],
            "absent": list(record.absent_texts),
            **record.extra,
        }
        yield Sample(record.key, record.image, fields, {"coco": normalize_id(record.extra["image_id"])})


DATASET = Dataset(
    "gRefCOCO",
    "https://github.com/henghuiding/gRefCOCO",
    "CC BY-NC-SA 4.0; images under the terms of Flickr",
    ("train", "val", "testA", "testB"),
    read,
    "lines",
    {"images": "19,994", "sentences": "278,232"},
)
