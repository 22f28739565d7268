"""What can be asked about scenes, as records in the published forms: phrases, questions, statements."""

from __future__ import annotations

from dataclasses import dataclass

from xvlm.data.scenes.source import Scenes
from xvlm.records import Concept, Record

QUESTIONS = 4
"""Questions asked about one scene."""


@dataclass(frozen=True)
class Cases:
    """A source over what can be asked about scenes; subclasses say what a record holds."""

    scenes: Scenes

    kind = ""
    per_scene = 1

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"{self.kind}:{self.scenes.split}:{self.scenes.size}"

    @property
    def shards(self) -> tuple[int, ...]:
        """One block."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.scenes) * self.per_scene

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
    """Question answering: one question a record, its one right answer in `extra`."""

    kind = "scene-questions"
    per_scene = QUESTIONS

    def __getitem__(self, index: int) -> Record:
        """Question `index % QUESTIONS` about scene `index // QUESTIONS`; scenes with fewer repeat theirs."""
        scene, place = divmod(index, QUESTIONS)
        record, asked = self.scenes[scene], self.scenes.questions(scene)
        question = asked[place % len(asked)]
        extra = {"question": question.text, "answer": question.answer, "question_id": index}
        return Record(f"{record.key}/question/{place}", record.image, (), extra)


class ScenePairs(Cases):
    """Statements about two pictures: the second one and the truth are in `extra`."""

    kind = "scene-pairs"

    def __getitem__(self, index: int) -> Record:
        """Scene `index`, another one beside it, and a statement about both."""
        pair = self.scenes.pair(index)
        extra = {"sentence": pair.statement, "label": str(pair.truth), "right": pair.right.image}
        return Record(f"{pair.left.key}/pair", pair.left.image, (), extra)
