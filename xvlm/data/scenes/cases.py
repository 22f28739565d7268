"""What can be asked about scenes, as records in the published forms: phrases, questions, statements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xvlm.data.scenes.questions import QUESTIONS, STATEMENTS
from xvlm.data.scenes.source import Scenes
from xvlm.errors import InputError
from xvlm.records import Concept, Record


@dataclass(frozen=True)
class Cases:
    """A source over what can be asked about scenes; subclasses say what a record holds.

    Attributes:
        about: kinds of questions or statements that are wanted; nothing: all.

    Raises InputError for an unknown kind.
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
        """What logs call it."""
        about = f"?about={','.join(self.about)}" if self.about else ""
        return f"{self.kind}:{self.scenes.split}:{self.scenes.size}{about}"

    @property
    def shards(self) -> tuple[int, ...]:
        """One block."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Record:
        raise TypeError(f"{type(self).__name__} does not say what its records hold")


class SceneCases(Cases):
    """Grounding: every concept is one phrase with the one box that it can mean."""

    kind = "scene-cases"

    def __getitem__(self, index: int) -> Record:
        """The picture, with its grounding cases as concepts of one text each."""
        record = self.scenes[index]
        cases = self.scenes.grounding(index)
        return Record(record.key, record.image, tuple(Concept((case.text,), case.box_xyxy) for case in cases))


class SceneQuestions(Cases):
    """Question answering: all questions about a scene, each with its one right answer, are in `extra`.

    A scene that allows none of the kinds that are wanted is asked those of every kind.
    """

    kind = "scene-questions"
    kinds = QUESTIONS

    def __getitem__(self, index: int) -> Record:
        """Scene `index`, with questions of every kind that it allows."""
        record = self.scenes[index]
        questions = self.scenes.questions(index, self.about or QUESTIONS) or self.scenes.questions(index)
        asked = [
            {"question": one.text, "answer": one.answer, "question_id": f"{record.key}/{place}"}
            for place, one in enumerate(questions)
        ]
        return Record(f"{record.key}/questions", record.image, (), {"questions": asked})


class ScenePairs(Cases):
    """Statements about two pictures: the second one and all statements, with their truth, are in `extra`."""

    kind = "scene-pairs"
    kinds = STATEMENTS

    def __getitem__(self, index: int) -> Record:
        """Scene `index`, another one beside it, and the statements about both."""
        pair = self.scenes.pair(index, self.about or STATEMENTS)
        said = [{"sentence": text, "label": str(truth)} for text, truth in pair.statements]
        extra = {"statements": said, "right": pair.right.image}
        return Record(f"{pair.left.key}/pair", pair.left.image, (), extra)
