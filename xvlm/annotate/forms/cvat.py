"""CVAT's own form, "CVAT for images 1.1": `annotations.xml`, to upload to a task with the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from xvlm.annotate.photos import AnnotatedPhoto
from xvlm.common.json_file import write_text


def write(out: Path, photos: Sequence[AnnotatedPhoto], phrases: Sequence[str]) -> None:
    """Write the file; a box has an attribute with its score."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, photo in enumerate(photos):
        size = {"width": str(photo.width), "height": str(photo.height)}
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": photo.name, **size})
        for box in photo.boxes:
            corners = zip(("xtl", "ytl", "xbr", "ybr"), (f"{side:.2f}" for side in box.box_xyxy), strict=True)
            given = {"label": phrases[box.phrase], "source": "auto", "occluded": "0", "z_order": "0"}
            element = ElementTree.SubElement(image, "box", {**given, **dict(corners)})
            ElementTree.SubElement(element, "attribute", {"name": "score"}).text = f"{box.score:.4f}"
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(out / "annotations.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')
