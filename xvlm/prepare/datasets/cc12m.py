"""Conceptual 12M (Changpinyo et al., CVPR 2021): images of the web with their alternative texts.

See `web_captions.py` for the layouts that are read.
"""

from __future__ import annotations

from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Samples
from xvlm.prepare.web_captions import read_web, tars


def read(release: Release) -> Samples:
    """Yield each image with its caption."""
    return read_web(release, ("cc12m.tsv", "url", "caption"))


DATASET = Dataset(
    "Conceptual 12M",
    "https://github.com/google-research-datasets/conceptual-12m",
    "free for any use, with acknowledgement of Google; images under their own licences",
    ("train",),
    read,
    published={"images": "11.1 M", "captions": "11.1 M"},
    tars=tars,
)
