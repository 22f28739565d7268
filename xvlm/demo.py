"""`xvlm demo`: pre-train on scenes, look at unseen ones, write a report.  The main job on embedded data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from xvlm.data.scenes import Scenes
from xvlm.data.scenes.cases import SceneCases
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.retrieval import evaluate_retrieval
from xvlm.gallery._run import write_gallery
from xvlm.gallery._show import save_picture
from xvlm.gallery.grounding import contact_sheet, grounding_examples
from xvlm.lock import locked_by_main
from xvlm.predict import Predictor
from xvlm.recipes import demo as demo_recipe
from xvlm.report import Metric
from xvlm.run import json_text, write_json, write_text
from xvlm.tasks.pretrain import PretrainRun
from xvlm.train.run_folder import check_reports
from xvlm.train.start import say, train

UNSEEN = 500
WRITTEN = ("metrics.json", "predictions.json", "report.html", "unseen.jpg")
"""Beside the run."""


def run_demo(out: Path, run: PretrainRun | None = None) -> dict[str, float]:
    """Train (or go on, where an earlier call was interrupted), evaluate, report.

    Args:
        out: gets `metrics.json`, `report.html`, `predictions.json`, `model/`, `log.jsonl`, `checkpoints/`.
        run: another run on scenes than the demo's.
    Returns:
        the metrics, as in `metrics.json`.
    """
    check_reports(out, WRITTEN)
    with locked_by_main(out):
        return _run_demo(out, run or demo_recipe.recipe())


def _run_demo(out: Path, run: PretrainRun) -> dict[str, float]:
    begun = time.monotonic()
    loaded, state = train(run, out, resume=True)
    predictor = Predictor(loaded)
    size = run.model.vision.image_hw[0]

    say(f"measuring on {UNSEEN} scenes never seen in training")
    unseen = Scenes("test", UNSEEN, image_size=size)
    grounding, cases = evaluate_grounding(predictor, SceneCases(unseen))
    retrieval, ranked = evaluate_retrieval(predictor, unseen, texts_per_image=1)
    say(f"measuring on {UNSEEN} scenes of combinations of shape and colour never seen in training")
    heldout, heldout_cases = evaluate_grounding(
        predictor, SceneCases(Scenes("heldout", UNSEEN, image_size=size))
    )
    metrics = {
        **grounding,
        **{f"{name}_heldout": value for name, value in heldout.items()},
        **retrieval,
        "train_seconds": state.seconds,
        "train_steps": float(state.step),
        "seconds": time.monotonic() - begun,
    }
    write_json(out / "metrics.json", metrics)
    write_predictions(out / "predictions.json", [c.to_json() for c in cases], ranked.to_json())
    save_picture(contact_sheet(grounding_examples(cases, 8, seed=3)), out / "unseen.jpg", quality=88)
    report = write_gallery(
        out / "report.html",
        "xvlm demo",
        "A small model learned from drawn scenes alone, from nothing, which words mean which part of a "
        "picture. "
        "Below are scenes that it has never seen.",
        summary_tiles(metrics, {"grounding_acc50": 0.8, "grounding_acc50_heldout": 0.6, "t2i_r1": 0.6}),
        metrics,
        [*cases[: len(cases) // 2], *heldout_cases[: len(cases) // 4]],
        ranked,
        out / "log.jsonl",
        [f"Trained for {state.seconds / 60:.1f} minutes, {state.step} steps."],
    )
    for name, label in LABELS.items():
        if name in metrics:
            say(f"  {100 * metrics[name]:5.1f} %  {label}")
    say(f"report: {report}")
    return metrics


LABELS = {
    "grounding_acc50": "phrases found (box overlap at least one half)",
    "grounding_acc50_heldout": "phrases found, combinations never seen",
    "t2i_r1": "text to image: right image first",
    "i2t_r1": "image to text: right text first",
    "t2i_r1_contrastive": "text to image, before reranking",
    "i2t_r1_contrastive": "image to text, before reranking",
}


def summary_tiles(metrics: dict[str, float], targets: dict[str, float]) -> list[Metric]:
    """The numbers at the top of a report, with what they were to reach."""
    return [
        Metric(
            label,
            f"{100 * metrics[name]:.1f} %",
            f"{100 * targets[name]:.0f} %" if name in targets else None,
            metrics[name] >= targets[name] if name in targets else None,
        )
        for name, label in LABELS.items()
        if name in metrics
    ]


def write_predictions(path: Path, grounding: list[dict[str, Any]], retrieval: dict[str, Any]) -> None:
    """Predictions with the inputs that they belong to."""
    write_text(path, json_text({"grounding": grounding, "retrieval": retrieval}))
