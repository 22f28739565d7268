"""Metrics of detection against independent computations on 200 random cases each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from xvlm.common.errors import InputError
from xvlm.metrics.detection import (
    CategoryBoxes,
    Outcome,
    average_precision,
    first_hits,
    grefcoco_metrics,
    match_boxes,
    recall_metrics,
)

Box = tuple[float, float, float, float]


def plain_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (areas - inter)


def random_case(rng: np.random.Generator) -> tuple[list[Box], list[Box]]:
    """Targets on a coarse grid, and boxes that are often near one of them."""
    targets = []
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.integers(0, 60, 2)
        w, h = rng.integers(10, 40, 2)
        targets.append((float(x), float(y), float(x + w), float(y + h)))
    found: list[Box] = []
    if rng.random() < 0.3:
        return list(reversed(targets)), targets
    for _ in range(int(rng.integers(0, 6))):
        if targets and rng.random() < 0.7:
            base = np.array(targets[rng.integers(len(targets))]) + rng.normal(0, 3, 4)
            found.append((base[0], base[1], max(base[2], base[0] + 1), max(base[3], base[1] + 1)))
        else:
            x, y = rng.integers(0, 60, 2)
            found.append((float(x), float(y), float(x + 20), float(y + 20)))
    return found, targets


def tensor(boxes: list[Box]) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float64).view(-1, 4)


def best_matching(found: list[Box], targets: list[Box]) -> int:
    """Return the size of the largest matching, by trying all of them."""
    fits = [[plain_iou(box, target) >= 0.5 for target in targets] for box in found]
    most = 0
    small, large = sorted((len(found), len(targets)))
    for order in itertools.permutations(range(large), small):
        pairs = zip(order, range(small), strict=True) if len(found) == large else enumerate(order)
        most = max(most, sum(fits[a][b] for a, b in pairs))
    return most


def test_gref_metrics_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    outcomes, exact, none_right, none, some, some_found = [], 0, 0, 0, 0, 0
    for _ in range(200):
        found, targets = random_case(rng)
        pairs = match_boxes(tensor(found), tensor(targets))
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
        assert all(plain_iou(found[a], targets[b]) >= 0.5 for a, b in pairs)
        most = best_matching(found, targets)
        assert len(pairs) <= most  # the rule of gRefCOCO is greedy
        outcomes.append(Outcome(len(pairs), len(found), len(targets)))
        exact += len(pairs) == len(found) == len(targets)
        none += not targets
        none_right += not targets and not found
        some += bool(targets)
        some_found += bool(targets) and bool(found)
    metrics = grefcoco_metrics(outcomes)
    assert metrics["detection_f1"] == pytest.approx(exact / 200)
    assert metrics["detection_n_acc"] == metrics["detection_f1_none"] == pytest.approx(none_right / none)
    assert metrics["detection_t_acc"] == pytest.approx(some_found / some)
    groups = metrics["detection_f1_one"], metrics["detection_f1_several"]
    assert min(groups) > 0 and max(groups) < 1
    with pytest.raises(InputError, match="no text"):
        grefcoco_metrics([])


def test_first_hits_of_plain_loops() -> None:
    rng = np.random.default_rng(1)
    any_places, merged_places, cases = [], [], 0
    while cases < 200:
        found, targets = random_case(rng)
        if not targets:
            continue
        cases += 1
        merged = (
            min(b[0] for b in targets), min(b[1] for b in targets),
            max(b[2] for b in targets), max(b[3] for b in targets),
        )  # fmt: skip
        any_place = next(
            (p for p, box in enumerate(found, 1) if any(plain_iou(box, t) >= 0.5 for t in targets)), 0
        )
        merged_place = next((p for p, box in enumerate(found, 1) if plain_iou(box, merged) >= 0.5), 0)
        assert first_hits(tensor(found), tensor(targets)) == (any_place, merged_place)
        any_places.append(any_place)
        merged_places.append(merged_place)
    recalls = recall_metrics("anybox", any_places)
    assert recalls["anybox_r1"] == pytest.approx(sum(p == 1 for p in any_places) / 200)
    assert recalls["anybox_r5"] == pytest.approx(sum(1 <= p <= 5 for p in any_places) / 200)
    assert recalls["anybox_r1"] > sum(p == 1 for p in merged_places) / 200
    assert recall_metrics("anybox", []) == {}


def plain_ap50(cases: list[CategoryBoxes]) -> float:
    """COCO's average precision at IoU 0.5, of plain loops: 101 recalls, the best later precision."""
    values = []
    for name in sorted({one.category for one in cases if one.targets}):
        own = [one for one in cases if one.category == name]
        total = sum(len(one.targets) for one in own)
        ranked = sorted(
            ((box[4], index, tuple(box[:4])) for index, one in enumerate(own) for box in one.found),
            key=lambda item: -item[0],
        )
        used: set[tuple[int, int]] = set()
        hits = []
        for _, index, box in ranked:
            overlaps = [
                (plain_iou(box, tuple(target)), place)
                for place, target in enumerate(own[index].targets)
                if (index, place) not in used
            ]
            best = max(overlaps, default=(0.0, -1))
            hits.append(best[0] >= 0.5)
            if hits[-1]:
                used.add((index, best[1]))
        right = np.cumsum(hits) if hits else np.zeros(0)
        recall = right / total
        precision = right / np.arange(1, len(hits) + 1)
        points = []
        for level in np.linspace(0, 1, 101):
            later = precision[recall >= level - 1e-12]
            points.append(later.max() if len(later) else 0.0)
        values.append(np.mean(points))
    return float(np.mean(values))


def test_average_precision_of_plain_loops() -> None:
    pytest.importorskip("faster_coco_eval", reason="the extra 'metrics' is not installed")
    rng = np.random.default_rng(2)
    cases = []
    for number in range(200):
        found, targets = random_case(rng)
        scored = [(*box, float(rng.random())) for box in found]
        cases.append(CategoryBoxes(f"{number}", "abc"[number % 3], scored, targets))
    assert average_precision(cases) == pytest.approx(plain_ap50(cases), abs=1e-6)
    with pytest.raises(InputError, match="at least one target"):
        average_precision([CategoryBoxes("0", "a", [], [])])
