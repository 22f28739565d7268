"""Two-stage retrieval: rank by contrastive scores, then the best of each query by the matching head.

Nothing here grows with images times texts: of every query only its best candidates are kept.  Each rank
encodes and ranks a part of the images and texts, and matches the candidate pairs of its own images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from xvlm import dist
from xvlm.data.sources import Source
from xvlm.data.text import clean_caption
from xvlm.errors import InputError
from xvlm.evaluate._candidates import Pairs, Ranked, Side, contrastive_candidates, gathered, share
from xvlm.evaluate._read import Photo, check_any, check_least, chunks, needs, photos, readable, usable
from xvlm.evaluate._skipped import Skipped
from xvlm.evaluate._states import Described, ImageTokens, TextStates
from xvlm.metrics.recall import expected_rank, recall_metrics
from xvlm.model.attention import ConceptTokens
from xvlm.model.heads import at_least_float
from xvlm.model.xvlm import XVLM
from xvlm.predict import Predictor, match_logits
from xvlm.progress import tracked
from xvlm.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from xvlm.records import BadRecord, ImageData, Record

LISTED = 10
"""Candidates of each query that are written down."""
TEXTS_AT_ONCE = 256
PAIRS_AT_ONCE = 512
Rerank = Literal["both", "matching", "published"]
"""What reranked candidates are ordered by; see `evaluate_retrieval`."""


@dataclass(frozen=True)
class Retrieval:
    """The ranked lists of I images and T texts.

    Attributes:
        source: where the images are.
        images: I, each with its texts.
        texts: T, those of the first image first.
        image_T: (T,) which image each text describes.
        key_T: (T,) the number of what each text says; texts that say the same may share it.
        i2t: of each image its best texts.
        t2i: of each text its best images.
        top: so many of each list stand in the order of reranking, with its scores; those behind them as the
            contrastive scores say.
    """

    source: Source
    images: list[Described]
    texts: list[str]
    image_T: Tensor
    key_T: Tensor
    i2t: Ranked
    t2i: Ranked
    top: int

    def image(self, number: int) -> ImageData:
        """Image `number`, read again."""
        return self.source[self.images[number].number].image

    def texts_of(self, image: int) -> list[int]:
        """The numbers of the texts that are true of an image: its own, and those that say the same."""
        own = self.key_T[self.image_T == image]
        return torch.isin(self.key_T, own).nonzero()[:, 0].tolist()

    def images_of(self, text: int) -> list[int]:
        """The numbers of the images that a text is true of."""
        return self.image_T[self.key_T == self.key_T[text]].unique().tolist()

    def to_json(self) -> dict[str, Any]:
        """The ranked lists: of every query its own candidates, the expected rank of the first true one (1: it
        is the best of all; null: its score is not a number), and the best 10 candidates with their scores."""
        own_I: list[list[int]] = [[] for _ in self.images]
        image_of_text = self.image_T.tolist()
        for text, image in enumerate(image_of_text):
            own_I[image].append(text)
        return {
            "images": [{"key": one.key, "image": one.path} for one in self.images],
            "texts": [
                {"text": text, "image": image} for text, image in zip(self.texts, image_of_text, strict=True)
            ],
            "reranked": self.top,
            "i2t": _lists(self.i2t, own_I),
            "t2i": _lists(self.t2i, [[image] for image in image_of_text]),
        }


def _lists(ranked: Ranked, own_Q: Iterable[list[int]]) -> list[dict[str, Any]]:
    best = (ranked.index_Qk[:, :LISTED].tolist(), ranked.score_Qk[:, :LISTED].tolist())
    return [
        {"true": own, "rank": _number(rank), "best": list(zip(index, score, strict=True))}
        for own, rank, index, score in zip(own_Q, expected_rank(ranked.rank_Q3).tolist(), *best, strict=True)
    ]


def _number(rank: float) -> float | int | None:
    """Whole where nothing ties, `None` for what is never found."""
    if rank == torch.inf:
        return None
    return int(rank) if rank == int(rank) else rank


@torch.no_grad()
def evaluate_retrieval(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    top: NonNegativeInt = 32,
    rerank: Rerank = "both",
    texts_per_image: PositiveInt | None = None,
    shared_captions: bool = True,
    batch: PositiveInt = 32,
    memory: NonNegativeFloat = 4.0,
    skipped: Skipped | None = None,
) -> tuple[dict[str, float], Retrieval]:
    """Rank by contrastive scores, then rerank each query's best `top` by the matching head.

    Every record is an image with captions; records of the same image, wherever they stand, are one image.
    Candidates of equal scores count as in a random order (`metrics/recall.py`).

    Args:
        limit: use only the first so many records.
        rerank: "both" adds the matching log-odds to the contrastive score: matching is trained on negatives
            drawn in proportion to the contrastive similarity, so its log-odds are the correction to that
            distribution, and the sum is the estimate of the true one.  "matching" ranks by the log-odds
            alone, "published" by the logit of the match alone, as the published evaluation does.
        top: candidates reranked for every query; 0 does not rerank.
        texts_per_image: use only the first so many captions of every image.
        shared_captions: a text that equals a caption of an image, once cleaned, is true of that image too;
            without, only the image's own captions are (published).
        batch: images at a time.
        memory: gigabytes on each rank for what reranking can use again: the states of texts, then the tokens
            of images.  What does not fit is encoded again when it is needed.
        skipped: gets what could not be used.
    Returns:
        (metrics, the ranked lists), the same on all ranks.
    Raises:
        MissingPart: the model has no contrastive head, or none for matching where some are reranked.
        InputError: no image has a caption; the message says why not.
    """
    check_least(1, limit=limit, texts_per_image=texts_per_image, batch=batch)
    check_least(0, top=top, memory=memory)
    needs(predictor, "contrastive")
    if top:
        needs(predictor, "matching")
    check_rerank(rerank)
    budget = int(memory * 1e9) if top else 0
    skipped = Skipped() if skipped is None else skipped
    own = ImageTokens(predictor, source, budget)
    image_BE = embedded_images(own, described(predictor, source, limit, texts_per_image, skipped), batch)
    images = dist.collected([image for chunk in own.chunks for image in chunk])
    texts = [text for image in images for text in image.texts]
    skipped.gather(len(texts))
    check_any(images, source, "image with a caption", skipped)
    image_I = torch.arange(len(images), device=predictor.device)
    image_T = image_I.repeat_interleave(torch.tensor([len(one.texts) for one in images]).to(image_I))
    states = TextStates(predictor.model, predictor.tokens(texts), budget)
    own.keep_within(budget - states.kept_bytes)

    key_T = text_keys(texts, shared_captions).to(image_I)
    of_images = Pairs(image_T, key_T)
    image_side = Side(gathered(image_BE), image_I)
    text_side = Side(gathered(embedded_texts(states, len(texts))), key_T)
    temperature = predictor.model.contrastive.temperature
    best = max(top, LISTED)
    i2t = contrastive_candidates(image_side, text_side, temperature, best, pairs=of_images)
    t2i = contrastive_candidates(text_side, image_side, temperature, best, pairs=of_images.turned())
    metrics = {
        "retrieval_images": float(len(images)),
        "retrieval_texts": float(len(texts)),
        "retrieval_bad_records": float(len(skipped)),
        **recall_metrics(i2t.rank_Q3, t2i.rank_Q3, "_contrastive"),
    }
    if top:
        i2t_logit_Ik, t2i_logit_Tk = match_candidates(
            own, states, i2t.index_Qk[:, :top], t2i.index_Qk[:, :top], rerank == "published"
        )
        prior = float(rerank == "both")
        i2t = i2t.reranked(i2t_logit_Ik + prior * i2t.score_Qk[:, :top], image_side, text_side, of_images)
        t2i = t2i.reranked(
            t2i_logit_Tk + prior * t2i.score_Qk[:, :top], text_side, image_side, of_images.turned()
        )
        metrics |= recall_metrics(i2t.rank_Q3, t2i.rank_Q3)
    return metrics, Retrieval(source, images, texts, image_T, key_T, i2t, t2i, top)


def check_rerank(rerank: str) -> None:
    """Raises InputError for a name that is not one of `Rerank`."""
    *others, last = get_args(Rerank)
    if rerank not in (*others, last):
        raise InputError(f"rerank is {rerank!r}; it may be {', '.join(others)} or {last}")


def text_keys(texts: Sequence[str], shared: bool) -> Tensor:
    """(T,) int64 from 0: the same number for texts that are equal once cleaned; else all differ."""
    if not shared:
        return torch.arange(len(texts))
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(clean_caption(text), len(numbers)) for text in texts])


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
    predictor: Predictor, source: Source, limit: int | None, texts_per_image: int | None, skipped: Skipped
) -> Iterator[tuple[Described, Photo]]:
    """This rank's images with the captions of all records that show them."""
    for photo in photos(predictor, source, limit, skipped, "encoding images"):
        captions: list[str] = []
        for _, record in photo.records:
            own = captions_of(predictor, record, photo, skipped)
            if not own:
                skipped.append(BadRecord("no caption", record.key))
            captions += own
        if captions:
            number, first = photo.records[0]
            path = first.image if isinstance(first.image, str) else None
            yield Described(first.key, path, number, tuple(captions[:texts_per_image])), photo


