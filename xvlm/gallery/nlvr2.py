"""Statements about two pictures, and how likely the model thinks them."""

from __future__ import annotations

from collections.abc import Sequence

from xvlm.evaluate.nlvr2 import PairPrediction
from xvlm.gallery._show import drawn, picture
from xvlm.report import AnswerExample, Section

TILES = {
    "nlvr2_acc": "statements judged right",
    "nlvr2_consistency": "statements judged right of every pair",
}
"""Shares that stand at the top of the page."""


def sections(found: Sequence[PairPrediction]) -> list[Section]:
    """Statements drawn blindly, and more of those judged wrong."""
    wrong = [one for one in found if not one.right]
    return [
        Section("Is it true?", "Drawn blindly; ✓ is the case.", examples(found, 12)),
        Section("Judged wrong", "Drawn blindly from these.", examples(wrong, 12, seed=1)),
    ]


def examples(found: Sequence[PairPrediction], count: int, seed: int = 0) -> list[AnswerExample]:
    """Some of them, drawn blindly."""
    return [
        AnswerExample(
            [picture(image) for image in one.images],
            one.statement,
            [
                ("true", one.probability, bool(one.truth)),
                ("false", 1 - one.probability, not one.truth),
            ],
            right=one.right,
        )
        for one in drawn(found, count, seed)
    ]
