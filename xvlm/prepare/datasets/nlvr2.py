"""NLVR2 (Suhr et al., ACL 2019): statements about two photos, true or false.

The release is `train.json`, `dev.json` and `test1.json`, an object a line, and the images: in `images/train`
in folders by `directory`, in `dev` and `test1` by name.  An `identifier` `dev-850-0-1` names the images
`dev-850-0-img0.png` and `dev-850-0-img1.png`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from xvlm.prepare.entries import read_entries
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord


def read(release: Release) -> Samples:
    """Yield each statement with its two images."""
    file = f"{release.split}.json"
    yield from read_entries(partial(_sample, release), release.json_lines(file, f"data/{file}"), file)


def _sample(release: Release, one: Mapping[str, Any]) -> Sample:
    name = one["identifier"].rpartition("-")[0]
    folder = f"images/train/{one['directory']}" if release.split == "train" else release.split
    folders = (folder, f"images/{release.split}")
    pair = [_find(release, folders, f"{name}-img{number}.png") for number in (0, 1)]
    if None in pair:
        raise BadRecord("image file missing", one["identifier"], f"{folder}/{name}-img0.png or -img1.png")
    fields = {
        "sentence": one["sentence"],
        "label": one["label"],
        "images": pair,
        "identifier": one["identifier"],
    }
    return Sample(one["identifier"], str(pair[0]), fields)


def _find(release: Release, folders: tuple[str, ...], name: str) -> str | None:
    found = (release.find_all(f"{folder}/{name}") for folder in folders)
    return next((paths[0] for paths in found if paths), None)


DATASET = Dataset(
    "NLVR2",
    "https://github.com/lil-lab/nlvr/tree/master/nlvr2",
    "CC BY 4.0 (statements); images under their own licences, on request",
    ("train", "dev", "test1"),
    read,
    "lines",
    {"statements": "86,373 / 6,982 / 6,967"},
)
