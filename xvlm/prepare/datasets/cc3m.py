"""Conceptual Captions (Sharma et al., ACL 2018): images of the web with their cleaned alternative texts.

See `web_captions.py` for the layouts that are read.
"""

from __future__ import annotations

from xvlm.prepare.web_captions import web_dataset

DATASET = web_dataset(
    "Conceptual Captions 3M",
    "https://ai.google.com/research/ConceptualCaptions/download",
    "free for any use, with acknowledgement of Google; images under their own licences",
    {"images": "2.9 M", "captions": "2.9 M"},
    ("Train*GCC-training.tsv", "caption", "url"),
)
