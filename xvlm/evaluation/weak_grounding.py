"""Weakly supervised grounding: choice among candidate boxes by the attention of the matching head.

The score of a candidate is the sum of the attention map over it, divided by a power of its area (published
evaluation, with MattNet's candidates; ALBEF, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm.boxes import area
from xvlm.common.ranges import FiniteFloat, NonNegativeInt, PositiveInt, checked
from xvlm.data.sources.refcoco import Detections, box_from_xywh, boxes_of_image, read_detections
from xvlm.data.sources.source import Source
from xvlm.evaluation import grounding
from xvlm.evaluation.common.measure import Measure, example_sections
from xvlm.evaluation.common.queries import Query
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.evaluation.grounding import GroundingPrediction, Phrase, encode_phrases
from xvlm.inference.model import InferenceModel
from xvlm.metrics.grounding import IOU_THRESHOLD, accuracy, overlaps
from xvlm.models.text.grad_cam import check_layers, grad_cam_maps
from xvlm.records import BadRecord, BoxXYXY
from xvlm.reports import GroundingExample, Section

SAMPLE = "phrase with a box and candidates"
"""Description of a usable sample, for errors."""


@dataclass(frozen=True)
class WeakGroundingPrediction(GroundingPrediction):
    """The candidate box that is chosen for a phrase.

    Attributes:
        score: score of the chosen candidate.
        candidates_xyxy: the candidate boxes, in pixels.
        map_hw: (h, w) attention map over the patches of the whole image, to four significant digits.
    """

    candidates_xyxy: tuple[BoxXYXY, ...]
    map_hw: tuple[tuple[float, ...], ...]


@checked
def evaluate_weak_grounding(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    layer: NonNegativeInt | None = None,
    power: FiniteFloat = 0.5,
    detections: Path | None = None,
    batch_size: PositiveInt = 16,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], list[WeakGroundingPrediction]]:
    """Evaluate weakly supervised grounding; each text of each concept with a box is a phrase.

    Candidates are those of `detections`, else those of the record (`dets`, as in VLUE), else the boxes of all
    phrases about the image.

    Args:
        limit: number of records; by default all.
        layer: cross-modal layer whose attention is used, from 0; by default the middle one (published: the
            fourth of six).  `xvlm layers` compares them.
        power: exponent of the area that a score is divided by.
        detections: file of candidate boxes by `image_id` (see `read_detections`).
        batch_size: images in a batch.
    Returns:
        metrics, and predictions in the order of the source.  `weak_grounding_acc_inclusive` counts pixels as
        RefCOCO's tools do, `weak_grounding_chance` is the accuracy of a random choice, and
        `weak_grounding_pointing` how often the maximum of the map is inside the annotated box.
    Raises MissingHead if the model has no matching head, InputError if there is no such layer or no phrase.
    """
    samples = SampleReader(predictor, source, limit, skipped, "matching")
    layer = len(predictor.model.fusion.layers) // 2 if layer is None else layer
    indexed: list[tuple[int, tuple[WeakGroundingPrediction, CandidateScores]]] = []
    for query, candidates, (map_hw,), scored in score_candidates(samples, [layer], detections, batch_size):
        best, score = scored.best(0, power)
        iou, inclusive = scored.overlap(0, power)
        prediction = WeakGroundingPrediction(
            query.record.key,
            query.record.image,
            query.content.text,
            true_xyxy=query.content.box_xyxy,
            predicted_xyxy=candidates[best],
            iou=iou,
            score=score,
            iou_inclusive=inclusive,
            split=query.content.split,
            ref_id=query.content.ref_id,
            candidates_xyxy=candidates,
            map_hw=round_map(map_hw),
        )
        indexed.append((query.index, (prediction, scored)))
    gathered = samples.gather(indexed, SAMPLE)
    metrics = weak_grounding_metrics([scored for _, scored in gathered], 0, power, len(samples.skipped))
    return metrics, [prediction for prediction, _ in gathered]


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """The attention on the k candidate boxes of a phrase, by each of several layers.

    Attributes:
        split: see `Phrase`.
        attention_k: for each layer, (k,) float64 sums of its enlarged map over each candidate.
        pointing: for each layer, whether the maximum of its map is inside the annotated box.
        area_k: (k,) float64 areas in pixels, at least 1.
        iou_k, inclusive_k: (k,) overlap of each candidate with the annotated box.
    """

    split: str
    attention_k: tuple[Tensor, ...]
    pointing: tuple[bool, ...]
    area_k: Tensor
    iou_k: Tensor
    inclusive_k: Tensor

    def best(self, layer_index: int, power: float) -> tuple[int, float]:
        """Return the index and the score of the candidate with the highest score; NaN if a score is NaN."""
        score_k = self.attention_k[layer_index] / self.area_k**power
        best = int(score_k.argmax())
        return best, float(score_k[best])

    def overlap(self, layer_index: int, power: float) -> tuple[float, float]:
        """Return the plain and the inclusive IoU of the best candidate; 0 if its score is NaN."""
        best, score = self.best(layer_index, power)
        return (0.0, 0.0) if isnan(score) else (float(self.iou_k[best]), float(self.inclusive_k[best]))


def score_candidates(
    samples: SampleReader, layers: Sequence[int], detections: Path | None, batch_size: int
) -> Iterator[tuple[Query[Phrase], tuple[BoxXYXY, ...], list[Tensor], CandidateScores]]:
    """Yield this rank's phrases, each with its candidates, the (h, w) maps of several layers, and the scores.

    Phrases without candidates are skipped.  For the arguments see `evaluate_weak_grounding`.
    """
    model = samples.predictor.model
    check_layers(model, layers)
    detected = read_detections(detections) if detections else None
    for batch, features, texts, image_N in encode_phrases(samples, batch_size):
        row_N = torch.arange(len(batch.queries), device=samples.predictor.device)
        images = model.encode_whole(features)[0]
        maps = grad_cam_maps(model, texts, row_N, images, image_N, layers)
        maps_by_layer = [map_Nhw.float().cpu() for map_Nhw in maps]
        for query, index, *maps_hw in zip(batch.queries, batch.image_index, *maps_by_layer, strict=True):
            try:
                candidates = candidates_of(query, detected) or query.content.boxes_of_image
            except BadRecord as error:
                samples.skipped.append(error)
                continue
            file = batch.images[index].file
            scored = score_phrase(query.content, candidates, maps_hw, file.height, file.width)
            yield query, candidates, maps_hw, scored


def score_phrase(
    phrase: Phrase, candidates: tuple[BoxXYXY, ...], maps_hw: Sequence[Tensor], height: int, width: int
) -> CandidateScores:
    """Score the candidates of a phrase by the (h, w) maps of several layers.

    Args:
        height, width: size of the image in pixels.
    """
    attention, pointing = [], []
    for map_hw in maps_hw:  # one at a time: the enlarged maps of a large image take much memory
        heatmap = enlarge(map_hw, height, width)
        attention.append(sum_over_boxes(heatmap, candidates))
        pointing.append(is_maximum_inside(heatmap, phrase.box_xyxy))
    box_k4 = torch.tensor(candidates, dtype=torch.float64)
    true_k4 = torch.tensor([phrase.box_xyxy], dtype=torch.float64).expand(len(candidates), 4)
    area_k, ious = area(box_k4).clamp(min=1), overlaps(box_k4, true_k4)
    return CandidateScores(phrase.split, tuple(attention), tuple(pointing), area_k, *ious)


def candidates_of(query: Query[Phrase], detected: Detections | None) -> tuple[BoxXYXY, ...]:
    """Return the candidates in a file of detections, or those in the record; empty if there is neither.

    Raises:
        BadRecord: the detections have none for this image, or a box of the record is not one.
    """
    record = query.record
    if detected is not None:
        image_id = record.extra.get("image_id")
        if boxes := boxes_of_image(detected, image_id):
            return tuple(boxes)
        detail = "the record has no image_id" if image_id is None else f"image_id {image_id}"
        raise BadRecord("no detections for the image", record.key, detail)
    if "dets" not in record.extra:
        return ()
    try:
        own = tuple(box_from_xywh(box) for box in record.extra["dets"])
    except (TypeError, ValueError) as error:
        raise BadRecord("wrong type", record.key, f"dets: {error}") from error
    if not own:
        raise BadRecord("no detections for the image", record.key, "dets is empty")
    return own


def round_map(map_hw: Tensor) -> tuple[tuple[float, ...], ...]:
    """Convert an (h, w) map to plain numbers of four significant digits."""
    return tuple(tuple(float(f"{value:.4g}") for value in row) for row in map_hw.tolist())


def weak_grounding_metrics(
    scored: Sequence[CandidateScores], layer_index: int, power: float, num_skipped: int
) -> dict[str, float]:
    """Return the metrics of the choices by one layer, with scores divided by a power of the area.

    Args:
        layer_index: index among the layers that were used.
    """
    overlaps_N2 = torch.tensor([one.overlap(layer_index, power) for one in scored], dtype=torch.float64)
    iou_N, inclusive_N = overlaps_N2.unbind(1)
    splits = [one.split for one in scored]
    chance = sum((one.iou_k >= IOU_THRESHOLD).double().mean().item() for one in scored)
    return {
        **accuracy("weak_grounding_acc", iou_N, splits),
        **accuracy("weak_grounding_acc_inclusive", inclusive_N, splits),
        "weak_grounding_chance": chance / len(scored),
        "weak_grounding_pointing": sum(one.pointing[layer_index] for one in scored) / len(scored),
        "weak_grounding_cases": float(len(scored)),
        "weak_grounding_skipped": float(num_skipped),
    }


def enlarge(map_hw: Tensor, height: int, width: int) -> Tensor:
    """Resize an (h, w) map of patches to (height, width) pixels, bicubic as published."""
    return F.interpolate(map_hw[None, None], size=(height, width), mode="bicubic")[0, 0]


def sum_over_boxes(heatmap: Tensor, boxes: Sequence[BoxXYXY]) -> Tensor:
    """Sum a (height, width) map over each of k boxes, cut to whole pixels as published: (k,) float64."""
    height, width = heatmap.shape
    total = F.pad(heatmap.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    edge_k4 = torch.tensor(boxes, dtype=torch.float64).clamp(min=0)
    x0, y0, x1, y1 = edge_k4.minimum(torch.tensor([width, height] * 2)).long().unbind(-1)
    return total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]


def is_maximum_inside(heatmap: Tensor, box_xyxy: BoxXYXY) -> bool:
    """Return whether the maximum of a (height, width) map is in the box; False if the map has a NaN."""
    if heatmap.isnan().any():
        return False
    y, x = divmod(int(heatmap.argmax()), heatmap.shape[1])
    return box_xyxy[0] <= x < box_xyxy[2] and box_xyxy[1] <= y < box_xyxy[3]


HEADLINE = {
    "weak_grounding_acc": "phrases found among the candidates",
    "weak_grounding_chance": "by a random choice",
    "weak_grounding_pointing": "maximum of the map inside the annotated box",
}


def sections(predictions: Sequence[WeakGroundingPrediction]) -> list[Section]:
    """Return examples of phrases, and of those whose box is wrong."""
    wrong = [one for one in predictions if one.iou < IOU_THRESHOLD]
    legend = "Warm colours show the attention of the matching head; pale boxes are the other candidates."
    return example_sections(predictions, wrong, example, "Where does it attend?", "Not found", legend)


def example(prediction: WeakGroundingPrediction) -> GroundingExample:
    """Show a phrase with its candidates and its attention map."""
    map_hw = () if isnan(prediction.score or 0.0) else prediction.map_hw
    return replace(grounding.example(prediction), candidates_xyxy=prediction.candidates_xyxy, map_hw=map_hw)


MEASURE = Measure(evaluate_weak_grounding, HEADLINE, sections)
