"""Flickr30k (Young et al., TACL 2014): five captions for each of 31,783 photos, on Karpathy's split.

The release is Karpathy's `dataset_flickr30k.json` (29,000 photos to train on, 1,014 and 1,000 to evaluate),
and the folder `flickr30k-images` or `flickr30k_images` with `ID.jpg`, where ID is that of Flickr.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.prepare.entries import read_entries
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples

FILES = ("dataset_flickr30k.json", "annotations/dataset_flickr30k.json")
FOLDERS = ("flickr30k-images", "flickr30k_images", "images", "Images")


def read(release: Release) -> Samples:
    """Yield each photo with its captions."""
    folder = image_folder(release)

    def read_one(image: Mapping[str, Any]) -> Sample | None:
        if image["split"] != release.split:
            return None
        captions = [sentence["raw"].strip() for sentence in image["sentences"]]
        return photo(release, folder, image["filename"], {"caption": captions})

    yield from read_entries(read_one, release.json_list("images", *FILES), FILES[0])


def image_folder(release: Release) -> str:
    """Return the name of the folder with the photos.  Raises MissingFileError without one."""
    return next((one for one in FOLDERS if release.names(one)), None) or release.find(*FOLDERS)


def photo(release: Release, folder: str, name: str, fields: dict[str, object]) -> Sample:
    """Return the sample of a photo by the name of its file."""
    return Sample(name, release.path(f"{folder}/{name}"), fields, {"flickr": name.partition(".")[0]})


DATASET = Dataset(
    "Flickr30k",
    "https://shannon.cs.illinois.edu/DenotationGraph/",
    "for research and education; images under the terms of Flickr",
    ("train", "val", "test"),
    read,
    published={"images": "31,783", "captions": "158,915"},
)
