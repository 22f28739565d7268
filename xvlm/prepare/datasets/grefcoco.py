"""gRefCOCO (Liu et al., CVPR 2023): sentences that pick out one object, several, or none."""

from __future__ import annotations

from xvlm.data.sources.grefcoco import GeneralizedRefCoco
from xvlm.prepare.referring import image_folder
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord, normalize_id


def read(release: Release) -> Samples:
    """Yield each image with its sentences, their boxes, and those that describe nothing."""
    inside = release.path("grefcoco") if release.names("grefcoco") else release.root
    source = GeneralizedRefCoco(inside, "unc", release.split, image_folder(release))
    for number in range(len(source)):
        try:
            record = source[number]
        except BadRecord as error:
            yield error
            continue
        yield from record.bad
        assert isinstance(record.image, str)
        elems: dict[tuple[str, ...], list[list[float]]] = {}
        for concept in record.concepts:
            for x0, y0, x1, y1 in concept.targets_xyxy:
                elems.setdefault(concept.texts, []).append([x0, y0, x1 - x0, y1 - y0])
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
