"""Captioning: agreement of generated captions with reference captions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xvlm import distributed
from xvlm.common.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Seed, checked
from xvlm.common.terminal import print_notice
from xvlm.data.samples.text_rows import hash_text
from xvlm.data.sources.source import Source
from xvlm.data.text.cleaning import clean_caption
from xvlm.evaluation.common.measure import Measure, Prediction, select_examples
from xvlm.evaluation.common.queries import ImageQueries, Query, batches
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.inference.captioning import caption_images
from xvlm.inference.model import InferenceModel
from xvlm.metrics.captions import caption_scores
from xvlm.models.generation.config import GenerationConfig, TopP
from xvlm.records import BadRecord, Record, normalize_id
from xvlm.reports import AnswerExample, Section
from xvlm.reports.pictures import load_picture

References = tuple[str, ...]


@dataclass(frozen=True)
class CaptionPrediction(Prediction):
    """The caption of an image.

    Attributes:
        image_id: see `image_id`; that of the image's first record.
        references: reference captions; empty in a test set.
        cider: CIDEr of the caption; `None` without references.
    """

    image_id: Any
    caption: str
    references: References
    cider: float | None = None


@checked
def evaluate_captioning(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    num_beams: PositiveInt = 3,
    num_samples: NonNegativeInt = 0,
    top_k: NonNegativeInt = 0,
    top_p: TopP = 1.0,
    temperature: PositiveFloat = 1.0,
    seed: Seed = 0,
    min_tokens: NonNegativeInt = 5,
    max_tokens: PositiveInt = 20,
    repetition_penalty: PositiveFloat = 1.0,
    java: bool = True,
    batch_size: PositiveInt = 32,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], list[CaptionPrediction]]:
    """Evaluate captioning; a record holds an image, and its reference captions if they are known.

    Records of the same image and `image_id`, wherever they are in the source, are one image with all their
    references.

    Args:
        limit: number of records; by default all.
        num_beams: beams of the search for the most probable caption; 1 is greedy.
        num_samples: captions to sample instead, of which the most probable is used; `top_k`, `top_p` or
            `temperature` alone imply one.
        top_k: sample from this many most probable tokens; 0: from all.
        top_p: sample from the most probable tokens that together have this probability.
        temperature: softmax temperature of sampling.
        seed: random seed of sampling.
        min_tokens: minimum number of tokens of a caption, with its prompt.
        max_tokens: maximum number of tokens of a caption, with its prompt.
        repetition_penalty: above 1 makes repeated tokens less probable.
        java: use Java, if it is installed, for the PTB tokenizer, METEOR and SPICE.
        batch_size: images in a batch.
    Returns:
        metrics, and predictions in the order of the source.  Without references, the metrics are only counts.
    Raises MissingHead if the model has no caption decoder, InputError if there is no image.
    """
    config = GenerationConfig(
        num_beams, num_samples, top_k, top_p, temperature, seed, min_tokens, max_tokens, repetition_penalty
    )
    samples = SampleReader(predictor, source, limit, skipped, "caption_decoder")
    indexed: list[tuple[int, CaptionPrediction]] = []
    for batch in batches(read_references(samples), batch_size, batch_size):
        features = predictor.encode_images([batch.images[index].pixels for index in batch.image_index])
        # Samples depend on the record alone, not on the batch or on the folder of its file.
        seeds = [hash_text(f"{seed} {os.path.basename(query.record.key)}") for query in batch.queries]
        captions = caption_images(predictor, features, config, seeds)
        for query, (caption, *_) in zip(batch.queries, captions, strict=True):
            record = query.record
            prediction = CaptionPrediction(record.key, record.image, image_id(record), caption, query.content)
            indexed.append((query.index, prediction))
    predictions = samples.gather(indexed, "image")
    counts = {"caption_images": float(len(predictions)), "caption_skipped": float(len(samples.skipped))}
    labelled = [one for one in predictions if one.references]
    if not labelled:
        return counts, predictions
    texts, references = zip(*((one.caption, one.references) for one in labelled), strict=True)
    scores = distributed.broadcast_result(lambda: caption_scores(texts, references, java))
    if distributed.is_main():
        print_notice(scores.note)
    cider = iter(scores.cider)
    predictions = [replace(one, cider=next(cider)) if one.references else one for one in predictions]
    return scores.metrics | counts | {"caption_labelled": float(len(labelled))}, predictions


def read_references(samples: SampleReader) -> Iterator[ImageQueries[References]]:
    """Yield this rank's images, each with the references of every `image_id` that it has."""
    for image in samples.images("captions", lambda record: [image_id(record)]):
        by_id: dict[str, Query[References]] = {}
        for index, record in image.records:
            name = normalize_id(image_id(record))
            query = by_id.setdefault(name, Query(index, record, ()))
            by_id[name] = replace(query, content=(*query.content, *references_of(samples, record)))
        yield image, list(by_id.values())


def references_of(samples: SampleReader, record: Record) -> Iterator[str]:
    """Yield a record's captions of the whole image, in any vocabulary; skip empty ones."""
    samples.skipped.extend(bad for bad in record.bad if not bad.detail.startswith("elems["))
    for text in (text for concept in record.concepts if concept.box_xyxy is None for text in concept.texts):
        try:
            clean_caption(text)
        except BadRecord as error:
            samples.skipped.append(BadRecord(error.reason, record.key, error.detail))
        else:
            yield text


def image_id(record: Record) -> Any:
    """Return the id of a record's image.

    It is `image_id`, else the number at the end of the file name as in COCO (published), else the file name;
    for an image that is not a file it is the record's key.
    """
    if record.extra.get("image_id") is not None:
        return record.extra["image_id"]
    if not isinstance(record.image, str):
        return record.key
    name = os.path.basename(record.image)
    last = os.path.splitext(name)[0].rpartition("_")[2]
    return int(last) if last.isascii() and last.isdigit() else name


def submission(predictions: Sequence[CaptionPrediction]) -> list[dict[str, Any]]:
    """Return the file that the servers of COCO and nocaps take, with each id once."""
    first: dict[str, CaptionPrediction] = {}
    for one in predictions:
        first.setdefault(normalize_id(one.image_id), one)
    return [{"image_id": one.image_id, "caption": one.caption} for one in first.values()]


HEADLINE = {
    "caption_cider": "CIDEr",
    "caption_bleu4": "BLEU-4",
    "caption_meteor": "METEOR",
    "caption_rouge_l": "ROUGE-L",
    "caption_spice": "SPICE",
}


def sections(predictions: Sequence[CaptionPrediction]) -> list[Section]:
    """Return examples of captions, and those with the highest and the lowest CIDEr."""
    scored = [one for one in predictions if one.cider is not None]
    scored.sort(key=lambda one: -(one.cider or 0.0))
    return [
        Section("What does it say?", "Randomly selected.", select_examples(predictions, example)),
        Section("The best", "Highest CIDEr.", [example(one) for one in scored[:6]]),
        Section("The worst", "Lowest CIDEr.", [example(one) for one in scored[-6:][::-1]]),
    ]


def example(prediction: CaptionPrediction) -> AnswerExample:
    """Show a caption with up to three references."""
    lines = [("reference", text) for text in prediction.references[:3]]
    note = "" if prediction.cider is None else f"CIDEr {prediction.cider:.2f}"
    return AnswerExample([load_picture(prediction.image)], prediction.caption, lines=lines, note=note)


MEASURE = Measure(
    evaluate_captioning, HEADLINE, sections, format_score=lambda score: f"{score:.3f}", submission=submission
)
