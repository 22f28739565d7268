"""Everything else that xvlm reads in JSON: the published forms of X-VLM, and ODVG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.data.sources.coco import is_coco
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.record_fields import record_from_fields
from xvlm.prepare.records import samples_of_source
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Samples
from xvlm.records import BadRecord


def recognises(path: str, value: Any) -> bool:
    """Return whether the first record of a file can be read."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, Mapping) or is_coco(first):
        return False
    try:
        return bool(record_from_fields(first, key=path).concepts)
    except BadRecord:
        return False


def read(release: Release) -> Samples:
    """Yield each record."""
    return samples_of_source(JsonSource(release.root, release.images))


DATASET = Dataset("JSON lines or lists", "", "", ("all",), read)
