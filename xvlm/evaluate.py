"""Zero-shot grounding and two-stage retrieval, directly from the pre-trained heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from xvlm.data.checks import usable_concepts
from xvlm.data.images import Opened, open_image
from xvlm.data.sources import Source, open_source
from xvlm.metrics.grounding import grounding_metrics
from xvlm.metrics.recall import recall_metrics
from xvlm.model.folder import Loaded
from xvlm.model.packing import Packing
from xvlm.model.text import TextFeatures
from xvlm.predict import Predictor, embed_images, ground, match_logits, whole_images
from xvlm.progress import tracked
from xvlm.records import BadRecord, BoxXYXY, Concept, ImageData, Record
from xvlm.tasks.pretrain import DevConfig
from xvlm.train.start import Evaluation


@dataclass(frozen=True)
class GroundingPrediction:
    """One phrase in one image; boxes in pixels of the upright image."""

    key: str
    image: ImageData
    text: str
    true_xyxy: BoxXYXY
    predicted_xyxy: BoxXYXY
    iou: float
    score: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; an image that is no path is left out."""
        image = self.image if isinstance(self.image, str) else None
        return {**vars(self), "image": image}


def evaluate_grounding(
    predictor: Predictor, source: Source, limit: int | None = None, batch: int = 32
) -> tuple[dict[str, float], list[GroundingPrediction]]:
    """Every text of every boxed concept of a source is a case.

    Records that follow each other and name the same image file are asked on one encoding of it.

    Returns:
        (metrics, with `grounding_bad_records`; predictions in the source's order).
    """
    bad: list[BadRecord] = []
    predictions: list[GroundingPrediction] = []
    photos = _photos(predictor, source, limit, bad)
    for group in _chunks(photos, batch):
        cases = [(b, case) for b, (_, cases) in enumerate(group) for case in cases]
        if not cases:
            continue
        features = predictor.encode_images([photo.pixels for photo, _ in group])
        texts = predictor.encode_texts([case.text for _, case in cases])
        image_N = torch.tensor([b for b, _ in cases], device=predictor.device)
        box_N4, score_N = ground(predictor.model, features, texts, image_N)
        for (b, case), box, score in zip(cases, box_N4.tolist(), score_N.tolist(), strict=True):
            photo = group[b][0].opened
            x0, y0, x1, y1 = box
            pixels_xyxy = (x0 * photo.width, y0 * photo.height, x1 * photo.width, y1 * photo.height)
            predictions.append(_predicted(case, pixels_xyxy, score))
    true_N4 = torch.tensor([p.true_xyxy for p in predictions]).view(-1, 4)
    predicted_N4 = torch.tensor([p.predicted_xyxy for p in predictions]).view(-1, 4)
    metrics = grounding_metrics(predicted_N4, true_N4)
    return {**metrics, "grounding_bad_records": float(len(bad))}, predictions


def _predicted(case: _Case, pixels_xyxy: BoxXYXY, score: float) -> GroundingPrediction:
    one = grounding_metrics(torch.tensor([pixels_xyxy]), torch.tensor([case.box_xyxy]))
    return GroundingPrediction(
        case.key, case.image, case.text, case.box_xyxy, pixels_xyxy, one["grounding_miou"], score
    )


@dataclass(frozen=True)
class _Case:
    key: str
    image: ImageData
    text: str
    box_xyxy: BoxXYXY


@dataclass(frozen=True, eq=False)
class _Photo:
    """An image that decodes: its file, and its pixels (3, height, width) as the model sees them."""

    image: ImageData
    opened: Opened
    pixels: Tensor


def _read(
    predictor: Predictor, source: Source, limit: int | None, bad: list[BadRecord], title: str
) -> Iterator[tuple[Record, list[Concept], _Photo]]:
    """Records in order, with what is usable of them; an image of the record before is not decoded again.

    What is not usable goes to `bad`: records, concepts, and texts of which cleaning leaves nothing.
    """
    photo: _Photo | None = None
    count = len(source) if limit is None else min(limit, len(source))
    for index in tracked(range(count), title, count):
        try:
            record = source[index]
            if photo is None or not isinstance(record.image, str) or record.image != photo.image:
                opened = open_image(record.image, key=record.key)
                photo = _Photo(record.image, opened, predictor.pixels(opened))
            usable, dropped = usable_concepts(record, photo.opened)
        except BadRecord as error:
            bad.append(error)
            continue
        bad.extend(dropped)
        yield record, [_readable(predictor, concept, record.key, bad) for concept in usable], photo


