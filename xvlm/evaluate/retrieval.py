"""Two-stage retrieval: rank by contrastive scores, then the best of each query by the matching head.

Nothing here grows with images times texts: of every query only its best candidates are kept.  Each rank
encodes and ranks a part of the images and texts, and matches the candidate pairs of its own images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from xvlm import dist
from xvlm.data.sources import Source
from xvlm.errors import InputError
from xvlm.evaluate._candidates import Ranked, Side, contrastive_candidates, gathered, share
from xvlm.evaluate._read import Photo, captioned, check_any, chunks, needs, read
from xvlm.evaluate._states import Described, ImageTokens, TextStates
from xvlm.metrics.recall import NEVER, recall_metrics
from xvlm.model.attention import ConceptTokens
from xvlm.model.heads import at_least_float
from xvlm.model.xvlm import XVLM
from xvlm.predict import Predictor, match_logits
from xvlm.progress import tracked
from xvlm.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from xvlm.records import BadRecord, ImageData

LISTED = 10
"""Candidates of each query that are written down."""
TEXTS_AT_ONCE = 256
PAIRS_AT_ONCE = 512
RERANK = ("both", "matching")


@dataclass(frozen=True)
class Retrieval:
    """The ranked lists of I images and T texts.

    Attributes:
        source: where the images are.
        images: I, each with its texts.
        texts: T, those of the first image first.
        image_T: (T,) which image each text describes.
        i2t: of each image its best texts.
        t2i: of each text its best images.
        top: so many of each list stand in the order of reranking, with its scores; those behind them as the
            contrastive scores say.
    """

    source: Source
    images: list[Described]
    texts: list[str]
    image_T: Tensor
    i2t: Ranked
    t2i: Ranked
    top: int

    def image(self, number: int) -> ImageData:
        """Image `number`, read again."""
        return self.source[self.images[number].number].image

    def texts_of(self, image: int) -> list[int]:
        """The numbers of the texts that describe an image."""
        return (self.image_T == image).nonzero()[:, 0].tolist()

    def to_json(self) -> dict[str, Any]:
        """The ranked lists: of every query its true candidates, the rank of the first of them (1: it is the
        best of all; null: its score is not a number), and the first 10 candidates with their scores."""
        true_I: list[list[int]] = [[] for _ in self.images]
        image_of_text = self.image_T.tolist()
        for text, image in enumerate(image_of_text):
            true_I[image].append(text)
        return {
            "images": [{"key": one.key, "image": one.path} for one in self.images],
            "texts": [
                {"text": text, "image": image} for text, image in zip(self.texts, image_of_text, strict=True)
            ],
            "reranked": self.top,
            "i2t": _lists(self.i2t, true_I),
            "t2i": _lists(self.t2i, [[image] for image in image_of_text]),
        }


def _lists(ranked: Ranked, true_Q: Iterable[list[int]]) -> list[dict[str, Any]]:
    best = (ranked.index_Qk[:, :LISTED].tolist(), ranked.score_Qk[:, :LISTED].tolist())
    return [
        {
            "true": true,
            "rank": rank + 1 if rank < NEVER else None,
            "best": list(zip(index, score, strict=True)),
        }
        for true, rank, index, score in zip(true_Q, ranked.rank_Q.tolist(), *best, strict=True)
    ]


@torch.no_grad()
def evaluate_retrieval(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    top: NonNegativeInt = 32,
    rerank: str = "both",
    texts_per_image: PositiveInt | None = None,
    batch: PositiveInt = 32,
    memory: NonNegativeFloat = 4.0,
) -> tuple[dict[str, float], Retrieval]:
    """Rank by contrastive scores, then rerank each query's best `top` by the matching head.

    Every record is an image with captions; neighbours that name the same image file are one image.

    Args:
        rerank: "both" adds the matching log-odds to the contrastive score: matching is trained on negatives
            drawn in proportion to the contrastive similarity, so its log-odds are the correction to that
            distribution, and the sum is the estimate of the true one.  "matching" ranks by
            the log-odds alone (published).
        top: candidates reranked for every query; 0 does not rerank.
        texts_per_image: use only the first so many captions of every image.
        memory: gigabytes on each rank for what reranking can use again: the states of texts, then the tokens
            of images.  What does not fit is encoded again when it is needed.
    Returns:
        (metrics, the ranked lists), the same on all ranks.
    Raises:
        MissingPart: the model has no contrastive head, or none for matching where some are reranked.
        InputError: no image has a caption; the message says why not.
    """
    needs(predictor, "contrastive")
    if top:
        needs(predictor, "matching")
    if rerank not in RERANK:
        raise InputError(f"rerank is {rerank!r}; it may be {' or '.join(RERANK)}")
    budget = int(memory * 1e9) if top else 0
    bad: list[BadRecord] = []
    own = ImageTokens(predictor, source, budget)
    image_BE = embedded_images(own, described(predictor, source, limit, texts_per_image, bad), batch)
    images = dist.collected([image for chunk in own.chunks for image in chunk])
    bad = dist.collected(bad)
    check_any(images, source, "image with a caption", bad)
    texts = [text for image in images for text in image.texts]
    image_I = torch.arange(len(images), device=predictor.device)
    image_T = image_I.repeat_interleave(torch.tensor([len(one.texts) for one in images]).to(image_I))
    states = TextStates(predictor.model, predictor.tokens(texts), budget)
    own.keep_within(budget - states.kept_bytes)

    image_side = Side(gathered(image_BE), image_I)
    text_side = Side(gathered(embedded_texts(states, len(texts))), image_T)
    temperature = predictor.model.contrastive.temperature
    best = max(top, LISTED)
    i2t = contrastive_candidates(image_side, text_side, temperature, best)
    t2i = contrastive_candidates(text_side, image_side, temperature, best)
    metrics = {
        "retrieval_images": float(len(images)),
        "retrieval_texts": float(len(texts)),
        "retrieval_bad_records": float(len(bad)),
        **recall_metrics(i2t.rank_Q, t2i.rank_Q, "_contrastive"),
    }
    if top:
        i2t_logit_Ik, t2i_logit_Tk = match_candidates(
            own, states, i2t.index_Qk[:, :top], t2i.index_Qk[:, :top]
        )
        prior = float(rerank == "both")
        i2t = i2t.reranked(i2t_logit_Ik + prior * i2t.score_Qk[:, :top], image_side, text_side)
        t2i = t2i.reranked(t2i_logit_Tk + prior * t2i.score_Qk[:, :top], text_side, image_side)
        metrics |= recall_metrics(i2t.rank_Q, t2i.rank_Q)
    return metrics, Retrieval(source, images, texts, image_T, i2t, t2i, top)


def none_yet(model: XVLM, *width: int) -> Tensor:
    """(0, ...) scores or embeddings: what a rank has that has no image."""
    return at_least_float(model.contrastive.temperature.new_empty(0, *width))


def embedded_images(own: ImageTokens, images: Iterable[tuple[Described, Photo]], batch: int) -> Tensor:
    """(B, E) this rank's images in the contrastive space; what texts look at of them goes to `own`."""
    model = own.predictor.model
    parts = [none_yet(model, model.config.embed_dim)]
    for chunk in chunks(images, batch):
        tokens, cls_BD = own.encode([photo.pixels for _, photo in chunk])
        own.add([image for image, _ in chunk], tokens)
        parts.append(model.contrastive.embed_concepts(cls_BD))
    return torch.cat(parts)


