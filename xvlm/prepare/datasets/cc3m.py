"""Conceptual Captions (Sharma et al., ACL 2018): images of the web with their cleaned alternative texts.

See `web_captions.py` for the layouts that are read.
"""

from __future__ import annotations

from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Samples
from xvlm.prepare.web_captions import read_web, tars


def read(release: Release) -> Samples:
    """Yield each image with its caption."""
    return read_web(release, ("Train*GCC-training.tsv", "caption", "url"))


DATASET = Dataset(
    "Conceptual Captions 3M",
    "https://ai.google.com/research/ConceptualCaptions/download",
    "free for any use, with acknowledgement of Google; images under their own licences",
    ("train",),
    read,
    published={"images": "2.9 M", "captions": "2.9 M"},
    tars=tars,
)