def _readable(predictor: Predictor, concept: Concept, key: str, bad: list[BadRecord]) -> Concept:
    """The concept with those of its texts that have tokens."""
    texts = []
    for text in concept.texts:
        try:
            predictor.tokens([text])
            texts.append(text)
        except BadRecord as error:
            bad.append(BadRecord(error.reason, key, error.detail))
    return replace(concept, texts=tuple(texts))


def _photos(
    predictor: Predictor, source: Source, limit: int | None, bad: list[BadRecord]
) -> Iterator[tuple[_Photo, list[_Case]]]:
    """Images with their cases; neighbours of one path together."""
    for photo, group in groupby(_read(predictor, source, limit, bad, "grounding"), key=lambda item: item[2]):
        yield (
            photo,
            [
                _Case(record.key, record.image, text, concept.box_xyxy)
                for record, concepts, _ in group
                for concept in concepts
                if concept.box_xyxy is not None
                for text in concept.texts
            ],
        )


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@dataclass(frozen=True)
class Retrieval:
    """Scores of I images x T texts.

    Attributes:
        keys, images: of the I images.
        texts: T.
        image_T: (T,) which image each text describes.
        contrastive_IT: (I, T) cosine over temperature.
        reranked_IT: (I, T) the same order, but that the best `top` of each query stand first, by `rerank`.
    """

    keys: list[str]
    images: list[ImageData]
    texts: list[str]
    image_T: Tensor
    contrastive_IT: Tensor
    reranked_IT: Tensor

    def to_json(self, first: int = 10) -> dict[str, Any]:
        """The ranked lists: for every query its first candidates with their scores."""

        def ranked(score_QC: Tensor) -> list[list[list[float]]]:
            best = score_QC.topk(min(first, score_QC.shape[1]), dim=1)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return [[[i, s] for i, s in zip(index, value, strict=True)] for index, value in pairs]

        return {
            "images": [
                {"key": key, "image": image if isinstance(image, str) else None}
                for key, image in zip(self.keys, self.images, strict=True)
            ],
            "texts": [
                {"text": text, "image": image}
                for text, image in zip(self.texts, self.image_T.tolist(), strict=True)
            ],
            "i2t": ranked(self.reranked_IT),
            "t2i": ranked(self.reranked_IT.T),
        }


def evaluation(dev: DevConfig) -> Evaluation | None:
    """What a run asks to be measured while it trains; `None` where it asks for nothing.

    Raises FileNotFoundError or ValueError, before anything is trained, for a source that cannot be opened.
    """
    limit, root = dev.limit or None, dev.image_root or None
    grounding = open_source(dev.grounding, root) if dev.grounding else None
    retrieval = open_source(dev.retrieval, root) if dev.retrieval else None
    if grounding is None and retrieval is None:
        return None

    def measure(loaded: Loaded) -> dict[str, float]:
        predictor = Predictor(loaded)
        found = evaluate_grounding(predictor, grounding, limit)[0] if grounding else {}
        ranked = evaluate_retrieval(predictor, retrieval, limit, dev.top)[0] if retrieval else {}
        return found | ranked

    return measure


RERANK = ("both", "matching")


