"""The answers of a model, as users get them."""

from __future__ import annotations

from typing import NamedTuple

from xvlm.records import BoxXYXY

MAX_BOXES = 50
"""Maximum number of boxes of a text before those that overlap are dropped."""
MAX_OVERLAP = 0.6
"""IoU above which the less certain of two boxes is dropped: most likely both surround the same thing."""
TOP_ANSWERS = 5
"""Number of top answers to a question."""


class GroundingAnswer(NamedTuple):
    """The box of a phrase.

    Attributes:
        box_xyxy: box in pixels of the upright image.
        score: probability that the phrase matches the box; `None` if the model has neither a matching nor a
            detection head.
    """

    box_xyxy: BoxXYXY
    score: float | None


class Detection(NamedTuple):
    """One of the things that a phrase describes.

    Attributes:
        box_xyxy: box in pixels of the upright image.
        score: probability that the phrase describes what the box surrounds.
        log_odds: the same before calibration, as log-odds.
    """

    box_xyxy: BoxXYXY
    score: float
    log_odds: float


class NounPhrase(NamedTuple):
    """A noun phrase of a text, and what it describes.

    Attributes:
        start, end: its characters in the text; `end` is exclusive.
        text: the phrase itself.
        found: what was found, most probable first.
    """

    start: int
    end: int
    text: str
    found: list[Detection]


class EntailmentAnswer(NamedTuple):
    """The relation of a hypothesis to an image.

    Attributes:
        label: the most probable label: "entailment", "neutral" or "contradiction", or one of those that the
            model was trained for.
        probabilities: probability of each label.
    """

    label: str
    probabilities: dict[str, float]


class Answer(NamedTuple):
    """An answer to a question.

    Attributes:
        text: the answer.
        score: of a generated answer its probability among all texts; of a candidate the softmax, over the
            candidates, of its log-probability in which the first token counts twice (published), so that it
            ranks answers and is too certain.
    """

    text: str
    score: float
