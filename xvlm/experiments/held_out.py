"""Images held out of a training file, on which everything that is chosen is chosen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import json_text, parse_json, write_text
from xvlm.data.samples.text_rows import hash_text
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.pretrain import PretrainRun

HELD_OUT_IMAGES = 300
"""Images that are held out by default; more of them would be missed in training (docs/decisions.md)."""


@dataclass(frozen=True)
class HeldOutSplit:
    """Files of a training file's two parts; image paths are relative to the folder of that file."""

    folder: Path

    @property
    def train(self) -> Path:
        """JSON lines to train on."""
        return self.folder / "train.jsonl"

    @property
    def choose(self) -> Path:
        """JSON lines of the images held out."""
        return self.folder / "choose.jsonl"

    @property
    def choose_phrases(self) -> Path:
        """Phrases of these images that have exactly one box, in the published form of RefCOCO."""
        return self.folder / "choose_phrases.json"

    def trained_on(self, run: PretrainRun, root: Path, cache: Path) -> PretrainRun:
        """Return a run whose data are the images that are not held out.

        Args:
            root: folder that image paths are relative to.
            cache: folder of the cached features.
        """
        files = (SourceConfig(str(self.train), image_root=str(root)),)
        regions = files
        if run.losses.detection:
            regions = (SourceConfig(f"absent:{self.train}", image_root=str(root)),)
        return replace(run, data=replace(run.data, pairs=files, regions=regions, feature_cache=str(cache)))


def held_out_split(lines_file: Path, folder: Path, images: int = HELD_OUT_IMAGES) -> HeldOutSplit:
    """Divide the images of a training file, and write both parts into `folder`.

    Which images are held out depends on their names alone, not on their order or on any seed, so that every
    run and every seed holds out the same ones.  All lines of one image are in the same part.

    Args:
        lines_file: JSON lines in the published region form (`image`, `caption`, `elems`).
        images: number of images to hold out, less than there are.
    Raises:
        MissingFileError: there is no such file.
        InputError: a line is not of that form, or there are too few images.
    """
    if not lines_file.is_file():
        raise MissingFileError(f"{lines_file} is missing; it must hold the images to train on")
    rows = [
        _parse(line, f"{lines_file}, line {number}")
        for number, line in enumerate(lines_file.read_text(encoding="utf-8").splitlines(), 1)
        if line.strip()
    ]
    names = sorted({row["image"] for row in rows}, key=hash_text)
    if len(names) <= images:
        raise InputError(
            f"{lines_file} has {len(names)} images, and {images} are to be held out; hold out fewer"
        )
    chosen = set(names[:images])
    split = HeldOutSplit(folder)
    _write_lines(split.train, [row for row in rows if row["image"] not in chosen])
    held_out = [row for row in rows if row["image"] in chosen]
    _write_lines(split.choose, held_out)
    write_text(split.choose_phrases, json_text(list(phrases_with_one_box(held_out))))
    return split


def phrases_with_one_box(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Yield the phrases of lines in the region form that name exactly one box of their image."""
    for row in rows:
        boxes = [(text, elem["bb"]) for elem in row.get("elems", ()) for text in _texts(elem)]
        count = Counter(text for text, _ in boxes)
        for text, box_xywh in boxes:
            if count[text] == 1:
                yield {"image": row["image"], "text": text, "bbox": box_xywh}


def _texts(elem: Mapping[str, Any]) -> Sequence[str]:
    texts = elem.get("caption", ())
    return [texts] if isinstance(texts, str) else texts


def _parse(line: str, name: str) -> dict[str, Any]:
    row = parse_json(line.encode(), name)
    if not isinstance(row, dict) or not isinstance(row.get("image"), str):
        raise InputError(f"{name} is not an object with the path of an image in its field image")
    return row


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
