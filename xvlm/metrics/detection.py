"""Metrics of texts with any number of targets: of gRefCOCO, of Flickr30k Entities, and AP of categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from xvlm.boxes import iou, surrounding_box
from xvlm.common.errors import InputError
from xvlm.metrics.grounding import IOU_THRESHOLD

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Outcome:
    """How the boxes found for one text fit its targets.

    Attributes:
        hits: number of targets that have a box, each a box of its own.
        found: number of boxes.
        targets: number of targets.
    """

    hits: int
    found: int
    targets: int

    @property
    def f1(self) -> float:
        """F1 of the boxes; 1 for none of none."""
        if self.found + self.targets == 0:
            return 1.0
        return 2 * self.hits / (self.found + self.targets)


def match_boxes(found_k4: Tensor, target_n4: Tensor) -> list[tuple[int, int]]:
    """Return (box, target) pairs with IoU 0.5 or more, each box and each target at most once.

    The pair of the largest IoU is chosen first, as in the evaluation of gRefCOCO.

    Args:
        found_k4: (k, 4) boxes xyxy.
        target_n4: (n, 4) boxes xyxy in the same unit.
    """
    overlap_kn = iou(found_k4[:, None].double(), target_n4[None].double())
    pairs = []
    while overlap_kn.numel() and float(overlap_kn.max()) >= IOU_THRESHOLD:
        box, target = divmod(int(overlap_kn.argmax()), overlap_kn.shape[1])
        pairs.append((box, target))
        overlap_kn[box] = -1.0
        overlap_kn[:, target] = -1.0
    return pairs


def grefcoco_metrics(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the metrics of gRefCOCO (Liu et al., CVPR 2023) that apply to these texts.

    - `detection_f1`: share of the texts whose boxes are exactly their targets (Pr@F1=1 at IoU 0.5);
    - `detection_f1_none`, `_one`, `_several`: the same for texts with that many targets;
    - `detection_n_acc`: share of the texts without a target for which nothing is found;
    - `detection_t_acc`: share of the texts with a target for which something is found.

    Raises InputError if there is no text.
    """
    if not outcomes:
        raise InputError("detection cannot be evaluated: there is no text")
    none = [one for one in outcomes if one.targets == 0]
    some = [one for one in outcomes if one.targets]
    groups = {
        "detection_f1": outcomes,
        "detection_f1_none": none,
        "detection_f1_one": [one for one in some if one.targets == 1],
        "detection_f1_several": [one for one in some if one.targets > 1],
    }
    metrics = {name: _share([one.f1 >= 1.0 for one in own]) for name, own in groups.items() if own}
    if none:
        metrics["detection_n_acc"] = _share([one.found == 0 for one in none])
    if some:
        metrics["detection_t_acc"] = _share([one.found > 0 for one in some])
    return metrics


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def first_hits(found_k4: Tensor, target_n4: Tensor) -> tuple[int, int]:
    """Return the places (from 1) of the first box that fits any target, and of the first for all merged.

    A place is 0 if no box has IoU 0.5 or more.  These are the two protocols of Flickr30k Entities: any-box
    counts one of several targets, merged-box the box around all of them (MDETR, Kamath et al., ICCV 2021).

    Args:
        found_k4: (k, 4) boxes xyxy, the most probable first.
        target_n4: (n, 4) boxes xyxy in the same unit, at least one.
    """
    merged_4 = surrounding_box(target_n4)
    places = []
    for targets_m4 in (target_n4, merged_4[None]):
        fits_k = (iou(found_k4[:, None].double(), targets_m4[None].double()) >= IOU_THRESHOLD).any(1)
        places.append(int(fits_k.nonzero()[0]) + 1 if fits_k.any() else 0)
    return places[0], places[1]


def recall_metrics(name: str, places: Sequence[int]) -> dict[str, float]:
    """Return recall at 1, 5 and 10, as `name_r1` and so on, from places of `first_hits`; none of no text."""
    if not places:
        return {}
    return {f"{name}_r{k}": _share([0 < place <= k for place in places]) for k in RECALL_AT}


@dataclass(frozen=True)
class CategoryBoxes:
    """The boxes of one category in one image: its name, what was found, with scores, and its targets.

    Attributes:
        found: (x0, y0, x1, y1, score) of each box.
        targets: (x0, y0, x1, y1) of each target; empty if the category is known to be absent.
    """

    image: str
    category: str
    found: Sequence[Sequence[float]]
    targets: Sequence[Sequence[float]]


def average_precision(cases: Sequence[CategoryBoxes]) -> float:
    """Return COCO's AP at IoU 0.5, the mean over the categories that have a target, by faster-coco-eval.

    A category counts in the images that it was asked in: those of its targets, and those where it is known to
    be absent (as in LVIS).

    Raises:
        ImportError: faster-coco-eval, of the extra "metrics", is not installed.
        InputError: there is no target.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # imported here, since few evaluations need it

    if not any(one.targets for one in cases):
        raise InputError("the average precision of categories needs at least one target")
    names = sorted({one.category for one in cases if one.targets})
    values = []
    for number, name in enumerate(names, 1):
        # One evaluation a category: the images that it was asked in differ from those of others.
        own = [one for one in cases if one.category == name]
        images = [{"id": index, "width": 1, "height": 1} for index, _ in enumerate(own, 1)]
        annotations = [
            {"image_id": index, "category_id": number, "bbox": _xywh(box), "iscrowd": 0, "area": _area(box)}
            for index, one in enumerate(own, 1)
            for box in one.targets
        ]
        annotations = [{"id": place, **one} for place, one in enumerate(annotations, 1)]
        results = [
            {"image_id": index, "category_id": number, "bbox": _xywh(box), "score": box[4]}
            for index, one in enumerate(own, 1)
            for box in one.found
        ]
        if not results:
            values.append(0.0)
            continue
        truth = COCO(
            {"images": images, "annotations": annotations, "categories": [{"id": number, "name": name}]}
        )
        evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
        evaluation.params.iouThrs = evaluation.params.iouThrs[:1]
        evaluation.evaluate()
        evaluation.accumulate()
        values.append(float(evaluation.eval["precision"][0, :, 0, 0, -1].mean()))
    return sum(values) / len(values)


def _xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
