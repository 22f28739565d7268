"""Judge the candidates of a search by the cross-modal encoder, and find the boxes of the text in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xvlm.common.byte_cache import ByteCache
from xvlm.common.threads import in_threads
from xvlm.data.images.decode import open_image
from xvlm.data.text.noun_phrases import noun_phrases
from xvlm.inference.detection import find_boxes
from xvlm.inference.grounding import match_logits, predict_boxes
from xvlm.inference.model import InferenceModel
from xvlm.models.calibration import THRESHOLD, joint_log_odds
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import BadRecord
from xvlm.search.photos import read_photo
from xvlm.search.rows import PhotoRow

BATCH_SIZE, THREADS = 16, 4
MAX_PHRASES = 8
"""Noun phrases of a text that are looked for in each candidate."""
Key = tuple[str, str]
"""Path of a photo and hash of its content."""
PixelsOf = dict[Key, Tensor]
"""The (3, height, width) uint8 pixels of photos at the model's size."""


@dataclass(frozen=True)
class EncodedCandidates:
    """Candidates whose files could be read.

    Attributes:
        rows: the candidates, best first.
        features: their B images.
    """

    rows: list[PhotoRow]
    features: ImageFeatures


class PhotoCache:
    """Encoded photos, the latest asked for, within a memory budget.

    Args:
        budget: bytes.
    """

    def __init__(self, predictor: InferenceModel, budget: int) -> None:
        self.predictor = predictor
        self.features = ByteCache[ImageFeatures](budget)

    def read(self, rows: Sequence[PhotoRow]) -> PixelsOf:
        """Read and decode the photos that are not cached; those whose files are gone are left out."""
        missing = [row for row in rows if _key(row) not in self.features]
        pixels = in_threads(self._pixels, missing, THREADS, len(missing))
        return {_key(row): one for row, one in zip(missing, pixels, strict=True) if one is not None}

    def encode(self, rows: Sequence[PhotoRow], pixels: PixelsOf) -> EncodedCandidates | None:
        """Return the features of photos, `None` if none can be read.

        Args:
            pixels: what `read` returned for the rows; what was dropped from the cache since is read again.
        """
        pixels = {**pixels, **self.read([row for row in rows if _key(row) not in pixels])}
        cached = {key: self.features.get(key) for key in map(_key, rows)}
        found = {key: features for key, features in cached.items() if features is not None}
        due = [key for key in map(_key, rows) if key not in found and key in pixels]
        for start in range(0, len(due), BATCH_SIZE):
            found |= self._encode(due[start : start + BATCH_SIZE], pixels)
        there = [row for row in rows if _key(row) in found]
        for row in reversed(there):
            self.features.put(_key(row), found[_key(row)], found[_key(row)].nbytes)
        if not there:
            return None
        return EncodedCandidates(there, ImageFeatures.cat([found[_key(row)] for row in there]))

    def _pixels(self, row: PhotoRow) -> Tensor | None:
        try:
            return self.predictor.pixels(open_image(read_photo(row.path), key=row.path))
        except BadRecord:
            return None

    def _encode(self, keys: Sequence[Key], pixels: PixelsOf) -> dict[Key, ImageFeatures]:
        features = self.predictor.encode_images([pixels[key] for key in keys])
        return {
            key: features.select(torch.tensor([number], device=self.predictor.device))
            for number, key in enumerate(keys)
        }


def _key(row: PhotoRow) -> Key:
    return row.path, row.file.hash


@torch.no_grad()
def candidate_terms(
    predictor: InferenceModel, text: str, encoded: TextFeatures, features: ImageFeatures, score_B: Tensor
) -> Tensor:
    """Return what a search knows of a text and each of B images, as (B, 3) float32; see `SearchScore`.

    Args:
        encoded: the text.
        score_B: (B,) contrastive scores, cosine over temperature.
    """
    model, images = predictor.model, predictor.whole_images(features)
    image_R = torch.arange(len(features), device=predictor.device)
    matching_B = match_logits(model, images, encoded, image_R, torch.zeros_like(image_R))
    phrases_B = torch.zeros_like(matching_B)
    if "detection" in model.config.heads:
        phrases_B = _phrase_log_odds(predictor, text, images, len(features))
    return torch.stack((score_B.to(matching_B), matching_B, phrases_B), 1).float().cpu()


def _phrase_log_odds(predictor: InferenceModel, text: str, images: ConceptTokens, count: int) -> Tensor:
    """Return for each image the mean over a text's noun phrases of the log-odds of the best box, (B,)."""
    phrases = [text[start:end] for start, end in noun_phrases(text)][:MAX_PHRASES]
    phrases = [one for one in phrases if predictor.is_known(one)] or [text]
    texts = predictor.encode_texts(phrases)
    image_R = torch.arange(count, device=predictor.device).repeat(len(phrases))
    text_R = torch.arange(len(phrases), device=predictor.device).repeat_interleave(count)
    found = predictor.model.detect(predictor.model.fuse_cls(texts, text_R, images, image_R), images, image_R)
    best_R = joint_log_odds(found.presence_R, found.objectness_RC.max(1).values)
    return best_R.view(len(phrases), count).mean(0)


@torch.no_grad()
def boxes_in_photos(
    predictor: InferenceModel, text: TextFeatures, features: ImageFeatures
) -> list[list[Tensor]]:
    """Return for each of B images the boxes (4,) of one text, xyxy in [0, 1], most probable first.

    A model with a detection head finds all or none; one with a box head alone has one box for every image,
    and one with neither has none.
    """
    model, heads = predictor.model, predictor.model.config.heads
    image_N = torch.arange(len(features), device=predictor.device)
    text_N = torch.zeros_like(image_N)
    if "detection" in heads:
        found = find_boxes(model, features, text, image_N, predictor.calibration, THRESHOLD, text_N)
        return [list(boxes.cpu()) for boxes, _, _ in found.by_text()]
    if "box" in heads:
        return [[box] for box in predict_boxes(model, features, text, image_N, text_N)[0].cpu()]
    return [[] for _ in range(len(features))]
