"""RefCOCO and its relatives as data sets: a record for each sentence, which names its image in COCO."""

from __future__ import annotations

from xvlm.data.sources.refcoco import RefCoco
from xvlm.prepare.records import records_of, to_xywh
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord, normalize_id

LINK = "https://github.com/lichengunc/refer"
LICENCE = "Apache 2.0 (code); images under the terms of Flickr"
FOLDERS = ("images/train2014", "train2014", "images/mscoco/images/train2014", "images")


def image_folder(release: Release) -> str:
    """Return the path of the folder with COCO's images; by default the first one."""
    return release.path(next((one for one in FOLDERS if release.names(one)), FOLDERS[0]))


def read_refs(release: Release, folder: str, split_by: str) -> Samples:
    """Yield each sentence with its box.

    Args:
        folder: folder of the data set in the release, which may also be the release itself.
        split_by: author of the split: unc, google or umd.
    """
    inside = release.path(folder) if release.names(folder) else release.root
    source = RefCoco(inside, split_by, release.split, image_folder(release))
    for record in records_of(source):
        if isinstance(record, BadRecord):
            yield record
            continue
        (concept,) = record.concepts
        assert concept.box_xyxy is not None and isinstance(record.image, str)
        fields = {"text": concept.texts[0], "bbox": to_xywh(concept.box_xyxy), **record.extra}
        yield Sample(record.key, record.image, fields, {"coco": normalize_id(record.extra["image_id"])})


def referring(
    title: str, folder: str, split_by: str, splits: tuple[str, ...], images: str, texts: str
) -> Dataset:
    """Return a data set of the released form."""

    def read(release: Release) -> Samples:
        return read_refs(release, folder, split_by)

    published = {"images": images, "sentences": texts}
    return Dataset(title, LINK, LICENCE, splits, read, "lines", published)
