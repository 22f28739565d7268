"""Two-stage retrieval: rank by contrastive scores, then rerank the best of each query by the matching head.

Memory does not grow with images times texts, since only the best candidates of each query are stored.  Each
rank encodes and ranks a part of the images and texts, and matches the candidate pairs of its own images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from xvlm import distributed
from xvlm.common.errors import InputError
from xvlm.common.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, checked
from xvlm.data.sources.source import Source
from xvlm.data.text.cleaning import clean_caption
from xvlm.evaluation.common.candidates import (
    CandidateScores,
    CandidateSet,
    TruePairs,
    contrastive_candidates,
)
from xvlm.evaluation.common.feature_cache import (
    CaptionedImage,
    ImageFeatureCache,
    TextFeatureCache,
    empty_rows,
)
from xvlm.evaluation.common.measure import Measure
from xvlm.evaluation.common.phrase_scores import PhraseScorer
from xvlm.evaluation.common.queries import DecodedImage, chunks
from xvlm.evaluation.common.ranks import gather_rows, rank_slice
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.reranking import match_candidates
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.evaluation.retrieval_result import NUM_LISTED, RetrievalResult, sections
from xvlm.inference.model import InferenceModel
from xvlm.metrics.recall import recall_metrics
from xvlm.records import BadRecord

TEXTS_AT_ONCE = 256
Rerank = Literal["both", "matching", "published"]
"""Score by which candidates are reranked; see `evaluate_retrieval`."""


@checked
@torch.no_grad()
def evaluate_retrieval(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    rerank_top_k: NonNegativeInt = 32,
    rerank: Rerank = "both",
    matching_weight: NonNegativeFloat | None = None,
    phrase_weight: NonNegativeFloat | None = None,
    texts_per_image: PositiveInt | None = None,
    shared_captions: bool = True,
    batch_size: PositiveInt = 32,
    memory_gb: NonNegativeFloat = 4.0,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], RetrievalResult]:
    """Evaluate image and text retrieval; a record holds an image with captions.

    Records of the same image, wherever they are in the source, are one image with all their captions.
    Candidates of equal score count as in random order (`metrics/recall.py`).

    Args:
        limit: number of records; by default all.
        rerank_top_k: number of candidates of each query that are reranked by matching; 0 does not rerank.
        rerank: score to rerank by.  "both" adds the weighted matching log-odds to the contrastive score:
            matching is trained on negatives sampled in proportion to the contrastive similarity, so its
            log-odds are the correction to that distribution, and the sum estimates the true one.  "matching"
            uses the log-odds alone, "published" the logit of a match alone, as the published evaluation does.
        matching_weight: weight of the log-odds in "both"; by default the model's own, which is 1 unless it
            was fitted on held-out images (`evaluation/score_weights.py`).
        phrase_weight: weight in "both" of the score of the captions' phrases with the image's patches
            (`evaluation/common/phrase_scores.py`); by default the model's own, which is 0 (published) unless
            it was fitted too.  With 0 they are not scored.
        texts_per_image: number of captions of each image that are used, the first ones; by default all.
        shared_captions: a text that equals a caption of an image, once cleaned, is true of that image too;
            otherwise only the image's own captions are (published).
        batch_size: images in a batch.
        memory_gb: gigabytes on each rank for cached features: those of texts, then those of images.  Features
            that do not fit are encoded again when they are needed.
    Returns:
        metrics and ranked lists, the same on all ranks.
    Raises MissingHead if the model lacks a contrastive head, or a matching head to rerank with; InputError if
    no image has a caption.
    """
    samples = SampleReader(predictor, source, limit, skipped, "contrastive")
    if rerank_top_k:
        predictor.model.head("matching", nn.Module)
    check_rerank(rerank)
    budget = int(memory_gb * 1e9) if rerank_top_k else 0
    weights = (
        predictor.matching_weight if matching_weight is None else matching_weight,
        predictor.phrase_weight if phrase_weight is None else phrase_weight,
    )
    image_cache = ImageFeatureCache(predictor, source, budget)
    own_IE = embed_images(image_cache, read_captions(samples, texts_per_image), batch_size)
    images = distributed.gather_lists([image for chunk in image_cache.chunks for image in chunk])
    texts = [text for image in images for text in image.texts]
    samples.finish(len(texts), "image with a caption")
    image_I = torch.arange(len(images), device=predictor.device)
    image_N = image_I.repeat_interleave(torch.tensor([len(image.texts) for image in images]).to(image_I))
    text_cache = TextFeatureCache(predictor.model, predictor.tokens(texts), budget)
    image_cache.reduce_budget(budget - text_cache.cached_bytes)

    text_id_N = text_ids(texts, shared_captions).to(image_I)
    pairs = TruePairs(image_N, text_id_N)
    image_set = CandidateSet(gather_rows(own_IE), image_I)
    text_set = CandidateSet(gather_rows(embed_texts(text_cache, len(texts))), text_id_N)
    temperature, k = predictor.model.contrastive.temperature, max(rerank_top_k, NUM_LISTED)
    i2t = contrastive_candidates(image_set, text_set, temperature, k, pairs=pairs)
    t2i = contrastive_candidates(text_set, image_set, temperature, k, pairs=pairs.swapped())
    metrics = {
        "retrieval_images": float(len(images)),
        "retrieval_texts": float(len(texts)),
        "retrieval_skipped": float(len(samples.skipped)),
        **recall_metrics(i2t.rank_Q3, t2i.rank_Q3, "_contrastive"),
    }
    scores: tuple[CandidateScores, ...] = ()
    if rerank_top_k:
        text_Ik, image_Nk = i2t.index_Qk[:, :rerank_top_k], t2i.index_Qk[:, :rerank_top_k]
        phrases = None
        if rerank == "both" and weights[1]:
            phrases = phrase_scorer(predictor, texts, image_cache)
        score_CIk, score_CNk = match_candidates(
            image_cache, text_cache, text_Ik, image_Nk, rerank == "published", phrases
        )
        scores = (
            CandidateScores.of(i2t, score_CIk, image_set, text_set, pairs),
            CandidateScores.of(t2i, score_CNk, text_set, image_set, pairs.swapped()),
        )
        score_Ik, score_Nk = (
            one.combined(*weights) if rerank == "both" else one.matching_Qk for one in scores
        )
        i2t = i2t.reranked(score_Ik, scores[0].true_Qk)
        t2i = t2i.reranked(score_Nk, scores[1].true_Qk)
        metrics |= recall_metrics(i2t.rank_Q3, t2i.rank_Q3)
    result = RetrievalResult(source, images, texts, image_N, text_id_N, i2t, t2i, rerank_top_k, scores)
    return metrics, result


def check_rerank(rerank: str) -> None:
    """Raise InputError if `rerank` is not one of `Rerank`."""
    *others, last = get_args(Rerank)
    if rerank not in (*others, last):
        raise InputError(f"rerank is {rerank!r}; it may be {', '.join(others)} or {last}")


def read_captions(
    samples: SampleReader, texts_per_image: int | None
) -> Iterator[tuple[CaptionedImage, DecodedImage]]:
    """Yield this rank's images with the captions of all their records; skip records without a caption."""
    for image in samples.images("encoding images"):
        captions: list[str] = []
        for _, record in image.records:
            own = [text for _, text in samples.concept_texts(record, image.file, boxed=False)]
            if not own:
                samples.skipped.append(BadRecord("no caption", record.key))
            captions += own
        if captions:
            index, first = image.records[0]
            path = first.image if isinstance(first.image, str) else None
            yield CaptionedImage(first.key, path, index, tuple(captions[:texts_per_image])), image


