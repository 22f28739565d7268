"""Phrases with what the model looks at, the candidate that it chose, and the true box."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xvlm.evaluate.weak_grounding import MapPrediction
from xvlm.gallery._show import drawn, picture
from xvlm.report import GroundingExample, Section
from xvlm.report.items import RIGHT_IOU

TILES = {
    "weak_grounding_acc": "phrases found among the candidates",
    "weak_grounding_chance": "by a candidate chosen blindly",
    "weak_grounding_pointing": "the map is highest inside the true box",
}
"""Shares that stand at the top of the page."""


def sections(found: Sequence[MapPrediction]) -> list[Section]:
    """Cases drawn blindly, and more of the wrong ones."""
    wrong = [one for one in found if one.iou < RIGHT_IOU]
    seen = "Warm is what the model looks at when the phrase matches; pale boxes are its other candidates."
    return [
        Section("What does it look at?", f"{seen} Drawn blindly.", examples(found, 12)),
        Section("Not found", "Drawn blindly from the wrong ones.", examples(wrong, 12, seed=1)),
    ]


def examples(found: Sequence[MapPrediction], count: int, seed: int = 0) -> list[GroundingExample]:
    """Some of them, drawn blindly."""
    return [
        GroundingExample(
            *(picture(one.image), one.text, one.true_xyxy, one.predicted_xyxy, one.score, one.iou),
            one.candidates_xyxy,
            () if math.isnan(one.score or 0.0) else one.map_hw,
        )
        for one in drawn(found, count, seed)
    ]
