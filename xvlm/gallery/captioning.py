"""Captions beside what people said: drawn blindly, the best and the worst."""

from __future__ import annotations

from collections.abc import Sequence

from xvlm.evaluate.captioning import CaptionPrediction
from xvlm.gallery._show import drawn, picture
from xvlm.report import AnswerExample, Section

TILES = {
    "caption_cider": "CIDEr",
    "caption_bleu4": "BLEU-4",
    "caption_meteor": "METEOR",
    "caption_rouge_l": "ROUGE-L",
    "caption_spice": "SPICE",
}
"""Numbers that stand at the top of the page."""


def told(score: float) -> str:
    """They are no shares."""
    return f"{score:.3f}"


def sections(found: Sequence[CaptionPrediction]) -> list[Section]:
    """Captions drawn blindly; and, where people said something, the best and the worst."""
    judged = sorted((one for one in found if one.cider is not None), key=lambda one: -(one.cider or 0.0))
    worst = [example(one) for one in judged[-6:][::-1]]
    return [
        Section("What does it say?", "Drawn blindly.", [example(one) for one in drawn(found, 12)]),
        Section("The best", "Those that agree most with people.", [example(one) for one in judged[:6]]),
        Section("The worst", "Those that agree least.", worst),
    ]


def example(one: CaptionPrediction) -> AnswerExample:
    """One caption, with a few references."""
    people = [("people", text) for text in one.references[:3]]
    note = "" if one.cider is None else f"CIDEr {one.cider:.2f}"
    return AnswerExample([picture(one.image)], one.caption, lines=people, note=note)
