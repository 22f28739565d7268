"""Conceptual 12M (Changpinyo et al., CVPR 2021): images of the web with their alternative texts.

See `web_captions.py` for the layouts that are read.
"""

from __future__ import annotations

from xvlm.prepare.web_captions import web_dataset

DATASET = web_dataset(
    "Conceptual 12M",
    "https://github.com/google-research-datasets/conceptual-12m",
    "free for any use, with acknowledgement of Google; images under their own licences",
    {"images": "11.1 M", "captions": "11.1 M"},
    ("cc12m.tsv", "url", "caption"),
)
