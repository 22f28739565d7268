"""Question answering: a decoder writes the answers to a question about an image.

The question is read with the image by the cross-modal encoder; the decoder looks at its states.  Every answer
that people gave is learnt, weighted by how many gave it (X-VLM, section 4.3; published `XVLMForVQA`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xvlm import dist
from xvlm.batch import Images, Movable, Texts
from xvlm.data.fields import questions_of, some_of
from xvlm.data.images import open_image
from xvlm.data.text import Tokenizer, clean_question
from xvlm.data.transforms import PairsTransform
from xvlm.evaluate.vqa import evaluate_questions
from xvlm.losses.language import next_token_loss, sum_by_text
from xvlm.model.answers import question_states
from xvlm.model.decoder import followed
from xvlm.model.xvlm import XVLM, ModelConfig
from xvlm.ranges import NonNegativeInt
from xvlm.records import BadRecord, Note, Record
from xvlm.tasks._build import Built
from xvlm.tasks._dev import Evaluation, measured
from xvlm.tasks._finetune import FinetuneData, FinetuneRun, finish, prepare


@dataclass(frozen=True)
class Asked:
    """Questions about one image, (3, height, width) uint8.

    Attributes:
        answers: of each question, with their `weights`.
    """

    pixels: Tensor
    questions: Sequence[Sequence[int]]
    answers: Sequence[Sequence[Sequence[int]]]
    weights: Sequence[Sequence[float]]
    bad: tuple[BadRecord, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class VQABatch(Movable):
    """B images, Q questions about them and A answers.

    Attributes:
        image_Q: (Q,) int64 the image that each question is about.
        question_A: (A,) int64 the question that each answer answers.
        weight_A: (A,) float32; those of one question that people answered sum to 1.
    """

    images: Images
    questions: Texts
    answers: Texts
    image_Q: Tensor
    question_A: Tensor
    weight_A: Tensor


@dataclass(frozen=True)
class QuestionView:
    """Record -> questions: the view of the image is random, texts are cleaned as published.

    Attributes:
        questions: of a record that are asked, see `VQARun`.
        genome_weight: of what answers a question whose record has `dataset` "vg": Visual Genome's, which one
            person answered each (published: 0.5).
    """

    transform: PairsTransform
    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    questions: int = 0
    genome_weight: float = 0.5

    def __call__(self, record: Record, rng: np.random.Generator) -> Asked:
        """Raises BadRecord if there is no question or no answer, or the image cannot be used."""
        bad: list[BadRecord] = []
        notes: list[Note] = []
        asked = some_of(questions_of(record, bad), self.questions, rng)
        if not all(question.answers for question in asked):
            raise BadRecord("no answer", record.key, f"fields are {sorted(record.extra)}")
        opened = open_image(record.image, key=record.key)
        # All texts of an image are mirrored with it, or it is not mirrored.
        said = [(clean_question(one.text, self.max_words), *one.answers) for one in asked]
        pixels, seen = self.transform(opened, [text for texts in said for text in texts], rng)
        weight = self.genome_weight if record.extra.get("dataset") == "vg" else 1.0
        left = iter(seen)
        questions, ids, weights = [], [], []
        for texts in said:
            question, *answers = islice(left, len(texts))
            counts = Counter(answers)
            try:
                question_ids = self.tokenizer.encode_known(
                    question, self.max_tokens, key=record.key, notes=notes
                )
            except BadRecord as error:
                bad.append(BadRecord(error.reason, record.key, error.detail))
                continue
            questions.append(question_ids)
            ids.append([answer_ids(self.tokenizer, answer, self.max_tokens) for answer in counts])
            shares = [count / len(answers) for count in counts.values()]
            weights.append([weight * share for share in shares])
        if not questions:
            raise bad[-1]
        return Asked(pixels, questions, ids, weights, tuple(bad), tuple(notes))


def answer_ids(tokenizer: Tokenizer, answer: str, max_tokens: int) -> list[int]:
    """`[CLS]`, the answer, `[SEP]`, at most `max_tokens` in all."""
    return tokenizer.encode(answer.lower(), max_tokens, end=True)


def collate(parts: Mapping[str, Sequence[Asked]]) -> VQABatch:
    """Questions of the part "train" -> one batch."""
    asked = parts["train"]
    answered = [answers for one in asked for answers in one.answers]
    return VQABatch(
        Images(torch.stack([one.pixels for one in asked])),
        Texts.pack([ids for one in asked for ids in one.questions]),
        Texts.pack([ids for answers in answered for ids in answers]),
        torch.tensor([number for number, one in enumerate(asked) for _ in one.questions]),
        torch.tensor([number for number, answers in enumerate(answered) for _ in answers]),
        torch.tensor([weight for one in asked for weights in one.weights for weight in weights]),
    )


class VQA(nn.Module):
    """The model with its loss."""

    def __init__(self, model: XVLM) -> None:
        super().__init__()
        self.model = model

    def loss_weights(self) -> dict[str, float]:
        """Weight in the sum of every loss that `forward` returns, by name."""
        return {"answer": 1.0}

    def forward(self, batch: VQABatch) -> dict[str, Tensor]:
        """`answer` (): summed over an answer's tokens, weighted, averaged over all ranks' questions."""
        features = self.model.encode_images(batch.images)
        looked_at = question_states(self.model, features, batch.questions, batch.image_Q)
        answers = batch.answers
        answer_A = torch.arange(len(answers), device=answers.ids_T.device)
        logits_MV = self.model.answers(answers, answer_A, looked_at, batch.question_A)
        at_M, text_M = followed(answers.lengths_N)
        loss_M = next_token_loss(logits_MV, answers.ids_T[at_M + 1])
        loss_A = sum_by_text(loss_M, text_M, len(answers))
        return {"answer": dist.global_mean((loss_A * batch.weight_A).sum(), len(batch.questions))}


@dataclass(frozen=True)
class VQARun(FinetuneRun):
    """Fine-tuning for question answering.

    Attributes:
        questions: of a record that are asked each time it is seen, drawn anew; 0: all.
    """

    task: str = "vqa"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("answers",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch=192))
    questions: NonNegativeInt = 0


RUN = VQARun


def build(run: VQARun, out: Path) -> Built:
    """The task, its data and its model.  Raises InputError if it has no data."""
    got, data = prepare(run, out, published_mirror="letters"), run.data
    view = QuestionView(got.transform, got.tokenizer, data.max_words, data.max_tokens, run.questions)
    return finish(run, got, view, collate, VQA(got.loaded.model))


def evaluation(run: VQARun) -> Evaluation | None:
    """What the run asks to be measured while it trains; see `measured`."""
    return measured(run.dev, evaluate_questions)
