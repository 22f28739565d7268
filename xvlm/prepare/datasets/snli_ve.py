"""SNLI-VE (Xie et al., 2019): whether a photo of Flickr30k entails a hypothesis, contradicts it, or neither.

The release is `snli_ve_train.jsonl`, `snli_ve_dev.jsonl` and `snli_ve_test.jsonl`, and the photos as in
`flickr30k.py`.  A photo with its hypotheses is one record; its premise, a caption, is not used.
"""

from __future__ import annotations

from typing import Any

from xvlm.prepare.datasets.flickr30k import image_folder, photo
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Samples


def read(release: Release) -> Samples:
    """Yield each photo with its hypotheses."""
    folder = image_folder(release)
    by_photo: dict[str, list[dict[str, Any]]] = {}
    for one in release.json_lines(f"snli_ve_{release.split}.jsonl"):
        statement = {"sentence": one["sentence2"], "label": one["gold_label"], "pairID": one["pairID"]}
        # The first release spelt it otherwise, and some copies have the name of the file.
        photo_id = str(one.get("Flickr30K_ID") or one["Flikr30kID"]).partition(".")[0]
        by_photo.setdefault(photo_id, []).append(statement)
    for photo_id, statements in by_photo.items():
        yield photo(release, folder, f"{photo_id}.jpg", {"statements": statements})


DATASET = Dataset(
    "SNLI-VE",
    "https://github.com/necla-ml/SNLI-VE",
    "BSD-3 (code); texts CC BY-SA 4.0; images under the terms of Flickr",
    ("train", "dev", "test"),
    read,
    "lines",
    {"images": "29,783 / 1,000 / 1,000", "hypotheses": "529,527 / 17,858 / 17,901"},
)
