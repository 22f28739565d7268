"""A photo with the boxes that were found in it, as every form is written from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from xvlm.data.files.storage import is_remote
from xvlm.records import BoxXYXY


def path_from(path: str, folder: str | Path) -> str:
    """Return a path relative to a folder; a URL stays as it is."""
    return path if is_remote(path) else os.path.relpath(path, folder)


@dataclass(frozen=True)
class FoundBox:
    """A box of a phrase.

    Attributes:
        phrase: number of the phrase.
        box_xyxy: in pixels of the upright photo, to a hundredth, as all forms have it.
        score: probability that the phrase describes what the box surrounds.
    """

    phrase: int
    box_xyxy: BoxXYXY
    score: float

    @classmethod
    def rounded(cls, phrase: int, box_xyxy: BoxXYXY, score: float) -> FoundBox:
        """Return a box with as many digits as the forms have, so that a repeated command writes the same."""
        x0, y0, x1, y1 = (round(side, 2) for side in box_xyxy)
        return cls(phrase, (x0, y0, x1, y1), round(score, 4))

    @property
    def box_xywh(self) -> list[float]:
        """The box as x, y, width, height."""
        x0, y0, x1, y1 = self.box_xyxy
        return [round(side, 2) for side in (x0, y0, x1 - x0, y1 - y0)]


@dataclass(frozen=True)
class AnnotatedPhoto:
    """A photo with its boxes.

    Attributes:
        path: absolute path or URL of the file.
        version: its size and modification time.
        name: its path below the folder that was given, or below the one that all photos are in; or its URL.
        width, height: of the upright photo.
        boxes: what was found.
    """

    path: str
    version: tuple[int, int]
    name: str
    width: int
    height: int
    boxes: tuple[FoundBox, ...]

    @property
    def safe_name(self) -> str:
        """The name as a path that leads nowhere else; the members of a tar may have any names."""
        parts = self.name.replace("://", "/").replace("\\", "/").split("/")
        return "/".join(part for part in parts if part not in ("", ".", ".."))
