"""What a report can show.  Plain frozen data; how it looks is in `cards.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from xvlm.records import BoxXYXY
from xvlm.report.bars import Bars
from xvlm.report.curves import Curve

RIGHT_IOU = 0.5  # a box is right from here on (RefCOCO's accuracy)


class Metric(NamedTuple):
    """One number at the top of the page; a plain (label, value) pair does as well.

    Attributes:
        label: what it means, in plain words.
        value: text is shown as it is, a number with three significant digits.
        target: what it was to reach, in words or as a number; `None` shows nothing.
        met: whether it did; `None` where the page should not judge.
    """

    label: str
    value: str | float
    target: str | float | None = None
    met: bool | None = None


@dataclass(frozen=True)
class GroundingExample:
    """A phrase and where the model finds it.

    Attributes:
        image: the picture.
        phrase: the words.
        true_xyxy: the right box in pixels; `None` where nobody knows.
        predicted_xyxy: the model's box in pixels.
        score: matching probability of picture and phrase; `None` where the model has none.
        iou: overlap of the two boxes; `None` together with the right box.
        candidates_xyxy: boxes among which one was chosen.
        map_hw: rows of patches over the whole picture, laid over it: what is looked at more is warmer.
    """

    image: Image.Image
    phrase: str
    true_xyxy: BoxXYXY | None
    predicted_xyxy: BoxXYXY
    score: float | None
    iou: float | None
    candidates_xyxy: Sequence[BoxXYXY] = ()
    map_hw: Sequence[Sequence[float]] = ()

    @property
    def right(self) -> bool | None:
        """Whether the boxes overlap enough; `None` where nobody knows."""
        return None if self.iou is None else self.iou >= RIGHT_IOU


@dataclass(frozen=True)
class TextRanking:
    """A picture and texts by score: (text, score, whether it belongs to the picture), in any order."""

    image: Image.Image
    texts: Sequence[tuple[str, float, bool]]


@dataclass(frozen=True)
class ImageRanking:
    """A text and pictures by score: (picture, score, whether the text belongs to it), in any order."""

    text: str
    images: Sequence[tuple[Image.Image, float, bool]]


@dataclass(frozen=True)
class AnswerExample:
    """What was asked about one picture or several, and what the model says.

    Attributes:
        images: side by side.
        asked: a question, a statement; empty where nothing was asked.
        choices: what the model could say: (text, share, whether it is right), each with a bar.
        lines: (label, text) below: what people said, for example.
        right: whether the model is right; `None` where it is not a matter of right and wrong.
        note: a few words beside that.
    """

    images: Sequence[Image.Image]
    asked: str = ""
    choices: Sequence[tuple[str, float, bool]] = ()
    lines: Sequence[tuple[str, str]] = ()
    right: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture with lines of (label, text) below it: an answer, a caption, a statement."""

    image: Image.Image
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; numbers are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | float]]


Item = GroundingExample | TextRanking | ImageRanking | AnswerExample | Picture | Curve | Bars | Table | str


@dataclass(frozen=True)
class Section:
    """A heading, a sentence about what follows, and items; a plain string is a paragraph."""

    title: str
    intro: str
    items: Sequence[Item]