def embedded_texts(states: TextStates, count: int) -> Tensor:
    """(N, E) this rank's share of `count` texts in the contrastive space."""
    model = states.model
    several = torch.arange(count, device=states.known_N.device)[share(count)].split(TEXTS_AT_ONCE)
    parts = [model.contrastive.embed_texts(states(text_U).summary_ND) for text_U in several if len(text_U)]
    return torch.cat([none_yet(model, model.config.embed_dim), *parts])


def described(
    predictor: Predictor,
    source: Source,
    limit: int | None,
    texts_per_image: int | None,
    bad: list[BadRecord],
) -> Iterator[tuple[Described, Photo]]:
    """This rank's images with their captions, of several neighbours if they name one image file."""
    read_records = captioned(read(predictor, source, limit, bad, "encoding images"), bad)
    for photo, group in groupby(read_records, key=itemgetter(2)):
        said = list(group)
        captions = [caption for _, captions, _ in said for caption in captions][:texts_per_image]
        path = photo.image if isinstance(photo.image, str) else None
        yield Described(said[0][0].key, path, photo.number, tuple(captions)), photo


def match_candidates(
    own: ImageTokens, states: TextStates, text_Ik: Tensor, image_Tk: Tensor
) -> tuple[Tensor, Tensor]:
    """Matching log-odds (I, k) of each image's texts, (T, k) of each text's images.

    A pair that both directions want is scored once, by the rank whose image it is.

    Args:
        text_Ik: (I, k) the candidates of each image.
        image_Tk: (T, k) those of each text.
    """
    texts = image_Tk.shape[0]
    image_I1 = torch.arange(text_Ik.shape[0], device=text_Ik.device)[:, None]
    text_T1 = torch.arange(texts, device=text_Ik.device)[:, None]
    wanted = torch.cat(((image_I1 * texts + text_Ik).flatten(), (image_Tk * texts + text_T1).flatten()))
    pair_P, place = wanted.unique(return_inverse=True)  # in the order of images, so of ranks
    lengths = [len(chunk) for chunk in own.chunks]
    first = sum(dist.sizes(sum(lengths), pair_P)[: dist.rank()])
    firsts = list(accumulate(lengths, initial=first))
    borders = torch.searchsorted(pair_P, torch.tensor(firsts, device=pair_P.device) * texts).tolist()
    title = f"reranking ({states.told}, {own.told})"
    parts = [none_yet(states.model)]
    for number, concepts in enumerate(tracked(own, title, len(lengths))):
        pair_R = pair_P[borders[number] : borders[number + 1]]
        parts.append(match_pairs(states, concepts, pair_R // texts - firsts[number], pair_R % texts))
    logit_P = gathered(torch.cat(parts))
    i2t, t2i = logit_P[place].split((text_Ik.numel(), image_Tk.numel()))
    return i2t.view_as(text_Ik), t2i.view_as(image_Tk)


def match_pairs(states: TextStates, concepts: ConceptTokens, concept_R: Tensor, text_R: Tensor) -> Tensor:
    """(R,) log-odds that text `text_R[r]` describes concept `concept_R[r]`; both (R,) int64.

    Text by text, so that of few texts at a time the states are at hand and all images are looked at alike.
    """
    keys_values = states.model.fusion.keys_values(concepts)
    order_R = text_R.argsort(stable=True)
    parts = []
    for rows in order_R.split(PAIRS_AT_ONCE):
        text_U, place_R = text_R[rows].unique(return_inverse=True)
        parts.append(
            match_logits(states.model, concepts, states(text_U), concept_R[rows], place_R, keys_values)
        )
    logit_R = torch.cat(parts)
    return torch.empty_like(logit_R).index_copy_(0, order_R, logit_R)


evaluate = evaluate_retrieval
