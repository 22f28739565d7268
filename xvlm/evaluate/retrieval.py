"""Two-stage retrieval: rank by contrastive scores, then the best of each query by the matching head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xvlm.data.images import open_image
from xvlm.data.sources import Source
from xvlm.evaluate._read import captioned, chunks, read
from xvlm.metrics.recall import recall_metrics
from xvlm.model.packing import Packing
from xvlm.model.text import TextFeatures
from xvlm.predict import Predictor, embed_images, match_logits, whole_images
from xvlm.progress import tracked
from xvlm.records import BadRecord, ImageData


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
    for chunk in chunks(captioned(read(predictor, source, limit, bad, "encoding images"), bad), batch):
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


def encode_all(predictor: Predictor, texts: Sequence[str], batch: int = 256) -> TextFeatures:
    """Any number of texts -> one packed whole."""
    several = list(chunks(texts, batch))
    parts = [predictor.encode_texts(chunk) for chunk in tracked(several, "encoding texts", len(several))]
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
    several = list(chunks(range(len(images)), batch))
    for chunk in tracked(several, "reranking", len(several)):
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


evaluate = evaluate_retrieval
