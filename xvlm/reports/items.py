"""Items that a report can show: plain data; `cards.py` renders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from xvlm.metrics.grounding import IOU_THRESHOLD
from xvlm.records import BoxXYXY
from xvlm.reports.curves import Curve
from xvlm.reports.reliability import ReliabilityDiagram


class Metric(NamedTuple):
    """One number at the top of the page.

    Attributes:
        label: what the number measures.
        value: text is shown unchanged, a number with three significant digits.
        target: target of the value; `None` shows none.
        met: whether the value reaches the target; `None` shows no verdict.
    """

    label: str
    value: str | float
    target: str | float | None = None
    met: bool | None = None


@dataclass(frozen=True)
class GroundingExample:
    """A phrase with its predicted and its true box.

    Attributes:
        image: the image.
        phrase: text of the query.
        true_xyxy: true box in pixels; `None` if unknown.
        predicted_xyxy: predicted box in pixels.
        score: matching probability of image and phrase; `None` if the model has no matching head.
        iou: IoU of the two boxes; `None` without a true box.
        candidates_xyxy: candidate boxes from which the predicted one was chosen.
        map_hw: attention map over the patches, rows from the top, overlaid on the image; empty for none.
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
    def correct(self) -> bool | None:
        """Whether the IoU reaches the threshold; `None` without a true box."""
        return None if self.iou is None else self.iou >= IOU_THRESHOLD


@dataclass(frozen=True)
class DetectionExample:
    """A text with everything that it describes, and everything that was found.

    Attributes:
        image: the image.
        text: text of the query.
        targets_xyxy: true boxes in pixels; none if the text describes nothing.
        found: (box in pixels, probability) of each thing found.
        presence: probability that the text describes anything.
        correct: whether all boxes are right and none is missing.
    """

    image: Image.Image
    text: str
    targets_xyxy: Sequence[BoxXYXY]
    found: Sequence[tuple[BoxXYXY, float]]
    presence: float
    correct: bool


@dataclass(frozen=True)
class TextRanking:
    """An image and candidate texts: (text, score, whether it belongs to the image), in any order."""

    image: Image.Image
    texts: Sequence[tuple[str, float, bool]]


@dataclass(frozen=True)
class ImageRanking:
    """A text and candidate images: (image, score, whether the text belongs to it), in any order."""

    text: str
    images: Sequence[tuple[Image.Image, float, bool]]


@dataclass(frozen=True)
class AnswerExample:
    """One or more images with a question or statement, and the model's answer.

    Attributes:
        images: shown side by side.
        question: question, statement or generated caption; may be empty.
        choices: possible answers: (text, probability, whether it is correct), each with a bar.
        lines: (label, text) below, such as reference answers.
        correct: whether the model's answer is correct; `None` shows no verdict.
        note: short text beside the verdict.
    """

    images: Sequence[Image.Image]
    question: str = ""
    choices: Sequence[tuple[str, float, bool]] = ()
    lines: Sequence[tuple[str, str]] = ()
    correct: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; columns of numbers are aligned to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | float]]


Item = (
    GroundingExample
    | DetectionExample
    | ReliabilityDiagram
    | TextRanking
    | ImageRanking
    | AnswerExample
    | Curve
    | Table
    | str
)
"""Everything that a section can hold; a string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading, an introductory sentence (may be empty), and items."""

    title: str
    intro: str
    items: Sequence[Item]
