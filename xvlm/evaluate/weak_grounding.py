"""Grounding without boxes: of some candidate boxes, which one does a text look at when it matches?

A candidate's score is the sum of the attention map over it, divided by a power of its area (MattNet's
candidates and this score in the published evaluation; ALBEF, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm.boxes import area
from xvlm.data.refcoco import Detections, box_of, boxes_of_image, read_detections
from xvlm.data.sources import Source
from xvlm.evaluate._read import check_any, check_least, in_order, needs
from xvlm.evaluate._skipped import Skipped
from xvlm.evaluate.grounding import Case, GroundingPrediction, encoded_cases
from xvlm.metrics.grounding import RIGHT_IOU, accuracy, overlaps
from xvlm.model.attention_map import attention_maps, check_layers
from xvlm.predict import Predictor, whole_images
from xvlm.ranges import FiniteFloat, NonNegativeInt, PositiveInt
from xvlm.records import BadRecord, BoxXYXY, same_id


@dataclass(frozen=True)
class MapPrediction(GroundingPrediction):
    """A phrase with the candidate that it looks at most.

    Attributes:
        score: of that candidate.
        candidates_xyxy: the boxes that could be chosen, in pixels.
        map_hw: rows of patches over the whole image, to four digits; what is looked at more is higher.
    """

    candidates_xyxy: tuple[BoxXYXY, ...]
    map_hw: tuple[tuple[float, ...], ...]


def evaluate_maps(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    layer: NonNegativeInt | None = None,
    power: FiniteFloat = 0.5,
    detections: Path | None = None,
    batch: PositiveInt = 16,
    skipped: Skipped | None = None,
) -> tuple[dict[str, float], list[MapPrediction]]:
    """Every text of every boxed concept is a case; of its candidates the one with the highest score is taken.

    Candidates are those of `detections`, else of the record itself (`dets`, as in VLUE's files), else the
    boxes of all cases of its image.

    Args:
        limit: use only the first so many records.
        layer: of the cross-modal encoder, from 0; by default the middle one (published: the fourth of six).
            `xvlm layers` says which is best.
        power: of the area that a score is divided by.
        detections: a file of candidate boxes by `image_id` (see `read_detections`).
        batch: images at a time.
        skipped: gets what could not be used.
    Returns:
        (metrics, predictions in the source's order).  `weak_grounding_acc_inclusive` counts pixels as
        RefCOCO's tools do, `weak_grounding_chance` is what a candidate chosen blindly would reach, and
        `weak_grounding_pointing` how often the map is highest inside the true box.
    Raises:
        MissingPart: the model has no matching head.
        InputError: no such layer, no case, a file of another form.
    """
    check_least(1, limit=limit, batch=batch)
    needs(predictor, "matching")
    layer = len(predictor.model.fusion.layers) // 2 if layer is None else layer
    skipped = Skipped() if skipped is None else skipped
    found: list[tuple[int, tuple[MapPrediction, Choice]]] = []
    for case, candidates, map_Khw, choice in looked_at(
        predictor, source, limit, [layer], detections, batch, skipped
    ):
        best, score = choice.best(0, power)
        plain, inclusive = choice.overlap(0, power)
        prediction = MapPrediction(
            key=case.key,
            image=case.image,
            text=case.text,
            true_xyxy=case.box_xyxy,
            predicted_xyxy=candidates[best],
            iou=plain,
            score=score,
            iou_inclusive=inclusive,
            split=case.split,
            ref_id=case.ref_id,
            candidates_xyxy=candidates,
            map_hw=rounded(map_Khw[0]),
        )
        found.append((case.number, (prediction, choice)))
    together = in_order(found)
    skipped.gather(len(together))
    check_any(together, source, "phrase with a box and candidates", skipped)
    choices = [choice for _, choice in together]
    return weak_metrics(choices, 0, power, len(skipped)), [prediction for prediction, _ in together]


@dataclass(frozen=True, eq=False)
class Choice:
    """What K layers say of the C candidates of a case, and how right each candidate is.

    Attributes:
        split: of the case, empty where it has none.
        area_C: (C,) in pixels, at least 1.
        inside_KC: (K, C) the map of each layer, enlarged to the image's size, summed over each candidate.
        pointing: of each layer, whether its map is highest inside the true box.
        iou_C, inclusive_C: (C,) overlap of each candidate with the true box.
    """

    split: str
    area_C: Tensor
    inside_KC: Tensor
    pointing: tuple[bool, ...]
    iou_C: Tensor
    inclusive_C: Tensor

    def best(self, k: int, power: float) -> tuple[int, float]:
        """The candidate with the highest score by the k-th layer, and its score; NaN if one is no number."""
        score_C = self.inside_KC[k] / self.area_C**power
        best = int(score_C.argmax())
        return best, float(score_C[best])

    def overlap(self, k: int, power: float) -> tuple[float, float]:
        """How far that candidate overlaps with the true box, plain and by inclusive pixels: 0 for NaN."""
        best, score = self.best(k, power)
        return (0.0, 0.0) if isnan(score) else (float(self.iou_C[best]), float(self.inclusive_C[best]))


def looked_at(
    predictor: Predictor,
    source: Source,
    limit: int | None,
    layers: Sequence[int],
    detections: Path | None,
    batch: int,
    skipped: Skipped,
) -> Iterator[tuple[Case, tuple[BoxXYXY, ...], Tensor, Choice]]:
    """This rank's cases, seen by K layers in one pass: (case, candidates, maps (K, h, w), choice).

    Cases without a candidate are skipped.
    """
    check_layers(predictor.model, layers)
    known = by_image(read_detections(detections)) if detections else None
    for asked in encoded_cases(predictor, source, limit, batch, skipped):
        row_N = torch.arange(len(asked.cases), device=predictor.device)
        whole = whole_images(predictor.model, asked.features)
        maps = attention_maps(predictor.model, asked.texts, row_N, whole, asked.image_N, layers)
        map_NKhw = torch.stack(maps, dim=1).float().cpu()
        for (b, case), map_Khw in zip(asked.cases, map_NKhw, strict=True):
            try:
                candidates = candidates_of(case, known) or case.boxes_xyxy
            except BadRecord as error:
                skipped.append(error)
                continue
            opened = asked.photos[b].opened
            yield case, candidates, map_Khw, choice_of(case, candidates, map_Khw, opened.height, opened.width)


def choice_of(case: Case, candidates: Sequence[BoxXYXY], map_Khw: Tensor, height: int, width: int) -> Choice:
    """From maps (K, h, w) of patches of an image of (height, width) pixels."""
    inside, pointing = [], []
    for map_hw in map_Khw:  # one after another: enlarged maps of a large photo take much memory
        map_HW = enlarged(map_hw, height, width)
        inside.append(sums_inside(map_HW, candidates))
        pointing.append(highest_inside(map_HW, case.box_xyxy))
    box_C4 = torch.tensor(candidates, dtype=torch.float64)
    true_C4 = torch.tensor([case.box_xyxy], dtype=torch.float64).expand(len(candidates), 4)
    return Choice(
        *(case.split, area(box_C4).clamp(min=1), torch.stack(inside), tuple(pointing)),
        *overlaps(box_C4, true_C4),
    )


def by_image(known: Detections) -> Detections:
    """Candidate boxes under one spelling of each image's id."""
    found: dict[str, list[BoxXYXY]] = {}
    for image_id, boxes in known.items():
        found.setdefault(same_id(image_id), []).extend(boxes)
    return found


def candidates_of(case: Case, known: Detections | None) -> tuple[BoxXYXY, ...]:
    """What is given for a case: by a file of detections, or by its own record; nothing where neither speaks.

    Raises BadRecord: detections were given, and there is none for this image; or one is no box.
    """
    if known is not None:
        image_id = case.extra.get("image_id")
        if found := boxes_of_image(known, image_id):
            return tuple(found)
        detail = "the record has no image_id" if image_id is None else f"image_id {image_id}"
        raise BadRecord("no detections for the image", case.key, detail)
    if "dets" not in case.extra:
        return ()
    try:
        own = tuple(box_of(box) for box in case.extra["dets"])
    except (TypeError, ValueError) as error:
        raise BadRecord("wrong type", case.key, f"dets: {error}") from error
    if not own:
        raise BadRecord("no detections for the image", case.key, "dets is empty")
    return own


def rounded(map_hw: Tensor) -> tuple[tuple[float, ...], ...]:
    """(h, w) as plain numbers of four digits."""
    return tuple(tuple(float(f"{value:.4g}") for value in row) for row in map_hw.tolist())


def weak_metrics(choices: Sequence[Choice], k: int, power: float, bad_records: int) -> dict[str, float]:
    """How good the choices by the k-th layer are, with scores over the area to a power."""
    overlaps_N2 = torch.tensor([choice.overlap(k, power) for choice in choices], dtype=torch.float64)
    iou_N, inclusive_N = overlaps_N2.unbind(1)
    splits = [choice.split for choice in choices]
    chance = sum((choice.iou_C >= RIGHT_IOU).double().mean().item() for choice in choices)
    return {
        **accuracy("weak_grounding_acc", iou_N, splits),
        **accuracy("weak_grounding_acc_inclusive", inclusive_N, splits),
        "weak_grounding_chance": chance / len(choices),
        "weak_grounding_pointing": sum(choice.pointing[k] for choice in choices) / len(choices),
        "weak_grounding_cases": float(len(choices)),
        "weak_grounding_bad_records": float(bad_records),
    }


def enlarged(map_hw: Tensor, height: int, width: int) -> Tensor:
    """A map of patches (h, w) at the image's own size (height, width), bicubic as published."""
    return F.interpolate(map_hw[None, None], size=(height, width), mode="bicubic")[0, 0]


def sums_inside(map_HW: Tensor, candidates: Sequence[BoxXYXY]) -> Tensor:
    """The map (height, width) summed over each of C boxes, cut to whole pixels as published: (C,) float64."""
    height, width = map_HW.shape
    total_HW = F.pad(map_HW.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    edges_C4 = torch.tensor(candidates, dtype=torch.float64).clamp(min=0)
    x0, y0, x1, y1 = edges_C4.minimum(torch.tensor([width, height] * 2)).long().unbind(-1)
    return total_HW[y1, x1] - total_HW[y0, x1] - total_HW[y1, x0] + total_HW[y0, x0]


def highest_inside(map_HW: Tensor, box_xyxy: BoxXYXY) -> bool:
    """Whether the highest pixel of a map (height, width) lies in the box; never where one is no number."""
    if map_HW.isnan().any():
        return False
    y, x = divmod(int(map_HW.argmax()), map_HW.shape[1])
    return box_xyxy[0] <= x < box_xyxy[2] and box_xyxy[1] <= y < box_xyxy[3]


evaluate = evaluate_maps
