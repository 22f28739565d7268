"""The passes of the cross-modal encoder in a step, which it makes in one call."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class FusionPasses:
    """The rows of a step's one cross-modal call: which text with which concept, pass by pass.

    Attributes:
        text: (R,) text indices of each pass.
        concept: (R,) concept indices of each pass.
    """

    text: list[Tensor] = field(default_factory=list)
    concept: list[Tensor] = field(default_factory=list)

    def add(self, text_R: Tensor, concept_R: Tensor) -> slice:
        """Add a pass of (R,) rows, and return their slice among the rows of all passes."""
        start = sum(rows.shape[0] for rows in self.text)
        self.text.append(text_R)
        self.concept.append(concept_R)
        return slice(start, start + text_R.shape[0])
