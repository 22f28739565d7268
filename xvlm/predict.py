"""Predictions of a trained model: encode an image once, ask about it often."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from xvlm import registry
from xvlm.batch import Concepts
from xvlm.common.errors import InputError, WeightsError
from xvlm.common.short_repr import short_repr
from xvlm.data.images.decode import ImageFile
from xvlm.data.images.user_images import AnyImage, open_user_image
from xvlm.data.text.noun_phrases import noun_phrases
from xvlm.data.text.query_reader import checked_texts
from xvlm.inference.answering import answer_questions
from xvlm.inference.answers import Answer, Detection, EntailmentAnswer, GroundingAnswer, NounPhrase
from xvlm.inference.captioning import caption_images
from xvlm.inference.classification import classify_texts, judge_statements
from xvlm.inference.detection import FoundBoxes, find_boxes
from xvlm.inference.grounding import match_logits, predict_boxes
from xvlm.inference.model import InferenceModel
from xvlm.inference.regions import region_box
from xvlm.models.calibration import THRESHOLD, Platt
from xvlm.models.checkpoints.folder import FILES, save_model
from xvlm.models.checkpoints.hub import upload
from xvlm.models.generation.config import CAPTION_GENERATION, GenerationConfig
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import BoxXYXY


class Predictor(InferenceModel):
    """A model that answers questions about images; `Predictor.load` loads one."""

    @classmethod
    def from_pretrained(
        cls, folder_or_repo: str | Path, revision: str | None = None, device: torch.device | str | None = None
    ) -> Self:
        """Load a model folder, or any revision of a hub repository.

        Args:
            revision: branch, tag or commit of a repository.
            device: by default this process's GPU if there is one, else the CPU.
        Raises:
            MissingFileError: there is no such folder, repository or revision.
            InputError: a folder has no revisions, or there is no such device.
        """
        if revision and Path(folder_or_repo).is_dir():
            raise InputError(f"{folder_or_repo} is a folder here, which has no revision {revision!r}")
        return cls.load(f"{folder_or_repo}@{revision}" if revision else folder_or_repo, device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a model folder; see `save_model`."""
        return save_model(self.bundle(), folder)

    def push_to_hub(self, repo: str, private: bool = False, branch: str = "", message: str = "") -> str:
        """Upload the model, without a card, and return the address of the commit; `xvlm push` writes a card.

        Arguments and errors as in `hub.upload`.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = self.save_pretrained(Path(name) / "model")
            files: dict[str, Path | bytes] = {one: folder / one for one in FILES}
            return upload(repo, files, message, private, branch)

    def image(self, image: AnyImage) -> Photo:
        """Encode an image: a path or URL, encoded bytes, an open file, a Pillow image, an array or a tensor
        such as (H, W, 3) or (3, H, W); see `open_user_image`.

        Raises BadRecord if it is missing or does not decode, InputError for another type.
        """
        return self.photo(open_user_image(image))

    def photo(self, opened: ImageFile) -> Photo:
        """Encode an image whose header was read.  Raises BadRecord if it does not decode."""
        return Photo(self, opened, self.encode_images([self.pixels(opened)]))

    def compare(self, left: AnyImage, right: AnyImage, statement: str) -> float:
        """Return the probability that a statement about two images is true ("both show a dog").

        Raises BadRecord for an image that does not decode, MissingHead if the model was not trained for it.
        """
        pixels = [self.pixels(open_user_image(image)) for image in (left, right)]
        (probability,) = judge_statements(self, pixels[:1], pixels[1:], [statement], [0])
        self.reader.warn([statement])
        return probability

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
    """One encoded image, ready for any number of questions.

    Its methods raise BadRecord for a text of which no known token is left after cleaning, and InputError for
    what is no text, or no list of at least one.
    """

    def __init__(self, predictor: Predictor, opened: ImageFile, features: ImageFeatures) -> None:
        self.predictor = predictor
        self.width, self.height = opened.width, opened.height
        self.features = features

    @property
    @torch.no_grad()
    def vector(self) -> np.ndarray:
        """(E,) vector of the image, of unit length, to compare with `Predictor.text_vectors`.

        Raises MissingHead if the model has no contrastive head.
        """
        model = self.predictor.model
        return model.contrastive.embed_concepts(model.encode_whole(self.features)[1])[0].cpu().numpy()

    def find(self, phrase: str, threshold: float = THRESHOLD) -> list[Detection]:
        """Find everything that a phrase describes; see `find_many`."""
        return self.find_many([phrase], threshold)[0]

    def find_many(self, phrases: Sequence[str], threshold: float = THRESHOLD) -> list[list[Detection]]:
        """Find everything that each of several phrases describes, in one pass.

        Args:
            threshold: smallest probability of what is returned; `predictor.calibration.thresholds` has those
                of some precisions.
        Returns:
            for each phrase what it describes, most probable first: several things, one, or nothing.
        Raises:
            InputError: the threshold is no probability.
            MissingHead: the model was not trained for detection.
        """
        found = self._find(phrases, threshold)
        return [self.detections(*columns) for columns in found.by_text()]

    def detections(self, box_X4: Tensor, score_X: Tensor, log_odds_X: Tensor) -> list[Detection]:
        """Return (X, 4) boxes in [0, 1], their (X,) probabilities and (X,) log-odds as detections."""
        rows = zip(self.in_pixels(box_X4), score_X.tolist(), log_odds_X.tolist(), strict=True)
        return [Detection(*row) for row in rows]

    def presence(self, phrases: Sequence[str]) -> list[float]:
        """Return the probability that each phrase describes anything in this image.

        Raises MissingHead if the model was not trained for detection.
        """
        return self._find(phrases, 0.0).presence_N.tolist()

    def _find(self, phrases: Sequence[str], threshold: float) -> FoundBoxes:
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}; it must be 0 to 1")
        texts, image_N = self._encode(phrases)
        model, calibration = self.predictor.model, self.predictor.calibration
        return find_boxes(model, self.features, texts, image_N, calibration, threshold)

    def find_all(
        self, text: str, threshold: float = THRESHOLD, spans: Sequence[tuple[int, int]] | None = None
    ) -> list[NounPhrase]:
        """Find what each noun phrase of a text describes.

        Args:
            spans: (start, end) of the phrases in the text; by default those that `noun_phrases` finds.
        Raises:
            InputError: a span is outside the text, or the text has no noun phrase.
        """
        chosen = noun_phrases(text) if spans is None else list(spans)
        for start, end in chosen:
            if not 0 <= start < end <= len(text):
                raise InputError(
                    f"span ({start}, {end}) is not within the {len(text)} characters of the text"
                )
        if not chosen:
            raise InputError(f"no noun phrase was found in {short_repr(text)}; give spans")
        texts = [text[start:end] for start, end in chosen]
        found = self.find_many(texts, threshold)
        rows = zip(chosen, texts, found, strict=True)
        return [NounPhrase(start, end, phrase, own) for (start, end), phrase, own in rows]

    def in_pixels(self, box_N4: Tensor) -> list[BoxXYXY]:
        """Convert (N, 4) boxes in [0, 1] to pixels of the upright image."""
        size = torch.tensor([self.width, self.height, self.width, self.height], dtype=box_N4.dtype)
        return [tuple(box) for box in (box_N4.cpu() * size).tolist()]

    def ground(self, phrase: str, calibrated: bool = True) -> GroundingAnswer:
        """Find the one box that fits a phrase best, whether or not it fits; see `find` for all or none."""
        return self.ground_many([phrase], calibrated)[0]

    def ground_many(self, phrases: Sequence[str], calibrated: bool = True) -> list[GroundingAnswer]:
        """Find the boxes of several phrases in one pass.

        Args:
            calibrated: whether scores are calibrated, if the model has a calibration; else raw.
        Raises:
            MissingHead: the model finds no boxes.
            WeightsError: the model computes no numbers.
        """
        texts, image_N = self._encode(phrases)
        box_N4, log_odds_N = predict_boxes(self.predictor.model, self.features, texts, image_N)
        if not box_N4.isfinite().all():
            raise WeightsError(
                "the model's boxes are not numbers; its weights are those of a failed training"
            )
        score_N = self._platt("ground", calibrated).probability(log_odds_N)
        scores = [None if math.isnan(score) else score for score in score_N.tolist()]
        return [GroundingAnswer(*one) for one in zip(self.in_pixels(box_N4), scores, strict=True)]

    def _encode(self, phrases: Sequence[str]) -> tuple[TextFeatures, Tensor]:
        """Return N encoded phrases, and the (N,) index of this image for each."""
        phrases = checked_texts(phrases, "phrases")
        texts = self.predictor.encode_texts(phrases)
        self.predictor.reader.warn(phrases)
        return texts, torch.zeros(len(phrases), dtype=torch.int64, device=self.predictor.device)

    def _platt(self, name: str, calibrated: bool) -> Platt:
        return getattr(self.predictor.calibration, name) if calibrated else Platt()

    def match(self, texts: Sequence[str], calibrated: bool = True, warn: bool = True) -> list[float]:
        """Return the probability that each text describes this image.

        Args:
            calibrated: whether it is calibrated, if the model has a calibration; else raw.
            warn: whether to log texts that are truncated or have unknown tokens.
        Raises:
            MissingHead: the model has no matching head.
        """
        texts = checked_texts(texts)
        encoded = self.predictor.encode_texts(texts)
        if warn:
            self.predictor.reader.warn(texts)
        text_R = torch.arange(len(texts), device=self.predictor.device)
        image = self.predictor.whole_images(self.features)
        logits_R = match_logits(self.predictor.model, image, encoded, torch.zeros_like(text_R), text_R)
        return self._platt("match", calibrated).probability(logits_R).tolist()

    def ask(self, question: str, answers: Sequence[str] | None = None, num_beams: int = 3) -> Answer:
        """Answer a question.

        Args:
            answers: candidate answers; `None` generates the answer.
            num_beams: beams of the search for a generated answer.
        Raises:
            InputError: the list of answers is empty, or one of them is.
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

    def caption(self, config: GenerationConfig = CAPTION_GENERATION, box_xyxy: BoxXYXY | None = None) -> str:
        """Generate a caption; of several samples, the most probable one.

        Args:
            box_xyxy: region to describe, in pixels of the upright image; by default the whole image.  A model
                that was trained on captions of images alone describes regions as if they were images.
        Raises:
            MissingHead: the model was not trained for captions.
            InputError: captions may be longer than the model's positions, or no longer than its prompt; or
                the box is empty or not within the image.
        """
        return self.captions(config, box_xyxy)[0]

    def captions(self, config: GenerationConfig, box_xyxy: BoxXYXY | None = None) -> list[str]:
        """Generate all captions that `config` asks for, most probable first; see `caption`."""
        regions = None if box_xyxy is None else self._region(box_xyxy)
        return caption_images(self.predictor, self.features, config, regions=regions)[0]

    def _region(self, box_xyxy: BoxXYXY) -> Concepts:
        box_N4 = region_box(box_xyxy, self.width, self.height)[None]
        concepts = Concepts(torch.zeros(1, dtype=torch.int64), box_N4, torch.tensor([True]))
        return concepts.to(self.predictor.device)
