"""Grounding cases of scenes as records: every concept is one phrase with the one box that it can mean."""

from __future__ import annotations

from dataclasses import dataclass

from xvlm.data.scenes.source import Scenes
from xvlm.records import Concept, Record


@dataclass(frozen=True)
class SceneCases:
    """A source over the `grounding` cases of scenes, for evaluation."""

    scenes: Scenes

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"scene-cases:{self.scenes.split}:{self.scenes.size}"

    @property
    def shards(self) -> tuple[int, ...]:
        """One block."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Record:
        """The picture, with its grounding cases as concepts of one text each."""
        record = self.scenes[index]
        cases = self.scenes.grounding(index)
        return Record(record.key, record.image, tuple(Concept((case.text,), case.box_xyxy) for case in cases))
