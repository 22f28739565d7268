"""SNLI-VE (Xie et al., 2019): whether a photo of Flickr30k entails a hypothesis, contradicts it, or neither.

The release is `snli_ve_train.jsonl`, `snli_ve_dev.jsonl` and `snli_ve_test.jsonl`, and the photos as in
`flickr30k.py`.  A photo with its hypotheses is one record; its premise, a caption, is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.prepare.datasets.flickr30k import image_folder, photo
from xvlm.prepare.entries import read_parts
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Samples
from xvlm.records import BadRecord


def read(release: Release) -> Samples:
    """Yield each photo with its hypotheses."""
    folder = image_folder(release)
    file = f"snli_ve_{release.split}.jsonl"
    by_photo: dict[str, list[dict[str, Any]]] = {}
    bad: list[BadRecord] = []
    for photo_id, statement in read_parts(_statement, release.json_lines(file), file, bad):
        by_photo.setdefault(photo_id, []).append(statement)
    yield from bad
    for photo_id, statements in by_photo.items():
        yield photo(release, folder, f"{photo_id}.jpg", {"statements": statements})


def _statement(one: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the photo of a line and its hypothesis."""
    # The first release spelt it otherwise, and some copies have the name of the file.
    photo_id = str(one.get("Flickr30K_ID") or one["Flikr30kID"]).partition(".")[0]
    return photo_id, {"sentence": one["sentence2"], "label": one["gold_label"], "pairID": one["pairID"]}


DATASET = Dataset(
    "SNLI-VE",
    "https://github.com/necla-ml/SNLI-VE",
    "BSD-3 (code); texts CC BY-SA 4.0; images under the terms of Flickr",
    ("train", "dev", "test"),
    read,
    "lines",
    {"images": "29,783 / 1,000 / 1,000", "hypotheses": "529,527 / 17,858 / 17,901"},
)
