"""Calibration of log-odds to probabilities that mean what they say (Platt scaling), stored with a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xvlm.common.ranges import FiniteFloat, NonNegativeFloat, Probability

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 0.5
"""Probability from which a box is returned, unless a caller asks for another one."""


@dataclass(frozen=True)
class Platt:
    """A line through log-odds: probability = sigmoid(scale * log-odds + offset) (Platt, 1999).

    Attributes:
        scale: factor of the log-odds; below 1 for a model that is too certain.
        offset: added afterwards.
    """

    scale: NonNegativeFloat = 1.0
    offset: FiniteFloat = 0.0

    def probability(self, log_odds: Tensor) -> Tensor:
        """(...) log-odds -> (...) probabilities, in full precision."""
        return (self.scale * log_odds.float() + self.offset).sigmoid()


@dataclass(frozen=True)
class SearchScore:
    """Log-odds that a text describes an image that a search considers: a weighted sum of what it knows.

    `Calibration.match` is fitted on texts half of which fit.  Hardly any image of a collection fits a text,
    and those that a search considers are the most similar ones, so it has a calibration of its own.

    Attributes:
        contrastive: weight of the cosine over temperature.
        matching: weight of the log-odds of matching.
        phrases: weight of the mean, over the noun phrases of the text, of the log-odds of its best box.
        offset: added afterwards.
        threshold: probability from which an image is a hit, unless a caller asks for another one.
    """

    contrastive: NonNegativeFloat
    matching: NonNegativeFloat
    phrases: NonNegativeFloat
    offset: FiniteFloat
    threshold: Probability = THRESHOLD

    def log_odds(self, terms_B3: Tensor) -> Tensor:
        """(B, 3) contrastive scores, log-odds of matching and of phrases -> (B,) log-odds."""
        weights_3 = terms_B3.new_tensor([self.contrastive, self.matching, self.phrases])
        return terms_B3 @ weights_3 + self.offset


@dataclass(frozen=True)
class Calibration:
    """How the scores of a model become probabilities; the default leaves them as they are.

    Attributes:
        presence: that a text describes anything in an image.
        box: that a box surrounds something that the text describes.
        ground: that a text describes the box that `ground` found for it.
        match: that a text describes a whole image.
        thresholds: (precision, threshold) pairs: of the boxes with at least that probability, that share is
            right on the data that the calibration was fitted on.
        search: how a search ranks and judges images; `None` if that was not fitted.
    """

    presence: Platt = field(default_factory=Platt)
    box: Platt = field(default_factory=Platt)
    ground: Platt = field(default_factory=Platt)
    match: Platt = field(default_factory=Platt)
    thresholds: tuple[tuple[Probability, Probability], ...] = ()
    search: SearchScore | None = None


def joint_log_odds(a_log_odds: Tensor, b_log_odds: Tensor) -> Tensor:
    """Return the log-odds of two independent events together, from the (...) log-odds of each."""
    import torch  # predictors on ONNX graphs read a calibration without it

    # log(pq) - log(1 - pq), where 1 - pq = ((1 + e^-a)(1 + e^-b) - 1) pq: no difference of equal numbers.
    a, b = -a_log_odds.double(), -b_log_odds.double()
    return -torch.logsumexp(torch.stack((a, b, a + b)), 0).to(a_log_odds.dtype)
