"""Which layer of the cross-modal encoder shows best where a phrase is: all of them in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm.data.sources import Source
from xvlm.errors import InputError
from xvlm.evaluate._read import check_any, in_order, needs
from xvlm.evaluate._skipped import Skipped
from xvlm.evaluate.weak_grounding import looked_at, weak_metrics
from xvlm.predict import Predictor
from xvlm.ranges import PositiveInt


@dataclass(frozen=True)
class LayerResult:
    """What `evaluate_maps` reaches with this layer and this power of the area."""

    layer: int
    power: float
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """One flat row."""
        return {"layer": self.layer, "power": self.power, **self.metrics}


def search_layers(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    powers: Sequence[float] = (0.5,),
    detections: Path | None = None,
    batch: PositiveInt = 16,
) -> list[LayerResult]:
    """Weak grounding by every layer and every power of the area; images and texts are encoded once.

    Choose on a validation split: the best of many on a test split says too much.

    Args:
        limit, detections, batch: as for `evaluate_maps`.
        powers: of the area that a candidate's score is divided by.
    Returns:
        One result a layer and power, layer by layer.
    Raises:
        As `evaluate_maps`; ValueError too where there is no power.
    """
    if not powers:
        raise InputError("powers is empty; give at least one power of the area")
    needs(predictor, "matching")
    layers = range(len(predictor.model.fusion.layers))
    skipped = Skipped()
    found = looked_at(predictor, source, limit, layers, detections, batch, skipped)
    choices = in_order([(case.number, choice) for case, _, _, choice in found])
    skipped.gather(len(choices))
    check_any(choices, source, "phrase with a box and candidates", skipped)
    return [
        LayerResult(layer, power, weak_metrics(choices, layer, power, len(skipped)))
        for layer in layers
        for power in powers
    ]


def best_of(results: Sequence[LayerResult]) -> LayerResult:
    """The most accurate; of equals the one whose map points best, then the first."""
    return max(
        results,
        key=lambda one: (one.metrics["weak_grounding_acc"], one.metrics["weak_grounding_pointing"]),
    )


def layers_json(results: Sequence[LayerResult]) -> dict[str, Any]:
    """Every result, and which is best."""
    return {"best": best_of(results).to_json(), "layers": [one.to_json() for one in results]}


COLUMNS = {
    "weak_grounding_acc": "right",
    "weak_grounding_acc_inclusive": "by pixels",
    "weak_grounding_pointing": "pointing",
}


def layers_table(results: Sequence[LayerResult]) -> str:
    """The same to be read: a line a layer and power, the best one marked."""
    best = best_of(results)
    lines = ["layer  power  " + "  ".join(f"{title:>9}" for title in COLUMNS.values())]
    for one in results:
        cells = "  ".join(f"{one.metrics[name]:9.4f}" for name in COLUMNS)
        lines.append(f"{one.layer:5}  {one.power:5.2f}  {cells}{'  best' if one is best else ''}")
    chance, cases = best.metrics["weak_grounding_chance"], best.metrics["weak_grounding_cases"]
    lines.append(f"{cases:.0f} cases; a candidate chosen blindly is right with {chance:.4f}")
    return "\n".join(lines)