def evaluate_retrieval(
    predictor: Predictor,
    source: Source,
    limit: int | None = None,
    top: int = 32,
    rerank: str = "both",
    texts_per_image: int | None = None,
    batch: int = 32,
) -> tuple[dict[str, float], Retrieval]:
    """Rank by contrastive scores, then rerank each query's best `top` by the matching head.

    Args:
        rerank: "both" adds the matching log-odds to the contrastive score: matching is trained on negatives
            drawn in proportion to the contrastive similarity, so its log-odds are the correction to that
            distribution, and the sum is the estimate of the true one.  "matching" ranks by
            the log-odds alone (published).
        top: candidates reranked for every query; 0 does not rerank.
        texts_per_image: use only the first so many captions of every image.
    """
    if rerank not in RERANK:
        raise ValueError(f"rerank is {rerank!r}; it may be {' or '.join(RERANK)}")
    model = predictor.model
    bad: list[BadRecord] = []
    keys: list[str] = []
    images: list[ImageData] = []
    texts: list[str] = []
    image_of_text: list[int] = []
    embedded: list[Tensor] = []
    for chunk in _chunks(_captioned(_read(predictor, source, limit, bad, "encoding images"), bad), batch):
        for record, captions, _ in chunk:
            image_of_text += [len(images)] * len(captions[:texts_per_image])
            texts += captions[:texts_per_image]
            keys.append(record.key)
            images.append(record.image)
        embedded.append(embed_images(model, predictor.encode_images([photo.pixels for _, _, photo in chunk])))
    if not images:
        raise ValueError(
            f"{source.name} has no image with a caption; first problem: {bad[0] if bad else 'it is empty'}"
        )
    encoded = encode_all(predictor, texts)
    image_T = torch.tensor(image_of_text, device=predictor.device)
    cosine_IT = torch.cat(embedded) @ model.contrastive.embed_texts(encoded.summary_ND).T
    contrastive_IT = cosine_IT.detach() / model.contrastive.temperature.detach()
    metrics = {
        "retrieval_images": float(len(images)),
        "retrieval_texts": float(len(texts)),
        "retrieval_bad_records": float(len(bad)),
        **recall_metrics(contrastive_IT, image_T, "_contrastive"),
    }
    reranked_IT = contrastive_IT
    if top:
        reranked_IT = _rerank(predictor, images, keys, encoded, contrastive_IT, top, rerank, batch)
        metrics |= recall_metrics(reranked_IT, image_T)
    return metrics, Retrieval(keys, images, texts, image_T, contrastive_IT, reranked_IT)


def _captioned(
    read: Iterable[tuple[Record, list[Concept], _Photo]], bad: list[BadRecord]
) -> Iterator[tuple[Record, list[str], _Photo]]:
    """Records with their captions; those without one are counted."""
    for record, concepts, photo in read:
        captions = [text for concept in concepts if concept.box_xyxy is None for text in concept.texts]
        if captions:
            yield record, captions, photo
        else:
            bad.append(BadRecord("no caption", record.key))


def encode_all(predictor: Predictor, texts: Sequence[str], batch: int = 256) -> TextFeatures:
    """Any number of texts -> one packed whole."""
    chunks = list(_chunks(texts, batch))
    parts = [predictor.encode_texts(chunk) for chunk in tracked(chunks, "encoding texts", len(chunks))]
    states_TD = torch.cat([part.states_TD for part in parts])
    lengths_N = torch.cat([part.packing.lengths_S for part in parts])
    packing = Packing.of(lengths_N, states_TD.shape[0], max(part.packing.longest for part in parts))
    return TextFeatures(states_TD, packing, torch.cat([part.summary_ND for part in parts]))


@torch.no_grad()
def _rerank(
    predictor: Predictor,
    images: Sequence[ImageData],
    keys: Sequence[str],
    texts: TextFeatures,
    contrastive_IT: Tensor,
    top: int,
    rerank: str,
    batch: int,
) -> Tensor:
    """(I, T): candidates of either direction scored once, image by image, above all others."""
    wanted_IT = torch.zeros_like(contrastive_IT, dtype=torch.bool)
    for dim in (0, 1):
        best = contrastive_IT.topk(min(top, contrastive_IT.shape[dim]), dim=dim).indices
        wanted_IT.scatter_(dim, best, True)
    # Those that are not reranked keep their order, behind; in float32 scores near -10000 would tie.
    score_IT = contrastive_IT.double() + (contrastive_IT.amin() - contrastive_IT.amax() - 1e4)
    chunks = list(_chunks(range(len(images)), batch))
    for chunk in tracked(chunks, "reranking", len(chunks)):
        pixels = [predictor.pixels(open_image(images[i], key=keys[i])) for i in chunk]
        features = predictor.encode_images(pixels)
        concepts = whole_images(predictor.model, features)
        keys_values = predictor.model.fusion.keys_values(concepts)
        index = torch.tensor(chunk, device=wanted_IT.device)
        pairs_R2 = wanted_IT[index].nonzero()
        for rows in pairs_R2.split(1024):
            logit_R = match_logits(predictor.model, concepts, texts, rows[:, 0], rows[:, 1], keys_values)
            image_R, text_R = index[rows[:, 0]], rows[:, 1]
            prior_R = contrastive_IT[image_R, text_R] if rerank == "both" else 0.0
            score_IT[image_R, text_R] = (logit_R + prior_R).double()
    return score_IT
