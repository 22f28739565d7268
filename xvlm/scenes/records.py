"""Sources of grounding, detection, question-answering and NLVR2 records over scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xvlm.common.errors import InputError
from xvlm.records import Concept, Record
from xvlm.scenes.questions import QUESTION_KINDS
from xvlm.scenes.scene import union_box
from xvlm.scenes.source import Scenes
from xvlm.scenes.statements import STATEMENT_KINDS


@dataclass(frozen=True)
class SceneRecords:
    """Base of sources over scenes; subclasses build the records.

    Attributes:
        about: kinds of questions or statements; empty for all.
        kind: scheme of the source, such as "scene-questions".
        kinds: allowed values of `about`; another one raises InputError.
    """

    scenes: Scenes
    about: tuple[str, ...] = ()

    kind: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.about if kind not in self.kinds]
        if unknown:
            allowed = ", ".join(self.kinds) or "nothing"
            raise InputError(f"{self.kind} cannot be about {', '.join(unknown)}; it may be about {allowed}")

    @property
    def name(self) -> str:
        """Name of the source in logs."""
        about = f"?about={','.join(self.about)}" if self.about else ""
        return f"{self.kind}:{self.scenes.split}:{self.scenes.size}{about}"

    @property
    def shards(self) -> tuple[int, ...]:
        """Sizes of the shards: one."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Record:
        raise NotImplementedError


class SceneGroundingRecords(SceneRecords):
    """Grounding records: every concept is one phrase with its only correct box."""

    kind = "scene-cases"

    def __getitem__(self, index: int) -> Record:
        """Return the image, with each grounding phrase as a concept of one text."""
        record = self.scenes[index]
        concepts = [Concept((one.text,), one.box_xyxy) for one in self.scenes.grounding(index)]
        return Record(record.key, record.image, tuple(concepts))


class SceneDetectionRecords(SceneRecords):
    """Detection records: phrases that describe none, one or several of the objects.

    The kind of each phrase, and the boxes of the objects that it could be confused with, are in `extra`, by
    its text: `phrase_kinds` and `rivals_xyxy`.
    """

    kind = "scene-phrases"

    def __getitem__(self, index: int) -> Record:
        """Return the image, with each phrase as a concept of one text, or as an absent text."""
        record, phrases = self.scenes[index], self.scenes.detection(index)
        concepts = [
            Concept((one.text,), union_box(one.targets_xyxy), instances_xyxy=one.targets_xyxy)
            for one in phrases
            if one.targets_xyxy
        ]
        return Record(
            record.key,
            record.image,
            tuple(concepts),
            {
                "phrase_kinds": {one.text: one.kind for one in phrases},
                "rivals_xyxy": {one.text: one.rivals_xyxy for one in phrases if one.rivals_xyxy},
            },
            absent_texts=tuple(one.text for one in phrases if not one.targets_xyxy),
        )


class SceneQuestionRecords(SceneRecords):
    """Question-answering records: all questions about a scene with their answers, in `extra["questions"]`.

    If a scene allows no question of the requested kinds, its record has questions of all kinds.
    """

    kind = "scene-questions"
    kinds = QUESTION_KINDS

    def __getitem__(self, index: int) -> Record:
        """Return the image and the questions about it."""
        record = self.scenes[index]
        questions = self.scenes.questions(index, self.about or self.kinds) or self.scenes.questions(index)
        rows = [
            {"question": one.text, "answer": one.answer, "question_id": f"{record.key}/{number}"}
            for number, one in enumerate(questions)
        ]
        return Record(f"{record.key}/questions", record.image, (), {"questions": rows})


class ScenePairRecords(SceneRecords):
    """NLVR2 records: the right image and all statements with their truth are in `extra`."""

    kind = "scene-pairs"
    kinds = STATEMENT_KINDS

    def __getitem__(self, index: int) -> Record:
        """Return scene `index`, a second one, and the statements about both."""
        pair = self.scenes.pair(index, self.about or self.kinds)
        rows = [{"sentence": text, "label": str(truth)} for text, truth in pair.statements]
        return Record(
            f"{pair.left.key}/pair", pair.left.image, (), {"statements": rows, "right": pair.right.image}
        )
