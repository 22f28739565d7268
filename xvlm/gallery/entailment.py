"""Hypotheses about pictures, with the probability of every label."""

from __future__ import annotations

from collections.abc import Sequence

from xvlm.evaluate.entailment import EntailmentPrediction
from xvlm.gallery._show import drawn, picture
from xvlm.report import AnswerExample, Section

TILES = {
    "entailment_acc": "hypotheses labelled right",
    "entailment_acc_entailment": "of those that follow",
    "entailment_acc_neutral": "of those left open",
    "entailment_acc_contradiction": "of those contradicted",
}
"""Shares that stand at the top of the page."""


def sections(found: Sequence[EntailmentPrediction]) -> list[Section]:
    """Hypotheses drawn blindly, and more of those labelled wrong."""
    wrong = [one for one in found if not one.right]
    return [
        Section("Does it follow?", "Drawn blindly; ✓ is what people said.", examples(found, 12)),
        Section("Labelled wrong", "Drawn blindly from these.", examples(wrong, 12, seed=1)),
    ]


def examples(found: Sequence[EntailmentPrediction], count: int, seed: int = 0) -> list[AnswerExample]:
    """Some of them, drawn blindly."""
    return [
        AnswerExample(
            [picture(one.image)],
            one.hypothesis,
            [(label, share, label == one.truth) for label, share in one.probabilities.items()],
            right=one.right,
        )
        for one in drawn(found, count, seed)
    ]
