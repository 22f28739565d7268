"""SBU captions (Ordonez et al., 2011): photos of Flickr with the captions of those who took them.

See `web_captions.py` for the layouts that are read.
"""

from __future__ import annotations

from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Samples
from xvlm.prepare.web_captions import read_web, tars


def read(release: Release) -> Samples:
    """Yield each image with its caption."""
    return read_web(release, ("sbu-captions-all.json", "url", "caption"))


DATASET = Dataset(
    "SBU Captions",
    "https://www.cs.rice.edu/~vo9/sbucaptions/",
    "photos under the terms of Flickr",
    ("train",),
    read,
    published={"images": "0.86 M", "captions": "0.86 M"},
    tars=tars,
)
