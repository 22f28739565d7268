"""Ranked lists of a retrieval evaluation: as JSON, and as sections of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xvlm.data.sources.source import Source
from xvlm.evaluation.common.candidates import CandidateScores, RankedCandidates
from xvlm.evaluation.common.feature_cache import CaptionedImage
from xvlm.evaluation.common.measure import NUM_EXAMPLES
from xvlm.evaluation.reranking_accuracy import accuracy_section
from xvlm.metrics.recall import expected_rank
from xvlm.records import ImageData
from xvlm.reports import ImageRanking, Section, TextRanking
from xvlm.reports.pictures import load_picture, random_selection

NUM_LISTED = 10
"""Number of candidates of each query in the JSON file."""


@dataclass(frozen=True)
class RetrievalResult:
    """The ranked lists of I images and N texts.

    Attributes:
        source: source of the images.
        images: I images.
        texts: N texts, in the order of their images.
        image_N: (N,) index of each text's image.
        text_id_N: (N,) id of each text; equal texts may share one.
        i2t: ranked texts of each image.
        t2i: ranked images of each text.
        rerank_top_k: number of reranked candidates of each query; those behind them have contrastive scores.
        scores: scores of the reranked candidates, of images and of texts; empty if none were reranked.
    """

    source: Source
    images: list[CaptionedImage]
    texts: list[str]
    image_N: Tensor
    text_id_N: Tensor
    i2t: RankedCandidates
    t2i: RankedCandidates
    rerank_top_k: int
    scores: tuple[CandidateScores, ...] = ()

    def read_image(self, image: int) -> ImageData:
        """Read an image again, by its index."""
        return self.source[self.images[image].index].image

    def texts_of(self, image: int) -> list[int]:
        """Return the indices of the texts that are true of an image: its own and those equal to them."""
        own = self.text_id_N[self.image_N == image]
        return torch.isin(self.text_id_N, own).nonzero()[:, 0].tolist()

    def images_of(self, text: int) -> list[int]:
        """Return the indices of the images that a text is true of."""
        return self.image_N[self.text_id_N == self.text_id_N[text]].unique().tolist()

    def to_json(self) -> dict[str, Any]:
        """Return the ranked lists as plain values.

        Each query has its own candidates (`true`), the expected rank of the first true one (`rank`: 1 is the
        best; null if its score is NaN), and the best 10 candidates with their scores (`best`).
        """
        own_I: list[list[int]] = [[] for _ in self.images]
        image_of_text = self.image_N.tolist()
        for text, image in enumerate(image_of_text):
            own_I[image].append(text)
        return {
            "images": [{"key": image.key, "image": image.path} for image in self.images],
            "texts": [
                {"text": text, "image": image} for text, image in zip(self.texts, image_of_text, strict=True)
            ],
            "reranked": self.rerank_top_k,
            "i2t": _lists_json(self.i2t, own_I),
            "t2i": _lists_json(self.t2i, [[image] for image in image_of_text]),
        }


def _lists_json(ranked: RankedCandidates, own_Q: Iterable[list[int]]) -> list[dict[str, Any]]:
    best = (ranked.index_Qk[:, :NUM_LISTED].tolist(), ranked.score_Qk[:, :NUM_LISTED].tolist())
    ranks = expected_rank(ranked.rank_Q3).tolist()
    return [
        {"true": own, "rank": _rank_json(rank), "best": list(zip(index, score, strict=True))}
        for own, rank, index, score in zip(own_Q, ranks, *best, strict=True)
    ]


def _rank_json(rank: float) -> float | int | None:
    """Return an integer unless candidates tie; `None` for a rank of infinity."""
    if rank == torch.inf:
        return None
    return int(rank) if rank == int(rank) else rank


def sections(result: RetrievalResult) -> list[Section]:
    """Return randomly selected queries of both directions, and how well scores judge hard candidates."""
    scores = "a bar is the share among those reranked" if result.rerank_top_k else "nothing was reranked"
    return [
        Section("Which text fits?", f"✓ belongs to the image; {scores}.", text_rankings(result)),
        Section("Which image fits?", "The best first.", image_rankings(result)),
        *accuracy_section(result.scores),
    ]


def text_rankings(result: RetrievalResult, count: int = NUM_EXAMPLES, first: int = 5) -> list[TextRanking]:
    """Return the `first` best texts of random images, and the best true one if it is not among them."""
    rankings = []
    for image in random_selection(range(len(result.images)), count, seed=1):
        shown = shown_candidates(result.i2t, image, result.texts_of(image), result.rerank_top_k, first)
        texts = [(result.texts[text], share, true) for text, share, true in shown]
        rankings.append(TextRanking(load_picture(result.read_image(image)), texts))
    return rankings


def image_rankings(result: RetrievalResult, count: int = NUM_EXAMPLES, first: int = 4) -> list[ImageRanking]:
    """Return the `first` best images of random texts, and the best true one if it is not among them."""
    rankings = []
    for text in random_selection(range(len(result.texts)), count, seed=2):
        shown = shown_candidates(result.t2i, text, result.images_of(text), result.rerank_top_k, first)
        images = [(load_picture(result.read_image(image)), share, true) for image, share, true in shown]
        rankings.append(ImageRanking(result.texts[text], images))
    return rankings


def shown_candidates(
    ranked: RankedCandidates, query: int, true: Sequence[int], rerank_top_k: int, first: int
) -> list[tuple[int, float, bool]]:
    """Return the first candidates of a query, and the best true one if it is not among them.

    Each has its index, its softmax probability among the reranked candidates (0 for the others), and whether
    it is true.
    """
    index = ranked.index_Qk[query].tolist()
    share = ranked.score_Qk[query, : rerank_top_k or None].double().softmax(0).tolist()
    shares = dict(zip(index[: len(share)], share, strict=True))
    shown = index[:first]
    if not set(shown) & set(true):
        shown.append(next((candidate for candidate in index if candidate in true), true[0]))
    return [(candidate, shares.get(candidate, 0.0), candidate in true) for candidate in shown]
