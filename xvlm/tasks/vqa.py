"""Question answering: a decoder writes the answers to a question about an image.

The cross-modal encoder encodes the question with the image; the decoder attends to its states.  Every
reference answer is a target, weighted by the fraction of annotators who gave it (X-VLM, section 4.3;
published `XVLMForVQA`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvlm import distributed
from xvlm.batch import Images, TensorTree, Texts
from xvlm.common.ranges import NonNegativeInt
from xvlm.data.images.decode import open_image
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.task_fields import questions_of, sample_subset
from xvlm.data.text.cleaning import clean_question
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.evaluation.vqa import MEASURE
from xvlm.losses.language import next_token_loss, sum_by_text
from xvlm.models.generation.answer_ranking import question_context
from xvlm.models.generation.decoder import next_token_positions
from xvlm.models.xvlm import ModelConfig
from xvlm.records import BadRecord, Note, Record
from xvlm.tasks.common.finetuning import (
    FinetuneData,
    FinetuneRun,
    ImageSample,
    encode_usable,
    finish_setup,
    prepare_finetuning,
)
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import Task


@dataclass(frozen=True, kw_only=True)
class VQASample(ImageSample):
    """An image with tokenized questions and their reference answers.

    Attributes:
        questions: token ids of each question.
        answers: token ids of each question's answers.
        weights: loss weight of each answer.
    """

    questions: Sequence[Sequence[int]]
    answers: Sequence[Sequence[Sequence[int]]]
    weights: Sequence[Sequence[float]]


@dataclass(frozen=True)
class VQABatch(TensorTree):
    """A batch of B images, Q questions about them and A reference answers.

    Attributes:
        images: B images.
        questions: Q questions.
        answers: A answers.
        image_Q: (Q,) int64 index of each question's image.
        question_A: (A,) int64 index of each answer's question.
        weight_A: (A,) float32 loss weights; the answers to one question sum to 1 (0.5 for Visual Genome).
    """

    images: Images
    questions: Texts
    answers: Texts
    image_Q: Tensor
    question_A: Tensor
    weight_A: Tensor


@dataclass(frozen=True)
class VQASampleBuilder:
    """Builds a sample of a record: a random crop with its cleaned and tokenized questions and answers.

    Attributes:
        transform: transform of the image and its texts.
        tokenizer: tokenizer of the model.
        max_words: words of a question that are used.
        max_tokens: tokens of a question or answer that are used.
        questions_per_image: questions sampled from a record; 0 uses all.
        genome_weight: loss weight of questions from Visual Genome (`dataset` "vg"), which have one annotator
            each (published: 0.5).
    """

    transform: PairTransform
    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    questions_per_image: int = 0
    genome_weight: float = 0.5

    def __call__(self, record: Record, rng: np.random.Generator) -> VQASample:
        """Raises BadRecord if a question or an answer is missing, or the image cannot be used."""
        bad: list[BadRecord] = []
        notes: list[Note] = []
        sampled = sample_subset(questions_of(record, bad), self.questions_per_image, rng)
        if not all(question.answers for question in sampled):
            raise BadRecord("no answer", record.key, f"fields are {sorted(record.extra)}")
        opened = open_image(record.image, key=record.key)
        # All texts of an image are flipped with it, or it is not flipped.
        original = [(clean_question(one.text, self.max_words), *one.answers) for one in sampled]
        pixels, flat = self.transform(opened, [text for texts in original for text in texts], rng)
        weight = self.genome_weight if record.extra.get("dataset") == "vg" else 1.0
        transformed = iter(flat)
        groups = [list(islice(transformed, len(texts))) for texts in original]
        questions, answer_ids, weights = [], [], []
        encode = partial(self.tokenizer.encode_known, max_tokens=self.max_tokens, key=record.key, notes=notes)
        for (_, *answers), ids in encode_usable(groups, lambda texts: encode(texts[0]), record.key, bad):
            counts = Counter(answers)
            questions.append(ids)
            answer_ids.append(
                [self.tokenizer.encode(answer.lower(), self.max_tokens, end=True) for answer in counts]
            )
            weights.append([weight * (count / len(answers)) for count in counts.values()])
        return VQASample(
            pixels=pixels, questions=questions, answers=answer_ids, weights=weights, bad=bad, notes=notes
        )


def collate(streams: Mapping[str, Sequence[VQASample]]) -> VQABatch:
    """Collate the samples of the data stream "train"."""
    samples = streams["train"]
    answers_Q = [answers for sample in samples for answers in sample.answers]
    return VQABatch(
        Images(torch.stack([sample.pixels for sample in samples])),
        Texts.pack([ids for sample in samples for ids in sample.questions]),
        Texts.pack([ids for answers in answers_Q for ids in answers]),
        torch.tensor([image for image, sample in enumerate(samples) for _ in sample.questions]),
        torch.tensor([question for question, answers in enumerate(answers_Q) for _ in answers]),
        torch.tensor([weight for sample in samples for weights in sample.weights for weight in weights]),
    )


class VQA(LossModule):
    """Question answering as next-token prediction of the reference answers."""

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss in the total, by name."""
        return {"answer": 1.0}

    def forward(self, batch: VQABatch) -> dict[str, Tensor]:
        """Compute `answer` (): weighted cross-entropy, summed over tokens, averaged over questions."""
        features = self.model.encode_images(batch.images)
        context = question_context(self.model, features, batch.questions, batch.image_Q)
        answers = batch.answers
        answer_A = torch.arange(len(answers), device=answers.ids_T.device)
        logits_MV = self.model.vqa_decoder(answers, answer_A, context, batch.question_A)
        at_M, text_M = next_token_positions(answers.lengths_N)
        loss_M = next_token_loss(logits_MV, answers.ids_T[at_M + 1])
        loss_A = sum_by_text(loss_M, text_M, len(answers))
        return {"answer": distributed.global_mean((loss_A * batch.weight_A).sum(), len(batch.questions))}


@dataclass(frozen=True)
class VQARun(FinetuneRun):
    """Fine-tuning for question answering.

    Attributes:
        questions_per_image: questions sampled from a record each time it is used; 0 uses all.
    """

    task: str = "vqa"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=("vqa_decoder",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch_size=192))
    questions_per_image: NonNegativeInt = 0


def build(run: VQARun, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.  Raises InputError if there are no data."""
    parts, data = prepare_finetuning(run, out, published_flip_rule="letters"), run.data
    build_sample = VQASampleBuilder(
        parts.transform, parts.tokenizer, data.max_words, data.max_tokens, run.questions_per_image
    )
    return finish_setup(run, parts, build_sample, collate, VQA(parts.bundle.model))


def predict(predictor: Any, image: str, question: str, answers: tuple[str, ...] | None = None) -> Any:
    """Answer a question about an image.

    Args:
        image: path or URL of an image.
        question: the question.
        answers: candidate answers; by default the answer is generated.
    """
    return predictor.image(image).ask(question, answers)


TASK = Task(VQARun, build, MEASURE, predict=predict)
