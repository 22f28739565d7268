"""`xvlm demo --tasks`: the demo's model fine-tuned for every task, and measured on scenes never seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm.data.scenes import Scenes
from xvlm.data.scenes.cases import SceneCases, ScenePairs, SceneQuestions
from xvlm.data.scenes.language import is_true
from xvlm.errors import InputError
from xvlm.evaluate._layers import best_of, search_layers
from xvlm.evaluate.captioning import evaluate_captions
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.nlvr2 import evaluate_pairs
from xvlm.evaluate.vqa import evaluate_questions
from xvlm.evaluate.weak_grounding import evaluate_maps
from xvlm.gallery._results import write_results
from xvlm.jsonfile import read_json
from xvlm.lock import locked_by_main
from xvlm.lookup import find
from xvlm.outputs import check_output_file, is_json_object
from xvlm.predict import Predictor
from xvlm.run import Run, write_json
from xvlm.train.start import say, train

UNSEEN = 500
KNOWN = 200
"""Scenes of training, of which measuring learns what is left to choose."""

Measured = tuple[dict[str, float], list[Any]]
"""Metrics, and predictions with what they belong to."""


def measure_grounding(predictor: Predictor, unseen: Scenes) -> Measured:
    """Phrases with a box each."""
    return evaluate_grounding(predictor, SceneCases(unseen))


def measure_maps(predictor: Predictor, unseen: Scenes) -> Measured:
    """Phrases, with the boxes of all phrases of a scene as candidates; layer and power of the area are those
    that are best on scenes of training."""
    known = SceneCases(Scenes("train", KNOWN, image_size=unseen.image_size))
    best = best_of(search_layers(predictor, known, powers=(0.5, 0.75, 1.0)))
    metrics, predictions = evaluate_maps(predictor, SceneCases(unseen), layer=best.layer, power=best.power)
    chosen = {"weak_grounding_layer": float(best.layer), "weak_grounding_power": best.power}
    return metrics | chosen, list(predictions)


def measure_questions(predictor: Predictor, unseen: Scenes) -> Measured:
    """Questions, answered with one of the answers to the questions about other scenes."""
    known = Scenes("train", KNOWN, image_size=unseen.image_size)
    answers = sorted({question.answer for index in range(KNOWN) for question in known.questions(index)})
    return evaluate_questions(predictor, SceneQuestions(unseen), answers=answers)


def measure_pairs(predictor: Predictor, unseen: Scenes) -> Measured:
    """Statements about pairs."""
    return evaluate_pairs(predictor, ScenePairs(unseen))


def measure_captions(predictor: Predictor, unseen: Scenes) -> Measured:
    """Captions, against what is said of the scenes; and whether they are true of them."""
    metrics, predictions = evaluate_captions(predictor, unseen, max_tokens=40)
    true = [is_true(one.caption, unseen.scene(index)) for index, one in enumerate(predictions)]
    return {**metrics, "caption_true": sum(one is True for one in true) / len(true)}, predictions


@dataclass(frozen=True)
class Task:
    """What is trained, one recipe after the other, and what the last one's model is measured by."""

    recipes: tuple[str, ...]
    measure: Callable[[Predictor, Scenes], Measured]


TASKS = {
    "grounding": Task(("scenes_grounding",), measure_grounding),
    "vqa": Task(("scenes_vqa",), measure_questions),
    "nlvr2": Task(("scenes_vqa", "scenes_nlvr2"), measure_pairs),
    "captioning": Task(("scenes_vqa", "scenes_captioning"), measure_captions),
    "weak_grounding": Task(("scenes_weak_grounding",), measure_maps),
}


def check_tasks(names: Sequence[str]) -> None:
    """Raise InputError if one of the names is not in `TASKS`."""
    for name in names:
        if name not in TASKS:
            raise InputError(f"there is no task {name!r} on scenes; there is {', '.join(TASKS)}, or all")


def run_tasks(
    out: Path, names: Sequence[str], adjust: Callable[[Any], Run] | None = None
) -> dict[str, float]:
    """Fine-tune the model of `out` for each task (or go on), and measure it on scenes never seen.

    Args:
        out: the demo's folder; gets `tasks.json`, and each recipe's run in `tasks/`, the last one of a task
            with its predictions and a page.
        names: of tasks.
        adjust: makes another run of each recipe's.
    Returns:
        the metrics of all tasks measured so far.
    Raises:
        InputError: a task is not one of `TASKS`.
    """
    check_tasks(names)
    check_output_file(out / "tasks.json", is_json_object, "JSON object")
    with locked_by_main(out):
        return _run_tasks(out, names, adjust)


def _run_tasks(out: Path, names: Sequence[str], adjust: Callable[[Any], Run] | None) -> dict[str, float]:
    kept = out / "tasks.json"
    metrics: dict[str, float] = read_json(kept, allow_nan=True) if kept.exists() else {}
    for name in names:
        task, model, seconds = TASKS[name], out / "model", 0.0
        begun = time.monotonic()
        for recipe in task.recipes:
            run = find("recipes", recipe).recipe(model=str(model))
            folder = out / "tasks" / recipe
            loaded, state = train(adjust(run) if adjust else run, folder, resume=True)
            model, seconds = folder / "model", seconds + state.seconds
        size = loaded.model.config.vision.image_hw[0]
        say(f"{name}: measuring on {UNSEEN} scenes never seen in training")
        found, predictions = task.measure(Predictor(loaded), Scenes("test", UNSEEN, image_size=size))
        write_results(folder, name, found, predictions, f"xvlm demo --out {out} --tasks {name}")
        metrics |= found | {f"{name}_train_seconds": seconds}
        write_json(kept, metrics)
        for key, value in found.items():
            say(f"  {key:28} {value:.4f}")
        say(f"  {name}: {(time.monotonic() - begun) / 60:.1f} minutes")
    return metrics
