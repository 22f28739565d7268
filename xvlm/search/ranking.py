"""From the photos that vectors chose to hits: order, probability, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import torch
from torch import Tensor

from xvlm.inference.model import InferenceModel
from xvlm.models.calibration import Calibration
from xvlm.models.text.encoder import TextFeatures
from xvlm.records import BoxXYXY
from xvlm.search.rerank import EncodedCandidates, boxes_in_photos, candidate_terms
from xvlm.search.rows import PhotoRow


@dataclass(frozen=True)
class Hit:
    """A photo that a search found.

    Attributes:
        path: absolute path or URL.
        hash: hash of the file's content.
        score: what hits are ranked by: cosine over temperature; after reranking plus the weighted log-odds of
            matching, or the log-odds of `SearchScore` if the model has it.
        probability: probability that the text describes the photo; `None` without reranking.
        boxes_xyxy: boxes of the text in pixels of the upright photo, most probable first; empty without
            reranking, or if no part of the photo is what the text describes.
        width, height: size of the upright photo in pixels.
        time: local time when it was taken, or without EXIF data modified.
        latitude, longitude: where it was taken, in degrees.
    """

    path: str
    hash: str
    score: float
    probability: float | None
    boxes_xyxy: list[BoxXYXY]
    width: int
    height: int
    time: datetime | None
    latitude: float | None
    longitude: float | None


@dataclass(frozen=True)
class Page:
    """Which hits are wanted.

    Attributes:
        k: largest number of hits.
        offset: number of hits to leave out.
        min_probability: smallest probability of a hit, if candidates are reranked; by default that of the
            model's search calibration, if it has one.
        candidates: nearest photos that are reranked, the same for all pages; farther ones follow them in the
            order of their vectors, unless a probability is asked for.
    """

    k: int = 20
    offset: int = 0
    min_probability: float | None = None
    candidates: int = 50

    def cut_off(self, calibration: Calibration) -> float:
        """Return the smallest probability of a hit."""
        if self.min_probability is not None:
            return self.min_probability
        return 0.0 if calibration.search is None else calibration.search.threshold

    def count(self, reranked: bool) -> int:
        """Return the number of nearest photos that the page needs."""
        return max(self.candidates if reranked else 0, self.offset + self.k)


def vector_scores(predictor: InferenceModel, query_E: np.ndarray, rows: Sequence[PhotoRow]) -> np.ndarray:
    """Return the (B,) cosines of a query and each photo's nearest vector, over temperature."""
    temperature = float(predictor.model.contrastive.temperature.detach())
    nearest = [(row.vectors_CE.astype(np.float32) @ query_E).max() for row in rows]
    return np.array(nearest, dtype=np.float32) / temperature


def hits_by_vectors(rows: Sequence[PhotoRow], score_B: np.ndarray, page: Page) -> list[Hit]:
    """Return a page of hits by their (B,) scores by vectors alone, best first."""
    order = np.argsort(-score_B, kind="stable")[page.offset : page.offset + page.k]
    return [_hit(rows[index], float(score_B[index]), None, ()) for index in order]


def hits_by_matching(
    predictor: InferenceModel,
    text: str,
    encoded: TextFeatures,
    found: EncodedCandidates,
    score_B: np.ndarray,
    page: Page,
) -> tuple[list[Hit], int]:
    """Return a page of hits after reranking, best first, with the boxes of the text, and how many there are.

    Args:
        text: text of the query.
        encoded: the same, encoded.
        score_B: (B,) scores of the candidates by vectors.
    """
    terms_B3 = candidate_terms(predictor, text, encoded, found.features, torch.from_numpy(score_B))
    calibration = predictor.calibration
    if calibration.search is not None:
        total_B = calibration.search.log_odds(terms_B3)
        probability_B = total_B.sigmoid()
    else:
        total_B = terms_B3[:, 0] + predictor.matching_weight * terms_B3[:, 1]
        probability_B = calibration.match.probability(terms_B3[:, 1])
    order_B = total_B.argsort(descending=True, stable=True)
    selected = order_B[probability_B[order_B] >= page.cut_off(calibration)]
    shown = selected[page.offset : page.offset + page.k]
    if not len(shown):
        return [], len(selected)
    boxes = boxes_in_photos(predictor, encoded, found.features.select(shown.to(predictor.device)))
    hits = [
        _hit(found.rows[index], float(total_B[index]), float(probability_B[index]), own)
        for index, own in zip(shown.tolist(), boxes, strict=True)
    ]
    return hits, len(selected)


def _hit(row: PhotoRow, score: float, probability: float | None, boxes: Sequence[Tensor]) -> Hit:
    """Return the hit; `boxes` are (4,) each, in [0, 1]."""
    size = torch.tensor([row.width, row.height, row.width, row.height])
    pixels: list[BoxXYXY] = [tuple((box * size).tolist()) for box in boxes]
    place = row.latitude, row.longitude
    return Hit(row.path, row.file.hash, score, probability, pixels, row.width, row.height, row.time, *place)
