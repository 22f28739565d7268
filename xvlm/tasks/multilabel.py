"""Multi-label classification: which of some labels fit an image with a text? (MM-IMDb, Arevalo et al. 2017).

A record has an image, a caption and `labels`, a list of label names.  A head on x_cls of the text with the
image has an output for each label, trained by binary cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import distributed
from xvlm.batch import Images, TensorTree, Texts
from xvlm.common.ranges import PositiveInt, Probability, checked
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.data.samples.builders import captions_only
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.source import Source
from xvlm.data.text.tokenizer import Tokenizer, encode_caption
from xvlm.evaluation.common.measure import Measure, Prediction, example_sections
from xvlm.evaluation.common.queries import batches
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.inference.model import InferenceModel
from xvlm.models.classification import class_logits
from xvlm.models.heads import Classifier
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.models.xvlm import HeadSpec, ModelConfig
from xvlm.records import BadRecord, Note, Record
from xvlm.reports import AnswerExample, Section
from xvlm.reports.pictures import load_picture
from xvlm.tasks.common.finetuning import FinetuneRun, ImageSample, finish_setup, prepare_finetuning
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import Task

HEAD = "multilabel"


@dataclass(frozen=True, kw_only=True)
class MultiLabelSample(ImageSample):
    """An image with a tokenized text and the indices of its labels."""

    ids: Sequence[int]
    labels: Sequence[int]


@dataclass(frozen=True)
class MultiLabelBatch(TensorTree):
    """A batch of B images with a text each; `target_BY` (B, Y) is 1 for each label that fits."""

    images: Images
    texts: Texts
    target_BY: Tensor


def labels_of(record: Record, names: Sequence[str]) -> list[int]:
    """Return the indices of a record's labels.  Raises BadRecord if they are missing or unknown."""
    labels = record.extra.get("labels")
    if not isinstance(labels, list):
        raise BadRecord("no labels", record.key, f"labels is {labels!r:.80}; it must be a list of names")
    if unknown := [label for label in labels if label not in names]:
        raise BadRecord("unknown label", record.key, f"{unknown[0]!r:.80} is none of {', '.join(names)}")
    return [names.index(label) for label in labels]


@dataclass(frozen=True)
class MultiLabelSampleBuilder:
    """Builds a sample of a record: a random crop with one of its captions, and its labels."""

    transform: PairTransform
    tokenizer: Tokenizer
    names: tuple[str, ...]
    max_words: int = 40
    max_tokens: int = 40

    def __call__(self, record: Record, rng: np.random.Generator) -> MultiLabelSample:
        """Raises BadRecord if the text or the labels are missing, or the image cannot be used."""
        labels = labels_of(record, self.names)
        texts = [text for concept in captions_only(record).concepts for text in concept.texts]
        pixels, (text,) = self.transform(
            open_image(record.image, key=record.key), [texts[int(rng.integers(len(texts)))]], rng
        )
        notes: list[Note] = []
        ids = encode_caption(self.tokenizer, text, self.max_words, self.max_tokens, record.key, notes)
        return MultiLabelSample(pixels=pixels, ids=ids, labels=labels, bad=record.bad, notes=notes)


def collate(streams: Mapping[str, Sequence[MultiLabelSample]], classes: int) -> MultiLabelBatch:
    """Collate the samples of the data stream "train"."""
    samples = streams["train"]
    target_BY = torch.zeros(len(samples), classes)
    for row, sample in enumerate(samples):
        target_BY[row, list(sample.labels)] = 1.0
    images = Images(torch.stack([sample.pixels for sample in samples]))
    return MultiLabelBatch(images, Texts.pack([sample.ids for sample in samples]), target_BY)


class MultiLabel(LossModule):
    """Binary cross-entropy of every label."""

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss in the total, by name."""
        return {"multilabel": 1.0}

    def forward(self, batch: MultiLabelBatch) -> dict[str, Tensor]:
        """Compute `multilabel` (): binary cross-entropy, averaged over the labels of the global batch."""
        image_B = torch.arange(len(batch.texts), device=batch.target_BY.device)
        features = self.model.encode_images(batch.images)
        logits_BY = class_logits(self.model, features, batch.texts, image_B, HEAD)
        total = F.binary_cross_entropy_with_logits(logits_BY, batch.target_BY, reduction="sum")
        return {"multilabel": distributed.global_mean(total, batch.target_BY.numel())}


@dataclass(frozen=True)
class MultiLabelRun(FinetuneRun):
    """Fine-tuning for multi-label classification; `model.labels` are the names of the labels."""

    task: str = "multilabel"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=(HEAD,), labels=("no", "yes")))


def build(run: MultiLabelRun, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.  Raises InputError if there are no data."""
    parts, data, names = prepare_finetuning(run, out), run.data, run.model.labels
    build_sample = MultiLabelSampleBuilder(
        parts.transform, parts.tokenizer, names, data.max_words, data.max_tokens
    )
    collate_samples = partial(collate, classes=len(names))
    return finish_setup(run, parts, build_sample, collate_samples, MultiLabel(parts.bundle.model))


