"""The embedded data set: procedural scenes, rendered on the fly, with exact ground truth for every text."""

from xvlm.scenes.captions import is_true
from xvlm.scenes.records import (
    SceneDetectionRecords,
    SceneGroundingRecords,
    ScenePairRecords,
    SceneQuestionRecords,
)
from xvlm.scenes.scene import HELD_OUT, Scene
from xvlm.scenes.source import Scenes

__all__ = [
    "HELD_OUT",
    "Scene",
    "SceneDetectionRecords",
    "SceneGroundingRecords",
    "ScenePairRecords",
    "SceneQuestionRecords",
    "Scenes",
    "is_true",
]
