"""gRefCOCO in its released files (Liu et al., CVPR 2023): phrases with several boxes, one, or none.

A folder holds the phrases (`grefs(unc).json`) and the boxes in COCO's form (`instances.json`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from xvlm.data.files import storage
from xvlm.data.sources.coco import is_id
from xvlm.data.sources.record_fields import record_from_fields
from xvlm.data.sources.refcoco import (
    REF,
    checked_refs,
    read_instances,
    read_json_value,
    refs_of_split,
    split_spec,
)
from xvlm.data.sources.source import IndexedSource, Opener, Source
from xvlm.records import BadRecord, Record

_REF = {**REF, "ann_id": list}


class GeneralizedRefCoco(IndexedSource):
    """A source with one record per image: its phrases with their boxes, and those that describe nothing.

    Args:
        folder: folder with `grefs(SPLIT_BY).json` and `instances.json`.
        split_by: author of the split: unc.
        split: split of the phrases; empty: all.  "test" includes testA and testB.
        image_root: folder with the images, COCO's train2014; by default `folder`.
    Raises:
        MissingFileError, InputError: a file is missing or has another form, or there is no such split.
    """

    def __init__(self, folder: str, split_by: str, split: str = "", image_root: str | None = None) -> None:
        self._root = folder if image_root is None else image_root
        path = storage.join(folder, f"grefs({split_by}).json")
        refs = refs_of_split(checked_refs(read_json_value(path), path, _REF), split, path)
        self._images, self._boxes = read_instances(storage.join(folder, "instances.json"))
        by_image: dict[int, list[dict[str, Any]]] = {}
        for ref in refs:
            by_image.setdefault(ref["image_id"], []).append(ref)
        self._refs = list(by_image.items())
        super().__init__(":".join(filter(None, (folder, split_by, split))), [len(self._refs)])

    def __getitem__(self, index: int, /) -> Record:
        _, index = self.locate(index)
        image_id, refs = self._refs[index]
        key = f"{self.name}, image {image_id}"
        image = self._images.get(image_id)
        if image is None:
            raise BadRecord("not in instances.json", key, f"image {image_id}")
        elems: list[dict[str, Any]] = []
        absent: list[str] = []
        missing: list[Any] = []
        for ref in refs:
            texts = [sentence["sent"] for sentence in ref["sentences"]]
            if ref.get("no_target"):
                absent += texts
                continue
            unknown = [one for one in ref["ann_id"] if not is_id(one) or one not in self._boxes]
            missing += unknown
            if not unknown:
                elems.append({"caption": texts, "bb": [self._boxes[one] for one in ref["ann_id"]]})
        if missing and not (elems or absent):
            raise BadRecord("not in instances.json", key, f"annotation {missing[0]}")
        fields: dict[str, Any] = {
            "image": image["file_name"],
            "image_id": image_id,
            "elems": elems,
            "absent": absent,
            **{name: image[name] for name in ("width", "height") if name in image},
        }
        record = record_from_fields(fields, key=key, image_root=self._root)
        bad = [BadRecord("not in instances.json", key, f"annotation {one}") for one in missing]
        return replace(record, bad=(*record.bad, *bad))


def _open_grefcoco(rest: str, options: Mapping[str, str], image_root: str | None = None) -> Source:
    return GeneralizedRefCoco(*split_spec("grefcoco", rest, options), image_root)


SCHEMES: dict[str, Opener] = {"grefcoco": _open_grefcoco}
