"""Flickr30k Entities (Plummer et al., ICCV 2015): the phrases of Flickr30k's captions, with their boxes.

The release is the folders `Sentences` (`ID.txt`, a caption a line, in which `[/EN#12/people Two men]` is a
phrase of the entity 12) and `Annotations` (`ID.xml` with boxes of entities), the lists `train.txt`, `val.txt`
and `test.txt`, and the photos as in `flickr30k.py`.  An entity may have several boxes, or none.
"""

from __future__ import annotations

import re
from typing import Any

from xvlm.common.errors import MissingFileError
from xvlm.prepare.datasets.flickr30k import image_folder, photo
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.prepare.xml_files import number, read_xml
from xvlm.records import BadRecord

_PHRASE = re.compile(r"\[/EN#(?P<entity>\d+)(?P<kinds>(?:/[^\s/\]]+)+)\s+(?P<text>[^\]]*)\]")
_NOT_VISUAL = "notvisual"


def read(release: Release) -> Samples:
    """Yield each photo with its captions, and the phrases that have boxes."""
    folder = image_folder(release)
    for _, line in release.lines(f"{release.split}.txt"):
        if photo_id := line.strip():
            try:
                yield _sample(release, folder, photo_id)
            except MissingFileError as error:
                yield BadRecord("annotation missing", photo_id, str(error))
            except BadRecord as error:
                yield error


def _sample(release: Release, folder: str, photo_id: str) -> Sample:
    root = read_xml(release.find(f"Annotations/{photo_id}.xml"))
    boxes: dict[str, list[list[float]]] = {}
    for one in root.findall("object"):
        box = one.find("bndbox")
        if box is not None:
            # Pixels count from 1, as the reader of the release has it.
            x0, y0, x1, y1 = (one - 1 for one in number(box, "xmin", "ymin", "xmax", "ymax"))
            for name in one.findall("name"):
                boxes.setdefault((name.text or "").strip(), []).append([x0, y0, x1 - x0, y1 - y0])
    captions: list[str] = []
    phrases: dict[str, dict[str, None]] = {}
    for _, line in release.lines(f"Sentences/{photo_id}.txt"):
        if line.strip():
            captions.append(" ".join(_PHRASE.sub(lambda found: found["text"], line).split()))
            for found in _PHRASE.finditer(line):
                if _NOT_VISUAL not in found["kinds"] and found["text"].strip():
                    phrases.setdefault(found["entity"], {})[" ".join(found["text"].split())] = None
    elems: list[dict[str, Any]] = [
        {"caption": list(texts), "bb": boxes[entity]} for entity, texts in phrases.items() if entity in boxes
    ]
    return photo(release, folder, f"{photo_id}.jpg", {"caption": captions, "elems": elems})


DATASET = Dataset(
    "Flickr30k Entities",
    "https://github.com/BryanPlummer/flickr30k_entities",
    "for research and education; images under the terms of Flickr",
    ("train", "val", "test"),
    read,
    published={"images": "31,783", "phrases": "about 513,000", "boxes": "about 276,000"},
)