@dataclass(frozen=True)
class MultiLabelPrediction(Prediction):
    """Labels of a text with an image: the annotated and the predicted ones, and the probability of each."""

    text: str
    truth: tuple[str, ...]
    predicted: tuple[str, ...]
    probabilities: dict[str, float]

    @property
    def correct(self) -> bool:
        """Whether exactly the annotated labels are predicted; NaN predicts nothing and is never correct."""
        return set(self.predicted) == set(self.truth) and all(map(math.isfinite, self.probabilities.values()))


@torch.no_grad()
def classify(
    model: InferenceModel, features: ImageFeatures, texts: Sequence[str], images: Sequence[int]
) -> list[dict[str, float]]:
    """Return the probability of each label, by name, of each text with one of B images."""
    image_N = torch.tensor(images, device=model.device)
    probability_NY = class_logits(model.model, features, model.tokens(texts), image_N, HEAD).sigmoid()
    names = model.model.head(HEAD, Classifier).names
    return [dict(zip(names, row, strict=True)) for row in probability_NY.tolist()]


@checked
def evaluate_multilabel(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    threshold: Probability = 0.5,
    batch_size: PositiveInt = 32,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], list[MultiLabelPrediction]]:
    """Evaluate multi-label classification; a record holds an image, a caption and `labels`.

    Args:
        limit: number of records; by default all.
        threshold: probability from which a label counts as predicted.
        batch_size: images in a batch.
        skipped: receives the samples that cannot be used.
    Returns:
        metrics, and predictions in the order of the source.  `multilabel_f1` is the F1 score over all
        decisions (micro), `multilabel_f1_macro` its mean over labels, `multilabel_exact` the fraction of
        samples with exactly the annotated labels.
    Raises:
        InputError: there is no usable sample.
        MissingHead: the model was not trained for it.
    """
    samples = SampleReader(predictor, source, limit, skipped, HEAD)
    names = predictor.model.head(HEAD, Classifier).names

    def read(record: Record, file: ImageFile) -> Iterator[tuple[str, tuple[str, ...]]]:
        try:
            truth = tuple(names[index] for index in labels_of(record, names))
        except BadRecord as error:
            samples.skipped.append(error)
            return
        yield from ((text, truth) for _, text in samples.concept_texts(record, file, boxed=False))

    indexed: list[tuple[int, MultiLabelPrediction]] = []
    for batch in batches(samples.queries("texts", read), batch_size):
        features = predictor.encode_images(batch.pixels)
        found = classify(predictor, features, [text for text, _ in batch.contents], batch.image_index)
        for query, probabilities in zip(batch.queries, found, strict=True):
            record, (text, truth) = query.record, query.content
            labels = tuple(label for label, p in probabilities.items() if p >= threshold)
            prediction = MultiLabelPrediction(record.key, record.image, text, truth, labels, probabilities)
            indexed.append((query.index, prediction))
    predictions = samples.gather(indexed, "text with labels")
    pairs = [(set(one.predicted), set(one.truth)) for one in predictions]
    by_label = [f1([({name} & found, {name} & truth) for found, truth in pairs]) for name in names]
    return {
        "multilabel_f1": f1(pairs),
        "multilabel_f1_macro": sum(by_label) / len(by_label),
        "multilabel_exact": sum(one.correct for one in predictions) / len(predictions),
        "multilabel_samples": float(len(predictions)),
        "multilabel_skipped": float(len(samples.skipped)),
    }, predictions


def f1(pairs: Sequence[tuple[set[str], set[str]]]) -> float:
    """Return the F1 score of predicted and annotated labels; 0 if there are none of either."""
    right = sum(len(found & truth) for found, truth in pairs)
    both = sum(len(found) + len(truth) for found, truth in pairs)
    return 2 * right / both if both else 0.0


HEADLINE = {
    "multilabel_f1": "F1 over all labels",
    "multilabel_f1_macro": "F1, mean over labels",
    "multilabel_exact": "samples with exactly the annotated labels",
}


def sections(predictions: Sequence[MultiLabelPrediction]) -> list[Section]:
    """Return examples of samples, and of those with a wrong label."""
    wrong = [one for one in predictions if not one.correct]
    legend = "✓ marks the annotated labels."
    return example_sections(predictions, wrong, example, "Which labels fit?", "With a wrong label", legend)


def example(prediction: MultiLabelPrediction) -> AnswerExample:
    """Show a sample with the probability of each label."""
    choices = [(label, p, label in prediction.truth) for label, p in prediction.probabilities.items()]
    picture = load_picture(prediction.image)
    return AnswerExample([picture], prediction.text, choices, correct=prediction.correct)


def predict(predictor: Any, image: str, text: str) -> dict[str, float]:
    """Compute the probability of each label of a text with an image.

    Args:
        image: path or URL of an image.
        text: text about the image.
    """
    return classify(predictor, predictor.image(image).features, [text], [0])[0]


TASK = Task(
    MultiLabelRun,
    build,
    Measure(evaluate_multilabel, HEADLINE, sections),
    heads={HEAD: HeadSpec(lambda config, _: Classifier(config.text.width, config.labels), uses_labels=True)},
    predict=predict,
)
