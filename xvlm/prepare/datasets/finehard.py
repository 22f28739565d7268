"""FineHARD (Xie et al., FG-CLIP, ICML 2025): 12 million images of the web, described and with regions.

The release is `jsonfiles/*.json`, lists of objects with `f_path`, `caption`, `short_caption` and `bbox_info`,
whose boxes are corners as parts of the image, with a score behind them.  Images were downloaded and renamed
as FG-CLIP's `data.md` says, to `grit-12m/coyo_image_N/...`.  The texts of a region are its short and its long
expression; the perturbed ones (`short_expr_negs`) may be true of another region, and are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from xvlm.common.short_repr import short_repr
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import list_in, read_parts, read_with_parts
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

PREFIX = "grit-20m/data-12m/"
FOLDERS = ("grit-12m", "data/grit-12m", "images")


def read(release: Release) -> Samples:
    """Yield each image with its captions and regions."""
    files = release.find_all("jsonfiles/*.json") or [release.find("jsonfiles/*.json")]
    folder = next((one for one in FOLDERS if release.names(one)), FOLDERS[0])
    for file in files:
        entries = list_in(read_json_value(file), "", file)
        yield from read_with_parts(partial(_sample, release, folder), entries, file)


def _sample(release: Release, folder: str, one: Mapping[str, Any], bad: list[BadRecord]) -> Sample:
    name = one["f_path"].removeprefix(PREFIX)
    captions = [one[field] for field in ("short_caption", "caption") if one.get(field)]
    elems = list(read_parts(_elem, one.get("bbox_info") or (), name, bad))
    fields = ({"caption": captions} if captions else {}) | ({"elems": elems} if elems else {})
    return Sample(name, release.path(f"{folder}/{name}"), fields, has_fractions=True)


def _elem(info: Mapping[str, Any]) -> dict[str, Any]:
    texts = [info[field] for field in ("short_expr", "long_expr") if info.get(field)]
    return {"caption": texts, "bb": _box(info)}


def _box(info: Mapping[str, Any]) -> list[float]:
    """Return a box as x, y, w, h in parts of the image."""
    x0, y0, x1, y1 = (float(number) for number in info["bbox"][:4])
    if max(x1, y1) > 2:
        raise ValueError(f"bbox is {short_repr(info['bbox'])}; its corners must be parts of the image")
    return [x0, y0, x1 - x0, y1 - y0]


DATASET = Dataset(
    "FineHARD",
    "https://huggingface.co/datasets/qihoo360/FineHARD",
    "Apache 2.0; images under their own licences",
    ("train",),
    read,
    published={"images": "12 M", "regions": "40 M"},
)