def captions_of(predictor: Predictor, record: Record, photo: Photo, skipped: Skipped) -> list[str]:
    """What a record says of the whole image, where it says something to the model."""
    concepts = usable(record, photo, skipped, boxed=False)
    return [text for one in concepts for text in readable(predictor, one, record.key, skipped)]


def match_candidates(
    own: ImageTokens, states: TextStates, text_Ik: Tensor, image_Tk: Tensor, published: bool = False
) -> tuple[Tensor, Tensor]:
    """Matching log-odds (I, k) of each image's texts, (T, k) of each text's images.

    A pair that both directions want is scored once, by the rank whose image it is.

    Args:
        text_Ik: (I, k) the candidates of each image.
        image_Tk: (T, k) those of each text.
        published: give logits of the match alone.
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
        image_R, text_R = pair_R // texts - firsts[number], pair_R % texts
        parts.append(match_pairs(states, concepts, image_R, text_R, published))
    logit_P = gathered(torch.cat(parts))
    i2t, t2i = logit_P[place].split((text_Ik.numel(), image_Tk.numel()))
    return i2t.view_as(text_Ik), t2i.view_as(image_Tk)


def match_pairs(
    states: TextStates, concepts: ConceptTokens, concept_R: Tensor, text_R: Tensor, published: bool = False
) -> Tensor:
    """(R,) log-odds that text `text_R[r]` describes concept `concept_R[r]`, or `match_logits` as published.

    Both are (R,) int64.
    Text by text, so that of few texts at a time the states are at hand and all images are looked at alike.
    """
    keys_values = states.model.fusion.keys_values(concepts)
    order_R = text_R.argsort(stable=True)
    parts = []
    for rows in order_R.split(PAIRS_AT_ONCE):
        text_U, place_R = text_R[rows].unique(return_inverse=True)
        parts.append(
            match_logits(
                states.model, concepts, states(text_U), concept_R[rows], place_R, keys_values, published
            )
        )
    logit_R = torch.cat(parts)
    return torch.empty_like(logit_R).index_copy_(0, order_R, logit_R)


evaluate = evaluate_retrieval
