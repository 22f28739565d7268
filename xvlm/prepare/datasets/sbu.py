"""SBU captions (Ordonez et al., 2011): photos of Flickr with the captions of those who took them.

See `web_captions.py` for the layouts that are read.
"""

from __future__ import annotations

from xvlm.prepare.web_captions import web_dataset

DATASET = web_dataset(
    "SBU Captions",
    "https://www.cs.rice.edu/~vo9/sbucaptions/",
    "photos under the terms of Flickr",
    {"images": "0.86 M", "captions": "0.86 M"},
    ("sbu-captions-all.json", "url", "caption"),
)
