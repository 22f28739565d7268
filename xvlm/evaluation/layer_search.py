"""Comparison of weakly supervised grounding by each cross-modal layer, in one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm.common.errors import InputError
from xvlm.common.ranges import PositiveInt, checked
from xvlm.data.sources.source import Source
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.weak_grounding import SAMPLE, score_candidates, weak_grounding_metrics
from xvlm.inference.model import InferenceModel


@dataclass(frozen=True)
class LayerResult:
    """The metrics of `evaluate_weak_grounding` with one layer and one power of the area."""

    layer: int
    power: float
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return one flat row."""
        return {"layer": self.layer, "power": self.power, **self.metrics}


@checked
def search_layers(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    powers: Sequence[float] = (0.5,),
    detections: Path | None = None,
    batch_size: PositiveInt = 16,
) -> list[LayerResult]:
    """Evaluate weakly supervised grounding by every layer and every power; each sample is encoded once.

    Choose on a validation split: the best of many results on a test split is biased upwards.

    Args:
        powers: exponents of the area that a score is divided by.
        limit, detections, batch_size: see `evaluate_weak_grounding`.
    Returns:
        one result for each layer and power, layer by layer.
    Raises MissingHead if the model has no matching head, InputError if there is no power or no phrase.
    """
    if not powers:
        raise InputError("powers is empty; give at least one power of the area")
    samples = SampleReader(predictor, source, limit, None, "matching")
    layers = range(len(predictor.model.fusion.layers))
    phrases = score_candidates(samples, layers, detections, batch_size)
    scored = samples.gather([(query.index, scored) for query, _, _, scored in phrases], SAMPLE)
    return [
        LayerResult(layer, power, weak_grounding_metrics(scored, layer, power, len(samples.skipped)))
        for layer in layers
        for power in powers
    ]


def best_of(results: Sequence[LayerResult]) -> LayerResult:
    """Return the most accurate result; ties are broken by pointing accuracy, then by order."""
    names = ("weak_grounding_acc", "weak_grounding_pointing")
    return max(results, key=lambda one: [one.metrics[name] for name in names])


def layers_json(results: Sequence[LayerResult]) -> dict[str, Any]:
    """Return all results and the best one as plain values."""
    return {"best": best_of(results).to_json(), "layers": [one.to_json() for one in results]}


COLUMNS = {
    "weak_grounding_acc": "accuracy",
    "weak_grounding_acc_inclusive": "by pixels",
    "weak_grounding_pointing": "pointing",
}


def layers_table(results: Sequence[LayerResult]) -> str:
    """Format all results as a text table, with the best one marked."""
    best = best_of(results)
    lines = ["layer  power  " + "  ".join(f"{title:>9}" for title in COLUMNS.values())]
    for one in results:
        cells = "  ".join(f"{one.metrics[name]:9.4f}" for name in COLUMNS)
        lines.append(f"{one.layer:5}  {one.power:5.2f}  {cells}{'  best' if one is best else ''}")
    chance, phrases = best.metrics["weak_grounding_chance"], best.metrics["weak_grounding_cases"]
    lines.append(f"{phrases:.0f} phrases; a random choice has an accuracy of {chance:.4f}")
    return "\n".join(lines)