def text_ids(texts: Sequence[str], shared: bool) -> Tensor:
    """Return (N,) int64 ids from 0; if `shared`, texts that are equal once cleaned have the same id."""
    if not shared:
        return torch.arange(len(texts))
    ids: dict[str, int] = {}
    return torch.tensor([ids.setdefault(clean_caption(text), len(ids)) for text in texts])


def embed_images(
    cache: ImageFeatureCache, images: Iterable[tuple[CaptionedImage, DecodedImage]], batch_size: int
) -> Tensor:
    """Return the (I, E) contrastive embeddings of this rank's images, and add their tokens to the cache."""
    model = cache.predictor.model
    parts = [empty_rows(model, model.config.embed_dim)]
    for chunk in chunks(images, batch_size):
        tokens, cls_BD = cache.encode([image.pixels for _, image in chunk])
        cache.add([captioned for captioned, _ in chunk], tokens)
        parts.append(model.contrastive.embed_concepts(cls_BD))
    return torch.cat(parts)


def embed_texts(cache: TextFeatureCache, count: int) -> Tensor:
    """Return the (N, E) contrastive embeddings of this rank's part of `count` texts."""
    model = cache.model
    batches = torch.arange(count, device=cache.is_cached_N.device)[rank_slice(count)].split(TEXTS_AT_ONCE)
    parts = [model.contrastive.embed_texts(cache(text_U).cls_ND) for text_U in batches if len(text_U)]
    return torch.cat([empty_rows(model, model.config.embed_dim), *parts])


def phrase_scorer(predictor: InferenceModel, texts: Sequence[str], images: ImageFeatureCache) -> PhraseScorer:
    """Return the scorer of the N texts' phrases, which has judged them by the first of the images."""
    scorer = PhraseScorer(predictor, texts)
    for concepts in images:
        if not scorer.add_images(concepts):
            break
    scorer.finish()
    return scorer


HEADLINE = {
    "t2i_r1": "text to image: right image first",
    "i2t_r1": "image to text: right text first",
    "t2i_r1_contrastive": "text to image, before reranking",
    "i2t_r1_contrastive": "image to text, before reranking",
    "r_mean": "mean recall at 1, 5 and 10, both directions",
}
MEASURE = Measure(evaluate_retrieval, HEADLINE, sections)
