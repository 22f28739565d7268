"""Predictions of a trained model: encode an image once, ask about it often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from xvlm import registry
from xvlm.common.errors import InputError
from xvlm.data.images.decode import ImageFile
from xvlm.data.images.user_images import AnyImage, open_user_image
from xvlm.inference.answering import Answer, answer_questions
from xvlm.inference.captioning import caption_images
from xvlm.inference.classification import classify_texts, judge_statements
from xvlm.inference.grounding import match_logits, predict_boxes
from xvlm.inference.model import InferenceModel
from xvlm.models.generation.config import CAPTION_GENERATION, GenerationConfig
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import BoxXYXY


class GroundingAnswer(NamedTuple):
    """The box of a phrase.

    Attributes:
        box_xyxy: box in pixels of the upright image.
        score: probability that the phrase matches the box; NaN if the model has no matching head.
    """

    box_xyxy: BoxXYXY
    score: float


class EntailmentAnswer(NamedTuple):
    """The relation of a hypothesis to an image.

    Attributes:
        label: the most probable label: "entailment", "neutral" or "contradiction", or one of those that the
            model was trained for.
        probabilities: probability of each label.
    """

    label: str
    probabilities: dict[str, float]


class Predictor(InferenceModel):
    """A model that answers questions about images; `Predictor.load` loads one."""

    def image(self, image: AnyImage) -> Photo:
        """Encode an image: a path or URL, encoded bytes, an open file, a Pillow image, an array or a tensor
        such as (H, W, 3) or (3, H, W); see `open_user_image`.

        Raises BadRecord if it is missing or does not decode, InputError for another type.
        """
        opened = open_user_image(image)
        return Photo(self, opened, self.encode_images([self.pixels(opened)]))

    def compare(self, left: AnyImage, right: AnyImage, statement: str) -> float:
        """Return the probability that a statement about two images is true ("both show a dog").

        Raises BadRecord for an image that does not decode, MissingHead if the model was not trained for it.
        """
        pixels = [self.pixels(open_user_image(image)) for image in (left, right)]
        self.reader.warn([statement])
        return judge_statements(self, pixels[:1], pixels[1:], [statement], [0])[0]

    def predict(self, task: str, *inputs: Any, **options: Any) -> Any:
        """Predict with any task, also one of an installed package or of a Python file.

        Args:
            task: name of the task, or path of its file.
            inputs: inputs of the task's `predict`, such as an image and a text.
        Raises:
            InputError: the task has no prediction.
        """
        predict = registry.find("tasks", task).TASK.predict
        if predict is None:
            raise InputError(f"task {task} has no prediction")
        return predict(self, *inputs, **options)


class Photo:
    """One encoded image, ready for any number of questions."""

    def __init__(self, predictor: Predictor, opened: ImageFile, features: ImageFeatures) -> None:
        self.predictor = predictor
        self.width, self.height = opened.width, opened.height
        self.features = features

    def ground(self, phrase: str) -> GroundingAnswer:
        """Find the box of a phrase."""
        return self.ground_many([phrase])[0]

    def ground_many(self, phrases: Sequence[str]) -> list[GroundingAnswer]:
        """Find the boxes of several phrases in one pass."""
        texts = self.predictor.encode_texts(phrases)
        self.predictor.reader.warn(phrases)
        image_N = torch.zeros(len(phrases), dtype=torch.int64, device=self.predictor.device)
        box_N4, score_N = predict_boxes(self.predictor.model, self.features, texts, image_N)
        size = torch.tensor([self.width, self.height, self.width, self.height], dtype=box_N4.dtype)
        found = zip((box_N4.cpu() * size).tolist(), score_N.tolist(), strict=True)
        return [GroundingAnswer(tuple(box), score) for box, score in found]

    def match(self, texts: Sequence[str]) -> list[float]:
        """Return the probability that each text describes this image."""
        encoded = self.predictor.encode_texts(texts)
        self.predictor.reader.warn(texts)
        text_R = torch.arange(len(texts), device=self.predictor.device)
        image = self.predictor.whole_images(self.features)
        return (
            match_logits(self.predictor.model, image, encoded, torch.zeros_like(text_R), text_R)
            .sigmoid()
            .tolist()
        )

    def ask(self, question: str, answers: Sequence[str] | None = None, num_beams: int = 3) -> Answer:
        """Answer a question.

        Args:
            answers: candidate answers; `None` generates the answer.
            num_beams: beams of the search for a generated answer.
        Raises:
            InputError: the question or the list of answers is empty.
            MissingHead: the model was not trained for questions.
        """
        return self.ask_all(question, answers, num_beams)[0]

    def ask_all(
        self, question: str, answers: Sequence[str] | None = None, num_beams: int = 3
    ) -> list[Answer]:
        """As `ask`, but return up to 5 candidate answers, most probable first, or the generated one."""
        found = answer_questions(
            self.predictor, self.features, [question], [0], answers, num_beams, rank_k=len(answers or ())
        )[0]
        self.predictor.reader.warn([question], question=True)
        return found

    def entails(self, hypothesis: str) -> EntailmentAnswer:
        """Classify whether a hypothesis follows from the image.

        Raises MissingHead if the model was not trained for it.
        """
        (probabilities,) = classify_texts(self.predictor, self.features, [hypothesis], [0])
        self.predictor.reader.warn([hypothesis])
        return EntailmentAnswer(max(probabilities, key=probabilities.__getitem__), probabilities)

    def caption(self, config: GenerationConfig = CAPTION_GENERATION) -> str:
        """Generate a caption; of several samples, the most probable one.

        Raises:
            MissingHead: the model was not trained for captions.
            InputError: captions may be longer than the model's positions, or no longer than its prompt.
        """
        return self.captions(config)[0]

    def captions(self, config: GenerationConfig) -> list[str]:
        """Generate all captions that `config` asks for, most probable first; errors as in `caption`."""
        return caption_images(self.predictor, self.features, config)[0]
