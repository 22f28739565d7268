"""Ids of images that several data sets share: COCO, Visual Genome and Flickr30k took theirs from Flickr."""

from __future__ import annotations

import re
from typing import Any

from xvlm.records import normalize_id

_FLICKR = re.compile(r"flickr\.com/(?:.*/)?(\d{6,})_[0-9a-z]+(?:_[a-z])?\.\w{3}", re.IGNORECASE)


def flickr_id(url: Any) -> dict[str, str]:
    """Return the id of a photo in the address of its file on Flickr's servers, as `Sample.ids`."""
    found = _FLICKR.search(url) if isinstance(url, str) else None
    return {"flickr": normalize_id(found[1])} if found else {}
