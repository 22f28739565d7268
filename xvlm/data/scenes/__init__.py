"""Scenes: the embedded procedural data set, pictures drawn on the fly with exact ground truth."""

from xvlm.data.scenes.language import GroundingCase, is_true
from xvlm.data.scenes.questions import Question
from xvlm.data.scenes.source import Pair, Scenes
from xvlm.data.scenes.world import HELD_OUT, Look, Scene, Split, Thing

__all__ = [
    "HELD_OUT",
    "GroundingCase",
    "Look",
    "Pair",
    "Question",
    "Scene",
    "Scenes",
    "Split",
    "Thing",
    "is_true",
]
