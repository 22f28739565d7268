"""`xvlm calibrate`: fits and stores how the scores of a model become probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.data.sources.source import Source
from xvlm.distributed import run_on_main
from xvlm.evaluation.calibration import fit_platt, precision_thresholds
from xvlm.evaluation.common.ranks import gather_in_order
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.detection import DetectionPrediction, encode_wanted, evaluate_detection
from xvlm.inference.grounding import match_logits, predict_boxes
from xvlm.inference.model import InferenceModel
from xvlm.metrics.presence import auroc, reliability
from xvlm.models.calibration import Calibration, Platt
from xvlm.models.checkpoints.folder import ModelBundle, set_calibration
from xvlm.scenes import SceneDetectionRecords, Scenes
from xvlm.training.train import log_on_main

BATCH_SIZE = 32
"""Images that are encoded at a time."""
NUM_SCENES, SCENES_SEED = 300, 1
"""Scenes that a model of scenes is calibrated on, of another seed than those of training."""


def calibration_scenes(image_size: int) -> SceneDetectionRecords:
    """Return phrases about scenes that no recipe trains or evaluates on."""
    return SceneDetectionRecords(Scenes("train", NUM_SCENES, seed=SCENES_SEED, image_size=image_size))


@dataclass(frozen=True)
class ScoredTexts:
    """Scores of one kind, and what is true.

    Attributes:
        log_odds_N: (N,) before calibration.
        is_true_N: (N,) bool.
    """

    log_odds_N: Tensor
    is_true_N: Tensor

    @property
    def has_both(self) -> bool:
        """Whether some are true and some are false, without which nothing can be fitted."""
        return 0 < int(self.is_true_N.sum()) < len(self.is_true_N)

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, bool]]) -> ScoredTexts:
        """Collect (log-odds, whether it is true) pairs; one that is no number is left out."""
        log_odds_N = torch.tensor([log_odds for log_odds, _ in pairs], dtype=torch.float64)
        is_true_N = torch.tensor([is_true for _, is_true in pairs], dtype=torch.bool)
        usable_N = log_odds_N.isfinite()
        return cls(log_odds_N[usable_N], is_true_N[usable_N])

    def row(self, name: str, platt: Platt) -> str:
        """Return a row of the table: cases, AUROC, and calibration error before and after."""
        errors = [
            reliability(one.probability(self.log_odds_N), self.is_true_N).error for one in (Platt(), platt)
        ]
        cells = [f"{auroc(self.log_odds_N, self.is_true_N):.3f}", *(f"{error:.3f}" for error in errors)]
        fitted = f"{platt.scale:.3f}", f"{platt.offset:.3f}"
        return f"| {' | '.join([name, str(len(self.is_true_N)), *cells, *fitted])} |"


def calibrate(
    bundle: ModelBundle, folder_or_run: Path, source: Source, limit: int | None = None
) -> tuple[ModelBundle, Calibration]:
    """Fit the calibration of a model, and write it into the folder of the model or of its run.

    Presence and boxes are calibrated if the model has a detection head, the scores of `ground` and `match` if
    it has a box and a matching head.

    Args:
        bundle: the model, on the device to evaluate it on.
        folder_or_run: folder that holds the same model.
        source: texts that describe something in their images, and absent ones, of images that the model was
            neither trained nor will be evaluated on.
        limit: number of records; by default all.
    Returns:
        the model with its calibration, and the calibration.
    Raises:
        InputError: no text or every text describes something, or the model has none of these heads.
    """
    log_on_main(f"calibrating on {limit or len(source)} images that were not trained on")
    heads = bundle.model.config.heads
    raw = InferenceModel(replace(bundle, calibration=Calibration()))
    scored: dict[str, ScoredTexts] = {}
    predictions: list[DetectionPrediction] = []
    if "detection" in heads:
        _, predictions = evaluate_detection(raw, source, limit)
        scored["presence"] = ScoredTexts.of(
            [(one.presence_log_odds, bool(one.wanted.targets_xyxy)) for one in predictions]
        )
        scored["box"] = ScoredTexts.of(
            [pair for one in predictions for pair in zip(one.log_odds, one.are_right(), strict=True)]
        )
    if {"box", "matching"} <= set(heads):
        scored |= matching_scores(raw, source, limit)
    if not scored:
        raise InputError(f"the model has heads {heads}; calibration needs detection, or box and matching")
    fitted: dict[str, Any] = {}
    for name, one in scored.items():
        if name == "box" and not one.has_both:  # boxes of a model that has hardly been trained
            log_on_main(f"of {len(one.is_true_N)} boxes none or all are right: boxes are not calibrated")
            fitted[name] = Platt()
        else:
            fitted[name] = fit_platt(one.log_odds_N, one.is_true_N, name)
    thresholds: tuple[tuple[float, float], ...] = ()
    if "box" in scored:
        boxes = scored["box"]
        thresholds = precision_thresholds(fitted["box"].probability(boxes.log_odds_N), boxes.is_true_N)
    calibration = replace(bundle.calibration, thresholds=thresholds, **fitted)
    run_on_main(lambda: set_calibration(folder_or_run, calibration))
    log_on_main(
        "\n".join(
            [
                "| score | cases | AUROC | calibration error before | after | scale | offset |",
                "|---|---|---|---|---|---|---|",
                *(one.row(name, fitted[name]) for name, one in scored.items() if len(one.is_true_N)),
            ]
        )
    )
    return replace(bundle, calibration=calibration), calibration


def matching_scores(predictor: InferenceModel, source: Source, limit: int | None) -> dict[str, ScoredTexts]:
    """Return how well each text matches the box found for it ("ground"), and its whole image ("match")."""
    samples = SampleReader(predictor, source, limit, None, "matching")
    indexed: list[tuple[int, tuple[float, float, bool]]] = []
    for batch, features, texts, image_N in encode_wanted(samples, BATCH_SIZE):
        _, region_N = predict_boxes(predictor.model, features, texts, image_N)
        row_N = torch.arange(len(image_N), device=predictor.device)
        whole = predictor.whole_images(features)
        with torch.no_grad():
            whole_N = match_logits(predictor.model, whole, texts, image_N, row_N)
        is_true = [bool(wanted.targets_xyxy) for wanted in batch.contents]
        rows = zip(batch.queries, region_N.tolist(), whole_N.tolist(), is_true, strict=True)
        indexed += [(query.index, (region, match, true)) for query, region, match, true in rows]
    gathered = gather_in_order(indexed)
    return {
        "ground": ScoredTexts.of([(region, true) for region, _, true in gathered]),
        "match": ScoredTexts.of([(match, true) for _, match, true in gathered]),
    }
