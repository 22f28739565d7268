"""Open Images (Kuznetsova et al., 2020; version 6 or 7): boxes, attributes and narratives.

The release is `oidv6-train-annotations-bbox.csv` (`validation-` or `test-annotations-bbox.csv`), the names of
classes (`class-descriptions-boxable.csv`, with or without a header), and the images `train/ID.jpg`, or
`train_0/ID.jpg` by their first digit.  If they are there, relationships "is" of
`oidv6-train-annotations-vrd.csv` become attributes, whose names `oidv6-attributes-description.csv` has, and
localized narratives (`open_images_train_v6_*.jsonl`) captions.  Boxes are parts of the image; those that
surround a group (`IsGroupOf`) are left out, and counted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import cache, partial
from itertools import groupby
from typing import Any

from xvlm.data.files import storage
from xvlm.prepare.entries import NOT_AS_RELEASED, read_parts, read_with_parts
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

_SIDES = ("XMin", "YMin", "XMax", "YMax")


def read(release: Release) -> Samples:
    """Yield each image with its boxes; rows of one image follow each other in the release."""
    names = _names(release, "*class-descriptions-boxable.csv")
    bad: list[BadRecord] = []
    attributes = _attributes(release, names, bad)
    captions: dict[str, list[str]] = {}
    for image_id, text in read_parts(_narrative, _narratives(release), "narratives", bad):
        captions.setdefault(image_id, []).append(text)
    yield from bad
    table = _tables(release.split, "annotations-bbox")
    seen: set[str] = set()

    def read_one(group: tuple[str, list[dict[str, str]]], bad: list[BadRecord]) -> Sample:
        image_id, rows = group
        if not image_id or image_id in seen:
            raise BadRecord(
                "rows of an image are apart" if image_id else NOT_AS_RELEASED, image_id or table[0]
            )
        seen.add(image_id)
        words = attributes.pop(image_id, {})
        elems = list(read_parts(partial(_elem, names, words, image_id), rows, image_id, bad))
        return _sample(release, image_id, elems, captions.pop(image_id, []))

    grouped = groupby(release.rows(*table), key=lambda row: row.get("ImageID"))
    yield from read_with_parts(read_one, ((image_id, list(rows)) for image_id, rows in grouped), table[0])
    for image_id, texts in captions.items():
        yield Sample(image_id, _place(release, image_id), {"caption": texts}, {"openimages": image_id})


def _elem(
    names: dict[str, str], attributes: dict[tuple[str, ...], list[str]], image_id: str, row: dict[str, str]
) -> dict[str, Any]:
    """Return the object of a row of an image.  Raises BadRecord if its box surrounds a group."""
    label = names.get(row["LabelName"])
    if row["IsGroupOf"] == "1":
        raise BadRecord("box of a group", image_id, label or row["LabelName"])
    x0, y0, x1, y1 = (float(row[side]) for side in _SIDES)
    words = attributes.get(_place_of(row, ""), [])
    elem: dict[str, Any] = {"caption": label, "bb": [x0, y0, x1 - x0, y1 - y0]}
    return elem | ({"attributes": words} if words else {})


def _sample(release: Release, image_id: str, elems: list[dict[str, Any]], captions: list[str]) -> Sample:
    fields: dict[str, Any] = ({"elems": elems} if elems else {}) | ({"caption": captions} if captions else {})
    if not fields:
        raise BadRecord("image without annotation", image_id, "none of its boxes can be used")
    return Sample(image_id, _place(release, image_id), fields, {"openimages": image_id}, has_fractions=True)


def _place(release: Release, image_id: str) -> str:
    """Return the path of an image; the tars of the training images have a folder for each first digit."""
    folder = f"{release.split}_{image_id[0]}"
    inside = folder if _has_folder(release, folder) else release.split
    return release.path(f"{inside}/{image_id}.jpg")


@cache
def _has_folder(release: Release, folder: str) -> bool:
    return storage.is_folder(release.path(folder))


def _place_of(row: Mapping[str, str], number: str) -> tuple[str, ...]:
    """Return class and box of a row, by which boxes and relationships are joined; they have six decimals."""
    return row[f"LabelName{number}"], *(f"{float(row[f'{side}{number}']):.4f}" for side in _SIDES)


def _tables(split: str, kind: str) -> tuple[str, ...]:
    return f"oidv6-{split}-{kind}.csv", f"{split}-{kind}.csv"


def _names(release: Release, name: str) -> dict[str, str]:
    """Return the names of classes or attributes; the older files have no header."""
    lines = (line for _, line in release.lines(name))
    return {row[0]: row[1].lower() for row in csv.reader(lines) if len(row) == 2 and row[0].startswith("/m/")}


def _attributes(
    release: Release, names: dict[str, str], bad: list[BadRecord]
) -> dict[str, dict[tuple[str, ...], list[str]]]:
    """Return image -> class and box -> attributes; none without the file."""
    tables = _tables(release.split, "annotations-vrd")
    if not any(map(release.find_all, tables)):
        return {}
    words = (
        _names(release, "*attributes-description.csv")
        if release.find_all("*attributes-description.csv")
        else {}
    )

    def attribute(row: Mapping[str, str]) -> tuple[str, tuple[str, ...], str] | None:
        word = words.get(row["LabelName2"], "")
        if row["RelationshipLabel"] != "is" or not word or row["LabelName1"] not in names:
            return None
        return row["ImageID"], _place_of(row, "1"), word.replace("(made of)", "").strip()

    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for image_id, place, word in read_parts(attribute, release.rows(*tables), tables[0], bad):
        found.setdefault(image_id, {}).setdefault(place, []).append(word)
    return found


def _narrative(one: Mapping[str, Any]) -> tuple[str, str]:
    """Return the image of a narrative and its text."""
    return str(one["image_id"]), one["caption"]


def _narratives(release: Release) -> Iterator[Any]:
    for path in release.find_all(f"open_images_{release.split}_v6_*.jsonl"):
        yield from release.json_lines(path.removeprefix(f"{release.root.rstrip('/')}/"))


DATASET = Dataset(
    "Open Images",
    "https://storage.googleapis.com/openimages/web/download_v7.html",
    "annotations CC BY 4.0; images CC BY 2.0",
    ("train", "validation", "test"),
    read,
    published={"images": "1.7 M", "objects": "4.2 M"},
)
