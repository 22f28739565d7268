"""Convert lines of ODVG, the form of GroundingDINO's and MM-GroundingDINO's training files, to record fields.

    filename, height, width       the image
    detection.instances           objects of bbox and category
    grounding.caption, .regions   a caption, and objects of bbox (one or several) and phrase

Its boxes are corners x0, y0, x1, y1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_odvg(fields: Mapping[str, Any]) -> bool:
    """Return whether a line has the form of ODVG."""
    return "filename" in fields and ("detection" in fields or "grounding" in fields)


def odvg_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line in the published form of region lines; what is not as expected is left for its checks."""
    used = ("filename", "detection", "grounding")
    converted = {name: value for name, value in fields.items() if name not in used}
    converted["image"] = fields["filename"]
    elems: Any = []
    grounding = fields.get("grounding")
    if isinstance(grounding, Mapping):
        if "caption" in grounding:
            converted["caption"] = grounding["caption"]
        elems = _elems(grounding.get("regions", []), "phrase")
    detection = fields.get("detection")
    if isinstance(detection, Mapping) and isinstance(elems, list):
        found = _elems(detection.get("instances", []), "category")
        elems = [*elems, *found] if isinstance(found, list) else found
    return {**converted, "elems": elems}


def _elems(regions: Any, text_name: str) -> Any:
    if not isinstance(regions, list):
        return regions
    return [
        {"caption": region.get(text_name), "bb": _xywh(region.get("bbox"))}
        if isinstance(region, Mapping)
        else region
        for region in regions
    ]


def _xywh(box: Any) -> Any:
    """Convert corners, or a list of corners; anything else is left as it is."""
    if isinstance(box, list) and box and isinstance(box[0], list):
        return [_xywh(one) for one in box]
    is_box = isinstance(box, list) and len(box) == 4
    if not is_box or not all(type(number) in (int, float) for number in box):
        return box
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
