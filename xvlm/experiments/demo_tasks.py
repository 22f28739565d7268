"""`xvlm demo --tasks`: fine-tuning of the demo's model for every task, and evaluation on unseen scenes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json, write_json
from xvlm.common.outputs import check_output_file, is_json_object
from xvlm.config import Run
from xvlm.distributed import folder_lock_on_main
from xvlm.evaluation.captioning import evaluate_captioning
from xvlm.evaluation.common.results import write_results
from xvlm.evaluation.detection import evaluate_detection
from xvlm.evaluation.grounding import evaluate_grounding
from xvlm.evaluation.layer_search import best_of, search_layers
from xvlm.evaluation.nlvr2 import evaluate_nlvr2
from xvlm.evaluation.vqa import evaluate_vqa
from xvlm.evaluation.weak_grounding import evaluate_weak_grounding
from xvlm.experiments.calibrated import calibrate, calibration_scenes
from xvlm.inference.model import InferenceModel
from xvlm.registry import find
from xvlm.scenes import (
    SceneDetectionRecords,
    SceneGroundingRecords,
    ScenePairRecords,
    SceneQuestionRecords,
    Scenes,
    is_true,
)
from xvlm.tasks.common.task import measure_of
from xvlm.training.train import log_on_main, train

NUM_UNSEEN = 500
"""Number of unseen scenes that each task is evaluated on."""
NUM_TRAINING = 200
"""Number of training scenes from which an evaluation chooses its settings."""

Evaluated = tuple[dict[str, float], list[Any]]
"""Metrics and predictions."""


def evaluate_weak_grounding_at_best_layer(predictor: InferenceModel, unseen: Scenes) -> Evaluated:
    """Evaluate weak grounding with the layer and the power of the area that are best on training scenes."""
    training = SceneGroundingRecords(Scenes("train", NUM_TRAINING, image_size=unseen.image_size))
    best = best_of(search_layers(predictor, training, powers=(0.5, 0.75, 1.0)))
    metrics, predictions = evaluate_weak_grounding(
        predictor, SceneGroundingRecords(unseen), layer=best.layer, power=best.power
    )
    chosen = {"weak_grounding_layer": float(best.layer), "weak_grounding_power": best.power}
    return metrics | chosen, list(predictions)


def evaluate_vqa_with_candidates(predictor: InferenceModel, unseen: Scenes) -> Evaluated:
    """Evaluate VQA with the answers to the questions about training scenes as candidates."""
    training = Scenes("train", NUM_TRAINING, image_size=unseen.image_size)
    answers = {question.answer for index in range(NUM_TRAINING) for question in training.questions(index)}
    return evaluate_vqa(predictor, SceneQuestionRecords(unseen), answers=sorted(answers))


def evaluate_true_captions(predictor: InferenceModel, unseen: Scenes) -> Evaluated:
    """Evaluate captioning, and the fraction of captions that are true of their scene."""
    metrics, predictions = evaluate_captioning(predictor, unseen, max_tokens=40)
    true = [is_true(one.caption, unseen.scene(index)) for index, one in enumerate(predictions)]
    return {**metrics, "caption_true": sum(one is True for one in true) / len(true)}, predictions


@dataclass(frozen=True)
class DemoTask:
    """A task on scenes.

    Attributes:
        recipes: fine-tuning recipes, each of which starts from the model of the one before.
        evaluate: (predictor, unseen scenes) -> metrics and predictions.
    """

    recipes: tuple[str, ...]
    evaluate: Callable[[InferenceModel, Scenes], Evaluated]


TASKS = {
    "grounding": DemoTask(
        ("scenes/grounding",),
        lambda predictor, unseen: evaluate_grounding(predictor, SceneGroundingRecords(unseen)),
    ),
    "detection": DemoTask(
        ("scenes/detection",),
        lambda predictor, unseen: evaluate_detection(predictor, SceneDetectionRecords(unseen)),
    ),
    "vqa": DemoTask(("scenes/vqa",), evaluate_vqa_with_candidates),
    "nlvr2": DemoTask(
        ("scenes/vqa", "scenes/nlvr2"),
        lambda predictor, unseen: evaluate_nlvr2(predictor, ScenePairRecords(unseen)),
    ),
    "captioning": DemoTask(("scenes/vqa", "scenes/captioning"), evaluate_true_captions),
    "weak_grounding": DemoTask(("scenes/weak_grounding",), evaluate_weak_grounding_at_best_layer),
}


def check_tasks(names: Sequence[str]) -> None:
    """Raise InputError if one of the names is not in `TASKS`."""
    for name in names:
        if name not in TASKS:
            raise InputError(f"there is no task {name!r} on scenes; there is {', '.join(TASKS)}, or all")


def run_tasks(
    out: Path, names: Sequence[str], adjust: Callable[[Any], Run] = lambda run: run
) -> dict[str, float]:
    """Fine-tune the demo's model for each task, or continue, and evaluate it on unseen scenes.

    Args:
        out: folder of the demo, for `tasks.json` and the runs of the recipes (`tasks/RECIPE`); that of a
            task's last recipe holds its results.
        names: names of tasks.
        adjust: changes the run of each recipe.
    Returns:
        the metrics of all tasks evaluated so far.
    Raises:
        InputError: a task is not in `TASKS`.
    """
    check_tasks(names)
    path = out / "tasks.json"
    check_output_file(path, is_json_object, "JSON object")
    with folder_lock_on_main(out):
        metrics: dict[str, float] = read_json(path, allow_nan=True) if path.exists() else {}
        for name in names:
            metrics |= run_task(out, name, adjust)
            write_json(path, metrics)
    return metrics


def run_task(out: Path, name: str, adjust: Callable[[Any], Run]) -> dict[str, float]:
    """Fine-tune and evaluate one task; for the arguments see `run_tasks`."""
    task, model, seconds, begin = TASKS[name], out / "model", 0.0, time.monotonic()
    for recipe in task.recipes:
        folder = out / "tasks" / recipe
        run = adjust(find("recipes", recipe).recipe(model=str(model)))
        bundle, state = train(run, folder, resume=True)
        model, seconds = folder / "model", seconds + state.seconds
    size = bundle.model.config.vision.image_hw[0]
    if "detection" in bundle.model.config.heads:
        bundle, _ = calibrate(bundle, folder, calibration_scenes(size))
    log_on_main(f"{name}: evaluating on {NUM_UNSEEN} unseen scenes")
    metrics, predictions = task.evaluate(InferenceModel(bundle), Scenes("test", NUM_UNSEEN, image_size=size))
    command = f"xvlm demo --out {out} --tasks {name}"
    write_results(folder, name, measure_of(name), metrics, predictions, command)
    for key, value in metrics.items():
        log_on_main(f"  {key:28} {value:.4f}")
    log_on_main(f"  {name}: {(time.monotonic() - begin) / 60:.1f} minutes")
    return metrics | {f"{name}_train_seconds": seconds}
